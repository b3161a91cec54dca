//! What a file that is to become an image is: told by its first and last bytes, or by the user.
//!
//! A raw disk has no magic of its own, so what looks like nothing else is one. What looks like
//! something that cannot be imported is refused with the command that makes it importable.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context;

/// A kind of file that an image is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The bytes of a disk, one after the other.
    Raw,
    /// QEMU's, versions 2 and 3.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// Virtual PC's, older Hyper-V's and Azure's.
    Vhd,
    /// Hyper-V's.
    Vhdx,
    /// The files of a system.
    Tar,
    /// A container's image: an OCI image layout, as a folder or a tar archive.
    Oci,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 7] = [
        Format::Raw,
        Format::Qcow2,
        Format::Vmdk,
        Format::Vhd,
        Format::Vhdx,
        Format::Tar,
        Format::Oci,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vhd => "vhd",
            Format::Vhdx => "vhdx",
            Format::Tar => "tar",
            Format::Oci => "oci",
        }
    }

    /// Whether it is a disk, and not the files of a system that has none yet.
    pub const fn is_disk(self) -> bool {
        !matches!(self, Format::Tar | Format::Oci)
    }

    /// What `path` is.
    pub fn detect(path: &Path) -> anyhow::Result<Self> {
        let reading = || format!("reading {}", path.display());
        if path.is_dir() {
            let layout = path.join(OCI_LAYOUT).exists();
            let why = "is a folder without `oci-layout`; a disk, a tar archive or an OCI image layout is accepted";
            return if layout { Ok(Format::Oci) } else { Err(Unfit::new(path, why).into()) };
        }
        let mut file = File::open(path).with_context(reading)?;
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        (&file).take(HEAD).read_to_end(&mut head).with_context(reading)?;
        let size = file.seek(SeekFrom::End(0)).with_context(reading)?;
        file.seek(SeekFrom::Start(size.saturating_sub(FOOTER))).with_context(reading)?;
        file.read_to_end(&mut tail).with_context(reading)?;
        match Format::of(&head, &tail) {
            Ok(Format::Tar) => {
                file.seek(SeekFrom::Start(0)).with_context(reading)?;
                tar_kind(path, file)
            }
            Ok(format) => Ok(format),
            Err(why) => Err(Unfit::new(path, why).into()),
        }
    }

    /// What begins and ends with these bytes; an error says why nothing can be made of it.
    pub fn of(head: &[u8], tail: &[u8]) -> Result<Self, &'static str> {
        let at = |offset: usize, magic: &[u8]| {
            head.get(offset..).is_some_and(|rest| rest.starts_with(magic))
        };
        for (offset, magic, format) in MAGIC {
            if at(*offset, magic) {
                return Ok(*format);
            }
        }
        if let Some((_, _, why)) = FOREIGN.iter().find(|(offset, magic, _)| at(*offset, magic)) {
            return Err(why);
        }
        // A fixed VHD is a raw disk with a footer.
        let fixed = tail.len() as u64 == FOOTER && tail.starts_with(crate::vhd::COOKIE);
        Ok(if fixed { Format::Vhd } else { Format::Raw })
    }
}

/// What begins every OCI image layout.
pub(crate) const OCI_LAYOUT: &str = "oci-layout";
/// Bytes that are looked at.
const HEAD: u64 = 4096;
/// Length of a VHD's footer.
const FOOTER: u64 = 512;

/// Where which bytes tell a format.
const MAGIC: &[(usize, &[u8], Format)] = &[
    (0, b"QFI\xfb\0\0\0\x02", Format::Qcow2),
    (0, b"QFI\xfb\0\0\0\x03", Format::Qcow2),
    (0, b"KDMV", Format::Vmdk),
    (0, b"COWD", Format::Vmdk),
    (0, b"# Disk DescriptorFile", Format::Vmdk),
    (0, b"conectix", Format::Vhd),
    (0, b"vhdxfile", Format::Vhdx),
    (257, b"ustar", Format::Tar),
];

/// What is refused, and what to do.
const FOREIGN: &[(usize, &[u8], &str)] = &[
    (0, b"QFI\xfb", "is a qcow2 of a version that is not known; 2 and 3 are accepted"),
    (0, b"\x1f\x8b", "is compressed; `gzip -dc` gives what can be imported from a pipe as `-`"),
    (0, b"\xfd7zXZ\0", "is compressed; `xz -dc` gives what can be imported from a pipe as `-`"),
    (
        0,
        b"\x28\xb5\x2f\xfd",
        "is compressed; `zstd -dc` gives what can be imported from a pipe as `-`",
    ),
    (0, b"BZh", "is compressed; `bzip2 -dc` gives what can be imported from a pipe as `-`"),
    (0, b"PK\x03\x04", "is a zip archive; the disk in it is accepted once it is unpacked"),
    (0, b"QED\0", "is a QED disk; `qemu-img convert` makes a qcow2 of it, which is accepted"),
    (
        0x40,
        b"\x7f\x10\xda\xbe",
        "is a VDI disk; `qemu-img convert` makes a qcow2 of it, which is accepted",
    ),
    (
        0,
        b"WithoutFreeSpace",
        "is a Parallels disk; `qemu-img convert` makes a qcow2 of it, which is accepted",
    ),
    (
        0,
        b"WithouFreSpacExt",
        "is a Parallels disk; `qemu-img convert` makes a qcow2 of it, which is accepted",
    ),
    (0, b"\x7fELF", "is a program; a disk is accepted"),
];

/// Whether an archive is an OCI layout or the files of a system. The layout's file may come at
/// the end, so all headers are looked at.
fn tar_kind(path: &Path, file: File) -> anyhow::Result<Format> {
    let reading = || format!("reading the archive {}", path.display());
    let mut archive = tar::Archive::new(io::BufReader::new(file));
    let mut docker = false;
    for entry in archive.entries_with_seek().with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let name = entry.path_bytes();
        match name.strip_prefix(b"./").unwrap_or(&name) {
            b"oci-layout" => return Ok(Format::Oci),
            b"manifest.json" => docker = true,
            _ => {}
        }
    }
    if docker {
        let why = "is a Docker archive; `skopeo copy docker-archive:FILE oci-archive:NEW` makes an OCI image of it, which is accepted";
        return Err(Unfit::new(path, why).into());
    }
    Ok(Format::Tar)
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// No format has that name.
#[derive(Debug, thiserror::Error)]
#[error("no format `{typed}`: {} are accepted", Format::ALL.map(Format::name).join(", "))]
pub struct NoFormat {
    /// What was typed.
    pub typed: String,
}

impl FromStr for Format {
    type Err = NoFormat;

    fn from_str(text: &str) -> Result<Self, NoFormat> {
        let found = Format::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| NoFormat { typed: text.to_owned() })
    }
}

/// A file of which no image can be made as it is.
#[derive(Debug, thiserror::Error)]
#[error("{} {why}", path.display())]
pub struct Unfit {
    /// The file.
    pub path: PathBuf,
    /// What it is instead, and what would be accepted.
    pub why: String,
}

impl Unfit {
    pub(crate) fn new(path: &Path, why: impl Into<String>) -> Self {
        Unfit { path: path.to_owned(), why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    #[test]
    fn names_are_parsed_as_they_are_shown() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        let error = "qcow".parse::<Format>().unwrap_err().to_string();
        assert_eq!(error, "no format `qcow`: raw, qcow2, vmdk, vhd, vhdx, tar, oci are accepted");
    }

    #[test]
    fn foreign_bytes_are_refused_with_what_to_do() {
        for (bytes, said) in [
            (&b"\x28\xb5\x2f\xfd...."[..], "zstd -dc"),
            (b"QFI\xfb\0\0\0\x01", "2 and 3"),
            (b"PK\x03\x04", "unpacked"),
        ] {
            assert!(Format::of(bytes, bytes).unwrap_err().contains(said));
        }
        assert_eq!(Format::of(b"", b""), Ok(Format::Raw));
        let mut footer = vec![0; 512];
        footer[..8].copy_from_slice(b"conectix");
        assert_eq!(Format::of(&[0; 512], &footer), Ok(Format::Vhd));
    }

    proptest! {
        #[test]
        fn any_bytes_are_something_or_refused(head in vec(any::<u8>(), 0..600), n in 0..MAGIC.len()) {
            let _ = Format::of(&head, &head);
            let (offset, magic, format) = MAGIC[n];
            let mut head = head;
            head.resize(600, 1);
            // Whatever stands elsewhere, unless another magic comes first.
            head[0] = 0;
            head[offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(Format::of(&head, b"").unwrap(), format);
        }
    }
}
