//! A 32-bit program for the bare machine: what of its file lies where in memory, and where it begins.
//!
//! Tool Interface Standard, Executable and Linking Format 1.2, as far as Multiboot asks for it.

use anyhow::{Context, Result, bail, ensure};

use super::PAGE;

/// `\x7fELF`, 32 bits, little endian.
const MAGIC: [u8; 6] = [0x7f, b'E', b'L', b'F', 1, 1];
const EXECUTABLE: u16 = 2;
const I386: u16 = 3;
/// A program header that says to load something, and how long each of them is.
const LOAD: u32 = 1;
const HEADER: usize = 32;

/// Such a program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Elf<'a> {
    /// Where it begins.
    pub(crate) entry: u32,
    /// What is loaded.
    pub(crate) parts: Vec<Part<'a>>,
}

/// A stretch of memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// Its physical address, on a page.
    pub(crate) at: u32,
    /// What it begins with.
    pub(crate) bytes: &'a [u8],
    /// Its length; what follows the bytes is zero.
    pub(crate) size: u32,
}

impl Part<'_> {
    /// Behind its last byte.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.at) + u64::from(self.size)
    }
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self> {
        ensure!(file.starts_with(&MAGIC), "it is no ELF file of 32 bits");
        let (kind, machine) = (half(file, 16)?, half(file, 18)?);
        ensure!(
            (kind, machine) == (EXECUTABLE, I386),
            "it is of type {kind} for machine {machine}, {EXECUTABLE} for {I386} is accepted"
        );
        let (entry, headers) = (word(file, 24)?, word(file, 28)? as usize);
        let (size, count) = (usize::from(half(file, 42)?), usize::from(half(file, 44)?));
        ensure!(size == HEADER, "its program headers have {size} bytes, {HEADER} are accepted");
        let mut parts = Vec::new();
        for number in 0..count {
            let at = headers.checked_add(number * HEADER).context("a header is beyond it")?;
            if word(file, at)? == LOAD {
                let part = Part::parse(file, at);
                parts.push(part.with_context(|| format!("reading program header {number}"))?);
            }
        }
        let begins = |part: &Part| (u64::from(part.at)..part.end()).contains(&u64::from(entry));
        ensure!(parts.iter().any(begins), "it begins at {entry:#x}, where nothing is loaded");
        Ok(Elf { entry, parts })
    }
}

impl<'a> Part<'a> {
    fn parse(file: &'a [u8], header: usize) -> Result<Self> {
        let word = |offset: usize| word(file, header + offset);
        let (offset, at, length, size) = (word(4)?, word(12)?, word(16)?, word(20)?);
        let bytes = file.get(offset as usize..).and_then(|rest| rest.get(..length as usize));
        let bytes = bytes.context("its bytes are beyond the file")?;
        ensure!(length <= size, "{length} bytes are to be loaded into {size}");
        if at % PAGE != 0 {
            bail!("it lies at {at:#x}, a multiple of {PAGE:#x} is accepted");
        }
        let part = Part { at, bytes, size };
        ensure!(part.end() <= 1 << 32, "it ends at {:#x}, beyond 4 GiB", part.end());
        Ok(part)
    }
}

/// The 32-bit number at an offset.
pub(crate) fn word(file: &[u8], at: usize) -> Result<u32> {
    let bytes = file.get(at..).and_then(|rest| rest.first_chunk());
    bytes.copied().map(u32::from_le_bytes).with_context(|| format!("it ends before byte {at}"))
}

fn half(file: &[u8], at: usize) -> Result<u16> {
    let bytes = file.get(at..).and_then(|rest| rest.first_chunk());
    bytes.copied().map(u16::from_le_bytes).with_context(|| format!("it ends before byte {at}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    /// A program of one part of `size` bytes that begins with `bytes`, loaded and begun at `at`.
    pub(crate) fn program(at: u32, bytes: &[u8], size: u32) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.resize(16, 0);
        file.extend([2, 0, 3, 0, 1, 0, 0, 0]);
        file.extend([at, 52, 0, 0].map(u32::to_le_bytes).concat());
        file.extend([52, 0, 32, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        let length = bytes.len() as u32;
        // A note comes first, and is not loaded.
        file.extend([4, 0, 0, 1, 9, 9, 0, 0].map(u32::to_le_bytes).concat());
        file.extend([LOAD, 116, at, at, length, size, 7, 64].map(u32::to_le_bytes).concat());
        assert_eq!(file.len(), 116);
        file.extend(bytes);
        file
    }

    #[test]
    fn what_is_to_be_loaded_is_read() {
        let file = program(0x20_0000, b"code", 0x1800);
        let parts = vec![Part { at: 0x20_0000, bytes: b"code", size: 0x1800 }];
        assert_eq!(Elf::parse(&file).unwrap(), Elf { entry: 0x20_0000, parts });
    }

    #[test]
    fn what_cannot_be_loaded_is_refused() {
        let spoil: [(usize, u32, &str); 8] = [
            (0, 0, "no ELF"),
            (16, 3, "of type 3 for machine 0"),
            (24, 0x30_0000, "begins at 0x300000"),
            (28, u32::MAX, "ends before byte"),
            (84 + 4, u32::MAX, "beyond the file"),
            (84 + 12, 0x20_0010, "lies at 0x200010"),
            (84 + 16, 5, "beyond the file"),
            (84 + 20, 3, "4 bytes are to be loaded into 3"),
        ];
        for (at, value, said) in spoil {
            let mut file = program(0x20_0000, b"code", 0x1800);
            file[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let error = format!("{:#}", Elf::parse(&file).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
        let high = program(0xffff_f000, b"code", 0x1001);
        assert!(format!("{:#}", Elf::parse(&high).unwrap_err()).contains("beyond 4 GiB"));
    }

    proptest! {
        #[test]
        fn a_damaged_program_is_another_or_an_error(
            changes in vec((0..120_usize, any::<u8>()), 0..6),
            length in 0..121_usize,
        ) {
            let mut file = program(0x20_0000, b"code", 0x1800);
            for (at, to) in changes {
                file[at] = to;
            }
            let _ = Elf::parse(&file[..length]);
        }
    }
}
