//! Garbage collection from the outside: repacking beside importers and readers, and after every
//! kind of end.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

mod layout;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use images::{
    Digest, Store,
    gc::Options,
    import::{Options as Import, import_stream},
};
use layout::{read, unpack};

const AT_ONCE: Options = Options { grace: Duration::ZERO, live_percent: 50 };
/// What a program that is to be killed is told by: the store to collect garbage in.
const VICTIM: &str = "BILLET_TEST_COLLECT";

/// Bytes that do not repeat and do not shrink.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((state >> 33) as u32).to_le_bytes()
    });
    words.take(len / 4).flatten().collect()
}

/// Every `nth` stretch of 512 KiB of a disk: some chunks of every pack.
fn part(bytes: &[u8], nth: usize) -> Vec<u8> {
    bytes.chunks(512 << 10).step_by(nth).flatten().copied().collect()
}

fn add(store: &Store, name: &str, bytes: &[u8]) -> Digest {
    import_stream(store, bytes, &Import::new(name)).unwrap().manifest
}

fn packed(store: &Store) -> u64 {
    let size = |pack: Digest| store.pack_path(&pack).metadata().unwrap().len();
    store.packs().unwrap().into_iter().map(size).sum()
}

#[test]
fn live_chunks_leave_a_dead_pack_and_who_has_an_old_index_still_reads() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let whole = noise(1, 40 << 20);
    let some = part(&whole, 8);
    add(&store, "whole", &whole);
    let digest = add(&store, "some", &some);
    let signature = fs::read(store.minisig_path(&digest)).unwrap();
    let (manifest, old) = (store.manifest(&digest).unwrap(), store.index(&digest).unwrap());
    // Nothing is dead: nothing is done.
    assert_eq!(store.gc().unwrap(), images::gc::Collected::default());

    store.remove("whole").unwrap();
    let before = store.packs().unwrap();
    let collected = store.gc().unwrap();
    assert_eq!((collected.manifests, collected.packs, collected.repacked), (1, 0, 1));
    // The pack of the chunks that only this image has is all alive.
    assert_eq!(collected.retired, before.len() as u64 - 1, "{collected:?}");
    assert!(collected.repacked_bytes < 8 << 20 && collected.retired_bytes > 35 << 20);
    assert!(read(&store, &manifest, &old) == some);
    let new = store.index(&digest).unwrap();
    assert_eq!(new.packs().iter().filter(|pack| before.contains(pack)).count(), 1);
    assert!(read(&store, &manifest, &new) == some);
    assert_eq!(fs::read(store.minisig_path(&digest)).unwrap(), signature);

    // Again: the packs still wait, and nothing is copied a second time.
    let again = store.gc().unwrap();
    assert_eq!((again.repacked, again.freed, again.retired), (0, 0, collected.retired));
    let over = store.gc_with(&AT_ONCE).unwrap();
    assert_eq!((over.packs, over.freed), (collected.retired, collected.retired_bytes));
    assert!(packed(&store) < collected.repacked_bytes * 2);
    assert!(unpack(&store, &digest) == some);
    assert!(fs::read_dir(store.root().join("retired")).unwrap().next().is_none());
}

#[test]
fn a_hold_keeps_the_packs_that_were_replaced_under_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let whole = noise(2, 24 << 20);
    let some = part(&whole, 8);
    add(&store, "whole", &whole);
    let digest = add(&store, "some", &some);
    store.hold("deployment", &digest).unwrap();
    let (manifest, old) = (store.manifest(&digest).unwrap(), store.index(&digest).unwrap());
    store.remove("whole").unwrap();
    let collected = store.gc_with(&AT_ONCE).unwrap();
    assert!(collected.retired > 0 && collected.repacked == 1, "{collected:?}");
    assert!(read(&store, &manifest, &old) == some);
    // Who comes later has the new index, and keeps nothing.
    store.hold("later", &digest).unwrap();
    store.release("deployment").unwrap();
    assert_eq!(store.gc_with(&AT_ONCE).unwrap().packs, collected.retired);
    assert!(unpack(&store, &digest) == some);
}

#[test]
fn what_two_importers_packed_twice_is_kept_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let (shared, mut second) = (noise(3, 12 << 20), noise(4, 2 << 20));
    // Both have begun before either ends: a stream that waits holds them there.
    second.extend(&shared);
    let barrier = std::sync::Barrier::new(2);
    let import = |name: &str, bytes: &[u8]| {
        let stream = Waiting { bytes, barrier: Some(&barrier) };
        import_stream(&store, stream, &Import::new(name)).unwrap().manifest
    };
    let (first, other) = thread::scope(|scope| {
        let first = scope.spawn(|| import("first", &shared));
        let other = scope.spawn(|| import("second", &second));
        (first.join().unwrap(), other.join().unwrap())
    });
    let double = packed(&store);
    assert!(double > 24 << 20, "{double}");
    store.gc_with(&AT_ONCE).unwrap();
    assert!(packed(&store) < 15 << 20, "{} of {double}", packed(&store));
    assert!(unpack(&store, &first) == shared);
    assert!(unpack(&store, &other) == second);
}

/// Ends only when another one does.
struct Waiting<'a> {
    bytes: &'a [u8],
    barrier: Option<&'a std::sync::Barrier>,
}

impl Read for Waiting<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        if self.bytes.is_empty() {
            self.barrier.take().map(std::sync::Barrier::wait);
        }
        self.bytes.read(bytes)
    }
}

#[test]
fn a_damaged_chunk_stays_where_it_is_and_the_others_leave() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let whole = noise(5, 16 << 20);
    add(&store, "whole", &whole);
    let digest = add(&store, "some", &part(&whole, 8));
    let at = store.index(&digest).unwrap().get(3).unwrap();
    let mut bytes = fs::read(store.pack_path(&at.pack)).unwrap();
    bytes[at.offset as usize + 100] ^= 1;
    fs::write(store.pack_path(&at.pack), bytes).unwrap();
    store.remove("whole").unwrap();
    let collected = store.gc_with(&AT_ONCE).unwrap();
    assert_eq!((collected.damaged, collected.repacked), (1, 1), "{collected:?}");
    assert_eq!(store.index(&digest).unwrap().get(3), Some(at));
    let trusted = store.trusted().unwrap();
    let faults = store.verify(&digest, &trusted, &|_, _| {}).unwrap().faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
}

#[test]
fn importers_and_readers_lose_nothing_beside_collections() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let whole = noise(6, 12 << 20);
    let kept = part(&whole, 6);
    add(&store, "whole", &whole);
    let digest = add(&store, "kept", &kept);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let importers = [7, 8].map(|seed| {
            let (store, whole) = (&store, &whole);
            scope.spawn(move || {
                for round in 0..6_usize {
                    // Chunks that others have, in packs that are just being left, and new ones.
                    let mut bytes = part(&whole[round << 20..], 3);
                    bytes.extend(noise(seed * 100 + round as u64, 1 << 20));
                    let name = format!("importer{seed}-{}", round % 2);
                    let digest = add(store, &name, &bytes);
                    assert!(unpack(store, &digest) == bytes);
                }
            })
        });
        // A day of grace: who reads with an index of before is never let down.
        let collector = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.gc().unwrap();
            }
        });
        store.remove("whole").unwrap();
        for _ in 0..10 {
            assert!(unpack(&store, &digest) == kept);
        }
        importers.into_iter().for_each(|importer| importer.join().unwrap());
        done.store(true, Ordering::Relaxed);
        collector.join().unwrap();
    });
    let collected = store.gc_with(&AT_ONCE).unwrap();
    assert!(collected.packs > 0, "{collected:?}");
    let trusted = store.trusted().unwrap();
    for image in store.images().unwrap() {
        let verified = store.verify(&image.manifest, &trusted, &|_, _| {}).unwrap();
        assert!(verified.faults.is_empty(), "{}: {:?}", image.name, verified.faults);
    }
}

/// What the killed collections of the next test run; does nothing by itself.
#[test]
fn collects_garbage_when_it_is_told_where() {
    let Some(root) = std::env::var_os(VICTIM) else { return };
    let store = Store::open(root).unwrap();
    store.gc().unwrap();
}

#[test]
fn a_collection_killed_anywhere_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let origin = folder.path().join("origin");
    let store = Store::create(&origin).unwrap();
    let whole = noise(9, 32 << 20);
    add(&store, "whole", &whole);
    let disks: Vec<_> = (8..12).map(|nth| part(&whole, nth)).collect();
    let digests: Vec<_> =
        disks.iter().enumerate().map(|(n, disk)| add(&store, &format!("d{n}"), disk)).collect();
    store.remove("whole").unwrap();
    let undisturbed = copy(&origin, folder.path(), "undisturbed");
    let effects = effects_of_a_collection(&undisturbed);
    let store = Store::open(&undisturbed).unwrap();
    store.gc_with(&AT_ONCE).unwrap();
    let least = packed(&store);
    let mut ends = BTreeSet::new();
    for (call, number) in &effects {
        let root = copy(&origin, folder.path(), "killed");
        let store = Store::open(&root).unwrap();
        let old: Vec<_> = digests.iter().map(|digest| store.index(digest).unwrap()).collect();
        let at = format!("{call}:signal=KILL:when={number}");
        assert!(!collect(&root, &["-e", &format!("inject={at}")]), "survived {at}");
        for ((digest, disk), old) in digests.iter().zip(&disks).zip(&old) {
            assert!(unpack(&store, digest) == *disk, "{at}");
            assert!(read(&store, &store.manifest(digest).unwrap(), old) == *disk, "{at}");
        }
        let collected = store.gc().unwrap();
        ends.insert((collected.repacked, collected.packs));
        for ((digest, disk), old) in digests.iter().zip(&disks).zip(&old) {
            assert!(unpack(&store, digest) == *disk, "collected again after {at}");
            assert!(read(&store, &store.manifest(digest).unwrap(), old) == *disk, "{at}");
        }
        // Killed between two indexes, a chunk had two places, and either may have been chosen: the
        // bound holds, if not the least there could be.
        let over = store.gc_with(&AT_ONCE).unwrap();
        assert_eq!((over.retired, over.unfinished, over.repacked), (0, 0, 0), "{at}");
        assert!(packed(&store) <= 2 * least, "{at}: {} of {least}", packed(&store));
        fs::remove_dir_all(&root).unwrap();
    }
    // It was killed before and after its work was worth something.
    assert!(effects.len() > 20 && ends.len() > 1, "{effects:?} {ends:?}");
}

/// Calls that change what a folder holds.
const EFFECTS: &str = "rename,renameat,renameat2,unlink,unlinkat,fsync,fdatasync";

/// Every such call of a collection: its name, and which of that name it is.
fn effects_of_a_collection(root: &Path) -> Vec<(String, usize)> {
    let log = root.join("log");
    assert!(collect(root, &["-o", log.to_str().unwrap(), "-e", &format!("trace={EFFECTS}")]));
    let calls = fs::read_to_string(log).unwrap();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let names = calls.lines().filter_map(|line| {
        let (name, _) = line.split_once('(')?;
        name.split_whitespace().last().map(str::to_owned)
    });
    names
        .map(|name| {
            let number = seen.entry(name.clone()).or_default();
            *number += 1;
            (name, *number)
        })
        .collect()
}

/// Runs a collection of its own program under strace; whether it came to its end.
fn collect(root: &Path, how: &[&str]) -> bool {
    let this = std::env::current_exe().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq"]).args(how).arg("--").arg(this);
    strace.args(["--exact", "collects_garbage_when_it_is_told_where"]).env(VICTIM, root);
    strace.stdout(Stdio::null()).stderr(Stdio::null());
    strace.status().unwrap().success()
}

fn copy(from: &Path, folder: &Path, name: &str) -> std::path::PathBuf {
    let to = folder.join(name);
    let status = Command::new("cp").arg("-a").args([from, &to]).status().unwrap();
    assert!(status.success());
    to
}
