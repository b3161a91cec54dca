//! Why slices cannot be as desired, and what would fit.

use serde::{Deserialize, Serialize};

use crate::{
    Name,
    fabric::{FabricName, LinkLayer},
    guid::Guid,
    nic::{Mac, Rate},
    pci::PciAddress,
    slice::SliceId,
};

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum SliceRefusal {
    /// No such fabric.
    #[error("slice {slice}: there is no fabric {fabric}{}", there_is(.known))]
    NoFabric {
        /// Whose slice.
        slice: SliceId,
        /// What it asks for.
        fabric: FabricName,
        /// Those that are named.
        known: Vec<String>,
    },
    /// The same name or function twice.
    #[error("{what} is in fabric {first} and in fabric {second}: one of them")]
    Twice {
        /// The function.
        what: String,
        /// Who has it.
        first: FabricName,
        /// Who has it too.
        second: FabricName,
    },
    /// No such physical function.
    #[error("fabric {fabric}: {name} can not be cut into VFs{}", there_is(.known))]
    NoPf {
        /// Which fabric.
        fabric: FabricName,
        /// What it names.
        name: String,
        /// Those that can.
        known: Vec<String>,
    },
    /// Firmware that offers none.
    #[error("fabric {fabric}: the firmware of {pf} offers no VFs: {}", firmware(.pf, *.mellanox, "n"))]
    NoVfs {
        /// Which fabric.
        fabric: FabricName,
        /// The function.
        pf: PciAddress,
        /// Whether mstconfig sets its firmware.
        mellanox: bool,
    },
    /// More than the firmware offers.
    #[error(
        "fabric {fabric}: {asked} VFs asked of {pf}, its firmware offers {most}: vfs = {most}, or {}",
        firmware(.pf, *.mellanox, .asked)
    )]
    Count {
        /// Which fabric.
        fabric: FabricName,
        /// The function.
        pf: PciAddress,
        /// How many are asked for.
        asked: u32,
        /// How many there can be.
        most: u32,
        /// Whether mstconfig sets its firmware.
        mellanox: bool,
    },
    /// A change while somebody uses a VF.
    #[error(
        "fabric {fabric}: {pf} has {had} VFs and {asked} are asked for; the count changes only \
         through 0, and in use are {}: vfs = {had}, or end these first",
        .users.join(", ")
    )]
    InUse {
        /// Which fabric.
        fabric: FabricName,
        /// The function.
        pf: PciAddress,
        /// How many there are.
        had: u32,
        /// How many are asked for.
        asked: u32,
        /// Who uses which.
        users: Vec<String>,
    },
    /// More slices than VFs.
    #[error("{asked} slices of fabric {fabric} asked, {most} is what it has for them{}", but(.others))]
    TooFew {
        /// Which fabric.
        fabric: FabricName,
        /// How many are asked for.
        asked: u32,
        /// How many would fit.
        most: u32,
        /// Who has the others.
        others: Vec<String>,
    },
    /// A function of the other kind.
    #[error(
        "fabric {fabric}: {pf} is {} and not {}: {}",
        .is.name(), .asked.name(), link_help(*.is, .pf, *.mellanox)
    )]
    Link {
        /// Which fabric.
        fabric: FabricName,
        /// The function.
        pf: PciAddress,
        /// What it should be.
        asked: LinkLayer,
        /// What it is.
        is: LinkLayer,
        /// Whether mstconfig sets its firmware.
        mellanox: bool,
    },
    /// A driver that takes no identities.
    #[error(
        "fabric {fabric}: nobody knows how VFs of {pf} get their identity from driver {driver}: \
         mlx5_core, mlx4_core and drivers of Ethernet cards do"
    )]
    NoWay {
        /// Which fabric.
        fabric: FabricName,
        /// The function.
        pf: PciAddress,
        /// Its driver.
        driver: String,
    },
    /// Something that this kind of slice does not have.
    #[error("slice {slice}: {key} is for slices of {}: {help}", .on.name())]
    Key {
        /// Whose slice.
        slice: SliceId,
        /// What it asks for.
        key: String,
        /// Where there is such a thing.
        on: LinkLayer,
        /// What would do instead.
        help: String,
    },
    /// A rate between two megabits.
    #[error(
        "slice {slice}: rate = {rate}, and NICs limit their VFs in whole megabits: {below}Mb/s or more"
    )]
    Rate {
        /// Whose slice.
        slice: SliceId,
        /// What it asks for.
        rate: Rate,
        /// What would do.
        below: u64,
    },
    /// A GUID that somebody else has.
    #[error("slice {slice}: GUID {guid} is that of {by}: another one, or none, and one is derived")]
    Guid {
        /// Whose slice.
        slice: SliceId,
        /// What it asks for.
        guid: Guid,
        /// Who has it.
        by: String,
    },
    /// An address that somebody else has.
    #[error("slice {slice}: MAC {mac} is that of {by}: another one, or none, and one is derived")]
    Mac {
        /// Whose slice.
        slice: SliceId,
        /// What it asks for.
        mac: Mac,
        /// Who has it.
        by: String,
    },
    /// One partition in two ways.
    #[error("slice {slice}: partition {partition:#06x} is named twice: full or limited")]
    Partition {
        /// Whose slice.
        slice: SliceId,
        /// The partition.
        partition: u16,
    },
    /// A guest that cannot have PCI functions.
    #[error("guest {guest}: Xen gives PCI functions to type = \"pv\" and \"hvm\", this is \"pvh\"")]
    Pvh {
        /// Who.
        guest: Name,
    },
    /// A guest that cannot be saved.
    #[error("guest {guest}: a guest with a slice cannot be saved: running, paused or stopped")]
    Saved {
        /// Who.
        guest: Name,
    },
    /// A service domain that cannot give PCI functions away.
    #[error(
        "slices are asked for, and a PVH dom0 passes no PCI functions on: boot Xen without dom0=pvh"
    )]
    PvhDom0,
    /// A VF that is asked for by its address.
    #[error(
        "guest {guest}: PCI device {device} is a VF of fabric {fabric}: slice = {{ fabric = \"{fabric}\" }}"
    )]
    VfAsPci {
        /// Who.
        guest: Name,
        /// What it asks for.
        device: PciAddress,
        /// Where it belongs.
        fabric: FabricName,
    },
    /// No IOMMU for KVM's driver.
    #[error(
        "fabric {fabric}: {pf} is in no IOMMU group, and vfio-pci needs one: switch VT-d or \
         AMD-Vi on in the firmware, and boot Linux with intel_iommu=on"
    )]
    NoIommu {
        /// Which fabric.
        fabric: FabricName,
        /// The function.
        pf: PciAddress,
    },
}

fn there_is(known: &[String]) -> String {
    match known {
        [] => ": there is none".to_owned(),
        known => format!("; there are {}", known.join(", ")),
    }
}

fn but(others: &[String]) -> String {
    match others {
        [] => String::new(),
        others => format!("; of the others, {}", others.join(", ")),
    }
}

fn firmware(pf: &PciAddress, mellanox: bool, count: &(impl std::fmt::Display + ?Sized)) -> String {
    match mellanox {
        true => format!("`mstconfig -d {pf} set SRIOV_EN=1 NUM_OF_VFS={count}` and a reboot"),
        false => "switch SR-IOV on in the machine's and the card's setup".to_owned(),
    }
}

fn link_help(is: LinkLayer, pf: &PciAddress, mellanox: bool) -> String {
    let link = match is {
        LinkLayer::InfiniBand => "infiniband",
        LinkLayer::Ethernet => "ethernet",
    };
    let other = match is {
        LinkLayer::InfiniBand => "2",
        LinkLayer::Ethernet => "1",
    };
    match mellanox {
        true => format!(
            "link = \"{link}\", or `mstconfig -d {pf} set LINK_TYPE_P1={other}` and a reboot"
        ),
        false => format!("link = \"{link}\""),
    }
}
