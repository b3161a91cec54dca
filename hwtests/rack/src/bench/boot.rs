//! `boot-bios`, `boot-uefi`: from power-on of a blank machine to the banner of its SSH.
//!
//! The same virtual machine, the same image, one after the other on the same rack: billet,
//! billet with `kexec` instead of a restart (a row without a bar), and the hand-made way.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::{
    handmade::Handmade,
    ours,
    rounds::{Contender, interleave},
    row::{Better, Row},
    say,
};
use crate::{Artefacts, Firmware, Node, NodeSpec, Rack, Server, server};

/// A run takes a minute and more.
const ROUNDS: usize = 3;
/// Billet's time is to be at most this much of the hand-made way's.
const BAR: f64 = 0.9;
/// After which a machine is given up.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often at most a run is made while [`Starved`].
const STARVED_RUNS: u32 = 3;
/// What Linux panics with when its timer is late, as it is on a busy host without KVM.
const STARVED: &str = "IO-APIC + timer doesn't work";
const MEMORY: u32 = 512;
const CPUS: u32 = 2;

/// `boot-bios`
pub fn bios(folder: &Path) -> Result<Vec<Row>> {
    measure(folder, "boot-bios", Firmware::Bios)
}

/// `boot-uefi`
pub fn uefi(folder: &Path) -> Result<Vec<Row>> {
    measure(folder, "boot-uefi", Firmware::Uefi)
}

fn measure(scratch: &Path, name: &str, firmware: Firmware) -> Result<Vec<Row>> {
    let bench =
        Bench { artefacts: ours::artefacts(true)?, scratch, folder: scratch.join(name), firmware };
    let medians = interleave(
        ROUNDS,
        &mut [
            Contender::new("billet", || bench.run(|node| bench.billet(node, "reset"))),
            Contender::new("hand-made", || bench.run(|_| bench.handmade())),
            Contender::new("billet, kexec", || bench.run(|node| bench.billet(node, "kexec"))),
        ],
    )?;
    let [restart, handmade, kexec] = medians[..] else { bail!("three were to be measured") };
    let peers = [("hand-made", handmade)];
    Ok(vec![
        Row::compare(name, "s", Better::Less, restart, &peers).with_bar(BAR),
        Row::compare(&format!("{name}-kexec"), "s", Better::Less, kexec, &peers),
    ])
}

/// The host was too busy to emulate a machine's timer: nobody's fault who is measured here.
#[derive(Debug, thiserror::Error)]
#[error("the host was too busy to emulate a timer, and Linux gave up")]
struct Starved;

struct Bench<'a> {
    artefacts: Artefacts,
    /// What all figures share.
    scratch: &'a Path,
    /// This figure's own.
    folder: PathBuf,
    firmware: Firmware,
}

/// Says which addresses the machine may have by now.
type Addresses = Box<dyn Fn() -> Vec<Ipv4Addr>>;

impl Bench<'_> {
    /// One run, begun again when the emulator and not the machine failed.
    fn run(&self, provision: impl Fn(&Node) -> Result<Addresses>) -> Result<f64> {
        for _ in 1..STARVED_RUNS {
            match self.run_once(&provision) {
                Err(error) if error.is::<Starved>() => say(&format!("  again: {error}")),
                result => return result,
            }
        }
        self.run_once(&provision)
    }

    /// Sets up a rack with one blank machine; what `provision` starts lives as long as what it
    /// returns.
    fn run_once(&self, provision: impl Fn(&Node) -> Result<Addresses>) -> Result<f64> {
        let _ = fs::remove_dir_all(&self.folder);
        let mut rack = Rack::new(&self.folder)?;
        let mut spec = NodeSpec::new("node", self.firmware);
        (spec.memory, spec.cpus) = (MEMORY, CPUS);
        let node = rack.add(spec)?;
        let addresses = provision(&node)?;
        let began = Instant::now();
        node.power_on()?;
        let tail = || format!("its console says:\n{}", node.console().tail());
        while began.elapsed() < PATIENCE {
            if addresses().into_iter().any(answers) {
                return Ok(began.elapsed().as_secs_f64());
            }
            ensure!(!node.console().has_said(STARVED), Starved);
            ensure!(!node.console().has_said("Kernel panic"), "a kernel panic; {}", tail());
            thread::sleep(Duration::from_millis(100));
        }
        bail!("no SSH after {PATIENCE:?} at {:?}; {}", addresses(), tail())
    }

    fn billet(&self, node: &Node, restart: &str) -> Result<Addresses> {
        let options = server::Options::new(&self.artefacts.store);
        let server =
            Server::start(&self.artefacts.programs, &self.folder.join("server"), &options)?;
        server.enroll(node)?;
        let name = node.name();
        server.api().deploy(&name, &json!({ "image": "bare", "restart": restart }))?;
        Ok(Box::new(move || {
            let view = server.api().node(&name);
            view.ok().and_then(|view| view.address).into_iter().collect()
        }))
    }

    fn handmade(&self) -> Result<Addresses> {
        let servers = Handmade::start(self.scratch, &self.folder)?;
        Ok(Box::new(move || servers.addresses()))
    }
}

/// Whether SSH says what it is. Not TCP alone: systemd's listening socket answers before SSH can.
/// A machine that is not there costs a moment, one that is there gets the time to start `sshd`.
fn answers(address: Ipv4Addr) -> bool {
    let socket = SocketAddr::from((address, 22));
    let stream = TcpStream::connect_timeout(&socket, Duration::from_millis(200));
    let Ok(mut stream) = stream else { return false };
    let mut banner = [0; 4];
    stream.set_read_timeout(Some(Duration::from_secs(3))).is_ok()
        && stream.read_exact(&mut banner).is_ok()
        && banner == *b"SSH-"
}
