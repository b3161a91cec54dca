//! Holds: manifests that somebody uses just now, whatever becomes of their names.
//!
//! An open deployment holds its manifest, so that a name given to a newer image and a garbage
//! collection between two boots of the node cannot take away what it still has to fetch.

use std::{fs, io};

use anyhow::{Context, ensure};

use crate::{
    Digest, Store, file,
    store::{check_name, file_names},
};

const FOLDER: &str = "holds";

impl Store {
    /// Keeps `manifest` until `holder` releases it; a holder holds one manifest. Packs that are
    /// replaced meanwhile (see `gc`) stay until then too.
    pub fn hold(&self, holder: &str, manifest: &Digest) -> anyhow::Result<()> {
        check_name(holder)?;
        // Unheld it might be garbage, and go just now.
        let _lock = self.lock_shared()?;
        ensure!(self.manifest_path(manifest).exists(), "the store has no manifest {manifest}");
        let folder = self.root().join(FOLDER);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        file::replace(&folder.join(holder), manifest.to_string().as_bytes())
    }

    /// Ends what `holder` held, if it did.
    pub fn release(&self, holder: &str) -> anyhow::Result<()> {
        check_name(holder)?;
        let folder = self.root().join(FOLDER);
        match fs::remove_file(folder.join(holder)) {
            Ok(()) => file::sync_folder(&folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("releasing {holder}")),
        }
    }

    /// Who holds what.
    pub fn holds(&self) -> anyhow::Result<Vec<(String, Digest)>> {
        let folder = self.root().join(FOLDER);
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut names = file_names(&folder)?;
        names.retain(|name| check_name(name).is_ok());
        let held = |name: String| {
            let path = folder.join(&name);
            let context = || format!("reading {}", path.display());
            let text = fs::read_to_string(&path).with_context(context)?;
            Ok((name, text.trim().parse().with_context(context)?))
        };
        names.into_iter().map(held).collect()
    }
}
