//! Network links as they are: what rtnetlink tells, as plain data.
//!
//! Left out is what the kernel makes and keeps by itself: routes to the networks of its own
//! addresses, IPv6 addresses of one link, everything outside the main routing table.

use std::{cmp::Ordering, collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{cidr::Cidr, vlan::PortVlans};

/// The network of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Links {
    /// By name.
    pub links: BTreeMap<LinkName, Link>,
    /// Of the main table, one gateway each.
    pub routes: Vec<Route>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The kernel's number for it; 0 when it is only planned.
    pub index: u32,
    /// Hardware address; InfiniBand has another form and none here.
    pub mac: Option<Mac>,
    /// The hardware address that a card was made with: as a bond's port it has the bond's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permanent: Option<Mac>,
    /// Largest payload in bytes.
    pub mtu: u32,
    /// Whether it is meant to be up.
    pub up: bool,
    /// Whether there is somebody at the other end.
    pub carrier: bool,
    /// The bridge or bond that it is a port of.
    pub master: Option<LinkName>,
    /// What it is.
    pub kind: LinkKind,
    /// Of a bridge, and of a port of one.
    pub vlans: Option<PortVlans>,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

impl Link {
    /// The hardware address by which it is known to others.
    pub fn own_mac(&self) -> Option<Mac> {
        self.permanent.or(self.mac)
    }
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address, and the network that is reached by it.
    pub net: Cidr,
    /// Whether it ends some day unless somebody (a DHCP client, the kernel) renews it.
    pub dynamic: bool,
}

impl Address {
    /// One that stays.
    pub fn fixed(net: Cidr) -> Self {
        Address { net, dynamic: false }
    }
}

/// A route in the main table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Which network.
    pub to: Cidr,
    /// By which gateway.
    pub via: Option<IpAddr>,
    /// By which link.
    pub dev: LinkName,
    /// Of several, the least is taken.
    pub metric: u32,
    /// The address that packets leave with.
    pub source: Option<IpAddr>,
    /// Who made it (`rtm_protocol`, linux/rtnetlink.h).
    pub protocol: u8,
}

impl Route {
    /// Whether the two lead packets the same way, whoever made them.
    pub fn leads_like(&self, other: &Route) -> bool {
        let key = |route: &Route| (route.to, route.via, route.metric, route.source);
        key(self) == key(other) && self.dev == other.dev
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to.prefix {
            0 => f.write_str("default")?,
            _ => write!(f, "{}", self.to)?,
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " dev {}", self.dev)?;
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        Ok(())
    }
}

/// What a link is, and what is special to its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// A switch.
    Bridge(BridgeKind),
    /// One VLAN of another link.
    Vlan {
        /// The link that carries it; none when that is in another namespace.
        parent: Option<LinkName>,
        /// Its number.
        id: u16,
    },
    /// Several links as one.
    Bond(BondKind),
    /// Hardware (empty), or the kernel's name for the kind.
    Other(String),
}

impl LinkKind {
    /// In a word.
    pub fn name(&self) -> &str {
        match self {
            LinkKind::Bridge(_) => "bridge",
            LinkKind::Vlan { .. } => "VLAN device",
            LinkKind::Bond(_) => "bond",
            LinkKind::Other(kind) if kind.is_empty() => "network card",
            LinkKind::Other(kind) => kind,
        }
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkKind::Bridge(bridge) if bridge.vlan_filtering => f.write_str("VLAN-aware bridge"),
            LinkKind::Vlan { parent: Some(parent), id } => write!(f, "VLAN {id} of {parent}"),
            LinkKind::Vlan { parent: None, id } => write!(f, "VLAN {id}"),
            LinkKind::Bond(bond) => write!(f, "{} bond", bond.mode),
            other => f.write_str(other.name()),
        }
    }
}

/// What is special to a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeKind {
    /// Whether it keeps VLANs apart.
    pub vlan_filtering: bool,
    /// The VLAN of a port that is told nothing else; 0 is none.
    pub default_pvid: u16,
    /// Whether it speaks the spanning tree protocol.
    pub stp: bool,
}

/// What is special to a bond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BondKind {
    /// How its ports are used.
    pub mode: BondMode,
    /// How often their carrier is looked at, in milliseconds.
    pub miimon: u32,
}

/// How a bond uses its ports (Linux, Documentation/networking/bonding.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BondMode {
    /// Each packet by the next port.
    #[serde(rename = "balance-rr")]
    BalanceRr,
    /// One port works, the others wait.
    #[serde(rename = "active-backup")]
    ActiveBackup,
    /// By a hash of the addresses.
    #[serde(rename = "balance-xor")]
    BalanceXor,
    /// By all ports.
    #[serde(rename = "broadcast")]
    Broadcast,
    /// LACP with the switch.
    #[serde(rename = "802.3ad")]
    Lacp,
    /// By load, outgoing.
    #[serde(rename = "balance-tlb")]
    BalanceTlb,
    /// By load, both ways.
    #[serde(rename = "balance-alb")]
    BalanceAlb,
}

impl BondMode {
    /// In the order of the kernel's numbers, from 0.
    pub const ALL: [BondMode; 7] = [
        BondMode::BalanceRr,
        BondMode::ActiveBackup,
        BondMode::BalanceXor,
        BondMode::Broadcast,
        BondMode::Lacp,
        BondMode::BalanceTlb,
        BondMode::BalanceAlb,
    ];
}

impl fmt::Display for BondMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BondMode::BalanceRr => "balance-rr",
            BondMode::ActiveBackup => "active-backup",
            BondMode::BalanceXor => "balance-xor",
            BondMode::Broadcast => "broadcast",
            BondMode::Lacp => "802.3ad",
            BondMode::BalanceTlb => "balance-tlb",
            BondMode::BalanceAlb => "balance-alb",
        })
    }
}

/// A name that the kernel takes for a link. Plans compare names by the thousand, so it is a number: the
/// name's bytes, then zeros, then in the last byte its length.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName([u8; LINK_NAME]);

/// `IFNAMSIZ` (linux/if.h): the longest name and one byte.
const LINK_NAME: usize = 16;

/// What was given is no name of a link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name for a link: 1 to 15 bytes without `/`, `:` and blanks are accepted")]
pub struct NoLinkName(String);

impl LinkName {
    /// The name.
    pub fn as_str(&self) -> &str {
        let name = self.0.get(..usize::from(self.0[LINK_NAME - 1]));
        name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }

    fn order(&self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// Whether Xen's toolstack made it for a guest and puts it on its bridge itself.
    pub fn is_guests(&self) -> bool {
        let name = self.as_str();
        let rest = name.strip_prefix("vif").or_else(|| name.strip_prefix("xentap"));
        let rest = rest.map(|rest| rest.strip_suffix("-emu").unwrap_or(rest));
        let parts = rest.and_then(|rest| rest.split_once('.'));
        let number = |text: &str| !text.is_empty() && text.bytes().all(|one| one.is_ascii_digit());
        parts.is_some_and(|(domain, device)| number(domain) && number(device))
    }
}

impl FromStr for LinkName {
    type Err = NoLinkName;

    fn from_str(text: &str) -> Result<Self, NoLinkName> {
        // What the kernel takes (net/core/dev.c, dev_valid_name), less control characters and `%`,
        // which makes a pattern of it.
        let bad = |one: char| one.is_whitespace() || one.is_control() || "/:%".contains(one);
        let good = (1..LINK_NAME).contains(&text.len()) && text != "." && text != "..";
        if !good || text.contains(bad) {
            return Err(NoLinkName(text.chars().take(40).collect()));
        }
        let mut name = [0; LINK_NAME];
        name[..text.len()].copy_from_slice(text.as_bytes());
        name[LINK_NAME - 1] = text.len() as u8;
        Ok(LinkName(name))
    }
}

/// As text is ordered: no name has a zero, and the length only tells apart what differs already.
impl Ord for LinkName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for LinkName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl TryFrom<String> for LinkName {
    type Error = NoLinkName;

    fn try_from(text: String) -> Result<Self, NoLinkName> {
        text.parse()
    }
}

impl From<LinkName> for String {
    fn from(name: LinkName) -> String {
        name.as_str().to_owned()
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// What was given is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of a card: `52:54:00:12:34:56` is accepted")]
pub struct NoMac(String);

impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        let byte = |part: &str| {
            let hex = part.len() == 2 && part.bytes().all(|one| one.is_ascii_hexdigit());
            u8::from_str_radix(part, 16).ok().filter(|_| hex)
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Mac).ok_or_else(|| NoMac(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl TryFrom<String> for Mac {
    type Error = NoMac;

    fn try_from(text: String) -> Result<Self, NoMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_kernel_takes() {
        for name in ["br0", "eth0.5", "enp0s31f6", "fifteen-letters", "vif1.0-emu"] {
            assert_eq!(name.parse::<LinkName>().unwrap().to_string(), name);
        }
        for name in
            ["", ".", "..", "a/b", "a b", "a\nb", "a:1", "sixteen-letters!", "br%d", "\u{1}"]
        {
            assert!(name.parse::<LinkName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_are_ordered_as_text_is() {
        let mut names = ["br10", "br1", "br", "a", "vif1.0", "fifteen-letters", "br1.5", "é"];
        let mut parsed = names.map(|name| name.parse::<LinkName>().unwrap());
        names.sort_unstable();
        parsed.sort_unstable();
        assert_eq!(parsed.each_ref().map(LinkName::as_str), names);
    }

    #[test]
    fn guests_links_are_known_by_their_name() {
        for (name, guests) in [
            ("vif1.0", true),
            ("vif12.3-emu", true),
            ("xentap1.0", true),
            ("vif", false),
            ("vif1", false),
            ("vifa.0", false),
            ("eth0.5", false),
        ] {
            assert_eq!(name.parse::<LinkName>().unwrap().is_guests(), guests, "{name}");
        }
    }

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let mac: Mac = "52:54:00:12:34:Ab".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:12:34:ab");
        for text in
            ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54:00:12:34:+6", "0:0:0:0:0:0"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn modes_are_called_as_they_are_written() {
        for mode in BondMode::ALL {
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.to_string());
        }
    }
}
