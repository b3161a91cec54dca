//! A pack: zstd frames one after the other, one a chunk, in the order of the disk they came
//! from; named by the BLAKE3 of the whole. It needs no table of contents, the location index is
//! one, and `zstd -d` alone gives its chunks back to back.

use std::{
    io::{self, Read},
    ops::Range,
    str::FromStr,
};

use zstd::zstd_safe::{CParameter, ParamSwitch};

use crate::{Digest, index::MAX_FRAME};

/// A pack is closed when it has this many bytes: large enough for large ranges, small enough
/// to be rewritten, cached and held in memory.
pub const FULL: usize = 8 << 20;
/// The longest pack there can be.
pub const LONGEST: usize = FULL + MAX_FRAME as usize;

/// What frames are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// For nodes: literals stand as they are, without Huffman codes, and no match is shorter than 5 bytes. Of a
    /// Debian's disk that is 5 % more than level 6 makes with both, and takes 20 % less time to decompress.
    #[default]
    Fast,
    /// For links: 13 % fewer bytes than `Fast`, made in eight times the time and decompressed in 1.7 times.
    Small,
}

impl Compression {
    /// All there are, with the names that people use.
    pub const ALL: [(&'static str, Compression); 2] =
        [("fast", Compression::Fast), ("small", Compression::Small)];

    /// What zstd is told.
    fn parameters(self) -> &'static [CParameter] {
        match self {
            Compression::Fast => &[
                CParameter::CompressionLevel(7),
                CParameter::MinMatch(5),
                CParameter::LiteralCompressionMode(ParamSwitch::Disable),
            ],
            Compression::Small => &[CParameter::CompressionLevel(15)],
        }
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Compression::ALL.into_iter().find(|(name, _)| *name == text);
        known.map(|(_, it)| it).ok_or_else(|| format!("`{text}` is none: fast and small are"))
    }
}

/// Where packs are to be had. A folder is one, a provisioner's HTTP server another.
pub trait Source: Sync {
    /// The bytes `range` of `pack`, as a stream. What may pass by itself (a connection lost, a
    /// server restarting) is retried in here, in the middle of the stream too; an error is final.
    fn read(&self, pack: &Digest, range: Range<u64>) -> io::Result<Box<dyn Read + Send + '_>>;
}

/// Why a frame does not give the chunk it should.
#[derive(Debug, thiserror::Error)]
pub enum BadChunk {
    /// Not a whole zstd frame.
    #[error("it does not decompress")]
    Frame(#[source] io::Error),
    /// A frame of something else.
    #[error("it has {got} bytes, {wanted} are expected")]
    Size {
        /// Bytes expected.
        wanted: usize,
        /// Bytes found.
        got: usize,
    },
    /// The bytes are not the ones that were named.
    #[error("its bytes have the name {got}")]
    Name {
        /// What the bytes are called.
        got: Digest,
    },
}

/// Makes frames of chunks.
pub struct Encoder {
    compressor: zstd::bulk::Compressor<'static>,
    frame: Vec<u8>,
}

impl Encoder {
    /// An encoder.
    pub fn new(compression: Compression) -> io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::default();
        for parameter in compression.parameters() {
            compressor.set_parameter(*parameter)?;
        }
        // The chunk's name checks it, and better.
        compressor.include_checksum(false)?;
        compressor.include_contentsize(true)?;
        Ok(Encoder { compressor, frame: Vec::with_capacity(MAX_FRAME as usize) })
    }

    /// Appends the frame of `chunk`, at most 256 KiB, to `frames` and returns its
    /// length.
    pub fn append(&mut self, chunk: &[u8], frames: &mut Vec<u8>) -> io::Result<u32> {
        self.frame.clear();
        let len = self.compressor.compress_to_buffer(chunk, &mut self.frame)?;
        frames.extend_from_slice(&self.frame);
        Ok(len as u32)
    }
}

/// Makes chunks of frames, and believes none.
pub struct Decoder(zstd::bulk::Decompressor<'static>);

impl Decoder {
    /// A decoder.
    pub fn new() -> io::Result<Self> {
        Ok(Decoder(zstd::bulk::Decompressor::new()?))
    }

    /// Decompresses a frame of unknown length into `bytes`, and believes what comes.
    pub(crate) fn decode_any(&mut self, frame: &[u8], bytes: &mut [u8]) -> io::Result<usize> {
        self.0.decompress_to_buffer(frame, bytes)
    }

    /// Fills `chunk` from `frame` and checks that it is the one called `name`.
    pub fn decode(
        &mut self,
        frame: &[u8],
        name: &Digest,
        chunk: &mut [u8],
    ) -> Result<(), BadChunk> {
        let wanted = chunk.len();
        let got = self.0.decompress_to_buffer(frame, chunk).map_err(BadChunk::Frame)?;
        if got != wanted {
            return Err(BadChunk::Size { wanted, got });
        }
        match Digest::of(chunk) {
            got if got == *name => Ok(()),
            got => Err(BadChunk::Name { got }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest, sample::select};

    use super::*;
    use crate::manifest::MAX_CHUNK;

    #[test]
    fn what_is_made_for_nodes_has_no_huffman_codes_and_what_is_for_links_is_shorter() {
        // Letters of few kinds in no order: nothing matches, and Huffman codes would halve them.
        let mut seed = 1_u32;
        let letters: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'a' + (seed >> 28) as u8
        })
        .take(100_000)
        .collect();
        let frames = Compression::ALL.map(|(_, compression)| {
            let mut frame = Vec::new();
            Encoder::new(compression).unwrap().append(&letters, &mut frame).unwrap();
            let mut chunk = vec![0; letters.len()];
            Decoder::new().unwrap().decode(&frame, &Digest::of(&letters), &mut chunk).unwrap();
            frame.len()
        });
        assert!(frames[1] * 3 < frames[0] * 2, "{frames:?}");
    }

    #[test]
    fn a_compression_has_a_name() {
        for (name, compression) in Compression::ALL {
            assert_eq!(name.parse(), Ok(compression));
        }
        assert!("19".parse::<Compression>().is_err_and(|error| error.contains("fast and small")));
    }

    #[test]
    fn what_does_not_shrink_fits_the_longest_frame() {
        let mut seed = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (seed >> 56) as u8
        })
        .take(MAX_CHUNK as usize)
        .collect();
        for (_, compression) in Compression::ALL {
            let mut frames = Vec::new();
            let len = Encoder::new(compression).unwrap().append(&noise, &mut frames).unwrap();
            assert!(len <= MAX_FRAME, "{len}");
            assert!(zstd::zstd_safe::compress_bound(noise.len()) <= frames.len() + 2048);
            let mut chunk = vec![0; noise.len()];
            Decoder::new().unwrap().decode(&frames, &Digest::of(&noise), &mut chunk).unwrap();
            assert_eq!(chunk, noise);
        }
    }

    proptest! {
        #[test]
        fn a_frame_gives_its_chunk_and_nothing_else(chunk in vec(any::<u8>(), 1..5000), other in 0_usize..9000) {
            let name = Digest::of(&chunk);
            let mut frames = vec![1, 2, 3];
            let len = Encoder::new(Compression::Fast).unwrap().append(&chunk, &mut frames).unwrap() as usize;
            assert_eq!(frames.len(), 3 + len);
            let mut decoder = Decoder::new().unwrap();
            let mut out = vec![0; chunk.len()];
            decoder.decode(&frames[3..], &name, &mut out).unwrap();
            assert_eq!(out, chunk);
            assert!(matches!(decoder.decode(&frames[3..], &Digest::of(b"x"), &mut out), Err(BadChunk::Name { .. })));
            out.resize(other, 0);
            assert_eq!(decoder.decode(&frames[3..], &name, &mut out).is_ok(), other == chunk.len());
        }

        /// Also one whose head promises another length or a large window: there is room for the
        /// chunk, and nothing more is ever asked for.
        #[test]
        fn a_damaged_frame_is_an_error_or_the_chunk(
            chunk in vec(0_u8..16, 1..20_000),
            changes in vec((any::<u16>(), any::<u8>()), 1..4),
            cut in 0_usize..40,
            compression in select(&Compression::ALL[..]),
        ) {
            let name = Digest::of(&chunk);
            let mut frame = Vec::new();
            Encoder::new(compression.1).unwrap().append(&chunk, &mut frame).unwrap();
            for (number, (at, to)) in changes.into_iter().enumerate() {
                // One at least in the frame's head.
                let most = if number == 0 { frame.len().min(18) } else { frame.len() };
                frame[usize::from(at) % most] = to;
            }
            frame.truncate(frame.len().saturating_sub(cut));
            let mut out = vec![0; chunk.len()];
            if Decoder::new().unwrap().decode(&frame, &name, &mut out).is_ok() {
                assert_eq!(out, chunk);
            }
            assert_eq!(out.capacity(), chunk.len());
        }

        #[test]
        fn foreign_bytes_are_no_frame(bytes in vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new().unwrap();
            assert!(decoder.decode(&bytes, &Digest::of(b"x"), &mut [0; 100]).is_err());
        }
    }
}
