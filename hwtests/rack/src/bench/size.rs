//! `agent-size`, `ramdisk-size`, `server-rss`: what billet may use at most, in MiB.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{ours, row::Row, wire::Wire};
use crate::{artefacts::Programs, tool};

const MIB: f64 = (1 << 20) as f64;
/// What a server is given to come to rest.
const REST: Duration = Duration::from_secs(10);

/// `agent-size`: the program, as it is built for the RAM system.
pub fn agent(_: &Path) -> Result<Vec<Row>> {
    Ok(vec![Row::limit("agent-size", "MiB", size(&Programs::find()?.agent)?, 5.0)])
}

/// `ramdisk-size`: all that is loaded beside the kernel, compressed.
pub fn ramdisk(_: &Path) -> Result<Vec<Row>> {
    let ramdisk = ours::artefacts(false)?.store.join("boot/ramdisk");
    Ok(vec![Row::limit("ramdisk-size", "MiB", size(&ramdisk)?, 12.0)])
}

fn size(path: &PathBuf) -> Result<f64> {
    let metadata = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
    Ok(metadata.len() as f64 / MIB)
}

/// `server-rss`: the resident set of `billet serve` with everything switched on, at rest.
pub fn server(folder: &Path) -> Result<Vec<Row>> {
    let folder = &folder.join("server-rss");
    let wire = Wire::lay(folder)?;
    let boot = ours::boot_folder(folder);
    fs::create_dir_all(&boot).context("making a boot folder")?;
    for program in ["ipxe.efi", "undionly.kpxe"] {
        let file = tool::file(program, &[&format!("/usr/lib/ipxe/{program}")], "ipxe")?;
        fs::copy(file, boot.join(program)).with_context(|| format!("copying {program}"))?;
    }
    let command = ours::command(&wire, folder)?;
    let server = wire.serve("billet", command, &folder.join("billet.log"), 67)?;
    std::thread::sleep(REST);
    let resident = resident(server.pid())?;
    Ok(vec![Row::limit("server-rss", "MiB", resident, 40.0)])
}

fn resident(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
    let kib: f64 = kib.and_then(|kib| kib.trim().parse().ok()).context("finding VmRSS")?;
    Ok(kib / 1024.0)
}
