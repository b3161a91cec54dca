//! Everything that was probed of a node, as plain data.

use serde::{Deserialize, Serialize};

use crate::{
    Name, Topology,
    irq::Irqs,
    link::Links,
    list::{Domain, Ending},
    pci::{self, PciAddress, PciDevice},
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
    /// The command line that the service domain's Linux was booted with, where it is known.
    pub command_line: Option<String>,
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
    /// NUMA nodes of NICs and HCAs ([`pci::near`]). VFs do not count: the service domain must not
    /// move because a card was cut.
    pub fn near(&self) -> Vec<u32> {
        let whole = self.pci.iter().filter(|device| !self.is_vf(&device.address));
        pci::near(whole.map(|device| (device.class.as_str(), device.node)))
    }

    /// Whether it is a part of a card.
    pub(crate) fn is_vf(&self, address: &PciAddress) -> bool {
        self.sriov.pfs.iter().flat_map(|pf| &pf.vfs).any(|vf| vf.address == *address)
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
