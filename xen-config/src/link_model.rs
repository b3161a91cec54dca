//! What a step does to the facts: the kernel's rules, as far as a plan needs them.
//!
//! The tests against a real kernel show that the rules are its own.

use std::collections::BTreeMap;

use crate::{
    link::{Address, Link, LinkKind, LinkName, Links},
    link_step::LinkStep,
    vlan::PortVlans,
};

/// What Ethernet carries unless it is told otherwise.
const MTU: u32 = 1500;

impl Links {
    /// A link.
    pub fn get(&self, name: &LinkName) -> Option<&Link> {
        self.links.get(name)
    }

    /// The ports of a bridge or bond, by name.
    pub fn ports<'a>(&'a self, master: &'a LinkName) -> impl Iterator<Item = &'a LinkName> {
        let is_port = move |(_, link): &(_, &Link)| link.master.as_ref() == Some(master);
        self.links.iter().filter(is_port).map(|(name, _)| name)
    }

    /// The VLAN devices on a link, by name.
    pub fn vlans_on<'a>(&'a self, parent: &'a LinkName) -> impl Iterator<Item = &'a LinkName> {
        let is_on = move |link: &Link| matches!(&link.kind, LinkKind::Vlan { parent: Some(on), .. } if on == parent);
        self.links.iter().filter(move |(_, link)| is_on(link)).map(|(name, _)| name)
    }

    /// The bridges that exist, by name: whether each filters VLANs.
    pub fn bridges(&self) -> BTreeMap<&str, bool> {
        let links = self.links.iter();
        let bridges = links.filter_map(|(name, link)| match link.kind {
            LinkKind::Bridge(kind) => Some((name.as_str(), kind.vlan_filtering)),
            _ => None,
        });
        bridges.collect()
    }

    /// Does `step` to the facts as the kernel would. What cannot be done is left undone.
    pub fn apply(&mut self, step: &LinkStep) {
        match step {
            LinkStep::Create { link, kind, mac, mtu } => {
                let made = Link { mac: *mac, mtu: mtu.unwrap_or(MTU), ..fresh(kind) };
                self.links.entry(link.clone()).or_insert(made);
            }
            LinkStep::Delete { link } => self.delete(link),
            LinkStep::Bridge { link, kind } => self.set_bridge(link, LinkKind::Bridge(*kind)),
            LinkStep::Bond { link, kind } => {
                self.edit(link, |link| link.kind = LinkKind::Bond(*kind))
            }
            LinkStep::Mac { link, mac } => self.edit(link, |link| link.mac = Some(*mac)),
            LinkStep::Mtu { link, mtu } => self.set_mtu(link, *mtu),
            LinkStep::Master { link, master } => self.set_master(link, master.as_ref()),
            LinkStep::Vlans { link, change, .. } => {
                self.edit(link, |link| link.vlans.get_or_insert_default().apply(change));
            }
            LinkStep::Up { link } => self.up(link),
            LinkStep::Down { link } => self.down(link),
            LinkStep::AddAddress { link, net } => self.edit(link, |link| {
                link.addresses.retain(|address| address.net != *net);
                link.addresses.push(Address::fixed(*net));
            }),
            LinkStep::RemoveAddress { link, net } => {
                self.edit(link, |link| link.addresses.retain(|address| address.net != *net));
                let left = self
                    .get(link)
                    .is_some_and(|link| link.addresses.iter().any(|a| a.net.ip.is_ipv4()));
                // The kernel takes an IPv4 link out of its tables with its last address.
                if net.ip.is_ipv4() && !left {
                    self.routes.retain(|route| route.dev != *link || route.to.ip.is_ipv6());
                }
            }
            LinkStep::AddRoute { route } => {
                // Where it leads, by which metric: one route of each.
                self.routes.retain(|old| (old.to, old.metric) != (route.to, route.metric));
                self.routes.push(route.clone());
            }
            LinkStep::RemoveRoute { route } => self.routes.retain(|old| !old.leads_like(route)),
        }
    }

    fn edit(&mut self, name: &LinkName, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.get_mut(name) {
            change(link);
        }
    }

    fn delete(&mut self, name: &LinkName) {
        for port in self.ports(name).cloned().collect::<Vec<_>>() {
            self.set_master(&port, None);
        }
        for vlan in self.vlans_on(name).cloned().collect::<Vec<_>>() {
            self.delete(&vlan);
        }
        self.links.remove(name);
        self.routes.retain(|route| route.dev != *name);
    }

    /// Ports that have the old default alone, as they got it, get the new one.
    fn set_bridge(&mut self, name: &LinkName, to: LinkKind) {
        let Some(Link { kind: LinkKind::Bridge(old), .. }) = self.links.get(name) else { return };
        let LinkKind::Bridge(new) = to else { return };
        let (old, new) = (old.default_pvid, new.default_pvid);
        let members: Vec<_> = self.ports(name).cloned().chain([name.clone()]).collect();
        for member in members.iter().filter(|_| old != new) {
            self.edit(member, |link| {
                let vlans = link.vlans.get_or_insert_default();
                let given = old == 0 || (vlans.pvid == Some(old) && vlans.untagged.contains(old));
                let has = vlans.untagged.contains(new) || vlans.tagged.contains(new);
                if given && !has {
                    let from = PortVlans::access(old);
                    let change = from.change_to(&PortVlans::access(new)).unwrap_or_default();
                    vlans.apply(&change);
                }
            });
        }
        self.edit(name, |link| link.kind = to);
    }

    /// A bond's ports follow it; VLAN devices cannot be larger than what carries them.
    fn set_mtu(&mut self, name: &LinkName, mtu: u32) {
        let is_bond = self.get(name).is_some_and(|link| matches!(link.kind, LinkKind::Bond(_)));
        self.edit(name, |link| link.mtu = mtu);
        for port in self.ports(name).filter(|_| is_bond).cloned().collect::<Vec<_>>() {
            self.set_mtu(&port, mtu);
        }
        for vlan in self.vlans_on(name).cloned().collect::<Vec<_>>() {
            if self.get(&vlan).is_some_and(|link| link.mtu > mtu) {
                self.set_mtu(&vlan, mtu);
            }
        }
    }

    fn set_master(&mut self, name: &LinkName, master: Option<&LinkName>) {
        let kind_of = |name: &LinkName| self.get(name).map(|link| link.kind.clone());
        let old = self.get(name).and_then(|link| link.master.clone());
        if old.as_ref() == master {
            return;
        }
        if let Some(LinkKind::Bond(_)) = old.as_ref().and_then(kind_of) {
            self.down(name);
        }
        let vlans = match master.and_then(|master| self.get(master)) {
            Some(Link { kind: LinkKind::Bridge(bridge), .. }) => {
                Some(PortVlans::access(bridge.default_pvid))
            }
            _ => None,
        };
        let bond = master.and_then(|master| self.get(master));
        let bond = bond.filter(|link| matches!(link.kind, LinkKind::Bond(_))).map(|link| link.mtu);
        self.edit(name, |link| {
            link.master = master.cloned();
            link.vlans = vlans;
            link.up |= bond.is_some();
            link.mtu = bond.unwrap_or(link.mtu);
        });
    }

    /// VLAN devices follow what carries them.
    fn up(&mut self, name: &LinkName) {
        if self.get(name).is_none_or(|link| link.up) {
            return;
        }
        self.edit(name, |link| link.up = true);
        for vlan in self.vlans_on(name).cloned().collect::<Vec<_>>() {
            self.up(&vlan);
        }
    }

    /// IPv4 addresses stay, IPv6 addresses and all routes go.
    fn down(&mut self, name: &LinkName) {
        if self.get(name).is_none_or(|link| !link.up) {
            return;
        }
        self.edit(name, |link| {
            link.up = false;
            link.addresses.retain(|address| address.net.ip.is_ipv4());
        });
        self.routes.retain(|route| route.dev != *name);
        for vlan in self.vlans_on(name).cloned().collect::<Vec<_>>() {
            self.down(&vlan);
        }
    }
}

/// As it is right after it was made.
fn fresh(kind: &LinkKind) -> Link {
    let vlans = match kind {
        LinkKind::Bridge(bridge) => Some(PortVlans::access(bridge.default_pvid)),
        _ => None,
    };
    Link {
        index: 0,
        mac: None,
        permanent: None,
        mtu: MTU,
        up: false,
        carrier: false,
        master: None,
        kind: kind.clone(),
        vlans,
        addresses: Vec::new(),
    }
}
