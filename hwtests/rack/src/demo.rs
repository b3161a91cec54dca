//! `rack demo`: two blank machines, one BIOS and one UEFI, are network-booted, imaged and booted
//! into Debian, and then asked over SSH what they are.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use rack::{Artefacts, Firmware, Node, NodeSpec, Part, Rack, Server, api::Deployment};
use serde_json::json;

use crate::{
    bar::{Bar, Bars},
    out::line,
    timeline,
};

/// How long the whole may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(1200);
/// What each machine is asked at the end.
const QUESTIONS: &str = r#"
. /etc/os-release
printf 'host name   %s\n' "$(hostname)"
printf 'system      %s\n' "$PRETTY_NAME"
printf 'kernel      %s\n' "$(uname -sr)"
printf 'firmware    %s\n' "$([ -d /sys/firmware/efi ] && echo UEFI || echo BIOS)"
printf 'up          %s s\n' "$(cut -d. -f1 /proc/uptime)"
lsblk -o NAME,SIZE,FSTYPE,LABEL,MOUNTPOINTS | sed 's/^/disk        /'
"#;

/// Runs it; everything is left in `keep` when that is given.
pub(crate) fn run(keep: Option<PathBuf>) -> Result<ExitCode> {
    line("\nTwo blank machines become Debian.\n");
    let began = Instant::now();
    let artefacts =
        Artefacts::prepare(&[Part::Ram, Part::Bare], |what| line(format_args!("  {what}")))?;
    line(format_args!("  RAM system and image are ready ({:.1} s)", began.elapsed().as_secs_f64()));

    let scratch = tempfile::tempdir().context("making a folder")?;
    let folder = keep.as_deref().unwrap_or(scratch.path());
    rack::enter()?;
    let mut stage = Stage::set(&artefacts, folder)?;
    let done = stage.play();
    if done.is_err() {
        line(format_args!("\n  the server's log ends:\n{}", stage.server.log_tail()));
        for node in &stage.nodes {
            let (name, tail) = (node.name(), node.console().tail());
            line(format_args!("\n  {name}'s console ends:\n{tail}"));
        }
        // Kept for whoever wants to know why.
        line(format_args!("  everything else is in {}", scratch.keep().display()));
    }
    done
}

/// The rack, its server and its two machines.
struct Stage {
    // Dropped in this order: machines before the bridge they are on.
    nodes: Vec<Arc<Node>>,
    server: Server,
    _rack: Rack,
}

impl Stage {
    fn set(artefacts: &Artefacts, folder: &Path) -> Result<Self> {
        let mut rack = Rack::new(folder)?;
        let options = rack::server::Options::new(&artefacts.store);
        let server = Server::start(&artefacts.programs, &folder.join("server"), &options)?;
        line(format_args!("  `billet serve` answers at {}", server.base()));
        let mut nodes = Vec::new();
        for (name, firmware) in [("bios", Firmware::Bios), ("uefi", Firmware::Uefi)] {
            let node = rack.add(NodeSpec::new(name, firmware))?;
            server.enroll(&node).with_context(|| format!("enrolling {name}"))?;
            line(format_args!(
                "  {name}: {} with 256 MiB of memory and an empty 4 GiB disk",
                node.mac()
            ));
            nodes.push(node);
        }
        Ok(Stage { nodes, server, _rack: rack })
    }

    fn play(&mut self) -> Result<ExitCode> {
        let start = Timestamp::now();
        line("\nPower on.\n");
        let bars = Bars::new();
        let mut open = Vec::new();
        for node in &self.nodes {
            let name = node.name();
            let deployment = self.server.api().deploy(&name, &json!({ "image": "bare" }))?;
            node.power_on()?;
            open.push((bars.add(&name), deployment));
        }
        let well = self.watch(&mut open, start)?;
        if well {
            self.log_in()?;
        }
        line("\nWhat happened when, counted from power-on:\n");
        for happened in timeline::render(&self.server.api().events(0)?, start)? {
            line(happened);
        }
        line("");
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Shows progress until every deployment has ended; says whether all ended well.
    fn watch(&self, open: &mut [(Bar, Deployment)], start: Timestamp) -> Result<bool> {
        let until = Instant::now() + PATIENCE;
        while open.iter().any(|(_, deployment)| deployment.state == "open") {
            thread::sleep(Duration::from_millis(200));
            for (bar, deployment) in open.iter_mut().filter(|(_, seen)| seen.state == "open") {
                *deployment = self.server.api().deployment(&deployment.id)?;
                if deployment.state == "open" {
                    bar.show(deployment);
                } else {
                    end(bar, deployment, start);
                }
            }
            anyhow::ensure!(Instant::now() < until, "gave up after {PATIENCE:?}");
        }
        Ok(open.iter().all(|(_, deployment)| deployment.state == "done"))
    }

    fn log_in(&self) -> Result<()> {
        line("\nWhat they say of themselves, over SSH:");
        for node in &self.nodes {
            let name = node.name();
            let target = self.server.target(&name)?;
            line(format_args!("\n  ssh root@{}  (host key checked)", target.address));
            let said = self.server.ssh(&name, QUESTIONS, Duration::from_secs(120))?;
            for word in said.lines() {
                line(format_args!("    {word}"));
            }
        }
        Ok(())
    }
}

fn end(bar: &mut Bar, deployment: &Deployment, start: Timestamp) {
    let took = Timestamp::now().duration_since(start).as_secs_f64();
    match deployment.state.as_str() {
        "done" => bar.end(true, &format!("Debian answers after {took:.1} s")),
        state => {
            let reason = deployment.reason.as_deref().unwrap_or("no reason was given");
            bar.end(false, &format!("{state} in step {}: {reason}", deployment.step));
        }
    }
}
