//! `dom0-latency`: how late the service domain's timers are while a guest burns every CPU that it
//! may, on a real Xen in an emulated machine of two CPUs.
//!
//! cyclictest runs in dom0; its 99th percentile is what counts. Before the node is shaped, dom0
//! is pinned to its CPU (`dom0_vcpus_pin`) and nothing keeps guests off it; afterwards billet's
//! plan does. Each state is measured beside the same without the guest, in turns, because a busy
//! emulator is late by itself: how late, a run without a guest tells in which a program of the host
//! burns what the emulated guest's processor takes otherwise.

use std::{fs::File, path::Path, process};

use anyhow::{Context, Result, bail};

use super::{
    dom0::Dom0,
    peers,
    rounds::{Contender, interleave},
    row::{Better, Row},
    say,
};
use crate::{Artefacts, Firmware, NodeSpec, Part, guest, tool};

const ROUNDS: usize = 5;
/// What two rounds without any guest differ by in emulation.
const NOISE: f64 = 1.25;
/// Microseconds between two timers, and how many of them make a run.
const INTERVAL: u32 = 2000;
const TIMERS: u32 = 5000;
/// The latest that is told apart, in microseconds.
const LATEST: u32 = 200_000;
/// Where cyclictest lies on the node.
const FOLDER: &str = "/root/cyclictest";

/// The image of the host, which needs this machine's network to be built.
pub fn artefacts() -> Result<Artefacts> {
    Artefacts::prepare(&[Part::Ram, Part::Dom0], say)
}

/// All rows.
pub fn run(scratch: &Path) -> Result<Vec<Row>> {
    let spec = NodeSpec::xen("", Firmware::Bios);
    let dom0 = Dom0::make(&scratch.join("interference"), &artefacts()?, spec)?;
    let interference = Interference { dom0: &dom0 };
    interference.prepare()?;
    let [pinned_alone, pinned] = interference.pinned()?;
    let [alone, plan, busy] = interference.planned()?;
    let row = |name: &str, ours, peers: &[(&str, f64)]| {
        Row::compare(name, "us", Better::Less, ours, peers)
    };
    Ok(vec![
        row("dom0-latency", plan, &[("no guest, busy host", busy)]).with_bar(NOISE),
        row("dom0-latency-idle", plan, &[("no guest, idle host", alone)]),
        row("dom0-latency-pinned", plan, &[("dom0_vcpus_pin alone", pinned)]),
        row("dom0-latency-pinned-alone", pinned, &[("no guest", pinned_alone)]),
    ])
}

struct Interference<'a> {
    dom0: &'a Dom0,
}

impl Interference<'_> {
    fn ssh(&self, script: &str) -> Result<String> {
        self.dom0.ssh(script)
    }

    fn prepare(&self) -> Result<()> {
        let server = self.dom0.server();
        let target = server.target(self.dom0.name())?;
        for file in peers::cyclictest()? {
            let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let open = File::open(&file).with_context(|| format!("opening {}", file.display()))?;
            let script =
                format!("mkdir -p {FOLDER}; cat >{FOLDER}/{name}; chmod +x {FOLDER}/{name}");
            server.key().run_with(&target, &script, open)?;
        }
        Ok(())
    }

    /// Without and with the guest, while nothing but the pin is there.
    fn pinned(&self) -> Result<[f64; 2]> {
        let (kernel, ramdisk) = (guest::KERNEL, guest::RAMDISK);
        let config = format!(
            "printf '%s\\n' 'name = \"burn\"' 'type = \"pv\"' 'memory = 160' 'vcpus = 2' \
             'kernel = \"{kernel}\"' 'ramdisk = \"{ramdisk}\"' \
             'extra = \"console=hvc0 burn=2\"' >/root/burn.cfg"
        );
        self.ssh(&config)?;
        let gone = "xl destroy burn 2>/dev/null; xl list";
        let there = "xl domid burn >/dev/null 2>&1 || { rm -f /var/log/xen/console/guest-burn.log; \
                     xl create -q /root/burn.cfg; }";
        let there = || self.ssh(there).and_then(|_| self.dom0.guest_is_ready("burn"));
        let medians = interleave(
            ROUNDS,
            &mut [
                Contender::new("no guest", || self.ssh(gone).and_then(|_| self.latency())),
                Contender::new("a guest that burns", || there().and_then(|()| self.latency())),
            ],
        )?;
        self.ssh(gone)?;
        let [alone, burning] = medians[..] else { bail!("two were to be measured") };
        Ok([alone, burning])
    }

    /// Without and with the guest, shaped by billet, and without it on a host as busy as with it.
    fn planned(&self) -> Result<[f64; 3]> {
        let shape = |state: &str| -> Result<()> {
            let (kernel, ramdisk) = (guest::KERNEL, guest::RAMDISK);
            let text = format!(
                "[service]\ncpus = 1\ndedicate = \"pool\"\n[[guest]]\nname = \"burn\"\n\
                 type = \"pv\"\nmemory = \"160MiB\"\nvcpus = 1\nstate = \"{state}\"\n\
                 shutdown_seconds = 5\nboot.kernel = {{ path = \"{kernel}\", \
                 ramdisk = \"{ramdisk}\", line = \"console=hvc0 burn=2\" }}\n"
            );
            self.dom0.becomes(&text)
        };
        let there = || {
            self.ssh("xl domid burn >/dev/null || rm -f /var/log/xen/console/guest-burn.log")
                .or_else(|_| Ok::<_, anyhow::Error>(String::new()))?;
            shape("running")?;
            self.dom0.guest_is_ready("burn")
        };
        let gone = || shape("stopped");
        let medians = interleave(
            ROUNDS,
            &mut [
                Contender::new("no guest", || gone().and_then(|()| self.latency())),
                Contender::new("a guest that burns", || there().and_then(|()| self.latency())),
                Contender::new("no guest, busy host", || {
                    gone()?;
                    let _burner = Burner::start()?;
                    self.latency()
                }),
            ],
        )?;
        let [alone, burning, busy] = medians[..] else { bail!("three were to be measured") };
        Ok([alone, burning, busy])
    }

    /// The 99th percentile of a run, in microseconds.
    fn latency(&self) -> Result<f64> {
        let said = self.ssh(&format!(
            "LD_LIBRARY_PATH={FOLDER} {FOLDER}/cyclictest -q -m -p 90 -i {INTERVAL} -l {TIMERS} \
             -h {LATEST} | awk '/^#/ || $2 > 0'"
        ))?;
        percentile(&said, 0.99)
            .with_context(|| format!("reading what cyclictest printed: {}", said.trim()))
    }
}

/// A program of the host that takes a whole processor, as the thread of an emulated one does whose guest
/// burns; ends when dropped.
struct Burner(process::Child);

impl Burner {
    fn start() -> Result<Self> {
        let mut command = process::Command::new(tool::program("busybox", "busybox-static")?);
        let burn = command.args(["sh", "-c", "while :; do :; done"]).spawn();
        burn.context("starting a program that burns").map(Burner)
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lateness that `share` of the timers kept, of a histogram of `microseconds count` lines;
/// `None` when there is none, or when it is beyond the histogram.
fn percentile(histogram: &str, share: f64) -> Option<f64> {
    let lines = histogram.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse::<u32>().ok()?, words.next()?.parse::<u64>().ok()?))
    });
    let pairs: Vec<_> = pairs.collect();
    let overflows = histogram.lines().find_map(|line| line.strip_prefix("# Histogram Overflows:"));
    let beyond: u64 = overflows.and_then(|count| count.trim().parse().ok()).unwrap_or(0);
    let all = beyond + pairs.iter().map(|(_, count)| count).sum::<u64>();
    let mut left = (all as f64 * share).ceil() as u64;
    for (late, count) in pairs {
        left = left.saturating_sub(count);
        if left == 0 {
            return Some(f64::from(late));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_is_read_off_the_histogram() {
        let histogram = "# /dev/cpu_dma_latency set to 0us\n# Histogram\n000100 000098\n\
                         000200 000001\n004000 000001\n# Total: 000000100\n";
        assert_eq!(percentile(histogram, 0.99), Some(200.0));
        assert_eq!(percentile(histogram, 1.0), Some(4000.0));
        let beyond = "000100 000098\n# Histogram Overflows: 00002\n";
        assert_eq!(percentile(beyond, 0.99), None);
        assert_eq!(percentile("", 0.99), None);
    }
}
