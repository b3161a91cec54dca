//! The disk that is written to: a loop device over a file, with direct I/O.

use std::{fs::File, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::{
    engine_work::{SIZE, State, Work},
    wire::run,
};
use crate::tool;

/// The device; detached when dropped.
pub struct Target {
    /// Its path.
    pub device: String,
}

impl Target {
    /// A device of the work's size.
    ///
    /// # Errors
    /// When this is not root, or the kernel has no loop devices.
    pub fn attach(folder: &Path) -> Result<Self> {
        let path = folder.join("target.raw");
        File::create(&path).and_then(|file| file.set_len(SIZE)).context("making the target")?;
        let mut losetup = Command::new(tool::program("losetup", "mount")?);
        losetup.args(["--find", "--show", "--direct-io=on"]).arg(&path);
        let device = run(&mut losetup).context("attaching a loop device, as root may")?;
        Ok(Target { device: device.trim().to_owned() })
    }

    /// Gives it a state, past the page cache and down to the medium.
    pub fn become_state(&self, work: &Work, state: State) -> Result<()> {
        let (from, to) = (format!("if={}", work.path(state, "raw").display()), self.output());
        let flags = ["bs=4M", "iflag=direct", "oflag=direct", "conv=fsync", "status=none"];
        run(Command::new("dd").args([from, to]).args(flags)).context("preparing the target")?;
        run(&mut Command::new("sync")).map(drop)
    }

    /// Whether it is the image, byte by byte.
    pub fn check(&self, work: &Work, state: State) -> Result<()> {
        let raw = work.path(state, "raw");
        let same = Command::new("cmp").arg(&raw).arg(&self.device).output();
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
    }
}
