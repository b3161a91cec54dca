//! The routes of a desired network: which link leads to each gateway.

use crate::{
    cidr::Cidr,
    link::{Link, LinkName, Route},
    link_wish::{STATIC, Wish},
    network::{Destination, Gateway},
};

/// What the kernel takes for an IPv6 route without a metric.
const METRIC_V6: u32 = 1024;

impl Wish<'_> {
    pub(crate) fn route(&mut self) {
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
}
