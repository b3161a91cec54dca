//! The members of a tar archive, one after the other: what each is, and its bytes.
//!
//! Formats: POSIX ustar and pax (IEEE 1003.1, "pax Interchange Format"), and GNU's long names.
//! Extended attributes come as `SCHILY.xattr.<name>`, whose values may hold any byte; so pax
//! records are taken apart here, by the lengths that they begin with.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use anyhow::{Context, bail, ensure};
use tar::{EntryType, Header};

/// A block, in which archives are counted.
const BLOCK: u64 = 512;
/// The longest extended header or name that is taken.
const LONGEST: u64 = 1 << 20;

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    /// Another name of the member with this path.
    Link(Vec<u8>),
    Symlink(Vec<u8>),
    Folder,
    Fifo,
    /// A character device, major and minor.
    Character(u32, u32),
    /// A block device, major and minor.
    Block(u32, u32),
}

/// A member without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// From the root, without a slash at either end; empty for the root itself.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: u64,
    pub(crate) group: u64,
    /// Seconds of Unix time.
    pub(crate) modified: i64,
    /// Bytes that follow.
    pub(crate) size: u64,
    pub(crate) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// An archive that is being read.
pub(crate) struct Members<R> {
    from: R,
    /// Bytes of the member that are still to come, and what fills their last block.
    left: u64,
    filling: u64,
}

/// What pax records and GNU's long names say of the next member.
#[derive(Default)]
struct Extended {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> Members<R> {
    pub(crate) fn new(from: R) -> Self {
        Members { from, left: 0, filling: 0 }
    }

    /// The next member, whatever was read of the one before.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Member>> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = filled(&header.as_old().size, header.entry_size());
            let size = size.context("reading the size of a member")?;
            match header.entry_type() {
                EntryType::XHeader => extended.records.extend(records(&self.block(size)?)?),
                // What it says of all members is of no use here: comments, a commit.
                EntryType::XGlobalHeader => drop(self.block(size)?),
                EntryType::GNULongName => extended.path = Some(name(self.block(size)?)),
                EntryType::GNULongLink => extended.link = Some(name(self.block(size)?)),
                _ => return self.member(&header, extended).map(Some),
            }
        }
    }

    /// What is after the last member, for who needs every byte to be read.
    pub(crate) fn into_rest(self) -> R {
        self.from
    }

    fn skip(&mut self) -> anyhow::Result<()> {
        let rest = self.left + self.filling;
        let skipped = io::copy(&mut (&mut self.from).take(rest), &mut io::sink());
        let skipped = skipped.context("reading the archive")?;
        ensure!(skipped == rest, "the archive is cut short in the bytes of a member");
        (self.left, self.filling) = (0, 0);
        Ok(())
    }

    fn header(&mut self) -> anyhow::Result<Option<Header>> {
        let mut header = Header::new_old();
        match self.from.read_exact(header.as_mut_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                bail!("the archive is cut short: it has no end")
            }
            result => result.context("reading the archive")?,
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = header.as_bytes().iter().enumerate();
        let sum =
            sum.map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) });
        let wanted = header.cksum().context("reading a member's checksum")?;
        ensure!(sum.sum::<u32>() == wanted, "the archive is damaged: a header's checksum is wrong");
        Ok(Some(header))
    }

    /// The bytes of a member that tells of the next one.
    fn block(&mut self, size: u64) -> anyhow::Result<Vec<u8>> {
        ensure!(size <= LONGEST, "an extended header has {size} bytes, {LONGEST} are accepted");
        let mut bytes = vec![0; size as usize];
        self.from.read_exact(&mut bytes).context("reading an extended header")?;
        self.filling = size.next_multiple_of(BLOCK) - size;
        Ok(bytes)
    }

    fn member(&mut self, header: &Header, extended: Extended) -> anyhow::Result<Member> {
        let Extended { records, path, link } = extended;
        let path = records.get(&b"path"[..]).cloned().or(path);
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let context = || format!("reading member {}", path.escape_ascii());
        let sparse = records.keys().any(|key| key.starts_with(b"GNU.sparse."));
        if sparse || header.entry_type() == EntryType::GNUSparse {
            bail!("{} is a sparse member; `tar` without --sparse is accepted", path.escape_ascii());
        }
        let link = records.get(&b"linkpath"[..]).cloned().or(link);
        let link = link.or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        let kind = kind(header, link.unwrap_or_default()).with_context(context)?;
        let number = |key: &[u8], field: &[u8], plain: io::Result<u64>| match records.get(key) {
            Some(value) => decimal(value),
            None => filled(field, plain),
        };
        let fields = header.as_old();
        let size = number(b"size", &fields.size, header.entry_size()).with_context(context)?;
        let has_bytes = kind == Kind::File;
        self.left = if has_bytes { size } else { 0 };
        self.filling = if has_bytes { size.checked_next_multiple_of(BLOCK) } else { Some(0) }
            .with_context(context)?
            .saturating_sub(self.left);
        let attributes = records.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(b"SCHILY.xattr.")?;
            Some((name.to_vec(), value.clone()))
        });
        Ok(Member {
            kind,
            mode: filled(&fields.mode, header.mode()).with_context(context)? & 0o7777,
            owner: number(b"uid", &fields.uid, header.uid()).with_context(context)?,
            group: number(b"gid", &fields.gid, header.gid()).with_context(context)?,
            modified: match records.get(&b"mtime"[..]) {
                Some(text) => whole_seconds(text).with_context(context)?,
                None => filled(&fields.mtime, header.mtime()).with_context(context)?.cast_signed(),
            },
            size: self.left,
            attributes: attributes.collect(),
            path: plain_path(&path)?,
        })
    }
}

/// The bytes of the member that came last.
impl<R: Read> Read for Members<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = self.left.min(bytes.len() as u64) as usize;
        if most == 0 {
            return Ok(0);
        }
        let read = self.from.read(&mut bytes[..most])?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive is cut short in the bytes of a member",
            ));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn kind(header: &Header, link: Vec<u8>) -> anyhow::Result<Kind> {
    let device = || {
        let number = |number: io::Result<Option<u32>>| anyhow::Ok(number?.unwrap_or(0));
        anyhow::Ok((number(header.device_major())?, number(header.device_minor())?))
    };
    Ok(match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Link => Kind::Link(plain_path(&link)?),
        EntryType::Symlink => Kind::Symlink(link),
        EntryType::Directory => Kind::Folder,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char => device().map(|(major, minor)| Kind::Character(major, minor))?,
        EntryType::Block => device().map(|(major, minor)| Kind::Block(major, minor))?,
        other => bail!("it is of type {:?}, which is not known", char::from(other.as_byte())),
    })
}

/// A path without its dots and needless slashes; one that leaves the root is refused.
pub(crate) fn plain_path(path: &[u8]) -> anyhow::Result<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !matches!(part, [] | [b'.']));
    let parts: Vec<&[u8]> = parts.collect();
    if parts.contains(&&b".."[..]) {
        bail!("the archive names `{}`; paths without `..` are accepted", path.escape_ascii());
    }
    ensure!(!path.contains(&0), "the archive names `{}`", path.escape_ascii());
    Ok(parts.join(&b'/'))
}

/// A long name ends with a zero byte.
fn name(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// `<length> <key>=<value>\n` each, where the length counts all of it.
fn records(mut bytes: &[u8]) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let record = record(bytes).context("an extended header is malformed")?;
        records.push((record.0.to_vec(), record.1.to_vec()));
        bytes = record.2;
    }
    Ok(records)
}

/// Key and value of the first record, and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let len: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(len)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

/// A field that nobody filled in is 0; some archivers leave what does not matter to them.
fn filled<T: Default>(field: &[u8], value: io::Result<T>) -> anyhow::Result<T> {
    let blank = field.iter().all(|byte| matches!(byte, 0 | b' '));
    if blank { Ok(T::default()) } else { Ok(value?) }
}

fn decimal(text: &[u8]) -> anyhow::Result<u64> {
    let text = String::from_utf8_lossy(text);
    text.parse().with_context(|| format!("`{text}` is no number"))
}

/// Seconds of a time with a fraction, rounded down.
fn whole_seconds(text: &[u8]) -> anyhow::Result<i64> {
    let text = String::from_utf8_lossy(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let seconds: i64 = whole.parse().with_context(|| format!("`{text}` is no time"))?;
    let before = whole.starts_with('-') && fraction.bytes().any(|digit| digit != b'0');
    Ok(seconds.saturating_sub(i64::from(before)))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let records = [("SCHILY.xattr.user.a", &b"x\n9 b=c\n\0\n"[..]), ("mtime", b"-1.5")];
        builder.append_pax_extensions(records).unwrap();
        let mut header = Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o4755);
        header.set_uid(3_000_000);
        header.set_gid(7);
        let long = format!("./{}/file", "folder/".repeat(40));
        builder.append_data(&mut header, long, &b"abc"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn values_may_hold_what_looks_like_records() {
        let archive = archive();
        let mut members = Members::new(&archive[..]);
        let member = members.next().unwrap().unwrap();
        assert!(member.path.starts_with(b"folder/folder/") && member.path.ends_with(b"/file"));
        assert_eq!(member.attributes[&b"user.a"[..]], b"x\n9 b=c\n\0\n");
        assert_eq!((member.owner, member.group, member.mode), (3_000_000, 7, 0o4755));
        assert_eq!(member.modified, -2);
        let mut bytes = Vec::new();
        members.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"abc");
        assert!(members.next().unwrap().is_none());
        assert!(plain_path(b"a/../b").is_err());
        assert_eq!(plain_path(b"/./a//b/.").unwrap(), b"a/b");
    }

    #[test]
    fn a_cut_or_damaged_archive_says_so() {
        let archive = archive();
        for len in [0, 700, archive.len() - 1024] {
            let mut members = Members::new(&archive[..len]);
            let error = loop {
                match members.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{len} bytes are no archive"),
                    Err(error) => break format!("{error:#}"),
                }
            };
            assert!(error.contains("cut short") || error.contains("reading"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_archive_never_panics(at in any::<u16>(), to in any::<u8>(), more in vec(any::<u8>(), 0..600)) {
            let mut archive = archive();
            let at = usize::from(at) % archive.len();
            archive[at] = to;
            archive.truncate(archive.len() - 1024);
            archive.extend(more);
            let mut members = Members::new(&archive[..]);
            while let Ok(Some(_)) = members.next() {}
            let _ = records(archive.get(at..).unwrap_or_default());
        }
    }
}
