//! Why a desired network cannot be on a machine: what the kernel would not take.

use std::collections::BTreeSet;

use crate::{
    link::{Link, LinkKind, LinkName},
    link_wish::Wish,
    vlan::VLANS,
};

/// What the kernel gives a new link.
const MTU: u32 = 1500;

impl<'a> Wish<'a> {
    /// Who lies on whom: what the kernel does not take.
    pub(crate) fn check_lower(&mut self) {
        let network = self.network;
        for vlan in &network.vlan {
            self.need(&vlan.link, &format!("to carry {}", vlan.name));
            let same = |(name, link): &(&LinkName, &Link)| {
                let kind = LinkKind::Vlan { parent: Some(vlan.link.clone()), id: vlan.id };
                **name != vlan.name && link.kind == kind
            };
            if let Some((other, _)) = self.facts.links.iter().find(same) {
                let (id, link) = (vlan.id, &vlan.link);
                self.refuse(format!(
                    "VLAN {id} of {link} is there as {other}: it can have no second name"
                ));
            }
        }
        for (port, master) in self.masters.clone() {
            let (kind, of) = (self.kind(port).cloned(), self.kind(master).cloned());
            let kind_name = kind.as_ref().map_or("", LinkKind::name).to_owned();
            let wrong = match (kind, of) {
                (Some(LinkKind::Bridge(_)), Some(LinkKind::Bridge(_))) => true,
                (Some(LinkKind::Bridge(_) | LinkKind::Bond(_)), Some(LinkKind::Bond(_))) => true,
                _ => port.as_str() == "lo",
            };
            if wrong {
                self.refuse(format!(
                    "{port} is a {kind_name} and cannot be a port of {master}: a card can"
                ));
            }
        }
        if let Some(name) = self.find_loop() {
            self.refuse(format!(
                "{name} would lie on itself: a port cannot be a VLAN device of its own bridge"
            ));
        }
    }

    fn find_loop(&self) -> Option<&'a LinkName> {
        let lower = self.lower();
        let below = |name: &&'a LinkName| {
            let mut open = lower.get(*name).cloned().unwrap_or_default();
            let mut seen = BTreeSet::new();
            while let Some(next) = open.pop() {
                if seen.insert(next) {
                    open.extend(lower.get(next).into_iter().flatten());
                }
            }
            seen.contains(*name)
        };
        lower.keys().copied().find(|name| below(name))
    }

    pub(crate) fn check_mtu(&mut self) {
        let mtu = |wish: &Self, name: &LinkName| {
            // The kernel gives a new port of a bond what the bond has.
            let bond = wish.masters.get(name).copied();
            let bond = bond.filter(|it| matches!(wish.kind(it), Some(LinkKind::Bond(_))));
            let name = bond.unwrap_or(name);
            let wanted = wish.links.get(name).and_then(|link| link.mtu);
            let there = wish.facts.get(name).map(|link| link.mtu);
            wanted.or(there).or(wish.known(name).then_some(MTU))
        };
        for link in self.links.values().cloned().collect::<Vec<_>>() {
            if let Some(asked) = link.mtu.filter(|mtu| !(68..=65535).contains(mtu)) {
                self.refuse(format!("mtu {asked} of {}: 68 to 65535 is accepted", link.name));
            }
            if let (Some(LinkKind::Vlan { parent: Some(parent), .. }), Some(asked)) =
                (&link.kind, link.mtu)
                && let Some(most) = mtu(self, parent).filter(|most| *most < asked)
            {
                self.refuse(format!(
                    "mtu {asked} of {} is more than the {most} of {parent}",
                    link.name
                ));
            }
        }
    }

    pub(crate) fn check_vlans(&mut self) {
        for link in self.links.values().cloned().collect::<Vec<_>>() {
            let pvid = link.vlans.as_ref().and_then(|vlans| vlans.pvid);
            if let Some(pvid) = pvid.filter(|pvid| !VLANS.contains(pvid)) {
                self.refuse(format!("pvid {pvid} of {}: 1 to 4094 is accepted", link.name));
            }
        }
    }
}
