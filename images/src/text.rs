//! A manifest's bytes, read once for their name and their signature; what is read of them later is
//! what was read then.

use std::{
    io::{self, Read},
    ops::Range,
    sync::Arc,
};

use crate::{
    Digest,
    image::{HELD, ImageError},
    listed::{Held, Listed, Listing},
    manifest::{BLOCK, MAX_DISK, MAX_HEADER},
};

/// Bytes of a manifest that are checked at once.
pub(crate) const WINDOW: u64 = 1 << 20;
/// The longest manifest there can be: the largest disk, each block of it a chunk.
pub(crate) const LONGEST: u64 = MAX_DISK / BLOCK * 37 + MAX_HEADER as u64;

/// A manifest that was read once, and not yet looked at.
pub struct Text<'a> {
    pub(crate) listed: Arc<dyn Listed + 'a>,
    pub(crate) bytes: Held<'a>,
    /// The digest of each window.
    windows: Vec<Digest>,
}

impl<'a> Text<'a> {
    /// Reads the manifest called `name`, and gives all bytes of it to `also`, in their order.
    ///
    /// # Errors
    /// When its bytes do not come or have another name.
    pub fn read(
        listed: Arc<dyn Listed + 'a>,
        name: &Digest,
        mut also: impl FnMut(&[u8]),
    ) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Read { listing: Listing::Manifest, source };
        let bytes = Held::new(listed.clone(), Listing::Manifest, HELD).map_err(failed)?;
        if bytes.len() > LONGEST {
            return Err(ImageError::TooLong { len: bytes.len() });
        }
        let (mut whole, mut windows) = (blake3::Hasher::new(), Vec::new());
        let mut stream = bytes.read(0..bytes.len()).map_err(failed)?;
        let mut room = vec![0; WINDOW.min(bytes.len()) as usize];
        for start in (0..bytes.len()).step_by(WINDOW as usize) {
            let window = &mut room[..WINDOW.min(bytes.len() - start) as usize];
            stream.read_exact(window).map_err(failed)?;
            whole.update(window);
            also(window);
            windows.push(Digest::of(window));
        }
        drop(stream);
        let came = Digest::from_bytes(*whole.finalize().as_bytes());
        if came != *name {
            return Err(ImageError::Name { asked: *name, came });
        }
        Ok(Text { listed, bytes, windows })
    }

    /// The bytes of a range, each window as it was when it was read first.
    pub(crate) fn range(&self, range: Range<u64>) -> Windows<'_> {
        Windows { text: self, stream: None, range, window: Vec::new(), at: 0 }
    }
}

/// Bytes of a manifest that are read once more.
pub(crate) struct Windows<'t> {
    text: &'t Text<'t>,
    stream: Option<Box<dyn Read + Send + 't>>,
    /// What is still to come; its first bytes may be in `window`, from `at` on.
    range: Range<u64>,
    window: Vec<u8>,
    at: usize,
}

impl Windows<'_> {
    /// Reads the next window.
    fn turn(&mut self) -> io::Result<()> {
        let number = self.range.start / WINDOW;
        let start = number * WINDOW;
        if self.stream.is_none() {
            let end = self.range.end.next_multiple_of(WINDOW).min(self.text.bytes.len());
            self.stream = Some(self.text.bytes.read(start..end)?);
        }
        self.window.resize(WINDOW.min(self.text.bytes.len() - start) as usize, 0);
        if let Some(stream) = &mut self.stream {
            stream.read_exact(&mut self.window)?;
        }
        if self.text.windows.get(number as usize) != Some(&Digest::of(&self.window)) {
            return Err(io::Error::other("its bytes are others than they were"));
        }
        self.at = (self.range.start - start) as usize;
        Ok(())
    }
}

impl Read for Windows<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.range.is_empty() {
            return Ok(0);
        }
        if self.at == self.window.len() {
            self.turn()?;
        }
        let left = (self.range.end - self.range.start).min(bytes.len() as u64) as usize;
        let read = (&self.window[self.at..]).read(&mut bytes[..left])?;
        self.at += read;
        self.range.start += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says that there is no end.
    struct Endless;

    impl Listed for Endless {
        fn begin(&self, _: Listing, most: usize) -> io::Result<(Vec<u8>, u64)> {
            Ok((vec![b' '; most], u64::MAX))
        }

        fn read(&self, _: Listing, _: Range<u64>) -> io::Result<Box<dyn Read + Send + '_>> {
            Ok(Box::new(io::repeat(b' ')))
        }
    }

    #[test]
    fn a_manifest_without_an_end_is_refused_at_once() {
        let error = Text::read(Arc::new(Endless), &Digest::of(b""), |_| {}).err().unwrap();
        let text = error.to_string();
        assert!(text.starts_with("the manifest has 18446744073709551615 bytes, up to "), "{text}");
        assert!(error.may_pass());
    }
}
