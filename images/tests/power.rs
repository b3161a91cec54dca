//! Power cuts on a disk with a volatile write cache, in full and in delta writes. `cargo test`
//! plays a few; `make torture` plays hundreds.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

mod layout;

use std::{
    io,
    sync::{Arc, Mutex},
};

use images::{Disk, disk::Effect, write::write};
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
    let options = options(previous);
    let written = write(&image.manifest, &image.index, &disk, &bench.store, &options);
    written.is_err().then(|| volatile.lock().unwrap().cut())
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
    write(&image.manifest, &image.index, &disk, &bench.store, &options(previous)).unwrap();
    *count.lock().unwrap()
}

/// Cuts the power at chance moments: of the first try, and one time in two of the second. The
/// disk never boots what is neither the whole old system nor the whole new one, what was in place
/// after a flush stays so, and the last try makes it the image.
fn cut(before: &[u8], previous: bool, cuts: u64) {
    let bench = Bench::new();
    let (old, new) = versions();
    let (old, new) = (bench.image("old", old), bench.image("new", new));
    let old = previous.then_some(&old);
    let all = effects(&bench, &new, before, old);
    let (mut state, mut booted_old, mut unbootable) = (cuts ^ all, 0, 0);
    for round in 0..cuts {
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
            let same = |raw: &[u8]| after[BLOCK..] == raw[BLOCK..];
            let whole_old = same(before);
            assert!(!boots || whole_old || same(&new.raw), "cut {round} at {at} boots half");
            booted_old += u32::from(boots && whole_old);
            unbootable += u32::from(!boots);
            disk = after;
        }
        bench.write(&new, &bench.disk(&disk), old);
    }
    assert!(booted_old > 0 && unbootable > 0, "{booted_old} {unbootable} of {cuts}");
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
