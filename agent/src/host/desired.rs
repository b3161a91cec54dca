//! What the provisioner wants of this node, kept for when it is away.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use xen_config::Desired;

use super::folder::Folder;

const FILE: &str = "desired.json";

/// The desired state that the agent holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Which one; 0 for none.
    pub(crate) generation: u64,
    /// What the node should be; when nobody wants anything, what stands is left as it is.
    pub(crate) desired: Option<Desired>,
}

impl Held {
    /// What is in the agent's memory.
    pub(crate) fn read(folder: &Folder) -> Result<Held> {
        Ok(folder.read(FILE)?.unwrap_or_default())
    }

    /// Keeps it.
    pub(crate) fn write(&self, folder: &Folder) -> Result<()> {
        folder.write(FILE, self)
    }
}
