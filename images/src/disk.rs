//! The door to what an image is read from or written to: a block device, or a regular file
//! that plays one.
//!
//! A block device is opened exclusively, so one that is mounted is refused by the kernel
//! itself. Transfers that are aligned bypass the page cache (direct I/O) where the file can;
//! the rest goes through it, and both see the same bytes because the kernel writes back and
//! drops cached pages before a direct transfer. Errors name the offset.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    buffer::{ALIGNMENT, Buffer},
    disk_error::refusal,
    ioctl,
    sector::first_failing,
};
pub use crate::{disk_error::DiskError, region::Region};

/// A change that is about to happen to a disk.
#[derive(Debug, Clone, Copy)]
pub enum Effect<'a> {
    /// These bytes are written at this offset.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
    /// This many bytes from this offset become zero.
    Zero {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// All that was written so far is made durable.
    Flush,
}

/// Sees every effect before it happens; its error is the disk's, and the effect does not
/// happen. A rehearsal of power cuts stops a disk with it, a log records with it.
pub type Watch = dyn Fn(Effect<'_>) -> io::Result<()> + Send + Sync;

/// An open disk.
pub struct Disk {
    path: PathBuf,
    plain: File,
    direct: Option<File>,
    direct_works: AtomicBool,
    zeroes_by_command: bool,
    size: u64,
    sector_size: Option<u32>,
    watch: Option<Arc<Watch>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).field("size", &self.size).finish()
    }
}

impl Disk {
    /// Opens `path` for writing. A block device must be free: not mounted, no swap, no member
    /// of a RAID or volume group, nor any of its partitions.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DiskError> {
        Self::open_as(path.as_ref(), true)
    }

    /// Opens `path` for reading only; it may be in use.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self, DiskError> {
        Self::open_as(path.as_ref(), false)
    }

    fn open_as(path: &Path, write: bool) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Open { path: path.to_owned(), source };
        let kind = path.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let kind = if kind.is_dir() { "a directory" } else { "a special file" };
            return Err(DiskError::Kind { path: path.to_owned(), kind });
        }
        let exclusive = if write && kind.is_block_device() { libc::O_EXCL } else { 0 };
        let open = |flags| {
            let mut options = OpenOptions::new();
            options.read(true).write(write).custom_flags(flags | libc::O_CLOEXEC).open(path)
        };
        let plain = open(exclusive).map_err(|source| refusal(path, source))?;
        // Only one of the two may claim the device; the claim of the first holds for both.
        // A file that is only read was often just made, and is still in the page cache.
        let wanted = write || kind.is_block_device();
        let direct = open(libc::O_DIRECT).ok().filter(|_| wanted);
        let (size, sector_size) = if kind.is_block_device() {
            if write && ioctl::read_only(plain.as_fd()).map_err(failed)? {
                return Err(DiskError::ReadOnly { path: path.to_owned() });
            }
            let sector = ioctl::sector_size(plain.as_fd()).map_err(failed)?;
            (ioctl::size(plain.as_fd()).map_err(failed)?, Some(sector))
        } else {
            (plain.metadata().map_err(failed)?.len(), None)
        };
        let direct_works = AtomicBool::new(direct.is_some());
        let device = sector_size.and_then(|_| plain.metadata().ok()).map(|found| found.rdev());
        let zeroes_by_command = device.is_some_and(zeroes_by_command);
        let path = path.to_owned();
        Ok(Disk {
            path,
            plain,
            direct,
            direct_works,
            zeroes_by_command,
            size,
            sector_size,
            watch: None,
        })
    }

    /// The same disk with every effect shown to `watch` before it happens.
    pub fn watched(self, watch: Arc<Watch>) -> Self {
        Disk { watch: Some(watch), ..self }
    }

    /// As it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its logical sector in bytes; a regular file has none and takes any.
    pub fn sector_size(&self) -> Option<u32> {
        self.sector_size
    }

    /// Whether it is a block device.
    pub fn is_device(&self) -> bool {
        self.sector_size.is_some()
    }

    /// Whether it is a block device with a command that makes zeros, and promises that they are
    /// read as such (`REQ_OP_WRITE_ZEROES`): [`Disk::zero`] moves no bytes then.
    pub fn zeroes_by_command(&self) -> bool {
        self.zeroes_by_command
    }

    /// Whether aligned transfers go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some() && self.direct_works.load(Ordering::Relaxed)
    }

    /// Fills `bytes` from `offset`.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.read(bytes, offset).map_err(|source| {
            let (offset, len) =
                first_failing(offset, bytes.len() as u64, self.grain(), |offset, len| {
                    // Read into the front: alignment is as good there as anywhere.
                    self.read(&mut bytes[..len as usize], offset)
                });
            self.failed("reading", offset, len, source)
        })
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match self.direct_for(bytes, offset) {
            Some(direct) => match direct.read_exact_at(bytes, offset) {
                Err(error) if self.gives_up_direct(&error) => {
                    self.plain.read_exact_at(bytes, offset)
                }
                result => result,
            },
            None => self.plain.read_exact_at(bytes, offset),
        }
    }

    /// Writes all of `bytes` at `offset`; durable only after [`Disk::flush`].
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.show(Effect::Write { offset, bytes })
            .and_then(|()| self.check_inside(offset, bytes.len() as u64))
            .map_err(|source| self.failed("writing", offset, bytes.len() as u64, source))?;
        self.write(bytes, offset).map_err(|source| {
            // In parts that go past the page cache, which would take anything.
            let grain = self.sector_size.map_or(ALIGNMENT as u64, u64::from);
            let mut room = Buffer::new(grain as usize);
            let (first, len) = first_failing(offset, bytes.len() as u64, grain, |part, len| {
                let at = (part - offset) as usize;
                let room = room.show(len as usize);
                room.copy_from_slice(&bytes[at..at + len as usize]);
                self.write(room, part)
            });
            self.failed("writing", first, len, source)
        })
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.direct_for(bytes, offset) {
            Some(direct) => match direct.write_all_at(bytes, offset) {
                Err(error) if self.gives_up_direct(&error) => {
                    self.plain.write_all_at(bytes, offset)
                }
                result => result,
            },
            None => self.plain.write_all_at(bytes, offset),
        }
    }

    /// Makes `len` bytes from `offset` zero, by the device's own means where it has some
    /// that promise to read back zero; durable only after [`Disk::flush`]. With `unmap` a device may give up the room
    /// that they took, which can take it as long as writing them.
    pub fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<(), DiskError> {
        let zero = || {
            self.show(Effect::Zero { offset, len })?;
            self.check_inside(offset, len)?;
            // The kernel writes zeros itself where the device has no command for it.
            let zero_out = || ioctl::zero_out(self.plain.as_fd(), offset, len);
            if self.is_device() && !unmap {
                return zero_out();
            }
            match punch(&self.plain, offset, len) {
                Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => Err(error),
                Ok(()) => Ok(()),
                Err(_) if self.is_device() => zero_out(),
                Err(_) => self.write_zeros(offset, len),
            }
        };
        zero().map_err(|source| self.failed("zeroing", offset, len, source))
    }

    /// Returns when all that was written is on stable storage.
    pub fn flush(&self) -> Result<(), DiskError> {
        let flush = || {
            self.show(Effect::Flush)?;
            self.plain.sync_data()
        };
        flush().map_err(|source| self.failed("flushing", 0, self.size, source))
    }

    /// Drops what the page cache holds, so that the next read asks the device.
    pub fn forget_cached(&self) {
        // Advice: where it is not taken, direct reads still go to the device.
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        let _ = nix::fcntl::posix_fadvise(self.plain.as_fd(), 0, 0, advice);
    }

    /// Has the kernel read the partition table anew; a regular file has none to read.
    pub fn reread_partitions(&self) -> Result<(), DiskError> {
        if !self.is_device() {
            return Ok(());
        }
        match ioctl::reread_partitions(self.plain.as_fd()) {
            // Loop devices without partition scanning, and devices that cannot have any.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            result => result
                .map_err(|source| self.failed("rereading partitions in", 0, self.size, source)),
        }
    }

    /// A part of the disk as a file of its own, through the page cache, of any alignment.
    pub fn region(&self, start: u64, len: u64) -> Region<'_> {
        Region::new(self, start, len)
    }

    /// Reads through the page cache, of any alignment.
    pub(crate) fn read_some(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.plain.read_at(bytes, offset)
    }

    /// Writes through the page cache, of any alignment.
    pub(crate) fn write_through_cache(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.show(Effect::Write { offset, bytes })?;
        self.check_inside(offset, bytes.len() as u64)?;
        self.plain.write_all_at(bytes, offset)
    }

    /// Where the next data is at or after `offset`, as far as the file system tells; a hole
    /// reads as zeros.
    pub(crate) fn next_data(&self, offset: u64) -> Option<u64> {
        if self.is_device() {
            return Some(offset);
        }
        let seek = nix::unistd::Whence::SeekData;
        match nix::unistd::lseek(self.plain.as_fd(), i64::try_from(offset).ok()?, seek) {
            Ok(found) => u64::try_from(found).ok(),
            Err(nix::Error::ENXIO) => None,
            Err(_) => Some(offset),
        }
    }

    /// How far the data that begins at `offset` reaches at least.
    pub(crate) fn next_hole(&self, offset: u64) -> u64 {
        if self.is_device() {
            return self.size;
        }
        let seek = nix::unistd::Whence::SeekHole;
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        nix::unistd::lseek(self.plain.as_fd(), offset, seek)
            .ok()
            .and_then(|found| u64::try_from(found).ok())
            .unwrap_or(self.size)
    }

    /// Bytes by which a failure is narrowed down.
    pub(crate) fn grain(&self) -> u64 {
        u64::from(self.sector_size.unwrap_or(512))
    }

    fn direct_for(&self, bytes: &[u8], offset: u64) -> Option<&File> {
        let grain = self.sector_size.unwrap_or(ALIGNMENT as u32) as usize;
        let aligned = (bytes.as_ptr() as usize).is_multiple_of(ALIGNMENT)
            && bytes.len().is_multiple_of(grain)
            && offset.is_multiple_of(grain as u64);
        self.direct.as_ref().filter(|_| aligned && self.direct_works.load(Ordering::Relaxed))
    }

    fn gives_up_direct(&self, error: &io::Error) -> bool {
        // EINVAL: this file system, or the device under it, wants another alignment or none of it.
        let unable = error.raw_os_error() == Some(libc::EINVAL);
        if unable {
            self.direct_works.store(false, Ordering::Relaxed);
        }
        unable
    }

    fn show(&self, effect: Effect<'_>) -> io::Result<()> {
        self.watch.as_ref().map_or(Ok(()), |watch| watch(effect))
    }

    /// A regular file would grow silently where a device says ENOSPC.
    fn check_inside(&self, offset: u64, len: u64) -> io::Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(io::Error::other(format!("the disk ends at {}", self.size))),
        }
    }

    fn write_zeros(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        let zeros = vec![0; 1 << 20];
        while len > 0 {
            let part = len.min(zeros.len() as u64);
            self.plain.write_all_at(&zeros[..part as usize], offset)?;
            (offset, len) = (offset + part, len - part);
        }
        Ok(())
    }

    fn failed(&self, verb: &'static str, offset: u64, len: u64, source: io::Error) -> DiskError {
        let sector = offset / self.grain();
        DiskError::Transfer { verb, path: self.path.clone(), offset, len, sector, source }
    }
}

/// What sysfs says of a device; a partition asks its disk. Where there is no sysfs, nothing is
/// promised.
fn zeroes_by_command(device: u64) -> bool {
    let (major, minor) = (libc::major(device), libc::minor(device));
    ["queue", "../queue"].iter().any(|queue| {
        let path = format!("/sys/dev/block/{major}:{minor}/{queue}/write_zeroes_max_bytes");
        let most = std::fs::read_to_string(path).unwrap_or_default();
        most.trim().parse::<u64>().is_ok_and(|most| most > 0)
    })
}

/// A hole in a file; of a device, its command for zeros with leave to unmap, and an error where it has none or does
/// not promise that what it unmapped reads as zeros (block/fops.c, `blkdev_fallocate`). `BLKZEROOUT` gives no such
/// leave: zeros would take room on a disk that has as much as is written to it.
fn punch(file: &File, offset: u64, len: u64) -> io::Result<()> {
    use nix::fcntl::FallocateFlags;
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let wrong = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let (offset, len) = (offset.try_into().map_err(wrong)?, len.try_into().map_err(wrong)?);
    Ok(nix::fcntl::fallocate(file.as_fd(), flags, offset, len)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(size: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        file
    }

    #[test]
    fn direct_and_plain_transfers_see_the_same_bytes() {
        let file = scratch(1 << 20);
        let disk = Disk::open(file.path()).unwrap();
        let mut aligned = Buffer::new(8192);
        aligned.fill(7);
        disk.write_at(&aligned, 4096).unwrap();
        disk.write_at(&[9; 100], 4100).unwrap();
        disk.flush().unwrap();
        disk.read_at(&mut aligned, 4096).unwrap();
        assert_eq!((aligned[3], aligned[4], aligned[103], aligned[104]), (7, 9, 9, 7));
        disk.zero(4096, 4096, false).unwrap();
        disk.read_at(&mut aligned, 4096).unwrap();
        assert!(aligned[..4096].iter().all(|byte| *byte == 0));
        assert_eq!(aligned[4096], 7);
    }

    #[test]
    fn errors_name_the_offset_and_files_never_grow() {
        let file = scratch(8192);
        let disk = Disk::open(file.path()).unwrap();
        let error = disk.write_at(&[1; 4096], 8192).unwrap_err().to_string();
        assert!(error.starts_with("writing 4096 bytes at offset 8192 (sector 16) of /"), "{error}");
        let error = disk.read_at(&mut [0; 4096], 5000).unwrap_err().to_string();
        assert!(error.starts_with("reading 512 bytes at offset 8072 (sector 15) of /"), "{error}");
        assert_eq!(file.as_file().metadata().unwrap().len(), 8192);
        assert!(matches!(Disk::open("/tmp"), Err(DiskError::Kind { .. })));
        assert!(matches!(Disk::open("/dev/null"), Err(DiskError::Kind { .. })));
    }

    #[test]
    fn a_watch_stops_an_effect_before_it_happens() {
        let file = scratch(8192);
        let disk = Disk::open(file.path()).unwrap();
        let disk = disk.watched(Arc::new(|_| Err(io::Error::other("power cut"))));
        assert!(disk.write_at(&[1; 4096], 0).is_err());
        assert!(disk.zero(0, 4096, true).is_err() && disk.flush().is_err());
        let mut bytes = [1; 16];
        disk.read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [0; 16]);
    }
}
