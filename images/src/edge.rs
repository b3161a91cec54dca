//! The edges of a disk: what firmware looks at first, and is therefore written last.
//!
//! The head is the boot sector and the primary partition table, the tail its backup. What
//! they will be is settled before the disk is touched: the image's own table, fitted to the
//! disk. Chunks that reach into an edge are held in memory, a handful.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    Disk,
    image::Image,
    manifest::{BLOCK, Partition},
    pack::Source,
    reader::Reader,
    table::{Fitted, Table},
    write::WriteError,
};

/// On a disk that is larger than its image, this much of its end is made zero: marks of
/// software RAID and of ZFS stand there, and would be believed.
const STALE: u64 = 1 << 20;

/// The edges of one disk under one image.
pub(crate) struct Edges {
    /// The disk's first bytes: boot sector and primary table.
    pub(crate) head: Vec<u8>,
    /// The disk's last bytes: the backup table; without a table, the sector where one would
    /// have its header.
    pub(crate) tail: Vec<u8>,
    /// Where the tail begins.
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
        image: &Image<'_>,
        source: &dyn Source,
        disk: &Disk,
        grow: bool,
    ) -> Result<Self, WriteError> {
        let mut reader = Reader::new(image, source).map_err(WriteError::Memory)?;
        let table = match Table::read(&mut reader, image.header().sector_size) {
            Ok(table) => table,
            Err(error) => return Err(reader.failure.unwrap_or(WriteError::Table(error))),
        };
        match table {
            Some(table) => with_table(&table, reader, disk.size(), grow),
            None => without_table(reader, disk.size()),
        }
    }
}

impl Edges {
    /// The disk between them.
    pub(crate) fn inner(&self) -> Range<u64> {
        self.head.len() as u64..self.tail_offset
    }
}

/// No table is to be written, but the one of an earlier image must not outlive this one: its
/// headers are in the second sector and in the last.
fn without_table(mut image: Reader<'_>, size: u64) -> Result<Edges, WriteError> {
    let header = image.image.header();
    let (sector, image_size) = (u64::from(header.sector_size), header.disk_size);
    let head_size = BLOCK.max(2 * sector).min(size);
    let tail_offset = size.saturating_sub(sector).max(head_size);
    let head = image.range(0..head_size)?;
    let mut tail = image.range(tail_offset..image_size.max(tail_offset))?;
    tail.resize((size - tail_offset) as usize, 0);
    let (partitions, stale) = (Vec::new(), stale(image_size, size, tail_offset));
    let (held, received) = (image.chunks, image.received);
    Ok(Edges { head, tail, tail_offset, held, stale, partitions, received })
}

fn with_table(
    table: &Table,
    mut image: Reader<'_>,
    size: u64,
    grow: bool,
) -> Result<Edges, WriteError> {
    let image_size = image.image.header().disk_size;
    let Fitted { head, tail, tail_offset, partitions } = table.fit(size, grow)?;
    for edge in [0..head.len() as u64, tail_offset..image_size.max(tail_offset)] {
        image.range(edge)?;
    }
    if size > image_size {
        // The image's own backup table is none on a larger disk.
        let old = image_size.saturating_sub(table.tail_size())..image_size;
        image.range(old.clone())?;
        image.chunks.iter_mut().for_each(|(offset, chunk)| blank(&old, *offset, chunk));
    }
    let stale = stale(image_size, size, tail_offset);
    let (held, received) = (image.chunks, image.received);
    Ok(Edges { head, tail, tail_offset, held, stale, partitions, received })
}

fn stale(image_size: u64, size: u64, tail_offset: u64) -> Range<u64> {
    let start = (size.saturating_sub(STALE) / BLOCK * BLOCK).max(image_size);
    start.min(tail_offset)..tail_offset
}

/// Zeroes the part of `bytes`, which stand at `offset`, that is in `range`.
fn blank(range: &Range<u64>, offset: u64, bytes: &mut [u8]) {
    let end = offset + bytes.len() as u64;
    let (from, to) = (range.start.max(offset), range.end.min(end));
    if from < to {
        bytes[(from - offset) as usize..(to - offset) as usize].fill(0);
    }
}
