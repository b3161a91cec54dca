//! The network of a node as it is desired: `[network]` of the desired state.
//!
//! What is not named here (links, their addresses, routes) is left alone unless `own` is set.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::{
    cidr::{Cidr, NoCidr},
    link::{BondMode, LinkName, Mac},
    vlan::{PortVlans, VlanSet},
};

/// `[network]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// The card by which the node is managed: its addresses and routes move onto the bridge or
    /// bond that it becomes a port of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub management: Option<LinkName>,
    /// Whether bridges, bonds, VLAN devices, ports, addresses and routes that are not named are
    /// removed. Guests' links stay even so.
    pub own: bool,
    /// How a change that could cut the node off is confirmed.
    pub confirm: Confirm,
    /// `[[network.bridge]]`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bridge: Vec<Bridge>,
    /// `[[network.bond]]`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bond: Vec<Bond>,
    /// `[[network.vlan]]`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vlan: Vec<Vlan>,
    /// `[[network.link]]`: cards and other links that exist already.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link: Vec<Existing>,
    /// `[[network.route]]`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<Gateway>,
}

impl Network {
    /// The bridges that it makes, for the NICs of guests: whether each filters VLANs.
    pub fn bridges(&self) -> BTreeMap<&str, bool> {
        let bridges = self.bridge.iter();
        bridges.map(|bridge| (bridge.name.as_str(), bridge.vlan_filtering)).collect()
    }
}

/// `[network.confirm]`: who must be reached after a change, and by when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Confirm {
    /// After so many seconds a change that nobody confirmed is taken back.
    pub seconds: u32,
    /// What must answer: `http://10.0.0.1:8080` or `tcp://10.0.0.1:22`. The provisioner unless
    /// something else is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<String>,
}

impl Default for Confirm {
    fn default() -> Self {
        Confirm { seconds: 60, reach: None }
    }
}

/// `[[network.bridge]]`: a switch. It never speaks the spanning tree protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// Its name.
    pub name: LinkName,
    /// Whether it keeps VLANs apart.
    #[serde(default)]
    pub vlan_filtering: bool,
    /// The VLAN of ports that name none; 0 is none.
    #[serde(default = "one")]
    pub default_pvid: u16,
    /// What is plugged in. Other ports stay, unless `own` is set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// The node's own VLANs on this bridge. Those of VLAN devices on it come by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<PortWords>,
    /// Largest payload of the bridge and of those ports that name none themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Hardware address; that of the management card unless one is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Whether it is up.
    #[serde(default = "yes")]
    pub up: bool,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Cidr>,
}

/// A bridge's port: `"eth1"`, or `{ name = "eth1", pvid = 10, vlans = "20-30" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Which link.
    pub name: LinkName,
    /// Its VLANs; the bridge's `default_pvid` alone when nothing is said.
    pub words: PortWords,
}

/// What may be said about a port's VLANs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortWords {
    /// Where frames without a tag belong. They leave without one, unless it is in `vlans` too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pvid: Option<u16>,
    /// Those that leave with their tag.
    #[serde(skip_serializing_if = "VlanSet::is_empty")]
    pub vlans: VlanSet,
    /// Those that leave without a tag.
    #[serde(skip_serializing_if = "VlanSet::is_empty")]
    pub untagged: VlanSet,
}

impl PortWords {
    /// What they mean; nothing when nothing was said.
    pub fn meaning(&self) -> Option<PortVlans> {
        let pvid = self.pvid.map_or_else(VlanSet::default, VlanSet::one);
        let said = !(self.vlans.is_empty() && self.untagged.is_empty() && self.pvid.is_none());
        said.then(|| {
            let tagged = self.vlans.without(&self.untagged);
            let untagged = self.untagged.with(&pvid.without(&tagged));
            PortVlans { pvid: self.pvid, untagged, tagged }
        })
    }
}

/// The table form of a port.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortTable {
    name: LinkName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pvid: Option<u16>,
    #[serde(default, skip_serializing_if = "VlanSet::is_empty")]
    vlans: VlanSet,
    #[serde(default, skip_serializing_if = "VlanSet::is_empty")]
    untagged: VlanSet,
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.words == PortWords::default() {
            return self.name.serialize(serializer);
        }
        let PortWords { pvid, vlans, untagged } = self.words.clone();
        PortTable { name: self.name.clone(), pvid, vlans, untagged }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortVisitor)
    }
}

struct PortVisitor;

impl<'de> Visitor<'de> for PortVisitor {
    type Value = Port;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a link's name, or a table with its `name`, `pvid`, `vlans`, `untagged`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Port, E> {
        let name = text.parse().map_err(E::custom)?;
        Ok(Port { name, words: PortWords::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Port, A::Error> {
        let table = PortTable::deserialize(MapAccessDeserializer::new(map))?;
        let PortTable { name, pvid, vlans, untagged } = table;
        Ok(Port { name, words: PortWords { pvid, vlans, untagged } })
    }
}

/// `[[network.bond]]`: several cards as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bond {
    /// Its name.
    pub name: LinkName,
    /// How its ports are used.
    #[serde(default = "active_backup")]
    pub mode: BondMode,
    /// How often their carrier is looked at, in milliseconds.
    #[serde(default = "hundred")]
    pub miimon: u32,
    /// Its cards.
    #[serde(default)]
    pub ports: Vec<LinkName>,
    /// Largest payload, of its ports too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Whether it is up.
    #[serde(default = "yes")]
    pub up: bool,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Cidr>,
}

/// `[[network.vlan]]`: one VLAN of a link, as a link of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vlan {
    /// Its name.
    pub name: LinkName,
    /// The link that carries it.
    pub link: LinkName,
    /// Its number.
    pub id: u16,
    /// Largest payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Whether it is up.
    #[serde(default = "yes")]
    pub up: bool,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Cidr>,
}

/// `[[network.link]]`: a link that is there already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Existing {
    /// Its name.
    pub name: LinkName,
    /// Largest payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Whether it is up.
    #[serde(default = "yes")]
    pub up: bool,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Cidr>,
}

/// `[[network.route]]`: a gateway, a link, or both must be named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Which network.
    pub to: Destination,
    /// By which gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// By which link; the one whose network the gateway is in unless it is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<LinkName>,
    /// Of several, the least is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

/// Where a route leads: `default` or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Destination {
    /// Everywhere, in the family of the gateway.
    Default,
    /// Into one network.
    Network(Cidr),
}

impl FromStr for Destination {
    type Err = NoCidr;

    fn from_str(text: &str) -> Result<Self, NoCidr> {
        match text {
            "default" => Ok(Destination::Default),
            _ => Ok(Destination::Network(text.parse::<Cidr>()?.network())),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Default => f.write_str("default"),
            Destination::Network(network) => network.fmt(f),
        }
    }
}

impl TryFrom<String> for Destination {
    type Error = NoCidr;

    fn try_from(text: String) -> Result<Self, NoCidr> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(to: Destination) -> String {
        to.to_string()
    }
}

fn yes() -> bool {
    true
}

fn one() -> u16 {
    1
}

fn hundred() -> u32 {
    100
}

fn active_backup() -> BondMode {
    BondMode::ActiveBackup
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        management = "eth0"
        [confirm]
        seconds = 20
        reach = "tcp://10.0.0.1:22"
        [[bridge]]
        name = "br0"
        vlan_filtering = true
        ports = ["eth0", { name = "bond0", pvid = 10, vlans = "20-30", untagged = "40" }]
        host = { pvid = 10 }
        mtu = 9000
        [[bond]]
        name = "bond0"
        ports = ["eth1", "eth2"]
        mode = "802.3ad"
        [[vlan]]
        name = "br0.20"
        link = "br0"
        id = 20
        addresses = ["10.20.0.1/24"]
        [[link]]
        name = "eth3"
        up = false
        [[route]]
        to = "default"
        via = "10.20.0.254"
        [[route]]
        to = "10.9.3.4/16"
        dev = "eth3"
    "#;

    #[test]
    fn the_whole_form_is_read_and_written() {
        let network: Network = toml::from_str(WHOLE).unwrap();
        assert_eq!(network.bridge[0].ports[0].words.meaning(), None);
        let vlans = network.bridge[0].ports[1].words.meaning().unwrap();
        assert_eq!(vlans.to_string(), "20-30 tagged, 10,40 untagged, pvid 10");
        assert_eq!(network.route[1].to.to_string(), "10.9.0.0/16");
        let text = toml::to_string(&network).unwrap();
        assert_eq!(toml::from_str::<Network>(&text).unwrap(), network);
        let json = serde_json::to_string(&network).unwrap();
        assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), network);
    }

    #[test]
    fn a_pvid_that_is_tagged_stays_tagged() {
        let words = PortWords { pvid: Some(5), vlans: VlanSet::one(5), ..PortWords::default() };
        assert_eq!(words.meaning().unwrap().to_string(), "5 tagged, pvid 5");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, culprit) in [
            ("[[bridge]]\nname = \"a b\"", "a b"),
            ("[[bridge]]\nname = \"br0\"\nports = [{ name = \"a\", vlan = 1 }]", "vlan"),
            ("[[bridge]]\nname = \"br0\"\nports = [7]", "a link's name"),
            ("[[bridge]]\nname = \"br0\"\nports = [{ name = \"a\", vlans = \"4095\" }]", "4095"),
            ("[[bond]]\nname = \"b\"\nmode = \"lacp\"", "802.3ad"),
            ("[[link]]\nname = \"b\"\naddresses = [\"10.0.0.1/40\"]", "10.0.0.1/40"),
            ("brigde = []", "brigde"),
        ] {
            let error = toml::from_str::<Network>(text).unwrap_err().to_string();
            assert!(error.contains(culprit), "{error}");
        }
    }
}
