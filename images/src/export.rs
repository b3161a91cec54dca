//! An image becomes a file: a raw disk with holes for zeros, or a qcow2.
//!
//! Every chunk is checked by its name before it is written. Threads take stretches of the disk one
//! after the other; where a chunk goes depends on the manifest alone. The file has a temporary name
//! until it is whole and flushed.

use std::{
    fs::{self, File},
    io,
    num::NonZero,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    thread,
};

use anyhow::Context;

use crate::{
    Digest, Manifest, Store,
    file::{UNFINISHED, sync_folder},
    format::{Format, Unfit},
    frames::Frames,
    index::Location,
    manifest::MAX_CHUNK,
    pack::Decoder,
    qcow2_layout::Layout,
};

/// Chunks that a thread takes at a time.
const STRETCH: usize = 64;

/// What an export wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Length of the disk in bytes.
    pub size: u64,
    /// Bytes of its chunks; the rest is holes.
    pub written: u64,
}

/// Where a byte of the disk goes in the file.
enum Places {
    Raw,
    Qcow2(Layout),
}

impl Places {
    fn place(&self, offset: u64) -> u64 {
        match self {
            Places::Raw => offset,
            Places::Qcow2(layout) => layout.place(offset),
        }
    }
}

/// A chunk with its offset on the disk.
type Piece = (u64, u32, Digest, Location);

/// Writes an image to a new file `to`, [`Format::Raw`] or [`Format::Qcow2`]. `progress` is told
/// the bytes written and how many there will be.
pub fn export(
    store: &Store,
    manifest: &Digest,
    to: &Path,
    format: Format,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> anyhow::Result<Exported> {
    if fs::symlink_metadata(to).is_ok() {
        let why = "is there already; a new file is accepted (`billet-agent write` writes to disks)";
        return Err(Unfit::new(to, why).into());
    }
    // Nothing that is needed goes meanwhile, whatever becomes of the image's name.
    let _lock = store.lock_shared()?;
    let (index, manifest) = (store.index(manifest)?, store.manifest(manifest)?);
    index.check(&manifest)?;
    let places = match format {
        Format::Raw => Places::Raw,
        Format::Qcow2 => Places::Qcow2(Layout::new(&manifest)),
        other => anyhow::bail!("no export to {other}: raw, qcow2 are accepted"),
    };
    let new = Unfinished::create(to)?;
    let context = || format!("writing {}", new.path.display());
    match &places {
        Places::Raw => new.file.set_len(manifest.header.disk_size),
        Places::Qcow2(layout) => new
            .file
            .set_len(layout.len())
            .and_then(|()| new.file.write_all_at(&layout.render_head(), 0)),
    }
    .with_context(context)?;
    let pieces = pieces(&manifest, index.locations());
    let written = write(store, &pieces, &places, &new.file, progress)?;
    new.file.sync_all().with_context(context)?;
    new.publish(to)?;
    Ok(Exported { size: manifest.header.disk_size, written })
}

fn pieces(manifest: &Manifest, locations: impl Iterator<Item = Location>) -> Vec<Piece> {
    manifest
        .chunks()
        .zip(locations)
        .map(|((offset, size, name), at)| (offset, size, name, at))
        .collect()
}

fn write(
    store: &Store,
    pieces: &[Piece],
    places: &Places,
    file: &File,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> anyhow::Result<u64> {
    let total = pieces.iter().map(|(_, size, ..)| u64::from(*size)).sum();
    let (stretches, next) = (pieces.chunks(STRETCH).collect::<Vec<_>>(), AtomicUsize::new(0));
    let (done, broken) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        let mut hands = Hands::new(store)?;
        while let Some(stretch) = stretches.get(next.fetch_add(1, Ordering::Relaxed)) {
            if broken.load(Ordering::Relaxed) {
                break;
            }
            let bytes = hands.write(stretch, places, file).inspect_err(|_| {
                broken.store(true, Ordering::Relaxed);
            })?;
            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        }
        anyhow::Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("a thread of the export panicked")),
        })
    })?;
    Ok(total)
}

/// What one thread works with.
struct Hands<'a> {
    frames: Frames<'a>,
    decoder: Decoder,
    frame: Vec<u8>,
    /// Chunks that follow one another in the file, and where they begin.
    bytes: Vec<u8>,
    start: u64,
}

/// Bytes that are written at once, at the least, where that many follow one another.
const WRITE: usize = 4 << 20;

impl<'a> Hands<'a> {
    fn new(store: &'a Store) -> anyhow::Result<Self> {
        let decoder = Decoder::new().context("starting zstd")?;
        let bytes = Vec::with_capacity(WRITE + MAX_CHUNK as usize);
        Ok(Hands { frames: Frames::new(store), decoder, frame: Vec::new(), bytes, start: 0 })
    }

    fn write(&mut self, stretch: &[Piece], places: &Places, file: &File) -> anyhow::Result<u64> {
        let mut written = 0;
        for (offset, size, name, at) in stretch {
            let place = places.place(*offset);
            if place != self.start + self.bytes.len() as u64 || self.bytes.len() >= WRITE {
                self.flush(file)?;
                self.start = place;
            }
            self.fetch(*size, name, *at)
                .with_context(|| format!("reading chunk {name} of pack {}", at.pack))?;
            written += u64::from(*size);
        }
        self.flush(file)?;
        Ok(written)
    }

    fn fetch(&mut self, size: u32, name: &Digest, at: Location) -> anyhow::Result<()> {
        self.frames.read(&at, &mut self.frame)?;
        let filled = self.bytes.len();
        self.bytes.resize(filled + size as usize, 0);
        self.decoder.decode(&self.frame, name, &mut self.bytes[filled..])?;
        Ok(())
    }

    fn flush(&mut self, file: &File) -> anyhow::Result<()> {
        file.write_all_at(&self.bytes, self.start)
            .with_context(|| format!("writing {} bytes at {}", self.bytes.len(), self.start))?;
        self.bytes.clear();
        Ok(())
    }
}

/// A file that goes when it is not published.
struct Unfinished {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Unfinished {
    fn create(to: &Path) -> anyhow::Result<Self> {
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let path = to.with_file_name(format!("{UNFINISHED}{}-{name}", std::process::id()));
        let file = File::create_new(&path);
        let file = file.with_context(|| format!("creating {}", path.display()))?;
        Ok(Unfinished { path, file, published: false })
    }

    fn publish(mut self, to: &Path) -> anyhow::Result<()> {
        // Never in place of a file that came meanwhile, where the file system knows how.
        let publish = || match fs::hard_link(&self.path, to) {
            Ok(()) => fs::remove_file(&self.path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            Err(_) => fs::rename(&self.path, to),
        };
        publish().with_context(|| format!("publishing {}", to.display()))?;
        self.published = true;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
        sync_folder(folder.unwrap_or(Path::new(".")))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.published {
            // Nothing to be done where even that fails.
            let _ = fs::remove_file(&self.path);
        }
    }
}
