//! The work of a run without its order: as many bytes read, written, received and decompressed on this
//! machine, of one kind alone or of all at once, by the means that billet has: direct transfers of a MiB
//! on huge pages, a few connections, every core.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    ops::Range,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use images::{
    Digest, Disk, Extent,
    buffer::Buffer,
    pack::{Decoder, Source as _},
};

use super::{
    engine_site::ADDRESS,
    engine_target::Target,
    engine_work::{State, Work},
};

/// Bytes of a transfer.
const TRANSFER: u64 = 1 << 20;
/// Transfers under way for each core, and beyond that.
const WAITING: usize = 4;
const CONNECTIONS: u64 = 4;
/// Frames that are decompressed over and over: more than any cache holds.
const FRAMES: usize = 256 << 20;

/// Bytes to be moved.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    /// From the target.
    pub read: u64,
    /// To the target, and flushed.
    pub write: u64,
    /// Over HTTP.
    pub receive: u64,
    /// Out of frames, and checked by their names.
    pub decompress: u64,
}

/// What moves them.
pub struct Machine<'a> {
    target: &'a Target,
    /// Where the target has something; elsewhere a file with holes is quicker than a disk.
    places: Vec<u64>,
    frames: Vec<u8>,
    chunks: Vec<Chunk>,
    /// What is received, of the site.
    packed: String,
    room: Buffer,
    threads: usize,
}

struct Chunk {
    frame: Range<usize>,
    name: Digest,
    size: usize,
}

impl<'a> Machine<'a> {
    /// Gathers what is decompressed: the beginning of an image.
    pub fn new(work: &Work, target: &'a Target, image: State) -> Result<Self> {
        let name = work.manifest(image)?;
        let (manifest, index) = (work.store.manifest(&name)?, work.store.index(&name)?);
        let mut places: Vec<_> = (manifest.placed())
            .filter(|(_, extent)| matches!(extent, Extent::Chunk { .. }))
            .map(|(offset, _)| offset / TRANSFER * TRANSFER)
            .collect();
        places.dedup();
        let (mut frames, mut chunks) = (Vec::new(), Vec::new());
        for ((_, size, name), at) in manifest.chunks().zip(index.locations()) {
            let start = frames.len();
            let mut frame = work.store.read(&at.pack, at.range()).context("reading a pack")?;
            frame.read_to_end(&mut frames).context("reading a pack")?;
            chunks.push(Chunk { frame: start..frames.len(), name, size: size as usize });
            if frames.len() > FRAMES {
                break;
            }
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = cores + WAITING;
        let mut room = Buffer::new(2 * threads * TRANSFER as usize);
        // Zeros would be no bytes to some devices.
        room.iter_mut().zip((0..=u8::MAX).cycle()).for_each(|(byte, value)| *byte = value);
        let packed = format!("/{}.zst", image.name());
        Ok(Machine { target, places, frames, chunks, packed, room, threads })
    }

    /// Seconds that all of a load takes at once. The target is left as it comes.
    pub fn seconds(&mut self, load: Load) -> Result<f64> {
        let disk = &Disk::open(&self.target.device).context("opening the target")?;
        let (places, threads) = (&self.places[..], self.threads);
        let (read, written, decompressed) =
            (&AtomicU64::new(0), &AtomicU64::new(0), &Decompressed::default());
        let (frames, chunks, packed) = (&self.frames[..], &self.chunks[..], &self.packed[..]);
        let (reading, writing) = self.room.split_at_mut(threads * TRANSFER as usize);
        let began = Instant::now();
        thread::scope(|scope| {
            let mut all = Vec::new();
            for room in reading.chunks_exact_mut(TRANSFER as usize) {
                all.push(scope.spawn(move || {
                    while let Some(place) = next(read, load.read, places) {
                        disk.read_at(room, place)?;
                    }
                    Ok(())
                }));
            }
            for room in writing.chunks_exact(TRANSFER as usize) {
                all.push(scope.spawn(move || {
                    while let Some(place) = next(written, load.write, places) {
                        disk.write_at(room, place)?;
                    }
                    Ok(())
                }));
            }
            for _ in 0..CONNECTIONS {
                all.push(scope.spawn(move || receive(packed, load.receive / CONNECTIONS)));
            }
            for _ in 0..threads - WAITING {
                let decompress = move || decompressed.up_to(load.decompress, frames, chunks);
                all.push(scope.spawn(decompress));
            }
            let join = |one: thread::ScopedJoinHandle<'_, Result<()>>| {
                one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            all.into_iter().try_for_each(join)
        })?;
        if load.write > 0 {
            disk.flush()?;
        }
        Ok(began.elapsed().as_secs_f64())
    }
}

/// The next place, until so many bytes are given out.
fn next(given: &AtomicU64, of: u64, places: &[u64]) -> Option<u64> {
    let at = given.fetch_add(TRANSFER, Ordering::Relaxed);
    let number = usize::try_from(at / TRANSFER).ok()?;
    (at < of).then(|| places.get(number % places.len()).copied()).flatten()
}

/// Receives so many bytes over a connection of its own.
fn receive(path: &str, bytes: u64) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let mut stream = TcpStream::connect(ADDRESS).context("connecting to the site")?;
    let asked = format!(
        "GET {path} HTTP/1.1\r\nhost: {ADDRESS}\r\nrange: bytes=0-{}\r\nconnection: close\r\n\r\n",
        bytes - 1
    );
    stream.write_all(asked.as_bytes()).context("asking the site")?;
    let (mut room, mut received) = (vec![0; 128 << 10], 0);
    loop {
        match stream.read(&mut room).context("receiving")? {
            0 => break,
            part => received += part as u64,
        }
    }
    ensure!(received >= bytes, "the site sends {received} bytes where {bytes} were asked");
    Ok(())
}

/// How much is decompressed, and what is next.
#[derive(Default)]
struct Decompressed {
    next: AtomicUsize,
    bytes: AtomicU64,
}

impl Decompressed {
    fn up_to(&self, bytes: u64, frames: &[u8], chunks: &[Chunk]) -> Result<()> {
        let mut decoder = Decoder::new().context("starting zstd")?;
        let mut room = Vec::new();
        loop {
            let next = self.next.fetch_add(1, Ordering::Relaxed) % chunks.len();
            let Chunk { frame, name, size } = &chunks[next];
            if self.bytes.fetch_add(*size as u64, Ordering::Relaxed) >= bytes {
                return Ok(());
            }
            if room.len() < *size {
                room.resize(*size, 0);
            }
            decoder.decode(&frames[frame.clone()], name, &mut room[..*size])?;
        }
    }
}
