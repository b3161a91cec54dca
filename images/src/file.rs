//! Files that appear whole or not at all: written under a temporary name, synced, renamed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::buffer::{ALIGNMENT, Buffer};

/// How the name of every unfinished file begins; garbage collection removes what is left of a
/// crash by it.
pub(crate) const UNFINISHED: &str = ".new-";

/// The file system of a store has no room left.
#[derive(Debug, thiserror::Error)]
#[error("store is full: {free} bytes are free in {}, {needed} more are needed now", folder.display())]
pub struct StoreFull {
    /// The folder that took no more.
    pub folder: PathBuf,
    /// Bytes that were to be written.
    pub needed: u64,
    /// Bytes that are free for us.
    pub free: u64,
}

/// A file that is not visible under its name yet; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
}

impl NewFile {
    /// Writes `bytes` durably to a new file in `folder`.
    pub(crate) fn write(folder: &Path, bytes: &[u8]) -> anyhow::Result<Self> {
        Self::write_with(folder, bytes.len(), |path| {
            let file = OpenOptions::new().write(true).create_new(true).open(path)?;
            (&file).write_all(bytes)?;
            file.sync_data()
        })
    }

    /// The same for many bytes, past the page cache where the file system can: they are not
    /// read again soon, and copying them costs more than writing them.
    pub(crate) fn write_direct(
        folder: &Path,
        bytes: &mut Buffer,
        len: usize,
    ) -> anyhow::Result<Self> {
        Self::write_with(folder, len, |path| {
            let whole = len.next_multiple_of(ALIGNMENT).min(bytes.capacity());
            match write_direct(path, &bytes.show(whole)[..], len) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    let file =
                        OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
                    (&file).write_all(bytes.show(len))?;
                    file.sync_data()
                }
                result => result,
            }
        })
    }

    fn write_with(
        folder: &Path,
        len: usize,
        write: impl FnOnce(&Path) -> io::Result<()>,
    ) -> anyhow::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let new =
            NewFile { path: folder.join(format!("{UNFINISHED}{}-{number}", std::process::id())) };
        match write(&new.path) {
            Ok(()) => Ok(new),
            Err(error) if is_full(&error) => {
                let free = free(folder);
                Err(StoreFull { folder: folder.to_owned(), needed: len as u64, free }.into())
            }
            Err(error) => {
                Err(anyhow::Error::new(error).context(format!("writing {}", new.path.display())))
            }
        }
    }

    /// Gives it its name; [`sync_folder`] makes that durable.
    pub(crate) fn publish(self, name: &Path) -> anyhow::Result<()> {
        let context =
            |error| anyhow::Error::new(error).context(format!("publishing {}", name.display()));
        fs::rename(&self.path, name).map_err(context)?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Nothing to be done where even that fails; garbage collection finds it.
        let _ = fs::remove_file(&self.path);
    }
}

fn write_direct(path: &Path, padded: &[u8], len: usize) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).custom_flags(libc::O_DIRECT).open(path)?;
    file.write_all_at(padded, 0)?;
    file.set_len(len as u64)?;
    file.sync_data()
}

/// Writes a small file durably and in one piece, in place of what had its name.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    NewFile::write(folder, bytes)?.publish(path)?;
    sync_folder(folder)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    let sync = || File::open(folder)?.sync_all();
    sync()
        .map_err(|error| anyhow::Error::new(error).context(format!("syncing {}", folder.display())))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn free(folder: &Path) -> u64 {
    let stat =
        File::open(folder).ok().and_then(|file| nix::sys::statvfs::fstatvfs(file.as_fd()).ok());
    stat.map_or(0, |stat| stat.blocks_available() * stat.fragment_size())
}
