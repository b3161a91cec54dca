//! What this machine allows at best, measured in the same sitting: the rates of its disk, of
//! HTTP on loopback, and of decompression on all cores.

use std::{
    fs,
    io::{self, Read},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    engine_run::Taken,
    engine_site::HTTP,
    engine_target::Target,
    engine_work::{SIZE, State, Work},
};

/// What a run may have to wait for.
pub const PARTS: [&str; 4] = ["disk reads", "disk writes", "network", "decompression"];

/// Bytes per second.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    read: f64,
    write: f64,
    network: f64,
    decompress: f64,
}

impl Limit {
    /// Measures beside a run of ours, so that both meet the same machine.
    pub fn measure_beside(
        ours: bool,
        work: &Work,
        target: &Target,
        folder: &Path,
    ) -> Result<Option<Self>> {
        ours.then(|| Limit::measure(work, target, folder)).transpose()
    }

    /// Measures the target, which is left half written, and the site.
    pub fn measure(work: &Work, target: &Target, folder: &Path) -> Result<Self> {
        let log = folder.join("limit.log");
        let rate = |bytes: u64, line: &str| {
            let mut command = Command::new("bash");
            command.args(["-o", "pipefail", "-c", line]);
            // dd's buffer on huge pages, where a virtual disk reads up to twice as fast.
            command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
            anyhow::Ok(bytes as f64 / Taken::of(command, &log)?.seconds)
        };
        let (device, half) = (&target.device, SIZE / 2);
        let packed = work.path(State::Base, "zst");
        let size = packed.metadata().context("looking at the compressed image")?.len();
        let raw = work.path(State::Foreign, "raw");
        let direct = "bs=4M count=512 status=none";
        fs::File::open(&raw)
            .and_then(|file| io::copy(&mut file.take(half / 4), &mut io::sink()))
            .context("reading what is to be written")?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let one = rate(used(work), &format!("zstd -dcq {} | cat >/dev/null", packed.display()))?;
        Ok(Limit {
            read: rate(half, &format!("dd if={device} of=/dev/null iflag=direct {direct}"))?,
            // What was just read is in memory; zeros would be no bytes to some devices.
            write: rate(
                half / 4,
                &format!(
                    "dd if={} of={device} iflag=count_bytes oflag=direct conv=fsync bs=4M \
                     count={} status=none",
                    raw.display(),
                    half / 4
                ),
            )?,
            network: rate(size, &format!("curl -sf {HTTP}/base.zst >/dev/null"))?,
            decompress: one * cores as f64,
        })
    }

    /// The seconds that a run needs at least of each of [`PARTS`]. All may go on at once: the longest is the
    /// limit.
    pub fn of(&self, run: &Taken) -> [f64; PARTS.len()] {
        let written = run.bytes("copied") + run.bytes("fetched");
        [
            // What is written is read back.
            (run.bytes("kept") + run.bytes("copied") + written) / self.read,
            written / self.write,
            run.bytes("received") / self.network,
            run.bytes("fetched") / self.decompress,
        ]
    }
}

/// Bytes of the base that are not zero.
fn used(work: &Work) -> u64 {
    let manifest = work.manifest(State::Base).and_then(|name| work.store.manifest(&name));
    let extents = manifest.map(|manifest| manifest.extents).unwrap_or_default();
    let chunk = |extent: &&images::Extent| matches!(extent, images::Extent::Chunk { .. });
    extents.iter().filter(chunk).map(images::Extent::size).sum()
}
