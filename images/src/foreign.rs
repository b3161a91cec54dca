//! A system that somebody else made: a tar archive of its files, or a container's image. With a
//! kernel and what says how to start, it becomes an archive that a recipe makes a disk of.

use std::{
    fs::File,
    io::{BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::{
    flatten,
    format::{Format, Unfit},
    layer::{Bytes, Layer, is_compressed},
    oci,
    recipe::Recipe,
    recipe_disk::Layout,
    tree::Tree,
};

/// What a kernel looks for when nobody says what to start, and what else starts a system.
const INIT: &str = "sbin/init";
const OTHER_INITS: [&str; 3] = ["usr/lib/systemd/systemd", "lib/systemd/systemd", "etc/init"];
/// Folders that the kernel and its RAM disk put file systems on.
const MOUNTED: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];
/// Kernel, RAM disk and modules, as Debian packs them, MiB.
const KERNEL: u64 = 220;
/// Journal and what a file system keeps for itself, MiB.
const OWN: u64 = 64;
/// Bytes for an inode (`mke2fs -i`).
const PER_INODE: u64 = 16384;

/// Layers of a system, put on top of one another.
pub(crate) struct Foreign {
    path: PathBuf,
    layers: Vec<Layer>,
    tree: Tree,
}

/// How a system starts, as paths in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) kernel: String,
    pub(crate) ramdisk: Option<String>,
    pub(crate) command_line: String,
}

/// Writes the files of a system, a tar archive or an OCI image layout, as one plain archive.
pub fn flatten(path: &Path, format: Option<Format>, to: impl Write) -> anyhow::Result<()> {
    let foreign = Foreign::open(path, format)?;
    flatten::write(&foreign.tree, &foreign.layers, to)
}

impl Foreign {
    /// Reads all of it once: what is damaged is found before much is done.
    pub(crate) fn open(path: &Path, format: Option<Format>) -> anyhow::Result<Self> {
        let format = match format {
            Some(format) => format,
            None => detect(path)?,
        };
        let layers = match format {
            Format::Oci => oci::layers(path)?,
            Format::Tar => {
                let bytes = Bytes::file(path.to_owned())?;
                bytes.check_archive(path)?;
                vec![Layer::plain(bytes)]
            }
            disk => {
                let why = format!("is a disk ({disk}); a tar archive or an OCI image is accepted");
                return Err(Unfit::new(path, why).into());
            }
        };
        let context = || format!("reading {}", path.display());
        let tree = flatten::lay(&layers).with_context(context)?;
        Ok(Foreign { path: path.to_owned(), layers, tree })
    }

    /// Refuses a system that nothing would start.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.init().map(drop)
    }

    /// What the kernel must be told to start, if anything.
    fn init(&self) -> anyhow::Result<Option<&'static str>> {
        if self.tree.find(INIT).is_some() {
            return Ok(None);
        }
        let found = OTHER_INITS.into_iter().find(|path| self.tree.find(path).is_some());
        let why = "has no /sbin/init; a system that starts by itself is accepted (systemd-sysv, \
                   openrc or busybox in it bring one)";
        found.map(Some).ok_or_else(|| Unfit::new(&self.path, why).into())
    }

    /// MiB that its root file system needs, a kernel included.
    pub(crate) fn size(&self) -> u32 {
        let nodes = self.tree.nodes().len() as u64;
        let bytes = (self.tree.weight() * 5 / 4).max(nodes * PER_INODE * 5 / 4);
        u32::try_from((bytes >> 20) + KERNEL + OWN).unwrap_or(u32::MAX)
    }

    /// Completes it and writes it to `to` as one archive. `built` is a system of packages with a
    /// kernel, whose names are in `names`: kernel, then RAM disk.
    pub(crate) fn complete(
        mut self,
        recipe: &Recipe,
        built: &Path,
        names: &Path,
        to: &Path,
    ) -> anyhow::Result<Start> {
        let init = self.init()?;
        let (kernel, ramdisk) = match self.own_kernel() {
            Some(own) => own,
            None => {
                let bytes = Bytes::file(built.to_owned())?;
                self.layers.push(Layer { place: kernel_files, ..Layer::plain(bytes) });
                let text = std::fs::read_to_string(names).context("reading the kernel's names")?;
                let mut lines = text.lines().map(str::to_owned);
                let kernel = lines.next().context("the system of packages has no kernel")?;
                (kernel, lines.next().context("the system of packages has no RAM disk")?)
            }
        };
        let mut command_line = recipe.command_line();
        command_line.extend(init.map(|init| format!(" init=/{init}")));
        let start = Start { kernel, ramdisk: Some(ramdisk), command_line };
        let own = self.own_files(recipe, &start)?;
        self.layers.push(Layer::plain(Bytes::Memory(own)));
        let tree = flatten::lay(&self.layers)?;
        for file in [Some(&start.kernel), start.ramdisk.as_ref()].into_iter().flatten() {
            if tree.find(file).is_none() {
                bail!("{file} is not in the completed system");
            }
        }
        let creating = || format!("creating {}", to.display());
        let file = BufWriter::new(File::create(to).with_context(creating)?);
        flatten::write(&tree, &self.layers, file)?;
        Ok(start)
    }

    /// The newest kernel that it has a RAM disk for, under the names that distributions give them.
    fn own_kernel(&self) -> Option<(String, String)> {
        let names = self.tree.names_in("boot");
        let mut pairs: Vec<_> = names
            .iter()
            .filter_map(|kernel| {
                let version = kernel.strip_prefix("vmlinuz-")?;
                let ramdisks = ["initrd.img-@", "initramfs-@.img", "initrd-@", "initramfs-@"];
                let mut ramdisks = ramdisks.into_iter().map(|name| name.replace('@', version));
                let ramdisk = ramdisks.find(|name| names.contains(name))?;
                Some((digits(version), format!("/boot/{kernel}"), format!("/boot/{ramdisk}")))
            })
            .collect();
        pairs.sort();
        pairs.pop().map(|(_, kernel, ramdisk)| (kernel, ramdisk))
    }

    /// What every such system gets from us: how GRUB starts it, what its root is, and the folders
    /// that file systems are mounted on.
    fn own_files(&self, recipe: &Recipe, start: &Start) -> anyhow::Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        let header = |kind, mode, size| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(size);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header
        };
        for folder in MOUNTED.into_iter().filter(|folder| self.tree.find(folder).is_none()) {
            let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
            let mut header = header(tar::EntryType::Directory, mode, 0);
            builder.append_data(&mut header, folder, std::io::empty())?;
        }
        let systemd = OTHER_INITS.iter().any(|path| self.tree.find(path).is_some());
        // Others know no such option, and might hand it to the kernel.
        let grows = if systemd { ",x-systemd.growfs" } else { "" };
        let root = recipe.id("root");
        let fstab = format!("UUID={root} / ext4 defaults,errors=remount-ro{grows} 0 1\n");
        let Start { kernel, ramdisk, command_line } = start;
        let ramdisk = ramdisk.iter().map(|path| format!("initrd {path}\n")).collect::<String>();
        let grub = format!(
            "set timeout=0\nserial --unit=0 --speed=115200\nterminal_input console serial\n\
             terminal_output console serial\nlinux {kernel} {command_line}\n{ramdisk}boot\n"
        );
        for (path, text) in [("etc/fstab", fstab), ("boot/grub/grub.cfg", grub)] {
            let mut header = header(tar::EntryType::Regular, 0o644, text.len() as u64);
            builder.append_data(&mut header, path, text.as_bytes())?;
        }
        builder.into_inner().context("packing GRUB's configuration")
    }

    /// Number of the partition that the paths of a [`Start`] are in.
    pub(crate) const PARTITION: u32 = Layout::ROOT;
}

/// The format of a file that may be compressed, as archives often are.
fn detect(path: &Path) -> anyhow::Result<Format> {
    let mut head = Vec::new();
    if path.is_file() {
        Bytes::file(path.to_owned())?.open()?.take(8).read_to_end(&mut head)?;
    }
    if is_compressed(&head) { Ok(Format::Tar) } else { Format::detect(path) }
}

/// Of the system of packages: kernel, RAM disk and modules. Modules are where any system looks for
/// them, whether `/lib` is a folder of its own or not.
fn kernel_files(path: &[u8]) -> Option<&[u8]> {
    let plain = path.strip_prefix(b"usr/").unwrap_or(path);
    let in_boot = plain.starts_with(b"boot/") && !plain.starts_with(b"boot/grub");
    (in_boot || plain.starts_with(b"lib/modules/")).then_some(plain)
}

/// Numbers of a version, to compare by.
fn digits(version: &str) -> Vec<u64> {
    let parts = version.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(files: &[&str]) -> (tempfile::TempDir, anyhow::Result<Foreign>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("system.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        for name in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(3);
            header.set_mode(0o755);
            builder.append_data(&mut header, name, &b"abc"[..]).unwrap();
        }
        builder.finish().unwrap();
        let foreign = Foreign::open(&path, None);
        (folder, foreign)
    }

    #[test]
    fn a_system_without_init_is_refused_and_systemd_alone_is_named() {
        let error = foreign(&["bin/sh"]).1.unwrap().check().unwrap_err();
        assert!(error.is::<Unfit>() && error.to_string().contains("no /sbin/init"), "{error}");
        let systemd = foreign(&["usr/lib/systemd/systemd"]).1.unwrap();
        assert_eq!(systemd.init().unwrap(), Some("usr/lib/systemd/systemd"));
        assert_eq!(foreign(&["sbin/init"]).1.unwrap().init().unwrap(), None);
    }

    #[test]
    fn the_newest_kernel_with_a_ram_disk_is_taken() {
        let files = [
            "boot/vmlinuz-6.9.1-amd64",
            "boot/initrd.img-6.9.1-amd64",
            "boot/vmlinuz-6.12.1-amd64",
            "boot/initrd.img-6.12.1-amd64",
            "boot/vmlinuz-6.13.1-amd64",
        ];
        let (kernel, ramdisk) = foreign(&files).1.unwrap().own_kernel().unwrap();
        assert_eq!(kernel, "/boot/vmlinuz-6.12.1-amd64");
        assert_eq!(ramdisk, "/boot/initrd.img-6.12.1-amd64");
        let alpine = foreign(&["boot/vmlinuz-lts", "boot/initramfs-lts"]).1.unwrap();
        assert!(alpine.own_kernel().is_some());
        assert_eq!(foreign(&["boot/vmlinuz-1"]).1.unwrap().own_kernel(), None);
    }

    #[test]
    fn modules_go_where_any_system_looks() {
        assert_eq!(kernel_files(b"usr/lib/modules/6/x.ko"), Some(&b"lib/modules/6/x.ko"[..]));
        assert_eq!(kernel_files(b"boot/vmlinuz-6"), Some(&b"boot/vmlinuz-6"[..]));
        assert_eq!(kernel_files(b"boot/grub/grub.cfg"), None);
        assert_eq!(kernel_files(b"usr/bin/env"), None);
    }
}
