//! Two images beside one another: what of the second one who has the first need not fetch.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::{Digest, Extent, Index, Manifest, Store};

/// Distinct chunks, each counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    /// How many.
    pub chunks: u64,
    /// Their bytes on a disk, where each stands once.
    pub bytes: u64,
    /// Their compressed bytes.
    pub packed: u64,
}

impl Part {
    fn add(&mut self, chunk: Weight) {
        self.chunks += 1;
        self.bytes += u64::from(chunk.size);
        self.packed += u64::from(chunk.packed);
    }
}

/// What two images have in common and what not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Chunks that both have.
    pub common: Part,
    /// Chunks of the second that the first has not: what its deployment over the first fetches.
    pub new: Part,
    /// Chunks of the first that the second has not.
    pub gone: Part,
    /// Bytes of the second's disk that stand in the first's at the same place, zeros not counted.
    pub in_place: u64,
    /// Bytes of the second's disk that stand in the first's at another place.
    pub elsewhere: u64,
}

/// Bytes of a chunk, plain and compressed.
#[derive(Debug, Clone, Copy)]
struct Weight {
    size: u32,
    packed: u32,
}

impl Diff {
    /// Compares two images, each a manifest and its index.
    pub fn new(first: (&Manifest, &Index), second: (&Manifest, &Index)) -> Self {
        let (before, after) = (weights(first), weights(second));
        let mut diff = Diff::default();
        for (name, weight) in &after {
            let part = if before.contains_key(name) { &mut diff.common } else { &mut diff.new };
            part.add(*weight);
        }
        before
            .iter()
            .filter(|(name, _)| !after.contains_key(*name))
            .for_each(|(_, weight)| diff.gone.add(*weight));
        let places: HashMap<u64, Extent> = first.0.placed().collect();
        for (offset, extent) in second.0.placed() {
            let Extent::Chunk { size, name } = extent else { continue };
            if places.get(&offset) == Some(&extent) {
                diff.in_place += u64::from(size);
            } else if before.contains_key(&name) {
                diff.elsewhere += u64::from(size);
            }
        }
        diff
    }
}

fn weights((manifest, index): (&Manifest, &Index)) -> BTreeMap<Digest, Weight> {
    let weights = manifest.chunks().zip(index.locations());
    weights.map(|((_, size, name), at)| (name, Weight { size, packed: at.len })).collect()
}

impl Store {
    /// What two images have in common and what not.
    pub fn diff(&self, first: &Digest, second: &Digest) -> anyhow::Result<Diff> {
        let read = |name| anyhow::Ok((self.manifest(name)?, self.index(name)?));
        let (first, second) = (read(first)?, read(second)?);
        Ok(Diff::new((&first.0, &first.1), (&second.0, &second.1)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;
    use crate::index::Location;

    /// A disk of chunks by number, 0 a block of zeros; chunk `n` has `n` blocks.
    fn image(numbers: &[u8]) -> (Manifest, Index) {
        let extent = |n: &u8| match n {
            0 => Extent::Zero(4096),
            n => Extent::Chunk { size: u32::from(*n) * 4096, name: Digest::of(&[*n]) },
        };
        let extents = numbers.iter().map(extent).collect();
        let pack = Digest::of(b"pack");
        let places = numbers.iter().filter(|n| **n > 0);
        let places = places.map(|n| Location { pack, offset: 0, len: u32::from(*n) });
        (Manifest::plain(extents), Index::new(places))
    }

    fn diff(first: &[u8], second: &[u8]) -> Diff {
        let (first, second) = (image(first), image(second));
        Diff::new((&first.0, &first.1), (&second.0, &second.1))
    }

    #[test]
    fn chunks_are_counted_once_and_places_every_time() {
        let diff = diff(&[1, 0, 2, 3], &[1, 0, 2, 2, 4, 1]);
        let part = |chunks, blocks: u64, packed| Part { chunks, bytes: blocks * 4096, packed };
        assert_eq!(diff.common, part(2, 3, 3));
        assert_eq!((diff.new, diff.gone), (part(1, 4, 4), part(1, 3, 3)));
        assert_eq!((diff.in_place, diff.elsewhere), (3 * 4096, 3 * 4096));
    }

    proptest! {
        #[test]
        fn the_other_way_round_new_is_gone(first in vec(0_u8..9, 0..20), second in vec(0_u8..9, 0..20)) {
            let (there, back) = (diff(&first, &second), diff(&second, &first));
            assert_eq!((there.new, there.common), (back.gone, back.common));
            let same = diff(&first, &first);
            assert_eq!((same.new, same.gone, same.elsewhere), (Part::default(), Part::default(), 0));
        }

        #[test]
        fn every_byte_is_somewhere(first in vec(0_u8..9, 0..20), second in vec(any::<u8>(), 0..20)) {
            let diff = diff(&first, &second);
            let all: u64 = second.iter().map(|n| u64::from(*n) * 4096).sum();
            assert!(diff.in_place + diff.elsewhere <= all);
            assert_eq!(diff.in_place + diff.elsewhere == all, diff.new == Part::default());
        }
    }
}
