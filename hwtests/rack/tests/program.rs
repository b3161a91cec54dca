//! The program `rack`: a rack is put up, listed, switched, looked at, entered and taken down, each by
//! a command of its own.

use std::{
    path::Path,
    process::{Command, Output},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);
const SPEC: &str = "[[node]]\nname = \"left\"\ndisks = [{ size = \"64M\" }]\n\
                    [[node]]\nname = \"right\"\nfirmware = \"uefi\"\nnic = \"e1000\"\n";

/// `rack VERB --state FOLDER MORE`
fn rack(folder: &Path, verb: &str, more: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rack"));
    command.arg(verb).arg("--state").arg(folder).args(more);
    command.output().context("running rack")
}

fn says(folder: &Path, verb: &str, more: &[&str]) -> Result<String> {
    let output = rack(folder, verb, more)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "rack {verb}: {} {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_refused(folder: &Path, verb: &str, more: &[&str], wanted: &str) -> Result<()> {
    let output = rack(folder, verb, more)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "rack {verb} {more:?} was to fail");
    ensure!(said.contains(wanted), "rack {verb} {more:?} does not say `{wanted}`: {said}");
    Ok(())
}

/// Takes a rack down whatever happens to the test.
struct Standing<'a>(&'a Path);

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        let _ = rack(self.0, "down", &[]);
    }
}

#[test]
fn a_rack_is_put_up_used_and_taken_down() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let folder = scratch.path().join("state");
    let spec = scratch.path().join("rack.toml");
    std::fs::write(&spec, SPEC)?;
    is_refused(&folder, "ls", &[], "`rack up` puts one up")?;

    let standing = Standing(&folder);
    says(&folder, "up", &["--spec", spec.to_str().context("a path")?])?;
    is_refused(&folder, "up", &[], "stands in")?;
    let nodes: Value = serde_json::from_str(&says(&folder, "ls", &["--json"])?)?;
    let facts = |number: usize| {
        let node: &Value = &nodes[number];
        (node["name"].as_str(), node["on"].as_bool(), node["firmware"].as_str())
    };
    ensure!(facts(0) == (Some("left"), Some(false), Some("bios")), "{nodes}");
    ensure!(facts(1) == (Some("right"), Some(false), Some("uefi")), "{nodes}");
    let table = says(&folder, "ls", &[])?;
    ensure!(table.contains("right") && table.contains("e1000"), "{table}");

    is_refused(&folder, "power", &["middle", "on"], "middle")?;
    says(&folder, "power", &["left", "on"])?;
    ensure!(says(&folder, "ls", &[])?.contains(" on "), "it was switched on");
    let began = Instant::now();
    // Its firmware speaks, and finds nothing to start.
    loop {
        let said = says(&folder, "console", &["left"])?;
        if said.contains("SeaBIOS") {
            break;
        }
        ensure!(began.elapsed() < PATIENCE, "its console says:\n{said}");
        sleep(Duration::from_millis(200));
    }
    let inside = says(&folder, "exec", &["--", "ip", "-brief", "-4", "address"])?;
    ensure!(inside.contains("10.77.0.1/24"), "the rack's own network: {inside}");
    let outside = Command::new("ip").args(["-brief", "-4", "address"]).output()?;
    ensure!(inside.as_bytes() != outside.stdout, "exec did not enter the rack");
    let code = rack(&folder, "exec", &["--", "sh", "-c", "exit 7"])?.status.code();
    ensure!(code == Some(7), "a program's exit status is handed on: {code:?}");
    says(&folder, "power", &["left", "cut"])?;
    ensure!(!says(&folder, "ls", &[])?.contains(" on "), "its power was cut");

    drop(standing);
    is_refused(&folder, "ls", &[], "`rack up` puts one up")?;
    ensure!(!folder.exists(), "it leaves files");
    Ok(())
}
