//! An image as a writer takes it: part by part, so that memory does not grow with what is on it.
//!
//! A manifest has 37 bytes for each chunk, its index 12, and a writer wants to know as much again
//! of each. So no more than one part of an image is in memory, some 15 GB of content: what is
//! described in less is one part. The manifest is read once for its name and its signature, and
//! the digest of each MiB of it is kept; what is read again later is checked by those. Then every
//! record of it is looked at, so that nothing is written of what is wrong anywhere.

use std::{
    io::{self, Read},
    ops::Range,
    sync::Arc,
};

use crate::{
    Digest, Extent, Index, Manifest,
    index::{IndexError, Location},
    listed::{Held, Listing, Rendered, Stored},
    manifest::{Header, MAX_HEADER, ManifestError, Mark, Records, place},
    text::Text,
};

/// Extents of a part at most.
const PART: usize = 1 << 18;
/// So much is kept of what was read: all that describes an image of one part.
pub(crate) const HELD: usize = PART * 37 + MAX_HEADER;
/// Bytes at either end of a disk whose chunks are known at all times.
const EDGE: u64 = 2 << 20;

/// Why an image cannot be written: what describes it is not to be had, or not right.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Its bytes do not come.
    #[error("reading the {listing}")]
    Read {
        /// Which of the two.
        listing: Listing,
        /// What happened.
        source: io::Error,
    },
    /// They are more than any manifest has.
    #[error("the manifest has {len} bytes, up to {} are accepted", crate::text::LONGEST)]
    TooLong {
        /// How many are said to come.
        len: u64,
    },
    /// They are of another image.
    #[error("manifest {asked} was asked, what came has the name {came}")]
    Name {
        /// The name that was asked for.
        asked: Digest,
        /// The name of what came.
        came: Digest,
    },
    /// They are no manifest.
    #[error("parsing the manifest")]
    Manifest(#[from] ManifestError),
    /// They are no index, or not the one of the manifest.
    #[error("parsing the location index")]
    Index(#[from] IndexError),
}

impl ImageError {
    /// Whether the same may succeed another time: an index is not signed and may have been damaged
    /// on its way; a manifest that has its name is what it is.
    pub fn may_pass(&self) -> bool {
        match self {
            ImageError::Manifest(ManifestError::Read(source))
            | ImageError::Index(IndexError::Read(source))
            | ImageError::Read { source, .. } => {
                !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
            }
            ImageError::TooLong { .. } | ImageError::Name { .. } | ImageError::Index(_) => true,
            ImageError::Manifest(_) => false,
        }
    }
}

/// A chunk and its place: on the disk, and in a pack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) offset: u64,
    pub(crate) size: u32,
    pub(crate) name: Digest,
    pub(crate) at: Location,
}

/// An image whose manifest and index are right.
pub struct Image<'a> {
    header: Header,
    text: Text<'a>,
    index: Held<'a>,
    /// Where each part begins, and where the last one ends.
    marks: Vec<Mark>,
    /// The only part.
    only: Option<Arc<Part>>,
    edges: Vec<Placed>,
}

/// A stretch of an image, and where its chunks are.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Its bytes on the disk.
    pub(crate) range: Range<u64>,
    /// Its extents, none of which reaches beyond.
    pub(crate) extents: Vec<Extent>,
    /// The locations of its chunks.
    pub(crate) index: Index,
    /// Whether no other part follows.
    pub(crate) is_last: bool,
}

impl Part {
    /// Every extent with the offset of its first byte on the disk.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (u64, Extent)> + '_ {
        place(self.range.start, &self.extents)
    }

    /// Where on the disk its chunks are looked for: here, and half as far again behind it. What
    /// stands before was written over. The last part takes all.
    pub(crate) fn reach(&self) -> Range<u64> {
        let Range { start, end } = self.range;
        start..if self.is_last { u64::MAX } else { end + (end - start) / 2 }
    }

    /// The chunks, in the disk's order.
    fn chunks(&self) -> impl Iterator<Item = Placed> + '_ {
        let chunk = |(offset, extent)| match extent {
            Extent::Chunk { size, name } => Some((offset, size, name)),
            Extent::Zero(_) => None,
        };
        let chunks = self.placed().filter_map(chunk).zip(self.index.locations());
        chunks.map(|((offset, size, name), at)| Placed { offset, size, name, at })
    }
}

impl<'a> Image<'a> {
    /// Looks at all that describes an image.
    ///
    /// # Errors
    /// When anything of it is not right.
    pub fn open(text: Text<'a>) -> Result<Self, ImageError> {
        Image::open_in_parts(text, PART)
    }

    /// An image of a store, whoever signed it.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn stored(stored: Stored) -> Result<Self, ImageError> {
        let name = stored.manifest;
        Image::open(Text::read(Arc::new(stored), &name, |_| {})?)
    }

    /// What these two describe, taken in parts of `part` extents at most, one at least.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn of(manifest: &Manifest, index: &Index, part: usize) -> Result<Self, ImageError> {
        let rendered = Rendered::of(manifest, index);
        let name = Digest::of(&rendered.manifest);
        Image::open_in_parts(Text::read(Arc::new(rendered), &name, |_| {})?, part)
    }

    fn open_in_parts(text: Text<'a>, part: usize) -> Result<Self, ImageError> {
        let failed = |listing| move |source| ImageError::Read { listing, source };
        let mut head = vec![0; MAX_HEADER.min(text.bytes.len() as usize)];
        let begins = text.range(0..head.len() as u64).read_exact(&mut head);
        begins.map_err(failed(Listing::Manifest))?;
        let (header, start) = Header::parse(&head)?;
        drop(head);
        let (marks, extents) = survey(&text, &header, start, part.max(1))?;
        let index = Held::new(text.listed.clone(), Listing::Index, HELD);
        let index = index.map_err(failed(Listing::Index))?;
        let (only, edges) = (None, Vec::new());
        let mut image = Image { header, text, index, marks, only, edges };
        match extents {
            Some(extents) => {
                let only = Arc::new(image.part_of(0, extents)?);
                image.edges = image.edges_of(&only).collect();
                image.only = Some(only);
            }
            None => image.survey_parts()?,
        }
        image.text.bytes.forget();
        image.index.forget();
        Ok(image)
    }

    /// Looks at the index, and keeps what is at the edges.
    fn survey_parts(&mut self) -> Result<(), ImageError> {
        for number in 0..self.parts() {
            let part = self.part_of(number, Vec::new())?;
            if self.is_edge(&part.range) {
                let part = self.load(number)?;
                let edges: Vec<_> = self.edges_of(&part).collect();
                self.edges.extend(edges);
            }
        }
        Ok(())
    }

    /// What is known of it but its bytes.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many parts it has, one at least.
    pub(crate) fn parts(&self) -> usize {
        self.marks.len() - 1
    }

    /// The chunks that have bytes in the first and in the last two MiB, in the disk's order.
    pub(crate) fn edges(&self) -> &[Placed] {
        &self.edges
    }

    /// Whether [`Image::edges`] has all chunks of a range.
    pub(crate) fn has_edge(&self, range: &Range<u64>) -> bool {
        range.is_empty() || range.end <= EDGE || range.start >= self.tail()
    }

    /// A part, from 0.
    pub(crate) fn part(&self, number: usize) -> Result<Arc<Part>, ImageError> {
        match &self.only {
            Some(only) => Ok(only.clone()),
            None => self.load(number).map(Arc::new),
        }
    }

    fn load(&self, number: usize) -> Result<Part, ImageError> {
        let [from, to] = self.bounds(number);
        let mut extents = Vec::with_capacity((to.records - from.records) as usize);
        let bytes = self.text.range(from.position..to.position);
        let mut records = Records::new(bytes, &self.header, from);
        while records.mark() != to {
            extents.extend(records.read()?);
        }
        self.part_of(number, extents)
    }

    fn part_of(&self, number: usize, extents: Vec<Extent>) -> Result<Part, ImageError> {
        let [from, to] = self.bounds(number);
        let read = |range| self.index.read(range);
        let all = self.marks.last().map_or(0, |end| end.chunks);
        let index = Index::read_part(read, self.index.len(), all, from.chunks..to.chunks)?;
        let is_last = number + 1 == self.parts();
        Ok(Part { range: from.offset..to.offset, extents, index, is_last })
    }

    fn bounds(&self, number: usize) -> [Mark; 2] {
        [self.marks[number], self.marks[number + 1]]
    }

    /// Where the last two MiB begin.
    fn tail(&self) -> u64 {
        self.header.disk_size.saturating_sub(EDGE)
    }

    fn is_edge(&self, range: &Range<u64>) -> bool {
        range.start < EDGE || range.end > self.tail()
    }

    fn edges_of<'p>(&'p self, part: &'p Part) -> impl Iterator<Item = Placed> + 'p {
        part.chunks()
            .filter(|chunk| self.is_edge(&(chunk.offset..chunk.offset + u64::from(chunk.size))))
    }
}

/// Looks at every record: where parts begin and the last one ends; and the extents, where all are
/// one part.
fn survey(
    text: &Text<'_>,
    header: &Header,
    start: usize,
    part: usize,
) -> Result<(Vec<Mark>, Option<Vec<Extent>>), ManifestError> {
    let bytes = text.range(start as u64..text.bytes.len());
    let mut records = Records::new(bytes, header, Mark::first(start));
    let (mut marks, mut extents) = (vec![records.mark()], Vec::new());
    loop {
        let mark = records.mark();
        let Some(extent) = records.read()? else {
            marks.push(mark);
            let only = marks.len() == 2;
            return Ok((marks, only.then_some(extents)));
        };
        if extents.len() == part {
            marks.push(mark);
            extents.clear();
        }
        extents.push(extent);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    };

    use proptest::{
        collection::vec,
        prelude::{Strategy, any},
        proptest,
    };

    use super::*;
    use crate::{listed::Listed, manifest::BLOCK, previous::Previous, text::WINDOW};

    /// Images whose disks have some dozens of extents.
    fn images() -> impl Strategy<Value = (Manifest, Index)> {
        let extent = (any::<bool>(), 1_u64..=64, any::<u8>());
        vec(extent, 0..60).prop_map(|extents| {
            let (mut all, mut locations) = (Vec::new(), Vec::new());
            for (zero, blocks, seed) in extents {
                if zero {
                    all.push(Extent::Zero(blocks * BLOCK));
                    continue;
                }
                let (name, pack) = (Digest::of(&[seed, 1]), Digest::of(&[seed % 7]));
                all.push(Extent::Chunk { size: (blocks * BLOCK) as u32, name });
                locations.push(Location { pack, offset: u32::from(seed) * 9, len: 7 });
            }
            (Manifest::plain(all), Index::new(locations))
        })
    }

    proptest! {
        #[test]
        fn parts_are_the_whole((manifest, index) in images(), part in 1_usize..70) {
            let image = Image::of(&manifest, &index, part).unwrap();
            let all: Vec<_> = (0..image.parts()).map(|number| image.part(number).unwrap()).collect();
            let extents: Vec<_> = all.iter().flat_map(|part| part.placed()).collect();
            assert_eq!(extents, manifest.placed().collect::<Vec<_>>());
            let locations: Vec<_> = all.iter().flat_map(|part| part.index.locations()).collect();
            assert_eq!(locations, index.locations().collect::<Vec<_>>());
            let chunks = all.iter().flat_map(|part| part.chunks());
            let edges = chunks.filter(|chunk| {
                let end = chunk.offset + u64::from(chunk.size);
                chunk.offset < EDGE || end + EDGE > manifest.header.disk_size
            });
            let offset = |chunk: &Placed| chunk.offset;
            let edges: Vec<_> = edges.map(|chunk| offset(&chunk)).collect();
            assert_eq!(image.edges().iter().map(offset).collect::<Vec<_>>(), edges);
            assert!(all.iter().all(|one| one.extents.len() <= part));
            assert_eq!(all.iter().filter(|part| part.is_last).count(), 1);
        }

        #[test]
        fn what_was_before_is_told_from_anywhere(
            (manifest, _) in images(),
            asked in vec((0_u64..8 << 20, 0_u64..8 << 20, 0_u64..8 << 20), 1..6),
        ) {
            let previous = Previous::of(&manifest).unwrap();
            for (start, len, next) in asked {
                let (range, mut told) = (start..start + len, Vec::new());
                previous.extents(&range, next, |offset, extent| told.push((offset, extent))).unwrap();
                let here = manifest.placed().filter(|(offset, _)| range.contains(offset));
                assert_eq!(told, here.collect::<Vec<_>>());
            }
        }

        #[test]
        fn a_damaged_manifest_or_index_is_an_error_or_right(
            (manifest, index) in images(),
            changes in vec((any::<bool>(), any::<u16>(), any::<u8>()), 1..4),
            part in 1_usize..70,
        ) {
            let mut rendered = Rendered::of(&manifest, &index);
            for (which, at, to) in changes {
                let bytes = if which { &mut rendered.manifest } else { &mut rendered.index };
                let at = usize::from(at) % bytes.len();
                bytes[at] = to;
            }
            let name = Digest::of(&rendered.manifest);
            let text = Text::read(Arc::new(rendered), &name, |_| {}).unwrap();
            if let Ok(image) = Image::open_in_parts(text, part) {
                let parts = (0..image.parts()).map(|number| image.part(number).unwrap());
                let size: u64 = parts.flat_map(|part| part.extents.clone()).map(|at| at.size()).sum();
                assert_eq!(size, image.header().disk_size);
            }
        }
    }

    /// Holds nothing, and may come to say something else.
    struct Fickle {
        rendered: Rendered,
        changed: AtomicBool,
        asked: Mutex<Vec<Range<u64>>>,
    }

    impl Listed for Fickle {
        fn begin(&self, listing: Listing, _: usize) -> io::Result<(Vec<u8>, u64)> {
            Ok((Vec::new(), self.rendered.begin(listing, 0)?.1))
        }

        fn read(
            &self,
            listing: Listing,
            range: Range<u64>,
        ) -> io::Result<Box<dyn Read + Send + '_>> {
            let mut bytes = Vec::new();
            self.rendered.read(listing, range.clone())?.read_to_end(&mut bytes)?;
            if listing == Listing::Manifest {
                self.asked.lock().unwrap().push(range);
                // A chunk's name.
                let last = bytes.len() - 1;
                bytes[last] ^= u8::from(self.changed.load(Ordering::Relaxed));
            }
            Ok(Box::new(io::Cursor::new(bytes)))
        }
    }

    #[test]
    fn a_manifest_that_changes_is_not_believed_and_no_more_is_asked_than_has_to_be() {
        let name = |n: u32| Digest::of(&n.to_le_bytes());
        let extents = (0..100_000).map(|n| Extent::Chunk { size: 4096, name: name(n) });
        let manifest = Manifest::plain(extents.collect());
        let location = Location { pack: name(0), offset: 0, len: 9 };
        let index = Index::new(std::iter::repeat_n(location, 100_000));
        let fickle = Arc::new(Fickle {
            rendered: Rendered::of(&manifest, &index),
            changed: AtomicBool::new(false),
            asked: Mutex::default(),
        });
        let whole = Digest::of(&fickle.rendered.manifest);
        let text = Text::read(fickle.clone(), &whole, |_| {}).unwrap();
        let image = Image::open_in_parts(text, 30_000).unwrap();
        fickle.asked.lock().unwrap().clear();
        assert_eq!(image.part(3).unwrap().extents, manifest.extents[90_000..]);
        let asked = fickle.asked.lock().unwrap().clone();
        let end = fickle.rendered.manifest.len() as u64;
        assert_eq!((asked.len(), &asked[0]), (1, &(3 * WINDOW..end)));
        fickle.changed.store(true, Ordering::Relaxed);
        let error = image.part(3).unwrap_err();
        assert!(error.may_pass(), "{error}");
        let ImageError::Manifest(ManifestError::Read(why)) = error else { panic!("{error}") };
        assert_eq!(why.to_string(), "its bytes are others than they were");
        let other = Digest::of(b"other");
        let error = Text::read(fickle, &other, |_| {}).err().unwrap();
        assert!(matches!(error, ImageError::Name { asked, .. } if asked == other), "{error}");
    }
}
