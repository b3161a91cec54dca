//! The block devices that could take an image, as sysfs tells.

use protocol::Disk;

use crate::sysfs::Sysfs;

/// Beginnings of names that are no disks: memory, optical and floppy drives, network and
/// stacked devices.
const NO_DISKS: [&str; 10] =
    ["loop", "ram", "zram", "sr", "fd", "dm-", "md", "mtdblock", "nbd", "drbd"];

/// Every disk of the machine, by name.
pub(crate) fn probe(sysfs: &Sysfs) -> Vec<Disk> {
    let names = sysfs.list("sys/block");
    names.iter().filter(|name| is_disk(name)).filter_map(|name| probe_one(sysfs, name)).collect()
}

fn is_disk(name: &str) -> bool {
    // Boot partitions and the replay-protected block of an eMMC are small and special.
    let special = name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    !special && !NO_DISKS.iter().any(|prefix| name.starts_with(prefix))
}

fn probe_one(sysfs: &Sysfs, name: &str) -> Option<Disk> {
    let at = |attribute: &str| format!("sys/block/{name}/{attribute}");
    let sectors: u64 = sysfs.value(at("size"))?;
    // The paths below a multipath NVMe device are hidden; an empty card reader has no size.
    if sectors == 0 || sysfs.flag(at("hidden")) {
        return None;
    }
    Some(Disk {
        name: name.to_owned(),
        // Always in units of 512 bytes, whatever the device's sector is.
        size: sectors * 512,
        sector_size: sysfs.value(at("queue/logical_block_size")).unwrap_or(512),
        bus: bus_of(&sysfs.way(format!("sys/block/{name}"))).to_owned(),
        model: sysfs.text(at("device/model")),
        serial: serial_of(sysfs, name),
        wwn: wwn_of(sysfs, name),
        rotational: sysfs.flag(at("queue/rotational")),
        removable: sysfs.flag(at("removable")),
        read_only: sysfs.flag(at("ro")),
    })
}

/// How a disk is attached, by the devices on the way to it: the innermost that says wins.
fn bus_of(way: &[String]) -> &'static str {
    let known = |part: &String| {
        let numbered = |prefix: &str| {
            part.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let buses = [
            ("nvme", "nvme"),
            ("ata", "sata"),
            ("usb", "usb"),
            ("mmc", "mmc"),
            ("virtio", "virtio"),
        ];
        buses.into_iter().find(|(prefix, _)| numbered(prefix)).map(|(_, bus)| bus)
    };
    // A virtio SCSI host is virtio on the way, but its disks are SCSI.
    let scsi = way.iter().any(|part| part.starts_with("target"));
    match way.iter().rev().find_map(known) {
        Some("virtio") | None if scsi => "scsi",
        Some(bus) => bus,
        None => "other",
    }
}

/// virtio says it at the disk, NVMe and MMC at the device, SCSI in vital product data page 80.
fn serial_of(sysfs: &Sysfs, name: &str) -> Option<String> {
    let at = |attribute: &str| format!("sys/block/{name}/{attribute}");
    let page = || {
        let page = sysfs.bytes(at("device/vpd_pg80"))?;
        let text = String::from_utf8_lossy(page.get(4..)?).into_owned();
        let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    };
    sysfs.text(at("serial")).or_else(|| sysfs.text(at("device/serial"))).or_else(page)
}

/// Only names that the maker vouches for; `t10.` ones repeat model and serial number.
fn wwn_of(sysfs: &Sysfs, name: &str) -> Option<String> {
    let at = |attribute: &str| format!("sys/block/{name}/{attribute}");
    let wwid = sysfs.text(at("wwid")).or_else(|| sysfs.text(at("device/wwid")))?;
    let global = ["naa.", "eui.", "nvme.", "uuid."].iter().any(|kind| wwid.starts_with(kind));
    global.then_some(wwid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_are_disks() {
        for name in ["sda", "vdb", "nvme0n1", "mmcblk0", "xvda", "pmem0"] {
            assert!(is_disk(name), "{name}");
        }
        for name in ["loop0", "ram3", "zram0", "sr0", "fd0", "dm-1", "md127", "mmcblk0boot0"] {
            assert!(!is_disk(name), "{name}");
        }
    }

    #[test]
    fn the_way_to_a_disk_tells_its_bus() {
        let cases = [
            ("pci0000:00/0000:00:03.0/nvme/nvme0/nvme0n1", "nvme"),
            ("pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda", "sata"),
            ("pci0000:00/0000:00:04.0/virtio1/block/vda", "virtio"),
            ("pci0000:00/0000:00:04.0/virtio1/host2/target2:0:0/2:0:0:0/block/sda", "scsi"),
            ("pci0000:00/0000:01:00.0/host0/target0:2:0/0:2:0:0/block/sda", "scsi"),
            ("pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb", "usb"),
        ];
        for (way, bus) in cases {
            let way: Vec<String> = way.split('/').map(str::to_owned).collect();
            assert_eq!(bus_of(&way), bus, "{way:?}");
        }
    }
}
