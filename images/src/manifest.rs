//! The manifest: what a disk is, byte by byte, as chunks and runs of zeros.
//!
//! It comes from an import, travels signed, and is all that a writer trusts.
//! Where the chunks are to be had is the business of the location index.
//!
//! The wire form is one line of JSON (the [`Header`], closed by `\n`) followed by
//! one record an extent, in disk order, without gaps: `00 <u64 length>` for
//! zeros, `01 <u32 length> <32 bytes of BLAKE3>` for a chunk, little endian.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Chunks begin and end on multiples of this many bytes (the disk's end excepted).
pub const BLOCK: u64 = 4096;
/// No chunk is longer than this many bytes.
pub const MAX_CHUNK: u32 = 256 * 1024;
/// The largest disk an image may describe, bytes.
pub const MAX_DISK: u64 = 64 << 40;

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
        let end = bytes.iter().take(1 << 20).position(|byte| *byte == b'\n').unwrap_or(0);
        let header: Header =
            serde_json::from_slice(&bytes[..end]).map_err(ManifestError::Header)?;
        header.check()?;
        let extents = parse_records(bytes.get(end + 1..).unwrap_or_default(), header.extents)?;
        let manifest = Manifest { header, extents };
        manifest.check_extents()?;
        Ok(manifest)
    }

    /// Every extent with the offset of its first byte.
    pub fn placed(&self) -> impl Iterator<Item = (u64, Extent)> + '_ {
        self.extents.iter().scan(0, |offset, extent| {
            let start = *offset;
            *offset += extent.size();
            Some((start, *extent))
        })
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

    fn check_extents(&self) -> Result<(), ManifestError> {
        let size = self.header.disk_size;
        let mut offset = 0_u64;
        for (record, extent) in self.extents.iter().enumerate() {
            let fault = |fault| ManifestError::Record { record: record as u64, fault };
            if matches!(extent, Extent::Chunk { size, .. } if *size > MAX_CHUNK) {
                return Err(fault("is a chunk of more than 256 KiB"));
            }
            if extent.size() == 0 {
                return Err(fault("is empty"));
            }
            offset = offset.checked_add(extent.size()).ok_or(fault("ends beyond any disk"))?;
            if offset > size {
                return Err(fault("ends beyond the disk"));
            }
            if !offset.is_multiple_of(BLOCK) && offset != size {
                return Err(fault("does not end on a block of 4096 bytes"));
            }
        }
        if offset != size {
            return Err(value(format!("{offset} bytes of extents"), format!("disk_size {size}")));
        }
        Ok(())
    }
}

fn value(what: impl Into<String>, accepted: impl Into<String>) -> ManifestError {
    ManifestError::Value { what: what.into(), accepted: accepted.into() }
}

impl Header {
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

fn parse_records(mut bytes: &[u8], count: u64) -> Result<Vec<Extent>, ManifestError> {
    // The shortest record has 9 bytes: never reserve on the word of a header alone.
    let mut extents = Vec::with_capacity(count.min(bytes.len() as u64 / 9) as usize);
    for record in 0..count {
        let fault = |fault| ManifestError::Record { record, fault };
        let short = || fault("is cut short");
        let (kind, rest) = bytes.split_first().ok_or_else(short)?;
        let (extent, rest) = match kind {
            0 => {
                let (size, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
                (Extent::Zero(u64::from_le_bytes(*size)), rest)
            }
            1 => {
                let (size, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
                let (name, rest) = rest.split_first_chunk::<32>().ok_or_else(short)?;
                let name = Digest::from_bytes(*name);
                (Extent::Chunk { size: u32::from_le_bytes(*size), name }, rest)
            }
            _ => return Err(fault("has an unknown kind")),
        };
        extents.push(extent);
        bytes = rest;
    }
    if !bytes.is_empty() {
        return Err(ManifestError::Record { record: count, fault: "follows the last one" });
    }
    Ok(extents)
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
            let parsed = parse_records(&records, promised);
            assert!(parsed.is_err() || parsed.is_ok_and(|extents| extents.capacity() <= 12));
            let _ = Manifest::parse(&bytes);
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
