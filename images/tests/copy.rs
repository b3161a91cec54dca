//! What stands elsewhere on the disk is copied: between versions of an image whose files were
//! laid out anew, with every power cut on the way.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use images::{
    Disk, Index, Manifest, Store,
    disk::Effect,
    import::{Options as Import, import_stream},
    plan::Plan,
    write::{Options, Written, plan, write},
};
use proptest::{collection::vec, prelude::any, proptest};

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;
/// Where files begin: the image has no partition table but a boot sector.
const FIRST: usize = 16 * BLOCK;

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u8 & 0x3f
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// A disk of files, each named by the seed of its noise and its length in blocks, one after the
/// other with a gap of so many blocks before each.
fn disk(size: usize, boot: u8, files: &[(u64, usize, usize)]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    bytes[..BLOCK].copy_from_slice(&noise(u64::from(boot), BLOCK));
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut at = FIRST;
    for (seed, blocks, gap) in files {
        at += gap * BLOCK;
        let end = (at + blocks * BLOCK).min(size);
        bytes[at..end].copy_from_slice(&noise(*seed, blocks * BLOCK)[..end - at]);
        at = end;
    }
    bytes
}

struct Image {
    manifest: Manifest,
    index: Index,
    raw: Vec<u8>,
}

struct Bench {
    folder: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path().join("store")).unwrap();
        Bench { folder, store }
    }

    fn image(&self, name: &str, raw: Vec<u8>) -> Image {
        let digest = import_stream(&self.store, &raw[..], &Import::new(name)).unwrap().manifest;
        let (manifest, index) =
            (self.store.manifest(&digest).unwrap(), self.store.index(&digest).unwrap());
        Image { manifest, index, raw }
    }

    fn disk(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("disk");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn write(&self, image: &Image, path: &Path, previous: Option<&Image>) -> Written {
        let options = options(previous);
        let disk = Disk::open(path).unwrap();
        let written = write(&image.manifest, &image.index, &disk, &self.store, &options).unwrap();
        assert_same(&fs::read(path).unwrap(), &image.raw);
        written
    }

    fn plan(&self, image: &Image, path: &Path, previous: Option<&Image>) -> Plan {
        let disk = Disk::open_read_only(path).unwrap();
        plan(&image.manifest, &image.index, &disk, &self.store, &options(previous)).unwrap()
    }
}

fn options(previous: Option<&Image>) -> Options<'_> {
    Options { previous: previous.map(|image| &image.manifest), ..Options::default() }
}

/// Equal, without printing megabytes where not.
fn assert_same(bytes: &[u8], expected: &[u8]) {
    let differs = bytes.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!((bytes.len(), differs), (expected.len(), None));
}

const SIZE: usize = 24 * MIB;

/// Forty files, and the same in another order, some new ones among them, two gone.
fn versions() -> (Vec<u8>, Vec<u8>) {
    let blocks = |seed: u64| 20 + (seed * 37 % 150) as usize;
    let old: Vec<_> = (0..40).map(|seed| (seed, blocks(seed), seed as usize % 3 * 9)).collect();
    let mut new: Vec<_> =
        old.iter().map(|(seed, blocks, gap)| (*seed, *blocks, 20 - gap)).collect();
    new.retain(|(seed, ..)| seed % 20 != 3);
    new.rotate_left(11);
    new[5..25].reverse();
    new.extend((100..104).map(|seed| (seed, 80, 1)));
    new.swap(2, 38);
    (disk(SIZE, 1, &old), disk(SIZE, 2, &new))
}

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

/// Writes until the power fails before effect number `cut`; returns what the disk has then.
fn write_until(
    bench: &Bench,
    image: &Image,
    before: &[u8],
    previous: &Image,
    cut: u64,
) -> Option<Vec<u8>> {
    let path = bench.disk(before);
    let lot = (cut + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let volatile = Volatile { flushed: before.to_vec(), open: Vec::new(), left: cut, lot };
    let volatile = Arc::new(Mutex::new(volatile));
    let watch = volatile.clone();
    let disk = Disk::open(&path).unwrap();
    let disk = disk.watched(Arc::new(move |effect| watch.lock().unwrap().see(effect)));
    let options = options(Some(previous));
    let written = write(&image.manifest, &image.index, &disk, &bench.store, &options);
    written.is_err().then(|| volatile.lock().unwrap().cut())
}

#[test]
fn no_power_cut_among_copies_boots_half_an_image_or_stops_the_next_run() {
    let bench = Bench::new();
    let (old, new) = versions();
    let (old, new) = (bench.image("old", old), bench.image("new", new));
    let (mut cuts, mut copied) = (0, Vec::new());
    for cut in (0..).step_by(3) {
        let Some(after) = write_until(&bench, &new, &old.raw, &old, cut) else { break };
        cuts += 1;
        let boots = after[510..512] == [0x55, 0xaa];
        let same = |image: &Image| after[BLOCK..] == image.raw[BLOCK..];
        assert!(!boots || same(&old) || same(&new), "cut {cut} boots half an image");
        let previous = (cut % 2 == 0).then_some(&old);
        let written = bench.write(&new, &bench.disk(&after), previous);
        copied.push(written.plan.copied);
    }
    assert!(cuts > 10, "{cuts}");
    let (most, least) = (copied.iter().max().unwrap(), copied.iter().min().unwrap());
    assert!(*most > 8 * MIB as u64 && *least == 0, "{copied:?}");
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
    write(&new.manifest, &new.index, &disk, &bench.store, &options(Some(&old))).unwrap();
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
        let options = options(Some(&old));
        write(&new.manifest, &new.index, &disk, &bench.store, &options).unwrap_err();
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
    #![proptest_config(proptest::test_runner::Config { cases: 24, ..Default::default() })]

    #[test]
    fn any_layout_becomes_any_other(
        old in vec((0_u64..12, 1_usize..60, 0_usize..3), 1..16),
        new in vec((0_u64..12, 1_usize..60, 0_usize..3), 1..16),
        known in any::<bool>(),
    ) {
        // A file is the same wherever its seed is the same, up to its length.
        let bench = Bench::new();
        let image = |name, files: &[_]| bench.image(name, disk(5 * MIB, 1, files));
        let (old, new) = (image("old", &old), image("new", &new));
        let path = bench.disk(&old.raw);
        let previous = known.then_some(&old);
        let planned = bench.plan(&new, &path, previous);
        assert_eq!(bench.write(&new, &path, previous).plan, planned);
    }
}
