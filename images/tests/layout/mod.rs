//! Images whose files are noise, in one layout or another, and a store of them.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test program uses its part")]

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use images::{
    Digest, Disk, Extent, Index, Manifest, Store,
    import::{Options as Import, import_stream},
    pack::{Decoder, Source as _},
    plan::Plan,
    previous::Previous,
    write::{Options, Written, plan, write},
};

pub const MIB: usize = 1 << 20;
pub const BLOCK: usize = 4096;
/// Where files begin: the image has no partition table but a boot sector.
pub const FIRST: usize = 16 * BLOCK;

pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u8 & 0x3f
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// A disk of files, each named by the seed of its noise and its length in blocks, one after the
/// other with a gap of so many blocks before each.
pub fn disk(size: usize, boot: u8, files: &[(u64, usize, usize)]) -> Vec<u8> {
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

pub struct Image {
    pub manifest: Manifest,
    pub index: Index,
    pub raw: Vec<u8>,
    /// Extents of a part, when it is written.
    pub part: usize,
}

impl Image {
    /// As a writer takes it.
    pub fn described(&self) -> images::Image<'static> {
        self.with(&self.index)
    }

    /// With another index.
    pub fn with(&self, index: &Index) -> images::Image<'static> {
        images::Image::of(&self.manifest, index, self.part).unwrap()
    }

    /// As what was on a disk before.
    pub fn previous(&self) -> Previous<'static> {
        Previous::of(&self.manifest).unwrap()
    }
}

pub struct Bench {
    pub folder: tempfile::TempDir,
    pub store: Store,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path().join("store")).unwrap();
        Bench { folder, store }
    }

    pub fn image(&self, name: &str, raw: Vec<u8>) -> Image {
        let digest = import_stream(&self.store, &raw[..], &Import::new(name)).unwrap().manifest;
        let (manifest, index) =
            (self.store.manifest(&digest).unwrap(), self.store.index(&digest).unwrap());
        Image { manifest, index, raw, part: usize::MAX }
    }

    pub fn disk(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("disk");
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn write(&self, image: &Image, path: &Path, previous: Option<&Image>) -> Written {
        let previous = previous.map(Image::previous);
        let options = options(previous.as_ref());
        let disk = Disk::open(path).unwrap();
        let written = write(&image.described(), &disk, &self.store, &options).unwrap();
        assert_same(&fs::read(path).unwrap(), &image.raw);
        written
    }

    pub fn plan(&self, image: &Image, path: &Path, previous: Option<&Image>) -> Plan {
        let disk = Disk::open_read_only(path).unwrap();
        let previous = previous.map(Image::previous);
        plan(&image.described(), &disk, &self.store, &options(previous.as_ref())).unwrap()
    }
}

pub fn options<'a>(previous: Option<&'a Previous<'a>>) -> Options<'a> {
    Options { previous, ..Options::default() }
}

/// Equal, without printing megabytes where not.
pub fn assert_same(bytes: &[u8], expected: &[u8]) {
    let differs = bytes.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!((bytes.len(), differs), (expected.len(), None));
}

/// The disk that an index finds in a store, every chunk checked.
pub fn read(store: &Store, manifest: &Manifest, index: &Index) -> Vec<u8> {
    let (mut bytes, mut locations) = (Vec::new(), index.locations());
    let mut decoder = Decoder::new().unwrap();
    for extent in &manifest.extents {
        let start = bytes.len();
        bytes.resize(start + extent.size() as usize, 0);
        if let Extent::Chunk { name, .. } = extent {
            let (at, mut frame) = (locations.next().unwrap(), Vec::new());
            store.read(&at.pack, at.range()).unwrap().read_to_end(&mut frame).unwrap();
            decoder.decode(&frame, name, &mut bytes[start..]).unwrap();
        }
    }
    assert!(locations.next().is_none());
    bytes
}

/// The disk that an image describes, from the store alone.
pub fn unpack(store: &Store, digest: &Digest) -> Vec<u8> {
    read(store, &store.manifest(digest).unwrap(), &store.index(digest).unwrap())
}

pub const SIZE: usize = 24 * MIB;

/// Forty files, and the same in another order, some new ones among them, two gone.
pub fn versions() -> (Vec<u8>, Vec<u8>) {
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
