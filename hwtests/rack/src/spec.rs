//! What a virtual machine is made of, as the rack's TOML file and the tests say it.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

/// A rack: its nodes, in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RackSpec {
    /// `[[node]]` tables.
    pub node: Vec<NodeSpec>,
}

/// One machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// What it is called in the rack.
    pub name: String,
    /// What it starts with.
    #[serde(default)]
    pub firmware: Firmware,
    /// Its network card.
    #[serde(default)]
    pub nic: NicModel,
    /// Its disks, in the order in which the firmware tries them.
    #[serde(default = "one_disk")]
    pub disks: Vec<DiskSpec>,
    /// Memory in MiB.
    #[serde(default = "memory")]
    pub memory: u32,
    /// Processors.
    #[serde(default = "cpus")]
    pub cpus: u32,
    /// What kind of processors they are.
    #[serde(default)]
    pub cpu: Cpu,
    /// NUMA nodes, each a socket with its share of processors and memory.
    #[serde(default = "cpus")]
    pub numa: u32,
    /// More network cards, on the same cable as the first.
    #[serde(default)]
    pub cards: Vec<NicModel>,
    /// A second network card, in no network, that belongs to the last of them; UEFI machines only.
    #[serde(default)]
    pub far_nic: Option<NicModel>,
    /// Whether there is an IOMMU; the machine is a Q35 then.
    #[serde(default)]
    pub iommu: bool,
    /// Cards of Intel's 82576 on the same cable, each of which can be cut into 7 VFs; the machine
    /// is a Q35 on a newer QEMU then.
    #[serde(default)]
    pub vf_cards: u32,
    /// What its firmware tries first.
    #[serde(default)]
    pub boot_first: BootFirst,
    /// Loaded instead of what its firmware would find.
    #[serde(default)]
    pub kernel: Option<Kernel>,
    /// TCP port of [`Bmc`](crate::Bmc) on loopback, when it has one.
    #[serde(default)]
    pub bmc: Option<u16>,
}

/// A kernel that QEMU itself loads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its RAM disk.
    pub ramdisk: PathBuf,
    /// Its command line.
    pub line: String,
}

impl NodeSpec {
    /// A machine with one 4 GiB virtio disk.
    pub fn new(name: &str, firmware: Firmware) -> Self {
        NodeSpec {
            name: name.to_owned(),
            firmware,
            nic: NicModel::default(),
            disks: one_disk(),
            memory: memory(),
            cpus: cpus(),
            cpu: Cpu::default(),
            numa: cpus(),
            cards: Vec::new(),
            far_nic: None,
            iommu: false,
            vf_cards: 0,
            boot_first: BootFirst::default(),
            kernel: None,
            bmc: None,
        }
    }

    /// A machine that can be a Xen host with guests of every kind: two processors, 2 GiB of
    /// memory, a disk of 8 GiB.
    pub fn xen(name: &str, firmware: Firmware) -> Self {
        let disk = DiskSpec::new(Size::gib(8), Bus::Virtio);
        NodeSpec {
            cpu: Cpu::Xen,
            cpus: 2,
            memory: 2048,
            disks: vec![disk],
            ..Self::new(name, firmware)
        }
    }

    /// The same with this many processors on this many NUMA nodes.
    pub fn with_cpus(mut self, cpus: u32, numa: u32) -> Self {
        self.cpus = cpus;
        self.numa = numa;
        self
    }

    /// The same with this many cards that can be cut into VFs.
    pub fn with_vf_cards(mut self, cards: u32) -> Self {
        self.vf_cards = cards;
        self
    }

    /// The same with these network cards beside its first, on the same cable.
    pub fn with_cards(mut self, cards: Vec<NicModel>) -> Self {
        self.cards = cards;
        self
    }

    /// Whether its first network card shares the cable with others.
    pub(crate) fn shares_cable(&self) -> bool {
        self.vf_cards > 0 || !self.cards.is_empty()
    }

    /// The same with a second network card, in no network, on the last NUMA node.
    pub fn with_far_nic(mut self, nic: NicModel) -> Self {
        self.far_nic = Some(nic);
        self
    }

    /// The same with another network card.
    pub fn with_nic(mut self, nic: NicModel) -> Self {
        self.nic = nic;
        self
    }

    /// The same with these disks.
    pub fn with_disks(mut self, disks: Vec<DiskSpec>) -> Self {
        self.disks = disks;
        self
    }
}

fn memory() -> u32 {
    256
}

fn cpus() -> u32 {
    1
}

fn one_disk() -> Vec<DiskSpec> {
    vec![DiskSpec::default()]
}

/// A kind of processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cpu {
    /// The one that is emulated quickest.
    #[default]
    Plain,
    /// One with AMD's virtualisation, so that a Xen on it runs PVH and HVM guests too.
    Xen,
}

/// What a machine starts with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS, with iPXE in the network card's ROM.
    #[default]
    Bios,
    /// OVMF, with its own PXE client.
    Uefi,
    /// OVMF without PXE: boots a URL.
    UefiHttp,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Firmware::Bios => "bios",
            Firmware::Uefi => "uefi",
            Firmware::UefiHttp => "uefi-http",
        })
    }
}

/// A network card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicModel {
    /// Paravirtual.
    #[default]
    VirtioNet,
    /// Intel 82540EM.
    E1000,
    /// Intel 82574L.
    E1000e,
    /// Intel 82576; QEMU 8 and newer.
    Igb,
}

impl NicModel {
    /// QEMU's name for it.
    pub fn device(self) -> &'static str {
        match self {
            NicModel::VirtioNet => "virtio-net-pci",
            NicModel::E1000 => "e1000",
            NicModel::E1000e => "e1000e",
            NicModel::Igb => "igb",
        }
    }
}

/// A disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskSpec {
    /// Its size; the file is sparse.
    pub size: Size,
    /// How it is attached.
    pub bus: Bus,
    /// Bytes in a logical sector, 512 or 4096.
    pub sector: u32,
    /// Its serial number; `<node>-<number>` when absent.
    pub serial: Option<String>,
    /// At most this much is read and written in a second.
    pub rate: Option<Size>,
    /// Where each power cycle's [`Journal`](crate::Journal) of it is kept.
    pub journal: Option<PathBuf>,
    /// A sector of 512 bytes that is read and cannot be written.
    pub unwritable: Option<u64>,
}

impl Default for DiskSpec {
    fn default() -> Self {
        DiskSpec {
            size: Size::gib(4),
            bus: Bus::default(),
            sector: 512,
            serial: None,
            rate: None,
            journal: None,
            unwritable: None,
        }
    }
}

impl DiskSpec {
    /// A disk of this size on this bus, 512-byte sectors.
    pub fn new(size: Size, bus: Bus) -> Self {
        DiskSpec { size, bus, ..DiskSpec::default() }
    }

    /// The same, reading and writing no more than this much in a second.
    pub fn slow(mut self, rate: Size) -> Self {
        self.rate = Some(rate);
        self
    }
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// virtio-blk.
    #[default]
    Virtio,
    /// NVMe.
    Nvme,
    /// SATA behind an AHCI controller.
    Ahci,
}

/// What the firmware tries first. Either way the other one is next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootFirst {
    /// The disks: an empty one falls through to the network.
    #[default]
    Disk,
    /// The network: a server with nothing to say lets it fall through to the disks.
    Net,
}

/// Bytes, written `512M`, `4G` or plainly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

impl Size {
    /// This many MiB.
    pub const fn mib(count: u64) -> Self {
        Size(count << 20)
    }

    /// This many GiB.
    pub const fn gib(count: u64) -> Self {
        Size(count << 30)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => {
                write!(f, "{}G", bytes >> 30)
            }
            bytes if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => {
                write!(f, "{}M", bytes >> 20)
            }
            bytes => write!(f, "{bytes}"),
        }
    }
}

/// What was given is no size.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a size: `4G`, `512M`, `64K` or a number of bytes is accepted")]
pub struct NotASize(String);

impl FromStr for Size {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let wrong = || NotASize(text.chars().take(40).collect());
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'G') => (&text[..text.len() - 1], 30),
            Some(b'M') => (&text[..text.len() - 1], 20),
            Some(b'K') => (&text[..text.len() - 1], 10),
            _ => (text, 0),
        };
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        count.checked_mul(1 << shift).map(Size).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Size {
    type Error = NotASize;

    fn try_from(text: String) -> Result<Self, NotASize> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_display() {
        for text in ["4G", "512M", "4097M", "12345"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("4096M".parse::<Size>().unwrap(), Size::gib(4));
        for text in ["", "G", "4 G", "-1", "99999999999G", "4g"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_spec_file_needs_only_names() {
        let text = "[[node]]\nname = \"a\"\n[[node]]\nname = \"b\"\nfirmware = \"uefi-http\"\n\
                    nic = \"e1000e\"\ndisks = [{ size = \"8G\", bus = \"nvme\" }]\n\
                    cpu = \"xen\"\ncpus = 4\nnuma = 2\niommu = true\nvf_cards = 1\n";
        let spec: RackSpec = toml::from_str(text).unwrap();
        assert_eq!(spec.node[0].disks[0].size, Size::gib(4));
        assert_eq!(spec.node[1].firmware, Firmware::UefiHttp);
        assert_eq!(spec.node[1].disks[0].bus, Bus::Nvme);
        assert_eq!((spec.node[0].cpu, spec.node[0].numa), (Cpu::Plain, 1));
        assert_eq!((spec.node[1].cpu, spec.node[1].numa), (Cpu::Xen, 2));
        assert_eq!((spec.node[0].vf_cards, spec.node[1].vf_cards), (0, 1));
        assert!(toml::from_str::<RackSpec>("[[node]]\nnam = \"a\"\n").is_err());
    }
}
