//! Whether slices fit the machine: every reason why not, before the first step.

use std::collections::BTreeMap;

use crate::{
    domain::{Kind, Wanted},
    fabric::{Fabric, LinkLayer},
    slice::{Identity, Slice},
    slice_place::SliceSite,
    slice_refusal::SliceRefusal,
    slice_step::Binder,
    sriov::Pf,
};

/// Every reason why `slices`, which are all that are desired at `site`, cannot be.
pub(crate) fn refusals(slices: &[Slice<'_>], site: SliceSite<'_>) -> Vec<SliceRefusal> {
    let mut refusals = functions_twice(site);
    for fabric in &site.desired.fabrics {
        refusals.extend(fabric_refusals(fabric, site));
        // How many there are says nothing about a fabric that cannot be.
        if refusals.is_empty() {
            refusals.extend(too_few(fabric, slices, site));
        }
    }
    for slice in slices {
        refusals.extend(slice_refusals(slice, site));
    }
    refusals.extend(identities_twice(slices, site));
    refusals.extend(guests(site));
    let xen = site.host.xen.as_ref();
    let pvh = |line: &str| line.split_whitespace().any(|word| word == "dom0=pvh");
    if !slices.is_empty() && xen.is_some_and(|xen| pvh(&xen.command_line)) {
        refusals.push(SliceRefusal::PvhDom0);
    }
    refusals
}

fn functions_twice(site: SliceSite<'_>) -> Vec<SliceRefusal> {
    let mut seen: BTreeMap<String, &Fabric> = BTreeMap::new();
    let mut refusals = Vec::new();
    for fabric in &site.desired.fabrics {
        let functions = fabric.pfs_of(&site.host.sriov);
        let mut things: Vec<String> = functions.iter().map(|pf| pf.address.to_string()).collect();
        things.push(format!("the name {}", fabric.name));
        for what in things {
            if let Some(first) = seen.insert(what.clone(), fabric) {
                let (first, second) = (first.name.clone(), fabric.name.clone());
                refusals.push(SliceRefusal::Twice { what, first, second });
            }
        }
    }
    refusals
}

fn fabric_refusals(fabric: &Fabric, site: SliceSite<'_>) -> Vec<SliceRefusal> {
    let sriov = &site.host.sriov;
    let mut refusals = Vec::new();
    for name in fabric.pfs.iter().filter(|name| name.find(sriov).is_none()) {
        let say = |pf: &Pf| match pf.called() {
            called if called == pf.address.as_str() => called.to_owned(),
            called => format!("{called} ({})", pf.address),
        };
        let known = sriov.pfs.iter().map(say).collect();
        let (fabric, name) = (fabric.name.clone(), name.to_string());
        refusals.push(SliceRefusal::NoPf { fabric, name, known });
    }
    for pf in fabric.pfs_of(sriov) {
        refusals.extend(function(fabric, pf, site));
    }
    refusals
}

fn function(fabric: &Fabric, pf: &Pf, site: SliceSite<'_>) -> Option<SliceRefusal> {
    let asked = fabric.vfs_of(pf);
    let (name, address, mellanox) = (fabric.name.clone(), pf.address.clone(), pf.is_mellanox());
    if pf.total == 0 {
        return Some(SliceRefusal::NoVfs { fabric: name, pf: address, mellanox });
    }
    if asked > pf.total {
        let most = pf.total;
        return Some(SliceRefusal::Count { fabric: name, pf: address, asked, most, mellanox });
    }
    if let Some(is) = pf.link().filter(|is| *is != fabric.link) {
        let asked = fabric.link;
        return Some(SliceRefusal::Link { fabric: name, pf: address, asked, is, mellanox });
    }
    if pf.way.is_none() {
        let driver = pf.driver.clone().unwrap_or_else(|| "none".to_owned());
        return Some(SliceRefusal::NoWay { fabric: name, pf: address, driver });
    }
    if site.binder() == Binder::VfioPci && pf.iommu_group.is_none() {
        return Some(SliceRefusal::NoIommu { fabric: name, pf: address });
    }
    let users = if pf.count == 0 || pf.count == asked { Vec::new() } else { users(pf, site) };
    let had = pf.count;
    (!users.is_empty()).then_some(SliceRefusal::InUse {
        fabric: name,
        pf: address,
        had,
        asked,
        users,
    })
}

/// Who has which VF of `pf` in use.
fn users(pf: &Pf, site: SliceSite<'_>) -> Vec<String> {
    let user = |vf: &crate::sriov::Vf| {
        let number = vf.number;
        if let Some(stranger) = site.stranger(pf, number) {
            return Some(stranger);
        }
        if let Some(domain) = site.user(&vf.address) {
            return Some(format!("VF {number} (guest {})", domain.name));
        }
        // Whether somebody uses a slice that is made ready for him cannot be seen.
        let held = site.host.held.iter().find(|it| it.pf == pf.address && it.vf == number)?;
        let ready = site.desired.slices.keys().any(|name| held.slice.to_string() == name.as_str());
        ready.then(|| format!("VF {number} (slice {})", held.slice))
    };
    pf.vfs.iter().filter_map(user).collect()
}

fn too_few(fabric: &Fabric, slices: &[Slice<'_>], site: SliceSite<'_>) -> Option<SliceRefusal> {
    let asked = slices.iter().filter(|slice| slice.wish.fabric == fabric.name && slice.is_up());
    let asked = asked.count() as u32;
    let mut others = Vec::new();
    let mut all = 0;
    for pf in fabric.pfs_of(&site.host.sriov) {
        all += fabric.vfs_of(pf);
        if pf.count == fabric.vfs_of(pf) {
            let strangers = (0..pf.count).filter_map(|number| site.stranger(pf, number));
            others.extend(strangers.map(|stranger| format!("{}: {stranger}", pf.called())));
        }
    }
    let most = all.saturating_sub(others.len() as u32);
    let fabric = fabric.name.clone();
    (asked > most).then_some(SliceRefusal::TooFew { fabric, asked, most, others })
}

const SM_QOS: &str = "a VF on InfiniBand has no rate, and no driver offers one: limit it at the \
     subnet manager, by the QoS of its partition or GUID (OpenSM's qos-policy.conf, UFM's QoS)";

fn slice_refusals(slice: &Slice<'_>, site: SliceSite<'_>) -> Vec<SliceRefusal> {
    let wish = slice.wish;
    let mut refusals = Vec::new();
    let known = || site.desired.fabrics.iter().map(|fabric| fabric.name.to_string()).collect();
    if site.desired.fabrics.iter().all(|fabric| fabric.name != wish.fabric) {
        let (slice, fabric) = (slice.id.clone(), wish.fabric.clone());
        return vec![SliceRefusal::NoFabric { slice, fabric, known: known() }];
    }
    let mut key = |given: bool, key: &str, help: &str| {
        let on = match slice.link {
            LinkLayer::InfiniBand => LinkLayer::Ethernet,
            LinkLayer::Ethernet => LinkLayer::InfiniBand,
        };
        let (slice, key, help) = (slice.id.clone(), key.to_owned(), help.to_owned());
        refusals.extend(given.then_some(SliceRefusal::Key { slice, key, on, help }));
    };
    match slice.link {
        LinkLayer::InfiniBand => {
            key(wish.rate.is_some(), "rate", SM_QOS);
            key(wish.mac.is_some(), "mac", "guid says who a slice on InfiniBand is");
            key(wish.vlan.is_some(), "vlan", "pkeys part an InfiniBand fabric");
            key(wish.trust, "trust", "an InfiniBand VF cannot change its GUID anyway");
        }
        LinkLayer::Ethernet => {
            key(!wish.pkeys.is_empty(), "pkeys", "vlan parts an Ethernet");
            key(wish.guid.is_some(), "guid", "mac says who a slice on Ethernet is");
        }
    }
    if let Some(rate) = wish.rate.filter(|rate| rate.megabits().is_none()) {
        let below = (rate.bytes() * 8 / 1_000_000).max(1);
        refusals.push(SliceRefusal::Rate { slice: slice.id.clone(), rate, below });
    }
    let mut partitions: Vec<u16> = wish.pkeys.iter().map(|key| key.partition()).collect();
    partitions.sort_unstable();
    if let Some(pair) = partitions.windows(2).find(|pair| pair[0] == pair[1]) {
        refusals.push(SliceRefusal::Partition { slice: slice.id.clone(), partition: pair[0] });
    }
    refusals
}

/// Identities that two have.
fn identities_twice(slices: &[Slice<'_>], site: SliceSite<'_>) -> Vec<SliceRefusal> {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    for pf in &site.host.sriov.pfs {
        owners.extend(own_identities(pf));
        let strange = pf.vfs.iter().filter(|vf| site.stranger(pf, vf.number).is_some());
        for vf in strange {
            let by = format!("VF {} of {}", vf.number, pf.called());
            let says = &vf.says;
            let guids = [says.node, says.port].into_iter().flatten().map(|guid| guid.to_string());
            let macs = says.mac.iter().map(ToString::to_string);
            owners.extend(guids.chain(macs).map(|text| (text, by.clone())));
        }
    }
    for guest in &site.desired.guests {
        let macs = guest.nics.iter().filter_map(|nic| nic.mac.as_ref());
        owners.extend(macs.map(|mac| (mac.to_string(), format!("a NIC of {}", guest.name))));
    }
    let mut refusals = Vec::new();
    for slice in slices {
        let id = slice.id.clone();
        match &slice.identity {
            Identity::InfiniBand { port, .. } => {
                if let Some(by) = owners.insert(port.to_string(), format!("slice {id}")) {
                    refusals.push(SliceRefusal::Guid { slice: id, guid: *port, by });
                }
            }
            Identity::Ethernet { mac } => {
                if let Some(by) = owners.insert(mac.to_string(), format!("slice {id}")) {
                    refusals.push(SliceRefusal::Mac { slice: id, mac: mac.clone(), by });
                }
            }
        }
    }
    refusals
}

/// What a physical function itself is called on its fabric.
fn own_identities(pf: &Pf) -> Vec<(String, String)> {
    let device = pf.device.iter();
    let guids = device.flat_map(|device| {
        let ports = device.ports.iter().filter_map(|port| port.guid);
        device.guid.into_iter().chain(ports)
    });
    guids.map(|guid| (guid.to_string(), pf.called().to_owned())).collect()
}

fn guests(site: SliceSite<'_>) -> Vec<SliceRefusal> {
    let mut refusals = Vec::new();
    for guest in &site.desired.guests {
        let sliced = !guest.slices.is_empty();
        if guest.kind == Kind::Pvh && (sliced || !guest.pci.is_empty()) {
            refusals.push(SliceRefusal::Pvh { guest: guest.name.clone() });
        }
        if sliced && guest.state == Wanted::Saved {
            refusals.push(SliceRefusal::Saved { guest: guest.name.clone() });
        }
        for device in &guest.pci {
            let fabric =
                site.host.sriov.owner(device).and_then(|(pf, _)| site.fabric_of(&pf.address));
            if let Some(fabric) = fabric {
                let (guest, fabric) = (guest.name.clone(), fabric.name.clone());
                refusals.push(SliceRefusal::VfAsPci { guest, device: device.clone(), fabric });
            }
        }
    }
    refusals
}
