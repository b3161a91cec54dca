//! Physical functions and their VFs, as sysfs and the links tell of them.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use xen_config::{
    fabric::LinkLayer,
    guid::Guid,
    pci::PciAddress,
    pkey::Pkey,
    sriov::{Pf, PfLink, Policy, RdmaDevice, RdmaPort, Sriov, Vf, VfSays, Way},
};

use crate::{sys::vf::Vfs, sysfs::Sysfs};

/// What links of a captured node said of their VFs.
const CAPTURED: &str = "vfs.json";
/// Every port has room for more keys than anybody uses.
const PKEYS: u32 = 128;

/// All of it. A device that tells nothing of its VFs is no fault: others can still be used.
pub(crate) fn probe(root: &Path) -> Result<Sriov> {
    let sysfs = Sysfs::at(root);
    let folder = "sys/bus/pci/devices";
    let can = |name: &String| sysfs.path(format!("{folder}/{name}/sriov_totalvfs")).exists();
    let names = sysfs.list(folder).into_iter().filter(can);
    let mut pfs: Vec<Pf> = names.filter_map(|name| function(&sysfs, &name.parse().ok()?)).collect();
    let mut said = Said::open(root)?;
    for pf in &mut pfs {
        pf.vfs = vfs(&sysfs, pf, &mut said);
    }
    let names = sysfs.list("sys/class/infiniband").into_iter();
    let is_ours = |name: &String| {
        pfs.iter().any(|pf| pf.device.as_ref().is_some_and(|device| device.name == *name))
    };
    let verbs = names.filter(|name| !is_ours(name)).map(|name| device(&sysfs, &name)).collect();
    Ok(Sriov { pfs, ipoib: sysfs.path("sys/module/ib_ipoib").is_dir(), verbs })
}

/// One physical function, without its VFs.
pub(crate) fn function(sysfs: &Sysfs, address: &PciAddress) -> Option<Pf> {
    let at = |attribute: &str| format!("sys/bus/pci/devices/{address}/{attribute}");
    let mut pf = Pf {
        address: address.clone(),
        driver: sysfs.link(at("driver")),
        // -1 where the firmware does not say.
        node: sysfs.value(at("numa_node")),
        iommu_group: group(sysfs, address),
        total: sysfs.value(at("sriov_totalvfs"))?,
        count: sysfs.value(at("sriov_numvfs")).unwrap_or_default(),
        autoprobe: sysfs.value::<u8>(at("sriov_drivers_autoprobe")).map(|on| on == 1),
        offset: sysfs.value(at("sriov_offset")).unwrap_or_default(),
        stride: sysfs.value(at("sriov_stride")).unwrap_or_default(),
        links: links(sysfs, &at("net")),
        device: sysfs.list(at("infiniband")).first().map(|name| device(sysfs, name)),
        way: None,
        vfs: Vec::new(),
    };
    pf.way = way(sysfs, &pf);
    Some(pf)
}

fn group(sysfs: &Sysfs, function: &PciAddress) -> Option<u32> {
    sysfs.link(format!("sys/bus/pci/devices/{function}/iommu_group"))?.parse().ok()
}

/// The function's own links: no children of IPoIB, no stand-ins for VFs.
fn links(sysfs: &Sysfs, folder: &str) -> Vec<PfLink> {
    let link = |name: String| {
        let at = |attribute: &str| format!("{folder}/{name}/{attribute}");
        let child = sysfs.path(at("parent")).exists();
        let port = sysfs.text(at("phys_port_name")).unwrap_or_default();
        let stand_in = port.starts_with("pf") && port.contains("vf");
        let link = match sysfs.value(at("type")) {
            Some(32) => LinkLayer::InfiniBand,
            Some(1) => LinkLayer::Ethernet,
            _ => return None,
        };
        let flags = sysfs.text(at("flags")).and_then(|flags| hex(&flags));
        // IFF_UP
        let down = flags.is_some_and(|flags| flags & 1 == 0);
        (!child && !stand_in).then_some(PfLink { name, link, down })
    };
    sysfs.list(folder).into_iter().filter_map(link).collect()
}

fn device(sysfs: &Sysfs, name: &str) -> RdmaDevice {
    let folder = format!("sys/class/infiniband/{name}");
    let ports = sysfs.numbered(format!("{folder}/ports"), "");
    RdmaDevice {
        name: name.to_owned(),
        guid: sysfs.value(format!("{folder}/node_guid")),
        ports: ports.into_iter().map(|number| port(sysfs, &folder, number)).collect(),
    }
}

fn port(sysfs: &Sysfs, device: &str, port: u32) -> RdmaPort {
    let at = |attribute: &str| format!("{device}/ports/{port}/{attribute}");
    let link = match sysfs.text(at("link_layer")).as_deref() {
        Some("Ethernet") => LinkLayer::Ethernet,
        _ => LinkLayer::InfiniBand,
    };
    let lid = |attribute: &str| hex(sysfs.text(at(attribute))?.as_str());
    let key = |at: String| Pkey::of_number(hex(sysfs.text(at)?.as_str())? as u16);
    let mut pkeys: Vec<Option<Pkey>> =
        (0..PKEYS).map(|place| key(at(&format!("pkeys/{place}")))).collect();
    while pkeys.last().is_some_and(Option::is_none) {
        pkeys.pop();
    }
    RdmaPort {
        port,
        link,
        // `4: ACTIVE`
        state: sysfs
            .text(at("state"))
            .and_then(|state| Some(state.split_once(": ")?.1.to_owned()))
            .unwrap_or_default(),
        rate: sysfs.text(at("rate")).unwrap_or_default(),
        lid: lid("lid").unwrap_or_default(),
        sm_lid: lid("sm_lid").unwrap_or_default(),
        guid: (link == LinkLayer::InfiniBand)
            .then(|| sysfs.text(at("gids/0")))
            .flatten()
            .and_then(|gid| gid.get(20..)?.parse().ok()),
        pkeys,
    }
}

/// `0x0003`
fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn way(sysfs: &Sysfs, pf: &Pf) -> Option<Way> {
    if pf.link() == Some(LinkLayer::Ethernet) {
        return (!pf.links.is_empty()).then_some(Way::Netlink);
    }
    let there = |path: String| sysfs.path(path).is_dir();
    let hca = pf.device.as_ref().map(|device| &device.name);
    if hca.is_some_and(|hca| there(format!("sys/class/infiniband/{hca}/iov"))) {
        return Some(Way::Mlx4);
    }
    // The vendor's driver makes it when it starts, and one folder in it for each VF.
    if there(format!("sys/bus/pci/devices/{}/sriov", pf.address)) {
        return Some(Way::Vendor);
    }
    (pf.driver.as_deref() == Some("mlx5_core")).then_some(Way::Netlink)
}

fn vfs(sysfs: &Sysfs, pf: &Pf, said: &mut Said) -> Vec<Vf> {
    let folder = format!("sys/bus/pci/devices/{}", pf.address);
    let mut by_link = match pf.way {
        Some(Way::Netlink) if pf.count > 0 => said.of(pf),
        _ => BTreeMap::new(),
    };
    let vf = |number: u32| {
        let address: PciAddress = sysfs.link(format!("{folder}/virtfn{number}"))?.parse().ok()?;
        let at = |attribute: &str| format!("sys/bus/pci/devices/{address}/{attribute}");
        let says = match pf.way {
            Some(Way::Vendor) => vendor(sysfs, &format!("{folder}/sriov/{number}")),
            Some(Way::Mlx4) => mlx4(sysfs, pf, &address),
            _ => by_link.remove(&number).unwrap_or_default(),
        };
        Some(Vf {
            number,
            driver: sysfs.link(at("driver")),
            only: sysfs.text(at("driver_override")).filter(|name| name != "(null)"),
            iommu_group: group(sysfs, &address),
            says,
            address,
        })
    };
    sysfs.numbered(&folder, "virtfn").into_iter().filter_map(vf).collect()
}

fn vendor(sysfs: &Sysfs, folder: &str) -> VfSays {
    let guid = |name: &str| sysfs.value::<Guid>(format!("{folder}/{name}"));
    let policy = match sysfs.text(format!("{folder}/policy")).as_deref() {
        Some("Follow") => Some(Policy::Follow),
        Some("Up") => Some(Policy::Up),
        Some("Down") => Some(Policy::Down),
        _ => None,
    };
    let guids = sysfs.path(format!("{folder}/port")).exists();
    VfSays { guids, node: guid("node"), port: guid("port"), policy, ..VfSays::default() }
}

fn mlx4(sysfs: &Sysfs, pf: &Pf, vf: &PciAddress) -> VfSays {
    let Some((device, port)) = pf.device.as_ref().zip(pf.port()) else { return VfSays::default() };
    let iov = format!("sys/class/infiniband/{}/iov", device.name);
    let number = port.port;
    let own = format!("{iov}/{vf}/ports/{number}");
    let index: Option<u32> = sysfs.value(format!("{own}/gid_idx/0"));
    let guid = index.map(|index| format!("{iov}/ports/{number}/admin_guids/{index}"));
    let places = sysfs.numbered(format!("{own}/pkey_idx"), "");
    VfSays {
        guids: guid.as_ref().is_some_and(|path| sysfs.path(path).exists()),
        port: guid.and_then(|path| {
            // Digits alone, as `%llx` prints them.
            let text = sysfs.text(path)?;
            let number = u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()?;
            Guid::try_from(number).ok()
        }),
        // `none` for a place that is hidden.
        pkeys: places.iter().map(|at| sysfs.value(format!("{own}/pkey_idx/{at}"))).collect(),
        ..VfSays::default()
    }
}

/// What links say of VFs: now, or when the node was captured.
enum Said {
    Now(Option<Vfs>),
    Then(BTreeMap<String, BTreeMap<u32, VfSays>>),
}

impl Said {
    fn open(root: &Path) -> Result<Said> {
        if root == Path::new("/") {
            return Ok(Said::Now(None));
        }
        let path = root.join(CAPTURED);
        let captured = fs::read(&path).unwrap_or_else(|_| b"{}".to_vec());
        let captured = serde_json::from_slice(&captured);
        captured.map(Said::Then).with_context(|| format!("reading {}", path.display()))
    }

    fn of(&mut self, pf: &Pf) -> BTreeMap<u32, VfSays> {
        let Some(link) = pf.links.first() else { return BTreeMap::new() };
        match self {
            Said::Then(captured) => captured.get(&link.name).cloned().unwrap_or_default(),
            Said::Now(door) => {
                let opened = match door.take() {
                    Some(open) => Ok(open),
                    None => Vfs::open(),
                };
                // A link that does not answer is one that tells nothing.
                let Ok(mut open) = opened else { return BTreeMap::new() };
                let said = open.probe(&link.name).unwrap_or_default();
                *door = Some(open);
                said
            }
        }
    }
}
