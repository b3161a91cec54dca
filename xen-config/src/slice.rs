//! A slice: what a guest gets of a fabric, who it belongs to, and who it is there.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use crate::{
    Desired, Guest, Name,
    derive::derive,
    fabric::{FabricName, LinkLayer},
    guid::Guid,
    nic::{Mac, Rate, Vlan},
    pci::PciAddress,
    pkey::Pkey,
};

/// A slice as desired: `slice` of a guest, or `[slice.<name>]` for somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceWish {
    /// Of which fabric.
    pub fabric: FabricName,
    /// The partitions that it is in; InfiniBand only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pkeys: Vec<Pkey>,
    /// GUID of its port; derived from the names of node and slice when absent. InfiniBand only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<Guid>,
    /// Its hardware address; derived likewise. Ethernet only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The VLAN that the NIC puts all of its frames into; Ethernet only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<Vlan>,
    /// Whether it may change its address and listen to everything; Ethernet only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trust: bool,
    /// At most so much from the guest, in whole megabits a second; Ethernet only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

/// Whose a slice is: `web/0` is the first one of guest `web`, `vm1` one of `[slice.vm1]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SliceId {
    /// A guest's, by its place in the guest's list.
    Guest(Name, u32),
    /// Somebody else's.
    Named(Name),
}

/// A text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no slice: `web/0` is the first one of guest web, `vm1` one of that name")]
pub struct SliceIdError {
    text: String,
}

/// Who a slice is on its fabric.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// Its GUIDs.
    InfiniBand {
        /// Of the node that the guest will see.
        node: Guid,
        /// Of its port: what partition keys are given to.
        port: Guid,
    },
    /// Its hardware address.
    Ethernet {
        /// The address.
        mac: Mac,
    },
}

/// A slice that is desired, with the identity that it will have: known before any VF is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice<'a> {
    /// Whose it is.
    pub id: SliceId,
    /// The guest, unless it is somebody else's.
    pub guest: Option<&'a Guest>,
    /// What is asked for.
    pub wish: &'a SliceWish,
    /// What travels on its fabric.
    pub link: LinkLayer,
    /// Who it will be.
    pub identity: Identity,
}

/// A VF that a slice has, as the agent remembers. It is written down before the VF is touched
/// and forgotten after the last step back: what is not here is free.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Held {
    /// Whose it is.
    pub slice: SliceId,
    /// The physical function.
    pub pf: PciAddress,
    /// The number of the VF there, from 0.
    pub vf: u32,
    /// Who it is: this is the truth, and not what the device says.
    pub identity: Identity,
}

impl Identity {
    fn derived(link: LinkLayer, node: &str, owner: &str) -> Identity {
        match link {
            LinkLayer::InfiniBand => Identity::InfiniBand {
                node: Guid::derived("node", node, owner),
                port: Guid::derived("port", node, owner),
            },
            LinkLayer::Ethernet => Identity::Ethernet { mac: Mac::derived(node, owner) },
        }
    }

    /// Who VF `vf` of `pf` is while nobody has it: not who had it last, and not zero, which drivers
    /// refuse.
    pub fn idle(link: LinkLayer, node: &str, pf: &PciAddress, vf: u32) -> Identity {
        // No slice is called so: names have no colons.
        Identity::derived(link, node, &format!("{pf}/{vf}"))
    }

    fn of(wish: &SliceWish, link: LinkLayer, node: &str, owner: &SliceId) -> Identity {
        match Identity::derived(link, node, &owner.to_string()) {
            Identity::InfiniBand { node, port } => {
                Identity::InfiniBand { node, port: wish.guid.unwrap_or(port) }
            }
            Identity::Ethernet { mac } => {
                Identity::Ethernet { mac: wish.mac.clone().unwrap_or(mac) }
            }
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::InfiniBand { port, .. } => write!(out, "GUID {port}"),
            Identity::Ethernet { mac } => write!(out, "MAC {mac}"),
        }
    }
}

impl Mac {
    fn derived(node: &str, owner: &str) -> Mac {
        let mut bytes = derive(&["slice-mac", node, owner]);
        bytes[0] = bytes[0] & 0xfc | 0x02;
        Mac::of_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]])
    }
}

/// All slices of `desired` on `node`, guests' first, in the order of the text.
pub fn slices<'a>(desired: &'a Desired, node: &str) -> Vec<Slice<'a>> {
    let slice = |id: SliceId, guest: Option<&'a Guest>, wish: &'a SliceWish| {
        let fabric = desired.fabrics.iter().find(|fabric| fabric.name == wish.fabric);
        let link = fabric.map(|fabric| fabric.link).unwrap_or_default();
        let identity = Identity::of(wish, link, node, &id);
        Slice { id, guest, wish, link, identity }
    };
    let mut slices = Vec::new();
    for guest in &desired.guests {
        for (wish, at) in guest.slices.iter().zip(0..) {
            slices.push(slice(SliceId::Guest(guest.name.clone(), at), Some(guest), wish));
        }
    }
    slices.extend(desired.slices.iter().map(|(name, wish)| {
        let id = SliceId::Named(name.clone());
        slice(id, None, wish)
    }));
    slices
}

impl Slice<'_> {
    /// Whether it has a VF while everything is as desired.
    pub fn is_up(&self) -> bool {
        self.guest.is_none_or(Guest::is_up)
    }
}

impl FromStr for SliceId {
    type Err = SliceIdError;

    fn from_str(text: &str) -> Result<SliceId, SliceIdError> {
        let refused = || SliceIdError { text: text.to_owned() };
        let Some((name, number)) = text.split_once('/') else {
            return text.parse().map(SliceId::Named).map_err(|_| refused());
        };
        // One spelling for one slice: no sign, no zeros in front.
        let number: u32 =
            number.parse().ok().filter(|it: &u32| it.to_string() == number).ok_or_else(refused)?;
        Ok(SliceId::Guest(name.parse().map_err(|_| refused())?, number))
    }
}

impl TryFrom<String> for SliceId {
    type Error = SliceIdError;

    fn try_from(text: String) -> Result<SliceId, SliceIdError> {
        text.parse()
    }
}

impl From<SliceId> for String {
    fn from(id: SliceId) -> String {
        id.to_string()
    }
}

impl fmt::Display for SliceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SliceId::Guest(guest, number) => write!(out, "{guest}/{number}"),
            SliceId::Named(name) => name.fmt(out),
        }
    }
}

/// Slices by name.
pub type Slices = BTreeMap<Name, SliceWish>;

/// Reads one table or a list of them.
///
/// # Errors
/// What is wrong with the table.
pub fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SliceWish>, D::Error> {
    struct Wishes;

    impl<'de> Visitor<'de> for Wishes {
        type Value = Vec<SliceWish>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a slice, { fabric = \"ib0\" }, or a list of them")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<SliceWish>, A::Error> {
            SliceWish::deserialize(MapAccessDeserializer::new(map)).map(|wish| vec![wish])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<SliceWish>, A::Error> {
            let mut wishes = Vec::new();
            while let Some(wish) = list.next_element()? {
                wishes.push(wish);
            }
            Ok(wishes)
        }
    }

    from.deserialize_any(Wishes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = r#"
[[fabric]]
name = "ib0"
pfs = ["mlx5_0"]

[[fabric]]
name = "lan"
link = "ethernet"
pfs = ["01:00.0"]
vfs = 4

[[guest]]
name = "web"
memory = "512MiB"
boot.loader = "pygrub"
slice = { fabric = "ib0", pkeys = ["0x8001:full"] }

[[guest]]
name = "db"
memory = "512MiB"
boot.loader = "pygrub"
slice = [{ fabric = "ib0" }, { fabric = "lan", vlan = 100, trust = true, rate = "100Mb/s" }]

[slice.vm1]
fabric = "ib0"
guid = "02:11:22:33:44:55:66:77"
"#;

    #[test]
    fn identities_are_known_before_any_vf() {
        let desired = Desired::from_toml(TEXT).unwrap();
        assert_eq!(Desired::from_json(&desired.to_json()).unwrap(), desired);
        let slices = slices(&desired, "r1n3");
        let ids: Vec<String> = slices.iter().map(|slice| slice.id.to_string()).collect();
        assert_eq!(ids, ["web/0", "db/0", "db/1", "vm1"]);
        let Identity::InfiniBand { node, port } = &slices[0].identity else { panic!() };
        assert_eq!(*port, Guid::derived("port", "r1n3", "web/0"));
        assert_ne!(node, port);
        assert!(matches!(slices[2].identity, Identity::Ethernet { .. }));
        let Identity::InfiniBand { port, .. } = &slices[3].identity else { panic!() };
        assert_eq!(port.to_string(), "02:11:22:33:44:55:66:77");
    }

    #[test]
    fn a_wrong_slice_says_what_is_accepted() {
        for (from, to, said) in [
            ("pkeys = [\"0x8001:full\"]", "pkey = [\"0x8001\"]", "`pkeys` is the nearest"),
            ("{ fabric = \"ib0\", pkeys = [\"0x8001:full\"] }", "7", "or a list of them"),
            ("0x8001:full", "0x8000", "0x8001:full is"),
            ("guid = \"02", "guid = \"2", "eight bytes are"),
            ("vlan = 100", "vlan = 0", "1 to 4094 are"),
        ] {
            let error = Desired::from_toml(&TEXT.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn ids_have_one_spelling() {
        for text in ["web/0", "vm1", "a.b/12"] {
            assert_eq!(text.parse::<SliceId>().unwrap().to_string(), text);
        }
        for text in ["", "/0", "web/", "web/01", "web/+1", "web/0/1", "1/0"] {
            assert!(text.parse::<SliceId>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_id_panics(text in "\\PC{0,30}") {
            let _ = text.parse::<SliceId>();
        }
    }
}
