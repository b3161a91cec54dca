//! Why a disk cannot be used, or failed in use: what the kernel said, in words that name the disk,
//! who holds it, and the sector.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a disk cannot be used, or failed in use.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It does not open.
    #[error("opening {}", path.display())]
    Open {
        /// The disk.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Somebody else holds it.
    #[error("{} is in use ({by}), a disk that nothing uses is needed", path.display())]
    InUse {
        /// The disk.
        path: PathBuf,
        /// What holds it, as far as the kernel tells.
        by: String,
    },
    /// It refuses writes.
    #[error("{} is read-only", path.display())]
    ReadOnly {
        /// The disk.
        path: PathBuf,
    },
    /// It is no disk at all.
    #[error("{} is {kind}, a block device or a regular file is needed", path.display())]
    Kind {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
    },
    /// A transfer failed: this part of it, as narrow as the disk's sectors are.
    #[error("{verb} {len} bytes at offset {offset} (sector {sector}) of {}", path.display())]
    Transfer {
        /// `reading`, `writing`, `zeroing` or `flushing`.
        verb: &'static str,
        /// The disk.
        path: PathBuf,
        /// Its first byte.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// Its first byte in the disk's logical sectors; of 512 bytes in a regular file.
        sector: u64,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Why the kernel did not open a disk.
pub(crate) fn refusal(path: &Path, source: io::Error) -> DiskError {
    match source.raw_os_error() {
        Some(libc::EBUSY) => {
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            DiskError::InUse { path: path.to_owned(), by: holder(&mounts, path) }
        }
        Some(libc::EROFS) => DiskError::ReadOnly { path: path.to_owned() },
        _ => DiskError::Open { path: path.to_owned(), source },
    }
}

/// The first mount of the disk or of one of its partitions.
fn holder(mounts: &str, path: &Path) -> String {
    let disk = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let disk = disk.to_string_lossy();
    let mut found = mounts.lines().filter_map(|line| {
        let (device, rest) = line.split_once(' ')?;
        let partition = device.strip_prefix(disk.as_ref())?.trim_start_matches('p');
        let ours = partition.bytes().all(|byte| byte.is_ascii_digit());
        ours.then(|| format!("{device} is mounted on {}", rest.split(' ').next().unwrap_or("/")))
    });
    found.next().unwrap_or_else(|| "swap, RAID, a volume group or another program".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_partition_names_its_mount() {
        let mounts =
            "proc /proc proc rw 0 0\n/dev/sdz11 /old ext4 rw 0 0\n/dev/sdy2 /srv ext4 rw 0 0\n";
        assert_eq!(holder(mounts, Path::new("/dev/sdy")), "/dev/sdy2 is mounted on /srv");
        assert_eq!(holder(mounts, Path::new("/dev/sdz")), "/dev/sdz11 is mounted on /old");
        assert!(holder(mounts, Path::new("/dev/sd")).starts_with("swap"));
    }
}
