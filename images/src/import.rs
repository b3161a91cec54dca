//! A disk becomes an image: read, cut, hashed, compressed, packed, signed, named.
//!
//! One reader cuts; workers name and compress; one packer takes their work in the order of
//! the disk, so that manifest and packs depend on the disk and the store alone, never on
//! timing. A fixed number of segments is on the way at any time: that is what bounds memory.
//! Packs are finished under temporary names and appear when the last of them is written.

use std::{
    io::{Cursor, Read as _},
    num::NonZero,
    os::unix::fs::FileTypeExt,
    path::Path,
    sync::RwLock,
    thread::{self, ScopedJoinHandle},
};

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    Digest, Extent, Index, Manifest, Store, convert,
    manifest::{BLOCK, Boot, Header},
    origin::{Origin, Piece, Segment, segment_buffer},
    pack::{Compression, Encoder},
    packer::{Item, Known, Packed, Packer, Work},
    scratch::Scratch,
    store::check_name,
    table::Table,
};

pub use crate::format::{Format, Unfit};

/// How a disk is imported.
pub struct Options<'a> {
    /// The image's name.
    pub name: String,
    /// What the file is, where that is known better than its first bytes tell.
    pub format: Option<Format>,
    /// Logical sector of the disk, where it is known better than its first bytes tell.
    pub sector_size: Option<u32>,
    /// How to start the system without its firmware.
    pub boot: Option<Boot>,
    /// Number of the partition that takes a node's identity.
    pub seed: Option<u32>,
    /// What the frames of its chunks are made for. A chunk that the store has keeps its frame.
    pub compression: Compression,
    /// Workers; 0 takes as many as there are CPUs.
    pub threads: usize,
    /// Told the bytes read so far and, where it is known, how many there are.
    pub progress: &'a (dyn Fn(u64, Option<u64>) + Sync),
}

impl Options<'_> {
    /// As most imports want it.
    pub fn new(name: impl Into<String>) -> Self {
        Options {
            name: name.into(),
            format: None,
            sector_size: None,
            boot: None,
            seed: None,
            compression: Compression::default(),
            threads: 0,
            progress: &|_, _| {},
        }
    }
}

/// What an import made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The image's manifest.
    pub manifest: Digest,
    /// Length of its disk in bytes.
    pub size: u64,
    /// Bytes of it that are zero.
    pub zeros: u64,
    /// Zero bytes added, where the source did not end with a sector.
    pub padded: u64,
    /// Chunks of it, repeated ones counted each time.
    pub chunks: u64,
    /// Chunks that the store did not have.
    pub new_chunks: u64,
    /// Bytes of the packs that were added.
    pub new_bytes: u64,
}

/// Imports `path`: a disk in a file of any [`Format`], a block device, or `-` for the raw disk that
/// comes in by stdin. A file that no image can be made of is an [`Unfit`].
pub fn import(store: &Store, path: &Path, options: &Options<'_>) -> anyhow::Result<Imported> {
    let context = || format!("importing {}", path.display());
    if path == Path::new("-") {
        return import_stdin(store, options).with_context(context);
    }
    // What a device holds may be anybody's: it is taken as it is.
    let device = || path.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
    let format = match options.format {
        Some(format) => format,
        None if device() => Format::Raw,
        None => Format::detect(path)?,
    };
    if !format.is_disk() {
        let why = format!(
            "is a system without a disk ({format}); `billet image build system --from {}` makes a \
             disk of it that starts",
            path.display()
        );
        return Err(Unfit::new(path, why).into());
    }
    if format == Format::Raw {
        let origin = Origin::open(path, options.sector_size)?;
        return import_origin(store, origin, options).with_context(context);
    }
    check_name(&options.name)?;
    // Garbage collection would take the unfinished disk for what a crash has left.
    let _lock = store.lock_shared()?;
    let scratch = Scratch::new(store.root())?;
    let raw = convert::to_raw(path, format, &scratch)?;
    let origin = Origin::open(&raw, options.sector_size)?;
    import_origin(store, origin, options).with_context(context)
}

fn import_stdin(store: &Store, options: &Options<'_>) -> anyhow::Result<Imported> {
    let (path, mut stdin) = (Path::new("standard input"), std::io::stdin());
    let mut head = Vec::new();
    stdin.by_ref().take(BLOCK).read_to_end(&mut head).context("reading standard input")?;
    let format = match options.format {
        Some(format) => format,
        None => Format::of(&head, &[]).map_err(|why| Unfit::new(path, why))?,
    };
    if format != Format::Raw {
        let why = format!("is {format}; a raw disk is accepted there, and {format} from a file");
        return Err(Unfit::new(path, why).into());
    }
    let origin = Origin::stream(Cursor::new(head).chain(stdin), options.sector_size);
    import_origin(store, origin, options)
}

/// Imports what an unseekable stream gives until it ends.
pub fn import_stream(
    store: &Store,
    stream: impl std::io::Read + Send,
    options: &Options<'_>,
) -> anyhow::Result<Imported> {
    let origin = Origin::stream(stream, options.sector_size);
    import_origin(store, origin, options).context("importing a stream")
}

fn import_origin(
    store: &Store,
    origin: Origin<'_>,
    options: &Options<'_>,
) -> anyhow::Result<Imported> {
    check_name(&options.name)?;
    let _lock = store.lock_shared()?;
    let known = Known::new(store.locations()?);
    let (disk, packed) = run(store, origin, known, options)?;
    publish(store, &disk, packed, options)
}

/// What the reader learned of the disk as a whole.
struct Read {
    size: u64,
    padded: u64,
    sector_size: u32,
    head: Vec<u8>,
}

fn run(
    store: &Store,
    mut origin: Origin<'_>,
    known: Known,
    options: &Options<'_>,
) -> anyhow::Result<(Read, Packed)> {
    let threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        threads => threads,
    };
    let on_the_way = 2 * threads + 2;
    let (give_back, pool) = bounded(on_the_way);
    (0..on_the_way).try_for_each(|_| give_back.send(segment_buffer()))?;
    let (segments, to_work) = bounded(on_the_way);
    let (done, to_pack) = bounded(on_the_way);
    let known = RwLock::new(known);
    thread::scope(|scope| {
        let packer = scope.spawn(|| Packer::new(store, &known).run(to_pack, give_back));
        let workers: Vec<_> = (0..threads)
            .map(|_| (to_work.clone(), done.clone()))
            .map(|(to_work, done)| scope.spawn(|| work(options.compression, &known, to_work, done)))
            .collect();
        // Only the workers hold these ends now: each stage stops when the one before it has.
        drop((to_work, done));
        let read = origin.read(pool, segments, options.progress);
        for worker in workers {
            join(worker)?;
        }
        // A packer that failed made the reader stop early, so its error is the one to tell.
        let packed = join(packer);
        read.and_then(|()| {
            let packed = packed?;
            let (sector_size, padded) = (origin.sector_size(), origin.padded());
            let size = packed.extents.iter().map(Extent::size).sum();
            Ok((Read { size, padded, sector_size, head: origin.into_head() }, packed))
        })
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the import panicked")))
}

/// Names every chunk and compresses those that are new.
fn work(
    compression: Compression,
    known: &RwLock<Known>,
    segments: Receiver<Segment>,
    done: Sender<Work>,
) -> anyhow::Result<()> {
    let mut encoder = Encoder::new(compression).context("starting zstd")?;
    for Segment { number, bytes, pieces } in segments {
        let (mut items, mut frames) = (Vec::with_capacity(pieces.len()), Vec::new());
        for piece in pieces {
            items.push(match piece {
                Piece::Zero(size) => Item::Zero(size),
                Piece::Chunk { start, size } => {
                    let chunk = &bytes[start..start + size as usize];
                    let name = Digest::of(chunk);
                    // What the packer has seen came earlier on the disk than this; what it
                    // has not seen yet may turn out to be a repetition, and is dropped there.
                    let new = !known.read().is_ok_and(|known| known.has(&name));
                    let frame = if new { encoder.append(chunk, &mut frames)? } else { 0 };
                    Item::Chunk { size, name, frame }
                }
            });
        }
        if done.send(Work { number, items, frames, buffer: bytes }).is_err() {
            break;
        }
    }
    Ok(())
}

fn publish(
    store: &Store,
    disk: &Read,
    packed: Packed,
    options: &Options<'_>,
) -> anyhow::Result<Imported> {
    let table = Table::read(&mut Cursor::new(&disk.head), disk.sector_size)?;
    let header = Header {
        version: 1,
        disk_size: disk.size,
        sector_size: disk.sector_size,
        extents: packed.extents.len() as u64,
        partitions: table.map_or_else(Vec::new, |table| table.partitions()),
        boot: options.boot.clone(),
        seed: options.seed,
    };
    let manifest = Manifest { header, extents: packed.extents };
    // The rules for what arrives hold for what is sent: a seed that is no partition, say.
    Manifest::parse(&manifest.render()).context("describing the disk")?;
    let index = Index::new(packed.locations);
    let mut imported = Imported {
        manifest: Digest::of(&[]),
        size: disk.size,
        zeros: 0,
        padded: disk.padded,
        chunks: index.len() as u64,
        new_chunks: packed.new_chunks,
        new_bytes: packed.new_bytes,
    };
    store.publish_packs(packed.packs)?;
    let zero = |extent: &Extent| if matches!(extent, Extent::Zero(_)) { extent.size() } else { 0 };
    imported.zeros = manifest.extents.iter().map(zero).sum();
    imported.manifest = store.add_manifest(&manifest, &index)?;
    store.set_name(&options.name, &imported.manifest)?;
    Ok(imported)
}
