//! Garbage collection: what no name and no hold needs leaves the store.
//!
//! It runs alone (importers wait), so a pack that nothing needs now is needed by nobody who
//! is about to say so. A pack with one live chunk stays whole: an index that a node already
//! has keeps working.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};

use anyhow::Context;
use serde::Serialize;

use crate::{
    Digest, Store,
    file::{UNFINISHED, sync_folder},
    index::Location,
    store::file_names,
};

/// What a collection removed, and what it could not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Manifests without a name.
    pub manifests: u64,
    /// Packs without a live chunk.
    pub packs: u64,
    /// Files that a crash left unfinished.
    pub unfinished: u64,
    /// Bytes that became free.
    pub freed: u64,
    /// Bytes of dead chunks in packs that have live ones.
    pub dead: u64,
}

impl Store {
    /// Removes what neither a name nor a hold needs.
    pub fn gc(&self) -> anyhow::Result<Collected> {
        let _lock = self.lock_alone()?;
        let mut live: BTreeSet<Digest> = self.holds()?.into_iter().map(|(_, held)| held).collect();
        for name in self.names()? {
            live.extend(self.name(&name)?.map(|found| found.manifest));
        }
        // An index that cannot be read ends it here, before anything is lost.
        let needed = self.needed_bytes(&live)?;
        let mut collected = Collected::default();
        self.remove_manifests(&live, &mut collected)?;
        self.remove_packs(&needed, &mut collected)?;
        for folder in ["packs", "manifests", "names"] {
            remove_unfinished(&self.root().join(folder), &mut collected)?;
        }
        Ok(collected)
    }

    /// Live bytes of every pack that has some.
    fn needed_bytes(&self, live: &BTreeSet<Digest>) -> anyhow::Result<HashMap<Digest, u64>> {
        let mut chunks: BTreeSet<Location> = BTreeSet::new();
        for manifest in live {
            chunks.extend(self.index(manifest)?.locations());
        }
        let mut needed = HashMap::new();
        for chunk in chunks {
            *needed.entry(chunk.pack).or_insert(0) += u64::from(chunk.len);
        }
        Ok(needed)
    }

    fn remove_manifests(
        &self,
        live: &BTreeSet<Digest>,
        collected: &mut Collected,
    ) -> anyhow::Result<()> {
        for manifest in self.manifests()? {
            if !live.contains(&manifest) {
                // The manifest first: an index or signature alone is nothing.
                collected.freed += remove(&self.manifest_path(&manifest))?;
                collected.freed += remove(&self.index_path(&manifest))?;
                collected.freed += remove(&self.minisig_path(&manifest))?;
                collected.manifests += 1;
            }
        }
        sync_folder(&self.root().join("manifests"))
    }

    fn remove_packs(
        &self,
        needed: &HashMap<Digest, u64>,
        collected: &mut Collected,
    ) -> anyhow::Result<()> {
        for pack in self.packs()? {
            let path = self.pack_path(&pack);
            match needed.get(&pack) {
                None => {
                    collected.freed += remove(&path)?;
                    collected.packs += 1;
                }
                Some(live) => {
                    let size = path.metadata().map_or(0, |metadata| metadata.len());
                    collected.dead += size.saturating_sub(*live);
                }
            }
        }
        self.pack_folders()?.iter().try_for_each(|folder| sync_folder(folder))
    }
}

fn remove_unfinished(folder: &Path, collected: &mut Collected) -> anyhow::Result<()> {
    for name in file_names(folder)?.iter().filter(|name| name.starts_with(UNFINISHED)) {
        collected.freed += remove(&folder.join(name))?;
        collected.unfinished += 1;
    }
    Ok(())
}

/// Removes a file, which may be gone already, and returns how long it was.
fn remove(path: &Path) -> anyhow::Result<u64> {
    let context = || format!("removing {}", path.display());
    let size = match path.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(context),
    };
    fs::remove_file(path).with_context(context)?;
    Ok(size)
}
