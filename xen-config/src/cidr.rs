//! An IP address and how much of it names its network, as `10.0.0.5/24`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// An address of a host, or of a network where host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    /// The address.
    pub ip: IpAddr,
    /// How many of its bits name the network.
    pub prefix: u8,
}

/// What was given is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address: `10.0.0.5/24` and `2001:db8::5/64` are accepted")]
pub struct NoCidr(String);

impl Cidr {
    /// Where all packets go that have no better route.
    pub fn everywhere(v6: bool) -> Self {
        let ip: IpAddr =
            if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        Cidr { ip, prefix: 0 }
    }

    /// The network alone: host bits zero.
    pub fn network(self) -> Self {
        let ip = match self.ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4((u32::from(ip) & mask).into())
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6((u128::from(ip) & mask).into())
            }
        };
        Cidr { ip, prefix: self.prefix }
    }

    /// The kernel's own address of this one link (RFC 4291, section 2.5.6).
    pub fn is_link_local_v6(self) -> bool {
        matches!(self.ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
    }
}

impl FromStr for Cidr {
    type Err = NoCidr;

    /// Without a prefix it is one host.
    fn from_str(text: &str) -> Result<Self, NoCidr> {
        let wrong = || NoCidr(text.chars().take(60).collect());
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(most);
        if prefix > most {
            return Err(wrong());
        }
        Ok(Cidr { ip, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

impl TryFrom<String> for Cidr {
    type Error = NoCidr;

    fn try_from(text: String) -> Result<Self, NoCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in ["10.0.0.5/24", "0.0.0.0/0", "2001:db8::5/64", "::/0", "10.0.0.5/32"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.5".parse::<Cidr>().unwrap().to_string(), "10.0.0.5/32");
        for text in ["", "10.0.0.5/33", "10.0.0/24", "::/129", "10.0.0.5/", "10.0.0.5/-1", "x"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_has_no_host_bits() {
        for (host, network) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3/0", "0.0.0.0/0"),
            ("10.1.2.3/32", "10.1.2.3/32"),
            ("2001:db8::5/64", "2001:db8::/64"),
            ("2001:db8::5/0", "::/0"),
        ] {
            assert_eq!(host.parse::<Cidr>().unwrap().network().to_string(), network);
        }
    }
}
