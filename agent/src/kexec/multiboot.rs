//! What a Multiboot kernel asks for, and what it is told.
//!
//! Multiboot Specification 0.6.96, as far as Xen needs it.

use anyhow::{Context, Result, ensure};

use super::{elf::word, memory::Memory};

/// What a kernel finds in its first register.
pub(crate) const LOADED: u32 = 0x2bad_b002;
/// What begins its header, on a word's boundary within the first bytes of its file.
const MAGIC: u32 = 0x1bad_b002;
const SEARCHED: usize = 8192;
/// What a header may ask for: modules on pages, and the memory map. Every bit below the 16th must be
/// understood, and with the 16th the kernel would be none of ELF's.
const UNDERSTOOD: u32 = 0b11;
const ASKED: u32 = 0x1_ffff;

/// Length of the first structure, with all that it could have.
const INFORMATION: u32 = 120;
/// What of it is there: memory, line, modules, memory map, the loader's name.
const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// Lengths of an entry of the memory map, and of one without the word that says it.
const STRETCH: u32 = 24;
const STRETCH_SAYS: u32 = 20;
const MODULE: u32 = 16;
/// Who loaded it. To Xen a name with `GRUB` would mean that lines do not begin with a file's name.
const LOADER: &str = "billet-agent";

/// Makes sure that a file is a kernel that can be started so.
pub(crate) fn check(file: &[u8]) -> Result<()> {
    let is_header = |at: &usize| {
        let words = [0, 4, 8].map(|offset| word(file, at + offset).unwrap_or_default());
        words[0] == MAGIC && words.into_iter().fold(0, u32::wrapping_add) == 0
    };
    let header = (0..SEARCHED.min(file.len())).step_by(4).find(is_header);
    let header = header.context("it has no Multiboot header")?;
    let asked = word(file, header + 4)? & ASKED & !UNDERSTOOD;
    ensure!(asked == 0, "its Multiboot header asks for {asked:#x}, {UNDERSTOOD:#x} is accepted");
    Ok(())
}

/// A file beside the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module<'a> {
    /// Its first byte.
    pub(crate) start: u32,
    /// Behind its last byte.
    pub(crate) end: u32,
    /// Its name, and what it is told.
    pub(crate) line: &'a str,
}

/// What the kernel is told.
#[derive(Debug)]
pub(crate) struct Information<'a> {
    /// Its name and line.
    pub(crate) line: &'a str,
    pub(crate) modules: &'a [Module<'a>],
    pub(crate) memory: &'a Memory,
}

impl Information<'_> {
    /// As it lies at `at` below 4 GiB.
    pub(crate) fn render(&self, at: u32) -> Vec<u8> {
        let stretches = self.memory.stretches();
        let modules_at = at + INFORMATION;
        let map_at = modules_at + MODULE * self.modules.len() as u32;
        let map_size = STRETCH * stretches.len() as u32;
        let mut texts = Texts { at: map_at + map_size, bytes: Vec::new() };
        let kib = |bytes: u64| (bytes >> 10).min(u32::MAX.into()) as u32;
        let (lower, upper) = (self.memory.ram_from(0), self.memory.ram_from(1 << 20));
        let mut words = vec![FLAGS, kib(lower), kib(upper), 0, texts.add(self.line)];
        words.extend([self.modules.len() as u32, modules_at, 0, 0, 0, 0, map_size, map_at]);
        words.extend([0, 0, 0, texts.add(LOADER)]);
        words.resize((INFORMATION / 4) as usize, 0);
        for Module { start, end, line } in self.modules {
            words.extend([*start, *end, texts.add(line), 0]);
        }
        let low_and_high = |number: u64| [number as u32, (number >> 32) as u32];
        for stretch in stretches {
            let length = stretch.range.end - stretch.range.start;
            words.push(STRETCH_SAYS);
            words.extend(low_and_high(stretch.range.start));
            words.extend(low_and_high(length));
            words.push(stretch.kind as u32);
        }
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.extend(texts.bytes);
        bytes
    }
}

/// Texts that end with a zero byte, one after the other.
struct Texts {
    at: u32,
    bytes: Vec<u8>,
}

impl Texts {
    /// Where `text` lies now.
    fn add(&mut self, text: &str) -> u32 {
        let at = self.at + self.bytes.len() as u32;
        self.bytes.extend(text.bytes().filter(|byte| *byte != 0).chain([0]));
        at
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kexec::memory;

    /// A header that asks for `flags`.
    pub(crate) fn header(flags: u32) -> Vec<u8> {
        let sum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(flags);
        [MAGIC, flags, sum].map(u32::to_le_bytes).concat()
    }

    #[test]
    fn a_header_is_found_and_understood() {
        for (before, flags) in [(0, 3), (4, 0), (8188, 3), (128, 0xfffe_0001)] {
            let file = [vec![0x90; before], header(flags)].concat();
            assert!(check(&file).is_ok(), "{before} {flags:#x}");
        }
        for (before, flags, said) in [
            (2, 3, "no Multiboot header"),
            (8192, 3, "no Multiboot header"),
            (4, 7, "asks for 0x4,"),
            (4, 0x1_0003, "asks for 0x10000,"),
        ] {
            let file = [vec![0x90; before], header(flags)].concat();
            let error = check(&file).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let mut wrong = header(3);
        wrong[8] ^= 1;
        assert!(check(&wrong).is_err() && check(&header(3)[..10]).is_err() && check(&[]).is_err());
    }

    /// What a kernel reads, by the offsets of the specification.
    struct Told {
        at: u32,
        bytes: Vec<u8>,
    }

    impl Told {
        fn word(&self, at: u32) -> u32 {
            word(&self.bytes, (at - self.at) as usize).unwrap()
        }

        fn text(&self, at: u32) -> String {
            let rest = &self.bytes[(at - self.at) as usize..];
            let length = rest.iter().position(|byte| *byte == 0).unwrap();
            String::from_utf8(rest[..length].to_vec()).unwrap()
        }
    }

    #[test]
    fn a_kernel_reads_what_it_is_told() {
        let memory = memory::tests::sample();
        let modules = [
            Module { start: 0x60_0000, end: 0x60_1234, line: "/vmlinuz root=a" },
            Module { start: 0x60_2000, end: 0x60_2001, line: "/initrd.img" },
        ];
        let at = 0x70_1000;
        let line = "/boot/xen.gz console=com1";
        let bytes = Information { line, modules: &modules, memory: &memory }.render(at);
        let told = Told { at, bytes };
        assert_eq!(told.word(at), 0b10_0100_1101);
        assert_eq!((told.word(at + 4), told.word(at + 8)), (639, 0x7fee_0000 >> 10));
        assert_eq!(told.text(told.word(at + 16)), line);
        assert_eq!(told.text(told.word(at + 64)), "billet-agent");
        assert_eq!(told.word(at + 20), 2);
        for (number, module) in modules.iter().enumerate() {
            let at = told.word(at + 24) + 16 * number as u32;
            assert_eq!((told.word(at), told.word(at + 4)), (module.start, module.end));
            assert_eq!(told.text(told.word(at + 8)), module.line);
        }
        let (size, map) = (told.word(at + 44), told.word(at + 48));
        assert_eq!(size, 7 * 24);
        let last = map + 6 * 24;
        let words: Vec<u32> = (0..6).map(|number| told.word(last + 4 * number)).collect();
        assert_eq!(words, [20, 0, 1, 0x8000_0000, 0, 1]);
        assert_eq!(told.word(map + 24 + 20), 2);
    }
}
