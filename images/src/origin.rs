//! What an image is made from: a file, a block device or a stream, read once in order and cut
//! on the way into segments that workers can take.
//!
//! Holes of a sparse file are not read. The first MiB is remembered, because the partition
//! table is in it and a stream cannot go back.

use std::io::{self, Read};

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender};

use crate::{
    Disk,
    buffer::Buffer,
    chunk::{Cut, Cutter},
    manifest::{BLOCK, MAX_CHUNK, MAX_DISK},
};

/// Bytes of a segment: what a chunk that was open before has, and what is read.
const SEGMENT: usize = 2 << 20;
/// Where a partition table ends at the latest.
const HEAD: usize = 1 << 20;

/// Memory for one segment.
pub(crate) fn segment_buffer() -> Buffer {
    Buffer::new(SEGMENT)
}

/// Part of a disk with the pieces that ended in it.
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) bytes: Buffer,
    pub(crate) pieces: Vec<Piece>,
}

/// A cut piece, and where its bytes are in the segment.
pub(crate) enum Piece {
    Zero(u64),
    Chunk { start: usize, size: u32 },
}

impl Piece {
    fn new(cut: Cut, end: usize) -> Self {
        match cut {
            Cut::Zero(size) => Piece::Zero(size),
            Cut::Chunk(size) => Piece::Chunk { start: end - size as usize, size },
        }
    }
}

enum Kind<'a> {
    Disk(Disk),
    Stream(Box<dyn Read + Send + 'a>),
}

/// A disk to be imported.
pub(crate) struct Origin<'a> {
    kind: Kind<'a>,
    sector_size: Option<u32>,
    head: Vec<u8>,
    offset: u64,
    padded: u64,
}

/// What comes next.
enum Next {
    Data(usize),
    Hole(u64),
    End,
}

impl<'a> Origin<'a> {
    /// A regular file or block device.
    pub(crate) fn open(path: &std::path::Path, sector_size: Option<u32>) -> anyhow::Result<Self> {
        let disk = Disk::open_read_only(path)?;
        let sector_size = sector_size.or(disk.sector_size());
        Ok(Origin { kind: Kind::Disk(disk), sector_size, head: Vec::new(), offset: 0, padded: 0 })
    }

    /// A stream that ends where the disk does.
    pub(crate) fn stream(stream: impl Read + Send + 'a, sector_size: Option<u32>) -> Self {
        let kind = Kind::Stream(Box::new(stream));
        Origin { kind, sector_size, head: Vec::new(), offset: 0, padded: 0 }
    }

    /// Zero bytes that were added to end with a sector.
    pub(crate) fn padded(&self) -> u64 {
        self.padded
    }

    /// The beginning of the disk.
    pub(crate) fn into_head(self) -> Vec<u8> {
        self.head
    }

    /// Logical sector: as given, as the device says, or where the first bytes have a table.
    pub(crate) fn sector_size(&self) -> u32 {
        let table_at = |offset: usize| self.head.get(offset..offset + 8) == Some(b"EFI PART");
        let found = if !table_at(512) && table_at(4096) { 4096 } else { 512 };
        self.sector_size.unwrap_or(found)
    }

    /// Reads all of it. Returns early without an error when nobody takes segments any more.
    pub(crate) fn read(
        &mut self,
        pool: Receiver<Buffer>,
        segments: Sender<Segment>,
        progress: &(dyn Fn(u64, Option<u64>) + Sync),
    ) -> anyhow::Result<()> {
        let mut cutter = Cutter::default();
        let mut carried = Vec::with_capacity(MAX_CHUNK as usize);
        for number in 0.. {
            let Ok(mut bytes) = pool.recv() else {
                return Ok(());
            };
            let mut pieces = Vec::new();
            bytes.show(usize::MAX)[..carried.len()].copy_from_slice(&carried);
            let (filled, end) = self.fill(&mut bytes, carried.len(), &mut cutter, &mut pieces)?;
            carried.clear();
            if end {
                let last = std::mem::take(&mut cutter).finish();
                pieces.extend(last.map(|cut| Piece::new(cut, filled)));
            } else {
                carried.extend_from_slice(&bytes[filled - cutter.open_chunk()..filled]);
            }
            progress(self.offset, self.size());
            if segments.send(Segment { number, bytes, pieces }).is_err() || end {
                return Ok(());
            }
        }
        Ok(())
    }

    fn size(&self) -> Option<u64> {
        match &self.kind {
            Kind::Disk(disk) => Some(disk.size()),
            Kind::Stream(_) => None,
        }
    }

    /// Fills a segment behind what was carried into it; returns where its bytes end, and whether
    /// the disk does.
    fn fill(
        &mut self,
        bytes: &mut Buffer,
        mut filled: usize,
        cutter: &mut Cutter,
        pieces: &mut Vec<Piece>,
    ) -> anyhow::Result<(usize, bool)> {
        while filled < SEGMENT {
            match self.next(&mut bytes[filled..])? {
                Next::End => return Ok((filled, true)),
                Next::Hole(len) => {
                    cutter.zero(len, |cut| pieces.push(Piece::new(cut, filled)));
                    let remembered = len.min((HEAD - self.head.len()) as u64) as usize;
                    self.head.resize(self.head.len() + remembered, 0);
                    self.offset += len;
                }
                Next::Data(len) => {
                    let len = len + self.pad(&mut bytes[filled..], len);
                    let data = &bytes[filled..filled + len];
                    cutter.cut(data, |cut, end| pieces.push(Piece::new(cut, filled + end)));
                    self.offset += len as u64;
                    filled += len;
                }
            }
            anyhow::ensure!(self.offset <= MAX_DISK, "the disk is larger than {MAX_DISK} bytes");
        }
        Ok((filled, false))
    }

    /// Completes the last sector and remembers the first bytes; returns how many it added.
    fn pad(&mut self, bytes: &mut [u8], len: usize) -> usize {
        let remembered = len.min(HEAD - self.head.len());
        self.head.extend_from_slice(&bytes[..remembered]);
        let added = len.next_multiple_of(self.sector_size() as usize) - len;
        bytes[len..len + added].fill(0);
        self.padded += added as u64;
        added
    }

    fn next(&mut self, room: &mut [u8]) -> anyhow::Result<Next> {
        match &mut self.kind {
            Kind::Disk(disk) => next_of_disk(disk, self.offset - self.padded, room),
            Kind::Stream(stream) => match read_full(stream, room).context("reading the stream")? {
                0 => Ok(Next::End),
                len => Ok(Next::Data(len)),
            },
        }
    }
}

fn next_of_disk(disk: &Disk, offset: u64, room: &mut [u8]) -> anyhow::Result<Next> {
    let left = disk.size() - offset;
    if left == 0 {
        return Ok(Next::End);
    }
    // Blocks that are a hole in part are read; so holes begin and end where blocks do.
    let data = disk.next_data(offset);
    match data.map(|data| data / BLOCK * BLOCK) {
        None => return Ok(Next::Hole(left)),
        Some(block) if block > offset => return Ok(Next::Hole((block - offset).min(left))),
        Some(_) => {}
    }
    let hole = disk.next_hole(data.unwrap_or(offset).max(offset)).next_multiple_of(BLOCK);
    let len = left.min(hole.saturating_sub(offset).max(BLOCK)).min(room.len() as u64) as usize;
    disk.read_at(&mut room[..len], offset)?;
    Ok(Next::Data(len))
}

/// Reads until `bytes` are full or the stream ends: only its end may be no whole block.
fn read_full(stream: &mut dyn Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
