//! What a node says of itself when it comes up in the RAM system.

use serde::{Deserialize, Serialize};

use crate::Disk;

/// A machine, as its RAM system found it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// The processors.
    pub cpu: Cpu,
    /// Memory in bytes, as the kernel counts it.
    pub memory: u64,
    /// NUMA nodes, by number.
    pub numa: Vec<NumaNode>,
    /// Block devices that could take an image.
    pub disks: Vec<Disk>,
    /// Network interfaces with hardware behind them.
    pub nics: Vec<Nic>,
    /// PCI functions.
    pub pci: Vec<PciDevice>,
    /// What the firmware says of the machine.
    pub firmware: Firmware,
    /// Where its BMC answers, when it has one that says so.
    pub bmc: Option<Bmc>,
}

/// The processors of a machine, all alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// As in `/proc/cpuinfo`.
    pub model: String,
    /// Physical packages.
    pub sockets: u32,
    /// Cores over all packages.
    pub cores: u32,
    /// Hardware threads over all cores.
    pub threads: u32,
}

/// One NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaNode {
    /// Its number.
    pub id: u32,
    /// Its memory in bytes.
    pub memory: u64,
    /// Its CPUs in the kernel's list form (`0-3,8`).
    pub cpus: String,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Kernel name.
    pub name: String,
    /// Hardware address, lower case with colons.
    pub mac: String,
    /// Driver, when one is bound.
    pub driver: Option<String>,
    /// Whether a carrier was seen.
    pub link: bool,
    /// Speed in Mbit/s, when the link says.
    pub speed: Option<u32>,
    /// Its PCI address, when it has one.
    pub pci: Option<String>,
    /// Whether the node booted from it.
    pub boot: bool,
}

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciDevice {
    /// `0000:00:03.0`
    pub address: String,
    /// Vendor and device, `8086:1533`.
    pub id: String,
    /// Class, six hex digits.
    pub class: String,
    /// Driver, when one is bound.
    pub driver: Option<String>,
    /// NUMA node, when it is known.
    pub numa: Option<u32>,
}

/// What SMBIOS and the boot path say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Firmware {
    /// `bios` or `uefi`.
    pub kind: String,
    /// System manufacturer.
    pub vendor: Option<String>,
    /// Product name.
    pub product: Option<String>,
    /// System serial number.
    pub serial: Option<String>,
    /// System UUID, lower case.
    pub uuid: Option<String>,
    /// Firmware version.
    pub version: Option<String>,
}

/// A baseboard management controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bmc {
    /// `ipmi` or `redfish`.
    pub kind: String,
    /// Its address on the network, when it told.
    pub address: Option<String>,
}
