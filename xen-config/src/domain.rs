//! A guest as it should be.

use serde::{Deserialize, Serialize};

use crate::{CpuSet, Name, Size, nic::Nic, pci::PciAddress, slice::SliceWish, text::Text};

/// `[[guest]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Its name, the only one on its node.
    pub name: Name,
    /// How it is virtualised.
    #[serde(rename = "type", default)]
    pub kind: Kind,
    /// What it should be doing.
    #[serde(default)]
    pub state: Wanted,
    /// What happens when it ends by itself.
    #[serde(default)]
    pub restart: Restart,
    /// How long it may take to shut down, in seconds; then it is destroyed.
    #[serde(default = "Guest::patience")]
    pub shutdown_seconds: u32,
    /// A domain of this name that somebody else made is ours from now on.
    #[serde(default, skip_serializing_if = "is_false")]
    pub own: bool,
    /// Its virtual CPUs.
    #[serde(default = "Guest::one")]
    pub vcpus: u32,
    /// So many it may have without a restart; `vcpus` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<u32>,
    /// The CPUs that all of its virtual CPUs run on; those of all guests when absent.
    #[serde(
        default,
        deserialize_with = "crate::cpus::some",
        skip_serializing_if = "Option::is_none"
    )]
    pub cpus: Option<CpuSet>,
    /// The CPUs of each virtual CPU by itself, instead of `cpus`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<CpuSet>,
    /// Its share against others; 256 is usual.
    #[serde(default = "Guest::weight")]
    pub weight: u16,
    /// At most so many hundredths of one CPU; 0 is no limit.
    #[serde(default)]
    pub cap: u16,
    /// Its memory.
    pub memory: Size,
    /// So much it may have without a restart; `memory` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<Size>,
    /// What it boots.
    pub boot: Boot,
    /// Its disks.
    #[serde(rename = "disk", default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// Its network interfaces.
    #[serde(rename = "nic", default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// PCI functions that it gets whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pci: Vec<PciAddress>,
    /// Its slices: one, or a list of them.
    #[serde(
        rename = "slice",
        default,
        deserialize_with = "crate::slice::one_or_more",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub slices: Vec<SliceWish>,
}

/// How a guest is virtualised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// By its own kernel, without the processor's help.
    Pv,
    /// By the processor, without emulated devices.
    #[default]
    Pvh,
    /// By the processor and QEMU, as a whole PC.
    Hvm,
}

/// What a guest should be doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// It runs.
    #[default]
    Running,
    /// It is there and stands still.
    Paused,
    /// Its memory is in a file, to go on from there.
    Saved,
    /// It is off.
    Stopped,
}

/// What happens when a guest ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// It stays down.
    Never,
    /// It is started again when it crashed.
    #[default]
    OnFailure,
    /// It is started again.
    Always,
}

/// What a guest boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Boot {
    /// A kernel in a file of dom0.
    Kernel {
        /// Its path.
        path: Text,
        /// Path of the RAM disk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ramdisk: Option<Text>,
        /// Its command line.
        #[serde(default, skip_serializing_if = "no_text")]
        line: Text,
    },
    /// A program of dom0 that finds the kernel on the guest's disk, `pygrub`.
    Loader(Text),
    /// Firmware that boots the guest's disk as a PC does; HVM only.
    Firmware(Firmware),
}

/// Firmware of an HVM guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// A disk of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// A file, a logical volume or a block device of dom0.
    pub path: Text,
    /// Its name in the guest, `xvda`.
    #[serde(rename = "as")]
    pub device: Device,
    /// What is in the file.
    #[serde(default)]
    pub format: Format,
    /// Whether the guest may not write.
    #[serde(default, skip_serializing_if = "is_false")]
    pub readonly: bool,
}

/// What is in the file of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The bytes of the disk.
    #[default]
    Raw,
    /// QEMU's format; needs QEMU in dom0.
    Qcow2,
}

impl Guest {
    fn patience() -> u32 {
        60
    }

    fn one() -> u32 {
        1
    }

    fn weight() -> u16 {
        256
    }

    /// Whether it has a domain while it is as desired.
    pub fn is_up(&self) -> bool {
        matches!(self.state, Wanted::Running | Wanted::Paused)
    }

    /// So many virtual CPUs it may have.
    pub fn most_vcpus(&self) -> u32 {
        self.max_vcpus.unwrap_or(self.vcpus)
    }

    /// So much memory it may have.
    pub fn most_memory(&self) -> Size {
        self.max_memory.unwrap_or(self.memory)
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn no_text(text: &Text) -> bool {
    text.is_empty()
}

/// Name of a disk in a guest: `xvda`, `hda` or `sda` and its like.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Device(String);

/// A text that is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no name for a disk: `xvda`, `hda` and `sda` are, and their like")]
pub struct DeviceError {
    text: String,
}

impl Device {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Device {
    type Error = DeviceError;

    fn try_from(text: String) -> Result<Device, DeviceError> {
        let end = ["xvd", "hd", "sd"].iter().find_map(|start| text.strip_prefix(start));
        let fits = end.is_some_and(|end| {
            let letters = end.trim_end_matches(|letter: char| letter.is_ascii_digit());
            (1..=2).contains(&letters.len())
                && letters.bytes().all(|byte| byte.is_ascii_lowercase())
                && end.len() <= letters.len() + 2
        });
        if fits { Ok(Device(text)) } else { Err(DeviceError { text }) }
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        device.0
    }
}
