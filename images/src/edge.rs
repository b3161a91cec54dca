//! The edges of a disk: what firmware looks at first, and is therefore written last.
//!
//! The head is the boot sector and the primary partition table, the tail its backup. What
//! they will be is settled before the disk is touched: the image's own table, fitted to the
//! disk. Chunks that reach into an edge are held in memory, a handful.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    Disk, Index, Manifest,
    manifest::{BLOCK, Partition},
    pack::Source,
    reader::Reader,
    table::{Fitted, Table, TableError},
    write::WriteError,
};

/// On a disk that is larger than its image, this much before the tail is made zero: marks of
/// software RAID and of ZFS stand there, and would be believed.
const STALE: u64 = 1 << 20;
/// The least a disk with a partition table has.
const LEAST: u64 = 64 << 10;

/// The edges of one disk under one image.
pub(crate) struct Edges {
    /// The disk's first bytes, whole blocks.
    pub(crate) head: Vec<u8>,
    /// The disk's last bytes, from a block on; empty without a table.
    pub(crate) tail: Vec<u8>,
    /// Where the tail begins: the disk's end without a table.
    pub(crate) tail_offset: u64,
    /// Chunks that reach into an edge or into the image's own backup table, by offset, as
    /// they will be on the disk.
    pub(crate) held: BTreeMap<u64, Vec<u8>>,
    /// What must be zero behind the image.
    pub(crate) stale: Range<u64>,
    /// The partitions on this disk.
    pub(crate) partitions: Vec<Partition>,
    /// Bytes that travelled to know all this.
    pub(crate) received: u64,
}

impl Edges {
    pub(crate) fn new(
        manifest: &Manifest,
        index: &Index,
        source: &dyn Source,
        disk: &Disk,
        grow: bool,
    ) -> Result<Self, WriteError> {
        let mut image = Reader::new(manifest, index, source).map_err(WriteError::Memory)?;
        let table = match Table::read(&mut image, manifest.header.sector_size) {
            Ok(table) => table,
            Err(error) => return Err(image.failure.unwrap_or(WriteError::Table(error))),
        };
        match table {
            Some(table) => Self::with_table(&table, manifest, image, disk.size(), grow),
            None => Self::without_table(manifest, image, disk.size()),
        }
    }

    fn without_table(
        manifest: &Manifest,
        mut image: Reader<'_>,
        size: u64,
    ) -> Result<Self, WriteError> {
        let head = image.range(0..BLOCK.min(manifest.header.disk_size))?;
        let (held, received) = (image.chunks, image.received);
        let (tail, partitions) = (Vec::new(), Vec::new());
        Ok(Edges { head, tail, tail_offset: size, held, stale: size..size, partitions, received })
    }

    fn with_table(
        table: &Table,
        manifest: &Manifest,
        mut image: Reader<'_>,
        size: u64,
        grow: bool,
    ) -> Result<Self, WriteError> {
        let image_size = manifest.header.disk_size;
        if size < LEAST {
            return Err(TableError::TooSmall { needed: LEAST, size }.into());
        }
        let Fitted { head: fitted_head, tail: fitted_tail, partitions } = table.fit(size, grow)?;
        let table_start = size / u64::from(manifest.header.sector_size)
            * u64::from(manifest.header.sector_size)
            - table.tail_size();
        let tail_offset = table_start / BLOCK * BLOCK;
        let head_size = table.head_size().next_multiple_of(BLOCK).min(tail_offset);

        let mut head = image.range(0..head_size)?;
        head[..fitted_head.len()].copy_from_slice(&fitted_head);
        let mut tail = image.range(tail_offset..image_size.max(tail_offset))?;
        // The image's own backup table is none on a larger disk.
        let old = image_size - table.tail_size().min(image_size)..image_size;
        image.range(old.clone())?;
        if size > image_size {
            blank(&old, tail_offset, &mut tail);
            image.chunks.iter_mut().for_each(|(offset, chunk)| blank(&old, *offset, chunk));
        }
        tail.resize((size - tail_offset) as usize, 0);
        let start = (table_start - tail_offset) as usize;
        tail[start..start + fitted_tail.len()].copy_from_slice(&fitted_tail);

        let stale = (size.saturating_sub(STALE) / BLOCK * BLOCK).max(image_size);
        let stale = stale.min(tail_offset)..tail_offset;
        let (held, received) = (image.chunks, image.received);
        Ok(Edges { head, tail, tail_offset, held, stale, partitions, received })
    }
}

/// Zeroes the part of `bytes`, which stand at `offset`, that is in `range`.
fn blank(range: &Range<u64>, offset: u64, bytes: &mut [u8]) {
    let end = offset + bytes.len() as u64;
    let (from, to) = (range.start.max(offset), range.end.min(end));
    if from < to {
        bytes[(from - offset) as usize..(to - offset) as usize].fill(0);
    }
}
