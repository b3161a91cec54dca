//! The desired network beside the facts: what each link should be, or why it cannot.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cidr::Cidr,
    link::{BondKind, BridgeKind, Link, LinkKind, LinkName, Links, Route},
    link_target::{Target, Wanted, sort},
    network::{Bridge, Destination, Gateway, Network},
    vlan::{PortVlans, VLANS, VlanSet},
};

/// `RTPROT_STATIC` (linux/rtnetlink.h): made by an administrator.
const STATIC: u8 = 4;
/// What the kernel takes for an IPv6 route without a metric.
const METRIC_V6: u32 = 1024;

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

struct Wish<'a> {
    network: &'a Network,
    facts: &'a Links,
    links: BTreeMap<&'a LinkName, Wanted>,
    /// What the desired state makes or sets up by name.
    named: BTreeSet<&'a LinkName>,
    /// Who becomes whose port.
    masters: BTreeMap<&'a LinkName, &'a LinkName>,
    absent: BTreeSet<LinkName>,
    routes: Vec<Route>,
    gone_routes: Vec<Route>,
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

    fn refuse(&mut self, why: String) {
        self.refusals.push(why);
    }

    /// What exists or will.
    fn known(&self, name: &LinkName) -> bool {
        self.facts.get(name).is_some()
            || self.links.get(name).is_some_and(|link| link.kind.is_some())
    }

    fn need(&mut self, name: &LinkName, what: &str) {
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
    fn link(&mut self, name: &'a LinkName) -> &mut Wanted {
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

    fn kind(&self, name: &LinkName) -> Option<&LinkKind> {
        let wanted = self.links.get(name).and_then(|link| link.kind.as_ref());
        wanted.or_else(|| self.facts.get(name).map(|link| &link.kind))
    }

    /// Who lies on whom: what the kernel does not take.
    fn check_lower(&mut self) {
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

    fn lower(&self) -> BTreeMap<&'a LinkName, Vec<&'a LinkName>> {
        let mut lower: BTreeMap<&LinkName, Vec<&LinkName>> = BTreeMap::new();
        for vlan in &self.network.vlan {
            lower.entry(&vlan.name).or_default().push(&vlan.link);
        }
        for (port, master) in &self.masters {
            lower.entry(master).or_default().push(port);
        }
        lower
    }

    /// The bridge or bond above all others that `name` will be under; itself when it is free.
    fn top(&self, name: &'a LinkName) -> &'a LinkName {
        let mut top = name;
        for _ in 0..self.masters.len() + self.facts.links.len() {
            let stays = self.facts.get(top).and_then(|link| link.master.as_ref());
            let stays = stays.filter(|_| !self.network.own);
            match self.masters.get(top).copied().or(stays) {
                Some(master) => top = master,
                None => break,
            }
        }
        top
    }

    /// What a new port has of addresses and routes goes to its master, when it may.
    fn move_addresses(&mut self) {
        let network = self.network;
        if let Some(management) = &network.management {
            self.need(management, "to be the management link");
            self.move_from(management, management);
            let mut now = self.facts.get(management).and_then(|link| link.master.as_ref());
            while let Some(master) = now {
                self.move_from(master, management);
                now = self.facts.get(master).and_then(|link| link.master.as_ref());
            }
            let mac = self.facts.get(management).and_then(|link| link.mac);
            let top = self.top(management);
            if top != management && matches!(self.kind(top), Some(LinkKind::Bridge(_))) {
                let top = self.link(top);
                top.mac = top.mac.or(mac);
            }
        }
        for port in self.masters.keys().copied().collect::<Vec<_>>() {
            self.check_port(port);
        }
    }

    /// Moves what `from` has to where the management card will be.
    fn move_from(&mut self, from: &'a LinkName, management: &'a LinkName) {
        let top = self.top(management);
        let Some(link) = self.facts.get(from).filter(|_| from != top) else { return };
        for address in &link.addresses {
            let ours = |other: &&LinkName| *other == from;
            let named = self.network_names(address.net).any(|name| ours(&name));
            if named {
                continue;
            }
            self.link(from).gone.push(address.net);
            // What routers told this link they tell the next.
            if !address.dynamic || address.net.ip.is_ipv4() {
                let top = self.link(top);
                let is_new = !top.addresses.contains(&address.net);
                top.addresses.extend(is_new.then_some(address.net));
            }
        }
        for route in self.facts.routes.iter().filter(|route| route.dev == *from) {
            self.gone_routes.push(route.clone());
            if route.protocol != RA {
                self.routes.push(Route { dev: top.clone(), protocol: STATIC, ..route.clone() });
            }
        }
    }

    /// Links that were told to have this address.
    fn network_names(&self, net: Cidr) -> impl Iterator<Item = &LinkName> {
        let has = move |wanted: &&Wanted| wanted.addresses.contains(&net);
        self.links.values().filter(has).map(|wanted| &wanted.name)
    }

    fn check_port(&mut self, port: &'a LinkName) {
        let top = self.top(port);
        if let Some(address) = self.links.get(port).and_then(|link| link.addresses.first()) {
            let address = *address;
            self.refuse(format!("{port} is a port of {top} and cannot have {address}: {top} can"));
        }
        let Some(link) = self.facts.get(port) else { return };
        let gone = self.links.get(port).map(|link| link.gone.clone()).unwrap_or_default();
        for address in link.addresses.iter().filter(|address| !gone.contains(&address.net)) {
            let net = address.net;
            let moves = self.links.get(top).is_some_and(|top| top.addresses.contains(&net));
            if !(moves || self.network.own || (address.dynamic && net.ip.is_ipv6())) {
                self.refuse(format!(
                    "{port} has {net} and is to become a port of {top}: name {port} as management, \
                     or {net} among the addresses of {top}"
                ));
            }
            self.link(port).gone.push(net);
        }
    }

    fn check_mtu(&mut self) {
        let mtu = |wish: &Self, name: &LinkName| {
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

    fn check_vlans(&mut self) {
        for link in self.links.values().cloned().collect::<Vec<_>>() {
            let pvid = link.vlans.as_ref().and_then(|vlans| vlans.pvid);
            if let Some(pvid) = pvid.filter(|pvid| !VLANS.contains(pvid)) {
                self.refuse(format!("pvid {pvid} of {}: 1 to 4094 is accepted", link.name));
            }
        }
    }

    fn route(&mut self) {
        let network = self.network;
        for gateway in &network.route {
            if let Some(dev) = &gateway.dev {
                self.need(dev, &format!("for the route to {}", gateway.to));
            }
            match self.route_of(gateway) {
                Ok(route) => {
                    let same = |other: &Route| (other.to, other.metric) != (route.to, route.metric);
                    self.routes.retain(same);
                    self.routes.push(route);
                }
                Err(why) => self.refuse(why),
            }
        }
    }

    fn route_of(&self, gateway: &Gateway) -> Result<Route, String> {
        let Gateway { to, via, dev, metric } = gateway;
        let v6 = match to {
            Destination::Network(network) => network.ip.is_ipv6(),
            Destination::Default => via.is_some_and(|via| via.is_ipv6()),
        };
        if via.is_some_and(|via| via.is_ipv6() != v6) {
            return Err(format!("the route to {to} has a gateway of the other family"));
        }
        let dev = dev.as_ref().or_else(|| self.link_towards((*via)?)).ok_or_else(|| {
            format!(
                "the route to {to} needs dev = a link, or a gateway in the network of an address"
            )
        })?;
        let to = match to {
            Destination::Network(network) => *network,
            Destination::Default => Cidr::everywhere(v6),
        };
        let metric = metric.unwrap_or(if v6 { METRIC_V6 } else { 0 });
        Ok(Route { to, via: *via, dev: dev.clone(), metric, source: None, protocol: STATIC })
    }

    /// The link in whose network `ip` is.
    fn link_towards(&self, ip: std::net::IpAddr) -> Option<&LinkName> {
        let reaches = |net: &Cidr| Cidr { ip, prefix: net.prefix }.network() == net.network();
        let same = move |net: &Cidr| net.ip.is_ipv4() == ip.is_ipv4() && reaches(net);
        let wanted = self.links.values().find(|link| link.addresses.iter().any(same));
        let there = || {
            let goes = |name: &LinkName, net: &Cidr| {
                self.links.get(name).is_some_and(|link| link.gone.contains(net))
            };
            let has = |(name, link): &(&LinkName, &Link)| {
                link.addresses.iter().any(|a| same(&a.net) && !goes(name, &a.net))
            };
            self.facts.links.iter().find(has).map(|(name, _)| name)
        };
        wanted.map(|link| &link.name).or_else(there)
    }

    /// What is not named goes, when all is ours.
    fn own(&mut self) {
        if !self.network.own {
            return;
        }
        let parents = self.network.vlan.iter().map(|vlan| &vlan.link);
        let kept: BTreeSet<_> = parents.chain(&self.network.management).collect();
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

/// What the kernel gives a new link.
const MTU: u32 = 1500;
/// `RTPROT_RA` (linux/rtnetlink.h): a router said so.
const RA: u8 = 9;

fn said(name: &LinkName, mtu: Option<u32>, up: bool, addresses: &[Cidr]) -> Wanted {
    Wanted { mtu, up: Some(up), addresses: addresses.to_vec(), ..Wanted::named(name) }
}
