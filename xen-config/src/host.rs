//! Everything that was probed of a node, as plain data.

use serde::{Deserialize, Serialize};

use crate::{Topology, irq::Irqs, link::Links, list::Domain, pci::PciDevice, pool::Pool};

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
    /// What the seed partition says of the next boot (`billet/xen.cfg`), where it can be read.
    pub fragment: Option<String>,
}

/// A hypervisor and its domains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
}
