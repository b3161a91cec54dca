//! Whether guests fit a machine: every reason why not, before the first step.

use std::collections::BTreeMap;

use crate::{
    Name, Refusal, Size,
    domain::{Boot, Guest, Kind},
    guest_plan::{self, Site},
    pci::PciAddress,
};

/// Every reason why `guests` cannot be at `site`, where these bridges are or will be; whether each
/// filters VLANs.
pub fn refusals(guests: &[Guest], site: Site<'_>, bridges: &BTreeMap<&str, bool>) -> Vec<Refusal> {
    let mut refusals = twice(guests, site);
    for guest in guests {
        refusals.extend(foreign(guest, site));
        refusals.extend(cpus(guest, site));
        refusals.extend(devices(guest, site, bridges));
        refusals.extend(
            shape(guest).map(|reason| Refusal::Guest { guest: guest.name.clone(), reason }),
        );
    }
    refusals.extend(memory(guests, site));
    refusals
}

/// Names, addresses and devices that two guests ask for.
fn twice(guests: &[Guest], site: Site<'_>) -> Vec<Refusal> {
    let mut seen: BTreeMap<String, &Name> = BTreeMap::new();
    let mut refusals = Vec::new();
    for guest in guests {
        let macs = guest_plan::place(guest, site).macs;
        let mut things = vec![format!("the name {}", guest.name)];
        things.extend(macs.iter().map(|mac| format!("the address {mac}")));
        things.extend(guest.pci.iter().map(|device| format!("PCI device {device}")));
        let writable = guest.disks.iter().filter(|disk| !disk.readonly);
        things.extend(writable.map(|disk| format!("the disk {}", disk.path)));
        let names = guest.disks.iter().map(|disk| disk.device.as_str());
        things.extend(names.map(|device| format!("{device} of {}", guest.name)));
        for what in things {
            if let Some(first) = seen.insert(what.clone(), &guest.name) {
                let (first, second) = (first.clone(), guest.name.clone());
                refusals.push(Refusal::Twice { what, first, second });
            }
        }
    }
    refusals
}

fn foreign(guest: &Guest, site: Site<'_>) -> Option<Refusal> {
    let domain = site.xen.domains.iter().find(|domain| domain.name == guest.name.as_str())?;
    let theirs = !guest.own && !guest_plan::is_ours(domain, &site.host.node);
    theirs.then(|| Refusal::Foreign { guest: guest.name.clone() })
}

fn cpus(guest: &Guest, site: Site<'_>) -> Vec<Refusal> {
    let most = &site.service.guests;
    let mut refusals = Vec::new();
    if guest.vcpus == 0 || guest.vcpus as usize > most.len() {
        let (guest, asked) = (guest.name.clone(), guest.vcpus);
        refusals.push(Refusal::Vcpus { guest, asked, most: most.len() as u32 });
    }
    for cpus in guest.cpus.iter().chain(&guest.pins) {
        let missing = cpus.without(most);
        if !missing.is_empty() {
            let who = format!("guest {}", guest.name);
            refusals.push(Refusal::NoSuchCpus { who, missing, most: most.clone() });
        }
    }
    refusals
}

fn devices(guest: &Guest, site: Site<'_>, bridges: &BTreeMap<&str, bool>) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for nic in &guest.nics {
        let bridge = nic.bridge.clone();
        match (bridges.get(bridge.as_str()), nic.vlan) {
            (None, _) => {
                let known = bridges.keys().map(|bridge| (*bridge).to_owned()).collect();
                refusals.push(Refusal::Bridge { guest: guest.name.clone(), bridge, known });
            }
            (Some(false), Some(vlan)) => refusals.push(Refusal::Guest {
                guest: guest.name.clone(),
                reason: format!(
                    "VLAN {} on bridge {bridge}, which filters none: vlan_filtering = true, or no vlan",
                    vlan.number()
                ),
            }),
            _ => {}
        }
    }
    let there = |device: &PciAddress| site.host.pci.iter().any(|known| known.address == *device);
    for device in guest.pci.iter().filter(|device| !there(device)) {
        refusals.push(Refusal::Pci { guest: guest.name.clone(), device: device.clone() });
    }
    refusals
}

/// What of a guest contradicts itself.
fn shape(guest: &Guest) -> impl Iterator<Item = String> {
    let mut reasons = Vec::new();
    let mut refuse = |refused: bool, reason: String| reasons.extend(refused.then_some(reason));
    let (vcpus, most) = (guest.vcpus, guest.most_vcpus());
    refuse(most < vcpus, format!("max_vcpus = {most} is less than vcpus = {vcpus}"));
    refuse(most > 128, format!("max_vcpus = {most}, 128 at most"));
    let (memory, limit) = (guest.memory, guest.most_memory());
    refuse(limit < memory, format!("max_memory = {limit} is less than memory = {memory}"));
    refuse(memory < Size::of_mib(16), format!("memory = {memory}, 16MiB at least"));
    refuse(guest.weight == 0, "weight = 0, 1 to 65535 would do".to_owned());
    let top = most * 100;
    refuse(
        u32::from(guest.cap) > top,
        format!("cap = {}, at most {top} for {most} CPUs", guest.cap),
    );
    let pins = guest.pins.len();
    refuse(
        pins > 0 && guest.cpus.is_some(),
        "cpus and pins are both given: one of them".to_owned(),
    );
    refuse(
        pins > 0 && pins != most as usize || guest.pins.iter().any(|pin| pin.is_empty()),
        format!("pins has {pins} lists, one for each of {most} virtual CPUs is wanted"),
    );
    let firmware = matches!(guest.boot, Boot::Firmware(_));
    let kind = guest.kind.name();
    refuse(
        firmware && guest.kind != Kind::Hvm,
        format!("firmware boots type = \"hvm\" only, and this is \"{kind}\": kernel or loader"),
    );
    for disk in &guest.disks {
        // xl drops a comma at the end, and a relative path is relative to whatever runs xl.
        let usable = disk.path.starts_with('/') && !disk.path.ends_with(',');
        refuse(!usable, format!("disk {}: a path from / that does not end in a comma", disk.path));
    }
    for (bridge, nic) in guest.nics.iter().map(|nic| (&nic.bridge, nic)) {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=15).contains(&bridge.len()) && bridge.bytes().all(plain);
        refuse(!fits, format!("bridge {:?} is no name of a link", nic.bridge));
    }
    reasons.into_iter()
}

/// Guests that start need memory that is free, or that others give back first.
fn memory(guests: &[Guest], site: Site<'_>) -> Option<Refusal> {
    let ours = |name: &str| guests.iter().any(|guest| guest.name.as_str() == name);
    let domains = site
        .xen
        .domains
        .iter()
        .filter(|domain| ours(&domain.name) || guest_plan::is_ours(domain, &site.host.node));
    let held: Size = domains.map(|domain| domain.memory).sum();
    let up = || guests.iter().filter(|guest| guest.is_up());
    let asked: Size = up().map(|guest| guest.memory).sum();
    let there =
        |guest: &&Guest| site.xen.domains.iter().any(|domain| domain.name == guest.name.as_str());
    let overhead: Size = up().filter(|guest| !there(guest)).map(overhead).sum();
    let most = site.xen.topology.free.and(held).without(overhead);
    (asked > most).then(|| Refusal::Memory { asked, most: Size::of_mib(most.mib()) })
}

/// What Xen itself needs for a guest: page tables of the second kind, a page a virtual CPU and
/// more, rounded up.
fn overhead(guest: &Guest) -> Size {
    let tables = Size::of_bytes(guest.most_memory().bytes() / 128);
    tables.and(Size::of_mib(4 + u64::from(guest.most_vcpus())))
}
