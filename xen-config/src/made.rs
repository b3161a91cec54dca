//! What a domain was made of, as `xl list -l` tells it: JSON of libxl's own structures.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Size,
    domain::{Format, Kind},
    nic::Mac,
    pci::PciAddress,
};

/// A domain's configuration, with what was changed live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// How it is virtualised.
    pub kind: Kind,
    /// Path of its kernel, when dom0 has it.
    pub kernel: Option<String>,
    /// Path of its RAM disk.
    pub ramdisk: Option<String>,
    /// Its kernel's command line, without blanks at its ends.
    pub line: String,
    /// Program that finds the kernel.
    pub loader: Option<String>,
    /// So many virtual CPUs it can have.
    pub most_vcpus: u32,
    /// So many it was told to switch on.
    pub vcpus: u32,
    /// So much memory it can have.
    pub most_memory: Size,
    /// So much it was told to take.
    pub memory: Size,
    /// Its share against others.
    pub weight: u32,
    /// Hundredths of one CPU at most; 0 is no limit.
    pub cap: u32,
    /// Its disks.
    pub disks: Vec<MadeDisk>,
    /// Its network interfaces.
    pub nics: Vec<MadeNic>,
    /// PCI functions that it has.
    pub pci: Vec<PciAddress>,
}

/// A disk that a domain has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeDisk {
    /// What it is in dom0.
    pub path: String,
    /// Its name in the guest.
    pub device: String,
    /// What is in the file, when it is a form that we know.
    pub format: Option<Format>,
    /// Whether the guest may not write.
    pub readonly: bool,
}

/// A network interface that a domain has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeNic {
    /// Its number; dom0's end is called `vif<domain>.<number>`.
    pub number: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// The bridge it was plugged into.
    pub bridge: String,
    /// Its limit as the backend has it now: bytes, then microseconds.
    pub rate: Option<String>,
    /// The VLAN of its untagged frames, where its bridge is VLAN-aware.
    pub vlan: Option<u16>,
}

/// A text that is not what `xl list -l` prints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`xl list -l` printed something else than domains: {reason}")]
pub struct MadeError {
    reason: String,
}

/// Reads `xl list -l`: the number of each domain that is more than dom0, and what it was made of.
pub fn parse(json: &str) -> Result<Vec<(u32, Made)>, MadeError> {
    let wrong = |reason: String| MadeError { reason };
    let value: Value = match json.trim() {
        // It prints nothing at all for a list of nothing.
        "" => Value::Array(Vec::new()),
        text => serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?,
    };
    let domains = value.as_array().ok_or_else(|| wrong("no list".into()))?;
    Ok(domains.iter().filter_map(domain).collect())
}

fn domain(value: &Value) -> Option<(u32, Made)> {
    let id = number(&value["domid"]) as u32;
    let config = &value["config"];
    let (about, build) = (&config["c_info"], &config["b_info"]);
    let kind = match about["type"].as_str()? {
        "pv" => Kind::Pv,
        "pvh" => Kind::Pvh,
        "hvm" => Kind::Hvm,
        _ => return None,
    };
    // Before 4.10 these were in the part of the kind, and may be there again.
    let inner = &build[format!("type.{}", about["type"].as_str()?)];
    let text = |key: &str| {
        let found = build[key].as_str().or_else(|| inner[key].as_str());
        found.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let most_vcpus = number(&build["max_vcpus"]).max(1) as u32;
    let vcpus = build["avail_vcpus"].as_array().map_or(most_vcpus, |list| list.len() as u32);
    Some((
        id,
        Made {
            kind,
            kernel: text("kernel"),
            ramdisk: text("ramdisk"),
            line: text("cmdline").unwrap_or_default().trim().to_owned(),
            loader: text("bootloader"),
            most_vcpus,
            vcpus,
            most_memory: Size::of_kib(number(&build["max_memkb"])),
            memory: Size::of_kib(number(&build["target_memkb"])),
            weight: number(&build["sched_params"]["weight"]) as u32,
            cap: number(&build["sched_params"]["cap"]) as u32,
            disks: list(&config["disks"], disk),
            nics: list(&config["nics"], nic),
            pci: list(&config["pcidevs"], pci),
        },
    ))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    value.as_array().into_iter().flatten().filter_map(read).collect()
}

fn disk(value: &Value) -> Option<MadeDisk> {
    let format = match value["format"].as_str() {
        Some("raw") => Some(Format::Raw),
        Some("qcow2") => Some(Format::Qcow2),
        _ => None,
    };
    Some(MadeDisk {
        path: value["pdev_path"].as_str().unwrap_or_default().to_owned(),
        device: value["vdev"].as_str()?.to_owned(),
        format,
        readonly: number(&value["readwrite"]) == 0,
    })
}

fn nic(value: &Value) -> Option<MadeNic> {
    let rate = match number(&value["rate_bytes_per_interval"]) {
        0 => None,
        bytes => Some(format!("{bytes},{}", number(&value["rate_interval_usecs"]))),
    };
    Some(MadeNic {
        number: number(&value["devid"]) as u32,
        mac: value["mac"].as_str()?.parse().ok()?,
        bridge: value["bridge"].as_str().unwrap_or_default().to_owned(),
        rate,
        vlan: None,
    })
}

/// Numbers that are 0 are left out.
fn pci(value: &Value) -> Option<PciAddress> {
    let part = |key: &str| number(&value[key]);
    let (domain, bus, device, function) = (part("domain"), part("bus"), part("dev"), part("func"));
    format!("{domain:04x}:{bus:02x}:{device:02x}.{function}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_guests() {
        let made = parse(include_str!("../tests/captures/xl-list-l-2guests.json")).unwrap();
        let [(0, _), (1, pv), (2, pvh)] = &made[..] else { panic!("{made:?}") };
        assert_eq!((pv.kind, pvh.kind), (Kind::Pv, Kind::Pvh));
        assert_eq!(pv.line, "console=hvc0 quiet gip=10.9.0.11/24");
        assert_eq!(pv.kernel.as_deref(), Some("/guest/vmlinux"));
        assert_eq!((pv.memory, pv.most_memory), (Size::of_mib(160), Size::of_mib(160)));
        assert_eq!((pv.vcpus, pv.most_vcpus, pv.weight, pv.cap), (1, 1, 256, 0));
        assert_eq!(pv.nics[0].bridge, "xenbr0");
        let disk = MadeDisk {
            path: "/root/disk11.img".into(),
            device: "xvda".into(),
            format: Some(Format::Raw),
            readonly: false,
        };
        assert_eq!(pv.disks, [disk]);
    }

    #[test]
    fn a_guest_with_a_pci_function() {
        let made = parse(include_str!("../tests/captures/xl-list-l-p1.json")).unwrap();
        let functions: Vec<&str> =
            made.iter().flat_map(|(_, made)| &made.pci).map(PciAddress::as_str).collect();
        assert_eq!(functions, ["0000:01:10.0"]);
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(parse("xl: no such").is_err());
        assert!(parse("{}").is_err());
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("[{\"domid\": 1}, 3, null]").unwrap(), []);
    }
}
