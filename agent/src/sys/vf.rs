//! VFs as rtnetlink(7) has them: one message for each change, and what a link says of its VFs.
//!
//! linux/if_link.h, net/core/rtnetlink.c. Two traps of the latter: after IFLA_VF_IB_NODE_GUID the
//! kernel does nothing more of the same nest, so a port's GUID needs a message of its own;
//! and struct ifla_vf_guid has four bytes of padding, which makes it 16 bytes and not 12.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{
        LinkAttribute, LinkExtentMask, LinkMessage, LinkVfInfo, VfInfo, VfInfoGuid,
        VfInfoLinkState, VfInfoMac, VfInfoRate, VfInfoTrust, VfInfoVlan, VfLinkState,
    },
};
use xen_config::{
    fabric::LinkLayer,
    guid::Guid,
    nic::Mac,
    slice_step::VfChange,
    sriov::{Policy, VfSays},
};

use super::{
    link_facts::attributes,
    netlink::{Answer, Netlink, Request, u32_at},
};

const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;
const IFLA_VF_LINK_STATE: u16 = 5;
const IFLA_VF_RATE: u16 = 6;
const IFLA_VF_TRUST: u16 = 9;
const IFLA_VF_IB_NODE_GUID: u16 = 10;
const IFLA_VF_IB_PORT_GUID: u16 = 11;
/// struct ifinfomsg
const HEADER: usize = 16;
/// Type of an InfiniBand link (linux/if_arp.h).
const ARPHRD_INFINIBAND: u16 = 32;

/// A connection to the kernel.
pub(crate) struct Vfs {
    netlink: Netlink,
}

impl Vfs {
    /// Opens it, in the network namespace of this thread.
    pub(crate) fn open() -> Result<Self> {
        Ok(Vfs { netlink: Netlink::open()? })
    }

    /// What `link` says of its VFs, by number; nothing when it has none.
    pub(crate) fn probe(&mut self, link: &str) -> Result<BTreeMap<u32, VfSays>> {
        let mut message = named(link);
        let mask = vec![LinkExtentMask::Vf, LinkExtentMask::SkipStats];
        message.attributes.push(LinkAttribute::ExtMask(mask));
        let question = Request::question(RouteNetlinkMessage::GetLink(message));
        match self.netlink.ask(&[question])?.into_iter().next() {
            Some(Answer::Found(body)) => Ok(parse(&body)),
            Some(Answer::Refused(errno, words)) => {
                bail!("the kernel does not tell of the VFs of {link}: {words} ({errno:?})")
            }
            _ => Ok(BTreeMap::new()),
        }
    }

    /// Does these changes of VFs of `link`, in their order.
    ///
    /// # Errors
    /// The first one that the kernel refused; those after it may be done even so.
    pub(crate) fn apply(&mut self, link: &str, changes: &[(u32, VfChange)]) -> Result<()> {
        let request = |(vf, change): &(u32, VfChange)| {
            request(link, *vf, change).with_context(|| format!("{change:?} is none of a link's"))
        };
        let requests = changes.iter().map(request).collect::<Result<Vec<_>>>()?;
        for ((vf, change), answer) in changes.iter().zip(self.netlink.ask(&requests)?) {
            if let Answer::Refused(errno, words) = answer {
                let hint = match (change, errno) {
                    (VfChange::Rate { .. }, Errno::EINVAL) => {
                        "; cards limit VFs while their link is up, and to less than its speed"
                    }
                    _ => "",
                };
                bail!(
                    "the kernel refused {change:?} of VF {vf} of {link}: {words} ({errno:?}){hint}"
                );
            }
        }
        Ok(())
    }
}

fn named(link: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(link.to_owned()));
    message
}

/// The message of a change; `None` for one that rtnetlink does not have.
fn request(link: &str, vf: u32, change: &VfChange) -> Option<Request> {
    let info = match change {
        VfChange::NodeGuid { guid } => VfInfo::IbNodeGuid(VfInfoGuid::new(vf, guid.number())),
        VfChange::PortGuid { guid } => VfInfo::IbPortGuid(VfInfoGuid::new(vf, guid.number())),
        VfChange::Policy { policy } => {
            let state = match policy {
                Policy::Follow => VfLinkState::Auto,
                Policy::Up => VfLinkState::Enable,
                Policy::Down => VfLinkState::Disable,
            };
            VfInfo::LinkState(VfInfoLinkState::new(vf, state))
        }
        VfChange::Mac { mac } => VfInfo::Mac(VfInfoMac::new(vf, &mac.bytes())),
        VfChange::Vlan { vlan } => {
            let vlan = vlan.map_or(0, |vlan| vlan.number().into());
            VfInfo::Vlan(VfInfoVlan::new(vf, vlan, 0))
        }
        VfChange::Trust { trust } => VfInfo::Trust(VfInfoTrust::new(vf, *trust)),
        VfChange::Rate { megabits } => VfInfo::Rate(VfInfoRate::new(vf, 0, *megabits)),
        _ => return None,
    };
    let mut message = named(link);
    message.attributes.push(LinkAttribute::VfInfoList(vec![LinkVfInfo(vec![info])]));
    Some(Request::change(RouteNetlinkMessage::SetLink(message), 0))
}

/// Reads a link's message.
fn parse(body: &[u8]) -> BTreeMap<u32, VfSays> {
    let kind = body.get(2..4).and_then(|it| it.try_into().ok()).map(u16::from_ne_bytes);
    let link = match kind {
        Some(ARPHRD_INFINIBAND) => LinkLayer::InfiniBand,
        _ => LinkLayer::Ethernet,
    };
    let lists = attributes(body, HEADER).filter(|(kind, _)| *kind == IFLA_VFINFO_LIST);
    let infos = lists.flat_map(|(_, list)| attributes(list, 0));
    let infos = infos.filter(|(kind, _)| *kind == IFLA_VF_INFO);
    infos.filter_map(|(_, info)| parse_vf(info, link)).collect()
}

fn parse_vf(info: &[u8], link: LinkLayer) -> Option<(u32, VfSays)> {
    let mut says = VfSays::default();
    let mut number = None;
    for (kind, value) in attributes(info, 0) {
        number = number.or(u32_at(value, 0));
        let ethernet = link == LinkLayer::Ethernet;
        match kind {
            IFLA_VF_MAC if ethernet => says.mac = mac(value.get(4..10)?),
            IFLA_VF_VLAN if ethernet => says.vlan = u32_at(value, 4),
            IFLA_VF_RATE if ethernet => says.rate = u32_at(value, 8),
            // All ones where the driver does not say.
            IFLA_VF_TRUST if ethernet => {
                says.trust = u32_at(value, 4).filter(|it| *it <= 1).map(|it| it == 1);
            }
            IFLA_VF_LINK_STATE => {
                says.policy = match u32_at(value, 4) {
                    Some(0) => Some(Policy::Follow),
                    Some(1) => Some(Policy::Up),
                    Some(2) => Some(Policy::Down),
                    _ => None,
                };
            }
            IFLA_VF_IB_NODE_GUID if !ethernet => {
                says.guids = true;
                says.node = guid(value);
            }
            IFLA_VF_IB_PORT_GUID if !ethernet => {
                says.guids = true;
                says.port = guid(value);
            }
            _ => {}
        }
    }
    Some((number?, says))
}

fn guid(value: &[u8]) -> Option<Guid> {
    let number = u64::from_ne_bytes(value.get(8..16)?.try_into().ok()?);
    Guid::try_from(number).ok()
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":").parse().ok()
}

#[cfg(test)]
mod tests {
    use nix::libc;
    use rtnetlink::packet_core::NetlinkMessage;

    use super::*;

    /// Name of the link in a message.
    fn name_in(body: &[u8]) -> Option<String> {
        let (_, name) = attributes(body, HEADER).find(|(kind, _)| *kind == libc::IFLA_IFNAME)?;
        Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
    }

    /// The bytes after the headers and the link's name.
    fn sent(change: &VfChange) -> Vec<u8> {
        let request = request("ib0", 5, change).unwrap();
        let mut message = NetlinkMessage::from(request.message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        // struct nlmsghdr: length, RTM_SETLINK.
        assert_eq!(u32_at(&bytes, 0), Some(bytes.len() as u32));
        assert_eq!(bytes[4..6], 19_u16.to_ne_bytes());
        assert_eq!(name_in(&bytes[16..]).unwrap(), "ib0");
        bytes[16 + HEADER + 8..].to_vec()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn every_change_byte_by_byte() {
        let guid: Guid = "00:11:22:33:44:55:66:77".parse().unwrap();
        // Length and kind of the list, of the nest, of the attribute; the VF; then its value.
        let nest = |kind: u8, length: u8, rest: &[u8]| {
            let mut bytes = vec![length + 8, 0, 22, 0, length + 4, 0, 1, 0, length, 0, kind, 0];
            bytes.extend([5, 0, 0, 0]);
            bytes.extend(rest);
            bytes
        };
        let number = [0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00];
        // Four bytes of padding before the GUID: 20 with the attribute's header, and not 16.
        let padded = [&[0; 4][..], &number].concat();
        assert_eq!(sent(&VfChange::NodeGuid { guid }), nest(10, 20, &padded));
        assert_eq!(sent(&VfChange::PortGuid { guid }), nest(11, 20, &padded));
        for (policy, state) in [(Policy::Follow, 0), (Policy::Up, 1), (Policy::Down, 2)] {
            assert_eq!(sent(&VfChange::Policy { policy }), nest(5, 12, &[state, 0, 0, 0]));
        }
        // MAX_ADDR_LEN bytes, whatever the address needs.
        let mut address = [0; 32];
        address[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        let mac = "02:00:00:00:00:09".parse().unwrap();
        assert_eq!(sent(&VfChange::Mac { mac }), nest(1, 40, &address));
        let vlan = 300.try_into().ok();
        assert_eq!(sent(&VfChange::Vlan { vlan }), nest(2, 16, &[44, 1, 0, 0, 0, 0, 0, 0]));
        assert_eq!(sent(&VfChange::Vlan { vlan: None }), nest(2, 16, &[0; 8]));
        assert_eq!(sent(&VfChange::Trust { trust: true }), nest(9, 12, &[1, 0, 0, 0]));
        let rate = VfChange::Rate { megabits: 1000 };
        assert_eq!(sent(&rate), nest(6, 16, &[0, 0, 0, 0, 232, 3, 0, 0]));
        assert!(request("ib0", 0, &VfChange::Reset).is_none());
    }

    #[test]
    fn what_is_sent_is_read_back() {
        let guid: Guid = "02:11:22:33:44:55:66:77".parse().unwrap();
        let body = |kind: u16, changes: &[VfChange]| {
            let mut body = vec![0; HEADER];
            body[2..4].copy_from_slice(&kind.to_ne_bytes());
            for change in changes {
                body.extend(sent(change));
            }
            parse(&body)
        };
        let said = body(ARPHRD_INFINIBAND, &[VfChange::NodeGuid { guid }]);
        assert_eq!((said[&5].node, said[&5].port, said[&5].guids), (Some(guid), None, true));
        let said = body(1, &[VfChange::Rate { megabits: 70_000 }]);
        assert_eq!((said[&5].rate, said[&5].guids), (Some(70_000), false));
        let mac: Mac = "02:00:00:00:00:09".parse().unwrap();
        assert_eq!(body(1, &[VfChange::Mac { mac: mac.clone() }])[&5].mac, Some(mac));
        for length in 0..80 {
            parse(&vec![0xff; length]);
            parse(&vec![1; length]);
        }
    }
}
