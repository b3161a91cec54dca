//! What was deployed to a disk before, by its manifest: it tells where to look.
//!
//! Nothing of it is believed, so it needs neither signature nor index. It is read as it is asked
//! for, once over all parts of an image and a little more, and never in memory.

use std::{
    io::{BufReader, Read},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    Extent, Index, Manifest,
    image::ImageError,
    listed::{Held, Listed, Listing, Rendered},
    manifest::{Header, MAX_HEADER, ManifestError, Mark, Records},
};

/// A manifest of which only its header is known.
pub struct Previous<'a> {
    bytes: Held<'a>,
    header: Header,
    /// The first record, and one that begins nowhere behind what is asked for next.
    marks: Mutex<(Mark, Mark)>,
}

impl<'a> Previous<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// When it does not come or is none.
    pub fn open(listed: Arc<dyn Listed + 'a>) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Read { listing: Listing::Manifest, source };
        let mut bytes = Held::new(listed, Listing::Manifest, MAX_HEADER).map_err(failed)?;
        let mut head = Vec::new();
        let end = bytes.len().min(MAX_HEADER as u64);
        let read = bytes.read(0..end).and_then(|mut stream| stream.read_to_end(&mut head));
        read.map_err(failed)?;
        let (header, start) = Header::parse(&head)?;
        bytes.forget();
        let first = Mark::first(start);
        Ok(Previous { bytes, header, marks: Mutex::new((first, first)) })
    }

    /// What `manifest` says was there.
    ///
    /// # Errors
    /// As [`Previous::open`].
    pub fn of(manifest: &Manifest) -> Result<Self, ImageError> {
        Previous::open(Arc::new(Rendered::of(manifest, &Index::default())))
    }

    /// Tells the extents that begin in a range of the disk, with their offsets. A range that is
    /// asked for later begins at `next` or behind it, or all is read anew.
    pub(crate) fn extents(
        &self,
        range: &Range<u64>,
        next: u64,
        mut told: impl FnMut(u64, Extent),
    ) -> Result<(), ManifestError> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, known) = *marks;
        let mark = if known.offset <= range.start { known } else { first };
        let bytes =
            self.bytes.read(mark.position..self.bytes.len()).map_err(ManifestError::Read)?;
        let mut records = Records::new(BufReader::new(bytes), &self.header, mark);
        while records.mark().offset < range.end {
            let mark = records.mark();
            if mark.offset <= next {
                marks.1 = mark;
            }
            let Some(extent) = records.read()? else { break };
            if mark.offset >= range.start {
                told(mark.offset, extent);
            }
        }
        Ok(())
    }
}
