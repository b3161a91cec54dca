//! An image as something to read and seek in: chunks are fetched when their bytes are asked for,
//! and kept. For the few bytes that must be known before a disk is touched.

use std::{
    collections::BTreeMap,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
};

use crate::{
    Digest, Index, Manifest,
    fetch::fetch_chunk,
    index::Location,
    pack::{Decoder, Source},
    write::WriteError,
};

/// A reader's hands.
pub(crate) struct Reader<'a> {
    pub(crate) manifest: &'a Manifest,
    index: &'a Index,
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
    pub(crate) fn new(
        manifest: &'a Manifest,
        index: &'a Index,
        source: &'a dyn Source,
    ) -> io::Result<Self> {
        let (decoder, chunks) = (Decoder::new()?, BTreeMap::new());
        Ok(Reader {
            manifest,
            index,
            source,
            decoder,
            chunks,
            received: 0,
            position: 0,
            failure: None,
        })
    }

    /// The bytes of a range of the disk that the image has.
    pub(crate) fn range(&mut self, range: Range<u64>) -> Result<Vec<u8>, WriteError> {
        let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
        for (offset, size, name, at) in overlapping(self.manifest, self.index, &range) {
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

/// The chunks that have bytes in a range, with their offset and place.
fn overlapping<'a>(
    manifest: &'a Manifest,
    index: &'a Index,
    range: &Range<u64>,
) -> impl Iterator<Item = (u64, u32, Digest, Location)> + use<'a> {
    let Range { start, end } = range.clone();
    manifest
        .chunks()
        .zip(index.locations())
        .take_while(move |((offset, ..), _)| *offset < end)
        .filter(move |((offset, size, _), _)| offset + u64::from(*size) > start)
        .map(|((offset, size, name), at)| (offset, size, name, at))
}

impl Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let end = self.manifest.header.disk_size.min(self.position + bytes.len() as u64);
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
            SeekFrom::End(by) => self.manifest.header.disk_size.checked_add_signed(by),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
