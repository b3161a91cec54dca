//! A layer of a system: an archive, maybe compressed, of which some members are wanted.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read, Seek, SeekFrom},
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context, ensure};
use sha2::{Digest as _, Sha256};

use crate::{format::Unfit, member::Members, tool};

/// How compressed archives begin.
const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const XZ: &[u8] = b"\xfd7zXZ\0";

/// Whether it is compressed as archives are.
pub(crate) fn is_compressed(head: &[u8]) -> bool {
    [GZIP, ZSTD, XZ].iter().any(|magic| head.starts_with(magic))
}

/// Where the bytes of a layer are.
#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    /// In a file, from an offset, so many.
    File { path: PathBuf, offset: u64, size: u64 },
    /// Made here.
    Memory(Vec<u8>),
}

/// An archive and what is wanted of it.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) bytes: Bytes,
    /// SHA-256 of the bytes, where somebody vouches for it.
    pub(crate) digest: Option<[u8; 32]>,
    /// Whether names of it take away what lower layers have.
    pub(crate) takes_away: bool,
    /// Where a member with this path goes, if it is wanted.
    pub(crate) place: fn(&[u8]) -> Option<&[u8]>,
}

impl Layer {
    /// All of an archive that is no layer of a container's image.
    pub(crate) fn plain(bytes: Bytes) -> Self {
        Layer { bytes, digest: None, takes_away: false, place: |path| Some(path) }
    }

    /// Calls `take` with every wanted member's number and the archive at its bytes. When its digest
    /// is known, all bytes have been checked at the end.
    pub(crate) fn read(
        &self,
        mut take: impl FnMut(usize, crate::member::Member, &mut dyn Read) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut hashed = Hashed { from: self.bytes.open()?, hash: Sha256::new() };
        let mut head = [0; 6];
        let len = read_head(&mut hashed, &mut head).context("reading a layer")?;
        let whole = Cursor::new(head[..len].to_vec()).chain(&mut hashed);
        let mut rest = with_plain(whole, &head[..len], |plain| {
            let mut members = Members::new(plain);
            let mut number = 0;
            while let Some(mut member) = members.next()? {
                if let Some(place) = (self.place)(&member.path).map(<[u8]>::to_vec) {
                    member.path = place;
                    take(number, member, &mut members)?;
                }
                number += 1;
            }
            io::copy(&mut members.into_rest(), &mut io::sink()).context("reading a layer")?;
            Ok(())
        })?;
        io::copy(&mut rest, &mut io::sink()).context("reading a layer")?;
        drop(rest);
        if let Some(wanted) = self.digest {
            let got: [u8; 32] = hashed.hash.finalize().into();
            ensure!(
                got == wanted,
                "layer sha256:{} is damaged: its bytes have sha256:{}",
                hex(&wanted),
                hex(&got)
            );
        }
        Ok(())
    }
}

/// Gives `work` the decompressed bytes of what begins with `head`, and returns what it left over.
fn with_plain<R: Read + Send>(
    mut from: R,
    head: &[u8],
    work: impl FnOnce(&mut dyn Read) -> anyhow::Result<()>,
) -> anyhow::Result<R> {
    if head.starts_with(GZIP) {
        work(&mut flate2::bufread::MultiGzDecoder::new(BufReader::new(&mut from)))?;
    } else if head.starts_with(ZSTD) {
        work(&mut zstd::stream::Decoder::new(&mut from).context("starting zstd")?)?;
    } else if head.starts_with(XZ) {
        through_xz(&mut from, work)?;
    } else {
        work(&mut BufReader::with_capacity(1 << 20, &mut from))?;
    }
    Ok(from)
}

/// Nothing in Rust that is as well kept reads xz without C.
fn through_xz<R: Read + Send>(
    from: &mut R,
    work: impl FnOnce(&mut dyn Read) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    tool::need(&[tool::Tool { program: "xz", package: "xz-utils" }])?;
    let mut xz = tool::command("xz");
    xz.arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut xz = xz.spawn().context("starting xz")?;
    let (stdin, stdout) = (xz.stdin.take(), xz.stdout.take());
    let worked = std::thread::scope(|scope| {
        // Where xz has ended it says why itself.
        scope.spawn(|| stdin.map(|mut stdin| io::copy(from, &mut stdin)));
        stdout.map_or(Ok(()), |mut stdout| work(&mut stdout))
    });
    let status = xz.wait().context("waiting for xz")?;
    worked?;
    ensure!(status.success(), "xz failed ({status})");
    Ok(())
}

impl Bytes {
    pub(crate) fn open(&self) -> anyhow::Result<Box<dyn Read + Send + '_>> {
        match self {
            Bytes::Memory(bytes) => Ok(Box::new(&bytes[..])),
            Bytes::File { path, offset, size } => {
                let context = || format!("opening {}", path.display());
                let mut file = File::open(path).with_context(context)?;
                file.seek(SeekFrom::Start(*offset)).with_context(context)?;
                Ok(Box::new(file.take(*size)))
            }
        }
    }

    /// All of a file.
    pub(crate) fn file(path: PathBuf) -> anyhow::Result<Self> {
        let size = path.metadata().with_context(|| format!("reading {}", path.display()))?.len();
        Ok(Bytes::File { path, offset: 0, size })
    }

    /// A small file at once.
    pub(crate) fn read(&self, most: u64) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open()?.take(most + 1).read_to_end(&mut bytes).context("reading a description")?;
        ensure!(bytes.len() as u64 <= most, "a description has more than {most} bytes");
        Ok(bytes)
    }

    /// Refuses what is no archive, before much is done with it.
    pub(crate) fn check_archive(&self, path: &std::path::Path) -> anyhow::Result<()> {
        let layer = Layer { place: |_| None, ..Layer::plain(self.clone()) };
        let checked = layer.read(|_, _, _| Ok(()));
        checked.map_err(|error| Unfit::new(path, format!("is no whole archive: {error:#}")).into())
    }
}

struct Hashed<R> {
    from: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(bytes)?;
        self.hash.update(&bytes[..read]);
        Ok(read)
    }
}

fn read_head(from: &mut impl Read, head: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < head.len() {
        match from.read(&mut head[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
