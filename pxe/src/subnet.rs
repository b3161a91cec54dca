//! A subnet that billet gives addresses in: its network, its pools and what its machines are told.
//!
//! Everything is checked while the configuration is read; a [`Subnet`] that exists is sound.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::Deserialize;

/// One `[[dhcp.subnets]]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Subnet {
    /// The network, `10.77.0.0/24`.
    pub network: Network,
    /// Ranges that addresses are taken from; none: only reserved addresses are given.
    pub pools: Vec<Range>,
    /// The default router that machines are told.
    pub router: Option<Ipv4Addr>,
    /// The name servers that machines are told.
    pub dns: Vec<Ipv4Addr>,
    /// The domain that machines are told.
    pub domain: Option<String>,
}

/// An IPv4 network, written `10.77.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: u32,
    bits: u8,
}

/// A range of addresses, both ends included, written `10.77.0.100-10.77.0.199`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first address.
    pub first: u32,
    /// The last address.
    pub last: u32,
}

/// Why a subnet is refused.
#[derive(Debug, thiserror::Error)]
pub enum NotASubnet {
    /// The network does not parse.
    #[error("`{0}` is not a network: 10.77.0.0/24 is the form, /8 to /30")]
    Network(String),
    /// It has bits beyond its prefix.
    #[error("`{0}` is an address inside its network, which is {1}")]
    Inside(String, Network),
    /// The range does not parse.
    #[error("`{0}` is not a range: 10.77.0.100-10.77.0.199 is the form")]
    Range(String),
    /// The range leaves its network.
    #[error("range {0} leaves {1}, whose machines have {2}")]
    Outside(Range, Network, Range),
    /// Ranges share addresses.
    #[error("ranges {0} and {1} overlap")]
    Overlap(Range, Range),
    /// The router is elsewhere.
    #[error("router {0} is not in {1}")]
    Router(Ipv4Addr, Network),
    /// More than a reply holds.
    #[error("{0} name servers, at most 8 fit a reply")]
    Dns(usize),
    /// A domain that a reply cannot hold.
    #[error("domain `{0}` is empty or longer than 64 characters")]
    Domain(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    network: String,
    #[serde(default)]
    pools: Vec<String>,
    router: Option<Ipv4Addr>,
    #[serde(default)]
    dns: Vec<Ipv4Addr>,
    domain: Option<String>,
}

impl TryFrom<Written> for Subnet {
    type Error = NotASubnet;

    fn try_from(written: Written) -> Result<Subnet, NotASubnet> {
        let network: Network = written.network.parse()?;
        let mut pools =
            written.pools.iter().map(|pool| pool.parse()).collect::<Result<Vec<Range>, _>>()?;
        pools.sort_by_key(|pool| pool.first);
        let hosts = network.hosts();
        if let Some(pool) =
            pools.iter().find(|pool| pool.first < hosts.first || pool.last > hosts.last)
        {
            return Err(NotASubnet::Outside(*pool, network, hosts));
        }
        if let Some(pair) = pools.windows(2).find(|pair| pair[1].first <= pair[0].last) {
            return Err(NotASubnet::Overlap(pair[0], pair[1]));
        }
        if let Some(router) = written.router.filter(|router| !network.contains(*router)) {
            return Err(NotASubnet::Router(router, network));
        }
        if written.dns.len() > 8 {
            return Err(NotASubnet::Dns(written.dns.len()));
        }
        if let Some(domain) =
            written.domain.as_ref().filter(|domain| domain.is_empty() || domain.len() > 64)
        {
            return Err(NotASubnet::Domain(domain.clone()));
        }
        Ok(Subnet {
            network,
            pools,
            router: written.router,
            dns: written.dns,
            domain: written.domain,
        })
    }
}

impl Subnet {
    /// Whether `ip` may be given to any machine.
    pub fn pools(&self, ip: Ipv4Addr) -> bool {
        self.pools.iter().any(|pool| (pool.first..=pool.last).contains(&ip.to_bits()))
    }
}

impl Network {
    /// Whether `ip` is in it.
    pub fn contains(self, ip: Ipv4Addr) -> bool {
        ip.to_bits() & self.mask().to_bits() == self.address
    }

    /// The subnet mask.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - self.bits))
    }

    /// Bits of the subnet mask.
    pub fn prefix(self) -> u8 {
        self.bits
    }

    /// The broadcast address.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address | !self.mask().to_bits())
    }

    /// The addresses that machines can have.
    pub fn hosts(self) -> Range {
        Range { first: self.address + 1, last: self.broadcast().to_bits() - 1 }
    }
}

impl FromStr for Network {
    type Err = NotASubnet;

    fn from_str(text: &str) -> Result<Network, NotASubnet> {
        let wrong = || NotASubnet::Network(text.to_owned());
        let (ip, bits) = text.split_once('/').ok_or_else(wrong)?;
        let ip: Ipv4Addr = ip.parse().map_err(|_| wrong())?;
        let bits = bits.parse().ok().filter(|bits| (8..=30).contains(bits)).ok_or_else(wrong)?;
        let mask = u32::MAX << (32 - bits);
        let network = Network { address: ip.to_bits() & mask, bits };
        if network.address != ip.to_bits() {
            return Err(NotASubnet::Inside(text.to_owned(), network));
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.address), self.bits)
    }
}

impl FromStr for Range {
    type Err = NotASubnet;

    fn from_str(text: &str) -> Result<Range, NotASubnet> {
        let wrong = || NotASubnet::Range(text.to_owned());
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let bits = |ip: &str| Ok(ip.trim().parse::<Ipv4Addr>().map_err(|_| wrong())?.to_bits());
        let range = Range { first: bits(first)?, last: bits(last)? };
        if range.first <= range.last { Ok(range) } else { Err(wrong()) }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", Ipv4Addr::from_bits(self.first), Ipv4Addr::from_bits(self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Result<Subnet, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn display_and_parse_are_inverses() {
        assert_eq!("10.77.0.0/24".parse::<Network>().unwrap().to_string(), "10.77.0.0/24");
        assert_eq!("10.0.0.2-10.0.0.9".parse::<Range>().unwrap().to_string(), "10.0.0.2-10.0.0.9");
    }

    #[test]
    fn refusals_name_what_would_do() {
        let cases = [
            (
                "network = '10.77.0.0'",
                "`10.77.0.0` is not a network: 10.77.0.0/24 is the form, /8 to /30",
            ),
            (
                "network = '10.77.0.9/24'",
                "`10.77.0.9/24` is an address inside its network, which is 10.77.0.0/24",
            ),
            (
                "network = '10.77.0.0/24'\npools = ['10.77.0.9-10.77.0.255']",
                "range 10.77.0.9-10.77.0.255 leaves 10.77.0.0/24, whose machines have 10.77.0.1-10.77.0.254",
            ),
            (
                "network = '10.77.0.0/24'\npools = ['10.77.0.9-10.77.0.20', '10.77.0.2-10.77.0.9']",
                "ranges 10.77.0.2-10.77.0.9 and 10.77.0.9-10.77.0.20 overlap",
            ),
            (
                "network = '10.77.0.0/24'\nrouter = '10.78.0.1'",
                "router 10.78.0.1 is not in 10.77.0.0/24",
            ),
            (
                "network = '10.77.0.0/24'\npools = ['10.77.0.9-10.77.0.8']",
                "`10.77.0.9-10.77.0.8` is not a range: 10.77.0.100-10.77.0.199 is the form",
            ),
        ];
        for (text, refusal) in cases {
            assert_eq!(subnet(text).unwrap_err(), refusal, "{text}");
        }
    }
}
