//! A container's image as an OCI image layout: a folder, or a tar archive of one, as skopeo and
//! buildah write them (OCI Image Format 1.1, "Image Layout", "Image Manifest").
//!
//! Every blob is named by its SHA-256 and checked by it. Of several images in a layout, or of an
//! index for several machines, the one for linux on amd64 is meant.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::{
    format::Unfit,
    layer::{Bytes, Layer, hex},
};

/// No index, manifest or configuration is longer than this many bytes.
const LONGEST: u64 = 4 << 20;
/// Indexes in indexes.
const DEEPEST: usize = 4;
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl Descriptor {
    /// The name that people gave it, else its digest.
    fn shown(&self) -> String {
        let name = self.annotations.get("org.opencontainers.image.ref.name");
        name.unwrap_or(&self.digest).clone()
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// What an image was made for, which an index may leave open.
#[derive(Debug, Deserialize)]
struct Configuration {
    architecture: String,
    os: String,
}

/// A layout that is open.
struct Layout {
    path: PathBuf,
    /// Offset and length of the members of an archive; none of a folder.
    members: Option<HashMap<Vec<u8>, (u64, u64)>>,
}

/// The layers of the image in a layout, the lowest first.
pub(crate) fn layers(path: &Path) -> anyhow::Result<Vec<Layer>> {
    let layout = Layout::open(path)?;
    let index: Index = parse(&layout.bytes("index.json")?.read(LONGEST)?, "index.json")?;
    let manifest = layout.choose(index, 0)?;
    let configuration: Configuration = layout.document(&manifest.config)?;
    let Configuration { architecture, os } = &configuration;
    if (architecture.as_str(), os.as_str()) != ("amd64", "linux") {
        let why = format!("is for {os} on {architecture}; linux on amd64 is accepted");
        return Err(Unfit::new(path, why).into());
    }
    manifest.layers.iter().map(|layer| layout.layer(layer)).collect()
}

impl Layout {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let reading = || format!("reading {}", path.display());
        if path.is_dir() {
            return Ok(Layout { path: path.to_owned(), members: None });
        }
        let mut archive =
            tar::Archive::new(BufReader::new(File::open(path).with_context(reading)?));
        let mut members = HashMap::new();
        for entry in archive.entries_with_seek().with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let name = entry.path_bytes();
            let name = name.strip_prefix(b"./").unwrap_or(&name).to_vec();
            members.insert(name, (entry.raw_file_position(), entry.size()));
        }
        Ok(Layout { path: path.to_owned(), members: Some(members) })
    }

    fn bytes(&self, name: &str) -> anyhow::Result<Bytes> {
        let Some(members) = &self.members else { return Bytes::file(self.path.join(name)) };
        let found = members.get(name.as_bytes());
        let (offset, size) =
            *found.with_context(|| format!("{} has no {name}", self.path.display()))?;
        let whole = self.path.metadata().map_or(0, |metadata| metadata.len());
        ensure!(offset.saturating_add(size) <= whole, "{} is cut short", self.path.display());
        Ok(Bytes::File { path: self.path.clone(), offset, size })
    }

    fn blob(&self, descriptor: &Descriptor) -> anyhow::Result<(Bytes, [u8; 32])> {
        let digest = parse_digest(&descriptor.digest)?;
        let bytes = self.bytes(&format!("blobs/sha256/{}", hex(&digest)))?;
        let Bytes::File { size, .. } = &bytes else { bail!("a blob is in a file") };
        let wanted = descriptor.size;
        ensure!(*size == wanted, "blob {} has {size} bytes, not {wanted}", descriptor.digest);
        Ok((bytes, digest))
    }

    /// A description, checked by its digest.
    fn document<T: for<'de> Deserialize<'de>>(&self, of: &Descriptor) -> anyhow::Result<T> {
        let (bytes, digest) = self.blob(of)?;
        let bytes = bytes.read(LONGEST)?;
        let got: [u8; 32] = Sha256::digest(&bytes).into();
        ensure!(
            got == digest,
            "blob {} is damaged: its bytes have sha256:{}",
            of.digest,
            hex(&got)
        );
        parse(&bytes, &of.digest)
    }

    /// The one manifest that is meant.
    fn choose(&self, index: Index, depth: usize) -> anyhow::Result<Manifest> {
        ensure!(depth < DEEPEST, "indexes in indexes, {DEEPEST} deep");
        let mut fit = index.manifests;
        fit.retain(|entry| {
            let known = [&MANIFESTS[..], &INDEXES].concat().contains(&entry.media_type.as_str());
            known
                && entry.platform.as_ref().is_none_or(|platform| {
                    (platform.architecture.as_str(), platform.os.as_str()) == ("amd64", "linux")
                })
        });
        // One image may have several names.
        let mut seen = HashSet::new();
        let names: Vec<_> = fit.iter().map(Descriptor::shown).collect();
        fit.retain(|entry| seen.insert(entry.digest.clone()));
        match &fit[..] {
            [only] if INDEXES.contains(&only.media_type.as_str()) => {
                self.choose(self.document(only)?, depth + 1)
            }
            [only] => self.document(only),
            [] => {
                let why = "has no image for linux on amd64, which is accepted";
                Err(Unfit::new(&self.path, why).into())
            }
            _ => {
                let why = format!(
                    "has several images ({}); one is accepted, and `skopeo copy oci:LAYOUT:NAME \
                     oci-archive:NEW` takes it out",
                    names.join(", ")
                );
                Err(Unfit::new(&self.path, why).into())
            }
        }
    }

    fn layer(&self, descriptor: &Descriptor) -> anyhow::Result<Layer> {
        let kind = &descriptor.media_type;
        ensure!(kind.contains(".tar") || kind.contains("diff.tar"), "layer of unknown type {kind}");
        ensure!(!kind.contains("encrypted"), "layer {} is encrypted", descriptor.digest);
        let (bytes, digest) = self.blob(descriptor)?;
        Ok(Layer { takes_away: true, digest: Some(digest), ..Layer::plain(bytes) })
    }
}

fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8], what: &str) -> anyhow::Result<T> {
    serde_json::from_slice(bytes).with_context(|| format!("understanding {what}"))
}

fn parse_digest(text: &str) -> anyhow::Result<[u8; 32]> {
    let digits = text.strip_prefix("sha256:").filter(|digits| {
        digits.len() == 64 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    });
    let Some(digits) = digits else {
        bail!("blob `{}`: sha256 and 64 hexadecimal digits are accepted", text.escape_debug());
    };
    let mut digest = [0; 32];
    for (n, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * n..2 * n + 2], 16)?;
    }
    Ok(digest)
}
