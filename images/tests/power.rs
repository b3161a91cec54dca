//! Power cuts on a disk with a volatile write cache, in full and in delta writes. `cargo test`
//! plays a few; `make torture` plays hundreds.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

mod layout;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use images::{Digest, Disk, Extent, disk::Effect, index::Location, pack::Source, write::write};
use layout::{BLOCK, Bench, Image, SIZE, noise, options, versions};

/// What a disk with a volatile cache has after a power cut: all that was flushed, and of the
/// rest any part, sector by sector.
struct Volatile {
    flushed: Vec<u8>,
    open: Vec<(u64, Vec<u8>)>,
    left: u64,
    lot: u64,
}

impl Volatile {
    fn see(&mut self, effect: Effect<'_>) -> io::Result<()> {
        if self.left == 0 {
            return Err(io::Error::other("power cut"));
        }
        self.left -= 1;
        match effect {
            Effect::Write { offset, bytes } => self.open.push((offset, bytes.to_vec())),
            Effect::Zero { offset, len } => self.open.push((offset, vec![0; len as usize])),
            Effect::Flush => self.keep(|_| true),
        }
        Ok(())
    }

    fn keep(&mut self, mut kept: impl FnMut(&mut u64) -> bool) {
        for (offset, bytes) in std::mem::take(&mut self.open) {
            for (at, sector) in bytes.chunks(512).enumerate() {
                if kept(&mut self.lot) {
                    let at = offset as usize + at * 512;
                    self.flushed[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
    }

    fn cut(&mut self) -> Vec<u8> {
        // One in so many is lost, from nearly all to nearly none.
        let share = self.lot >> 61;
        self.keep(|lot| {
            *lot = lot.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            *lot >> 61 < share
        });
        std::mem::take(&mut self.flushed)
    }
}

/// Writes until the power fails before effect number `cut`; returns what the disk has then, or
/// nothing when it did not come to that.
fn write_until(
    bench: &Bench,
    image: &Image,
    before: &[u8],
    previous: Option<&Image>,
    cut: u64,
    lot: u64,
) -> Option<Vec<u8>> {
    let path = bench.disk(before);
    let volatile = Volatile { flushed: before.to_vec(), open: Vec::new(), left: cut, lot };
    let volatile = Arc::new(Mutex::new(volatile));
    let watch = volatile.clone();
    let disk = Disk::open(&path).unwrap();
    let disk = disk.watched(Arc::new(move |effect| watch.lock().unwrap().see(effect)));
    let previous = previous.map(Image::previous);
    let options = options(previous.as_ref());
    let written = write(&image.described(), &disk, &bench.store, &options);
    written.is_err().then(|| volatile.lock().unwrap().cut())
}

/// A store that remembers what it was asked for.
struct Counted<'a>(&'a Bench, Mutex<Vec<(Digest, Range<u64>)>>);

impl Source for Counted<'_> {
    fn read(&self, pack: &Digest, range: Range<u64>) -> io::Result<Box<dyn Read + Send + '_>> {
        let mut asked = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push((*pack, range.clone()));
        self.0.store.read(pack, range)
    }
}

/// Frames that are shorter may lie in the gap of a request for those beside them.
const GAP: u32 = 8 << 10;

/// Chunks that are in place wherever the image has them, and how many bytes they are; of those
/// that reach to the edges, which are fetched for the table, nothing is said.
fn in_place(image: &Image, disk: &[u8]) -> (BTreeSet<Location>, u64) {
    let mut whole: BTreeMap<Location, (bool, u64)> = BTreeMap::new();
    let mut locations = image.index.locations();
    for (offset, extent) in image.manifest.placed() {
        let Extent::Chunk { size, .. } = extent else { continue };
        let (at, range) =
            (locations.next().unwrap(), offset as usize..offset as usize + size as usize);
        let edge = range.start < 2 * BLOCK || range.end > SIZE - 2 * BLOCK;
        let same = !edge && disk[range.clone()] == image.raw[range];
        let known = whole.entry(at).or_insert((true, 0));
        *known = (known.0 && same, known.1 + u64::from(size));
    }
    whole.retain(|at, (whole, _)| *whole && at.len > GAP);
    let bytes = whole.values().map(|(_, bytes)| bytes).sum();
    (whole.into_keys().collect(), bytes)
}

/// Finishes the writing, and fetches nothing that the power cut has left in place. Returns how many
/// bytes that were.
fn resume(bench: &Bench, image: &Image, disk: &[u8], previous: Option<&Image>) -> u64 {
    let (kept, bytes) = in_place(image, disk);
    let (path, source) = (bench.disk(disk), Counted(bench, Mutex::default()));
    let target = Disk::open(&path).unwrap();
    let previous = previous.map(Image::previous);
    write(&image.described(), &target, &source, &options(previous.as_ref())).unwrap();
    layout::assert_same(&fs::read(&path).unwrap(), &image.raw);
    for (pack, range) in source.1.into_inner().unwrap() {
        let again = kept.iter().find(|at| {
            at.pack == pack && range.start <= at.range().start && at.range().end <= range.end
        });
        assert_eq!(again, None, "fetched again with {range:?}");
    }
    bytes
}

/// Next of a sequence of numbers that look like chance (splitmix64).
fn chance(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (mixed >> 31)
}

/// How often a writing changes the disk.
fn effects(bench: &Bench, image: &Image, before: &[u8], previous: Option<&Image>) -> u64 {
    let path = bench.disk(before);
    let count = Arc::new(Mutex::new(0));
    let seen = count.clone();
    let disk = Disk::open(&path).unwrap().watched(Arc::new(move |_| {
        *seen.lock().unwrap() += 1;
        Ok(())
    }));
    let previous = previous.map(Image::previous);
    write(&image.described(), &disk, &bench.store, &options(previous.as_ref())).unwrap();
    *count.lock().unwrap()
}

/// Cuts the power at chance moments: of the first try, and one time in two of the second. The
/// disk never boots what is neither the whole old system nor the whole new one, and the last try
/// makes it the image, and fetches no chunk that is in place: none that was flushed, and none that
/// was only written and survived.
fn cut(before: &[u8], previous: bool, cuts: u64) {
    let bench = Bench::new();
    let (old, new) = versions();
    let (old, mut new) = (bench.image("old", old), bench.image("new", new));
    let old = previous.then_some(&old);
    let all = effects(&bench, &new, before, old);
    let (mut state, mut booted_old, mut unbootable, mut kept) = (cuts ^ all, 0, 0, 0);
    for round in 0..cuts {
        // In one part and in a dozen of them.
        new.part = if round % 4 < 2 { usize::MAX } else { 23 };
        // Early and late ones first: the rest is in the middle.
        let at = match round {
            0..4 => round,
            4..10 => all.saturating_sub(round - 3),
            _ => chance(&mut state) % all,
        };
        let mut disk = before.to_vec();
        for _ in 0..=round % 2 {
            let (lot, known) = (chance(&mut state), old.filter(|_| !round.is_multiple_of(3)));
            let Some(after) = write_until(&bench, &new, &disk, known, at, lot) else { break };
            let boots = after[510..512] == [0x55, 0xaa];
            let same = |raw: &[u8]| after[512..] == raw[512..];
            let whole_old = same(before);
            assert!(!boots || whole_old || same(&new.raw), "cut {round} at {at} boots half");
            booted_old += u32::from(boots && whole_old);
            unbootable += u32::from(!boots);
            disk = after;
        }
        let broken_off = disk[..512].iter().all(|byte| *byte == 0);
        let bytes = resume(&bench, &new, &disk, old);
        kept += if broken_off { bytes } else { 0 };
    }
    assert!(booted_old > 0 && unbootable > 0, "{booted_old} {unbootable} of {cuts}");
    assert!(kept > SIZE as u64, "{kept} bytes were in place after {cuts} cuts");
}

fn foreign() -> Vec<u8> {
    let mut bytes = noise(4711, SIZE);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

#[test]
fn a_full_writing_survives_power_cuts() {
    cut(&foreign(), false, 14);
}

#[test]
fn a_delta_writing_survives_power_cuts() {
    cut(&versions().0, true, 14);
}

#[test]
#[ignore = "takes minutes: make torture"]
fn torture_a_full_writing_with_power_cuts() {
    cut(&foreign(), false, 250);
}

#[test]
#[ignore = "takes minutes: make torture"]
fn torture_a_delta_writing_with_power_cuts() {
    cut(&versions().0, true, 250);
}

#[test]
#[ignore = "takes minutes: make torture"]
fn torture_a_scanned_delta_writing_with_power_cuts() {
    cut(&versions().0, false, 250);
}
