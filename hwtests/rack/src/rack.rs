//! The rack: a bridge with the provisioning host's address, and the nodes on it.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    cable::{Cable, Kind},
    fallen,
    netlink::Netlink,
    node::Node,
    spec::NodeSpec,
};

/// The bridge's name.
pub const BRIDGE: &str = "rack0";
/// The provisioning host's address on the rack's network, a /24.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A rack of virtual machines. There is one in a network namespace at a time.
pub struct Rack {
    folder: PathBuf,
    kind: Kind,
    nodes: Vec<Arc<Node>>,
    start: Instant,
}

impl Rack {
    /// An empty rack that keeps its files in `folder`. The process must have been through
    /// [`crate::enter()`].
    pub fn new(folder: &Path) -> Result<Self> {
        Rack::with_cables(folder, Kind::choose()?)
    }

    /// The same with a kind of cable.
    pub fn with_cables(folder: &Path, kind: Kind) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        fallen::forget();
        let mut netlink = Netlink::open()?;
        netlink.add_bridge(BRIDGE)?;
        // An address is used at once: nobody else is here to have it.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{BRIDGE}/accept_dad"), "0");
        netlink.add_address(BRIDGE, ADDRESS, 24)?;
        netlink.set_up(BRIDGE)?;
        let folder = folder.canonicalize().context("resolving the rack's folder")?;
        Ok(Rack { folder, kind, nodes: Vec::new(), start: Instant::now() })
    }

    /// Mounts a machine into the rack, switched off.
    pub fn add(&mut self, spec: NodeSpec) -> Result<Arc<Node>> {
        let plain = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'-';
        if spec.name.is_empty() || !spec.name.bytes().all(plain) {
            bail!("node name `{}`: letters, digits and dashes are accepted", spec.name);
        }
        if self.nodes.iter().any(|node| node.name() == spec.name) {
            bail!("the rack has a node `{}` already", spec.name);
        }
        let number = self.nodes.len() + 1;
        let cable = Cable::lay(self.kind, number, BRIDGE)?;
        let folder = self.folder.join(&spec.name);
        let node = Arc::new(Node::new(number, spec, folder, cable, self.start)?);
        self.nodes.push(node.clone());
        Ok(node)
    }

    /// Its nodes, in the order in which they were added.
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Result<&Arc<Node>> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.with_context(|| {
            let names: Vec<_> = self.nodes.iter().map(|node| node.name()).collect();
            format!("no node `{name}` in the rack, it has {}", names.join(", "))
        })
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Which kind of cable it uses.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Since when it stands: consoles count from here.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// How long it has stood.
    pub fn age(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.cut();
        }
        if let Ok(mut netlink) = Netlink::open() {
            let _ = netlink.delete(BRIDGE);
        }
    }
}
