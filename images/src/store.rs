//! A store: packs, manifests with their signatures and indexes, and names.
//!
//! Everything but names and indexes is immutable and named by its content. Importers hold the
//! lock shared and garbage collection holds it alone, so neither sees the other half done.

use std::{
    fs,
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};

use crate::{
    Digest, Manifest, SecretKey, Trusted,
    buffer::Buffer,
    folder::Folder,
    index::Index,
    pack::Source,
    shelf::{self, Lock, Shelf, Staged},
};

/// An open store.
#[derive(Debug, Clone)]
pub struct Store {
    /// Keys, the RAM system and what is unfinished; in most stores everything else too.
    root: PathBuf,
    shelf: Arc<dyn Shelf>,
}

impl Store {
    /// The store in `root`, which must be one.
    pub fn open(root: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let root = root.into();
        let is_store = root.join("packs").is_dir() && root.join("manifests").is_dir();
        ensure!(is_store, "{} is not a store: it has no packs and manifests", root.display());
        Ok(Store { shelf: Arc::new(Folder(root.clone())), root })
    }

    /// The store in `root`, made there when it is absent, with a signing key.
    pub fn create(root: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let root = root.into();
        for folder in ["packs", "manifests", "names"] {
            make_folder(&root.join(folder))?;
        }
        let store = Store::on(Arc::new(Folder(root.clone())), root)?;
        store.secret_key()?;
        Ok(store)
    }

    /// The store whose files stand on `shelf`, which is one when it is empty too. Its keys, the RAM
    /// system and what is unfinished are in the folder `root`, made when it is absent: who can
    /// write to the shelf shall not be able to sign.
    pub fn on(shelf: Arc<dyn Shelf>, root: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let root = root.into();
        for folder in ["keys", "boot"] {
            make_folder(&root.join(folder))?;
        }
        Ok(Store { root, shelf })
    }

    /// The folder of its keys, the RAM system and what is unfinished; in a store that is a folder,
    /// that one.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where its files stand.
    pub fn shelf(&self) -> &dyn Shelf {
        &*self.shelf
    }

    /// Where the kernel, the RAM disk and the boot programs are.
    pub fn boot_folder(&self) -> PathBuf {
        self.root.join("boot")
    }

    /// The file of a pack, which may be absent, in a store that is a folder.
    pub fn pack_path(&self, pack: &Digest) -> PathBuf {
        self.root.join(shelf::pack(pack))
    }

    /// The file of a manifest, which may be absent, in a store that is a folder.
    pub fn manifest_path(&self, manifest: &Digest) -> PathBuf {
        self.root.join(shelf::manifest(manifest))
    }

    /// The file of a manifest's signature, which may be absent, in a store that is a folder.
    pub fn minisig_path(&self, manifest: &Digest) -> PathBuf {
        self.root.join(shelf::minisig(manifest))
    }

    /// The file of a manifest's location index, which may be absent, in a store that is a folder.
    pub fn index_path(&self, manifest: &Digest) -> PathBuf {
        self.root.join(shelf::index(manifest))
    }

    /// The signing key, made at first use.
    pub fn secret_key(&self) -> anyhow::Result<SecretKey> {
        SecretKey::load_or_create(&self.root.join("keys"))
    }

    /// The public keys of the store.
    pub fn trusted(&self) -> anyhow::Result<Trusted> {
        Trusted::load(&self.root.join("keys"))
    }

    /// A manifest, checked against its name.
    pub fn manifest(&self, name: &Digest) -> anyhow::Result<Manifest> {
        let bytes = self.manifest_bytes(name)?;
        Manifest::parse(&bytes).with_context(|| format!("parsing manifest {name}"))
    }

    /// The bytes of a manifest, checked against its name.
    pub fn manifest_bytes(&self, name: &Digest) -> anyhow::Result<Vec<u8>> {
        let bytes = self.get(&shelf::manifest(name))?;
        let got = Digest::of(&bytes);
        ensure!(got == *name, "manifest {name} is damaged: its bytes have the name {got}");
        Ok(bytes)
    }

    /// The signature of a manifest, if it has one.
    pub fn minisig(&self, manifest: &Digest) -> anyhow::Result<Option<String>> {
        let text = self.find(&shelf::minisig(manifest))?;
        Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()))
    }

    /// The location index of a manifest.
    pub fn index(&self, manifest: &Digest) -> anyhow::Result<Index> {
        let file = shelf::index(manifest);
        let bytes = self.get(&file)?;
        Index::parse(&bytes).with_context(|| format!("parsing {}", self.shelf.full_name(&file)))
    }

    /// Whether there is a manifest.
    pub(crate) fn has_manifest(&self, manifest: &Digest) -> anyhow::Result<bool> {
        let file = shelf::manifest(manifest);
        match self.shelf.facts(&file) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => {
                Err(error).with_context(|| format!("looking at {}", self.shelf.full_name(&file)))
            }
        }
    }

    /// A pack, read from its first byte.
    pub fn open_pack(&self, pack: &Digest) -> io::Result<Box<dyn Read + Send>> {
        self.shelf.read(&shelf::pack(pack), None)
    }

    /// Every manifest there is, named or not.
    pub fn manifests(&self) -> anyhow::Result<Vec<Digest>> {
        Ok(self.list("manifests")?.iter().filter_map(|(name, _)| name.parse().ok()).collect())
    }

    /// Every pack there is, needed or not.
    pub fn packs(&self) -> anyhow::Result<Vec<Digest>> {
        Ok(self.pack_sizes()?.into_iter().map(|(pack, _)| pack).collect())
    }

    /// Every pack there is, needed or not, and its length.
    pub(crate) fn pack_sizes(&self) -> anyhow::Result<Vec<(Digest, u64)>> {
        let packs = self.list("packs")?;
        Ok(packs.iter().filter_map(|(name, len)| Some((name.parse().ok()?, *len))).collect())
    }

    /// The files of a folder with their lengths.
    pub(crate) fn list(&self, folder: &str) -> anyhow::Result<Vec<(String, u64)>> {
        let listed = self.shelf.list(folder);
        listed.with_context(|| format!("listing {}", self.shelf.full_name(folder)))
    }

    /// The bytes of a file that must be there.
    pub(crate) fn get(&self, file: &str) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.shelf.read(file, None).and_then(|mut file| file.read_to_end(&mut bytes));
        read.with_context(|| format!("reading {}", self.shelf.full_name(file)))?;
        Ok(bytes)
    }

    /// The bytes of a file, if it is there.
    pub(crate) fn find(&self, file: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match self.get(file) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.downcast_ref().is_some_and(absent) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a file, which may be gone already, and returns how long it was.
    pub(crate) fn take_away(&self, file: &str) -> anyhow::Result<u64> {
        let remove = || {
            let len = self.shelf.facts(file)?.len;
            self.shelf.remove(file).map(|()| len)
        };
        match remove() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            removed => removed.with_context(|| format!("removing {}", self.shelf.full_name(file))),
        }
    }

    /// Waits until no garbage is collected, and keeps it so.
    pub(crate) fn lock_shared(&self) -> anyhow::Result<Lock> {
        self.shelf.lock("lock", false)
    }

    /// Waits until nobody imports, and keeps it so.
    pub(crate) fn lock_alone(&self) -> anyhow::Result<Lock> {
        self.shelf.lock("lock", true)
    }

    /// Waits until no other collection of garbage is under way, and keeps it so.
    pub(crate) fn lock_collection(&self) -> anyhow::Result<Lock> {
        self.shelf.lock("lock-gc", true)
    }

    /// Writes a pack, the first `len` bytes, under the name that it returns.
    pub(crate) fn stage_pack(
        &self,
        bytes: &mut Buffer,
        len: usize,
    ) -> anyhow::Result<(Digest, Staged)> {
        let name = Digest::of(bytes.show(len));
        Ok((name, self.shelf.stage(&shelf::pack(&name), bytes, len)?))
    }

    /// Gives finished packs their names, durably.
    pub(crate) fn publish_packs(&self, packs: Vec<(Digest, Staged)>) -> anyhow::Result<()> {
        packs.into_iter().try_for_each(|(_, pack)| pack.publish())?;
        self.shelf.settle("packs")
    }

    /// Publishes a manifest with its index and signature, and returns its name.
    pub(crate) fn add_manifest(
        &self,
        manifest: &Manifest,
        index: &Index,
    ) -> anyhow::Result<Digest> {
        let bytes = manifest.render();
        let name = Digest::of(&bytes);
        self.shelf.put(&shelf::index(&name), &index.render())?;
        let signature = self.secret_key()?.sign(&bytes)?;
        self.shelf.put(&shelf::minisig(&name), signature.as_bytes())?;
        // Last: a manifest that is there has both beside it.
        self.shelf.put(&shelf::manifest(&name), &bytes)?;
        Ok(name)
    }
}

impl Source for Store {
    fn read(&self, pack: &Digest, range: Range<u64>) -> io::Result<Box<dyn Read + Send + '_>> {
        self.shelf.read(&shelf::pack(pack), Some(range))
    }
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

/// Names of what a folder holds, those that are no text left out.
pub(crate) fn file_names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let context = || format!("listing {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        names.extend(entry.with_context(context)?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Refuses what cannot be the name of an image: it is a file name and part of URLs.
pub(crate) fn check_name(name: &str) -> anyhow::Result<()> {
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let starts_well =
        name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
    if !starts_well || name.len() > 64 || !name.bytes().all(fits) {
        bail!(
            "`{name}` cannot name an image: at most 64 of a-z, 0-9, `-`, `_` and `.` can, a letter or digit first"
        );
    }
    Ok(())
}
