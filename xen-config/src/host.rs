//! Everything that was probed of a node, as plain data.

use serde::{Deserialize, Serialize};

use crate::{
    Name, Topology,
    irq::Irqs,
    link::Links,
    list::{Domain, Ending},
    pci::{PciAddress, PciDevice},
    pool::Pool,
    slice::Held,
    sriov::Sriov,
};

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// Who it is; UUIDs and hardware addresses of guests are derived from it.
    pub node: String,
    /// The hypervisor, where there is one.
    pub xen: Option<Xen>,
    /// Links, addresses and routes.
    pub links: Links,
    /// Interrupts of the service domain.
    pub irqs: Irqs,
    /// PCI functions.
    pub pci: Vec<PciDevice>,
    /// Physical functions and their VFs.
    pub sriov: Sriov,
    /// VFs that slices have, as the agent remembers.
    pub held: Vec<Held>,
    /// What the seed partition says of the next boot (`billet/xen.cfg`), where it can be read.
    pub fragment: Option<String>,
    /// Guests whose memory is in a file.
    pub saved: Vec<Name>,
    /// Guests that ended by themselves, as the agent remembers.
    pub ended: Vec<Ended>,
}

/// A guest that ended by itself since the node was booted, and was not asked for anew since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Who.
    pub guest: Name,
    /// Why.
    pub ending: Ending,
    /// Whether it is too early to start it again.
    #[serde(default)]
    pub wait: bool,
}

impl Host {
    /// NUMA nodes of NICs and HCAs, those with the most of them first. VFs do not count: the service
    /// domain must not move because a card was cut.
    pub fn near(&self) -> Vec<u32> {
        let vfs = || self.sriov.pfs.iter().flat_map(|pf| &pf.vfs);
        let is_vf = |address: &PciAddress| vfs().any(|vf| vf.address == *address);
        let network = self.pci.iter().filter(|it| it.is_network() && !is_vf(&it.address));
        let nodes: Vec<u32> = network.filter_map(|device| device.node).collect();
        let mut order = nodes.clone();
        order.sort_unstable();
        order.dedup();
        let count = |node: &u32| nodes.iter().filter(|other| *other == node).count();
        order.sort_by_key(|node| std::cmp::Reverse(count(node)));
        order
    }
}

/// A hypervisor and its domains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Xen {
    /// `4.17.7`
    pub version: String,
    /// Its command line.
    pub command_line: String,
    /// CPUs and memory.
    pub topology: Topology,
    /// CPU pools.
    pub pools: Vec<Pool>,
    /// All domains, the service domain among them.
    pub domains: Vec<Domain>,
    /// PCI functions that dom0 has let go of, for guests.
    pub assignable: Vec<PciAddress>,
}
