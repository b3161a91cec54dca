//! Frames of a store's packs, one after the other: those that follow one another in a pack come
//! out of one stream, so that a bucket is asked once and not for every chunk.

use std::io::{self, Read};

use crate::{
    Digest, Store,
    index::Location,
    pack::{LONGEST, Source as _},
};

/// Reads frames.
pub(crate) struct Frames<'a> {
    store: &'a Store,
    /// A pack and where in it the stream stands.
    open: Option<(Digest, u64, Box<dyn Read + Send + 'a>)>,
}

impl<'a> Frames<'a> {
    /// Nothing is open yet.
    pub(crate) fn new(store: &'a Store) -> Self {
        Frames { store, open: None }
    }

    /// Reads the bytes at `at` to the whole of `frame`, unchecked.
    pub(crate) fn read(&mut self, at: &Location, frame: &mut Vec<u8>) -> io::Result<()> {
        let range = at.range();
        let mut stream = match self.open.take() {
            Some((pack, place, stream)) if pack == at.pack && place == range.start => stream,
            _ => self.store.read(&at.pack, range.start..range.start + LONGEST as u64)?,
        };
        frame.resize(at.len as usize, 0);
        stream.read_exact(frame)?;
        self.open = Some((at.pack, range.end, stream));
        Ok(())
    }
}
