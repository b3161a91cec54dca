//! The packages that one build leaves to the next, in a folder that many builds may share.
//!
//! A build works on copies of its own, and a package appears in the folder whole or not at all: other
//! builds come and go meanwhile. Copies, not links: a link that another build makes or removes changes
//! the file's ctime, tar then says "file changed as we read it", and mmdebstrap takes that for a failure.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::scratch::Scratch;

/// Where apt looks in the new system.
const ARCHIVES: &str = "/var/cache/apt/archives";

/// What one build has of the folder.
#[derive(Debug)]
pub(crate) struct Packages {
    cache: PathBuf,
    lent: PathBuf,
    fetched: PathBuf,
}

impl Packages {
    /// Makes `cache` when it is not there, and copies its packages for one build.
    pub(crate) fn lend(cache: &Path, scratch: &Scratch) -> Result<Self> {
        let packages = Packages {
            cache: cache.to_owned(),
            lent: scratch.join("packages-lent"),
            fetched: scratch.join("packages-fetched"),
        };
        for folder in [&packages.cache, &packages.lent, &packages.fetched] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        for name in names(cache)? {
            let (from, to) = (cache.join(&name), packages.lent.join(&name));
            fs::copy(&from, &to).with_context(|| format!("taking {}", from.display()))?;
        }
        Ok(packages)
    }

    /// Has mmdebstrap take what was lent, and bring out only what it downloaded.
    pub(crate) fn serve(&self, mmdebstrap: &mut Command) {
        let quoted = |path: &Path| format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"));
        let (lent, fetched) = (quoted(&self.lent), quoted(&self.fetched));
        mmdebstrap.args(["--skip=download/empty", "--skip=essential/unlink"]).args([
            format!(r#"--setup-hook=mkdir -p "$1"{ARCHIVES}/"#),
            format!("--setup-hook=sync-in {lent} {ARCHIVES}/"),
            format!(r#"--setup-hook=touch "$1"{ARCHIVES}/lent"#),
            format!(
                r#"--customize-hook=cd "$1"{ARCHIVES} && find . -type f ! -cnewer lent -delete"#
            ),
            format!("--customize-hook=sync-out {ARCHIVES} {fetched}"),
        ]);
    }

    /// Leaves what was downloaded to the builds to come.
    pub(crate) fn keep(self) -> Result<()> {
        for name in names(&self.fetched)? {
            let (from, to) = (self.fetched.join(&name), self.cache.join(&name));
            fs::rename(&from, &to)
                .or_else(|_| copy_whole(&from, &to))
                .with_context(|| format!("keeping {}", to.display()))?;
        }
        Ok(())
    }
}

/// To another file system, under another name first.
fn copy_whole(from: &Path, to: &Path) -> std::io::Result<()> {
    let unfinished = to.with_extension(format!("new-{}", std::process::id()));
    fs::copy(from, &unfinished)?;
    fs::rename(&unfinished, to)
}

/// Names of the packages in a folder.
fn names(folder: &Path) -> Result<Vec<OsString>> {
    let reading = || format!("reading {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        let name = entry.with_context(reading)?.file_name();
        if Path::new(&name).extension().is_some_and(|extension| extension == "deb") {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn builds_lend_packages_and_leave_what_they_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        fs::create_dir(&cache).unwrap();
        fs::write(cache.join("old_1_all.deb"), "old").unwrap();
        fs::write(cache.join("half.new-7"), "never finished").unwrap();
        let [one, two] = [(); 2].map(|()| Scratch::new(dir.path()).unwrap());

        let first = Packages::lend(&cache, &one).unwrap();
        let second = Packages::lend(&cache, &two).unwrap();
        assert_eq!(names(&first.lent).unwrap(), ["old_1_all.deb"]);
        // A file of its own: nothing that others do changes as much as its ctime.
        for lent in [&first.lent, &second.lent] {
            assert_eq!(fs::metadata(lent.join("old_1_all.deb")).unwrap().nlink(), 1);
        }
        fs::write(first.fetched.join("new_1_all.deb"), "new").unwrap();
        fs::write(first.fetched.join("lock"), "").unwrap();
        first.keep().unwrap();

        // Who has begun sees nothing of it; who begins now does.
        assert_eq!(names(&second.lent).unwrap(), ["old_1_all.deb"]);
        fs::write(second.fetched.join("new_1_all.deb"), "new").unwrap();
        second.keep().unwrap();
        let mut kept = names(&cache).unwrap();
        kept.sort();
        assert_eq!(kept, ["new_1_all.deb", "old_1_all.deb"]);
        assert_eq!(fs::read(cache.join("new_1_all.deb")).unwrap(), b"new");
    }
}
