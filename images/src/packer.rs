//! The end of an import: takes the workers' frames in the order of the disk, drops
//! repetitions, fills packs, and has them written while the next one is filled.

use std::{
    collections::{BTreeMap, HashMap},
    sync::RwLock,
    thread,
};

use anyhow::{Context, anyhow};
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    Digest, Extent, Store,
    buffer::{ALIGNMENT, Buffer},
    index::Location,
    pack,
    shelf::Staged,
};

/// What a worker made of a segment.
pub(crate) struct Work {
    pub(crate) number: u64,
    pub(crate) items: Vec<Item>,
    /// The frames of the chunks that were new to the worker, in order.
    pub(crate) frames: Vec<u8>,
    /// The segment's memory, to be used again: as long as it is here, its work waits.
    pub(crate) buffer: Buffer,
}

/// A piece of the disk with its name.
pub(crate) enum Item {
    Zero(u64),
    /// With the length of its frame, 0 where it was known.
    Chunk {
        size: u32,
        name: Digest,
        frame: u32,
    },
}

/// Where a chunk is: number of the pack, offset, length.
type Place = (u32, u32, u32);

/// The chunks that need not be packed again.
pub(crate) struct Known {
    /// Packs of the store first, then those of this import, in order.
    packs: Vec<Digest>,
    places: HashMap<Digest, Place>,
}

impl Known {
    /// What the store has.
    pub(crate) fn new(locations: HashMap<Digest, Location>) -> Self {
        let (mut packs, mut numbers) = (Vec::new(), HashMap::new());
        let place = |(name, at): (Digest, Location)| {
            let number = *numbers.entry(at.pack).or_insert_with(|| {
                packs.push(at.pack);
                packs.len() as u32 - 1
            });
            (name, (number, at.offset, at.len))
        };
        let places = locations.into_iter().map(place).collect();
        Known { packs, places }
    }

    /// Whether a chunk is among them.
    pub(crate) fn has(&self, name: &Digest) -> bool {
        self.places.contains_key(name)
    }
}

/// What an import packed.
pub(crate) struct Packed {
    pub(crate) extents: Vec<Extent>,
    /// Of the chunk extents, in order.
    pub(crate) locations: Vec<Location>,
    /// Finished packs that are not visible yet.
    pub(crate) packs: Vec<(Digest, Staged)>,
    pub(crate) new_chunks: u64,
    pub(crate) new_bytes: u64,
}

/// The packer's hands: the pack that is being filled and all that was noted so far.
pub(crate) struct Packer<'a> {
    store: &'a Store,
    known: &'a RwLock<Known>,
    extents: Vec<Extent>,
    places: Vec<Place>,
    /// Number of the pack that is being filled.
    pack: u32,
    filled: usize,
    new_chunks: u64,
    new_bytes: u64,
}

/// The ends that connect the packer with the thread that writes packs.
struct Writer {
    full: Sender<(Buffer, usize)>,
    empty: Receiver<Buffer>,
}

impl<'a> Packer<'a> {
    pub(crate) fn new(store: &'a Store, known: &'a RwLock<Known>) -> Self {
        let pack = known.read().map_or(0, |known| known.packs.len() as u32);
        let (extents, places) = (Vec::new(), Vec::new());
        Packer { store, known, extents, places, pack, filled: 0, new_chunks: 0, new_bytes: 0 }
    }

    /// Packs until no more work comes.
    pub(crate) fn run(
        mut self,
        works: Receiver<Work>,
        give_back: Sender<Buffer>,
    ) -> anyhow::Result<Packed> {
        let (full, to_write) = bounded(1);
        let (written, empty) = bounded(2);
        let store = self.store;
        thread::scope(|scope| {
            let writer = scope.spawn(move || write_packs(store, to_write, written));
            let packing = self.pack_all(works, give_back, Writer { full, empty });
            let packs =
                writer.join().unwrap_or_else(|_| Err(anyhow!("the pack writer panicked")))?;
            packing?;
            self.finish(packs)
        })
    }

    /// Takes work in the order of the disk. Stops early when the writer did: its error counts.
    fn pack_all(
        &mut self,
        works: Receiver<Work>,
        give_back: Sender<Buffer>,
        writer: Writer,
    ) -> anyhow::Result<()> {
        let (mut next, mut early) = (0, BTreeMap::new());
        let mut pack = writer.empty.recv().context("starting the pack writer")?;
        for work in works {
            early.insert(work.number, work);
            while let Some(work) = early.remove(&next) {
                next += 1;
                if self.pack_one(&work, &mut pack, &writer)?.is_none() {
                    return Ok(());
                }
                // The reader may be done and gone.
                let _ = give_back.send(work.buffer);
            }
        }
        if self.filled > 0 {
            let _ = writer.full.send((pack, self.filled));
        }
        Ok(())
    }

    fn pack_one(
        &mut self,
        work: &Work,
        pack: &mut Buffer,
        writer: &Writer,
    ) -> anyhow::Result<Option<()>> {
        let mut frames = &work.frames[..];
        for item in &work.items {
            let Item::Chunk { size, name, frame } = *item else {
                if let Item::Zero(size) = *item {
                    self.extents.push(Extent::Zero(size));
                }
                continue;
            };
            let (frame, rest) = frames.split_at(frame as usize);
            frames = rest;
            let known = self.known.read().ok().and_then(|known| known.places.get(&name).copied());
            let place = match known {
                Some(place) => place,
                None => match self.add(name, frame, pack, writer)? {
                    Some(place) => place,
                    None => return Ok(None),
                },
            };
            self.extents.push(Extent::Chunk { size, name });
            self.places.push(place);
        }
        Ok(Some(()))
    }

    /// Adds the frame of a new chunk to the pack, and hands the pack on when it is full.
    fn add(
        &mut self,
        name: Digest,
        frame: &[u8],
        pack: &mut Buffer,
        writer: &Writer,
    ) -> anyhow::Result<Option<Place>> {
        if self.filled >= pack::FULL {
            let Ok(empty) = writer.empty.recv() else {
                return Ok(None);
            };
            let full = std::mem::replace(pack, empty);
            if writer.full.send((full, self.filled)).is_err() {
                return Ok(None);
            }
            (self.pack, self.filled) = (self.pack + 1, 0);
        }
        let place = (self.pack, self.filled as u32, frame.len() as u32);
        pack.show(self.filled + frame.len())[self.filled..].copy_from_slice(frame);
        self.filled += frame.len();
        self.new_chunks += 1;
        self.new_bytes += frame.len() as u64;
        let mut known = self.known.write().map_err(|_| anyhow!("a worker panicked"))?;
        known.places.insert(name, place);
        Ok(Some(place))
    }

    fn finish(self, packs: Vec<(Digest, Staged)>) -> anyhow::Result<Packed> {
        let known = self.known.read().map_err(|_| anyhow!("a worker panicked"))?;
        let names: Vec<_> =
            known.packs.iter().copied().chain(packs.iter().map(|(name, _)| *name)).collect();
        let location =
            |(pack, offset, len): Place| Location { pack: names[pack as usize], offset, len };
        let locations = self.places.into_iter().map(location).collect();
        let (new_chunks, new_bytes) = (self.new_chunks, self.new_bytes);
        Ok(Packed { extents: self.extents, locations, packs, new_chunks, new_bytes })
    }
}

/// Names and writes packs until no more come.
fn write_packs(
    store: &Store,
    full: Receiver<(Buffer, usize)>,
    empty: Sender<Buffer>,
) -> anyhow::Result<Vec<(Digest, Staged)>> {
    // The packer of a small disk may be done, and gone, before it needs the second.
    for _ in 0..2 {
        let _ = empty.send(Buffer::new(pack::LONGEST.next_multiple_of(ALIGNMENT)));
    }
    let mut packs = Vec::new();
    for (mut pack, len) in full {
        packs.push(store.stage_pack(&mut pack, len)?);
        let _ = empty.send(pack);
    }
    Ok(packs)
}
