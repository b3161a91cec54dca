//! The edges of an image as something to read and seek in: chunks are fetched when their bytes are
//! asked for, and kept. For the few bytes that must be known before a disk is touched.

use std::{
    collections::BTreeMap,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
};

use crate::{
    Digest,
    fetch::fetch_chunk,
    image::{Image, Placed},
    index::Location,
    pack::{Decoder, Source},
    table::TableError,
    write::WriteError,
};

/// A reader's hands.
pub(crate) struct Reader<'a> {
    pub(crate) image: &'a Image<'a>,
    source: &'a dyn Source,
    decoder: Decoder,
    /// Chunks that were fetched, by their offset on the disk.
    pub(crate) chunks: BTreeMap<u64, Vec<u8>>,
    /// Bytes that travelled for them.
    pub(crate) received: u64,
    position: u64,
    /// What went wrong, for who wants more than an I/O error tells.
    pub(crate) failure: Option<WriteError>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(image: &'a Image<'a>, source: &'a dyn Source) -> io::Result<Self> {
        let (decoder, chunks) = (Decoder::new()?, BTreeMap::new());
        Ok(Reader { image, source, decoder, chunks, received: 0, position: 0, failure: None })
    }

    /// The bytes of a range of the disk that the image has.
    pub(crate) fn range(&mut self, range: Range<u64>) -> Result<Vec<u8>, WriteError> {
        let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
        if !self.image.has_edge(&range) {
            return Err(TableError::Value {
                what: format!("that it is at bytes {} to {}", range.start, range.end),
                accepted: "one in the first or the last MiB of the disk".to_owned(),
            }
            .into());
        }
        let image = self.image;
        let overlaps = |chunk: &&Placed| {
            chunk.offset < range.end && chunk.offset + u64::from(chunk.size) > range.start
        };
        for Placed { offset, size, name, at } in image.edges().iter().filter(overlaps).copied() {
            self.fetch(offset, size, &name, at)?;
            let chunk = self.chunks.get(&offset).map_or(&[][..], Vec::as_slice);
            let from = range.start.max(offset);
            let to = range.end.min(offset + chunk.len() as u64);
            bytes[(from - range.start) as usize..(to - range.start) as usize]
                .copy_from_slice(&chunk[(from - offset) as usize..(to - offset) as usize]);
        }
        Ok(bytes)
    }

    fn fetch(
        &mut self,
        offset: u64,
        size: u32,
        name: &Digest,
        at: Location,
    ) -> Result<(), WriteError> {
        if self.chunks.contains_key(&offset) {
            return Ok(());
        }
        let mut chunk = vec![0; size as usize];
        let mut fetch = || fetch_chunk(self.source, &mut self.decoder, at, name, &mut chunk);
        match fetch() {
            Err(WriteError::Corrupt { .. }) => fetch()?,
            result => result?,
        }
        self.received += u64::from(at.len);
        self.chunks.insert(offset, chunk);
        Ok(())
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let end = self.image.header().disk_size.min(self.position + bytes.len() as u64);
        let found = self.range(self.position..end.max(self.position)).map_err(|error| {
            let short = io::Error::other(error.to_string());
            self.failure = Some(error);
            short
        })?;
        bytes[..found.len()].copy_from_slice(&found);
        self.position += found.len() as u64;
        Ok(found.len())
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.image.header().disk_size.checked_add_signed(by),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
