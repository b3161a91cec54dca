//! Where wanted chunks stand on the disk already, whatever is wanted there.
//!
//! A table of a part's chunks, each name once, open addressing: some 20 bytes a chunk,
//! whatever the disk's size. Many threads may note places at once; the first place on the disk
//! counts, so that the same disk gives the same plan.

use std::{
    iter,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{Digest, Extent};

const EMPTY: u32 = u32::MAX;
const NOWHERE: u64 = u64::MAX;

/// Places of chunks.
pub(crate) struct Sources<'a> {
    extents: &'a [Extent],
    /// Number of an extent that has the chunk.
    slots: Vec<u32>,
    /// Of the chunk in each slot, the offset of a place where it stands.
    places: Vec<AtomicU64>,
}

impl<'a> Sources<'a> {
    /// Knows what is wanted, and no place yet.
    pub(crate) fn new(extents: &'a [Extent]) -> Self {
        let chunks = extents.iter().filter(|at| matches!(at, Extent::Chunk { .. }));
        let size = (chunks.count() * 3 / 2 + 1).next_power_of_two();
        let places = iter::repeat_with(|| AtomicU64::new(NOWHERE)).take(size).collect();
        let mut sources = Sources { extents, slots: vec![EMPTY; size], places };
        for (number, extent) in extents.iter().enumerate().take(EMPTY as usize) {
            if let Extent::Chunk { size, name } = extent {
                let slot = sources.slot(name, *size);
                if sources.slots[slot] == EMPTY {
                    sources.slots[slot] = number as u32;
                }
            }
        }
        sources
    }

    /// The slot of a chunk, or the empty one where it would be.
    fn slot(&self, name: &Digest, size: u32) -> usize {
        let (first, _) = name.as_bytes().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let mut slot = u64::from_le_bytes(*first) as usize % self.slots.len();
        let chunk = Extent::Chunk { size, name: *name };
        while self.slots[slot] != EMPTY
            && self.extents.get(self.slots[slot] as usize) != Some(&chunk)
        {
            slot = (slot + 1) % self.slots.len();
        }
        slot
    }

    /// Whether a chunk is wanted at all.
    pub(crate) fn wants(&self, name: &Digest, size: u32) -> bool {
        self.slots[self.slot(name, size)] != EMPTY
    }

    /// Notes that a chunk stands at `offset`; false where it is not wanted at all.
    pub(crate) fn note(&self, name: &Digest, size: u32, offset: u64) -> bool {
        let slot = self.slot(name, size);
        let wanted = self.slots[slot] != EMPTY;
        if wanted {
            self.places[slot].fetch_min(offset, Ordering::Relaxed);
        }
        wanted
    }

    /// Where a chunk stands.
    pub(crate) fn place(&self, name: &Digest, size: u32) -> Option<u64> {
        let place = self.places[self.slot(name, size)].load(Ordering::Relaxed);
        Some(place).filter(|place| *place != NOWHERE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wanted_chunk_has_the_first_of_its_places() {
        let name = |n: u32| Digest::of(&n.to_le_bytes());
        let mut extents: Vec<_> =
            (0..1000).map(|n| Extent::Chunk { size: 4096, name: name(n % 600) }).collect();
        extents.insert(10, Extent::Zero(8192));
        let sources = Sources::new(&extents);
        for n in 0..1200 {
            assert_eq!(sources.note(&name(n), 4096, u64::from(n) << 20), n < 600);
            sources.note(&name(n), 4096, 7 << 40);
        }
        assert!(!sources.note(&name(1), 8192, 0));
        for n in 0..600 {
            assert_eq!(sources.place(&name(n), 4096), Some(u64::from(n) << 20));
        }
        assert_eq!(sources.place(&name(700), 4096), None);
        assert!(!Sources::new(&[]).note(&name(1), 4096, 0));
    }
}
