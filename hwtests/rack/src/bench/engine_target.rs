//! The disk that is written to: a loop device over a file, with direct I/O.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use images::Extent;

use super::{
    engine_peers::Writes,
    engine_work::{ROOT, SIZE, State, Work},
    wire::run,
};
use crate::tool;

/// The device; detached when dropped, and its file removed.
pub struct Target {
    /// Its path.
    pub device: String,
    file: PathBuf,
}

impl Target {
    /// A device of the work's size.
    ///
    /// # Errors
    /// When this is not root, or the kernel has no loop devices.
    pub fn attach(folder: &Path) -> Result<Self> {
        let file = folder.join("target.raw");
        File::create(&file).and_then(|file| file.set_len(SIZE)).context("making the target")?;
        let mut losetup = Command::new(tool::program("losetup", "mount")?);
        // coreos-installer wants a disk that may have partitions.
        losetup.args(["--partscan", "--find", "--show", "--direct-io=on"]).arg(&file);
        let device = run(&mut losetup).context("attaching a loop device, as root may")?;
        Ok(Target { device: device.trim().to_owned(), file })
    }

    /// Gives it a state, past the page cache and down to the medium.
    pub fn become_state(&self, work: &Work, state: State) -> Result<()> {
        let (from, to) = (format!("if={}", work.path(state, "raw").display()), self.output());
        let flags = ["bs=4M", "iflag=direct", "oflag=direct", "conv=fsync", "status=none"];
        run(Command::new("dd").args([from, to]).args(flags)).context("preparing the target")?;
        run(&mut Command::new("sync")).map(drop)
    }

    /// Whether it is the image, byte by byte, as far as it was to be written.
    pub fn check(&self, work: &Work, state: State, writes: Writes) -> Result<()> {
        if writes == Writes::All {
            return self.check_all(&work.path(state, "raw"));
        }
        let manifest = work.store.manifest(&work.manifest(state)?)?;
        // Its file system, not the table behind it.
        let looked_at = if writes == Writes::UsedOfRoot { ROOT..SIZE - (1 << 20) } else { 0..SIZE };
        let open = |path: &Path| File::open(path).context("opening what is compared");
        let (raw, device) = (open(&work.path(state, "raw"))?, open(Path::new(&self.device))?);
        let (mut wanted, mut found) = (Vec::new(), Vec::new());
        for (offset, extent) in manifest.placed() {
            if !matches!(extent, Extent::Chunk { .. }) || !looked_at.contains(&offset) {
                continue;
            }
            for (bytes, file) in [(&mut wanted, &raw), (&mut found, &device)] {
                bytes.resize(extent.size() as usize, 0);
                file.read_exact_at(bytes, offset).context("reading what is compared")?;
            }
            ensure!(same(&wanted, &found), "the target is not the image at {offset}");
        }
        Ok(())
    }

    fn check_all(&self, raw: &Path) -> Result<()> {
        let same = Command::new("cmp").arg(raw).arg(&self.device).output();
        let same = same.context("starting cmp")?;
        let said = String::from_utf8_lossy(&same.stdout);
        ensure!(same.status.success(), "the target is not {}: {said}", raw.display());
        Ok(())
    }

    /// dd's word for it.
    pub fn output(&self) -> String {
        format!("of={}", self.device)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
        let _ = fs::remove_file(&self.file);
    }
}

/// Whether the blocks that are used are the same: a chunk may have a block of zeros in it, which
/// such writers leave as it was.
fn same(wanted: &[u8], found: &[u8]) -> bool {
    let pairs = wanted.chunks(4096).zip(found.chunks(4096));
    pairs.into_iter().all(|(wanted, found)| wanted == found || wanted.iter().all(|byte| *byte == 0))
}
