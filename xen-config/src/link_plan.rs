//! From facts to the steps of a network, each possible once those before it are done.
//!
//! What carries no address comes first. What could cut the node off (a card with addresses
//! becomes a port, its addresses move) comes last and in one run, so that the gap is short.

use std::{borrow::Cow, collections::BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    link::{Link, LinkKind, LinkName, Links},
    link_step::LinkStep,
    link_target::{Target, Wanted},
    link_wish,
    network::Network,
    vlan::PortVlans,
};

/// What is to be done to a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkPlan {
    /// In this order.
    pub steps: Vec<LinkStep>,
    /// Whether they touch a link that has an address, or one above or below it: the change must
    /// be confirmed then.
    pub guarded: bool,
    /// The links that change, by a step or along with another.
    pub touched: BTreeSet<LinkName>,
}

impl LinkPlan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// The steps from `facts` to `network`.
///
/// # Errors
/// Every reason why the network cannot be on this machine, with what would be accepted.
pub fn plan(network: &Network, facts: &Links) -> Result<LinkPlan, Vec<String>> {
    let steps = steps(&link_wish::target(network, facts)?, facts);
    if steps.is_empty() {
        return Ok(LinkPlan::default());
    }
    let path = facts.path();
    let guarded = steps.iter().any(|step| path.contains(step.link()));
    let touched = facts.above_and_below(steps.iter().map(LinkStep::link));
    Ok(LinkPlan { steps, guarded, touched })
}

/// The steps from the facts `now` back to what the `touched` links were `before`.
pub fn restore(before: &Links, touched: &BTreeSet<LinkName>, now: &Links) -> Vec<LinkStep> {
    steps(&Target::former(before, touched, now), now)
}

/// The steps to a target, while the model follows them. Where there is none in any order, nothing needs
/// to be ordered: that is what most looks at a node end with.
fn steps(target: &Target, facts: &Links) -> Vec<LinkStep> {
    if Planner::new(facts).run(target, &BTreeSet::new()).is_empty() {
        return Vec::new();
    }
    Planner::new(facts).run(target, &facts.path())
}

/// The steps so far, and what they made of the facts.
struct Planner<'a> {
    now: Cow<'a, Links>,
    steps: Vec<LinkStep>,
}

impl<'a> Planner<'a> {
    fn new(facts: &'a Links) -> Self {
        Planner { now: Cow::Borrowed(facts), steps: Vec::new() }
    }

    /// What is on the `path` comes last.
    fn run(mut self, target: &Target, path: &BTreeSet<LinkName>) -> Vec<LinkStep> {
        let (on_path, off_path): (Vec<_>, Vec<_>) =
            target.links.iter().partition(|link| path.contains(&link.name));
        target.links.iter().for_each(|link| self.make(link));
        target.links.iter().for_each(|link| self.set_mtu(link));
        for links in [off_path, on_path] {
            links.iter().for_each(|link| self.free(link));
            links.iter().for_each(|link| self.join(link));
            links.iter().for_each(|link| self.set_vlans(link));
            // What lies below first: a VLAN device cannot be up before what carries it.
            links.iter().for_each(|link| self.set_up(link));
        }
        for route in &target.gone_routes {
            self.remove_route(route);
        }
        target.links.iter().for_each(|link| self.remove_addresses(link));
        target.links.iter().for_each(|link| self.set_up(link));
        target.links.iter().for_each(|link| self.add_addresses(link));
        for route in &target.routes {
            self.add_route(route);
        }
        for name in &target.absent {
            self.delete(name);
        }
        target.links.iter().for_each(|link| self.set_mtu(link));
        self.steps
    }

    fn step(&mut self, step: LinkStep) {
        self.now.to_mut().apply(&step);
        self.steps.push(step);
    }

    fn make(&mut self, wanted: &Wanted) {
        let Some(kind) = &wanted.kind else { return };
        let link = || wanted.name.clone();
        let there = self.now.get(&wanted.name).map(|there| &there.kind);
        let other = there.filter(|there| *there != kind).cloned();
        match (other, kind) {
            (None, _) if there.is_some() => {}
            (Some(LinkKind::Bridge(_)), LinkKind::Bridge(kind)) => {
                self.step(LinkStep::Bridge { link: link(), kind: *kind });
            }
            (Some(LinkKind::Bond(_)), LinkKind::Bond(kind)) => {
                self.step(LinkStep::Bond { link: link(), kind: *kind });
            }
            (other, kind) => {
                if other.is_some() {
                    self.step(LinkStep::Delete { link: link() });
                }
                let (mac, mtu, kind) = (wanted.mac, wanted.mtu, kind.clone());
                // A VLAN device has what its parent has, and may not have more.
                let mtu = mtu.filter(|_| !matches!(kind, LinkKind::Vlan { .. }));
                self.step(LinkStep::Create { link: link(), kind, mac, mtu });
            }
        }
        if let Some(mac) = wanted.mac
            && self.link(wanted).is_some_and(|link| link.mac != Some(mac))
        {
            self.step(LinkStep::Mac { link: link(), mac });
        }
    }

    fn link(&self, wanted: &Wanted) -> Option<&Link> {
        self.now.get(&wanted.name)
    }

    fn set_mtu(&mut self, wanted: &Wanted) {
        let now = self.link(wanted).map(|link| link.mtu);
        if let (Some(now), Some(mtu)) = (now, wanted.mtu)
            && now != mtu
        {
            self.step(LinkStep::Mtu { link: wanted.name.clone(), mtu });
        }
    }

    fn free(&mut self, wanted: &Wanted) {
        let has = self.link(wanted).is_some_and(|link| link.master.is_some());
        if wanted.master == Some(None) && has {
            self.step(LinkStep::Master { link: wanted.name.clone(), master: None });
        }
    }

    fn join(&mut self, wanted: &Wanted) {
        let Some(Some(master)) = &wanted.master else { return };
        if self.link(wanted).is_none_or(|link| link.master.as_ref() == Some(master)) {
            return;
        }
        let link = || wanted.name.clone();
        let bond = self.now.get(master).is_some_and(|link| matches!(link.kind, LinkKind::Bond(_)));
        if bond && self.link(wanted).is_some_and(|link| link.up) {
            // The kernel takes a port into a bond only when it is down.
            self.step(LinkStep::Down { link: link() });
        }
        self.step(LinkStep::Master { link: link(), master: Some(master.clone()) });
    }

    fn set_vlans(&mut self, wanted: &Wanted) {
        let Some(vlans) = &wanted.vlans else { return };
        let Some(link) = self.link(wanted) else { return };
        let none = PortVlans::default();
        if let Some(change) = link.vlans.as_ref().unwrap_or(&none).change_to(vlans) {
            let host = matches!(link.kind, LinkKind::Bridge(_));
            self.step(LinkStep::Vlans { link: wanted.name.clone(), host, change });
        }
    }

    fn set_up(&mut self, wanted: &Wanted) {
        let link = || wanted.name.clone();
        let carried = match self.link(wanted).map(|link| &link.kind) {
            Some(LinkKind::Vlan { parent: Some(parent), .. }) => {
                self.now.get(parent).is_none_or(|parent| parent.up)
            }
            _ => true,
        };
        match (self.link(wanted).map(|link| link.up), wanted.up) {
            (Some(false), Some(true)) if carried => self.step(LinkStep::Up { link: link() }),
            (Some(true), Some(false)) => self.step(LinkStep::Down { link: link() }),
            _ => {}
        }
    }

    fn remove_addresses(&mut self, wanted: &Wanted) {
        for net in &wanted.gone {
            let has = |link: &Link| link.addresses.iter().any(|address| address.net == *net);
            if self.link(wanted).is_some_and(has) {
                self.step(LinkStep::RemoveAddress { link: wanted.name.clone(), net: *net });
            }
        }
    }

    fn add_addresses(&mut self, wanted: &Wanted) {
        for net in &wanted.addresses {
            let has = |link: &Link| link.addresses.iter().any(|address| address.net == *net);
            if self.link(wanted).is_some_and(|link| !has(link)) {
                self.step(LinkStep::AddAddress { link: wanted.name.clone(), net: *net });
            }
        }
    }

    fn remove_route(&mut self, route: &crate::link::Route) {
        if self.now.routes.iter().any(|old| old.leads_like(route)) {
            self.step(LinkStep::RemoveRoute { route: route.clone() });
        }
    }

    fn add_route(&mut self, route: &crate::link::Route) {
        if !self.now.routes.iter().any(|old| old.leads_like(route)) {
            self.step(LinkStep::AddRoute { route: route.clone() });
        }
    }

    fn delete(&mut self, name: &LinkName) {
        if self.now.get(name).is_some() {
            self.step(LinkStep::Delete { link: name.clone() });
        }
    }
}

impl Links {
    /// The links by which the node may be reached: those with an address, and all that lie
    /// above and below them.
    fn path(&self) -> BTreeSet<LinkName> {
        let reached =
            |(name, link): &(&LinkName, &Link)| name.as_str() != "lo" && !link.addresses.is_empty();
        let mut path = BTreeSet::new();
        let mut open: Vec<_> = self.links.iter().filter(reached).map(|(name, _)| name).collect();
        while let Some(name) = open.pop() {
            if !path.insert(name.clone()) {
                continue;
            }
            open.extend(self.ports(name));
            let Some(link) = self.get(name) else { continue };
            open.extend(&link.master);
            if let LinkKind::Vlan { parent: Some(parent), .. } = &link.kind {
                open.push(parent);
            }
        }
        path
    }

    /// `names`, and all that change along: ports of a bond, VLAN devices on a card.
    fn above_and_below<'a>(
        &'a self,
        names: impl Iterator<Item = &'a LinkName>,
    ) -> BTreeSet<LinkName> {
        let mut open: Vec<_> = names.collect();
        let mut all = BTreeSet::new();
        while let Some(name) = open.pop() {
            if all.insert(name.clone()) {
                open.extend(self.ports(name));
                open.extend(self.vlans_on(name));
            }
        }
        all
    }
}
