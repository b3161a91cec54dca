//! Where the files of a store stand: in a folder (`folder`), or where else a program puts them, as
//! `billet` does in a bucket.
//!
//! A file has a name with `/` in it, `packs/ab/ab12..` or `names/bare`. It appears whole or not at
//! all, what is named by its content is never replaced by anything else, and who has been told that
//! a file is there finds it.

use std::{
    fmt::Debug,
    io::{self, Read},
    ops::Range,
    path::PathBuf,
};

use crate::{Digest, buffer::Buffer};

/// A place for files.
pub trait Shelf: Debug + Send + Sync {
    /// The only name of this place: two stores in one place have the same.
    fn place(&self) -> io::Result<String>;

    /// What a person would call a file.
    fn full_name(&self, file: &str) -> String;

    /// Where a file is on this host, if this is a place on this host.
    fn path(&self, file: &str) -> Option<PathBuf>;

    /// The bytes of a file, or a range of them. One that is not there is
    /// [`io::ErrorKind::NotFound`]; what may pass by itself is retried in here.
    fn read(&self, file: &str, range: Option<Range<u64>>) -> io::Result<Box<dyn Read + Send>>;

    /// What there is to know of a file without reading it.
    fn facts(&self, file: &str) -> io::Result<Facts>;

    /// The files below a folder, sorted by their last names, and how long they are; none where
    /// there is no such folder.
    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>>;

    /// Writes a small file durably and in one piece, in place of what had its name.
    fn put(&self, file: &str, bytes: &[u8]) -> anyhow::Result<()>;

    /// Writes the first `len` bytes of `bytes` to a file that may be visible from now on, and is
    /// once it is published.
    fn stage(&self, file: &str, bytes: &mut Buffer, len: usize) -> anyhow::Result<Staged>;

    /// Takes a file away, durably once its folder is settled.
    fn remove(&self, file: &str) -> io::Result<()>;

    /// Makes durable which names a folder has; those below it have theirs.
    fn settle(&self, folder: &str) -> anyhow::Result<()>;

    /// Removes what a crash has left unfinished: how many files, of how many bytes. Nobody else
    /// writes meanwhile.
    fn sweep(&self) -> anyhow::Result<(u64, u64)>;

    /// Waits until nobody holds the lock `name` alone (nobody at all, where it is wanted `alone`),
    /// and keeps it so.
    fn lock(&self, name: &str, alone: bool) -> anyhow::Result<Lock>;
}

/// Held until it is dropped.
pub type Lock = Box<dyn Send>;

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its length in bytes.
    pub len: u64,
    /// A number that is another one when the file was replaced.
    pub version: u128,
}

/// A file that was written and may have to be given its name; dropped, it may be gone.
pub struct Staged(Box<dyn FnOnce() -> anyhow::Result<()> + Send>);

impl Staged {
    /// A file that `publish` gives its name.
    pub fn new(publish: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Self {
        Staged(Box::new(publish))
    }

    /// Gives it its name.
    pub(crate) fn publish(self) -> anyhow::Result<()> {
        (self.0)()
    }
}

/// The file of a pack.
pub fn pack(pack: &Digest) -> String {
    let name = pack.to_string();
    format!("packs/{}/{name}", &name[..2])
}

/// The file of a manifest.
pub fn manifest(manifest: &Digest) -> String {
    format!("manifests/{manifest}")
}

/// The file of a manifest's signature.
pub fn minisig(manifest: &Digest) -> String {
    format!("manifests/{manifest}.minisig")
}

/// The file of a manifest's location index.
pub fn index(manifest: &Digest) -> String {
    format!("manifests/{manifest}.index")
}
