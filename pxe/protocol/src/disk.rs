//! A disk as a node sees it, and how an operator says which one may be written.

use serde::{Deserialize, Serialize};

/// A block device that could take an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Kernel name, without `/dev/`; changes between boots.
    pub name: String,
    /// Capacity in bytes.
    pub size: u64,
    /// Logical sector in bytes, 512 or 4096.
    pub sector_size: u32,
    /// How it is attached: `nvme`, `sata`, `virtio`, `scsi`, `usb`, ...
    pub bus: String,
    /// Model, as the device says.
    pub model: Option<String>,
    /// Serial number, as the device says.
    pub serial: Option<String>,
    /// World-wide name (`naa.…`, `eui.…`, `nvme.…`).
    pub wwn: Option<String>,
    /// Whether it spins.
    pub rotational: bool,
    /// Whether it can be pulled out: such a disk is never chosen without a hint that names it.
    pub removable: bool,
    /// Whether it refuses writes.
    pub read_only: bool,
}

/// What a disk must be for an image to be written to it. Every hint given must fit, and
/// exactly one disk must fit all of them; an empty one fits every disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskHints {
    /// Exact serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Exact world-wide name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Exact model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Exact bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
    /// At least this many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_size: Option<u64>,
    /// At most this many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
}

impl DiskHints {
    /// Whether `disk` is what these hints ask for.
    pub fn fit(&self, disk: &Disk) -> bool {
        let same = |hint: &Option<String>, fact: Option<&String>| {
            hint.as_ref().is_none_or(|hint| Some(hint) == fact)
        };
        same(&self.serial, disk.serial.as_ref())
            && same(&self.wwn, disk.wwn.as_ref())
            && same(&self.model, disk.model.as_ref())
            && same(&self.bus, Some(&disk.bus))
            && self.min_size.is_none_or(|least| disk.size >= least)
            && self.max_size.is_none_or(|most| disk.size <= most)
            && (!disk.removable || self.serial.is_some() || self.wwn.is_some())
    }
}
