//! The location index: where the chunks of a manifest are to be had.
//!
//! Nothing in it is believed, since every chunk is checked by its name; so it is not signed
//! and may be rewritten when a store is repacked.
//!
//! The wire form, little endian: 8 bytes of magic, `u32` packs, `u64` chunks, then 32 bytes a
//! pack (its name) and 12 bytes a chunk extent of the manifest, in the manifest's order:
//! `u32` pack, `u32` offset in it, `u32` length there.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufReader, Read},
    ops::Range,
};

use crate::{Digest, Extent, Manifest, manifest::MAX_CHUNK};

const MAGIC: &[u8; 8] = b"billetx1";
/// Bytes before the packs' names, of a pack's name, and of a chunk's location.
const HEAD: u64 = 20;
const NAME: u64 = 32;
const RECORD: u64 = 12;
/// The longest frame that zstd makes of a chunk: what does not shrink is stored with 1 part in
/// 256 added at most, and a header.
pub const MAX_FRAME: u32 = MAX_CHUNK + MAX_CHUNK / 256 + 64;

/// Where the compressed bytes of a chunk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The pack.
    pub pack: Digest,
    /// Offset of its first byte in the pack.
    pub offset: u32,
    /// How many bytes there.
    pub len: u32,
}

impl Location {
    /// Its bytes in the pack.
    pub fn range(&self) -> Range<u64> {
        let start = u64::from(self.offset);
        start..start + u64::from(self.len)
    }
}

/// Locations of a manifest's chunk extents, by their place in the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    packs: Vec<Digest>,
    chunks: Vec<(u32, u32, u32)>,
}

/// Why some bytes are no index, or not the one of a manifest.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Not the wire form.
    #[error("index {0}")]
    Malformed(&'static str),
    /// It speaks of another number of chunks.
    #[error("index has {index} chunks, the manifest {manifest}")]
    Count {
        /// Chunks of the index.
        index: u64,
        /// Chunk extents of the manifest.
        manifest: u64,
    },
    /// Its bytes do not come.
    #[error("reading the location index")]
    Read(#[source] io::Error),
}

impl Index {
    /// The index that lists `locations` in the order of a manifest's chunk extents.
    pub fn new(locations: impl IntoIterator<Item = Location>) -> Self {
        let mut index = Index::default();
        let mut numbers = HashMap::new();
        for location in locations {
            let number = *numbers.entry(location.pack).or_insert_with(|| {
                index.packs.push(location.pack);
                index.packs.len() as u32 - 1
            });
            index.chunks.push((number, location.offset, location.len));
        }
        index
    }

    /// The packs it speaks of, each once.
    pub fn packs(&self) -> &[Digest] {
        &self.packs
    }

    /// How many chunk extents it locates.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether it locates none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Where the `n`-th chunk extent of the manifest is, from 0.
    pub fn get(&self, n: usize) -> Option<Location> {
        let (number, offset, len) = *self.chunks.get(n)?;
        Some(Location { pack: *self.packs.get(number as usize)?, offset, len })
    }

    /// All of them, in the manifest's order.
    pub fn locations(&self) -> impl Iterator<Item = Location> + '_ {
        (0..self.len()).filter_map(|n| self.get(n))
    }

    /// Refuses an index that is not of `manifest`.
    pub fn check(&self, manifest: &Manifest) -> Result<(), IndexError> {
        let chunks = manifest.extents.iter().filter(|at| matches!(at, Extent::Chunk { .. }));
        let (index, manifest) = (self.len() as u64, chunks.count() as u64);
        if index == manifest { Ok(()) } else { Err(IndexError::Count { index, manifest }) }
    }

    /// The locations of some chunk extents of a manifest that has `all`, out of an index of `len`
    /// bytes, ranges of which `read` gives. In memory is nothing but these, and the names of
    /// their packs.
    pub(crate) fn read_part<R: Read>(
        read: impl Fn(Range<u64>) -> io::Result<R>,
        len: u64,
        all: u64,
        chunks: Range<u64>,
    ) -> Result<Self, IndexError> {
        let head: [u8; HEAD as usize] = bytes(&mut read(0..HEAD.min(len))?)?;
        let (packs, count) = parse_head(&head)?;
        if count != all {
            return Err(IndexError::Count { index: count, manifest: all });
        }
        let records = HEAD + u64::from(packs) * NAME;
        // Both are numbers that a manifest's own count bounds.
        if u64::from(packs) > count || count.saturating_mul(RECORD).saturating_add(records) != len {
            return Err(OTHER_LENGTH);
        }
        let mut part = Index::default();
        let mut numbers = BTreeMap::new();
        let from = records + chunks.start * RECORD;
        let mut stream = BufReader::new(read(from..from + (chunks.end - chunks.start) * RECORD)?);
        for _ in chunks {
            let (pack, offset, len) = parse_record(&bytes(&mut stream)?, packs as usize)?;
            let next = numbers.len() as u32;
            part.chunks.push((*numbers.entry(pack).or_insert(next), offset, len));
        }
        part.packs = vec![Digest::from_bytes([0; 32]); numbers.len()];
        let mut stream = BufReader::new(read(HEAD..records)?);
        let mut at = 0;
        for (pack, number) in numbers {
            let skip = u64::from(pack - at) * NAME;
            io::copy(&mut stream.by_ref().take(skip), &mut io::sink())?;
            part.packs[number as usize] = Digest::from_bytes(bytes(&mut stream)?);
            at = pack + 1;
        }
        Ok(part)
    }

    /// The wire form.
    pub fn render(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20 + self.packs.len() * 32 + self.chunks.len() * 12);
        bytes.extend(MAGIC);
        bytes.extend((self.packs.len() as u32).to_le_bytes());
        bytes.extend((self.chunks.len() as u64).to_le_bytes());
        self.packs.iter().for_each(|pack| bytes.extend(pack.as_bytes()));
        for (pack, offset, len) in &self.chunks {
            [pack, offset, len].iter().for_each(|field| bytes.extend(field.to_le_bytes()));
        }
        bytes
    }

    /// Reads what [`Index::render`] wrote and refuses everything else.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let short = || IndexError::Malformed("is cut short");
        let (head, rest) = bytes.split_first_chunk().ok_or_else(short)?;
        let (packs, chunks) = parse_head(head)?;
        let names = (packs as usize).checked_mul(NAME as usize).ok_or_else(short)?;
        let (names, records) = rest.split_at_checked(names).ok_or_else(short)?;
        let (names, (records, odd)) = (names.as_chunks::<32>().0, records.as_chunks::<12>());
        if records.len() as u64 != chunks || u64::from(packs) > chunks || !odd.is_empty() {
            return Err(OTHER_LENGTH);
        }
        let packs: Vec<_> = names.iter().map(|name| Digest::from_bytes(*name)).collect();
        let chunks = records.iter().map(|record| parse_record(record, packs.len()));
        Ok(Index { chunks: chunks.collect::<Result<_, _>>()?, packs })
    }
}

const OTHER_LENGTH: IndexError = IndexError::Malformed("has another length than it says");

impl From<io::Error> for IndexError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => IndexError::Malformed("is cut short"),
            _ => IndexError::Read(error),
        }
    }
}

/// The next bytes of a stream.
fn bytes<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

/// How many packs and how many chunks an index says that it has.
fn parse_head(head: &[u8; HEAD as usize]) -> Result<(u32, u64), IndexError> {
    let another = IndexError::Malformed("has another format");
    let rest = head.strip_prefix(MAGIC).ok_or(another)?;
    let (packs, chunks) = rest.split_at(4);
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    Ok((number(packs) as u32, number(chunks)))
}

fn parse_record(record: &[u8; 12], packs: usize) -> Result<(u32, u32, u32), IndexError> {
    let (fields, _) = record.as_chunks::<4>();
    let [pack, offset, len] = [0, 1, 2].map(|field| u32::from_le_bytes(fields[field]));
    if pack as usize >= packs {
        return Err(IndexError::Malformed("names a pack that it does not list"));
    }
    if len == 0 || len > MAX_FRAME || offset.checked_add(len).is_none() {
        return Err(IndexError::Malformed("has a chunk of impossible length"));
    }
    Ok((pack, offset, len))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    proptest! {
        #[test]
        fn parse_and_render_are_inverses(chunks in vec((0_u8..4, 0_u32..1 << 24, 1_u32..9999), 0..50)) {
            let locations: Vec<_> = chunks
                .into_iter()
                .map(|(pack, offset, len)| Location { pack: Digest::of(&[pack]), offset, len })
                .collect();
            let index = Index::new(locations.clone());
            let parsed = Index::parse(&index.render()).unwrap();
            assert_eq!(parsed, index);
            assert_eq!(parsed.locations().collect::<Vec<_>>(), locations);
        }

        #[test]
        fn a_part_is_as_if_all_had_been_read(
            chunks in vec((0_u8..9, 0_u32..1 << 24, 1_u32..9999), 0..50),
            cut in (any::<u8>(), any::<u8>()),
        ) {
            let locations: Vec<_> = chunks
                .into_iter()
                .map(|(pack, offset, len)| Location { pack: Digest::of(&[pack]), offset, len })
                .collect();
            let all = locations.len() as u64;
            let [start, end] = [cut.0, cut.1].map(|at| u64::from(at) % (all + 1));
            let (start, end) = (start.min(end), start.max(end));
            let rendered = Index::new(locations.clone()).render();
            let read = |range: Range<u64>| Ok(&rendered[range.start as usize..range.end as usize]);
            let part = Index::read_part(read, rendered.len() as u64, all, start..end).unwrap();
            let expected = &locations[start as usize..end as usize];
            assert_eq!(part.locations().collect::<Vec<_>>(), expected);
            assert_eq!(part, Index::new(expected.iter().copied()));
            let error = Index::read_part(read, rendered.len() as u64, all + 1, 0..0).unwrap_err();
            assert!(matches!(error, IndexError::Count { .. }), "{error}");
        }

        #[test]
        fn a_part_of_any_bytes_is_one_or_an_error(mut bytes in vec(any::<u8>(), 0..200), all in 0_u64..20) {
            for _ in 0..2 {
                let read = |range: Range<u64>| {
                    let [start, end] = [range.start, range.end].map(|at| (at as usize).min(bytes.len()));
                    Ok(&bytes[start..end])
                };
                let _ = Index::read_part(read, bytes.len() as u64, all, 0..all);
                bytes.splice(0..0, MAGIC.iter().copied());
            }
        }

        #[test]
        fn any_bytes_are_an_index_or_an_error(mut bytes in vec(any::<u8>(), 0..200)) {
            let _ = Index::parse(&bytes);
            bytes.splice(0..0, MAGIC.iter().copied());
            let _ = Index::parse(&bytes);
        }

        #[test]
        fn a_damaged_index_never_panics(at in any::<u16>(), to in any::<u8>()) {
            let pack = Digest::of(b"pack");
            let index = Index::new((0..20).map(|n| Location { pack, offset: n * 10, len: 10 }));
            let mut bytes = index.render();
            let at = usize::from(at) % bytes.len();
            bytes[at] = to;
            if let Ok(parsed) = Index::parse(&bytes) {
                assert_eq!(parsed.locations().count(), parsed.len());
            }
        }
    }
}
