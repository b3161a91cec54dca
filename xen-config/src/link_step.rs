//! One change of the network, as `ip(8)` and `bridge(8)` would make it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    cidr::Cidr,
    link::{BondKind, BridgeKind, LinkKind, LinkName, Mac, Route},
    vlan::VlanChange,
};

/// A step. Doing it again after it was done changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkStep {
    /// A bridge, bond or VLAN device comes to be, and is down.
    Create {
        /// Its name.
        link: LinkName,
        /// What it is.
        kind: LinkKind,
        /// Its hardware address, where that is not the kernel's choice.
        mac: Option<Mac>,
        /// Its largest payload, where that is not the kernel's choice.
        mtu: Option<u32>,
    },
    /// It goes, with its addresses and routes; its ports are free.
    Delete {
        /// Which.
        link: LinkName,
    },
    /// What is special to a bridge changes.
    Bridge {
        /// Which.
        link: LinkName,
        /// To this.
        kind: BridgeKind,
    },
    /// How often a bond looks at its ports changes.
    Bond {
        /// Which.
        link: LinkName,
        /// To this.
        kind: BondKind,
    },
    /// The hardware address.
    Mac {
        /// Of which link.
        link: LinkName,
        /// The new one.
        mac: Mac,
    },
    /// The largest payload.
    Mtu {
        /// Of which link.
        link: LinkName,
        /// In bytes.
        mtu: u32,
    },
    /// It becomes a port, or is freed.
    Master {
        /// Which.
        link: LinkName,
        /// Of which bridge or bond.
        master: Option<LinkName>,
    },
    /// The VLANs of a bridge's port, or of the bridge as a host.
    Vlans {
        /// Which.
        link: LinkName,
        /// Whether it is the bridge.
        host: bool,
        /// What changes.
        change: VlanChange,
    },
    /// Up.
    Up {
        /// Which.
        link: LinkName,
    },
    /// Down; its routes go.
    Down {
        /// Which.
        link: LinkName,
    },
    /// An address more.
    AddAddress {
        /// Of which link.
        link: LinkName,
        /// Which.
        net: Cidr,
    },
    /// An address less.
    RemoveAddress {
        /// Of which link.
        link: LinkName,
        /// Which.
        net: Cidr,
    },
    /// A route more.
    AddRoute {
        /// Which.
        route: Route,
    },
    /// A route less.
    RemoveRoute {
        /// Which.
        route: Route,
    },
}

impl LinkStep {
    /// The link that changes.
    pub fn link(&self) -> &LinkName {
        match self {
            LinkStep::Create { link, .. }
            | LinkStep::Delete { link }
            | LinkStep::Bridge { link, .. }
            | LinkStep::Bond { link, .. }
            | LinkStep::Mac { link, .. }
            | LinkStep::Mtu { link, .. }
            | LinkStep::Master { link, .. }
            | LinkStep::Vlans { link, .. }
            | LinkStep::Up { link }
            | LinkStep::Down { link }
            | LinkStep::AddAddress { link, .. }
            | LinkStep::RemoveAddress { link, .. } => link,
            LinkStep::AddRoute { route } | LinkStep::RemoveRoute { route } => &route.dev,
        }
    }
}

impl fmt::Display for LinkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkStep::Create { link, kind, mtu, .. } => {
                write!(f, "create {link}, a {kind}")?;
                mtu.map_or(Ok(()), |mtu| write!(f, ", mtu {mtu}"))
            }
            LinkStep::Delete { link } => write!(f, "delete {link}"),
            LinkStep::Bridge { link, kind } => {
                let word = if kind.vlan_filtering { "filter VLANs" } else { "not filter VLANs" };
                let stp = if kind.stp { ", with spanning tree" } else { "" };
                write!(f, "let {link} {word}, default pvid {}{stp}", kind.default_pvid)
            }
            LinkStep::Bond { link, kind } => {
                write!(f, "let {link} look at its ports every {} ms", kind.miimon)
            }
            LinkStep::Mac { link, mac } => write!(f, "give {link} the hardware address {mac}"),
            LinkStep::Mtu { link, mtu } => write!(f, "set the mtu of {link} to {mtu}"),
            LinkStep::Master { link, master: Some(master) } => {
                write!(f, "make {link} a port of {master}")
            }
            LinkStep::Master { link, master: None } => write!(f, "free {link} from its master"),
            LinkStep::Vlans { link, host: true, change } => {
                write!(f, "on {link} itself, {change}")
            }
            LinkStep::Vlans { link, change, .. } => write!(f, "on port {link}, {change}"),
            LinkStep::Up { link } => write!(f, "take {link} up"),
            LinkStep::Down { link } => write!(f, "take {link} down"),
            LinkStep::AddAddress { link, net } => write!(f, "give {link} the address {net}"),
            LinkStep::RemoveAddress { link, net } => write!(f, "take {net} from {link}"),
            LinkStep::AddRoute { route } => write!(f, "add the route {route}"),
            LinkStep::RemoveRoute { route } => write!(f, "remove the route {route}"),
        }
    }
}
