//! A folder for what a build needs on its way; it goes when the build is over.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::{FsFlags, statvfs};

/// A file system in memory that everyone may write to.
const SHARED_MEMORY: &str = "/dev/shm";

/// How the name of every such folder begins; garbage collection removes what is left of a crash
/// by it.
pub(crate) const SCRATCH: &str = ".build-";

/// The folder. Dropping it removes it with all it holds.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new folder in `parent`, which is made when it is not there.
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        let making = || format!("making a folder in {}", parent.display());
        fs::create_dir_all(parent).with_context(making)?;
        // A crash may have left one of a process with this number.
        let names = (0..).map(|n| parent.join(format!("{SCRATCH}{}-{n}", std::process::id())));
        for path in names {
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Scratch(path.canonicalize().with_context(making)?)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(making),
            }
        }
        bail!("{} has no room for one more folder", parent.display())
    }

    /// Where it is, from the root.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// A folder in memory with room for `bytes`, for what is many small files and soon gone; none when
/// the user has chosen a folder, or memory is not that plentiful. Unpacking and removing a system
/// took a minute less of a build's three than on a busy disk.
pub(crate) fn in_memory(bytes: u64) -> Option<&'static Path> {
    if std::env::var_os("TMPDIR").is_some() {
        return None;
    }
    let volume = statvfs(SHARED_MEMORY).ok()?;
    let free = volume.blocks_available() * volume.fragment_size();
    // Programs are run there; root makes devices there, where others bind the host's.
    let root = nix::unistd::geteuid().is_root();
    let flags = volume.flags();
    let barred = FsFlags::ST_NOEXEC | if root { FsFlags::ST_NODEV } else { FsFlags::empty() };
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let roomy = free >= bytes && available(&meminfo)? >= 2 * bytes;
    (!flags.intersects(barred) && roomy).then_some(Path::new(SHARED_MEMORY))
}

/// Bytes of memory that programs may still ask for.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is found by its name; the build's own error matters more.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_what_the_kernel_says() {
        let meminfo = "MemTotal:       24684084 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(available(meminfo), Some(1 << 20));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert_eq!(in_memory(u64::MAX / 4), None);
    }

    #[test]
    fn a_scratch_folder_goes_with_what_it_holds() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path()).unwrap();
        fs::write(scratch.join("file"), "text").unwrap();
        drop(scratch);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
