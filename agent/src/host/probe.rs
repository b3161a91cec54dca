//! Everything that there is to know of the node, once, as plain data.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use xen_config::{
    Host, Name, Topology, Xen,
    list::{self, Domain},
    pci::{PciAddress, PciDevice},
    pool, topology,
};

use super::{endings::Endings, folder::Folder, fragment, guest, network, slice::Memory, sriov};
use crate::{
    sys::{irq, xl::Xl},
    sysfs::Sysfs,
};

/// Where facts come from.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    /// `/`, or a captured tree.
    pub(crate) root: std::path::PathBuf,
    /// Who the node is.
    pub(crate) node: String,
    /// The agent's memory, on the node itself.
    pub(crate) folder: Option<Folder>,
}

impl Probe {
    /// All facts.
    pub(crate) fn host(&self, endings: Option<&Endings>) -> Result<Host> {
        let sysfs = Sysfs::at(&self.root);
        let xl = Xl::at(&self.root);
        let live = self.root == Path::new("/");
        let links = network::probe(&self.root).context("probing the network")?;
        let info =
            xl.is_there(&sysfs).then(|| xl.ask("info-n", &["xl", "info", "-n"])).transpose()?;
        let nodes = info.as_deref().map(topology::devices).unwrap_or_default();
        let mut xen = info.map(|info| xen(&xl, &info)).transpose()?;
        for domain in xen.iter_mut().flat_map(|xen| &mut xen.domains) {
            vlans(domain, &links);
        }
        let mut sriov = sriov::probe(&self.root).context("probing VFs")?;
        for pf in &mut sriov.pfs {
            pf.node = nodes.get(&pf.address).copied().or(pf.node);
        }
        let seed = fragment::partition().filter(|_| live);
        Ok(Host {
            node: self.node.clone(),
            irqs: xen.as_ref().map(|_| irq::probe(&sysfs)).unwrap_or_default(),
            xen,
            links,
            pci: pci(&sysfs, &nodes),
            sriov,
            held: self.folder.as_ref().map(Memory::read).transpose()?.unwrap_or_default().held(),
            command_line: sysfs.text("proc/cmdline"),
            fragment: seed.and_then(|seed| fragment::read(&seed).ok()),
            saved: self.folder.iter().flat_map(saved).collect(),
            ended: endings.map(Endings::facts).unwrap_or_default(),
        })
    }
}

/// The hypervisor and its domains.
fn xen(xl: &Xl, info: &str) -> Result<Xen> {
    let of = |key: &str| {
        let line =
            info.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let pools = xl.ask("cpupool-list", &["xl", "cpupool-list"])?;
    let pool_cpus = xl.ask("cpupool-list-c", &["xl", "cpupool-list", "-c"])?;
    let assignable = xl.ask("pci-assignable-list", &["xl", "pci-assignable-list"]);
    let functions = assignable.unwrap_or_default();
    Ok(Xen {
        version: of("xen_version"),
        command_line: of("xen_commandline"),
        topology: Topology::parse(info),
        pools: pool::parse(&pools, &pool_cpus)?,
        domains: domains(xl)?,
        assignable: functions.lines().filter_map(|line| line.trim().parse().ok()).collect(),
    })
}

/// Which domains there are and what they do, at the price of one program.
pub(crate) fn look(xl: &Xl) -> Result<Vec<Domain>> {
    Ok(list::parse(&xl.ask("list-v-c", &["xl", "list", "-v", "-c"])?, "", "")?)
}

/// All domains, and what xenstore says of their NICs.
fn domains(xl: &Xl) -> Result<Vec<Domain>> {
    let list = xl.ask("list-v-c", &["xl", "list", "-v", "-c"])?;
    let vcpus = xl.ask("vcpu-list", &["xl", "vcpu-list"])?;
    let made = xl.ask("list-l", &["xl", "list", "-l"])?;
    let mut domains = list::parse(&list, &vcpus, &made)?;
    // There is no such key before the first NIC.
    let vifs = xl.ask("xenstore-vif", &["xenstore-ls", "-f", guest::VIFS]).unwrap_or_default();
    for domain in &mut domains {
        let id = domain.id;
        for nic in domain.made.iter_mut().flat_map(|made| &mut made.nics) {
            nic.rate = rate(&vifs, id, nic.number);
        }
    }
    Ok(domains)
}

/// `/local/domain/0/backend/vif/1/0/rate = "62500,50000"`
fn rate(vifs: &str, domain: u32, number: u32) -> Option<String> {
    let key = format!("{}/{domain}/{number}/rate", guest::VIFS);
    let line = vifs.lines().find_map(|line| line.strip_prefix(&key)?.trim().strip_prefix('='))?;
    Some(line.trim().trim_matches('"').to_owned())
}

/// The VLAN of each NIC's untagged frames, as its port has it.
fn vlans(domain: &mut Domain, links: &xen_config::link::Links) {
    let id = domain.id;
    for nic in domain.made.iter_mut().flat_map(|made| &mut made.nics) {
        nic.vlan = guest::port(id, nic.number).ok().and_then(|port| {
            let vlans = links.links.get(&port)?.vlans.as_ref()?;
            vlans.pvid
        });
    }
}

/// PCI functions; Xen's word for their NUMA `nodes` counts, where it has one.
fn pci(sysfs: &Sysfs, nodes: &BTreeMap<PciAddress, u32>) -> Vec<PciDevice> {
    let folder = "sys/bus/pci/devices";
    let device = |name: &String| {
        let at = |attribute: &str| format!("{folder}/{name}/{attribute}");
        let class = sysfs.text(at("class")).unwrap_or_default();
        let address: PciAddress = name.parse().ok()?;
        Some(PciDevice {
            class: class.trim_start_matches("0x").to_owned(),
            driver: sysfs.link(at("driver")),
            // -1 where the firmware does not say, and always in a PV domain.
            node: nodes.get(&address).copied().or_else(|| sysfs.value(at("numa_node"))),
            address,
        })
    };
    sysfs.list(folder).iter().filter_map(device).collect()
}

/// Guests whose memory is in a file.
fn saved(folder: &Folder) -> Vec<Name> {
    let names = folder.names();
    names.iter().filter_map(|name| name.strip_suffix(guest::SAVED)?.parse().ok()).collect()
}
