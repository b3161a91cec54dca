//! `billet/xen.cfg` on the seed partition: how Xen starts at the next boot.
//!
//! The partition is read and written without mounting it. A power failure in between leaves it
//! without that file, and GRUB of the dom0 image has defaults then.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use fatfs::{FileSystem, FsOptions};

const FOLDER: &str = "billet";
const NAME: &str = "xen.cfg";
const FRESH: &str = "xen.new";

/// Where the seed is: beside the root partition the label is the only one of its kind.
pub(crate) fn partition() -> Option<PathBuf> {
    let by_label = Path::new("/dev/disk/by-label/CIDATA");
    by_label.exists().then(|| by_label.to_owned())
}

/// What the file says; empty when it is not there.
pub(crate) fn read(partition: &Path) -> Result<String> {
    let reading = || format!("reading the seed on {}", partition.display());
    let disk = File::open(partition).with_context(reading)?;
    let system = FileSystem::new(disk, FsOptions::new()).with_context(reading)?;
    let root = system.root_dir();
    let mut text = String::new();
    if let Ok(mut file) = root.open_dir(FOLDER).and_then(|folder| folder.open_file(NAME)) {
        file.read_to_string(&mut text).with_context(reading)?;
    }
    Ok(text)
}

/// Replaces the file; it is on the disk when this returns.
pub(crate) fn write(partition: &Path, text: &str) -> Result<()> {
    let writing = || format!("writing the seed on {}", partition.display());
    let disk = OpenOptions::new().read(true).write(true).open(partition).with_context(writing)?;
    let flushed = disk.try_clone().with_context(writing)?;
    let written = || -> std::io::Result<()> {
        let system = FileSystem::new(disk, FsOptions::new())?;
        {
            let folder = system.root_dir().create_dir(FOLDER)?;
            let _ = folder.remove(FRESH);
            let mut file = folder.create_file(FRESH)?;
            file.write_all(text.as_bytes())?;
            file.flush()?;
            drop(file);
            let _ = folder.remove(NAME);
            folder.rename(FRESH, &folder, NAME)?;
        }
        system.unmount()?;
        flushed.sync_all()
    };
    written().with_context(writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_read_and_written() {
        let at = tempfile::NamedTempFile::new().unwrap();
        at.as_file().set_len(4 << 20).unwrap();
        let files = [("meta-data".to_owned(), b"x".to_vec())];
        crate::seed::write(at.as_file(), 512, &files).unwrap();
        assert_eq!(read(at.path()).unwrap(), "");
        for text in ["set xen_line=\"a\"\n", "set xen_line=\"b c\"\n"] {
            write(at.path(), text).unwrap();
            assert_eq!(read(at.path()).unwrap(), text);
        }
    }
}
