//! An image is written to disks of all sorts, and every power cut on the way is tried.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{
    collections::BTreeSet,
    fs, io,
    io::{Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use images::{
    Digest, Disk, Image, Index, Manifest, Store,
    disk::Effect,
    image::ImageError,
    import::{Options as Import, import},
    index::IndexError,
    pack::Source,
    table::Table,
    write::{Options, Phase, WriteError, Written, plan, write},
};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 16 * MIB;

/// A store with one image: a disk of three partitions (numbers 14, 15, 1; the last one is 1).
struct Bench {
    folder: tempfile::TempDir,
    store: Store,
    manifest: Manifest,
    index: Index,
    raw: Vec<u8>,
    /// Extents of a part.
    part: usize,
}

fn sgdisk(disk: &Path, arguments: &[&str]) -> String {
    let output = Command::new("sgdisk").args(arguments).arg(disk).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text.into_owned()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u8 & 0x3f
    };
    std::iter::repeat_with(next).take(len).collect()
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.raw");
        let mut file = fs::File::create(&path).unwrap();
        file.set_len(SIZE).unwrap();
        let partitions =
            ["-n14:2048:4095", "-t14:ef02", "-n15:4096:8191", "-t15:ef00", "-n1:8192:0"];
        sgdisk(&path, &partitions);
        let mut put = |offset: u64, bytes: &[u8]| {
            file.seek(SeekFrom::Start(offset)).unwrap();
            file.write_all(bytes).unwrap();
        };
        put(0, &noise(1, 440));
        put(510, &[0x55, 0xaa]);
        put(MIB, &noise(2, 300_000));
        put(2 * MIB, &noise(3, MIB as usize));
        put(4 * MIB, &noise(4, 5 * MIB as usize));
        put(11 * MIB, &noise(5, 4096).repeat(100));
        put(SIZE - 40_000, &noise(6, 23_000));
        drop(file);
        let store = Store::create(folder.path().join("store")).unwrap();
        let options = Import { seed: Some(15), ..Import::new("image") };
        let name = import(&store, &path, &options).unwrap().manifest;
        let (manifest, index) = (store.manifest(&name).unwrap(), store.index(&name).unwrap());
        let raw = fs::read(&path).unwrap();
        Bench { folder, store, manifest, index, raw, part: usize::MAX }
    }

    /// A disk of `size` bytes that begins with `bytes`.
    fn disk(&self, name: &str, size: u64, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
        path
    }

    fn write(&self, path: &Path, options: &Options<'_>) -> Result<Written, WriteError> {
        write(&self.described(), &Disk::open(path).unwrap(), &self.store, options)
    }

    /// As a writer takes it.
    fn described(&self) -> Image<'static> {
        Image::of(&self.manifest, &self.index, self.part).unwrap()
    }

    /// What a disk of `size` bytes holds when the image is on it.
    fn expected(&self, size: u64, grow: bool, stale: &[u8]) -> Vec<u8> {
        let table = Table::read(&mut io::Cursor::new(&self.raw), 512).unwrap().unwrap();
        let fitted = table.fit(size, grow).unwrap();
        let mut bytes = stale.to_vec();
        bytes.resize(size as usize, 0);
        bytes[..self.raw.len()].copy_from_slice(&self.raw);
        if size > SIZE {
            bytes[SIZE as usize - 33 * 512..SIZE as usize].fill(0);
            let from = (size - MIB).max(SIZE) as usize;
            bytes[from..].fill(0);
        }
        bytes[..fitted.head.len()].copy_from_slice(&fitted.head);
        bytes[size as usize - fitted.tail.len()..].copy_from_slice(&fitted.tail);
        bytes
    }
}

/// Equal, without printing megabytes where not.
fn assert_same(path: &Path, expected: &[u8]) {
    let bytes = fs::read(path).unwrap();
    let differs = bytes.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!((bytes.len(), differs), (expected.len(), None));
}

#[test]
fn blank_dirty_and_larger_disks_become_the_image() {
    let mut bench = Bench::new();
    let dirt = noise(9, SIZE as usize + 5 * MIB as usize);
    let cases = [
        ("blank", SIZE, &[][..], false),
        ("dirty", SIZE, &dirt[..SIZE as usize], false),
        ("larger", SIZE + 5 * MIB, &dirt[..], true),
        ("a-little-larger", SIZE + 512 * 3, &dirt[..SIZE as usize + 512 * 3], true),
        ("blank-larger", SIZE * 3, &[][..], true),
    ];
    let all = [usize::MAX, 9, 1].into_iter().flat_map(|part| cases.map(|case| (part, case)));
    for (part, (name, size, stale, grow)) in all {
        bench.part = part;
        let path = bench.disk(name, size, stale);
        let written = bench.write(&path, &Options { grow, ..Options::default() }).unwrap();
        assert_same(&path, &bench.expected(size, grow, stale));
        let problems = sgdisk(&path, &["-v"]);
        assert!(problems.contains("No problems found"), "{name}: {problems}");
        let numbers: Vec<_> = written.partitions.iter().map(|partition| partition.number).collect();
        assert_eq!(numbers, [1, 14, 15]);
        if name == "blank" {
            assert_eq!(written.plan.zeroed, 0, "{}", written.plan);
        }
        if name == "dirty" {
            assert!(written.plan.zeroed > 5 * MIB, "{}", written.plan);
        }
        let again = bench.write(&path, &Options { grow, ..Options::default() }).unwrap().plan;
        assert_eq!((again.fetched, again.zeroed), (0, 0), "{again}");
    }
}

#[test]
fn a_disk_that_is_right_is_only_read_and_a_touched_one_gets_what_was_touched() {
    let bench = Bench::new();
    let path = bench.disk("disk", SIZE, &[]);
    bench.write(&path, &Options::default()).unwrap();
    let untouchable = Disk::open(&path).unwrap().watched(Arc::new(|effect| {
        Err(io::Error::other(format!("{effect:?}").chars().take(40).collect::<String>()))
    }));
    let written =
        write(&bench.described(), &untouchable, &bench.store, &Options::default()).unwrap();
    assert!(written.plan.kept > 15 * MIB, "{}", written.plan);

    let mut bytes = fs::read(&path).unwrap();
    bytes[6 << 20] ^= 1;
    bytes[10 << 20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let disk = Disk::open(&path).unwrap();
    let planned = plan(&bench.described(), &disk, &bench.store, &Options::default()).unwrap();
    assert!(planned.fetched > 0 && planned.fetched <= 256 << 10, "{planned}");
    assert!(planned.zeroed > 0 && planned.zeroed <= MIB, "{planned}");
    assert_eq!(planned.requests, 1);
    let written = bench.write(&path, &Options::default()).unwrap();
    assert_eq!(written.plan, planned);
    assert_same(&path, &bench.raw);
}

#[test]
fn what_cannot_be_is_refused_before_the_first_write() {
    let bench = Bench::new();
    let dirt = noise(8, SIZE as usize - 512);
    let small = bench.disk("small", SIZE - 512, &dirt);
    let error = bench.write(&small, &Options::default()).unwrap_err();
    let text = format!("image is {SIZE} bytes, the disk {}", SIZE - 512);
    assert!(error.to_string().starts_with(&text) && !error.may_pass(), "{error}");
    assert_same(&small, &dirt);

    let path = bench.disk("disk", SIZE, &dirt);
    let index = Index::new(bench.index.locations().skip(1));
    let disk = Disk::open(&path).unwrap();
    let error = Image::of(&bench.manifest, &index, usize::MAX).err().unwrap();
    assert!(matches!(error, ImageError::Index(IndexError::Count { .. })), "{error}");
    let mut seedless = bench.manifest.clone();
    seedless.header.seed = None;
    let seed = |_: &mut images::disk::Region<'_>, _: &images::manifest::Partition| Ok(());
    let options = Options { seed: Some(&seed), ..Options::default() };
    let seedless = Image::of(&seedless, &bench.index, usize::MAX).unwrap();
    let error = write(&seedless, &disk, &bench.store, &options).unwrap_err();
    assert!(matches!(error, WriteError::NoSeed), "{error}");
    assert_same(&path, &bench.disk_bytes(&dirt));
}

impl Bench {
    fn disk_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes.resize(SIZE as usize, 0);
        bytes
    }
}

#[test]
fn the_seed_is_written_after_the_check_and_before_the_table() {
    let bench = Bench::new();
    let path = bench.disk("disk", SIZE + MIB, &noise(7, SIZE as usize));
    let phases = Mutex::new(Vec::new());
    let seed = |region: &mut images::disk::Region<'_>, partition: &images::manifest::Partition| {
        let head = fs::read(&path)?[..34 * 512].to_vec();
        anyhow::ensure!(head.iter().all(|byte| *byte == 0), "the disk has a table already");
        assert_eq!((partition.number, partition.size, region.size()), (15, 2 * MIB, 2 * MIB));
        region.seek(SeekFrom::Start(1001))?;
        Ok(region.write_all(b"instance-id: node7")?)
    };
    let progress = |progress: images::write::Progress| {
        let mut phases = phases.lock().unwrap();
        if phases.last() != Some(&progress.phase) {
            phases.push(progress.phase);
        }
    };
    let options = Options { seed: Some(&seed), progress: &progress, ..Options::default() };
    bench.write(&path, &options).unwrap();
    let mut expected = bench.expected(SIZE + MIB, false, &[]);
    expected[2 * MIB as usize + 1001..][..18].copy_from_slice(b"instance-id: node7");
    assert_same(&path, &expected);
    let order = [Phase::Plan, Phase::Write, Phase::Verify, Phase::Seed, Phase::Table];
    assert_eq!(*phases.lock().unwrap(), order);
}

/// A store whose chunks are bad a given number of times.
struct Liar<'a> {
    store: &'a Store,
    lies: AtomicU64,
    at: Range<u64>,
}

impl Source for Liar<'_> {
    fn read(&self, pack: &Digest, range: Range<u64>) -> io::Result<Box<dyn Read + Send + '_>> {
        let mut bytes = Vec::new();
        self.store.read(pack, range.clone())?.read_to_end(&mut bytes)?;
        let touched = range.start <= self.at.start && range.end >= self.at.end;
        let again = |lies: u64| lies.checked_sub(1);
        if touched && self.lies.fetch_update(Ordering::SeqCst, Ordering::SeqCst, again).is_ok() {
            bytes[(self.at.start - range.start) as usize + 9] ^= 0x40;
        }
        Ok(Box::new(io::Cursor::new(bytes)))
    }
}

#[test]
fn a_bad_chunk_is_fetched_again_once_and_never_written() {
    let bench = Bench::new();
    let chunk = bench.index.len() / 2;
    let at = bench.index.get(chunk).unwrap();
    let liar = |lies| Liar { store: &bench.store, lies: AtomicU64::new(lies), at: at.range() };
    let path = bench.disk("disk", SIZE, &[]);
    let disk = Disk::open(&path).unwrap();
    let options = Options::default();
    let error = write(&bench.described(), &disk, &liar(2), &options).unwrap_err();
    assert!(error.may_pass());
    let text = error.to_string();
    assert!(
        text.starts_with("chunk ") && text.contains(&format!("of pack {} is corrupt", at.pack)),
        "{text}"
    );
    let head = fs::read(&path).unwrap()[..34 * 512].to_vec();
    assert!(head.iter().all(|byte| *byte == 0), "the disk boots");
    let written = write(&bench.described(), &disk, &liar(1), &options).unwrap();
    assert!(written.plan.fetched > 0);
    assert_same(&path, &bench.raw);
}

#[test]
fn a_lost_pack_is_an_error_that_may_pass() {
    let bench = Bench::new();
    let pack = bench.index.packs()[0];
    fs::remove_file(bench.store.pack_path(&pack)).unwrap();
    let path = bench.disk("disk", SIZE, &[]);
    let error = bench.write(&path, &Options::default()).unwrap_err();
    assert!(
        error.may_pass() && error.to_string() == format!("fetching from pack {pack}"),
        "{error}"
    );
}

/// What a recording of a write has: every effect, in the order it happened.
#[derive(Debug, Clone)]
enum Event {
    Bytes(u64, Vec<u8>),
    Flush,
}

fn record(bench: &Bench, path: &Path, options: &Options<'_>) -> Vec<Event> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = events.clone();
    let disk = Disk::open(path).unwrap().watched(Arc::new(move |effect| {
        log.lock().unwrap().push(match effect {
            Effect::Write { offset, bytes } => Event::Bytes(offset, bytes.to_vec()),
            Effect::Zero { offset, len } => Event::Bytes(offset, vec![0; len as usize]),
            Effect::Flush => Event::Flush,
        });
        Ok(())
    }));
    write(&bench.described(), &disk, &bench.store, options).unwrap();
    let events = events.lock().unwrap();
    events.clone()
}

/// Whether firmware would find something: a boot signature, or either partition table.
fn boots(bytes: &[u8]) -> bool {
    let backup = bytes.len() - 512;
    bytes[510..512] == [0x55, 0xaa]
        || &bytes[512..520] == b"EFI PART"
        || &bytes[backup..backup + 8] == b"EFI PART"
}

/// A disk with a volatile write cache: at a power cut, what was flushed is there, and of what
/// was not any part may be.
#[test]
fn no_power_cut_leaves_half_an_image_that_boots() {
    no_power_cut_leaves_half(&Bench::new());
}

#[test]
fn nor_does_one_between_parts() {
    no_power_cut_leaves_half(&Bench { part: 11, ..Bench::new() });
}

fn no_power_cut_leaves_half(bench: &Bench) {
    let size = SIZE + 2 * MIB;
    // Another image was here: it boots, and shares nothing with ours.
    let mut before = noise(11, size as usize);
    before[..512 * 34].copy_from_slice(&bench.raw[..512 * 34]);
    let path = bench.disk("disk", size, &before);
    sgdisk(&path, &["-e"]);
    let before = fs::read(&path).unwrap();
    let options = Options { grow: true, ..Options::default() };
    let events = record(bench, &path, &options);
    let after = fs::read(&path).unwrap();
    assert_same(&path, &bench.expected(size, true, &before));

    let body = 34 * 512..size as usize - 33 * 512;
    let (mut flushed, mut open, mut cuts) = (before.clone(), Vec::new(), 0);
    let mut lot = 12345_u64;
    for event in &events {
        match event {
            Event::Bytes(..) => open.push(event),
            Event::Flush => {
                open.drain(..).for_each(|event| apply(&mut flushed, event));
            }
        }
        for _ in 0..2 {
            let mut cut = flushed.clone();
            for event in &open {
                lot = lot.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                if lot >> 63 == 1 {
                    apply(&mut cut, event);
                }
            }
            cuts += 1;
            let whole = cut[body.clone()] == after[body.clone()];
            let old = cut[body.clone()] == before[body.clone()];
            assert!(!boots(&cut) || whole || old, "cut {cuts} boots half an image");
        }
    }
    assert!(cuts > 40, "{cuts}");
}

fn apply(disk: &mut [u8], event: &Event) {
    if let Event::Bytes(offset, bytes) = event {
        disk[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
}

#[test]
fn after_any_power_cut_the_next_run_keeps_what_was_written() {
    let bench = Bench::new();
    let size = SIZE + MIB;
    let before = noise(12, size as usize);
    let options = Options { grow: true, threads: 1, ..Options::default() };
    let path = bench.disk("disk", size, &before);
    let total = record(&bench, &path, &options).len() as u64;
    assert_same(&path, &bench.expected(size, true, &before));
    let mut kept = BTreeSet::new();
    for cut in 0..total {
        let path = bench.disk("disk", size, &before);
        let left = AtomicU64::new(cut);
        let disk = Disk::open(&path).unwrap().watched(Arc::new(move |_| {
            let again = |left: u64| left.checked_sub(1);
            let left = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, again);
            left.map(drop).map_err(|_| io::Error::other("power cut"))
        }));
        let error = write(&bench.described(), &disk, &bench.store, &options).unwrap_err();
        assert!(matches!(error, WriteError::Disk(_)) && !error.may_pass(), "{error}");
        let written = bench.write(&path, &options).unwrap();
        kept.insert(written.plan.kept);
        assert_same(&path, &bench.expected(size, true, &before));
    }
    assert!(kept.len() > 4 && kept.last() > Some(&(15 * MIB)), "{kept:?}");
}
