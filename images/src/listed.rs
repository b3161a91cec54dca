//! Where the manifest and the location index of an image are read, in ranges.

use std::{
    fmt,
    io::{self, Read},
    ops::Range,
    sync::Arc,
};

use crate::{Digest, Index, Manifest, Store, shelf};

/// What describes an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// What the disk is.
    Manifest,
    /// Where its chunks are.
    Index,
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Listing::Manifest => "manifest",
            Listing::Index => "location index",
        })
    }
}

/// Who has what describes one image. What may pass by itself is retried in here; an error of the
/// kinds [`io::ErrorKind::NotFound`] and [`io::ErrorKind::PermissionDenied`] stays.
pub trait Listed: Send + Sync {
    /// The first `most` bytes, or all where they are fewer, and how many there are in all.
    fn begin(&self, listing: Listing, most: usize) -> io::Result<(Vec<u8>, u64)>;

    /// A range of the bytes, which they have.
    fn read(&self, listing: Listing, range: Range<u64>) -> io::Result<Box<dyn Read + Send + '_>>;
}

/// An image of a store.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The store.
    pub store: Store,
    /// The image's manifest.
    pub manifest: Digest,
}

impl Stored {
    fn file(&self, listing: Listing) -> String {
        match listing {
            Listing::Manifest => shelf::manifest(&self.manifest),
            Listing::Index => shelf::index(&self.manifest),
        }
    }
}

impl Listed for Stored {
    fn begin(&self, listing: Listing, most: usize) -> io::Result<(Vec<u8>, u64)> {
        let len = self.store.shelf().facts(&self.file(listing))?.len;
        let mut bytes = Vec::new();
        let beginning = 0..len.min(most as u64);
        self.store.shelf().read(&self.file(listing), Some(beginning))?.read_to_end(&mut bytes)?;
        Ok((bytes, len))
    }

    fn read(&self, listing: Listing, range: Range<u64>) -> io::Result<Box<dyn Read + Send + '_>> {
        self.store.shelf().read(&self.file(listing), Some(range))
    }
}

/// One of the two, as far as its first bytes are in memory.
pub(crate) struct Held<'a> {
    listed: Arc<dyn Listed + 'a>,
    listing: Listing,
    held: Vec<u8>,
    len: u64,
}

impl<'a> Held<'a> {
    /// Holds `most` bytes, or all where they are fewer.
    pub(crate) fn new(
        listed: Arc<dyn Listed + 'a>,
        listing: Listing,
        most: usize,
    ) -> io::Result<Self> {
        let (held, len) = listed.begin(listing, most)?;
        Ok(Held { listed, listing, held, len })
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// A range of them.
    pub(crate) fn read(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send + '_>> {
        let here = |at: u64| at.min(self.held.len() as u64) as usize;
        let held = &self.held[here(range.start)..here(range.end.max(range.start))];
        let start = range.start + held.len() as u64;
        if start >= range.end {
            return Ok(Box::new(held));
        }
        Ok(Box::new(held.chain(self.listed.read(self.listing, start..range.end)?)))
    }

    /// Holds nothing any more.
    pub(crate) fn forget(&mut self) {
        self.held = Vec::new();
    }
}

/// What is in memory.
#[derive(Debug, Clone)]
pub(crate) struct Rendered {
    pub(crate) manifest: Vec<u8>,
    pub(crate) index: Vec<u8>,
}

impl Rendered {
    pub(crate) fn of(manifest: &Manifest, index: &Index) -> Self {
        Rendered { manifest: manifest.render(), index: index.render() }
    }

    fn bytes(&self, listing: Listing) -> &[u8] {
        match listing {
            Listing::Manifest => &self.manifest,
            Listing::Index => &self.index,
        }
    }
}

impl Listed for Rendered {
    fn begin(&self, listing: Listing, most: usize) -> io::Result<(Vec<u8>, u64)> {
        let bytes = self.bytes(listing);
        Ok((bytes[..bytes.len().min(most)].to_vec(), bytes.len() as u64))
    }

    fn read(&self, listing: Listing, range: Range<u64>) -> io::Result<Box<dyn Read + Send + '_>> {
        let bytes = self.bytes(listing).get(range.start as usize..range.end as usize);
        Ok(Box::new(bytes.ok_or(io::ErrorKind::UnexpectedEof)?))
    }
}
