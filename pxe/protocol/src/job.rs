//! What a node asks and what it is told to do.

use std::{collections::BTreeMap, fmt};

use images::Digest;
use serde::{Deserialize, Serialize};

use crate::{DiskHints, Inventory};

/// A node's first words. The token is spent by them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The one-time token of its boot line.
    pub token: String,
    /// MAC of the interface that booted.
    pub mac: String,
    /// Version of the agent.
    pub agent: String,
    /// What the machine is.
    pub inventory: Inventory,
}

/// The answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Bearer token for this deployment's progress and report, and nothing else.
    pub bearer: String,
    /// What to do.
    pub job: Job,
}

/// What a node is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Job {
    /// Write an image to a disk and start it.
    Deploy(Box<Deploy>),
    /// Its inventory was all that was wanted: start what is on the disk, or power off.
    Leave,
}

/// One writing of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    /// Identifies the run in progress, report and events.
    pub deployment: String,
    /// Name of the image, for people.
    pub image: String,
    /// Its manifest, the only thing that is believed.
    pub manifest: Digest,
    /// Manifest of the image that was written to the node before: where its disk is worth a look.
    /// It is no more than a hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    /// Whether an image without a signature may be written.
    #[serde(default)]
    pub unsigned: bool,
    /// Which disk.
    pub disk: DiskHints,
    /// Whether the last partition is grown to the disk's end.
    pub grow: bool,
    /// Who the node will be.
    pub identity: Identity,
    /// How it starts what was written.
    pub restart: Restart,
}

/// Who a node is once it has booted its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Changes whenever the identity is to be applied anew (NoCloud `instance-id`).
    pub instance: String,
    /// Host name.
    pub hostname: String,
    /// Host keys in OpenSSH's private form, by algorithm (`ed25519`).
    pub host_keys: BTreeMap<String, String>,
    /// Lines of root's `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// The interface to configure, by MAC.
    pub mac: String,
    /// Its fixed IPv4 address as `address/prefix`; DHCP when absent.
    pub address: Option<String>,
    /// The router, with a fixed address.
    pub gateway: Option<String>,
    /// Resolvers, with a fixed address.
    pub dns: Vec<String>,
    /// As whom the agent of the new system speaks to the provisioner; `billet/agent.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentIdentity>,
    /// How Xen is started, a fragment of GRUB's configuration; `billet/xen.cfg`. The image's own
    /// way when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xen: Option<String>,
}

/// What the agent of a deployed system needs to speak to its provisioner; as TOML it is the
/// file `billet/agent.toml` of the seed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentIdentity {
    /// Base URL of the provisioner, without a closing slash.
    pub server: String,
    /// The node's identifier, which stays whatever it is called.
    pub node: String,
    /// Bearer token of this node, for [`crate::path::CONFIG`] and [`crate::path::STATUS`] alone;
    /// worthless after the node's next deployment.
    pub token: String,
}

/// The token stays out of logs.
impl fmt::Debug for AgentIdentity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AgentIdentity { server, node, .. } = self;
        write!(out, "AgentIdentity({node} at {server})")
    }
}

/// How a node gets from the RAM system into what was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Through its firmware.
    #[default]
    Reset,
    /// Directly, by `kexec`; through the firmware where that fails.
    Kexec,
}
