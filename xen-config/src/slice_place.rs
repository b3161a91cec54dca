//! Which VF for which slice: what one has it keeps, then near its guest's CPUs, then spread.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    CpuSet, Desired, Host,
    domain::Guest,
    fabric::Fabric,
    list::Domain,
    pci::PciAddress,
    service::ServicePlan,
    slice::{Held, Slice},
    slice_step::{Binder, VfPlace},
    sriov::{Pf, Sriov},
};

/// A node on which slices are planned.
#[derive(Debug, Clone, Copy)]
pub struct SliceSite<'a> {
    /// What it should be.
    pub desired: &'a Desired,
    /// What it is.
    pub host: &'a Host,
    /// Who runs where, when there is a hypervisor.
    pub service: Option<&'a ServicePlan>,
}

impl<'a> SliceSite<'a> {
    /// The driver from which guests get VFs here.
    pub fn binder(&self) -> Binder {
        if self.host.xen.is_some() { Binder::Pciback } else { Binder::VfioPci }
    }

    /// The domain that has the function at `address`.
    pub fn user(&self, address: &PciAddress) -> Option<&'a Domain> {
        let domains = self.host.xen.iter().flat_map(|xen| &xen.domains);
        let has =
            |domain: &&Domain| domain.made.as_ref().is_some_and(|made| made.pci.contains(address));
        domains.into_iter().filter(|domain| domain.id != 0).find(has)
    }

    /// The fabric that cuts `pf`.
    pub fn fabric_of(&self, pf: &PciAddress) -> Option<&'a Fabric> {
        let cuts = |fabric: &&Fabric| {
            fabric.pfs_of(&self.host.sriov).iter().any(|known| known.address == *pf)
        };
        self.desired.fabrics.iter().find(cuts)
    }

    /// Who of others has VF `number` of `pf` in use, in words: nobody of us may touch it.
    ///
    /// A VF that waits with the binder and that no slice has was left behind by an agent whose
    /// memory is gone.
    pub fn stranger(&self, pf: &Pf, number: u32) -> Option<String> {
        let vf = pf.vf(number)?;
        let driver = vf.driver.as_deref().filter(|driver| *driver != self.binder().name());
        if let Some(driver) = driver {
            return Some(format!("VF {number} ({}, driver {driver})", vf.address));
        }
        let domain = self.user(&vf.address)?;
        let guest = self.desired.guests.iter().find(|guest| guest.name.as_str() == domain.name);
        let slices = guest.is_some_and(|guest| !guest.slices.is_empty());
        let held = self.host.held.iter().any(|held| held.pf == pf.address && held.vf == number);
        let ours = held || slices;
        (!ours).then(|| format!("VF {number} (domain {})", domain.name))
    }

    /// NUMA nodes of the CPUs that `guest` runs on; none when it may run on all.
    fn nodes(&self, guest: Option<&Guest>) -> CpuSet {
        let Some((xen, service)) = self.host.xen.as_ref().zip(self.service) else {
            return CpuSet::default();
        };
        let own = guest.into_iter().flat_map(|guest| guest.cpus.iter().chain(&guest.pins));
        let own = own.fold(CpuSet::default(), |all, cpus| all.or(cpus));
        let cpus = if own.is_empty() { service.guests.clone() } else { own };
        let nodes = xen.topology.cpus.iter().filter(|cpu| cpus.contains(cpu.cpu));
        nodes.map(|cpu| cpu.node).collect()
    }
}

/// The VF of each of `slices`, in their order; `None` for one that must wait until another is
/// given back. `sriov` and `held` are facts as they are once everything that is not desired
/// has been given back.
pub fn places(
    slices: &[&Slice<'_>],
    site: SliceSite<'_>,
    sriov: &Sriov,
    held: &[Held],
) -> Vec<Option<VfPlace>> {
    let mut taken: BTreeSet<VfPlace> = BTreeSet::new();
    // What others hold on to, and what slices had that are still with their guests.
    let reserved = held.iter().map(|held| VfPlace { pf: held.pf.clone(), vf: held.vf });
    let reserved: BTreeSet<VfPlace> = reserved.collect();
    let mut places: Vec<Option<VfPlace>> = Vec::new();
    for slice in slices {
        let place = kept(slice, site, held).filter(|place| !taken.contains(place));
        let place = place.or_else(|| found(slice, site, &taken, &reserved));
        taken.extend(place.clone());
        places.push(place);
    }
    let mut loads: BTreeMap<PciAddress, usize> = BTreeMap::new();
    for place in &taken {
        *loads.entry(place.pf.clone()).or_default() += 1;
    }
    for (slice, place) in slices.iter().zip(&mut places).filter(|(_, place)| place.is_none()) {
        *place = chosen(slice, site, sriov, &loads, |place| {
            !taken.contains(place) && !reserved.contains(place)
        });
        if let Some(place) = place {
            *loads.entry(place.pf.clone()).or_default() += 1;
            taken.insert(place.clone());
        }
    }
    places
}

/// The VF that it has.
fn kept(slice: &Slice<'_>, site: SliceSite<'_>, held: &[Held]) -> Option<VfPlace> {
    let held = held.iter().find(|held| held.slice == slice.id)?;
    let place = VfPlace { pf: held.pf.clone(), vf: held.vf };
    is_of(slice, site, &place).then_some(place)
}

/// A VF that its guest runs with although the agent has no memory of it.
fn found(
    slice: &Slice<'_>,
    site: SliceSite<'_>,
    taken: &BTreeSet<VfPlace>,
    reserved: &BTreeSet<VfPlace>,
) -> Option<VfPlace> {
    let guest = slice.guest?;
    let domains = site.host.xen.iter().flat_map(|xen| &xen.domains);
    let domain = domains.into_iter().find(|domain| domain.name == guest.name.as_str())?;
    let functions = domain.made.as_ref()?.pci.iter().filter(|it| !guest.pci.contains(it));
    let places = functions.filter_map(|address| {
        let (pf, vf) = site.host.sriov.owner(address)?;
        Some(VfPlace { pf: pf.address.clone(), vf })
    });
    let free = |place: &VfPlace| !taken.contains(place) && !reserved.contains(place);
    places.into_iter().find(|place| free(place) && is_of(slice, site, place))
}

/// Whether a VF is of the slice's fabric.
fn is_of(slice: &Slice<'_>, site: SliceSite<'_>, place: &VfPlace) -> bool {
    let fabric = site.desired.fabrics.iter().find(|fabric| fabric.name == slice.wish.fabric);
    fabric.is_some_and(|fabric| {
        let pfs = fabric.pfs_of(&site.host.sriov);
        pfs.iter().any(|pf| pf.address == place.pf && place.vf < fabric.vfs_of(pf))
    })
}

fn chosen(
    slice: &Slice<'_>,
    site: SliceSite<'_>,
    sriov: &Sriov,
    loads: &BTreeMap<PciAddress, usize>,
    is_free: impl Fn(&VfPlace) -> bool,
) -> Option<VfPlace> {
    let fabric = site.desired.fabrics.iter().find(|fabric| fabric.name == slice.wish.fabric)?;
    let nodes = site.nodes(slice.guest);
    let mut best: Option<((bool, usize), VfPlace)> = None;
    for pf in fabric.pfs_of(sriov) {
        let far = pf.node.is_some_and(|node| !nodes.is_empty() && !nodes.contains(node));
        let load = loads.get(&pf.address).copied().unwrap_or_default();
        let places = (0..fabric.vfs_of(pf)).map(|vf| VfPlace { pf: pf.address.clone(), vf });
        let place = places
            .into_iter()
            .find(|place| is_free(place) && site.stranger(pf, place.vf).is_none());
        // The first of equals stays: the order of the fabric's functions.
        if let Some(place) = place
            && best.as_ref().is_none_or(|(rank, _)| (far, load) < *rank)
        {
            best = Some(((far, load), place));
        }
    }
    best.map(|(_, place)| place)
}
