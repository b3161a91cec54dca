//! Who this node is and where its provisioner answers: `agent.toml` of its seed.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::reach::Reach;

/// Where the image's first boot puts it.
pub(crate) const FILE: &str = "/etc/billet/agent.toml";

/// The node's own identity.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Identity {
    /// `http://10.0.0.1:8080`; nobody when absent.
    pub(crate) server: Option<String>,
    /// The node's name there; UUIDs and addresses of guests are derived from it.
    pub(crate) node: String,
    /// What opens the doors of this node there.
    pub(crate) token: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Identity({} at {:?})", self.node, self.server)
    }
}

impl Identity {
    /// What is in the file at `path`. Without one the node is called as its host is, and knows
    /// of no provisioner.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let reading = || format!("reading {}", path.display());
        let mut identity: Identity = match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).with_context(reading)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Identity::default(),
            Err(error) => return Err(error).with_context(reading),
        };
        if identity.node.is_empty() {
            let name = fs::read_to_string("/proc/sys/kernel/hostname");
            identity.node = name.context("reading the host's name")?.trim().to_owned();
        }
        Ok(identity)
    }

    /// Who must answer after a change of the network.
    pub(crate) fn reach(&self) -> Option<Reach> {
        self.server.as_ref()?.parse().ok()
    }
}
