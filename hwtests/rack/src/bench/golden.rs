//! The golden image of the hand-made way: the same image that billet writes, as one file.
//!
//! billet gives each node its identity when it writes the image. Here nobody does, so one
//! identity is put into the image beforehand, as operators who copy disks do: without a host
//! key its SSH would never answer.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use images::{Manifest, Store, format::Format};

use super::wire::run;
use crate::{ssh::Key, tool};

/// Exports image `name` of `store` as `image.raw` and `image.zst` in `folder`.
pub fn export(store: &Path, name: &str, folder: &Path) -> Result<()> {
    let raw = folder.join("image.raw");
    let store = Store::open(store)?;
    let digest = store.resolve(name)?;
    let manifest = store.manifest(&digest)?;
    // Of an earlier run.
    let _ = fs::remove_file(&raw);
    images::export::export(&store, &digest, &raw, Format::Raw, &|_, _| {})?;
    let disk = File::options().read(true).write(true).open(&raw);
    let disk = disk.with_context(|| format!("opening {}", raw.display()))?;
    settle(&manifest, &disk, folder).context("giving the golden image an identity")?;
    let mut zstd = Command::new(tool::program("zstd", "zstd")?);
    run(zstd.args(["-q", "-3", "-f", "-o"]).arg(folder.join("image.zst")).arg(&raw))?;
    Ok(())
}

/// Fills the seed partition as billet's agent would.
fn settle(manifest: &Manifest, disk: &File, folder: &Path) -> Result<()> {
    let seed = manifest.header.seed.context("the image has no seed partition")?;
    let partition = manifest.header.partitions.iter().find(|known| known.number == seed);
    let partition = partition.with_context(|| format!("finding partition {seed}"))?;
    let files = folder.join("billet");
    fs::create_dir_all(&files).context("making a folder")?;
    let key = Key::make(folder)?;
    fs::copy(folder.join("id_ed25519"), files.join("ssh_host_ed25519_key")).context("copying")?;
    for (name, text) in
        [("instance", "golden"), ("hostname", "golden"), ("authorized_keys", key.public.as_str())]
    {
        fs::write(files.join(name), format!("{text}\n"))
            .with_context(|| format!("writing {name}"))?;
    }
    let fat = folder.join("seed.fat");
    let empty = File::create(&fat).and_then(|file| file.set_len(partition.size));
    empty.context("making a file system's file")?;
    let mut mkfs = Command::new(tool::program("mkfs.vfat", "dosfstools")?);
    run(mkfs.args(["-n", "CIDATA"]).arg(&fat))?;
    let mut mcopy = Command::new(tool::program("mcopy", "mtools")?);
    run(mcopy.args(["-s", "-i"]).arg(&fat).arg(&files).arg("::/"))?;
    let bytes = fs::read(&fat).context("reading the file system")?;
    disk.write_all_at(&bytes, partition.start).context("writing the seed partition")
}
