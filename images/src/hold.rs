//! Holds: manifests that somebody uses just now, whatever becomes of their names.
//!
//! An open deployment holds its manifest, so that a name given to a newer image and a garbage
//! collection between two boots of the node cannot take away what it still has to fetch.

use std::io;

use anyhow::{Context, ensure};

use crate::{Digest, Store, store::check_name};

const FOLDER: &str = "holds";

fn file(holder: &str) -> String {
    format!("{FOLDER}/{holder}")
}

impl Store {
    /// Keeps `manifest` until `holder` releases it; a holder holds one manifest. Packs that are
    /// replaced meanwhile (see `gc`) stay until then too.
    pub fn hold(&self, holder: &str, manifest: &Digest) -> anyhow::Result<()> {
        check_name(holder)?;
        // Unheld it might be garbage, and go just now.
        let _lock = self.lock_shared()?;
        ensure!(self.has_manifest(manifest)?, "the store has no manifest {manifest}");
        self.shelf().put(&file(holder), manifest.to_string().as_bytes())
    }

    /// Ends what `holder` held, if it did.
    pub fn release(&self, holder: &str) -> anyhow::Result<()> {
        check_name(holder)?;
        match self.shelf().remove(&file(holder)) {
            Ok(()) => self.shelf().settle(FOLDER),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("releasing {holder}")),
        }
    }

    /// Who holds what.
    pub fn holds(&self) -> anyhow::Result<Vec<(String, Digest)>> {
        let mut names: Vec<_> = self.list(FOLDER)?.into_iter().map(|(name, _)| name).collect();
        names.retain(|name| check_name(name).is_ok());
        let held = |holder: String| {
            let text = self.get(&file(&holder))?;
            let text = String::from_utf8_lossy(&text);
            let held = text.trim().parse().with_context(|| format!("reading hold {holder}"))?;
            Ok((holder, held))
        };
        names.into_iter().map(held).collect()
    }
}
