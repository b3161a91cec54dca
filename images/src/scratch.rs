//! A folder for what a build needs on its way; it goes when the build is over.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The folder. Dropping it removes it with all it holds.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new folder in `parent`, which is made when it is not there.
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        let path = parent.join(format!(".build-{}", std::process::id()));
        let making = || format!("making {}", path.display());
        fs::create_dir_all(&path).with_context(making)?;
        let path = path.canonicalize().with_context(making)?;
        Ok(Scratch(path))
    }

    /// Where it is, from the root.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is found by its name; the build's own error matters more.
        let _ = fs::remove_dir_all(&self.0);
    }
}
