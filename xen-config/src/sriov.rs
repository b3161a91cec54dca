//! SR-IOV as a node has it: physical functions and the VFs that they were cut into.
//!
//! Attributes are those of Linux's Documentation/ABI/testing/sysfs-bus-pci and
//! sysfs-class-infiniband; where a driver says nothing there is nothing.

use serde::{Deserialize, Serialize};

use crate::{fabric::LinkLayer, guid::Guid, nic::Mac, pci::PciAddress, pkey::Pkey};

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sriov {
    /// Physical functions that can be cut, by address.
    pub pfs: Vec<Pf>,
    /// Whether IPoIB is loaded: without it mlx5 has no link on which GUIDs could be set.
    pub ipoib: bool,
    /// Verbs devices of none of these functions: cards that cannot be cut, soft-RoCE.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<RdmaDevice>,
}

/// A physical function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pf {
    /// Where it sits.
    pub address: PciAddress,
    /// Its driver.
    #[serde(default)]
    pub driver: Option<String>,
    /// Its NUMA node, where the firmware says.
    #[serde(default)]
    pub node: Option<u32>,
    /// Its IOMMU group; a Xen dom0 sees none.
    #[serde(default)]
    pub iommu_group: Option<u32>,
    /// So many VFs its firmware has (`sriov_totalvfs`).
    pub total: u32,
    /// So many there are (`sriov_numvfs`).
    pub count: u32,
    /// Whether VFs are bound to a driver as soon as they appear.
    #[serde(default)]
    pub autoprobe: Option<bool>,
    /// Routing number of the first VF, counted from the function's own (`sriov_offset`).
    #[serde(default)]
    pub offset: u32,
    /// From one VF to the next (`sriov_stride`).
    #[serde(default)]
    pub stride: u32,
    /// Its links in dom0.
    #[serde(default)]
    pub links: Vec<PfLink>,
    /// Its InfiniBand device; RoCE has one too.
    #[serde(default)]
    pub device: Option<RdmaDevice>,
    /// How identities of its VFs are set.
    #[serde(default)]
    pub way: Option<Way>,
    /// Its VFs, by number.
    #[serde(default)]
    pub vfs: Vec<Vf>,
}

/// A link of a physical function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PfLink {
    /// `ens1`, `ib0`
    pub name: String,
    /// What travels on it: its type is 32 or 1 (linux/if_arp.h).
    pub link: LinkLayer,
    /// Whether it is switched off: VFs of most NICs have no link then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub down: bool,
}

/// An InfiniBand device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaDevice {
    /// `mlx5_0`
    pub name: String,
    /// Its own GUID.
    #[serde(default)]
    pub guid: Option<Guid>,
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<RdmaPort>,
}

/// A port of an InfiniBand device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaPort {
    /// Its number, from 1.
    pub port: u32,
    /// What travels through it.
    pub link: LinkLayer,
    /// `ACTIVE`, `INIT`, `DOWN`
    #[serde(default)]
    pub state: String,
    /// `100 Gb/sec (4X EDR)`
    #[serde(default)]
    pub rate: String,
    /// Its local identifier; 0 before a subnet manager gave one.
    #[serde(default)]
    pub lid: u32,
    /// That of the subnet manager.
    #[serde(default)]
    pub sm_lid: u32,
    /// Its own GUID.
    #[serde(default)]
    pub guid: Option<Guid>,
    /// Its table of partition keys, without empty places at the end.
    #[serde(default)]
    pub pkeys: Vec<Option<Pkey>>,
}

/// How identities of VFs are set on a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By rtnetlink on the function's link: upstream mlx5 (an IPoIB link), and every Ethernet
    /// driver.
    Netlink,
    /// By the vendor's driver of mlx5: `device/sriov/<vf>/{node,port,policy}`.
    Vendor,
    /// By mlx4: `iov/ports/<port>/admin_guids/<index>` and `iov/<vf>/ports/<port>/pkey_idx/<i>`.
    Mlx4,
}

/// Whether a VF's port is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// As the physical port is.
    Follow,
    /// Always.
    Up,
    /// Never.
    Down,
}

/// A VF. What the driver does not tell is `None`, a GUID or MAC that is not set too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vf {
    /// Its number, from 0.
    pub number: u32,
    /// Where it sits.
    pub address: PciAddress,
    /// The driver bound to it in dom0.
    #[serde(default)]
    pub driver: Option<String>,
    /// The only driver that may be bound to it (`driver_override`).
    #[serde(default, rename = "override")]
    pub only: Option<String>,
    /// Its IOMMU group.
    #[serde(default)]
    pub iommu_group: Option<u32>,
    /// What the device says of its identity.
    #[serde(default)]
    pub says: VfSays,
}

/// What a device says of a VF's identity. It is compared, and never taken for the truth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VfSays {
    /// Whether it tells GUIDs: one that is not set is told apart from silence.
    pub guids: bool,
    /// The node's.
    pub node: Option<Guid>,
    /// The port's.
    pub port: Option<Guid>,
    /// Whether its port is up.
    pub policy: Option<Policy>,
    /// The hardware address.
    pub mac: Option<Mac>,
    /// The VLAN; 0 is none.
    pub vlan: Option<u32>,
    /// Whether it may change its address.
    pub trust: Option<bool>,
    /// Its limit in megabits a second; 0 is none.
    pub rate: Option<u32>,
    /// Which places of the port's table it sees as its own (mlx4).
    pub pkeys: Vec<Option<u32>>,
}

impl Policy {
    /// As the vendor's driver spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Follow => "Follow",
            Policy::Up => "Up",
            Policy::Down => "Down",
        }
    }
}

impl Sriov {
    /// The physical function at `address`.
    pub fn pf(&self, address: &PciAddress) -> Option<&Pf> {
        self.pfs.iter().find(|pf| pf.address == *address)
    }

    /// The physical function whose VF sits, or would sit, at `address`, and the VF's number.
    pub fn owner(&self, address: &PciAddress) -> Option<(&Pf, u32)> {
        self.pfs.iter().find_map(|pf| {
            let number = (0..pf.total.max(pf.count))
                .find(|number| pf.vf_address(*number).as_ref() == Some(address))?;
            Some((pf, number))
        })
    }
}

impl Pf {
    /// What travels on it, where that can be told.
    pub fn link(&self) -> Option<LinkLayer> {
        let port = self.port().map(|port| port.link);
        port.or_else(|| self.links.first().map(|link| link.link))
    }

    /// The port whose slices are given away: the first one with InfiniBand, else the first one.
    pub fn port(&self) -> Option<&RdmaPort> {
        let ports = &self.device.as_ref()?.ports;
        ports.iter().find(|port| port.link == LinkLayer::InfiniBand).or(ports.first())
    }

    /// VF `number`, when it is there.
    pub fn vf(&self, number: u32) -> Option<&Vf> {
        self.vfs.iter().find(|vf| vf.number == number)
    }

    /// Where VF `number` sits, or will once it is there.
    ///
    /// A VF that is not there yet is reckoned from the function's own routing number (PCI Express,
    /// 9.3.3.9): bus, device and function as one number. `None` where firmware gives no stride.
    pub fn vf_address(&self, number: u32) -> Option<PciAddress> {
        if let Some(vf) = self.vf(number) {
            return Some(vf.address.clone());
        }
        if self.offset == 0 || self.stride == 0 && number > 0 {
            return None;
        }
        self.address.after(self.offset.checked_add(self.stride.checked_mul(number)?)?)
    }

    /// How people call it: by its device or link, else by its address.
    pub fn called(&self) -> &str {
        let device = self.device.as_ref().map(|device| device.name.as_str());
        let link = self.links.first().map(|link| link.name.as_str());
        device.or(link).unwrap_or(self.address.as_str())
    }

    /// Whether its firmware is set by mstconfig.
    pub fn is_mellanox(&self) -> bool {
        self.driver.as_deref().is_some_and(|driver| driver.starts_with("mlx"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pf(address: &str, offset: u32, stride: u32) -> Pf {
        let json = format!(
            "{{\"address\": \"{address}\", \"total\": 8, \"count\": 0, \"offset\": {offset}, \"stride\": {stride}}}"
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn addresses_are_reckoned_as_the_kernel_does() {
        // samples of QEMU: igb has 128 and 2, NVMe 1 and 1.
        let igb = pf("0000:01:00.0", 128, 2);
        let each: Vec<String> =
            (0..4).map(|number| igb.vf_address(number).unwrap().to_string()).collect();
        assert_eq!(each, ["0000:01:10.0", "0000:01:10.2", "0000:01:10.4", "0000:01:10.6"]);
        let nvme = pf("0000:02:00.0", 1, 1);
        assert_eq!(nvme.vf_address(1).unwrap().as_str(), "0000:02:00.2");
        let far = pf("0000:3b:00.0", 256, 1);
        assert_eq!(far.vf_address(3).unwrap().as_str(), "0000:3c:00.3");
        assert_eq!(pf("0000:01:00.0", 0, 0).vf_address(0), None);
        assert_eq!(pf("0000:ff:1f.7", 1, 1).vf_address(0), None);
        let both = Sriov { pfs: vec![igb, nvme], ..Sriov::default() };
        let (owner, number) = both.owner(&"01:10.4".parse().unwrap()).unwrap();
        assert_eq!((owner.address.as_str(), number), ("0000:01:00.0", 2));
    }
}
