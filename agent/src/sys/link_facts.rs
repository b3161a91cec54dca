//! The kernel's tables as facts. Only what is wanted is read, attribute by attribute: what a
//! newer kernel adds must not hide the rest.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::libc;
use xen_config::{
    cidr::Cidr,
    link::{Address, BondKind, BondMode, BridgeKind, Link, LinkKind, LinkName, Links, Mac, Route},
    vlan::{PortVlans, VlanSet},
};

use super::netlink::{u16_at, u32_at};

// Attributes and flags: linux/if_link.h, linux/if_addr.h, linux/if_bridge.h, linux/rtnetlink.h.
const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;
const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;
const BRIDGE_VLAN_INFO_RANGE_BEGIN: u16 = 1 << 3;
const BRIDGE_VLAN_INFO_RANGE_END: u16 = 1 << 4;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const IFA_F_PERMANENT: u32 = 0x80;

/// The attributes after a header of `header` bytes, by their kind. What is broken is left out:
/// a newer kernel's additions must not hide the rest.
pub(super) fn attributes(body: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(header..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// A link before numbers became names.
pub(crate) struct RawLink {
    pub(crate) index: u32,
    name: LinkName,
    flags: u32,
    mac: Option<Mac>,
    permanent: Option<Mac>,
    mtu: u32,
    master: Option<u32>,
    parent: Option<u32>,
    elsewhere: bool,
    kind: String,
    data: Vec<u8>,
}

impl RawLink {
    /// struct ifinfomsg is 16 bytes: family, type, index, flags, change.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let mut link = RawLink {
            index: u32_at(body, 4)?,
            name: "lo".parse().ok()?,
            flags: u32_at(body, 8)?,
            mac: None,
            permanent: None,
            mtu: 0,
            master: None,
            parent: None,
            elsewhere: false,
            kind: String::new(),
            data: Vec::new(),
        };
        let mut name = None;
        for (kind, value) in attributes(body, 16) {
            match kind {
                libc::IFLA_IFNAME => name = text(value).parse().ok(),
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
                libc::IFLA_PERM_ADDRESS => link.permanent = value.try_into().ok().map(Mac),
                libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
                libc::IFLA_MASTER => link.master = u32_at(value, 0),
                libc::IFLA_LINK => link.parent = u32_at(value, 0),
                libc::IFLA_LINK_NETNSID => link.elsewhere = true,
                libc::IFLA_LINKINFO => link.parse_info(value),
                _ => {}
            }
        }
        link.name = name?;
        Some(link)
    }

    fn parse_info(&mut self, value: &[u8]) {
        for (kind, value) in attributes(value, 0) {
            match kind {
                libc::IFLA_INFO_KIND => self.kind = text(value),
                libc::IFLA_INFO_DATA => self.data = value.to_vec(),
                _ => {}
            }
        }
    }

    fn datum(&self, wanted: u16) -> Option<&[u8]> {
        attributes(&self.data, 0).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    fn kind(&self, raw: &BTreeMap<u32, RawLink>) -> LinkKind {
        let byte = |kind| self.datum(kind).and_then(|value| value.first().copied());
        match self.kind.as_str() {
            "bridge" => LinkKind::Bridge(BridgeKind {
                vlan_filtering: byte(IFLA_BR_VLAN_FILTERING) == Some(1),
                default_pvid: self
                    .datum(IFLA_BR_VLAN_DEFAULT_PVID)
                    .and_then(|v| u16_at(v, 0))
                    .unwrap_or(1),
                stp: self
                    .datum(IFLA_BR_STP_STATE)
                    .and_then(|v| u32_at(v, 0))
                    .is_some_and(|on| on != 0),
            }),
            "vlan" => {
                let parent = self.parent.filter(|_| !self.elsewhere);
                LinkKind::Vlan {
                    parent: parent.and_then(|index| Some(raw.get(&index)?.name.clone())),
                    id: self.datum(IFLA_VLAN_ID).and_then(|value| u16_at(value, 0)).unwrap_or(0),
                }
            }
            "bond" => {
                let mode = byte(IFLA_BOND_MODE).and_then(|n| BondMode::ALL.get(usize::from(n)));
                let miimon = self.datum(IFLA_BOND_MIIMON).and_then(|value| u32_at(value, 0));
                match mode {
                    Some(mode) => {
                        LinkKind::Bond(BondKind { mode: *mode, miimon: miimon.unwrap_or(0) })
                    }
                    None => LinkKind::Other(self.kind.clone()),
                }
            }
            other => LinkKind::Other(other.to_owned()),
        }
    }
}

const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_BOND_MODE: u16 = 1;
const IFLA_BOND_MIIMON: u16 = 3;

pub(crate) fn named(raw: &BTreeMap<u32, RawLink>) -> Links {
    let link = |one: &RawLink| Link {
        index: one.index,
        mac: one.mac,
        permanent: one.permanent,
        mtu: one.mtu,
        up: one.flags & IFF_UP != 0,
        carrier: one.flags & IFF_LOWER_UP != 0,
        master: one.master.and_then(|index| Some(raw.get(&index)?.name.clone())),
        kind: one.kind(raw),
        vlans: None,
        addresses: Vec::new(),
    };
    let links = raw.values().map(|one| (one.name.clone(), link(one))).collect();
    Links { links, routes: Vec::new() }
}

/// Family, type and index lead here too; the VLANs are in `IFLA_AF_SPEC`.
pub(crate) fn add_vlans(links: &mut Links, raw: &BTreeMap<u32, RawLink>, body: &[u8]) {
    let index = u32_at(body, 4).unwrap_or(0);
    let Some(link) = raw.get(&index).and_then(|raw| links.links.get_mut(&raw.name)) else { return };
    for (kind, value) in attributes(body, 16) {
        if kind == libc::IFLA_AF_SPEC {
            link.vlans = Some(parse_vlans(value));
        }
    }
}

fn parse_vlans(value: &[u8]) -> PortVlans {
    let (mut tagged, mut untagged, mut pvid, mut begin) = (Vec::new(), Vec::new(), None, None);
    let infos = attributes(value, 0).filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO);
    for (_, info) in infos {
        let (Some(flags), Some(id)) = (u16_at(info, 0), u16_at(info, 2)) else { continue };
        if flags & BRIDGE_VLAN_INFO_RANGE_BEGIN != 0 {
            begin = Some(id);
            continue;
        }
        let first = begin.take().filter(|_| flags & BRIDGE_VLAN_INFO_RANGE_END != 0).unwrap_or(id);
        let list = if flags & BRIDGE_VLAN_INFO_UNTAGGED != 0 { &mut untagged } else { &mut tagged };
        list.push((first, id));
        pvid = pvid.or((flags & BRIDGE_VLAN_INFO_PVID != 0).then_some(id));
    }
    PortVlans {
        pvid,
        untagged: VlanSet::from_ranges(untagged),
        tagged: VlanSet::from_ranges(tagged),
    }
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        16 => <[u8; 16]>::try_from(value).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// struct ifaddrmsg is 8 bytes: family, prefix, flags, scope, index.
pub(crate) fn add_address(links: &mut Links, raw: &BTreeMap<u32, RawLink>, body: &[u8]) {
    let index = u32_at(body, 4).unwrap_or(0);
    let Some(link) = raw.get(&index).and_then(|raw| links.links.get_mut(&raw.name)) else { return };
    let [_, prefix, flags, ..] = *body else { return };
    let (mut local, mut peer, mut flags) = (None, None, u32::from(flags));
    for (kind, value) in attributes(body, 8) {
        match kind {
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_ADDRESS => peer = ip(value),
            libc::IFA_FLAGS => flags = u32_at(value, 0).unwrap_or(flags),
            _ => {}
        }
    }
    let Some(ip) = local.or(peer) else { return };
    let net = Cidr { ip, prefix };
    if !net.is_link_local_v6() {
        link.addresses.push(Address { net, dynamic: flags & IFA_F_PERMANENT == 0 });
    }
}

/// struct rtmsg is 12 bytes: family, lengths of destination and source, TOS, table, protocol,
/// scope, type, flags. Only plain routes by one link are read.
pub(crate) fn parse_route(raw: &BTreeMap<u32, RawLink>, body: &[u8]) -> Option<Route> {
    let [family, prefix, _, _, table, protocol, _, kind, ..] = *body else { return None };
    let plain = table == libc::RT_TABLE_MAIN && kind == libc::RTN_UNICAST;
    if !plain || protocol == libc::RTPROT_KERNEL {
        return None;
    }
    let v6 = i32::from(family) == libc::AF_INET6;
    let (mut to, mut dev) = (Cidr::everywhere(v6).ip, None);
    let (mut via, mut source, mut metric) = (None, None, 0);
    for (kind, value) in attributes(body, 12) {
        match kind {
            libc::RTA_DST => to = ip(value)?,
            libc::RTA_GATEWAY => via = ip(value),
            libc::RTA_PREFSRC => source = ip(value),
            libc::RTA_PRIORITY => metric = u32_at(value, 0)?,
            libc::RTA_OIF => dev = raw.get(&u32_at(value, 0)?),
            _ => {}
        }
    }
    let to = Cidr { ip: to, prefix };
    Some(Route { to, via, dev: dev?.name.clone(), metric, source, protocol })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::NlasIterator;

    use super::*;

    #[test]
    fn attributes_are_those_that_the_crate_reads() {
        let bytes = [8, 0, 3, 0, 1, 2, 3, 4, 5, 0, 4, 0, 9, 0, 0, 0, 4, 0, 5, 128];
        let ours: Vec<_> =
            attributes(&bytes, 0).map(|(kind, value)| (kind, value.to_vec())).collect();
        let theirs: Vec<_> = NlasIterator::new(&bytes[..])
            .flatten()
            .map(|one| (one.kind(), one.value().to_vec()))
            .collect();
        assert_eq!(ours, theirs);
        for cut in 0..bytes.len() {
            attributes(&bytes[..cut], 0).for_each(drop);
        }
    }

    #[test]
    fn vlans_come_singly_and_in_ranges() {
        let info = |flags: u16, id: u16| {
            let mut bytes = vec![8, 0, 2, 0];
            bytes.extend(flags.to_ne_bytes());
            bytes.extend(id.to_ne_bytes());
            bytes
        };
        let range = [info(8, 20), info(16, 30)].concat();
        let bytes = [info(6, 1), range, info(0, 40), info(4 | 8, 50), info(4 | 16, 51)].concat();
        let vlans = parse_vlans(&bytes);
        assert_eq!(vlans.to_string(), "20-30,40 tagged, 1,50-51 untagged, pvid 1");
    }

    #[test]
    fn nothing_that_is_cut_short_panics() {
        let raw = BTreeMap::new();
        for length in 0..40 {
            let body = vec![0xff; length];
            let _ = RawLink::parse(&body);
            let _ = parse_route(&raw, &body);
            add_address(&mut Links::default(), &raw, &body);
            add_vlans(&mut Links::default(), &raw, &body);
            parse_vlans(&body);
        }
    }
}
