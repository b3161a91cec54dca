//! Block devices, with loop devices for disks. They need root, which `cargo test` need not
//! be: `make test` runs them with `--ignored` where it is root, and says so where it is not.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    process::Command,
};

use images::{
    Digest, Disk, Image, Store,
    disk::DiskError,
    import::{Options as Import, import},
    listed::Stored,
    write::{Options, WriteError, write},
};

const SIZE: u64 = 16 << 20;

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text.trim().to_owned()
}

/// A loop device over a file, with a sector size of its own.
struct Loop(String);

impl Loop {
    fn new(file: &Path, sector: &str) -> Self {
        let file = file.to_str().unwrap();
        Loop(run("losetup", &["--find", "--show", "--sector-size", sector, file]))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

fn file(path: &Path, size: u64, dirt: u8) {
    fs::write(path, vec![dirt; size as usize]).unwrap();
}

fn image(folder: &Path, sector: &str) -> (Vec<u8>, std::path::PathBuf) {
    let path = folder.join("image.raw");
    file(&path, SIZE, 0);
    let device = Loop::new(&path, sector);
    run("sgdisk", &["-n3:512:+2M", "-n2:0:0", &device.0]);
    run(
        "dd",
        &[
            "if=/dev/urandom",
            &format!("of={}", device.0),
            "bs=1M",
            "seek=5",
            "count=3",
            "conv=fsync",
        ],
    );
    drop(device);
    (fs::read(&path).unwrap(), path)
}

/// A MiB that is not zero.
fn noise() -> Vec<u8> {
    (0..1u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect()
}

/// Some MiB of it are used, before and after, and the others take no room.
#[test]
#[ignore = "needs root and loop devices"]
fn zeros_of_a_disk_of_ten_tib_take_no_room() {
    let (folder, noise, size) = (tempfile::tempdir().unwrap(), noise(), 10_u64 << 40);
    let place = |name: &str| folder.path().join(name);
    let (raw, target) = (place("huge.raw"), place("target"));
    let places = [1 << 20, size / 4096 / 2 * 4096, size - (2 << 20)];
    let dirty = size / 4096 / 3 * 4096;
    for (path, places) in [(&raw, &places[..]), (&target, &[dirty])] {
        let file = fs::File::create(path).unwrap();
        file.set_len(size).unwrap();
        places.iter().for_each(|at| file.write_all_at(&noise, *at).unwrap());
    }
    run("sgdisk", &["-n1:2048:+64M", "-n2:0:0", raw.to_str().unwrap()]);
    let store = Store::create(place("store")).unwrap();
    let imported = import(&store, &raw, &Import::new("huge")).unwrap();
    let image = stored(&store, &imported.manifest);
    let device = Loop::new(&target, "512");
    let disk = Disk::open(Path::new(&device.0)).unwrap();
    let plan = write(&image, &disk, &store, &Options::default()).unwrap().plan;
    assert!(plan.fetched >= 3 << 20 && plan.fetched < 8 << 20, "{plan}");
    drop(disk);
    let disk = fs::File::open(&device.0).unwrap();
    let mut found = vec![0; noise.len()];
    for at in places {
        disk.read_exact_at(&mut found, at).unwrap();
        assert!(found == noise, "what belongs at {at} is not there");
    }
    disk.read_exact_at(&mut found, dirty).unwrap();
    assert!(found.iter().all(|byte| *byte == 0), "what was at {dirty} is still there");
    run("sgdisk", &["--verify", &device.0]);
    let room = fs::metadata(&target).unwrap().blocks() * 512;
    assert!(room < 16 << 20, "{room} bytes are taken by a disk of which 3 MiB are used");
}

fn stored(store: &Store, manifest: &Digest) -> Image<'static> {
    Image::stored(Stored { store: store.clone(), manifest: *manifest }).unwrap()
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_dirty_device_becomes_the_image_with_either_sector_size() {
    for sector in ["512", "4096"] {
        let folder = tempfile::tempdir().unwrap();
        let (raw, path) = image(folder.path(), sector);
        let store = Store::create(folder.path().join("store")).unwrap();
        let from_file = import(&store, &path, &Import::new("file")).unwrap();
        let source = Loop::new(&path, sector);
        let from_device = import(&store, Path::new(&source.0), &Import::new("device")).unwrap();
        assert_eq!(from_file.manifest, from_device.manifest);
        let image = stored(&store, &from_file.manifest);

        let target = folder.path().join("target.raw");
        file(&target, SIZE, 0x5a);
        let device = Loop::new(&target, sector);
        let disk = Disk::open(&device.0).unwrap();
        assert_eq!((disk.size(), disk.sector_size()), (SIZE, Some(sector.parse().unwrap())));
        let written = write(&image, &disk, &store, &Options::default()).unwrap();
        assert!(written.plan.zeroed > 9 << 20, "{}", written.plan);
        drop((disk, device));
        assert!(fs::read(&target).unwrap() == raw);

        let other = Loop::new(&target, if sector == "512" { "4096" } else { "512" });
        let disk = Disk::open(&other.0).unwrap();
        let error = write(&image, &disk, &store, &Options::default()).unwrap_err();
        assert!(matches!(error, WriteError::SectorSize { .. }), "{error}");
    }
}

/// sgdisk as a second reader: what it says of the table on a device, and where its partitions end.
fn second_reader(device: &str) -> String {
    let verdict = run("sgdisk", &["-v", device]);
    assert!(verdict.contains("No problems found"), "{device}: {verdict}");
    run("sgdisk", &["-i2", device])
}

#[test]
#[ignore = "needs root and loop devices"]
fn on_a_larger_device_the_table_moves_and_grows_with_either_sector_size() {
    for (sector, size) in [("512", SIZE + (8 << 20) + 512), ("4096", SIZE + (8 << 20) + 4096)] {
        let folder = tempfile::tempdir().unwrap();
        let (raw, path) = image(folder.path(), sector);
        let store = Store::create(folder.path().join("store")).unwrap();
        let source = Loop::new(&path, sector);
        let digest = import(&store, Path::new(&source.0), &Import::new("device")).unwrap().manifest;
        let image = stored(&store, &digest);

        let target = folder.path().join("target.raw");
        file(&target, size, 0x5a);
        let device = Loop::new(&target, sector);
        for grow in [false, true] {
            let disk = Disk::open(&device.0).unwrap();
            let options = Options { grow, ..Options::default() };
            let written = write(&image, &disk, &store, &options).unwrap();
            drop(disk);
            // Grown to a whole MiB, with the backup table behind it.
            let bytes: u64 = sector.parse().unwrap();
            let last = written.partitions.iter().find(|partition| partition.number == 2).unwrap();
            let room = size - (last.start + last.size);
            assert_eq!(grow, room < 2 << 20, "{sector} {grow}: {room}");
            let said = second_reader(&device.0);
            let ends = format!("Last sector: {} ", (last.start + last.size) / bytes - 1);
            assert!(said.contains(&ends), "{sector} {grow}: {said}, not {ends}");
            let header = &fs::read(&target).unwrap()[(size - bytes) as usize..][..8];
            assert_eq!(header, b"EFI PART", "{sector} {grow}");
        }
        let body = 5 << 20..8 << 20;
        assert!(fs::read(&target).unwrap()[body.clone()] == raw[body]);
    }
}

#[test]
#[ignore = "needs root and loop devices"]
fn a_mounted_and_a_read_only_device_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    file(&path, SIZE, 0);
    let device = Loop::new(&path, "512");
    run("mke2fs", &["-q", &device.0]);
    let mount = folder.path().join("mount");
    fs::create_dir(&mount).unwrap();
    run("mount", &[&device.0, mount.to_str().unwrap()]);
    let error = Disk::open(&device.0).unwrap_err();
    run("umount", &[mount.to_str().unwrap()]);
    assert!(matches!(error, DiskError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&format!("is mounted on {}", mount.display())), "{error}");

    let first = Disk::open(&device.0).unwrap();
    assert!(matches!(Disk::open(&device.0), Err(DiskError::InUse { .. })));
    drop(first);
    run("blockdev", &["--setro", &device.0]);
    let error = Disk::open(&device.0).unwrap_err();
    // The flag outlives the loop device's file.
    run("blockdev", &["--setrw", &device.0]);
    assert!(matches!(error, DiskError::ReadOnly { .. }), "{error}");
}
