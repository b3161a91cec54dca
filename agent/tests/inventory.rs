//! The inventory of captured machines: each folder of `trees/` is what a machine's sysfs and
//! procfs said, `<folder>.json` what it amounts to. `BILLET_REWRITE=1` rewrites the latter.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

#[test]
fn captured_machines_are_told_as_they_are() -> Result<()> {
    let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees");
    let mut seen = 0;
    for entry in fs::read_dir(&trees)? {
        let tree = entry?.path();
        if tree.is_dir() {
            check(&tree).with_context(|| format!("checking {}", tree.display()))?;
            seen += 1;
        }
    }
    ensure!(seen > 0, "no trees in {}", trees.display());
    Ok(())
}

fn check(tree: &Path) -> Result<()> {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_billet-agent"));
    let output = agent.args(["inventory", "--sysroot"]).arg(tree).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let got = String::from_utf8(output.stdout)?;
    let golden = tree.with_extension("json");
    if std::env::var_os("BILLET_REWRITE").is_some() {
        fs::write(&golden, &got)?;
    }
    assert_eq!(got, fs::read_to_string(&golden)?);
    Ok(())
}
