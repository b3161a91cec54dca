//! Stores that are mirrored: what travels, and what is left where it breaks off.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::fs;

use images::{
    Digest, Store,
    format::Format,
    gc,
    import::{Options, import_stream},
    mirror::mirror,
};

/// Bytes that do not repeat and do not shrink.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((state >> 33) as u32).to_le_bytes()
    });
    words.take(len / 4).flatten().collect()
}

struct Two {
    folder: tempfile::TempDir,
    from: Store,
    to: Store,
}

impl Two {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = |name| Store::create(folder.path().join(name)).unwrap();
        let (from, to) = (store("from"), store("to"));
        Two { from, to, folder }
    }

    fn add(&self, name: &str, bytes: &[u8]) -> Digest {
        import_stream(&self.from, bytes, &Options::new(name)).unwrap().manifest
    }

    /// Mirrors all; the packs and bytes that travelled.
    fn mirror(&self) -> (u64, u64) {
        let mirrored = mirror(&self.from, &self.to, &[], &mut |_, _, _| {}).unwrap();
        (mirrored.packs, mirrored.bytes)
    }

    fn has(&self, digest: &Digest, bytes: &[u8]) {
        let out = self.folder.path().join("out");
        let _ = fs::remove_file(&out);
        images::export::export(&self.to, digest, &out, Format::Raw, &|_, _| {}).unwrap();
        assert!(fs::read(&out).unwrap() == bytes);
    }
}

#[test]
fn only_what_is_missing_travels() {
    let two = Two::new();
    let mut bytes = noise(1, 20 << 20);
    let first = two.add("first", &bytes);
    let (packs, size) = two.mirror();
    assert_eq!(packs, two.from.packs().unwrap().len() as u64);
    two.has(&first, &bytes);
    assert_eq!(two.mirror(), (0, 0));

    bytes[5 << 20..6 << 20].copy_from_slice(&noise(2, 1 << 20));
    let second = two.add("second", &bytes);
    two.add("again", &bytes);
    let (packs, new) = two.mirror();
    assert!(packs == 1 && new < size / 10, "{packs} {new}");
    two.has(&second, &bytes);
    assert_eq!(two.to.names().unwrap(), ["again", "first", "second"]);
    // Signed by the store it came from, which is to be believed by whoever wants it.
    let trusted = two.from.trusted().unwrap();
    assert!(two.to.verify(&second, &trusted, &|_, _| {}).unwrap().faults.is_empty());
    two.from.new_key().unwrap();
    two.from.sign("second", false).unwrap();
    assert_eq!(two.mirror(), (0, 0));
    let minisig = |store: &Store| fs::read(store.minisig_path(&second)).unwrap();
    assert_eq!(minisig(&two.to), minisig(&two.from));
}

#[test]
fn stores_that_were_repacked_differently_share_all_the_same() {
    let two = Two::new();
    let whole = noise(3, 24 << 20);
    let part: Vec<u8> = whole.chunks(1 << 20).step_by(4).flatten().copied().collect();
    two.add("whole", &whole);
    let digest = two.add("part", &part);
    two.mirror();
    // Here the packs are rewritten, there they stay.
    two.from.remove("whole").unwrap();
    let at_once = gc::Options { grace: std::time::Duration::ZERO, live_percent: 50 };
    assert!(two.from.gc_with(&at_once).unwrap().repacked > 0);
    let index = two.to.index(&digest).unwrap();
    assert_ne!(two.from.index(&digest).unwrap(), index);
    let mut more = part.clone();
    more.extend(noise(4, 1 << 20));
    let new = two.add("more", &more);
    let (packs, bytes) = two.mirror();
    assert!(packs == 1 && bytes < 3 << 19, "{packs} {bytes}");
    assert_eq!(two.to.index(&digest).unwrap(), index);
    two.has(&new, &more);
    two.has(&digest, &part);
}

#[test]
fn a_mirroring_that_breaks_off_shows_nothing_and_goes_on() {
    let two = Two::new();
    let bytes = noise(5, 20 << 20);
    let digest = two.add("image", &bytes);
    let damaged = two.from.index(&digest).unwrap().packs()[1];
    let path = two.from.pack_path(&damaged);
    let sound = fs::read(&path).unwrap();
    let mut bad = sound.clone();
    bad[1000] ^= 1;
    fs::write(&path, &bad).unwrap();
    let error = mirror(&two.from, &two.to, &[], &mut |_, _, _| {}).unwrap_err();
    assert!(format!("{error:#}").contains(&format!("pack {damaged} is damaged")), "{error:#}");
    assert!(two.to.names().unwrap().is_empty() && two.to.manifests().unwrap().is_empty());
    assert_eq!(two.to.packs().unwrap().len(), 1);
    fs::write(&path, sound).unwrap();
    assert_eq!(two.mirror().0, two.from.packs().unwrap().len() as u64 - 1);
    two.has(&digest, &bytes);
    let error = mirror(&two.from, &two.from, &[], &mut |_, _, _| {}).unwrap_err().to_string();
    assert_eq!(error, "a store is no mirror of itself");
}
