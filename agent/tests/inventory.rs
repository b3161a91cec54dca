//! The inventory of captured machines: each folder of `trees/` is what a machine's sysfs and
//! procfs said, `<folder>.json` what it amounts to. `BILLET_REWRITE=1` rewrites the latter.

use std::{fs, path::Path, process::Command};

#[test]
fn captured_machines_are_told_as_they_are() {
    let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees");
    let mut seen = 0;
    for entry in fs::read_dir(&trees).unwrap() {
        let tree = entry.unwrap().path();
        if tree.is_dir() {
            check(&tree);
            seen += 1;
        }
    }
    assert!(seen > 0, "no trees in {}", trees.display());
}

fn check(tree: &Path) {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_billet-agent"));
    let output = agent.args(["inventory", "--sysroot"]).arg(tree).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let got = String::from_utf8(output.stdout).unwrap();
    let golden = tree.with_extension("json");
    if std::env::var_os("BILLET_REWRITE").is_some() {
        fs::write(&golden, &got).unwrap();
    }
    assert_eq!(got, fs::read_to_string(&golden).unwrap(), "{}", tree.display());
}
