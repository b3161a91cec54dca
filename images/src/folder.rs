//! A folder as the place of a store's files; `flock` is its lock.

use std::{
    fs::{self, File},
    io::{self, Read, Seek as _, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};

use crate::{
    buffer::Buffer,
    file::{self, NewFile, UNFINISHED},
    shelf::{Facts, Lock, Shelf, Staged},
};

/// A folder with the files of a store.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

/// Folders in which files are written.
const FOLDERS: [&str; 5] = ["packs", "manifests", "names", "holds", "retired"];

impl Shelf for Folder {
    fn place(&self) -> io::Result<String> {
        Ok(self.0.canonicalize()?.display().to_string())
    }

    fn full_name(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    fn path(&self, file: &str) -> Option<PathBuf> {
        Some(self.0.join(file))
    }

    fn read(&self, file: &str, range: Option<Range<u64>>) -> io::Result<Box<dyn Read + Send>> {
        let mut file = File::open(self.0.join(file))?;
        let Some(range) = range else { return Ok(Box::new(file)) };
        file.seek(SeekFrom::Start(range.start))?;
        Ok(Box::new(file.take(range.end.saturating_sub(range.start))))
    }

    fn facts(&self, file: &str) -> io::Result<Facts> {
        let metadata = self.0.join(file).metadata()?;
        let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Facts { len: metadata.len(), version: changed.as_nanos() })
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        gather(&self.0.join(folder), &mut found)?;
        found.sort();
        Ok(found)
    }

    fn put(&self, file: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.0.join(file);
        make_folder_of(&path)?;
        file::replace(&path, bytes)
    }

    fn stage(&self, file: &str, bytes: &mut Buffer, len: usize) -> anyhow::Result<Staged> {
        // Beside the folder that it will be in, which may have to be made.
        let new = NewFile::write_direct(&self.0.join("packs"), bytes, len)?;
        let path = self.0.join(file);
        Ok(Staged::new(move || {
            let folder = make_folder_of(&path)?;
            new.publish(&path)?;
            file::sync_folder(folder)
        }))
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(file))
    }

    fn settle(&self, folder: &str) -> anyhow::Result<()> {
        let folder = self.0.join(folder);
        if !folder.exists() {
            return Ok(());
        }
        file::sync_folder(&folder)
    }

    fn sweep(&self) -> anyhow::Result<(u64, u64)> {
        let (mut files, mut freed) = (0, 0);
        for folder in FOLDERS.map(|folder| self.0.join(folder)) {
            let left = entries(&folder)?.into_iter();
            for (_, path) in left.filter(|(name, _)| name.starts_with(UNFINISHED)) {
                let context = || format!("removing {}", path.display());
                freed += path.metadata().with_context(context)?.len();
                fs::remove_file(&path).with_context(context)?;
                files += 1;
            }
        }
        Ok((files, freed))
    }

    fn lock(&self, name: &str, alone: bool) -> anyhow::Result<Lock> {
        let how = if alone { FlockArg::LockExclusive } else { FlockArg::LockShared };
        let path = self.0.join(name);
        let context = || format!("locking {}", path.display());
        let mut options = File::options();
        let file =
            options.write(true).create(true).truncate(false).open(&path).with_context(context)?;
        let lock = Flock::lock(file, how).map_err(|(_, error)| error).with_context(context)?;
        Ok(Box::new(lock))
    }
}

fn make_folder_of(path: &Path) -> anyhow::Result<&Path> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

/// Names and paths of what a folder holds, those that are no text left out.
fn entries(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut entries = Vec::new();
    for entry in listed {
        let entry = entry?;
        entries.extend(entry.file_name().into_string().ok().map(|name| (name, entry.path())));
    }
    Ok(entries)
}

/// Whether it is one of the folders that share the packs out by their first two digits.
fn is_part(name: &str, path: &Path) -> bool {
    name.len() == 2 && path.is_dir()
}

fn gather(folder: &Path, found: &mut Vec<(String, u64)>) -> io::Result<()> {
    for (name, path) in entries(folder)? {
        if is_part(&name, &path) {
            gather(&path, found)?;
            continue;
        }
        match path.metadata() {
            Ok(metadata) => found.push((name, metadata.len())),
            // It went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
