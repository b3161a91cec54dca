//! One step on the way of a slice, and what it changes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    guid::Guid,
    nic::{Mac, Vlan},
    pci::PciAddress,
    slice::{Held, SliceId},
    sriov::{Pf, Policy, Sriov, Vf, VfSays},
};

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SliceStep {
    /// Loads IPoIB: mlx5 takes GUIDs on its links only.
    Ipoib,
    /// Switches a NIC's own link on, without which its VFs have none.
    Up {
        /// The physical function.
        pf: PciAddress,
        /// Its link.
        link: String,
    },
    /// Keeps drivers of dom0 off VFs that appear: they would start them with an identity that is
    /// none.
    Autoprobe {
        /// The physical function.
        pf: PciAddress,
    },
    /// How many VFs there are. The kernel takes another number than 0 only when there are none.
    Count {
        /// The physical function.
        pf: PciAddress,
        /// So many.
        count: u32,
    },
    /// Writes down, before the first touch, that a slice has a VF.
    Hold {
        /// Which slice, which VF, and who it is.
        held: Held,
    },
    /// Changes a VF.
    Vf {
        /// Whose it is, or was.
        slice: SliceId,
        /// Which VF.
        at: VfPlace,
        /// What is done to it.
        change: VfChange,
    },
    /// Forgets, after the last step back, that a slice had a VF.
    Free {
        /// The slice.
        slice: SliceId,
        /// The VF that it had.
        at: VfPlace,
    },
}

/// A VF, by its physical function and number: its address may be unknown before it is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VfPlace {
    /// The physical function.
    pub pf: PciAddress,
    /// Its number there, from 0.
    pub vf: u32,
}

/// A change of a VF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VfChange {
    /// Takes it from the driver that has it.
    Unbind {
        /// Its driver.
        driver: String,
    },
    /// Makes it forget what its owner did to it.
    Reset,
    /// The GUID of its node. The kernel does one of the two GUIDs in a message.
    NodeGuid {
        /// The GUID.
        guid: Guid,
    },
    /// The GUID of its port.
    PortGuid {
        /// The GUID.
        guid: Guid,
    },
    /// Whether its port is up.
    Policy {
        /// When.
        policy: Policy,
    },
    /// Which place of the port's table of partition keys it sees at `at` (mlx4).
    Pkey {
        /// Its own place.
        at: u32,
        /// The port's place; an empty one for `None`.
        place: Option<u32>,
    },
    /// Its hardware address.
    Mac {
        /// The address.
        mac: Mac,
    },
    /// The VLAN of all of its frames.
    Vlan {
        /// The VLAN; none for `None`.
        vlan: Option<Vlan>,
    },
    /// Whether it may change its address.
    Trust {
        /// Whether.
        trust: bool,
    },
    /// Its limit.
    Rate {
        /// In megabits a second; 0 is none.
        megabits: u32,
    },
    /// The only driver that may have it; any for `None`. With `sriov_drivers_autoprobe` off the
    /// kernel binds nothing else.
    Override {
        /// The driver.
        driver: Option<Binder>,
    },
    /// Gives it to the driver from which guests get it.
    Bind {
        /// The driver.
        driver: Binder,
    },
}

/// The driver from which guests get PCI functions: the hypervisor decides which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Binder {
    /// Xen's.
    #[serde(rename = "pciback")]
    Pciback,
    /// KVM's.
    #[serde(rename = "vfio-pci")]
    VfioPci,
}

impl Binder {
    /// As the kernel calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Binder::Pciback => "pciback",
            Binder::VfioPci => "vfio-pci",
        }
    }
}

impl fmt::Display for Binder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl fmt::Display for VfPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "VF {} of {}", self.vf, self.pf)
    }
}

/// A sentence.
impl fmt::Display for SliceStep {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SliceStep::Ipoib => out.write_str("load ib_ipoib, on whose links GUIDs are set"),
            SliceStep::Up { pf, link } => write!(out, "switch {link}, the link of {pf}, on"),
            SliceStep::Autoprobe { pf } => write!(out, "keep drivers of dom0 off new VFs of {pf}"),
            SliceStep::Count { pf, count: 0 } => write!(out, "take away all VFs of {pf}"),
            SliceStep::Count { pf, count } => write!(out, "cut {pf} into {count} VFs"),
            SliceStep::Hold { held: Held { slice, pf, vf, identity } } => {
                write!(out, "write down that slice {slice} has VF {vf} of {pf}, with {identity}")
            }
            SliceStep::Free { slice, .. } => write!(out, "write down that slice {slice} has no VF"),
            SliceStep::Vf { at, change, .. } => match change {
                VfChange::Unbind { driver } => write!(out, "take {at} from {driver}"),
                VfChange::Reset => write!(out, "reset {at}"),
                VfChange::NodeGuid { guid } => write!(out, "give {at} the node GUID {guid}"),
                VfChange::PortGuid { guid } => write!(out, "give {at} the port GUID {guid}"),
                VfChange::Policy { policy: Policy::Follow } => {
                    write!(out, "let the port of {at} follow the physical one")
                }
                VfChange::Policy { policy: Policy::Up } => write!(out, "keep the port of {at} up"),
                VfChange::Policy { policy: Policy::Down } => {
                    write!(out, "keep the port of {at} down")
                }
                VfChange::Pkey { at: own, place: Some(place) } => {
                    write!(out, "show {at} at {own} the partition key at {place}")
                }
                VfChange::Pkey { at: own, place: None } => {
                    write!(out, "show {at} no partition key at {own}")
                }
                VfChange::Mac { mac } => write!(out, "give {at} the MAC {mac}"),
                VfChange::Vlan { vlan: Some(vlan) } => write!(out, "put {at} into VLAN {vlan}"),
                VfChange::Vlan { vlan: None } => write!(out, "take {at} out of its VLAN"),
                VfChange::Trust { trust: true } => write!(out, "trust {at}"),
                VfChange::Trust { trust: false } => write!(out, "trust {at} no longer"),
                VfChange::Rate { megabits: 0 } => write!(out, "take the limit off {at}"),
                VfChange::Rate { megabits } => write!(out, "limit {at} to {megabits}Mb/s"),
                VfChange::Override { driver: Some(driver) } => {
                    write!(out, "let only {driver} have {at}")
                }
                VfChange::Override { driver: None } => write!(out, "let any driver have {at}"),
                VfChange::Bind { driver } => write!(out, "give {at} to {driver}"),
            },
        }
    }
}

impl SliceStep {
    /// What holds once it is done.
    pub fn done(&self, sriov: &mut Sriov, held: &mut Vec<Held>) {
        match self {
            SliceStep::Ipoib => sriov.ipoib = true,
            SliceStep::Up { pf, .. } => {
                sriov.change(pf, |pf| pf.links.iter_mut().for_each(|link| link.down = false));
            }
            SliceStep::Autoprobe { pf } => {
                sriov.change(pf, |pf| pf.autoprobe = Some(false));
            }
            SliceStep::Count { pf, count } => sriov.change(pf, |pf| cut(pf, *count)),
            SliceStep::Hold { held: new } => {
                held.retain(|had| had.slice != new.slice);
                held.push(new.clone());
            }
            SliceStep::Free { slice, .. } => held.retain(|had| had.slice != *slice),
            SliceStep::Vf { at, change, .. } => sriov.change(&at.pf, |pf| {
                if let Some(vf) = pf.vfs.iter_mut().find(|vf| vf.number == at.vf) {
                    change.done(vf);
                }
            }),
        }
    }
}

fn cut(pf: &mut Pf, count: u32) {
    pf.vfs.clear();
    pf.count = count;
    let vfs = (0..count).filter_map(|number| {
        let address = pf.vf_address(number)?;
        let says = VfSays::default();
        Some(Vf { number, address, driver: None, only: None, iommu_group: None, says })
    });
    pf.vfs = vfs.collect();
}

impl VfSays {
    /// What makes a VF say this: the inverse of `VfChange::done`, without places of keys, which
    /// are a matter of sysfs.
    pub fn changes(&self) -> Vec<VfChange> {
        let mut changes = Vec::new();
        changes.extend(self.node.map(|guid| VfChange::NodeGuid { guid }));
        changes.extend(self.port.map(|guid| VfChange::PortGuid { guid }));
        changes.extend(self.policy.map(|policy| VfChange::Policy { policy }));
        changes.extend(self.mac.clone().map(|mac| VfChange::Mac { mac }));
        let vlan = self.vlan.map(|number| Vlan::try_from(number).ok());
        changes.extend(vlan.map(|vlan| VfChange::Vlan { vlan }));
        changes.extend(self.trust.map(|trust| VfChange::Trust { trust }));
        changes.extend(self.rate.map(|megabits| VfChange::Rate { megabits }));
        changes
    }
}

impl VfChange {
    fn done(&self, vf: &mut Vf) {
        match self {
            VfChange::Unbind { .. } => vf.driver = None,
            VfChange::Reset => {}
            VfChange::NodeGuid { guid } => vf.says.node = Some(*guid),
            VfChange::PortGuid { guid } => vf.says.port = Some(*guid),
            VfChange::Policy { policy } => vf.says.policy = Some(*policy),
            VfChange::Pkey { at, place } => {
                let at = *at as usize;
                let length = vf.says.pkeys.len().max(at + 1);
                vf.says.pkeys.resize(length, None);
                vf.says.pkeys[at] = *place;
            }
            VfChange::Mac { mac } => vf.says.mac = Some(mac.clone()),
            VfChange::Vlan { vlan } => {
                vf.says.vlan = Some(vlan.map_or(0, |vlan| vlan.number().into()));
            }
            VfChange::Trust { trust } => vf.says.trust = Some(*trust),
            VfChange::Rate { megabits } => vf.says.rate = Some(*megabits),
            VfChange::Override { driver } => {
                vf.only = driver.map(|driver| driver.name().to_owned());
            }
            VfChange::Bind { driver } => vf.driver = Some(driver.name().to_owned()),
        }
    }
}

impl Sriov {
    fn change(&mut self, pf: &PciAddress, change: impl FnOnce(&mut Pf)) {
        if let Some(pf) = self.pfs.iter_mut().find(|known| known.address == *pf) {
            change(pf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_vf_says_becomes_of_its_changes() {
        let infiniband = VfSays {
            node: "02:10:00:00:00:00:01:07".parse().ok(),
            port: "02:20:00:00:00:00:02:07".parse().ok(),
            policy: Some(Policy::Follow),
            ..VfSays::default()
        };
        let ethernet = |vlan| VfSays {
            mac: "02:00:00:00:00:01".parse().ok(),
            vlan: Some(vlan),
            trust: Some(true),
            rate: Some(100),
            ..VfSays::default()
        };
        for says in [infiniband, ethernet(0), ethernet(100), VfSays::default()] {
            let address = "3b:00.1".parse().unwrap();
            let (driver, only, iommu_group) = (None, None, None);
            let fresh = VfSays::default();
            let mut vf = Vf { number: 0, address, driver, only, iommu_group, says: fresh };
            says.changes().iter().for_each(|change| change.done(&mut vf));
            assert_eq!(vf.says, says);
        }
    }
}
