//! What the machine is, read from sysfs and procfs, as the provisioner wants to know it.

use std::collections::BTreeSet;

use protocol::{
    Inventory,
    inventory::{Cpu, Firmware, Nic, NumaNode, PciDevice},
};

use crate::{bmc, disks, sysfs::Sysfs};

/// The inventory of the machine (or captured tree) behind `sysfs`, which booted from the
/// interface with the address `boot_mac`.
pub(crate) fn probe(sysfs: &Sysfs, boot_mac: Option<&str>) -> Inventory {
    Inventory {
        cpu: probe_cpu(sysfs),
        memory: memory(sysfs),
        numa: probe_numa(sysfs),
        disks: disks::probe(sysfs),
        nics: probe_nics(sysfs, boot_mac),
        pci: probe_pci(sysfs),
        firmware: probe_firmware(sysfs),
        bmc: bmc::probe(sysfs),
    }
}

/// The machine's memory in bytes.
pub(crate) fn memory(sysfs: &Sysfs) -> u64 {
    kilobytes(sysfs.text("proc/meminfo"), "MemTotal:")
}

fn probe_cpu(sysfs: &Sysfs) -> Cpu {
    let info = sysfs.text("proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()));
    let folder = "sys/devices/system/cpu";
    let threads = sysfs.numbered(folder, "cpu");
    let core_of = |thread: &u32| {
        let topology = format!("{folder}/cpu{thread}/topology");
        let package: i64 = sysfs.value(format!("{topology}/physical_package_id"))?;
        let core: i64 = sysfs.value(format!("{topology}/core_id"))?;
        Some((package, core))
    };
    // An offline CPU has no topology.
    let cores: Vec<(i64, i64)> = threads.iter().filter_map(core_of).collect();
    let packages: BTreeSet<i64> = cores.iter().map(|(package, _)| *package).collect();
    Cpu {
        model: model.unwrap_or_default(),
        sockets: packages.len() as u32,
        cores: cores.iter().collect::<BTreeSet<_>>().len() as u32,
        threads: cores.len() as u32,
    }
}

/// The value in bytes of a line like `MemTotal:  1000 kB`, or `Node 0 MemTotal:  1000 kB`.
fn kilobytes(text: Option<String>, name: &str) -> u64 {
    let text = text.unwrap_or_default();
    let value = text.lines().find_map(|line| {
        let (_, value) = line.split_once(name)?;
        value.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    value.unwrap_or(0).saturating_mul(1024)
}

fn probe_numa(sysfs: &Sysfs) -> Vec<NumaNode> {
    let folder = "sys/devices/system/node";
    let node = |id: u32| NumaNode {
        id,
        memory: kilobytes(sysfs.text(format!("{folder}/node{id}/meminfo")), "MemTotal:"),
        cpus: sysfs.text(format!("{folder}/node{id}/cpulist")).unwrap_or_default(),
    };
    sysfs.numbered(folder, "node").into_iter().map(node).collect()
}

fn probe_nics(sysfs: &Sysfs, boot_mac: Option<&str>) -> Vec<Nic> {
    let nic = |name: String| {
        let at = |attribute: &str| format!("sys/class/net/{name}/{attribute}");
        sysfs.path(at("device")).exists().then_some(())?;
        let mac = sysfs.text(at("address"))?;
        Some(Nic {
            boot: boot_mac == Some(mac.as_str()),
            mac,
            driver: sysfs.link(at("device/driver")),
            link: sysfs.flag(at("carrier")),
            // -1 where the link does not say, or is down.
            speed: sysfs.value::<i64>(at("speed")).and_then(|speed| u32::try_from(speed).ok()),
            pci: pci_address(&sysfs.way(at("device"))),
            name,
        })
    };
    sysfs.list("sys/class/net").into_iter().filter_map(nic).collect()
}

/// The innermost PCI function on the way to a device.
fn pci_address(way: &[String]) -> Option<String> {
    let is_function = |part: &&String| {
        let bytes = part.as_bytes();
        bytes.len() == 12 && bytes[4] == b':' && bytes[7] == b':' && bytes[10] == b'.'
    };
    way.iter().rev().find(is_function).cloned()
}

fn probe_pci(sysfs: &Sysfs) -> Vec<PciDevice> {
    let device = |address: String| {
        let at = |attribute: &str| format!("sys/bus/pci/devices/{address}/{attribute}");
        let hex = |name: &str| Some(sysfs.text(at(name))?.trim_start_matches("0x").to_owned());
        Some(PciDevice {
            id: format!("{}:{}", hex("vendor")?, hex("device")?),
            class: hex("class")?,
            driver: sysfs.link(at("driver")),
            numa: sysfs.value::<i64>(at("numa_node")).and_then(|node| u32::try_from(node).ok()),
            address,
        })
    };
    sysfs.list("sys/bus/pci/devices").into_iter().filter_map(device).collect()
}

fn probe_firmware(sysfs: &Sysfs) -> Firmware {
    let dmi = |name: &str| sysfs.text(format!("sys/class/dmi/id/{name}"));
    let kind = if sysfs.path("sys/firmware/efi").exists() { "uefi" } else { "bios" };
    Firmware {
        kind: kind.to_owned(),
        vendor: dmi("sys_vendor"),
        product: dmi("product_name"),
        serial: dmi("product_serial"),
        uuid: dmi("product_uuid").map(|uuid| uuid.to_ascii_lowercase()),
        version: dmi("bios_version"),
    }
}
