//! The built-in images come out the same, to the last byte, when they are built again.

use std::ffi::OsStr;

use anyhow::{Context, Result};
use rack::{Artefacts, Part};
use serde_json::Value;

#[test]
fn bare_is_reproducible() -> Result<()> {
    comes_out_the_same("bare", Part::Bare)
}

#[test]
fn dom0_is_reproducible() -> Result<()> {
    comes_out_the_same("dom0", Part::Dom0)
}

/// Builds an image again, into a store of its own, and compares its name with the cached one's.
/// That may be days old and of older packages: then a third build is compared with the second.
fn comes_out_the_same(name: &str, part: Part) -> Result<()> {
    let artefacts = Artefacts::prepare(&[part], |what| println!("{what}"))?;
    let show = artefacts
        .billet(&words(&["image", "show", name, "--json", "--store"], &artefacts.store))?;
    let first = manifest(&show)?;
    let second = build(&artefacts, name)?;
    if first != second {
        assert_eq!(second, build(&artefacts, name)?, "{name} differs from build to build");
    }
    Ok(())
}

fn build(artefacts: &Artefacts, name: &str) -> Result<String> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let packages = artefacts.packages();
    let mut arguments = words(&["image", "build", name, "--json", "--store"], folder.path());
    arguments.extend::<[&OsStr; 2]>(["--work".as_ref(), packages.as_ref()]);
    arguments.extend::<[&OsStr; 2]>(["--agent".as_ref(), artefacts.programs.agent.as_ref()]);
    manifest(&artefacts.billet(&arguments)?)
}

fn words<'a>(words: &[&'a str], last: &'a (impl AsRef<OsStr> + ?Sized)) -> Vec<&'a OsStr> {
    words.iter().copied().map(OsStr::new).chain([last.as_ref()]).collect()
}

fn manifest(text: &str) -> Result<String> {
    let value: Value = serde_json::from_str(text).context("reading what billet said")?;
    Ok(value["manifest"].as_str().context("billet named no manifest")?.to_owned())
}
