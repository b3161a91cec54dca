//! The agent's memory: a folder of small JSON files, each whole or not there.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};

/// The folder, `/var/lib/billet` on a node.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at `path`, which is made when it is not there.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        Ok(Folder { path: path.to_owned() })
    }

    /// Where `name` is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What is in `name`; `None` when it is not there.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path(name);
        let reading = || format!("reading {}", path.display());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(reading),
        };
        serde_json::from_slice(&bytes).map(Some).with_context(reading)
    }

    /// Replaces `name`; it is on the disk when this returns.
    pub(crate) fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.write_bytes(name, &serde_json::to_vec(value)?)
    }

    /// Replaces `name` by these bytes; they are on the disk when this returns.
    pub(crate) fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, fresh) = (self.path(name), self.path(&format!("{name}.new")));
        let written = || -> std::io::Result<()> {
            let mut file = File::create(&fresh)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            self.flush()
        };
        written().with_context(|| format!("writing {}", path.display()))
    }

    /// Gives `from` the name `to`, for good.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let renamed = fs::rename(self.path(from), self.path(to)).and_then(|()| self.flush());
        renamed.with_context(|| format!("renaming {from} to {to}"))
    }

    /// Removes `name`, for good; it need not be there.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let removed = match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.and_then(|()| self.flush()),
        };
        removed.with_context(|| format!("removing {name}"))
    }

    /// Names of all files.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn flush(&self) -> std::io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let at = tempfile::tempdir().unwrap();
        let folder = Folder::at(&at.path().join("a/b")).unwrap();
        assert_eq!(folder.read::<u32>("x").unwrap(), None);
        folder.write("x", &7).unwrap();
        assert_eq!(folder.read::<u32>("x").unwrap(), Some(7));
        folder.rename("x", "y").unwrap();
        folder.remove("x").unwrap();
        assert_eq!(folder.names(), ["y"]);
        assert!(folder.read::<String>("y").is_err());
    }
}
