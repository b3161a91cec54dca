//! The door to `/sys` and `/proc`, or to a captured copy of them.
//!
//! An attribute that is absent, unreadable or nonsense is `None`: drivers differ in what
//! they tell, and a node must be able to say hello whatever they leave out.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

/// A tree with `sys` and `proc` in it.
#[derive(Debug, Clone)]
pub(crate) struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// The tree under `root`; `/` is this machine.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Sysfs { root: root.into() }
    }

    /// Where `path` (relative to the root) really is.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// The bytes of an attribute.
    pub(crate) fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        fs::read(self.path(path)).ok()
    }

    /// The text of an attribute without the white space around it; `None` when nothing is left.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = self.bytes(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// An attribute as a number, or whatever else it is.
    pub(crate) fn value<T: FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// Whether an attribute is `1`.
    pub(crate) fn flag(&self, path: impl AsRef<Path>) -> bool {
        self.value(path) == Some(1_u8)
    }

    /// Names in a folder, sorted; none when there is no folder.
    pub(crate) fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Numbered entries in a folder (`cpu0`, `cpu1`, ...), by number.
    pub(crate) fn numbered(&self, path: impl AsRef<Path>, prefix: &str) -> Vec<u32> {
        let number = |name: String| name.strip_prefix(prefix)?.parse().ok();
        let mut numbers: Vec<u32> = self.list(path).into_iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Last name of what a symbolic link points to: the driver of `.../driver`.
    pub(crate) fn link(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// Names of all folders that lead to where a symbolic link ends, outermost first.
    pub(crate) fn way(&self, path: impl AsRef<Path>) -> Vec<String> {
        let real = fs::canonicalize(self.path(path)).unwrap_or_default();
        real.components().filter_map(|part| Some(part.as_os_str().to_str()?.to_owned())).collect()
    }
}
