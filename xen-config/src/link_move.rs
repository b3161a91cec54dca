//! Addresses and routes of a card that becomes a port: they move to what it is a port of.

use crate::{
    cidr::Cidr,
    link::{Link, LinkKind, LinkName, Route},
    link_target::Wanted,
    link_wish::{STATIC, Wish},
};

/// `RTPROT_RA` (linux/rtnetlink.h): a router said so.
const RA: u8 = 9;

impl<'a> Wish<'a> {
    /// The bridge or bond above all others that `name` will be under; itself when it is free.
    pub(crate) fn top(&self, name: &'a LinkName) -> &'a LinkName {
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
    pub(crate) fn move_addresses(&mut self) {
        let network = self.network;
        if let Some(management) = &network.management {
            self.need(management, "to be the management link");
            self.move_from(management, management);
            let mut now = self.facts.get(management).and_then(|link| link.master.as_ref());
            for _ in 0..self.facts.links.len() {
                let Some(master) = now else { break };
                self.move_from(master, management);
                now = self.facts.get(master).and_then(|link| link.master.as_ref());
            }
            self.keep_mac(management);
        }
        for port in self.masters.keys().copied().collect::<Vec<_>>() {
            self.check_port(port);
        }
    }

    /// The bond and the bridge above the management card have its hardware address, by which switches, DHCP
    /// servers and the provisioner know the node; udev would give them one of its own.
    fn keep_mac(&mut self, management: &'a LinkName) {
        let mac = self.facts.get(management).and_then(Link::own_mac);
        let mut at = management;
        for _ in 0..self.masters.len() {
            let Some(master) = self.masters.get(at).copied() else { break };
            if matches!(self.kind(master), Some(LinkKind::Bridge(_) | LinkKind::Bond(_))) {
                let master = self.link(master);
                master.mac = master.mac.or(mac);
            }
            at = master;
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
}
