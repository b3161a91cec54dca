//! `billet-agent plan` on nodes that were captured: a real Xen with a PV and a PVH guest.

#![allow(clippy::unwrap_used, reason = "in what only tests call a panic is the verdict")]

use std::{fs, process::Command};

/// What the plan of a captured node and this desired state prints, and whether it was refused.
fn plan(desired: &str) -> (String, bool) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("desired.toml");
    fs::write(&file, desired).unwrap();
    let node = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nodes/two-guests");
    let mut command = Command::new(env!("CARGO_BIN_EXE_billet-agent"));
    let done = command.args(["plan", "--sysroot", node, "--desired"]).arg(&file).output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    (String::from_utf8(text).unwrap(), done.status.success())
}

const DESIRED: &str = include_str!("nodes/two-guests/desired.toml");

#[test]
fn what_was_made_is_what_was_desired() {
    assert_eq!(plan(DESIRED), (String::new(), true));
}

#[test]
fn a_guest_is_changed_live() {
    let (text, done) = plan(&DESIRED.replace("weight = 512", "cap = 50").replace("10Mb", "20Mb"));
    assert_eq!(text, "give pvh1 the weight 256 and the cap 50\nlimit NIC 0 of pvh1 to 20Mb/s\n");
    assert!(done);
}

#[test]
fn what_cannot_be_is_refused_whole() {
    let (text, done) = plan(&DESIRED.replace("cpus = 1", "cpus = 5"));
    assert_eq!(text, "billet: 5 CPUs asked for the service domain, the machine has 4: at most 3\n");
    assert!(!done);
}
