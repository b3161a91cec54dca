//! `bypass-cpu`, `bypass-rate`: bytes that a guest moves over its slice, against bytes over its
//! vif, with the CPU time that the service domain spends on each, on a real Xen in an emulated
//! machine. Both ways lead through the same igb card: the slice is its VF, the vif is on a bridge
//! of which the card itself is a port.
//!
//! The service domain says how long it has run (`xl list`) over a connection that stays open, so
//! that asking costs little; what it spends in the same time while nothing moves is taken off. The
//! agent stands still meanwhile: looking at guests costs an emulated Xen more than a slice does.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    dom0::Dom0,
    row::{Better, Row},
    say,
};
use crate::{Artefacts, Firmware, NodeSpec, Part, guest, rack::ADDRESS};

const ROUNDS: usize = 3;
/// How long bytes move one way.
const WINDOW: Duration = Duration::from_secs(20);
/// What a slice may cost of what the same bytes cost over a vif.
const SHARE: f64 = 0.02;
/// Where the service domain is heard.
const METER: u16 = 7001;
/// Where the guest listens, and its ports: one tells, one hears.
const GUEST: &str = "10.77.0.51";
const TELLS: u16 = 19;
const HEARS: u16 = 9;

/// What needs this machine's network.
pub fn artefacts() -> Result<Artefacts> {
    Artefacts::prepare(&[Part::Ram, Part::Dom0, Part::Qemu], say)
}

/// Both rows.
pub fn run(scratch: &Path) -> Result<Vec<Row>> {
    let mut spec = NodeSpec::xen("", Firmware::Bios).with_vf_cards(1);
    spec.iommu = true;
    let dom0 = Dom0::make(&scratch.join("bypass"), &artefacts()?, spec)?;
    let place = dom0.ssh("cd /sys/bus/pci/drivers/igb; ls -d 0*; ls 0*/net")?;
    let mut words = place.split_whitespace();
    let (card, link) = words.next().zip(words.next()).context("finding the card")?;
    // First: a card that is a bridge's port hears more than its own.
    let slice = measure(&dom0, &by_slice(card)).context("over a slice")?;
    let vif = measure(&dom0, &by_vif(link)).context("over a vif")?;
    say(&format!("  over a vif: {vif}; over a slice: {slice}"));
    let cpu =
        Row::compare("bypass-cpu", "ms/MB", Better::Less, slice.cost(), &[("vif", vif.cost())]);
    let rate =
        Row::compare("bypass-rate", "MB/s", Better::More, slice.rate(), &[("vif", vif.rate())]);
    Ok(vec![cpu.with_bar(SHARE), rate])
}

/// The guest, with one of the two ways to the world.
fn guest(way: &str) -> String {
    let (kernel, ramdisk) = (guest::KERNEL, guest::RAMDISK);
    format!(
        "[service]\ncpus = 1\ndedicate = \"pool\"\n{way}[[guest]]\nname = \"mover\"\n\
         type = \"pv\"\nmemory = \"256MiB\"\nshutdown_seconds = 20\nboot.kernel = {{ path = \"{kernel}\", \
         ramdisk = \"{ramdisk}\", line = \"console=hvc0 iommu=soft swiotlb=4096 gip={GUEST}/24 \
         serve=yes\" }}\n"
    )
}

fn by_vif(link: &str) -> String {
    let bridge = format!("[[network.bridge]]\nname = \"br0\"\nports = [\"{link}\"]\n");
    guest(&bridge) + "[[guest.nic]]\nbridge = \"br0\"\n"
}

fn by_slice(card: &str) -> String {
    let fabric = "[[fabric]]\nname = \"lan\"\nlink = \"ethernet\"\nvfs = 1\n";
    guest(&format!("{fabric}pfs = [\"{card}\"]\n")) + "slice = { fabric = \"lan\" }\n"
}

/// What moved, and what the service domain spent meanwhile.
#[derive(Debug, Default)]
struct Moved {
    bytes: f64,
    /// While bytes moved.
    cpu: f64,
    seconds: f64,
    /// While none did.
    idle: f64,
    idle_seconds: f64,
}

impl Moved {
    /// Milliseconds of the service domain for a megabyte, beyond what it spends anyway.
    fn cost(&self) -> f64 {
        let own = self.cpu - self.idle / self.idle_seconds * self.seconds;
        own.max(0.0) * 1000.0 / (self.bytes / 1e6)
    }

    fn rate(&self) -> f64 {
        self.bytes / 1e6 / self.seconds
    }
}

impl std::fmt::Display for Moved {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Moved { bytes, cpu, seconds, idle, idle_seconds } = self;
        write!(
            out,
            "{:.0} MB in {seconds:.0} s, Domain-0 ran {cpu:.1} s ({idle:.1} s in {idle_seconds:.0} \
             s of silence)",
            bytes / 1e6
        )
    }
}

fn measure(dom0: &Dom0, desired: &str) -> Result<Moved> {
    dom0.ssh("rm -f /var/log/xen/console/guest-mover.log")?;
    // With the other way it was another guest, which ends first.
    dom0.becomes(&desired.replace("[[guest]]\n", "[[guest]]\nstate = \"stopped\"\n"))?;
    dom0.becomes(desired)?;
    dom0.guest_is_ready("mover")?;
    // It looks at the guests every few seconds, which is no matter of bytes.
    dom0.ssh("systemctl stop billet-agent")?;
    let moved = moved(dom0)?;
    dom0.ssh("systemctl start billet-agent")?;
    Ok(moved)
}

fn moved(dom0: &Dom0) -> Result<Moved> {
    let mut moved = Moved::default();
    let mut meter = Meter::start(dom0)?;
    for round in 1..=ROUNDS {
        let [cpu, seconds] = meter.spent(|| {
            thread::sleep(WINDOW);
            Ok(())
        })?;
        say(&format!("  round {round} of {ROUNDS}: silence, {cpu:.1} s"));
        (moved.idle, moved.idle_seconds) = (moved.idle + cpu, moved.idle_seconds + seconds);
        for port in [TELLS, HEARS] {
            let mut bytes = 0.0;
            let [cpu, seconds] = meter.spent(|| {
                bytes = transfer(port)? as f64;
                Ok(())
            })?;
            say(&format!("  round {round} of {ROUNDS}: port {port}, {bytes} bytes, {cpu:.1} s"));
            moved.bytes += bytes;
            (moved.cpu, moved.seconds) = (moved.cpu + cpu, moved.seconds + seconds);
        }
    }
    Ok(moved)
}

/// Moves bytes from or to the guest for a [`WINDOW`]: how many.
fn transfer(port: u16) -> Result<u64> {
    let mut stream = TcpStream::connect((GUEST, port)).context("connecting to the guest")?;
    stream.set_read_timeout(Some(WINDOW)).context("setting a patience")?;
    stream.set_write_timeout(Some(WINDOW)).context("setting a patience")?;
    let (mut buffer, mut bytes) = (vec![0; 64 << 10], 0);
    let begun = Instant::now();
    while begun.elapsed() < WINDOW {
        let count = match port {
            TELLS => stream.read(&mut buffer),
            _ => stream.write(&buffer),
        };
        let count = count.context("moving bytes")?;
        ensure!(count > 0, "the guest ended the connection");
        bytes += count as u64;
    }
    Ok(bytes)
}

/// The service domain's end of a connection, on which it says how long it has run.
struct Meter {
    answers: BufReader<TcpStream>,
}

impl Meter {
    fn start(dom0: &Dom0) -> Result<Self> {
        let listener = TcpListener::bind((ADDRESS, METER)).context("listening for dom0")?;
        let script = format!(
            "(exec 3<>/dev/tcp/{ADDRESS}/{METER}; while read -r go <&3; do \
             xl list Domain-0 | awk 'END {{print $6}}' >&3; done) </dev/null >/dev/null 2>&1 &"
        );
        dom0.ssh(&script)?;
        let (stream, _) = listener.accept().context("waiting for dom0")?;
        Ok(Meter { answers: BufReader::new(stream) })
    }

    /// Seconds that the service domain has run.
    fn ask(&mut self) -> Result<f64> {
        self.answers.get_mut().write_all(b"\n").context("asking dom0")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("hearing dom0")?;
        line.trim().parse().with_context(|| format!("reading what dom0 said, {line:?}"))
    }

    /// Seconds of the service domain, and seconds on the clock, that `work` took.
    fn spent(&mut self, work: impl FnOnce() -> Result<()>) -> Result<[f64; 2]> {
        let (before, begun) = (self.ask()?, Instant::now());
        work()?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok([self.ask()? - before, seconds])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_anyway_is_taken_off() {
        let mut moved =
            Moved { bytes: 1e9, cpu: 12.0, seconds: 60.0, idle: 1.0, idle_seconds: 30.0 };
        assert_eq!(moved.cost(), 10.0);
        moved.cpu = 1.5;
        assert_eq!(moved.cost(), 0.0);
    }
}
