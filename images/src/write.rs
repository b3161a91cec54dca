//! An image becomes a disk.
//!
//! Order is safety. Before the first change the head and the tail of the disk are made zero
//! and flushed, so no firmware boots it. Then everything else, each chunk checked before it
//! is written and read back after; flushed. Then the seed. Then the table: its backup, its
//! entries and primary header, the boot sector last, each flushed. Whenever the power fails,
//! the disk boots what it booted before, nothing, or the whole image; and the next run keeps
//! what is in place. A disk that is right already is only read.

use std::{
    fmt, io,
    num::NonZero,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Digest, Disk, Image,
    disk::{DiskError, Region},
    edge::Edges,
    image::{ImageError, Part},
    look::{Look, is_broken_off},
    manifest::Partition,
    pack::{BadChunk, Source},
    pipeline::{Pipeline, Room},
    plan::Plan,
    previous::Previous,
    readback::read_back,
    table::TableError,
};

/// The steps of writing, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Settling what the table will be.
    Plan,
    /// Comparing the disk with the image, and writing what differs.
    Write,
    /// Reading back what was written.
    Verify,
    /// Writing the node's identity.
    Seed,
    /// Writing the partition table: from here on the disk boots.
    Table,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Plan => "plan",
            Phase::Write => "write",
            Phase::Verify => "verify",
            Phase::Seed => "seed",
            Phase::Table => "table",
        })
    }
}

/// How far a writer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The step.
    pub phase: Phase,
    /// Bytes of it that are done.
    pub done: u64,
    /// Bytes of it in all; 0 where it has none.
    pub total: u64,
}

/// Writes the seed partition (given with what the table says of it) through a file of its size.
pub type Seed<'a> = dyn Fn(&mut Region<'_>, &Partition) -> anyhow::Result<()> + Sync + 'a;

/// How an image is written.
pub struct Options<'a> {
    /// Whether the partition that ends last takes the room behind it.
    pub grow: bool,
    /// Runs of packs that are fetched at the same time.
    pub connections: usize,
    /// CPUs to keep busy: that many threads and a few more compare, decompress and write, and
    /// read back; 0 takes those that there are, 8 at most, because each holds a MiB.
    pub threads: usize,
    /// Told about every MiB; called from several threads, and should be quick.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// Writes the identity into the partition that the manifest names as its seed.
    pub seed: Option<&'a Seed<'a>>,
    /// What was deployed to this disk before, where that is known. It tells where to look for
    /// chunks, and is not believed.
    pub previous: Option<&'a Previous<'a>>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            grow: false,
            connections: 4,
            threads: 0,
            progress: &|_| {},
            seed: None,
            previous: None,
        }
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Bytes kept, fetched, received and zeroed.
    pub plan: Plan,
    /// How long each step took.
    pub took: Vec<(Phase, Duration)>,
    /// The partitions as they are on this disk.
    pub partitions: Vec<Partition>,
}

/// Why an image is not on the disk.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It cannot fit.
    #[error("image is {image} bytes, the disk {disk}: a disk of at least {image} is needed")]
    TooSmall {
        /// Bytes of the image.
        image: u64,
        /// Bytes of the disk.
        disk: u64,
    },
    /// Firmware would look for the table elsewhere.
    #[error(
        "image is made for sectors of {image} bytes, the disk has {disk}: an image for {disk} is needed"
    )]
    SectorSize {
        /// The image's.
        image: u32,
        /// The disk's.
        disk: u32,
    },
    /// A part of the image cannot be read any more.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image's table cannot be read, or not be fitted.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The source failed, after whatever it tried.
    #[error("fetching from pack {pack}")]
    Source {
        /// The pack.
        pack: Digest,
        /// What happened.
        source: io::Error,
    },
    /// The source gave a wrong chunk, twice. It was not written.
    #[error("chunk {chunk} of pack {pack} is corrupt: {why}")]
    Corrupt {
        /// The chunk.
        chunk: Digest,
        /// The pack.
        pack: Digest,
        /// What is wrong with it.
        why: BadChunk,
    },
    /// The disk did not keep what was written.
    #[error(
        "reading back {len} bytes at offset {offset} (sector {sector}): the disk gives other bytes than were \
         written"
    )]
    ReadBack {
        /// Their first byte.
        offset: u64,
        /// How many.
        len: u64,
        /// The sector that `offset` is in, counted in the disk's own.
        sector: u64,
    },
    /// The identity could not be written.
    #[error("writing the seed partition")]
    Seed(#[source] anyhow::Error),
    /// A seed is given and the image has no place for it.
    #[error("image names no seed partition, and an identity is to be written")]
    NoSeed,
    /// No memory for decompression.
    #[error("starting zstd")]
    Memory(#[source] io::Error),
}

impl WriteError {
    /// A disk that did not keep these bytes.
    pub(crate) fn read_back(disk: &Disk, Range { start, end }: Range<u64>) -> Self {
        WriteError::ReadBack { offset: start, len: end - start, sector: start / disk.grain() }
    }

    /// Whether the same may succeed another time: the network or the store may get well, a
    /// disk or an image will not.
    pub fn may_pass(&self) -> bool {
        match self {
            WriteError::Source { .. } | WriteError::Corrupt { .. } => true,
            WriteError::Image(error) => error.may_pass(),
            _ => false,
        }
    }
}

/// Writes an image to a disk.
pub fn write(
    image: &Image<'_>,
    disk: &Disk,
    source: &dyn Source,
    options: &Options<'_>,
) -> Result<Written, WriteError> {
    let mut writer = Writer::new(image, disk, source, options)?;
    let plan = writer.run(true)?;
    writer.finish(plan)
}

/// What [`write()`] would do, without a change to the disk.
pub fn plan(
    image: &Image<'_>,
    disk: &Disk,
    source: &dyn Source,
    options: &Options<'_>,
) -> Result<Plan, WriteError> {
    let mut writer = Writer::new(image, disk, source, options)?;
    let plan = writer.run(false)?;
    Ok(writer.with_edges(plan))
}

/// A disk on its way, shared by the threads that work on it.
pub(crate) struct Writer<'a> {
    pub(crate) image: &'a Image<'a>,
    /// The part that is under way.
    pub(crate) part: Arc<Part>,
    pub(crate) disk: &'a Disk,
    pub(crate) source: &'a dyn Source,
    pub(crate) options: &'a Options<'a>,
    pub(crate) edges: Edges,
    /// Whether a writing may have been broken off here.
    pub(crate) is_broken_off: bool,
    /// Whether head and tail are zero, which they are before anything else changes.
    unbootable: Mutex<bool>,
    /// What was written and could not be read back yet.
    pub(crate) written: Mutex<Vec<Mark>>,
    /// Bytes of the phase that are done; of writing, those of all parts.
    done: AtomicU64,
    wrote: AtomicU64,
    took: Vec<(Phase, Duration)>,
}

/// A stretch of the disk that was written, and the checksum of its bytes; `None` for zeros.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) checksum: Option<u64>,
}

impl<'a> Writer<'a> {
    fn new(
        image: &'a Image<'a>,
        disk: &'a Disk,
        source: &'a dyn Source,
        options: &'a Options<'a>,
    ) -> Result<Self, WriteError> {
        let started = Instant::now();
        (options.progress)(Progress { phase: Phase::Plan, done: 0, total: 0 });
        let (header, size) = (image.header(), disk.size());
        if header.disk_size > size {
            return Err(WriteError::TooSmall { image: header.disk_size, disk: size });
        }
        if let Some(sector) = disk.sector_size().filter(|sector| *sector != header.sector_size) {
            return Err(WriteError::SectorSize { image: header.sector_size, disk: sector });
        }
        let edges = Edges::new(image, source, disk, options.grow)?;
        let writer = Writer {
            image,
            part: Arc::default(),
            disk,
            source,
            options,
            edges,
            is_broken_off: is_broken_off(disk, header.sector_size)?,
            unbootable: Mutex::new(false),
            written: Mutex::new(Vec::new()),
            done: AtomicU64::new(0),
            wrote: AtomicU64::new(0),
            took: vec![(Phase::Plan, started.elapsed())],
        };
        if options.seed.is_some() && writer.seed_partition().is_none() {
            return Err(WriteError::NoSeed);
        }
        Ok(writer)
    }

    /// Makes one part after the other what it should be, or adds up what that would take.
    fn run(&mut self, change: bool) -> Result<Plan, WriteError> {
        let mut plan = Plan::default();
        for number in 0..self.image.parts() {
            // The one before has to go first.
            self.part = Arc::default();
            self.part = self.image.part(number)?;
            let mut room = Room::new(self.threads());
            let look = self.phase(Phase::Plan, |writer| Look::new(writer, &mut room))?;
            plan = self.phase(Phase::Write, |writer| {
                Pipeline::new(writer, change).run(look, plan, room)
            })?;
            if !self.part.is_last {
                self.phase(Phase::Verify, |writer| writer.read_back(|_, _| {}))?;
            }
        }
        Ok(plan)
    }

    /// Reads back what could not be before it was flushed.
    fn read_back(&self, told: impl Fn(u64, u64) + Sync) -> Result<(), WriteError> {
        let mut marks = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if !marks.is_empty() {
            self.disk.flush()?;
        }
        marks.sort_unstable_by_key(|mark| mark.offset);
        read_back(self, &marks, told)?;
        marks.clear();
        Ok(())
    }

    /// CPUs that each kind of work may keep busy.
    pub(crate) fn threads(&self) -> usize {
        match self.options.threads {
            0 => thread::available_parallelism().map_or(1, NonZero::get).min(8),
            threads => threads,
        }
    }

    /// Does a step, tells that it began, and notes how long it took.
    fn phase<T>(
        &mut self,
        phase: Phase,
        step: impl FnOnce(&Self) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        let started = Instant::now();
        self.done.store(0, Ordering::Relaxed);
        let result = step(self)?;
        match self.took.iter_mut().find(|(known, _)| *known == phase) {
            Some((_, took)) => *took += started.elapsed(),
            None => self.took.push((phase, started.elapsed())),
        }
        Ok(result)
    }

    /// Counts and tells bytes that are as they should be.
    pub(crate) fn wrote(&self, by: u64) {
        let done = self.wrote.fetch_add(by, Ordering::Relaxed) + by;
        let Edges { stale, .. } = &self.edges;
        let inner = self.edges.inner();
        let image = inner.end.min(self.image.header().disk_size).saturating_sub(inner.start);
        let total = image + stale.end.saturating_sub(stale.start);
        (self.options.progress)(Progress { phase: Phase::Write, done, total });
    }

    /// Counts and tells bytes that were looked at; beyond the first part, that writing goes on.
    pub(crate) fn looked(&self, by: u64, total: u64) {
        match self.part.range.start {
            0 => self.advance(Phase::Plan, by, total),
            _ => self.wrote(0),
        }
    }

    /// Counts and tells bytes of a phase.
    pub(crate) fn advance(&self, phase: Phase, by: u64, total: u64) {
        let done = self.done.fetch_add(by, Ordering::Relaxed) + by;
        (self.options.progress)(Progress { phase, done, total });
    }

    /// Makes the disk unbootable and flushes that, unless it is; to be called before any change.
    pub(crate) fn begin(&self) -> Result<(), DiskError> {
        let mut unbootable = self.unbootable.lock().unwrap_or_else(PoisonError::into_inner);
        if *unbootable {
            return Ok(());
        }
        let Edges { head, tail, tail_offset, .. } = &self.edges;
        // No firmware starts a disk without its boot sector (UEFI 2.10, 5.2.3: without the protective MBR there is
        // no table), so it goes alone: as long as it is there, all else is as it was.
        if self.clear(0, self.boot_sector())? {
            self.disk.flush()?;
        }
        self.clear(0, head.len())?;
        self.clear(*tail_offset, tail.len())?;
        self.disk.flush()?;
        *unbootable = true;
        Ok(())
    }

    /// Bytes of the disk's first sector, as far as they are of the table.
    fn boot_sector(&self) -> usize {
        (self.image.header().sector_size as usize).min(self.edges.head.len())
    }

    /// Zeroes a stretch; says whether it was not zero.
    fn clear(&self, offset: u64, len: usize) -> Result<bool, DiskError> {
        let mut bytes = crate::buffer::Buffer::new(len);
        self.disk.read_at(&mut bytes, offset)?;
        if crate::checksum::is_zero(&bytes) {
            return Ok(false);
        }
        bytes.fill(0);
        self.disk.write_at(&bytes, offset)?;
        Ok(true)
    }

    /// The plan with what the edges cost.
    fn with_edges(&self, mut plan: Plan) -> Plan {
        plan.received += self.edges.received;
        plan
    }

    fn seed_partition(&self) -> Option<&Partition> {
        let number = self.image.header().seed?;
        self.edges.partitions.iter().find(|partition| partition.number == number)
    }

    /// All that comes after the chunks are written.
    fn finish(mut self, plan: Plan) -> Result<Written, WriteError> {
        self.phase(Phase::Verify, |writer| {
            if *writer.unbootable.lock().unwrap_or_else(PoisonError::into_inner) {
                writer.disk.flush()?;
            }
            writer.read_back(|by, total| writer.advance(Phase::Verify, by, total))
        })?;
        if let Some(seed) = self.options.seed {
            self.phase(Phase::Seed, |writer| writer.write_seed(seed))?;
        }
        self.phase(Phase::Table, |writer| writer.write_table())?;
        let plan = self.with_edges(plan);
        Ok(Written { plan, took: self.took, partitions: self.edges.partitions })
    }

    fn write_seed(&self, seed: &Seed<'_>) -> Result<(), WriteError> {
        let partition = self.seed_partition().ok_or(WriteError::NoSeed)?;
        self.advance(Phase::Seed, 0, partition.size);
        self.begin()?;
        let mut region = self.disk.region(partition.start, partition.size);
        seed(&mut region, partition).map_err(WriteError::Seed)?;
        self.disk.flush()?;
        self.advance(Phase::Seed, partition.size, partition.size);
        Ok(())
    }

    fn write_table(&self) -> Result<(), WriteError> {
        self.advance(Phase::Table, 0, 0);
        let Edges { head, tail, tail_offset, .. } = &self.edges;
        if self.has(head, 0)? && self.has(tail, *tail_offset)? {
            return Ok(());
        }
        self.begin()?;
        if !tail.is_empty() {
            self.disk.write_at(tail, *tail_offset)?;
            self.disk.flush()?;
        }
        let (boot_sector, table) = head.split_at(self.boot_sector());
        if !table.is_empty() {
            self.disk.write_at(table, boot_sector.len() as u64)?;
            self.disk.flush()?;
        }
        self.disk.write_at(boot_sector, 0)?;
        self.disk.flush()?;
        self.disk.forget_cached();
        for (bytes, offset) in [(head, 0), (tail, *tail_offset)] {
            if !self.has(bytes, offset)? {
                // Half a table boots something, and nobody knows what.
                *self.unbootable.lock().unwrap_or_else(PoisonError::into_inner) = false;
                self.begin()?;
                let stretch = offset..offset + bytes.len() as u64;
                return Err(WriteError::read_back(self.disk, stretch));
            }
        }
        // A kernel that keeps the old table is no reason to fail: the disk is right, and is
        // read anew when the machine restarts.
        if let Err(error) = self.disk.reread_partitions() {
            tracing::warn!("{error}");
        }
        Ok(())
    }

    fn has(&self, wanted: &[u8], offset: u64) -> Result<bool, DiskError> {
        let mut bytes = crate::buffer::Buffer::new(wanted.len());
        self.disk.read_at(&mut bytes, offset)?;
        Ok(bytes[..] == *wanted)
    }
}
