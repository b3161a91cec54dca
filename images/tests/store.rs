//! A store from the outside: images go in, are listed, verified, damaged, removed.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

mod layout;

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::Path,
    process::Command,
};

use images::{
    Digest, Extent, Store,
    file::StoreFull,
    import::{Imported, Options, import, import_stream},
    name::Unresolved,
};
use layout::unpack;

/// Bytes that do not repeat and do not shrink, some blocks of zeros among them.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u32
    };
    let block = |_| {
        let value = next();
        // A quarter zeros, a quarter text-like, half noise.
        match value % 4 {
            0 => vec![0; 4096],
            1 => (0..1024).flat_map(|n: u32| (value / 97 + n / 50).to_le_bytes()).collect(),
            _ => (0..1024).flat_map(|_| next().to_le_bytes()).collect(),
        }
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(4096)).flat_map(block).collect();
    bytes.truncate(len);
    bytes
}

fn disk(folder: &Path, bytes: &[u8]) -> std::path::PathBuf {
    let path = folder.join(format!("{}.raw", Digest::of(bytes)));
    fs::write(&path, bytes).unwrap();
    path
}

fn add(store: &Store, folder: &Path, name: &str, bytes: &[u8]) -> Imported {
    import(store, &disk(folder, bytes), &Options::new(name)).unwrap()
}

fn no_progress(_: u64, _: u64) {}

#[test]
fn a_disk_comes_back_as_it_was_from_file_hole_and_stream() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("store")).unwrap();
    let bytes = noise(1, 20 << 20);
    let imported = add(&store, folder.path(), "plain", &bytes);
    assert_eq!((imported.size, imported.padded), (20 << 20, 0));
    assert!(unpack(&store, &imported.manifest) == bytes);

    let options = Options::new("stream");
    let streamed = import_stream(&store, &bytes[..], &options).unwrap();
    assert_eq!((streamed.manifest, streamed.new_chunks), (imported.manifest, 0));

    let sparse = folder.path().join("sparse.raw");
    let mut file = fs::File::create(&sparse).unwrap();
    for (at, block) in bytes.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start(at as u64 * 4096)).unwrap();
            file.write_all(block).unwrap();
        }
    }
    file.set_len(bytes.len() as u64).unwrap();
    let sparse = import(&store, &sparse, &Options::new("sparse")).unwrap();
    assert_eq!(sparse.manifest, imported.manifest);
    assert_eq!(store.names().unwrap(), ["plain", "sparse", "stream"]);
}

#[test]
fn manifest_and_packs_depend_on_the_disk_alone() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path(), &noise(2, 24 << 20));
    let packs = |threads: usize| {
        let store = Store::create(folder.path().join(format!("store{threads}"))).unwrap();
        let imported = import(&store, &disk, &Options { threads, ..Options::new("a") }).unwrap();
        let index = fs::read(store.index_path(&imported.manifest)).unwrap();
        (imported, store.packs().unwrap(), Digest::of(&index))
    };
    let one = packs(1);
    assert!(one.1.len() > 1, "{}", one.1.len());
    assert_eq!(one, packs(2));
    assert_eq!(one, packs(7));
}

#[test]
fn every_pack_has_the_name_of_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("store")).unwrap();
    add(&store, folder.path(), "a", &noise(3, 12 << 20));
    for pack in store.packs().unwrap() {
        assert_eq!(Digest::of(&fs::read(store.pack_path(&pack)).unwrap()), pack);
    }
}

#[test]
fn what_two_images_share_is_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("store")).unwrap();
    let mut bytes = noise(4, 16 << 20);
    let first = add(&store, folder.path(), "first", &bytes);
    // Moved by some blocks, and one block changed.
    bytes.splice(0..0, noise(5, 8 * 4096));
    bytes[9 << 20] ^= 1;
    let second = add(&store, folder.path(), "second", &bytes);
    assert!(second.new_bytes < first.new_bytes / 8, "{second:?}");
    let images = store.images().unwrap();
    assert_eq!(images[0].packed, first.new_bytes);
    assert!(images[0].own < 600_000 && images[1].own == second.new_bytes, "{images:?}");
    assert!(unpack(&store, &second.manifest) == bytes);
    let locations = store.locations().unwrap();
    for chunk in chunk_names(&store, &second.manifest) {
        assert_eq!(Digest::of(&store.chunk(&chunk, &locations[&chunk]).unwrap()), chunk);
    }
}

#[test]
fn a_disk_that_ends_in_mid_sector_is_padded_and_an_empty_one_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("store")).unwrap();
    let bytes = noise(6, 3 * 4096 + 700);
    let imported = add(&store, folder.path(), "odd", &bytes);
    assert_eq!((imported.size, imported.padded), (3 * 4096 + 1024, 324));
    assert!(unpack(&store, &imported.manifest)[..bytes.len()] == bytes);
    let wide = Options { sector_size: Some(4096), ..Options::new("wide") };
    let imported = import_stream(&store, &bytes[..], &wide).unwrap();
    assert_eq!((imported.size, imported.padded), (4 * 4096, 4096 - 700));
    let empty = import_stream(&store, &[][..], &Options::new("empty")).unwrap();
    assert_eq!((empty.size, empty.chunks), (0, 0));
}

#[test]
fn images_are_found_by_name_digest_and_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("store")).unwrap();
    let digest = add(&store, folder.path(), "debian-13", &noise(7, 1 << 20)).manifest;
    let text = digest.to_string();
    for typed in ["debian-13", &text, &text[..6]] {
        assert_eq!(store.resolve(typed).unwrap(), digest);
    }
    for typed in ["debian-12", &text[..5], "../names/debian-13", ""] {
        let error = store.resolve(typed).unwrap_err();
        assert!(matches!(error, Unresolved::Unknown { .. }), "{error}");
    }
    let error = store.resolve("debian").unwrap_err().to_string();
    assert_eq!(error, "no image `debian`, there are debian-13");
    assert!(import_stream(&store, &[][..], &Options::new("../x")).is_err());
}

#[test]
fn a_bad_chunk_is_named_with_its_pack() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("store")).unwrap();
    let digest = add(&store, folder.path(), "a", &noise(8, 10 << 20)).manifest;
    let trusted = store.trusted().unwrap();
    let sound = store.verify(&digest, &trusted, &no_progress).unwrap();
    assert!(sound.faults.is_empty() && sound.signer.is_some() && sound.chunks > 20, "{sound:?}");

    let at = store.index(&digest).unwrap().get(7).unwrap();
    let path = store.pack_path(&at.pack);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at.offset as usize + at.len as usize / 2] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let faults = store.verify(&digest, &trusted, &no_progress).unwrap().faults;
    assert_eq!(faults.len(), 1);
    let text = faults[0].to_string();
    let chunk = chunk_names(&store, &digest)[7];
    assert!(text.starts_with(&format!("pack {}: chunk {chunk} at offset", at.pack)), "{text}");

    fs::remove_file(&path).unwrap();
    fs::remove_file(store.minisig_path(&digest)).unwrap();
    let faults = store.verify(&digest, &trusted, &no_progress).unwrap().faults;
    let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert!(texts[0].ends_with("it is not signed"), "{texts:?}");
    assert!(texts[1].starts_with(&format!("pack {} cannot be read", at.pack)), "{texts:?}");
}

fn chunk_names(store: &Store, manifest: &Digest) -> Vec<Digest> {
    let manifest = store.manifest(manifest).unwrap();
    let name = |extent: &Extent| match extent {
        Extent::Chunk { name, .. } => Some(*name),
        Extent::Zero(_) => None,
    };
    manifest.extents.iter().filter_map(name).collect()
}

#[test]
fn garbage_goes_and_what_a_name_needs_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("store")).unwrap();
    let shared = noise(9, 6 << 20);
    let first = add(&store, folder.path(), "first", &shared);
    let mut more = shared.clone();
    more.extend(noise(10, 20 << 20));
    let second = add(&store, folder.path(), "second", &more);
    fs::write(store.root().join("packs/.new-1-1"), [0; 100]).unwrap();
    fs::write(store.root().join("names/.new-1-2"), [0; 10]).unwrap();

    let collected = store.gc().unwrap();
    assert_eq!((collected.packs, collected.manifests, collected.unfinished), (0, 0, 2));
    assert_eq!(store.remove("second").unwrap(), second.manifest);
    assert!(store.remove("second").is_err());
    store.hold("somebody", &second.manifest).unwrap();
    assert!(store.hold("../escape", &second.manifest).is_err());
    assert!(store.hold("other", &Digest::of(b"nothing")).is_err());
    assert_eq!(store.holds().unwrap(), [("somebody".to_owned(), second.manifest)]);
    assert_eq!(store.gc().unwrap().manifests, 0);
    store.release("somebody").unwrap();
    store.release("somebody").unwrap();
    let collected = store.gc().unwrap();
    assert_eq!(collected.manifests, 1);
    assert!(collected.packs > 0 && collected.freed > second.new_bytes / 2, "{collected:?}");
    assert!(unpack(&store, &first.manifest) == shared);
    assert!(store.manifest(&second.manifest).is_err());

    store.remove("first").unwrap();
    store.gc().unwrap();
    assert!(store.packs().unwrap().is_empty() && store.manifests().unwrap().is_empty());
}

#[test]
fn a_name_is_replaced_by_a_new_import() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("store")).unwrap();
    let first = add(&store, folder.path(), "a", &noise(11, 1 << 20)).manifest;
    let second = add(&store, folder.path(), "a", &noise(12, 1 << 20)).manifest;
    assert_ne!(first, second);
    assert_eq!(store.resolve("a").unwrap(), second);
    assert_eq!(store.resolve(&first.to_string()).unwrap(), first);
}

#[test]
fn a_full_store_says_so_and_shows_nothing() {
    if std::env::var_os("IN_OWN_MOUNTS").is_none() {
        return in_own_mounts("a_full_store_says_so_and_shows_nothing");
    }
    let folder = tempfile::tempdir().unwrap();
    let small = ["-t", "tmpfs", "-o", "size=12m", "tmpfs"];
    run(Command::new("mount").args(small).arg(folder.path()));
    let store = Store::create(folder.path().join("store")).unwrap();
    let small = import_stream(&store, &noise(13, 1 << 20)[..], &Options::new("small")).unwrap();
    let before = tree(store.root());
    let error =
        import_stream(&store, &noise(14, 40 << 20)[..], &Options::new("large")).unwrap_err();
    let full = error.downcast_ref::<StoreFull>().unwrap_or_else(|| panic!("{error:#}"));
    assert!(full.needed > full.free, "{full}");
    assert_eq!(tree(store.root()), before);
    assert_eq!(store.names().unwrap(), ["small"]);
    let verified = store.verify(&small.manifest, &store.trusted().unwrap(), &no_progress).unwrap();
    assert!(verified.faults.is_empty());
}

fn tree(root: &Path) -> Vec<std::path::PathBuf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            paths.extend(tree(&path));
        }
        paths.push(path);
    }
    paths.sort();
    paths
}

/// Runs one test of this program again where it may mount, root or not.
fn in_own_mounts(test: &str) {
    let this = std::env::current_exe().unwrap();
    let mut unshare = Command::new("unshare");
    unshare.args(["--map-root-user", "--mount", "--"]).arg(this).args(["--exact", test]);
    run(unshare.env("IN_OWN_MOUNTS", "yes"));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}
