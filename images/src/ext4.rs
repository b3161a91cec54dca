//! The times in an ext4 file system that `mke2fs -d` made.
//!
//! It copies the change times of the files it read, which nobody can choose, and the moments of
//! its own work. Here every inode's times become its time of modification, no later than the
//! build's moment, without nanoseconds. That is all that differs between two builds. Layout as in
//! the kernel's documentation, `filesystems/ext4/ondisk`.

use std::{fs::File, os::unix::fs::FileExt};

use anyhow::{Context, Result, bail};

/// Feature bits that change where inodes lie or how they are summed.
const META_BG: u32 = 0x10;
const BIT64: u32 = 0x80;
const METADATA_CSUM: u32 = 0x400;
const CSUM_SEED: u32 = 0x2000;

/// Offsets in an inode of its times: access, change, modification; then of what extends them
/// (change, modification, access), and of the time of creation with its extension.
const MODE: usize = 0x00;
const TIMES: [usize; 3] = [0x08, 0x0c, 0x10];
const MODIFIED: usize = 0x10;
const GENERATION: usize = 0x64;
const CHECKSUM_LOW: usize = 0x7c;
const EXTRA_SIZE: usize = 0x80;
const CHECKSUM_HIGH: usize = 0x82;
const EXTENSIONS: [usize; 4] = [0x84, 0x88, 0x8c, 0x94];
const CREATED: usize = 0x90;

/// What the superblock says about inodes.
struct Geometry {
    inodes: u32,
    per_group: u32,
    inode_size: usize,
    block_size: u64,
    /// Where the group descriptors begin, bytes.
    descriptors: u64,
    descriptor_size: usize,
    /// Where checksums begin; absent when the file system has none.
    seed: Option<u32>,
}

/// Sets the times of all inodes in the file system that begins at byte `start` of `disk`.
pub(crate) fn settle_times(disk: &File, start: u64, epoch: u32) -> Result<()> {
    let mut superblock = [0; 1024];
    disk.read_exact_at(&mut superblock, start + 1024).context("reading the superblock")?;
    let geometry = Geometry::parse(&superblock)?;
    let groups = geometry.inodes.div_ceil(geometry.per_group);
    let mut table = vec![0; geometry.per_group as usize * geometry.inode_size];
    for group in 0..groups {
        let offset = start + geometry.inode_table(disk, start, group)?;
        disk.read_exact_at(&mut table, offset).context("reading an inode table")?;
        let first = group * geometry.per_group + 1;
        let mut changed = false;
        for (number, inode) in (first..).zip(table.chunks_exact_mut(geometry.inode_size)) {
            if le16(inode, MODE) != 0 {
                settle(inode, number, epoch, geometry.seed);
                changed = true;
            }
        }
        if changed {
            disk.write_all_at(&table, offset).context("writing an inode table")?;
        }
    }
    Ok(())
}

impl Geometry {
    fn parse(superblock: &[u8; 1024]) -> Result<Self> {
        let word = |offset| le32(superblock, offset);
        let (incompatible, read_only) = (word(0x60), word(0x64));
        let inode_size = usize::from(le16(superblock, 0x58));
        if le16(superblock, 0x38) != 0xef53 || incompatible & META_BG != 0 || inode_size < 0x98 {
            bail!("not an ext4 file system as this build makes them");
        }
        let block_size = 1024_u64 << word(0x18).min(6);
        let wide = incompatible & BIT64 != 0;
        let seed = match (read_only & METADATA_CSUM != 0, incompatible & CSUM_SEED != 0) {
            (false, _) => None,
            (true, true) => Some(word(0x270)),
            (true, false) => Some(crc32c(!0, &superblock[0x68..0x78])),
        };
        Ok(Geometry {
            inodes: word(0x00),
            per_group: word(0x28).max(1),
            inode_size,
            block_size,
            descriptors: (u64::from(word(0x14)) + 1) * block_size,
            descriptor_size: if wide { usize::from(le16(superblock, 0xfe)).max(64) } else { 32 },
            seed,
        })
    }

    /// Where a group's inodes begin, in bytes from the start of the file system.
    fn inode_table(&self, disk: &File, start: u64, group: u32) -> Result<u64> {
        let mut descriptor = vec![0; self.descriptor_size];
        let offset = start + self.descriptors + u64::from(group) * self.descriptor_size as u64;
        disk.read_exact_at(&mut descriptor, offset).context("reading a group descriptor")?;
        let high = if self.descriptor_size >= 64 { le32(&descriptor, 0x28) } else { 0 };
        let block = u64::from(high) << 32 | u64::from(le32(&descriptor, 0x08));
        Ok(block * self.block_size)
    }
}

fn settle(inode: &mut [u8], number: u32, epoch: u32, seed: Option<u32>) {
    let time = le32(inode, MODIFIED).min(epoch).to_le_bytes();
    for offset in TIMES.into_iter().chain([CREATED]) {
        inode[offset..offset + 4].copy_from_slice(&time);
    }
    for offset in EXTENSIONS {
        inode[offset..offset + 4].fill(0);
    }
    if let Some(seed) = seed {
        inode[CHECKSUM_LOW..CHECKSUM_LOW + 2].fill(0);
        inode[CHECKSUM_HIGH..CHECKSUM_HIGH + 2].fill(0);
        let seed = crc32c(seed, &number.to_le_bytes());
        let seed = crc32c(seed, &inode[GENERATION..GENERATION + 4]);
        let sum = crc32c(seed, inode).to_le_bytes();
        inode[CHECKSUM_LOW..CHECKSUM_LOW + 2].copy_from_slice(&sum[..2]);
        if le16(inode, EXTRA_SIZE) >= 4 {
            inode[CHECKSUM_HIGH..CHECKSUM_HIGH + 2].copy_from_slice(&sum[2..]);
        }
    }
}

fn le16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn le32(bytes: &[u8], offset: usize) -> u32 {
    u32::from(le16(bytes, offset)) | u32::from(le16(bytes, offset + 2)) << 16
}

/// CRC-32C as ext4 uses it: continued from `crc`, not inverted at the end.
fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_usual_digits() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    }

    /// `e2fsck` recomputes every checksum, `debugfs` reads the times back.
    #[test]
    fn inodes_stay_valid_and_lose_their_moments() {
        let dir = tempfile::tempdir().unwrap();
        let (source, image) = (dir.path().join("source"), dir.path().join("image"));
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("file"), "text").unwrap();
        let tool = |program: &str, args: &[&str]| {
            let output = crate::tool::command(program).args(args).output().unwrap();
            assert!(output.status.success(), "{program}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let (source, path) = (source.to_str().unwrap(), image.to_str().unwrap());
        tool("mke2fs", &["-q", "-t", "ext4", "-O", "metadata_csum", "-d", source, path, "8M"]);
        let disk = File::options().read(true).write(true).open(&image).unwrap();
        settle_times(&disk, 0, 1_000_000_000).unwrap();
        tool("e2fsck", &["-fn", path]);
        let stat = tool("debugfs", &["-R", "stat file", path]);
        for time in ["ctime", "atime", "mtime", "crtime"] {
            assert!(stat.contains(&format!("{time}: 0x3b9aca00:00000000")), "{time}: {stat}");
        }
    }
}
