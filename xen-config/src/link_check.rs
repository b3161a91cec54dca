//! Why a desired network cannot be on a machine: what the kernel would not take.

use std::collections::BTreeSet;

use crate::{
    link::{Link, LinkKind, LinkName},
    link_target::Wanted,
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
        let wrong = |(port, master): (&&LinkName, &&LinkName)| {
            let kind = self.kind(port);
            let wrong = match (kind, self.kind(master)) {
                (Some(LinkKind::Bridge(_)), Some(LinkKind::Bridge(_))) => true,
                (Some(LinkKind::Bridge(_) | LinkKind::Bond(_)), Some(LinkKind::Bond(_))) => true,
                _ => port.as_str() == "lo",
            };
            let kind = kind.map_or("", LinkKind::name);
            let why = || format!("{port} is a {kind} and cannot be a port of {master}: a card can");
            wrong.then(why)
        };
        let wrong: Vec<String> = self.masters.iter().filter_map(wrong).collect();
        wrong.into_iter().for_each(|why| self.refuse(why));
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
        let mut wrong = Vec::new();
        for link in self.links.values() {
            let (Some(asked), name) = (link.mtu, &link.name) else { continue };
            if !(68..=65535).contains(&asked) {
                wrong.push(format!("mtu {asked} of {name}: 68 to 65535 is accepted"));
            }
            if let Some(LinkKind::Vlan { parent: Some(parent), .. }) = &link.kind
                && let Some(most) = mtu(self, parent).filter(|most| *most < asked)
            {
                wrong.push(format!("mtu {asked} of {name} is more than the {most} of {parent}"));
            }
        }
        wrong.into_iter().for_each(|why| self.refuse(why));
    }

    pub(crate) fn check_vlans(&mut self) {
        let wrong = |link: &Wanted| {
            let pvid = link.vlans.as_ref().and_then(|vlans| vlans.pvid);
            let pvid = pvid.filter(|pvid| !VLANS.contains(pvid))?;
            Some(format!("pvid {pvid} of {}: 1 to 4094 is accepted", link.name))
        };
        let wrong: Vec<String> = self.links.values().filter_map(wrong).collect();
        wrong.into_iter().for_each(|why| self.refuse(why));
    }
}
