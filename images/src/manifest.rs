//! The manifest: what a disk is, byte by byte, as chunks and runs of zeros.
//!
//! It comes from an import, travels signed, and is all that a writer trusts.
//! Where the chunks are to be had is the business of the location index.
//!
//! The wire form is one line of JSON (the [`Header`], closed by `\n`) followed by
//! one record an extent, in disk order, without gaps: `00 <u64 length>` for
//! zeros, `01 <u32 length> <32 bytes of BLAKE3>` for a chunk, little endian.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Chunks begin and end on multiples of this many bytes (the disk's end excepted).
pub const BLOCK: u64 = 4096;
/// No chunk is longer than this many bytes.
pub const MAX_CHUNK: u32 = 256 * 1024;
/// The largest disk an image may describe, bytes.
pub const MAX_DISK: u64 = 64 << 40;
/// The header's line is not longer than this many bytes.
pub(crate) const MAX_HEADER: usize = 1 << 20;

/// A disk as a sequence of extents, and what is worth knowing about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What the disk is, without its bytes.
    pub header: Header,
    /// The disk from its first byte to its last: no gap, no overlap.
    pub extents: Vec<Extent>,
}

/// The part of a manifest that a person may want to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Always 1.
    pub version: u32,
    /// Length of the disk in bytes, a multiple of `sector_size`.
    pub disk_size: u64,
    /// Logical sector of the disk's partition table: 512 or 4096 bytes.
    pub sector_size: u32,
    /// Number of records that follow the header.
    pub extents: u64,
    /// The GUID partition table's entries, by number; empty when there is no table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<Partition>,
    /// How to start the system without its firmware; absent when that is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// Number of the partition that takes a node's identity (a NoCloud seed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
}

/// One used entry of the partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Its number in the table, from 1, kept as it was.
    pub number: u32,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Its type, upper-case GUID.
    pub kind: String,
    /// Its name in the table, maybe empty.
    pub name: String,
}

/// What `kexec` needs of an installed system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Number of the partition whose file system holds the files below.
    pub partition: u32,
    /// Absolute path of the kernel in it.
    pub kernel: String,
    /// Absolute path of the initial RAM disk in it.
    pub ramdisk: Option<String>,
    /// The kernel's command line; what it begins with, where a hypervisor starts that kernel.
    pub command_line: String,
    /// What starts before the kernel, and then starts it; absent where the kernel starts alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<Hypervisor>,
}

/// Xen, whose service domain the installed system is. A node's own lines take the place of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hypervisor {
    /// Absolute path of Xen in the same partition, maybe compressed by gzip.
    pub xen: String,
    /// Xen's command line.
    pub xen_line: String,
    /// The rest of the kernel's.
    pub linux_line: String,
}

/// A stretch of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// This many bytes of zeros.
    Zero(u64),
    /// A chunk of `size` bytes (at most [`MAX_CHUNK`]) with this name.
    Chunk {
        /// Its length in bytes.
        size: u32,
        /// BLAKE3 of its bytes.
        name: Digest,
    },
}

impl Extent {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Extent::Zero(size) => *size,
            Extent::Chunk { size, .. } => u64::from(*size),
        }
    }
}

/// Why some bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The first line is not the header.
    #[error("manifest header is not valid")]
    Header(#[source] serde_json::Error),
    /// The header says what cannot be.
    #[error("manifest says {what}, {accepted} is accepted")]
    Value {
        /// The field and its value.
        what: String,
        /// What would have been accepted.
        accepted: String,
    },
    /// A record is malformed or the bytes end early.
    #[error("manifest record {record} {fault}")]
    Record {
        /// Its number, from 0.
        record: u64,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The bytes do not come.
    #[error("reading the manifest")]
    Read(#[source] io::Error),
}

impl Manifest {
    /// The bytes that are signed and named.
    pub fn render(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(&self.header).unwrap_or_default();
        bytes.push(b'\n');
        for extent in &self.extents {
            match extent {
                Extent::Zero(size) => {
                    bytes.push(0);
                    bytes.extend(size.to_le_bytes());
                }
                Extent::Chunk { size, name } => {
                    bytes.push(1);
                    bytes.extend(size.to_le_bytes());
                    bytes.extend(name.as_bytes());
                }
            }
        }
        bytes
    }

    /// Reads what [`Manifest::render`] wrote and refuses everything else.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (header, start) = Header::parse(bytes)?;
        let mut records = Records::new(&bytes[start..], &header, Mark::first(start));
        // The shortest record has 9 bytes: never reserve on the word of a header alone.
        let room = header.extents.min((bytes.len() - start) as u64 / 9);
        let mut extents = Vec::with_capacity(room as usize);
        while let Some(extent) = records.read()? {
            extents.push(extent);
        }
        Ok(Manifest { header, extents })
    }

    /// Every extent with the offset of its first byte.
    pub fn placed(&self) -> impl Iterator<Item = (u64, Extent)> + '_ {
        place(0, &self.extents)
    }

    /// The chunks, in the disk's order: offset, length, name.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, u32, Digest)> + '_ {
        self.placed().filter_map(|(offset, extent)| match extent {
            Extent::Chunk { size, name } => Some((offset, size, name)),
            Extent::Zero(_) => None,
        })
    }

    /// A disk of these extents, with nothing else to say of it.
    #[cfg(test)]
    pub(crate) fn plain(extents: Vec<Extent>) -> Self {
        let header = Header {
            version: 1,
            disk_size: extents.iter().map(Extent::size).sum(),
            sector_size: 512,
            extents: extents.len() as u64,
            partitions: Vec::new(),
            boot: None,
            seed: None,
        };
        Manifest { header, extents }
    }
}

/// Every extent with the offset of its first byte; the first one begins at `start`.
pub(crate) fn place(start: u64, extents: &[Extent]) -> impl Iterator<Item = (u64, Extent)> + '_ {
    extents.iter().scan(start, |offset, extent| {
        let start = *offset;
        *offset += extent.size();
        Some((start, *extent))
    })
}

fn value(what: impl Into<String>, accepted: impl Into<String>) -> ManifestError {
    ManifestError::Value { what: what.into(), accepted: accepted.into() }
}

impl Header {
    /// The header of a manifest whose first bytes are `bytes`, and how many of them it has.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, usize), ManifestError> {
        let end = bytes.iter().take(MAX_HEADER).position(|byte| *byte == b'\n').unwrap_or(0);
        let header: Header =
            serde_json::from_slice(&bytes[..end]).map_err(ManifestError::Header)?;
        header.check()?;
        Ok((header, end + 1))
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.version != 1 {
            return Err(value(format!("version {}", self.version), "1"));
        }
        if self.sector_size != 512 && self.sector_size != 4096 {
            return Err(value(format!("sector_size {}", self.sector_size), "512 or 4096"));
        }
        if self.disk_size > MAX_DISK || !self.disk_size.is_multiple_of(u64::from(self.sector_size))
        {
            let accepted = format!("a multiple of {} up to {MAX_DISK}", self.sector_size);
            return Err(value(format!("disk_size {}", self.disk_size), accepted));
        }
        let mut numbers = std::collections::BTreeSet::new();
        for partition in &self.partitions {
            let (number, start, size) = (partition.number, partition.start, partition.size);
            let fits = start.checked_add(size).is_some_and(|end| end <= self.disk_size);
            if number == 0 || !numbers.insert(number) || size == 0 || !fits {
                let what = format!("partition {number} of {size} bytes at {start}");
                return Err(value(what, "distinct numbers from 1, inside the disk"));
            }
        }
        let named = self.seed.iter().chain(self.boot.as_ref().map(|boot| &boot.partition));
        match named.into_iter().find(|number| !numbers.contains(number)) {
            Some(number) => Err(value(format!("partition {number}"), "one that the table has")),
            None => Ok(()),
        }
    }
}

/// A place between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Bytes of the manifest before it.
    pub(crate) position: u64,
    /// Records before it, and the chunks among them.
    pub(crate) records: u64,
    pub(crate) chunks: u64,
    /// Where on the disk the next extent begins.
    pub(crate) offset: u64,
}

impl Mark {
    /// Before the first record, which follows a header of so many bytes.
    pub(crate) fn first(position: usize) -> Self {
        Mark { position: position as u64, records: 0, chunks: 0, offset: 0 }
    }
}

/// The records of a manifest as they come, each checked.
pub(crate) struct Records<'a, R> {
    bytes: R,
    header: &'a Header,
    mark: Mark,
}

impl<'a, R: Read> Records<'a, R> {
    /// The records from `mark` on, whose bytes are next in `bytes`.
    pub(crate) fn new(bytes: R, header: &'a Header, mark: Mark) -> Self {
        Records { bytes, header, mark }
    }

    /// Where the next record begins.
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// The next extent; `None` behind the last one, when the disk is whole and no byte follows.
    pub(crate) fn read(&mut self) -> Result<Option<Extent>, ManifestError> {
        if self.mark.records == self.header.extents {
            return self.end().map(|()| None);
        }
        let extent = match self.bytes()? {
            [0] => Extent::Zero(u64::from_le_bytes(self.bytes()?)),
            [1] => {
                let size = u32::from_le_bytes(self.bytes()?);
                Extent::Chunk { size, name: Digest::from_bytes(self.bytes()?) }
            }
            _ => return Err(self.fault("has an unknown kind")),
        };
        self.check(extent)?;
        let (len, chunks) = if matches!(extent, Extent::Zero(_)) { (9, 0) } else { (37, 1) };
        let Mark { position, records, chunks: before, offset } = self.mark;
        self.mark = Mark {
            position: position + len,
            records: records + 1,
            chunks: before + chunks,
            offset: offset + extent.size(),
        };
        Ok(Some(extent))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        let mut bytes = [0; N];
        match self.bytes.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.fault("is cut short"))
            }
            Err(error) => Err(ManifestError::Read(error)),
        }
    }

    fn check(&self, extent: Extent) -> Result<(), ManifestError> {
        let disk = self.header.disk_size;
        if matches!(extent, Extent::Chunk { size, .. } if size > MAX_CHUNK) {
            return Err(self.fault("is a chunk of more than 256 KiB"));
        }
        if extent.size() == 0 {
            return Err(self.fault("is empty"));
        }
        let end = self.mark.offset.checked_add(extent.size());
        let end = end.ok_or_else(|| self.fault("ends beyond any disk"))?;
        if end > disk {
            return Err(self.fault("ends beyond the disk"));
        }
        if !end.is_multiple_of(BLOCK) && end != disk {
            return Err(self.fault("does not end on a block of 4096 bytes"));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), ManifestError> {
        let (end, size) = (self.mark.offset, self.header.disk_size);
        match self.bytes.read(&mut [0]) {
            Ok(0) if end == size => Ok(()),
            Ok(0) => Err(value(format!("{end} bytes of extents"), format!("disk_size {size}"))),
            Ok(_) => Err(self.fault("follows the last one")),
            Err(error) => Err(ManifestError::Read(error)),
        }
    }

    fn fault(&self, fault: &'static str) -> ManifestError {
        ManifestError::Record { record: self.mark.records, fault }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{Strategy, any},
        proptest,
    };

    use super::*;

    fn manifests() -> impl Strategy<Value = Manifest> {
        let extent =
            (any::<bool>(), 1_u64..=64, any::<[u8; 32]>()).prop_map(|(zero, blocks, name)| {
                let size = blocks * BLOCK;
                let name = Digest::from_bytes(name);
                if zero {
                    Extent::Zero(size << 9)
                } else {
                    Extent::Chunk { size: size as u32, name }
                }
            });
        vec(extent, 0..40).prop_map(Manifest::plain)
    }

    proptest! {
        #[test]
        fn parse_and_render_are_inverses(manifest in manifests()) {
            assert_eq!(Manifest::parse(&manifest.render()).unwrap(), manifest);
        }

        #[test]
        fn a_damaged_manifest_is_another_or_an_error(
            manifest in manifests(),
            changes in vec((any::<u16>(), any::<u8>()), 1..4),
            cut in any::<u16>(),
        ) {
            let mut bytes = manifest.render();
            for (at, to) in changes {
                let at = usize::from(at) % bytes.len();
                bytes[at] = to;
            }
            bytes.truncate(bytes.len() - usize::from(cut) % 64.min(bytes.len()));
            if let Ok(parsed) = Manifest::parse(&bytes) {
                assert_eq!(parsed.extents.iter().map(Extent::size).sum::<u64>(), parsed.header.disk_size);
            }
        }

        #[test]
        fn any_bytes_are_a_manifest_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
            let _ = Manifest::parse(&bytes);
        }

        #[test]
        fn a_header_that_promises_much_reserves_little(promised in any::<u64>(), records in vec(any::<u8>(), 0..100)) {
            let header = format!(
                "{{\"version\":1,\"disk_size\":4096,\"sector_size\":512,\"extents\":{promised}}}\n"
            );
            let bytes = [header.as_bytes(), &records].concat();
            let parsed = Manifest::parse(&bytes);
            assert!(parsed.is_err() || parsed.is_ok_and(|parsed| parsed.extents.capacity() <= 12));
        }
    }

    #[test]
    fn a_hypervisor_is_told_only_where_there_is_one() {
        let mut manifest = Manifest::plain(vec![Extent::Zero(1 << 20)]);
        let (kind, name) = (String::new(), String::new());
        manifest.header.partitions = vec![Partition { number: 4, start: 0, size: 512, kind, name }];
        let hypervisor = Hypervisor {
            xen: "/boot/xen.gz".to_owned(),
            xen_line: "console=com1".to_owned(),
            linux_line: "quiet".to_owned(),
        };
        for hypervisor in [None, Some(hypervisor)] {
            let told = hypervisor.is_some();
            manifest.header.boot = Some(Boot {
                partition: 4,
                kernel: "/vmlinuz".to_owned(),
                ramdisk: None,
                command_line: "rw".to_owned(),
                hypervisor,
            });
            let bytes = manifest.render();
            assert_eq!(String::from_utf8_lossy(&bytes).contains("hypervisor"), told);
            assert_eq!(Manifest::parse(&bytes).unwrap(), manifest);
        }
    }

    #[test]
    fn what_a_header_cannot_mean_is_refused() {
        let parse = |disk_size: u64, sector_size: u32, rest: &str| {
            let header = format!(
                "{{\"version\":1,\"disk_size\":{disk_size},\"sector_size\":{sector_size},\"extents\":0{rest}}}\n"
            );
            Manifest::parse(header.as_bytes())
        };
        assert!(parse(0, 512, "").is_ok());
        for (disk_size, sector_size, rest) in [
            (100, 512, ""),
            (4096, 512, ""),
            (0, 520, ""),
            (u64::MAX, 512, ""),
            (0, 512, ",\"seed\":3"),
            (0, 512, ",\"colour\":3"),
        ] {
            assert!(
                parse(disk_size, sector_size, rest).is_err(),
                "{disk_size} {sector_size} {rest}"
            );
        }
    }
}
