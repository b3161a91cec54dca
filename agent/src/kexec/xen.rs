//! Xen, what it starts and what both are told, laid out in memory. Pure.

use std::{borrow::Cow, io::Read, ops::Range};

use anyhow::{Context, Result, ensure};
use flate2::bufread::GzDecoder;
use images::manifest::{Boot, Hypervisor};
use xen_config::{
    CommandLine,
    boot::{self, Lines},
};

use super::{
    PAGE,
    elf::Elf,
    memory::Memory,
    multiboot::{self, Information, Module},
    purgatory,
};

/// What begins a file of gzip's (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// What Xen is told is copied below 1 MiB, where it keeps so much free (`MBI_SPACE_MIN`).
const ROOM: u32 = 2 * PAGE;

/// A file and what it is told.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(crate) bytes: &'a [u8],
    /// The file's name comes first: only of GRUB does Xen not expect that.
    pub(crate) line: String,
}

/// What kexec is given.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    /// Where 64-bit code begins.
    pub(crate) entry: u32,
    /// What lies where, apart from each other.
    pub(crate) segments: Vec<Segment<'a>>,
}

/// Bytes that lie at a place.
#[derive(Debug)]
pub(crate) struct Segment<'a> {
    /// On a page.
    pub(crate) at: u32,
    /// In pages; what follows the bytes is zero.
    pub(crate) size: u64,
    pub(crate) bytes: Cow<'a, [u8]>,
}

/// The lines of Xen and of the service domain's kernel. GRUB would take them from `own`, the seed's
/// `billet/xen.cfg`, and else from the image.
pub(crate) fn lines(
    boot: &Boot,
    hypervisor: &Hypervisor,
    own: Option<&str>,
) -> Result<(String, String)> {
    let own: Lines = own.map(str::parse).transpose()?.unwrap_or_default();
    let xen = own.xen.unwrap_or_else(|| CommandLine::parse(&hypervisor.xen_line));
    let linux = own.linux.unwrap_or_else(|| CommandLine::parse(&hypervisor.linux_line));
    let xen = format!("{} {xen} {}", hypervisor.xen, boot::NO_BIOS);
    Ok((xen, format!("{} {} {linux}", boot.kernel, boot.command_line)))
}

/// A file of gzip's as what it was, any other as it is; at most `limit` bytes.
pub(crate) fn unpack(file: Vec<u8>, limit: u64) -> Result<Vec<u8>> {
    if !file.starts_with(&GZIP) {
        return Ok(file);
    }
    let mut unpacked = Vec::new();
    GzDecoder::new(&file[..]).take(limit + 1).read_to_end(&mut unpacked)?;
    ensure!(unpacked.len() as u64 <= limit, "it has more than {limit} bytes when unpacked");
    Ok(unpacked)
}

impl<'a> Layout<'a> {
    /// Xen, an unpacked file, with the files that it starts.
    pub(crate) fn of(xen: &Told<'a>, files: &'a [Told<'a>], memory: &Memory) -> Result<Self> {
        multiboot::check(xen.bytes)?;
        let elf = Elf::parse(xen.bytes)?;
        let mut segments = Vec::new();
        for part in elf.parts {
            let range = part.at.into()..part.end();
            ensure!(memory.is_free(&range), "it wants {range:#x?}, which is not all free RAM");
            segments.push(Segment::new(part.at, part.size.into(), part.bytes));
        }
        let mut modules = Vec::new();
        for Told { bytes, line } in files {
            let size = bytes.len() as u64;
            let start = place(memory, &segments, size)?;
            modules.push(Module { start, end: start + size as u32, line });
            segments.push(Segment::new(start, size, *bytes));
        }
        let at = place(memory, &segments, (PAGE + ROOM).into())?;
        let told = Information { line: &xen.line, modules: &modules, memory }.render(at + PAGE);
        ensure!(
            told.len() <= ROOM as usize,
            "lines and memory map have {} bytes, {ROOM} are accepted",
            told.len()
        );
        let mut bytes = purgatory::render(at, elf.entry, at + PAGE);
        bytes.resize(PAGE as usize, 0);
        bytes.extend(told);
        segments.push(Segment::new(at, (PAGE + ROOM).into(), bytes));
        Ok(Layout { entry: at + purgatory::BEGIN, segments })
    }
}

impl<'a> Segment<'a> {
    fn new(at: u32, size: u64, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Segment { at, size: size.next_multiple_of(PAGE.into()), bytes: bytes.into() }
    }

    fn range(&self) -> Range<u64> {
        self.at.into()..u64::from(self.at) + self.size
    }
}

fn place(memory: &Memory, segments: &[Segment<'_>], size: u64) -> Result<u32> {
    let taken: Vec<_> = segments.iter().map(Segment::range).collect();
    let at = memory.place(size, &taken).and_then(|at| u32::try_from(at).ok());
    at.with_context(|| format!("no {size} bytes are free below 4 GiB"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::kexec::{elf, memory};

    fn boot() -> (Boot, Hypervisor) {
        let hypervisor = Hypervisor {
            xen: "/boot/xen-4.gz".to_owned(),
            xen_line: "console=vga dom0_max_vcpus=1-2".to_owned(),
            linux_line: "quiet".to_owned(),
        };
        let boot = Boot {
            partition: 4,
            kernel: "/boot/vmlinuz-6".to_owned(),
            ramdisk: None,
            command_line: "root=UUID=0 rw".to_owned(),
            hypervisor: None,
        };
        (boot, hypervisor)
    }

    #[test]
    fn the_nodes_own_lines_take_the_place_of_the_images() {
        let (boot, hypervisor) = boot();
        let own = "# ours\nset xen_line=\"console=com1 dom0_mem=1G\"\nset linux_line=\"a=1\"\n";
        let only = "set linux_line=\"a=1\"\n";
        for (own, xen, linux) in [
            (None, "console=vga dom0_max_vcpus=1-2", "quiet"),
            (Some(own), "console=com1 dom0_mem=1G", "a=1"),
            (Some(only), "console=vga dom0_max_vcpus=1-2", "a=1"),
        ] {
            let said = lines(&boot, &hypervisor, own).unwrap();
            assert_eq!(said.0, format!("/boot/xen-4.gz {xen} no-real-mode"));
            assert_eq!(said.1, format!("/boot/vmlinuz-6 root=UUID=0 rw {linux}"));
        }
        assert!(lines(&boot, &hypervisor, Some("reboot\n")).is_err());
    }

    #[test]
    fn a_packed_file_is_unpacked_within_its_limit() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&[7; 5000]).unwrap();
        let packed = packed.finish().unwrap();
        assert_eq!(unpack(packed.clone(), 5000).unwrap(), [7; 5000]);
        assert!(unpack(packed.clone(), 4999).unwrap_err().to_string().contains("4999 bytes"));
        assert_eq!(unpack(vec![1, 2, 3], 5000).unwrap(), [1, 2, 3]);
        for length in [2, 10, packed.len() / 2, packed.len() - 1] {
            assert!(unpack(packed[..length].to_vec(), 5000).is_err(), "{length}");
        }
        let mut wrong = packed;
        let last = wrong.len() - 6;
        wrong[last] ^= 1;
        assert!(unpack(wrong, 5000).is_err());
    }

    fn xen(at: u32, size: u32) -> Vec<u8> {
        elf::tests::program(at, &multiboot::tests::header(3), size)
    }

    fn told(bytes: &[u8], line: &str) -> Told<'static> {
        Told { bytes: bytes.to_vec().leak(), line: line.to_owned() }
    }

    #[test]
    fn everything_has_its_own_place() {
        let memory = memory::tests::sample();
        let files = [told(&[1; 0x10_0001], "/vmlinuz a"), told(&[2; 9], "/initrd.img")];
        let layout =
            Layout::of(&told(&xen(0x20_0000, 0x40_0000), "/xen b"), &files, &memory).unwrap();
        let ranges: Vec<_> = layout.segments.iter().map(Segment::range).collect();
        let wanted = [
            0x20_0000..0x60_0000,
            0x60_0000..0x70_1000,
            0x10_0000..0x10_1000,
            0x10_1000..0x10_4000,
        ];
        assert_eq!(ranges, wanted);
        assert_eq!(layout.entry, 0x10_1028);
        let last = &layout.segments[3].bytes;
        let information = Information {
            line: "/xen b",
            modules: &[
                Module { start: 0x60_0000, end: 0x70_0001, line: "/vmlinuz a" },
                Module { start: 0x10_0000, end: 0x10_0009, line: "/initrd.img" },
            ],
            memory: &memory,
        };
        let code = purgatory::render(0x10_1000, 0x20_0000, 0x10_2000);
        assert_eq!(last[..code.len()], code);
        assert_eq!(last[PAGE as usize..], information.render(0x10_2000));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let memory = memory::tests::sample();
        let long = "a".repeat(ROOM as usize);
        for (xen, line, said) in [
            (xen(0x8_0000, 0x1000), "", "0x80000..0x81000"),
            (xen(0x20_0000, 0x8000_0000), "", "not all free RAM"),
            (xen(0x20_0000, 0x1000), long.as_str(), "8192 are accepted"),
            (b"\x7fELF".to_vec(), "", "no Multiboot header"),
            (multiboot::tests::header(3), "", "no ELF file"),
        ] {
            let error = Layout::of(&told(&xen, line), &[], &memory).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
        let full = xen(0x10_0000, 0x7fee_0000);
        let error = Layout::of(&told(&full, ""), &[], &memory).unwrap_err();
        assert_eq!(error.to_string(), "no 12288 bytes are free below 4 GiB");
    }
}
