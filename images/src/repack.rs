//! Repacking: live chunks move out of packs that are mostly dead, and a chunk that two importers
//! packed at the same time is kept once.
//!
//! A plan says which chunks live where; carrying it out writes new packs beside the old ones and
//! changes nothing else. The location indexes follow in one go (see `gc`).

use std::collections::{BTreeSet, HashMap};

use anyhow::Context;

use crate::{
    Digest, Index, Store,
    buffer::{ALIGNMENT, Buffer},
    file::StoreFull,
    frames::Frames,
    index::Location,
    manifest::MAX_CHUNK,
    pack::{self, Decoder},
    shelf::Staged,
};

/// A live chunk and where an index says it is.
pub(crate) type Live = (Digest, Location);

/// Which chunks are to be read from elsewhere than before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Chunks that have two places, and the one that counts.
    pub(crate) settled: HashMap<Digest, Location>,
    /// Chunks that leave their packs, in the order in which images want them.
    pub(crate) leaving: Vec<Live>,
}

/// Where chunks are after a repacking.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    pub(crate) places: HashMap<Digest, Location>,
    /// Packs that were written.
    pub(crate) packs: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Chunks that could not be read as what their names say, and stay where they are.
    pub(crate) damaged: u64,
    /// Whether the store had no room for the new packs.
    pub(crate) no_room: bool,
}

impl Plan {
    /// What to do about `live` chunks, as all indexes name them one image after the other, in
    /// packs of these `sizes`; a pack is left when less than `percent` of its bytes are live.
    pub(crate) fn new(live: &[Live], sizes: &HashMap<Digest, u64>, percent: u8) -> Self {
        let named = weigh(live.iter().map(|(_, at)| *at));
        // The place in the fullest pack counts; one in a pack that is gone counts last.
        let rank = |at: &Location| {
            let size = sizes.get(&at.pack).copied().unwrap_or(0);
            let share = named.get(&at.pack).map_or(0, |live| live * 1000 / size.max(1));
            (size > 0, share.min(1000), *at)
        };
        let (mut places, mut doubled) = (HashMap::new(), BTreeSet::new());
        for (chunk, at) in live {
            let best = places.entry(*chunk).or_insert(*at);
            if best != at {
                doubled.insert(*chunk);
                *best = if rank(at) > rank(best) { *at } else { *best };
            }
        }
        let weights = weigh(places.values().copied());
        let left = |pack: &Digest| {
            let (weight, size) = (weights.get(pack).copied().unwrap_or(0), sizes.get(pack));
            size.is_some_and(|size| weight * 100 < size * u64::from(percent))
        };
        let mut seen = BTreeSet::new();
        let leaving = live.iter().filter_map(|(chunk, _)| {
            let at = places[chunk];
            (left(&at.pack) && seen.insert(*chunk)).then_some((*chunk, at))
        });
        let leaving = leaving.collect();
        places.retain(|chunk, _| doubled.contains(chunk));
        Plan { settled: places, leaving }
    }
}

/// Bytes named in every pack, each place counted once.
fn weigh(places: impl Iterator<Item = Location>) -> HashMap<Digest, u64> {
    let mut weights = HashMap::new();
    for at in places.collect::<BTreeSet<_>>() {
        *weights.entry(at.pack).or_insert(0) += u64::from(at.len);
    }
    weights
}

impl Store {
    /// Writes the packs of a plan, visible but named by no index.
    pub(crate) fn repack(&self, plan: Plan) -> anyhow::Result<Moved> {
        let Plan { settled, leaving } = plan;
        let mut writer = Writer::new(self)?;
        let written = leaving.iter().try_for_each(|(chunk, at)| writer.copy(chunk, *at));
        let Writer { mut moved, packs, .. } = match written.and_then(|()| writer.finish()) {
            Ok(writer) => writer,
            // What is dead could be freed all the same; what was written so far is dropped.
            Err(error) if error.is::<StoreFull>() => {
                tracing::warn!("nothing is repacked: {error}");
                return Ok(Moved { places: settled, no_room: true, ..Moved::default() });
            }
            Err(error) => return Err(error),
        };
        moved.packs = packs.len() as u64;
        self.publish_packs(packs)?;
        for (chunk, at) in settled {
            moved.places.entry(chunk).or_insert(at);
        }
        Ok(moved)
    }
}

/// Fills packs from packs.
struct Writer<'a> {
    store: &'a Store,
    frames: Frames<'a>,
    decoder: Decoder,
    pack: Buffer,
    filled: usize,
    /// Chunks of the pack that is being filled, which has no name yet.
    waiting: Vec<(Digest, u32, u32)>,
    packs: Vec<(Digest, Staged)>,
    moved: Moved,
}

impl<'a> Writer<'a> {
    fn new(store: &'a Store) -> anyhow::Result<Self> {
        Ok(Writer {
            store,
            frames: Frames::new(store),
            decoder: Decoder::new().context("starting zstd")?,
            pack: Buffer::new(pack::LONGEST.next_multiple_of(ALIGNMENT)),
            filled: 0,
            waiting: Vec::new(),
            packs: Vec::new(),
            moved: Moved::default(),
        })
    }

    /// Takes a chunk over, when it is what its name says.
    fn copy(&mut self, chunk: &Digest, at: Location) -> anyhow::Result<()> {
        if self.filled >= pack::FULL {
            self.close_pack()?;
        }
        let end = self.filled + at.len as usize;
        let mut frame = Vec::new();
        let whole = self.frames.read(&at, &mut frame).map_err(anyhow::Error::from);
        if let Err(why) = whole.and_then(|()| self.check(&frame, chunk)) {
            tracing::warn!("chunk {chunk} stays in pack {}: {why:#}", at.pack);
            self.moved.damaged += 1;
            return Ok(());
        }
        self.pack.show(end)[self.filled..].copy_from_slice(&frame);
        self.waiting.push((*chunk, self.filled as u32, at.len));
        self.filled = end;
        Ok(())
    }

    fn check(&mut self, frame: &[u8], chunk: &Digest) -> anyhow::Result<()> {
        let mut bytes = vec![0; MAX_CHUNK as usize];
        let size = self.decoder.decode_any(frame, &mut bytes)?;
        let got = Digest::of(&bytes[..size]);
        anyhow::ensure!(got == *chunk, "its bytes have the name {got}");
        Ok(())
    }

    fn close_pack(&mut self) -> anyhow::Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let (name, pack) = self.store.stage_pack(&mut self.pack, self.filled)?;
        self.packs.push((name, pack));
        for (chunk, offset, len) in self.waiting.drain(..) {
            self.moved.places.insert(chunk, Location { pack: name, offset, len });
        }
        self.moved.bytes += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<Self> {
        self.close_pack()?;
        Ok(self)
    }
}

impl Moved {
    /// The index of an image whose chunks are these, with every place as it is now; `None` where
    /// nothing of it moved.
    pub(crate) fn index(&self, chunks: &[Digest], before: &Index) -> Option<Index> {
        if chunks.len() != before.len() {
            return None;
        }
        let place = |(chunk, at)| self.places.get(chunk).copied().unwrap_or(at);
        let after = Index::new(chunks.iter().zip(before.locations()).map(place));
        (after != *before).then_some(after)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    fn at(pack: u8, offset: u32) -> Location {
        Location { pack: Digest::of(&[pack]), offset, len: 10 }
    }

    fn chunk(n: u8) -> Digest {
        Digest::of(&[0, n])
    }

    fn sizes(sizes: &[(u8, u64)]) -> HashMap<Digest, u64> {
        sizes.iter().map(|(pack, size)| (Digest::of(&[*pack]), *size)).collect()
    }

    #[test]
    fn a_pack_is_left_below_the_share_and_not_at_it() {
        let live = [(chunk(1), at(1, 0)), (chunk(2), at(2, 0)), (chunk(1), at(1, 0))];
        let plan = Plan::new(&live, &sizes(&[(1, 20), (2, 21)]), 50);
        assert_eq!(plan.leaving, [(chunk(2), at(2, 0))]);
        assert!(plan.settled.is_empty());
        assert_eq!(Plan::new(&live, &sizes(&[(1, 20), (2, 21)]), 0), Plan::default());
    }

    #[test]
    fn of_two_places_the_fuller_pack_counts_and_one_that_is_gone_never() {
        let live = [
            (chunk(1), at(1, 0)),
            (chunk(1), at(2, 0)),
            (chunk(2), at(2, 10)),
            (chunk(3), at(3, 0)),
            (chunk(3), at(2, 20)),
        ];
        let plan = Plan::new(&live, &sizes(&[(1, 100), (2, 30)]), 50);
        let settled = HashMap::from([(chunk(1), at(2, 0)), (chunk(3), at(2, 20))]);
        assert_eq!(plan, Plan { settled, leaving: Vec::new() });
    }

    proptest! {
        /// Whatever the indexes say: every chunk that leaves does so once, from a pack that is
        /// there, and what is settled is a place that an index named.
        #[test]
        fn a_plan_invents_nothing(live in vec((0_u8..9, 0_u8..4, 0_u32..6), 0..60), percent in any::<u8>()) {
            let live: Vec<Live> =
                live.into_iter().map(|(n, pack, offset)| (chunk(n), at(pack, offset * 10))).collect();
            let sizes = sizes(&[(0, 60), (1, 100), (2, 200)]);
            let plan = Plan::new(&live, &sizes, percent % 101);
            let mut once = BTreeSet::new();
            for leaving in &plan.leaving {
                assert!(live.contains(leaving) && once.insert(leaving.0));
                assert!(sizes.contains_key(&leaving.1.pack));
            }
            for (chunk, at) in plan.settled {
                assert!(live.contains(&(chunk, at)));
            }
        }
    }
}
