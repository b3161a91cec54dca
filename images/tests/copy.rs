//! What stands elsewhere on the disk is copied: between versions of an image whose files were
//! laid out anew.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

mod layout;

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use images::{Disk, disk::Effect, write::write};
use layout::{BLOCK, Bench, FIRST, MIB, SIZE, disk, noise, options, versions};
use proptest::{
    collection::vec,
    prelude::{Just, any},
    prop_oneof, proptest,
};

#[test]
fn files_that_were_laid_out_anew_are_copied_and_not_fetched() {
    let bench = Bench::new();
    let (old, new) = versions();
    let (old, new) = (bench.image("old", old), bench.image("new", new));
    let content: u64 = 4 * 80 * BLOCK as u64;
    for previous in [Some(&old), None] {
        let path = bench.disk(&old.raw);
        let planned = bench.plan(&new, &path, previous);
        let written = bench.write(&new, &path, previous);
        assert_eq!(written.plan, planned);
        // New files, and what begins or ends a file together with a part of its neighbour.
        assert!(planned.fetched > content && planned.fetched < 3 * content, "{planned}");
        assert!(planned.copied > 8 * MIB as u64, "{planned}");
        let again = bench.write(&new, &path, previous).plan;
        assert_eq!((again.copied, again.fetched, again.zeroed), (0, 0, 0), "{again}");
    }
}

#[test]
fn what_moved_a_little_is_copied_over_many_parts() {
    let bench = Bench::new();
    let files = |gap: usize| {
        let files: Vec<_> = (0..40).map(|seed| (seed, 90, gap * usize::from(seed == 0))).collect();
        disk(SIZE, 1, &files)
    };
    for gaps in [[0, 5], [5, 0]] {
        let [old, new] = gaps.map(files);
        let (old, mut new) = (bench.image("old", old), bench.image("new", new));
        new.part = 20;
        for previous in [Some(&old), None] {
            let path = bench.disk(&old.raw);
            let planned = bench.plan(&new, &path, previous);
            assert_eq!(bench.write(&new, &path, previous).plan, planned);
            // What moves up is lost where it leaves a part, with the rest of its chunk.
            assert!(planned.fetched < 3 * MIB as u64, "{planned}");
            assert!(planned.copied > 11 * MIB as u64, "{planned}");
            let again = bench.write(&new, &path, previous).plan;
            assert_eq!((again.copied, again.fetched, again.zeroed), (0, 0, 0), "{again}");
        }
    }
}

#[test]
fn a_false_memory_of_the_disk_costs_only_time() {
    let bench = Bench::new();
    let (old, new) = versions();
    let (old, new) = (bench.image("old", old), bench.image("new", new));
    let other = disk(SIZE, 3, &(500..530).map(|seed| (seed, 100, 0)).collect::<Vec<_>>());
    let mut touched = old.raw.clone();
    touched.chunks_mut(50 * BLOCK).for_each(|part| part[0] ^= 1);
    for before in [other, vec![0; SIZE], touched, new.raw.clone()] {
        let path = bench.disk(&before);
        let written = bench.write(&new, &path, Some(&old)).plan;
        let known = written.kept + written.copied + written.fetched;
        assert!(known > 8 * MIB as u64, "{written}");
    }
    let larger = bench.image("larger", disk(2 * SIZE, 1, &[(7, 3000, 2000), (1, 50, 1500)]));
    bench.write(&new, &bench.disk(&old.raw), Some(&larger));
}

#[test]
fn a_disk_that_shares_nothing_is_not_read_for_it() {
    let bench = Bench::new();
    let (_, new) = versions();
    let new = bench.image("new", new);
    let path = bench.disk(&noise(77, SIZE));
    let planned = bench.plan(&new, &path, None);
    assert_eq!((planned.kept, planned.copied), (0, 0), "{planned}");
    assert_eq!(bench.write(&new, &path, None).plan, planned);
}

#[test]
fn what_was_written_and_flushed_is_not_fetched_again() {
    let bench = Bench::new();
    let (old, new) = versions();
    let (old, new) = (bench.image("old", old), bench.image("new", new));
    let path = bench.disk(&old.raw);
    let effects = Arc::new(AtomicU64::new(0));
    let count = effects.clone();
    let disk = Disk::open(&path).unwrap().watched(Arc::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }));
    write(&new.described(), &disk, &bench.store, &options(Some(&old.previous()))).unwrap();
    for cut in (2..effects.load(Ordering::SeqCst)).step_by(5) {
        // Here nothing is lost: the device writes what it is given at once.
        let path = bench.disk(&old.raw);
        let (left, written) = (AtomicU64::new(cut), Arc::new(Mutex::new(Vec::new())));
        let log = written.clone();
        let disk = Disk::open(&path).unwrap().watched(Arc::new(move |effect| {
            let again = |left: u64| left.checked_sub(1);
            let left = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, again);
            left.map_err(|_| io::Error::other("power cut"))?;
            if let Effect::Write { offset, bytes } = effect {
                log.lock().unwrap().push(offset..offset + bytes.len() as u64);
            }
            Ok(())
        }));
        let previous = old.previous();
        let options = options(Some(&previous));
        write(&new.described(), &disk, &bench.store, &options).unwrap_err();
        let whole = |at: u64, len: u64| {
            let written = written.lock().unwrap();
            written.iter().any(|range| range.start <= at && at + len <= range.end)
        };
        let chunks = new.manifest.placed().filter(|(offset, _)| *offset >= FIRST as u64);
        let done: u64 = chunks
            .filter(|(at, extent)| {
                matches!(extent, images::Extent::Chunk { .. }) && whole(*at, extent.size())
            })
            .map(|(_, extent)| extent.size())
            .sum();
        let plan = bench.plan(&new, &path, Some(&old));
        assert!(plan.kept >= done, "{done} bytes were written before cut {cut}: {plan}");
        bench.write(&new, &path, Some(&old));
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 12, ..Default::default() })]

    #[test]
    fn any_layout_becomes_any_other(
        old in vec((0_u64..12, 1_usize..60, 0_usize..3), 1..16),
        new in vec((0_u64..12, 1_usize..60, 0_usize..3), 1..16),
        known in any::<bool>(),
        part in prop_oneof![Just(usize::MAX), 1_usize..40],
    ) {
        // A file is the same wherever its seed is the same, up to its length.
        let bench = Bench::new();
        let image = |name, files: &[_]| bench.image(name, disk(5 * MIB, 1, files));
        let (old, mut new) = (image("old", &old), image("new", &new));
        new.part = part;
        let path = bench.disk(&old.raw);
        let previous = known.then_some(&old);
        let planned = bench.plan(&new, &path, previous);
        assert_eq!(bench.write(&new, &path, previous).plan, planned);
    }
}
