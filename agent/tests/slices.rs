//! `billet-agent probe` and `plan` on nodes with VFs: trees that were captured, and trees that
//! were written from documentation (`slices/README.md` says which).

#![allow(clippy::unwrap_used, reason = "in what only tests call a panic is the verdict")]

use std::{fs, path::Path, process::Command};

fn agent(tree: &Path, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_billet-agent"));
    let done = command.args(words).arg("--sysroot").arg(tree).output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    String::from_utf8(text).unwrap()
}

fn golden(path: &Path, got: &str) {
    if std::env::var_os("BILLET_REWRITE").is_some() {
        fs::write(path, got).unwrap();
    }
    let wanted = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(got, wanted, "{}", path.display());
}

#[test]
fn nodes_with_vfs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slices");
    let trees = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = 0;
    for tree in trees.filter(|tree| tree.is_dir()) {
        let probed: serde_json::Value = serde_json::from_str(&agent(&tree, &["probe"])).unwrap();
        let sriov = serde_json::to_string_pretty(&probed["sriov"]).unwrap();
        golden(&tree.join("sriov.json"), &format!("{sriov}\n"));
        let desired = tree.join("desired.toml").display().to_string();
        golden(&tree.join("plan.txt"), &agent(&tree, &["plan", "--desired", &desired]));
        seen += 1;
    }
    assert_eq!(seen, 6);
}
