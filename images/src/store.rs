//! A store: a folder of packs, manifests with their signatures and indexes, and names.
//!
//! Everything but names and indexes is immutable and named by its content. Importers hold the
//! lock shared and garbage collection holds it alone, so neither sees the other half done.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    Digest, Manifest, SecretKey, Trusted,
    file::{self, NewFile},
    index::Index,
    pack::Source,
};

/// An open store.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// Held while packs are added (shared) or removed (alone).
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "it is held, not used")] Flock<File>);

impl Store {
    /// The store in `root`, which must be one.
    pub fn open(root: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let root = root.into();
        let is_store = root.join("packs").is_dir() && root.join("manifests").is_dir();
        ensure!(is_store, "{} is not a store: it has no packs and manifests", root.display());
        Ok(Store { root })
    }

    /// The store in `root`, made there when it is absent, with a signing key.
    pub fn create(root: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let store = Store { root: root.into() };
        for folder in ["packs", "manifests", "names", "keys", "boot"] {
            let folder = store.root.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        store.secret_key()?;
        Ok(store)
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the kernel, the RAM disk and the boot programs are.
    pub fn boot_folder(&self) -> PathBuf {
        self.root.join("boot")
    }

    /// The file of a pack, which may be absent.
    pub fn pack_path(&self, pack: &Digest) -> PathBuf {
        let name = pack.to_string();
        self.root.join("packs").join(&name[..2]).join(name)
    }

    /// The file of a manifest, which may be absent.
    pub fn manifest_path(&self, manifest: &Digest) -> PathBuf {
        self.root.join("manifests").join(manifest.to_string())
    }

    /// The file of a manifest's signature, which may be absent.
    pub fn minisig_path(&self, manifest: &Digest) -> PathBuf {
        self.root.join("manifests").join(format!("{manifest}.minisig"))
    }

    /// The file of a manifest's location index, which may be absent.
    pub fn index_path(&self, manifest: &Digest) -> PathBuf {
        self.root.join("manifests").join(format!("{manifest}.index"))
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
        let path = self.manifest_path(name);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let got = Digest::of(&bytes);
        ensure!(got == *name, "manifest {name} is damaged: its bytes have the name {got}");
        Ok(bytes)
    }

    /// The location index of a manifest.
    pub fn index(&self, manifest: &Digest) -> anyhow::Result<Index> {
        let path = self.index_path(manifest);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Index::parse(&bytes).with_context(|| format!("parsing {}", path.display()))
    }

    /// A pack, open at its first byte.
    pub fn open_pack(&self, pack: &Digest) -> io::Result<File> {
        File::open(self.pack_path(pack))
    }

    /// Every manifest there is, named or not.
    pub fn manifests(&self) -> anyhow::Result<Vec<Digest>> {
        let names = file_names(&self.root.join("manifests"))?;
        let mut manifests: Vec<_> = names.iter().filter_map(|name| name.parse().ok()).collect();
        manifests.sort();
        Ok(manifests)
    }

    /// Every pack there is, needed or not.
    pub fn packs(&self) -> anyhow::Result<Vec<Digest>> {
        let mut packs = Vec::new();
        for folder in self.pack_folders()? {
            let names = file_names(&folder)?;
            packs.extend(names.iter().filter_map(|name| name.parse::<Digest>().ok()));
        }
        packs.sort();
        Ok(packs)
    }

    /// The folders that hold packs.
    pub(crate) fn pack_folders(&self) -> anyhow::Result<Vec<PathBuf>> {
        let root = self.root.join("packs");
        let mut names = file_names(&root)?;
        names.retain(|name| name.len() == 2);
        Ok(names.iter().map(|name| root.join(name)).filter(|folder| folder.is_dir()).collect())
    }

    /// Waits until no garbage is collected, and keeps it so.
    pub(crate) fn lock_shared(&self) -> anyhow::Result<Lock> {
        self.lock(FlockArg::LockShared)
    }

    /// Waits until nobody imports, and keeps it so.
    pub(crate) fn lock_alone(&self) -> anyhow::Result<Lock> {
        self.lock(FlockArg::LockExclusive)
    }

    /// Waits until no other collection of garbage is under way, and keeps it so.
    pub(crate) fn lock_collection(&self) -> anyhow::Result<Lock> {
        self.lock_file("lock-gc", FlockArg::LockExclusive)
    }

    fn lock(&self, how: FlockArg) -> anyhow::Result<Lock> {
        self.lock_file("lock", how)
    }

    fn lock_file(&self, name: &str, how: FlockArg) -> anyhow::Result<Lock> {
        let path = self.root.join(name);
        let context = || format!("locking {}", path.display());
        let mut options = File::options();
        let file =
            options.write(true).create(true).truncate(false).open(&path).with_context(context)?;
        Flock::lock(file, how).map(Lock).map_err(|(_, error)| error).with_context(context)
    }

    /// Gives finished packs their names, durably.
    pub(crate) fn publish_packs(&self, packs: Vec<(Digest, NewFile)>) -> anyhow::Result<()> {
        for (name, pack) in packs {
            let path = self.pack_path(&name);
            let folder = path.parent().unwrap_or(&self.root);
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
            pack.publish(&path)?;
            file::sync_folder(folder)?;
        }
        file::sync_folder(&self.root.join("packs"))
    }

    /// Publishes a manifest with its index and signature, and returns its name.
    pub(crate) fn add_manifest(
        &self,
        manifest: &Manifest,
        index: &Index,
    ) -> anyhow::Result<Digest> {
        let bytes = manifest.render();
        let name = Digest::of(&bytes);
        file::replace(&self.index_path(&name), &index.render())?;
        file::replace(&self.minisig_path(&name), self.secret_key()?.sign(&bytes)?.as_bytes())?;
        // Last: a manifest that is there has both beside it.
        file::replace(&self.manifest_path(&name), &bytes)?;
        Ok(name)
    }
}

impl Source for Store {
    fn read(&self, pack: &Digest, range: Range<u64>) -> io::Result<Box<dyn Read + Send + '_>> {
        let mut file = self.open_pack(pack)?;
        file.seek(SeekFrom::Start(range.start))?;
        Ok(Box::new(file.take(range.end.saturating_sub(range.start))))
    }
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
