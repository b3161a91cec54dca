//! A step as the messages that rtnetlink(7) has for it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{
            AfSpecBridge, BondMode as Mode, BridgeFlag, BridgeStpState, BridgeVlanInfo,
            BridgeVlanInfoFlags, InfoBond, InfoBridge, InfoData, InfoKind, InfoVlan, LinkAttribute,
            LinkFlags, LinkInfo, LinkMessage,
        },
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType},
    },
};
use xen_config::{
    cidr::Cidr,
    link::{BondKind, BridgeKind, LinkKind, LinkName, Mac, Route},
    link_step::LinkStep,
    vlan::{VlanChange, VlanSet},
};

use super::netlink::Request;

/// The kernel's numbers of links.
pub(crate) type Indices = BTreeMap<LinkName, u32>;

/// The messages of a step, in order.
///
/// # Errors
/// The name of a link whose number must be known first.
pub(crate) fn requests<'a>(
    step: &'a LinkStep,
    indices: &Indices,
) -> Result<Vec<Request>, &'a LinkName> {
    let index = |name: &'a LinkName| indices.get(name).copied().ok_or(name);
    let set = |name: &'a LinkName, attribute: LinkAttribute| {
        let mut message = by_name(name, indices);
        message.attributes.push(attribute);
        Ok(vec![Request::change(RouteNetlinkMessage::SetLink(message), 0)])
    };
    match step {
        LinkStep::Create { link, kind, mac, mtu } => {
            let parent = match kind {
                LinkKind::Vlan { parent: Some(parent), .. } => Some(index(parent)?),
                _ => None,
            };
            Ok(vec![create(link, kind, parent, *mac, *mtu)])
        }
        LinkStep::Delete { link } => {
            let message = RouteNetlinkMessage::DelLink(by_name(link, indices));
            Ok(vec![Request::change(message, 0)])
        }
        // The kernel takes options of a kind only by RTM_NEWLINK.
        LinkStep::Bridge { link, kind } => {
            Ok(vec![alter(by_name(link, indices), &LinkKind::Bridge(*kind))])
        }
        LinkStep::Bond { link, kind } => {
            let mut message = by_name(link, indices);
            let data = InfoData::Bond(vec![InfoBond::MiiMon(kind.miimon)]);
            let info = vec![LinkInfo::Kind(InfoKind::Bond), LinkInfo::Data(data)];
            message.attributes.push(LinkAttribute::LinkInfo(info));
            Ok(vec![Request::change(RouteNetlinkMessage::NewLink(message), 0)])
        }
        LinkStep::Mac { link, mac } => set(link, LinkAttribute::Address(mac.0.to_vec())),
        LinkStep::Mtu { link, mtu } => set(link, LinkAttribute::Mtu(*mtu)),
        LinkStep::Master { link, master } => {
            let master = master.as_ref().map_or(Ok(0), index)?;
            set(link, LinkAttribute::Controller(master))
        }
        LinkStep::Vlans { link, host, change } => Ok(vlans(index(link)?, *host, change)),
        LinkStep::Up { link } => Ok(vec![up(by_name(link, indices), true)]),
        LinkStep::Down { link } => Ok(vec![up(by_name(link, indices), false)]),
        LinkStep::AddAddress { link, net } => {
            let message = RouteNetlinkMessage::NewAddress(address(index(link)?, *net));
            Ok(vec![Request::change(message, NLM_F_CREATE | NLM_F_REPLACE)])
        }
        LinkStep::RemoveAddress { link, net } => {
            let message = RouteNetlinkMessage::DelAddress(address(index(link)?, *net));
            Ok(vec![Request::change(message, 0)])
        }
        LinkStep::AddRoute { route: one } => {
            let message = RouteNetlinkMessage::NewRoute(route(index(&one.dev)?, one));
            Ok(vec![Request::change(message, NLM_F_CREATE | NLM_F_REPLACE)])
        }
        LinkStep::RemoveRoute { route: one } => {
            let message = RouteNetlinkMessage::DelRoute(route(index(&one.dev)?, one));
            Ok(vec![Request::change(message, 0)])
        }
    }
}

/// By number where it is known, which is quicker, else by name.
fn by_name(name: &LinkName, indices: &Indices) -> LinkMessage {
    let mut message = LinkMessage::default();
    match indices.get(name) {
        Some(index) => message.header.index = *index,
        None => message.attributes.push(LinkAttribute::IfName(name.to_string())),
    }
    message
}

fn create(
    name: &LinkName,
    kind: &LinkKind,
    parent: Option<u32>,
    mac: Option<Mac>,
    mtu: Option<u32>,
) -> Request {
    let mut message = LinkMessage::default();
    let attributes = &mut message.attributes;
    attributes.push(LinkAttribute::IfName(name.to_string()));
    attributes.extend(parent.map(LinkAttribute::Link));
    attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes.extend(mtu.map(LinkAttribute::Mtu));
    attributes.push(LinkAttribute::LinkInfo(info(kind)));
    Request::change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn alter(mut message: LinkMessage, kind: &LinkKind) -> Request {
    message.attributes.push(LinkAttribute::LinkInfo(info(kind)));
    Request::change(RouteNetlinkMessage::NewLink(message), 0)
}

fn info(kind: &LinkKind) -> Vec<LinkInfo> {
    let (kind, data) = match kind {
        LinkKind::Bridge(bridge) => (InfoKind::Bridge, InfoData::Bridge(bridge_data(bridge))),
        LinkKind::Vlan { id, .. } => (InfoKind::Vlan, InfoData::Vlan(vec![InfoVlan::Id(*id)])),
        LinkKind::Bond(bond) => (InfoKind::Bond, InfoData::Bond(bond_data(bond))),
        LinkKind::Other(kind) => return vec![LinkInfo::Kind(InfoKind::Other(kind.clone()))],
    };
    vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]
}

fn bridge_data(bridge: &BridgeKind) -> Vec<InfoBridge> {
    let stp = if bridge.stp { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
    let mut data = vec![InfoBridge::StpState(stp)];
    // A kernel without VLAN filtering refuses to be told that there is none.
    if bridge.vlan_filtering || bridge.default_pvid != 1 {
        data.push(InfoBridge::VlanFiltering(bridge.vlan_filtering));
        data.push(InfoBridge::VlanDefaultPvid(bridge.default_pvid));
    }
    data
}

/// The mode comes first: the kernel reads the rest in its light.
fn bond_data(bond: &BondKind) -> Vec<InfoBond> {
    vec![InfoBond::Mode(Mode::from(bond.mode as u8)), InfoBond::MiiMon(bond.miimon)]
}

fn up(mut message: LinkMessage, up: bool) -> Request {
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    Request::change(RouteNetlinkMessage::SetLink(message), 0)
}

/// Removed in one message, set in another.
fn vlans(index: u32, host: bool, change: &VlanChange) -> Vec<Request> {
    let message = |infos: Vec<AfSpecBridge>| {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.header.index = index;
        let flags = host.then_some(AfSpecBridge::Flags(BridgeFlag::LowerDev));
        let spec = flags.into_iter().chain(infos).collect();
        message.attributes.push(LinkAttribute::AfSpecBridge(spec));
        message
    };
    let mut requests = Vec::new();
    if !change.remove.is_empty() {
        let removed = message(infos(&change.remove, BridgeVlanInfoFlags::empty(), None));
        requests.push(Request::change(RouteNetlinkMessage::DelLink(removed), 0));
    }
    let mut set = infos(&change.tagged, BridgeVlanInfoFlags::empty(), change.pvid);
    set.extend(infos(&change.untagged, BridgeVlanInfoFlags::Untagged, change.pvid));
    if !set.is_empty() {
        requests.push(Request::change(RouteNetlinkMessage::SetLink(message(set)), 0));
    }
    requests
}

/// Ranges; the pvid stands alone, because the kernel takes none in a range.
fn infos(set: &VlanSet, marks: BridgeVlanInfoFlags, pvid: Option<u16>) -> Vec<AfSpecBridge> {
    let info = |flags, vid| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid });
    let mut infos = Vec::new();
    let pvid = pvid.filter(|id| set.contains(*id));
    let without = set.without(&pvid.map_or_else(VlanSet::default, VlanSet::one));
    for (first, last) in without.ranges() {
        match first == last {
            true => infos.push(info(marks, first)),
            false => {
                infos.push(info(marks | BridgeVlanInfoFlags::RangeBegin, first));
                infos.push(info(marks | BridgeVlanInfoFlags::RangeEnd, last));
            }
        }
    }
    infos.extend(pvid.map(|id| info(marks | BridgeVlanInfoFlags::Pvid, id)));
    infos
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address(index: u32, net: Cidr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(net.ip);
    message.header.prefix_len = net.prefix;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(net.ip));
    message.attributes.push(AddressAttribute::Address(net.ip));
    if let (IpAddr::V4(_), IpAddr::V4(network), 0..=30) = (net.ip, net.network().ip, net.prefix) {
        let hosts = u32::MAX.checked_shr(u32::from(net.prefix)).unwrap_or(0);
        let broadcast = Ipv4Addr::from(u32::from(network) | hosts);
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    message
}

fn route(index: u32, route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.to.ip);
    message.header.destination_prefix_length = route.to.prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = route.protocol.into();
    let direct = route.via.is_none() && route.to.ip.is_ipv4();
    message.header.scope = if direct { RouteScope::Link } else { RouteScope::Universe };
    message.header.kind = RouteType::Unicast;
    let attributes = &mut message.attributes;
    if route.to.prefix != 0 {
        attributes.push(RouteAttribute::Destination(route.to.ip.into()));
    }
    attributes.extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    attributes.push(RouteAttribute::Oif(index));
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    message
}
