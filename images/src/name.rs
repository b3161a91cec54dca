//! Names of images: what people call a manifest, and how what they typed becomes one.

use std::collections::HashMap;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::{Digest, Store, index::Location, store::check_name};

const FOLDER: &str = "names";

fn file(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

/// What a name's file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// The manifest it stands for.
    pub manifest: Digest,
    /// When it was given, seconds since 1970.
    pub created: u64,
}

/// An image as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Its manifest.
    pub manifest: Digest,
    /// When it got the name, seconds since 1970.
    pub created: u64,
    /// Length of its disk in bytes.
    pub size: u64,
    /// Compressed bytes of all its chunks.
    pub packed: u64,
    /// Compressed bytes of the chunks that no other manifest has.
    pub own: u64,
}

/// Why what was typed names no image.
#[derive(Debug, thiserror::Error)]
pub enum Unresolved {
    /// No image has it.
    #[error("no image `{typed}`, there are {}", list(names))]
    Unknown {
        /// What was typed.
        typed: String,
        /// What there is.
        names: Vec<String>,
    },
    /// Several manifests begin with it.
    #[error("`{typed}` is the beginning of {}", list(names))]
    Ambiguous {
        /// What was typed.
        typed: String,
        /// What begins with it.
        names: Vec<String>,
    },
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Store(#[source] anyhow::Error),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Store {
    /// Every name there is.
    pub fn names(&self) -> anyhow::Result<Vec<String>> {
        let mut names: Vec<_> = self.list(FOLDER)?.into_iter().map(|(name, _)| name).collect();
        names.retain(|name| check_name(name).is_ok());
        Ok(names)
    }

    /// What a name stands for; `None` where there is no such name.
    pub fn name(&self, name: &str) -> anyhow::Result<Option<Name>> {
        if check_name(name).is_err() {
            return Ok(None);
        }
        let Some(bytes) = self.find(&file(name))? else { return Ok(None) };
        let found = serde_json::from_slice(&bytes);
        Ok(Some(found.with_context(|| format!("reading {}", self.shelf().full_name(&file(name))))?))
    }

    /// Names a manifest that the store has, instead of what had the name before.
    pub fn set_name(&self, name: &str, manifest: &Digest) -> anyhow::Result<()> {
        check_name(name)?;
        // Without a name it is garbage, and might go just now.
        let _lock = self.lock_shared()?;
        ensure!(self.has_manifest(manifest)?, "the store has no manifest {manifest}");
        let since = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let text = serde_json::to_vec(&Name { manifest: *manifest, created: since })?;
        self.shelf().put(&file(name), &text)
    }

    /// Takes a name away and returns what it stood for; its chunks stay until [`Store::gc`].
    pub fn remove(&self, name: &str) -> anyhow::Result<Digest> {
        let Some(found) = self.name(name)? else {
            let names = self.names()?;
            return Err(Unresolved::Unknown { typed: name.to_owned(), names }.into());
        };
        self.shelf().remove(&file(name)).with_context(|| format!("removing name {name}"))?;
        self.shelf().settle(FOLDER)?;
        Ok(found.manifest)
    }

    /// The manifest that `typed` means: a name, a digest, or at least 6 of its first digits
    /// where only one manifest has them.
    pub fn resolve(&self, typed: &str) -> Result<Digest, Unresolved> {
        if let Some(name) = self.name(typed).map_err(Unresolved::Store)? {
            return Ok(name.manifest);
        }
        let mut found = self.manifests().map_err(Unresolved::Store)?;
        found.retain(|manifest| typed.len() >= 6 && manifest.to_string().starts_with(typed));
        let typed = typed.to_owned();
        match found[..] {
            [only] => Ok(only),
            [] => {
                let names = self.names().map_err(Unresolved::Store)?;
                Err(Unresolved::Unknown { typed, names })
            }
            _ => {
                let names = found.iter().map(Digest::to_string).collect();
                Err(Unresolved::Ambiguous { typed, names })
            }
        }
    }

    /// Every named image with its sizes, by name.
    pub fn images(&self) -> anyhow::Result<Vec<Image>> {
        let mut named = Vec::new();
        for name in self.names()? {
            named.extend(self.name(&name)?.map(|found| (name, found)));
        }
        let weights = self.weights(named.iter().map(|(_, found)| found.manifest))?;
        let image = |(name, Name { manifest, created }): (String, Name)| {
            let [packed, own] = weights.get(&manifest).copied().unwrap_or_default();
            let size = self.manifest(&manifest)?.header.disk_size;
            Ok(Image { name, manifest, created, size, packed, own })
        };
        named.into_iter().map(image).collect()
    }

    /// Packed bytes of each manifest, all and own.
    fn weights(
        &self,
        manifests: impl Iterator<Item = Digest>,
    ) -> anyhow::Result<HashMap<Digest, [u64; 2]>> {
        let mut weights = HashMap::new();
        // Whose a chunk is, until a second manifest has it.
        let mut owners: HashMap<Location, Option<Digest>> = HashMap::new();
        for manifest in manifests {
            if weights.insert(manifest, [0; 2]).is_none() {
                for location in self.index(&manifest)?.locations() {
                    let owner = owners.entry(location).or_insert(Some(manifest));
                    if *owner != Some(manifest) {
                        *owner = None;
                    }
                }
            }
        }
        for (manifest, weight) in &mut weights {
            let mut chunks: Vec<_> = self.index(manifest)?.locations().collect();
            chunks.sort_unstable();
            chunks.dedup();
            for chunk in chunks {
                let own = owners.get(&chunk) == Some(&Some(*manifest));
                weight[0] += u64::from(chunk.len);
                weight[1] += if own { u64::from(chunk.len) } else { 0 };
            }
        }
        Ok(weights)
    }
}
