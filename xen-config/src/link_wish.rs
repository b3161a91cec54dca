//! The desired network beside the facts: what each link should be, or why it cannot.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cidr::Cidr,
    link::{BondKind, BridgeKind, Link, LinkKind, LinkName, Links, Route},
    link_target::{Target, Wanted, sort},
    network::{Bridge, Network},
    vlan::{PortVlans, VLANS, VlanSet},
};

/// `RTPROT_STATIC` (linux/rtnetlink.h): made by an administrator.
pub(crate) const STATIC: u8 = 4;

/// The target that `network` means on a machine with these links.
///
/// # Errors
/// Every reason why it cannot be, with what would be accepted.
pub(crate) fn target(network: &Network, facts: &Links) -> Result<Target, Vec<String>> {
    let mut wish = Wish::new(network, facts);
    wish.name_links();
    wish.join_ports();
    wish.check_lower();
    wish.move_addresses();
    wish.check_mtu();
    wish.check_vlans();
    wish.route();
    wish.own();
    if !wish.refusals.is_empty() {
        return Err(wish.refusals);
    }
    Ok(wish.finish())
}

/// A target in the making.
pub(crate) struct Wish<'a> {
    pub(crate) network: &'a Network,
    pub(crate) facts: &'a Links,
    pub(crate) links: BTreeMap<&'a LinkName, Wanted>,
    /// What the desired state makes or sets up by name.
    pub(crate) named: BTreeSet<&'a LinkName>,
    /// Who becomes whose port.
    pub(crate) masters: BTreeMap<&'a LinkName, &'a LinkName>,
    absent: BTreeSet<LinkName>,
    pub(crate) routes: Vec<Route>,
    pub(crate) gone_routes: Vec<Route>,
    refusals: Vec<String>,
}

impl<'a> Wish<'a> {
    fn new(network: &'a Network, facts: &'a Links) -> Self {
        Wish {
            network,
            facts,
            links: BTreeMap::new(),
            named: BTreeSet::new(),
            masters: BTreeMap::new(),
            absent: BTreeSet::new(),
            routes: Vec::new(),
            gone_routes: Vec::new(),
            refusals: Vec::new(),
        }
    }

    pub(crate) fn refuse(&mut self, why: String) {
        self.refusals.push(why);
    }

    /// What exists or will.
    pub(crate) fn known(&self, name: &LinkName) -> bool {
        self.facts.get(name).is_some()
            || self.links.get(name).is_some_and(|link| link.kind.is_some())
    }

    pub(crate) fn need(&mut self, name: &LinkName, what: &str) {
        if self.known(name) {
            return;
        }
        let mut there: BTreeSet<_> = self.facts.links.keys().map(LinkName::as_str).collect();
        let made = self.links.iter().filter(|(_, link)| link.kind.is_some());
        there.extend(made.map(|(name, _)| name.as_str()));
        let mut there: Vec<_> = there.into_iter().filter(|name| *name != "lo").collect();
        let more = there.len().saturating_sub(20);
        there.truncate(20);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        self.refuse(format!("no link {name} {what}: there are {}{more}", there.join(", ")));
    }

    /// Bridges, bonds, VLAN devices and links, each with what is said of it alone.
    fn name_links(&mut self) {
        let network = self.network;
        for bridge in &network.bridge {
            let kind = BridgeKind {
                vlan_filtering: bridge.vlan_filtering,
                default_pvid: bridge.default_pvid,
                stp: false,
            };
            let mut wanted = said(&bridge.name, bridge.mtu, bridge.up, &bridge.addresses);
            (wanted.kind, wanted.mac) = (Some(LinkKind::Bridge(kind)), bridge.mac);
            if bridge.default_pvid > *VLANS.end() {
                let pvid = bridge.default_pvid;
                self.refuse(format!(
                    "default_pvid {pvid} of {}: 0 to 4094 is accepted",
                    bridge.name
                ));
            }
            self.add(&bridge.name, wanted);
        }
        for bond in &network.bond {
            let kind = BondKind { mode: bond.mode, miimon: bond.miimon };
            let mut wanted = said(&bond.name, bond.mtu, bond.up, &bond.addresses);
            wanted.kind = Some(LinkKind::Bond(kind));
            self.add(&bond.name, wanted);
        }
        for vlan in &network.vlan {
            let mut wanted = said(&vlan.name, vlan.mtu, vlan.up, &vlan.addresses);
            wanted.kind = Some(LinkKind::Vlan { parent: Some(vlan.link.clone()), id: vlan.id });
            if !VLANS.contains(&vlan.id) {
                self.refuse(format!("VLAN {} of {}: 1 to 4094 is accepted", vlan.id, vlan.name));
            }
            self.add(&vlan.name, wanted);
        }
        for link in &network.link {
            self.add(&link.name, said(&link.name, link.mtu, link.up, &link.addresses));
            self.need(&link.name, "to be set up");
        }
    }

    fn add(&mut self, name: &'a LinkName, wanted: Wanted) {
        if let (Some(kind), Some(there)) = (&wanted.kind, self.facts.get(name))
            && kind.name() != there.kind.name()
        {
            let (kind, there) = (kind.name(), there.kind.name());
            self.refuse(format!(
                "{name} cannot be a {kind}: it is a {there} already; another name would do"
            ));
        }
        if let (Some(LinkKind::Bond(kind)), Some(Link { kind: LinkKind::Bond(there), .. })) =
            (&wanted.kind, self.facts.get(name))
            && kind.mode != there.mode
        {
            let (mode, there) = (kind.mode, there.mode);
            self.refuse(format!("bond {name} cannot become {mode}: it is {there}, and the kernel asks for a new bond"));
        }
        self.named.insert(name);
        if self.links.insert(name, wanted).is_some() {
            self.refuse(format!(
                "{name} is named twice: each link is one bridge, bond, vlan or link"
            ));
        }
    }

    /// A link that is named as a port or by an address alone is wanted too.
    pub(crate) fn link(&mut self, name: &'a LinkName) -> &mut Wanted {
        self.links.entry(name).or_insert_with(|| Wanted::named(name))
    }

    fn join_ports(&mut self) {
        let network = self.network;
        for bridge in &network.bridge {
            for port in &bridge.ports {
                self.join(&bridge.name, &port.name, bridge.mtu);
                let vlans = port.words.meaning();
                if vlans.is_some() && !bridge.vlan_filtering {
                    let (name, bridge) = (&port.name, &bridge.name);
                    self.refuse(format!(
                        "port {name} of {bridge} names VLANs: {bridge} needs vlan_filtering = true"
                    ));
                }
                if bridge.vlan_filtering {
                    let default = || PortVlans::access(bridge.default_pvid);
                    self.link(&port.name).vlans = Some(vlans.unwrap_or_else(default));
                }
            }
            self.host_vlans(bridge);
        }
        for bond in &network.bond {
            for port in &bond.ports {
                self.join(&bond.name, port, bond.mtu);
            }
        }
    }

    fn join(&mut self, master: &'a LinkName, port: &'a LinkName, mtu: Option<u32>) {
        self.need(port, &format!("to be a port of {master}"));
        if let Some(other) = self.masters.insert(port, master) {
            self.refuse(format!(
                "{port} is named as a port of {other} and of {master}: one is possible"
            ));
        }
        let now = self.facts.get(port).and_then(|link| link.master.as_ref());
        if let Some(now) = now.filter(|now| !self.named.contains(now) && !self.network.own) {
            let now = now.clone();
            self.refuse(format!("{port} is a port of {now}, which is not ours to change: name {now}, or set own = true"));
        }
        let wanted = self.link(port);
        wanted.master = Some(Some(master.clone()));
        wanted.mtu = wanted.mtu.or(mtu);
        wanted.up = wanted.up.or(Some(true));
    }

    /// The bridge's own VLANs: those said, and those of VLAN devices on it.
    fn host_vlans(&mut self, bridge: &'a Bridge) {
        let words = bridge.host.clone().unwrap_or_default().meaning();
        if words.is_some() && !bridge.vlan_filtering {
            let name = &bridge.name;
            self.refuse(format!("{name} names VLANs of its own: it needs vlan_filtering = true"));
        }
        if !bridge.vlan_filtering {
            return;
        }
        let on_it = self.network.vlan.iter().filter(|vlan| vlan.link == bridge.name);
        let ids = VlanSet::from_ranges(on_it.map(|vlan| (vlan.id, vlan.id)));
        let mut vlans = words.unwrap_or_else(|| PortVlans::access(bridge.default_pvid));
        vlans.tagged = vlans.tagged.with(&ids);
        vlans.untagged = vlans.untagged.without(&ids);
        self.link(&bridge.name).vlans = Some(vlans);
    }

    pub(crate) fn kind(&self, name: &LinkName) -> Option<&LinkKind> {
        let wanted = self.links.get(name).and_then(|link| link.kind.as_ref());
        wanted.or_else(|| self.facts.get(name).map(|link| &link.kind))
    }

    pub(crate) fn lower(&self) -> BTreeMap<&'a LinkName, Vec<&'a LinkName>> {
        let mut lower: BTreeMap<&LinkName, Vec<&LinkName>> = BTreeMap::new();
        for vlan in &self.network.vlan {
            lower.entry(&vlan.name).or_default().push(&vlan.link);
        }
        for (port, master) in &self.masters {
            lower.entry(master).or_default().push(port);
        }
        lower
    }

    /// What links that stay lie on. A VLAN device that is named as a port alone goes with its
    /// parent, so that must stay too.
    fn carriers(&self) -> BTreeSet<LinkName> {
        let mut open: Vec<&LinkName> = self.links.keys().copied().collect();
        let mut carriers = BTreeSet::new();
        while let Some(name) = open.pop() {
            if let Some(LinkKind::Vlan { parent: Some(parent), .. }) = self.kind(name)
                && carriers.insert(parent.clone())
            {
                open.push(parent);
            }
        }
        carriers
    }

    /// What is not named goes, when all is ours.
    fn own(&mut self) {
        if !self.network.own {
            return;
        }
        let mut kept = self.carriers();
        kept.extend(self.network.management.clone());
        for (name, link) in &self.facts.links {
            let made = !matches!(link.kind, LinkKind::Other(_));
            let named = self.named.contains(name) || self.masters.contains_key(name);
            if made && !named && !kept.contains(name) {
                self.absent.insert(name.clone());
            }
            let Some(master) = &link.master else { continue };
            let ours = self.named.contains(master) || self.links.contains_key(name);
            if ours && !self.masters.contains_key(name) && !name.is_guests() {
                self.link(name).master = Some(None);
            }
        }
        // What moved there with the management card has no other name.
        let management = self.network.management.as_ref();
        let keep: Vec<_> = management.into_iter().flat_map(|name| [name, self.top(name)]).collect();
        for (name, wanted) in &mut self.links {
            let Some(link) = self.facts.get(name).filter(|_| !keep.contains(name)) else {
                continue;
            };
            let extra = link.addresses.iter().filter(|a| !a.dynamic).map(|address| address.net);
            let extra = extra.filter(|net| !wanted.addresses.contains(net));
            wanted.gone.extend(extra.filter(|net| !wanted.gone.contains(net)).collect::<Vec<_>>());
            for route in self.facts.routes.iter().filter(|route| route.dev == **name) {
                let stays = self.routes.iter().any(|wanted| wanted.leads_like(route));
                if !stays && route.protocol == STATIC && !self.gone_routes.contains(route) {
                    self.gone_routes.push(route.clone());
                }
            }
        }
    }

    fn finish(mut self) -> Target {
        let lower = self.lower();
        let names: Vec<&LinkName> = self.links.keys().copied().collect();
        let sorted = sort(&names, &lower);
        let links = sorted.into_iter().filter_map(|name| self.links.remove(name)).collect();
        let (absent, routes, gone_routes) = (self.absent, self.routes, self.gone_routes);
        Target { links, absent, routes, gone_routes }
    }
}

fn said(name: &LinkName, mtu: Option<u32>, up: bool, addresses: &[Cidr]) -> Wanted {
    Wanted { mtu, up: Some(up), addresses: addresses.to_vec(), ..Wanted::named(name) }
}
