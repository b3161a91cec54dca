//! The machine's memory as its firmware told it, for who comes after Linux; and free places in it.
//!
//! `/sys/firmware/memmap` (Documentation/ABI/testing/sysfs-firmware-memmap) is what the firmware
//! said, whatever Linux made of it.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

use super::PAGE;
use crate::sysfs::Sysfs;

const FOLDER: &str = "sys/firmware/memmap";
/// What Multiboot and Xen can address before they have paging.
const LIMIT: u64 = 1 << 32;
/// Below are the BIOS's data, and what Xen needs to start its other CPUs.
const LOWEST: u64 = 1 << 20;

/// Every stretch that the firmware named, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Memory(Vec<Stretch>);

/// A stretch of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// From its first byte to behind its last.
    pub(crate) range: Range<u64>,
    /// What it is.
    pub(crate) kind: Kind,
}

/// The numbers of the BIOS, which Multiboot has too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ram = 1,
    Reserved = 2,
    /// Tables that may be used as RAM once they have been read.
    Acpi = 3,
    /// What ACPI keeps while the machine sleeps.
    Nvs = 4,
}

impl Kind {
    fn parse(said: &str) -> Self {
        match said {
            "System RAM" => Kind::Ram,
            "ACPI Tables" => Kind::Acpi,
            "ACPI Non-volatile Storage" => Kind::Nvs,
            _ => Kind::Reserved,
        }
    }
}

impl Memory {
    pub(crate) fn probe(sysfs: &Sysfs) -> Result<Self> {
        let mut stretches = Vec::new();
        for number in sysfs.numbered(FOLDER, "") {
            let stretch = Stretch::probe(sysfs, &format!("{FOLDER}/{number}"));
            stretches.push(stretch.with_context(|| format!("reading /{FOLDER}/{number}"))?);
        }
        ensure!(!stretches.is_empty(), "the kernel does not tell the firmware's map in /{FOLDER}");
        stretches.sort_by_key(|stretch| stretch.range.start);
        Ok(Memory(stretches))
    }

    pub(crate) fn stretches(&self) -> &[Stretch] {
        &self.0
    }

    /// Bytes of RAM from `start` on without a gap.
    pub(crate) fn ram_from(&self, start: u64) -> u64 {
        let mut end = start;
        for Stretch { range, kind } in &self.0 {
            if *kind == Kind::Ram && range.contains(&end) {
                end = range.end;
            }
        }
        end - start
    }

    /// Whether something may lie there until Xen has its own order: RAM and nothing else.
    pub(crate) fn is_free(&self, range: &Range<u64>) -> bool {
        let strange = |it: &Stretch| it.kind != Kind::Ram && overlap(&it.range, range);
        LOWEST <= range.start
            && range.start <= range.end
            && range.end <= LIMIT
            && self.ram_from(range.start) >= range.end - range.start
            && !self.0.iter().any(strange)
    }

    /// The lowest page from which on `size` bytes are free and nothing of `taken` is in them.
    pub(crate) fn place(&self, size: u64, taken: &[Range<u64>]) -> Option<u64> {
        let edges = self.0.iter().flat_map(|it| [it.range.start, it.range.end]);
        let starts = edges.chain(taken.iter().map(|range| range.end)).chain([LOWEST]);
        let pages = starts.filter_map(|at| at.checked_next_multiple_of(PAGE.into()));
        let fits = |at: &u64| {
            let range = *at..at.saturating_add(size);
            self.is_free(&range) && !taken.iter().any(|taken| overlap(taken, &range))
        };
        pages.filter(fits).min()
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

impl Stretch {
    fn probe(sysfs: &Sysfs, folder: &str) -> Result<Self> {
        let address = |name: &str| -> Result<u64> {
            let text = sysfs.text(format!("{folder}/{name}")).unwrap_or_default();
            let digits = text.strip_prefix("0x").unwrap_or_default();
            u64::from_str_radix(digits, 16)
                .with_context(|| format!("{name} is `{text}`, the form 0x1000 is accepted"))
        };
        let (start, last) = (address("start")?, address("end")?);
        let end = last.checked_add(1).filter(|end| *end > start);
        let range = start..end.with_context(|| format!("it ends at {last:#x}"))?;
        let kind = Kind::parse(&sysfs.text(format!("{folder}/type")).unwrap_or_default());
        Ok(Stretch { range, kind })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;

    /// What SeaBIOS says of a machine with 2 GiB in QEMU.
    const SEABIOS: [(&str, &str, &str); 7] = [
        ("0x0", "0x9fbff", "System RAM"),
        ("0x9fc00", "0x9ffff", "Reserved"),
        ("0xf0000", "0xfffff", "Reserved"),
        ("0x100000", "0x7ffdffff", "System RAM"),
        ("0x7ffe0000", "0x7fffffff", "Reserved"),
        ("0xfeffc000", "0xfeffffff", "Reserved"),
        ("0x100000000", "0x17fffffff", "System RAM"),
    ];

    fn probe(entries: &[(&str, &str, &str)]) -> Result<Memory> {
        let root = tempfile::tempdir().unwrap();
        for (number, (start, end, kind)) in entries.iter().enumerate() {
            let folder = root.path().join(FOLDER).join(number.to_string());
            fs::create_dir_all(&folder).unwrap();
            for (name, text) in [("start", start), ("end", end), ("type", kind)] {
                fs::write(folder.join(name), format!("{text}\n")).unwrap();
            }
        }
        Memory::probe(&Sysfs::at(root.path()))
    }

    /// That machine's memory.
    pub(crate) fn sample() -> Memory {
        probe(&SEABIOS).unwrap()
    }

    #[test]
    fn the_firmwares_map_is_read_in_order() {
        let mut turned = SEABIOS;
        turned.reverse();
        assert_eq!(probe(&turned).unwrap(), sample());
        let kinds = [
            ("0x0", "0xfff", "ACPI Tables"),
            ("0x1000", "0x1fff", "ACPI Non-volatile Storage"),
            ("0x2000", "0x2fff", "Persistent Memory"),
        ];
        let kinds = probe(&kinds).unwrap().0.into_iter().map(|stretch| stretch.kind);
        assert_eq!(kinds.collect::<Vec<_>>(), [Kind::Acpi, Kind::Nvs, Kind::Reserved]);
    }

    #[test]
    fn what_is_no_map_is_refused() {
        for (start, end) in [
            ("0x1000", "0xfff"),
            ("0x1000", "0x0"),
            ("1000", "0x2000"),
            ("0x", "0x2000"),
            ("", "0x2000"),
            ("0x0", "0xffffffffffffffff"),
            ("0x0", "0x1ffffffffffffffff"),
        ] {
            assert!(probe(&[(start, end, "System RAM")]).is_err(), "{start} {end}");
        }
        let nothing = probe(&[]).unwrap_err().to_string();
        assert!(nothing.contains("/sys/firmware/memmap"), "{nothing}");
    }

    #[test]
    fn what_is_placed_is_on_ram_of_its_own() {
        let memory = sample();
        assert_eq!((memory.ram_from(0), memory.ram_from(1 << 20)), (0x9_fc00, 0x7fee_0000));
        let xen = 0x20_0000..0x60_0000;
        assert!(memory.is_free(&xen));
        for range in [0x8_0000..0x9_0000, 0x7ff0_0000..0x8000_0000, 1 << 32..(1 << 32) + 1] {
            assert!(!memory.is_free(&range), "{range:x?}");
        }
        let taken = std::slice::from_ref(&xen);
        assert_eq!(memory.place(0x10_0000, taken), Some(0x10_0000));
        assert_eq!(memory.place(0x10_0001, taken), Some(0x60_0000));
        let taken = [xen, 0x60_0000..0x60_0123];
        assert_eq!(memory.place(0x10_0001, &taken), Some(0x60_1000));
        // Not above 4 GiB, and not more than there is.
        assert_eq!(memory.place(0x8000_0000, &[]), None);
        assert_eq!(memory.place(u64::MAX, &[]), None);
    }

    #[test]
    fn ram_that_something_else_lies_in_is_not_taken() {
        let map = [
            ("0x100000", "0x1fffff", "System RAM"),
            ("0x100000", "0x100fff", "Reserved"),
            ("0x180000", "0x180fff", "ACPI Tables"),
        ];
        let memory = probe(&map).unwrap();
        assert_eq!(memory.place(0x1000, &[]), Some(0x10_1000));
        assert_eq!(memory.place(0x7_f000, &[]), Some(0x10_1000));
        assert_eq!(memory.place(0x7_f001, &[]), None);
    }
}
