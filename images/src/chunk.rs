//! Where content cuts a disk into chunks.
//!
//! The disk is looked at in blocks of 4 KiB, because file systems put files there. A block
//! whose checksum has its low bits zero ends a chunk; so does a run of zeros, and so do
//! 256 KiB. The cuts depend on nothing but the bytes near them, and a file that was laid out
//! elsewhere is cut as before.

use crate::{
    checksum::{checksum, is_zero},
    manifest::{BLOCK, MAX_CHUNK},
};

const BLOCK_BYTES: usize = BLOCK as usize;
/// One block in 16 ends a chunk: 64 KiB in the mean.
const CUT_MASK: u64 = 15;

/// A piece of a disk whose place is known and whose name is not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// So many bytes of zeros.
    Zero(u64),
    /// So many bytes of something.
    Chunk(u32),
}

impl Cut {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Cut::Zero(size) => *size,
            Cut::Chunk(size) => u64::from(*size),
        }
    }
}

/// Cuts a disk that comes in parts.
#[derive(Debug, Default)]
pub struct Cutter {
    /// The piece that is open: the blocks seen since the last cut.
    open: Option<Cut>,
}

impl Cutter {
    /// Looks at the next bytes, whole blocks but at the end of the disk, and gives the pieces
    /// that ended in them, each with the offset in `bytes` where it ends; the rest stays open.
    pub fn cut(&mut self, bytes: &[u8], mut piece: impl FnMut(Cut, usize)) {
        let mut at = 0;
        for block in bytes.chunks(BLOCK_BYTES) {
            if is_zero(block) {
                self.zero(block.len() as u64, |cut| piece(cut, at));
                at += block.len();
            } else {
                self.data(block, at, &mut piece);
                at += block.len();
            }
        }
    }

    /// The next bytes are this many zeros.
    pub fn zero(&mut self, len: u64, mut piece: impl FnMut(Cut)) {
        match &mut self.open {
            Some(Cut::Zero(size)) => *size += len,
            open => {
                let before = open.replace(Cut::Zero(len));
                before.into_iter().for_each(&mut piece);
            }
        }
    }

    fn data(&mut self, block: &[u8], at: usize, mut piece: impl FnMut(Cut, usize)) {
        let before = match self.open.take() {
            Some(Cut::Chunk(size)) => size,
            zeros => {
                zeros.into_iter().for_each(|zeros| piece(zeros, at));
                0
            }
        };
        let size = before + block.len() as u32;
        if size >= MAX_CHUNK || checksum(block) & CUT_MASK == 0 {
            piece(Cut::Chunk(size), at + block.len());
        } else {
            self.open = Some(Cut::Chunk(size));
        }
    }

    /// Bytes of the chunk that is open.
    pub fn open_chunk(&self) -> usize {
        match self.open {
            Some(Cut::Chunk(size)) => size as usize,
            _ => 0,
        }
    }

    /// The disk is at its end: the piece that was open.
    pub fn finish(self) -> Option<Cut> {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    fn cuts(parts: &[&[u8]]) -> Vec<Cut> {
        let (mut cutter, mut cuts) = (Cutter::default(), Vec::new());
        parts.iter().for_each(|part| cutter.cut(part, |cut, _| cuts.push(cut)));
        cuts.extend(cutter.finish());
        cuts
    }

    /// A disk of blocks that are zero, alike, or noise.
    fn disk(blocks: &[u8]) -> Vec<u8> {
        let noise = |seed: u8, n: usize| (seed as usize * 31 + n * n / 7 + n) as u8;
        let block = |(at, kind): (usize, &u8)| match kind % 4 {
            0 => vec![0; BLOCK_BYTES],
            1 => vec![*kind; BLOCK_BYTES],
            _ => (0..BLOCK_BYTES).map(|n| noise(*kind, n + at)).collect(),
        };
        blocks.iter().enumerate().flat_map(block).collect()
    }

    proptest! {
        #[test]
        fn cuts_cover_the_disk_and_zeros_stand_apart(blocks in vec(any::<u8>(), 0..300), short in 0_usize..4096) {
            let mut disk = disk(&blocks);
            disk.truncate(disk.len().saturating_sub(short));
            let mut offset = 0;
            for cut in cuts(&[&disk]) {
                let end = offset + cut.size() as usize;
                let bytes = &disk[offset..end];
                match cut {
                    Cut::Zero(_) => assert!(is_zero(bytes)),
                    Cut::Chunk(size) => {
                        assert!(size <= MAX_CHUNK);
                        assert!(!bytes.chunks(BLOCK_BYTES).any(is_zero));
                    }
                }
                assert!(cut.size() > 0 && (end.is_multiple_of(BLOCK_BYTES) || end == disk.len()));
                offset = end;
            }
            assert_eq!(offset, disk.len());
        }

        #[test]
        fn cuts_do_not_depend_on_the_parts(blocks in vec(any::<u8>(), 1..200), at in any::<u16>()) {
            let disk = disk(&blocks);
            let (first, second) = disk.split_at(usize::from(at) % blocks.len() * BLOCK_BYTES);
            assert_eq!(cuts(&[&disk]), cuts(&[first, second]));
        }
    }

    #[test]
    fn chunks_have_64_kib_in_the_mean() {
        let mut seed = 7_u64;
        let disk: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            seed.to_be_bytes()
        })
        .take(16 << 17)
        .flatten()
        .collect();
        let mean = disk.len() / cuts(&[&disk]).len();
        assert!((56 << 10..72 << 10).contains(&mean), "{mean}");
    }
}
