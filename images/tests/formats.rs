//! Disks of other programs: each is made by `qemu-img` from one disk, imported, and compared with
//! what `qemu-img` itself reads from it.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

mod layout;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use images::{
    Digest, Store,
    export::export,
    format::{Format, Unfit},
    import::{Options, import},
};

/// A disk with text, noise, and zeros that are blocks and runs.
fn disk(len: usize) -> Vec<u8> {
    let mut state = 77_u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u32
    };
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let (kind, blocks) = (next() % 5, 1 + next() % 40);
        for _ in 0..blocks {
            match kind {
                0 | 1 => bytes.resize(bytes.len() + 4096, 0),
                2 => bytes.extend((0..1024).flat_map(|n: u32| (n / 30).to_le_bytes())),
                _ => bytes.extend((0..1024).flat_map(|_| next().to_le_bytes())),
            }
        }
    }
    bytes.truncate(len);
    bytes
}

struct Bench {
    folder: tempfile::TempDir,
    store: Store,
    raw: PathBuf,
}

impl Bench {
    fn new(len: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path().join("store")).unwrap();
        let raw = folder.path().join("disk.raw");
        fs::write(&raw, disk(len)).unwrap();
        Bench { folder, store, raw }
    }

    /// Makes a disk of a format with some options.
    fn make(&self, name: &str, args: &[&str]) -> PathBuf {
        let path = self.folder.path().join(name);
        qemu_img(
            Command::new("qemu-img")
                .args(["convert", "-f", "raw"])
                .args(args)
                .args([&self.raw, &path]),
        );
        path
    }

    /// What QEMU reads from it.
    fn reference(&self, path: &Path, driver: &str) -> Vec<u8> {
        let raw = self.folder.path().join("reference.raw");
        qemu_img(
            Command::new("qemu-img")
                .args(["convert", "-f", driver, "-O", "raw"])
                .args([path, &raw]),
        );
        fs::read(raw).unwrap()
    }

    fn import(&self, path: &Path) -> anyhow::Result<Digest> {
        import(&self.store, path, &Options::new("a")).map(|imported| imported.manifest)
    }

    fn refusal(&self, path: &Path) -> String {
        let error = self.import(path).unwrap_err();
        error.downcast_ref::<Unfit>().unwrap_or_else(|| panic!("{error:#}")).why.clone()
    }

    fn export(&self, digest: &Digest, name: &str, format: Format) -> PathBuf {
        let path = self.folder.path().join(name);
        export(&self.store, digest, &path, format, &|_, _| {}).unwrap();
        path
    }

    fn unpack(&self, digest: &Digest) -> Vec<u8> {
        layout::unpack(&self.store, digest)
    }
}

fn qemu_img(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Name, format as detected, what QEMU calls it, and how it is made.
const DISKS: &[(&str, Format, &str, &[&str])] = &[
    ("plain.qcow2", Format::Qcow2, "qcow2", &["-O", "qcow2"]),
    ("old.qcow2", Format::Qcow2, "qcow2", &["-O", "qcow2", "-o", "compat=0.10"]),
    ("zlib.qcow2", Format::Qcow2, "qcow2", &["-O", "qcow2", "-c"]),
    ("zstd.qcow2", Format::Qcow2, "qcow2", &["-O", "qcow2", "-c", "-o", "compression_type=zstd"]),
    (
        "sub.qcow2",
        Format::Qcow2,
        "qcow2",
        &["-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k"],
    ),
    ("sparse.vmdk", Format::Vmdk, "vmdk", &["-O", "vmdk"]),
    ("stream.vmdk", Format::Vmdk, "vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
    ("flat.vmdk", Format::Vmdk, "vmdk", &["-O", "vmdk", "-o", "subformat=monolithicFlat"]),
    ("split.vmdk", Format::Vmdk, "vmdk", &["-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"]),
    ("grows.vhd", Format::Vhd, "vpc", &["-O", "vpc"]),
    ("fixed.vhd", Format::Vhd, "vpc", &["-O", "vpc", "-o", "subformat=fixed"]),
    ("exact.vhd", Format::Vhd, "vpc", &["-O", "vpc", "-o", "force_size=on"]),
    ("grows.vhdx", Format::Vhdx, "vhdx", &["-O", "vhdx"]),
    ("fixed.vhdx", Format::Vhdx, "vhdx", &["-O", "vhdx", "-o", "subformat=fixed"]),
];

#[test]
fn every_format_gives_the_bytes_that_qemu_reads() {
    let bench = Bench::new(9 << 20);
    for (name, format, driver, args) in DISKS {
        let path = bench.make(name, args);
        assert_eq!(Format::detect(&path).unwrap(), *format, "{name}");
        let imported = bench.import(&path).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert!(bench.unpack(&imported) == bench.reference(&path, driver), "{name}");
    }
    assert!(bench.unpack(&bench.import(&bench.raw).unwrap()) == fs::read(&bench.raw).unwrap());
    let left = fs::read_dir(bench.store.root()).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with('.')).count(), 0);
}

#[test]
fn a_disk_that_was_cut_short_is_never_imported() {
    let bench = Bench::new(9 << 20);
    for (name, _, _, args) in DISKS {
        // The text descriptor of a split disk is a file of its own.
        let path = bench.make(name, args);
        let data = ["flat.vmdk", "split.vmdk"].contains(name).then(|| {
            let part = name.replace(".vmdk", "-flat.vmdk");
            let part = if part.starts_with("split") { "split-s001.vmdk".to_owned() } else { part };
            path.with_file_name(part)
        });
        let file = fs::File::options().write(true).open(data.as_ref().unwrap_or(&path)).unwrap();
        let whole = file.metadata().unwrap().len();
        for part in [2, 3] {
            file.set_len(whole * (part - 1) / part).unwrap();
            // A fixed VHD without its footer is a raw disk, and says nothing else.
            if *name == "fixed.vhd" {
                let error = import(
                    &bench.store,
                    &path,
                    &Options { format: Some(Format::Vhd), ..Options::new("a") },
                );
                assert!(error.unwrap_err().is::<Unfit>());
                continue;
            }
            let error = bench.import(&path).expect_err(name);
            println!("{name}: {error:#}");
        }
        fs::remove_file(&path).unwrap();
    }
    assert!(bench.store.names().unwrap().is_empty());
}

#[test]
fn a_disk_on_top_of_another_is_refused_with_its_name() {
    let bench = Bench::new(1 << 20);
    let base = bench.make("base.qcow2", &["-O", "qcow2"]);
    let top = |name: &str, driver: &str, base: &Path, base_driver: &str| {
        let path = bench.folder.path().join(name);
        let create = ["create", "-q", "-f", driver, "-F", base_driver, "-b"];
        qemu_img(Command::new("qemu-img").args(create).args([base, &path]));
        path
    };
    let said = bench.refusal(&top("top.qcow2", "qcow2", &base, "qcow2"));
    assert!(said.contains(&format!("its backing file `{}`", base.display())), "{said}");
    let base = bench.make("base.vmdk", &["-O", "vmdk"]);
    let said = bench.refusal(&top("top.vmdk", "vmdk", &base, "vmdk"));
    assert!(said.contains("base.vmdk`"), "{said}");
    let path = bench.folder.path().join("outside.qcow2");
    let data = format!("data_file={}", bench.folder.path().join("data").display());
    qemu_img(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-o", &data])
            .arg(&path)
            .arg("1M"),
    );
    assert!(bench.refusal(&path).contains("in another file"));
    let path = bench.make("secret.qcow2", &["-O", "qcow2"]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[35] = 2; // crypt_method, LUKS
    fs::write(&path, bytes).unwrap();
    assert!(bench.refusal(&path).contains("encrypted"));
}

#[test]
fn what_is_no_disk_is_refused_with_what_to_do() {
    let bench = Bench::new(1 << 20);
    let file = |name: &str, bytes: &[u8]| {
        let path = bench.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let zstd = zstd::encode_all(&fs::read(&bench.raw).unwrap()[..], 1).unwrap();
    let zstd = file("disk.zst", &zstd);
    assert!(bench.refusal(&zstd).contains("zstd -dc"));
    assert!(bench.refusal(&file("cut.qcow2", b"QFI\xfb\0\0\0\x03")).contains("cut short"));
    assert!(bench.refusal(bench.folder.path()).contains("is a folder without"));
    // The user knows better.
    let options = Options { format: Some(Format::Raw), ..Options::new("a") };
    let imported = import(&bench.store, &zstd, &options).unwrap();
    assert!(bench.unpack(&imported.manifest).starts_with(&fs::read(&zstd).unwrap()));
    let options = Options { format: Some(Format::Qcow2), ..Options::new("a") };
    let error = import(&bench.store, &bench.raw, &options).unwrap_err();
    assert!(error.is::<Unfit>(), "{error:#}");
}

#[test]
fn an_exported_file_has_the_bytes_and_the_holes_of_the_image() {
    let bench = Bench::new((9 << 20) + 512);
    let digest = bench.import(&bench.raw).unwrap();
    let raw = bench.export(&digest, "out.raw", Format::Raw);
    assert!(fs::read(&raw).unwrap() == fs::read(&bench.raw).unwrap());
    let zeros = fs::read(&raw).unwrap().chunks(4096).filter(|b| b.iter().all(|x| *x == 0)).count();
    let held = std::os::unix::fs::MetadataExt::blocks(&raw.metadata().unwrap()) * 512;
    assert!(held <= (10 << 20) - zeros as u64 * 4096, "{held} for {zeros} blocks of zeros");
    for size in [0, 512, 4096, (9 << 20) + 512, 600 << 20] {
        let disk = bench.folder.path().join("sized.raw");
        let file = fs::File::create(&disk).unwrap();
        std::io::Write::write_all(&mut &file, &fs::read(&bench.raw).unwrap()).unwrap();
        file.set_len(size).unwrap();
        let digest = bench.import(&disk).unwrap();
        let out = bench.export(&digest, &format!("out{size}.qcow2"), Format::Qcow2);
        qemu_img(Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&out));
        qemu_img(
            Command::new("qemu-img")
                .args(["compare", "-f", "raw", "-F", "qcow2"])
                .args([&disk, &out]),
        );
        assert_eq!(bench.import(&out).unwrap(), digest);
    }
}

#[test]
fn an_export_leaves_a_whole_file_or_none() {
    let bench = Bench::new(2 << 20);
    let digest = bench.import(&bench.raw).unwrap();
    let path = bench.folder.path().join("there");
    fs::write(&path, "mine").unwrap();
    let error = export(&bench.store, &digest, &path, Format::Raw, &|_, _| {}).unwrap_err();
    assert!(error.is::<Unfit>() && fs::read(&path).unwrap() == b"mine", "{error:#}");
    let at = bench.store.index(&digest).unwrap().get(2).unwrap();
    let pack = bench.store.pack_path(&at.pack);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[at.offset as usize + 40] ^= 8;
    fs::write(&pack, bytes).unwrap();
    let out = bench.folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let error = export(&bench.store, &digest, &out.join("disk"), Format::Raw, &|_, _| {});
    assert!(format!("{:#}", error.unwrap_err()).contains(&format!("of pack {}", at.pack)));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}
