//! billet as it is measured: `billet serve` at the wire's other end, and what it boots.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    peers::POOL,
    say,
    wire::{LOAD_ADDRESS, PREFIX, SERVE, Wire},
};
use crate::artefacts::{Artefacts, Part, Programs};

/// The RAM system, and `with_image` the image `bare`; built unless they are there.
pub fn artefacts(with_image: bool) -> Result<Artefacts> {
    let parts = [Part::Ram, Part::Bare];
    Artefacts::prepare(&parts[..if with_image { 2 } else { 1 }], say)
}

/// Where the boot programs are of a server whose files are in `folder`.
pub fn boot_folder(folder: &Path) -> PathBuf {
    folder.join("store/boot")
}

/// `billet serve` with DHCP, TFTP and HTTP on the wire, its state and store in `folder`.
pub fn command(wire: &Wire, folder: &Path) -> Result<Command> {
    let boot = boot_folder(folder);
    fs::create_dir_all(&boot).with_context(|| format!("making {}", boot.display()))?;
    let path = folder.join("billet.toml");
    fs::write(&path, configuration(folder)).context("configuring billet")?;
    let mut command = wire.command(&Programs::find()?.billet)?;
    command.args(["serve", "--config"]).arg(path).env_remove("BILLET_TOKEN");
    Ok(command)
}

fn configuration(folder: &Path) -> String {
    let quoted = |name: &str| format!("{:?}", folder.join(name).display().to_string());
    let (data, store) = (quoted("data"), quoted("store"));
    let [first, last] = POOL;
    format!(
        "data = {data}\nstore = {store}\n\n[http]\nlisten = \"0.0.0.0:8080\"\n\n\
         [dhcp]\nmode = \"server\"\ninterfaces = [\"{SERVE}\"]\n\n\
         [[dhcp.subnets]]\nnetwork = \"10.78.0.0/{PREFIX}\"\npools = [\"{first}-{last}\"]\n\
         router = \"{LOAD_ADDRESS}\"\n"
    )
}
