//! What a machine is answered: pure functions from what it asked to a reply's bytes and where
//! they go.
//!
//! - A ROM boots at once only when it is told not to look further: option 60 `PXEClient` with the
//!   PXE vendor option 43.6 = 8 (take the boot file that is named here, ask nobody).
//! - iPXE waits two more seconds for a proxy unless 175.176 says that there is none, so it is
//!   always told.
//! - UEFI HTTP boot believes only those who call themselves `HTTPClient`.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::{
    boot_program::{Boot, Here},
    dhcp_config::DhcpConfig,
    mac::Mac,
    machine::{Asker, Machine},
    packet::{Draft, Kind, Packet, code},
    subnet::Subnet,
};

/// Bytes to send, and whither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The UDP payload.
    pub bytes: Vec<u8>,
    /// Where it goes.
    pub to: To,
}

/// Where a reply goes (RFC 2131 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Everybody on the wire, port 68.
    Broadcast,
    /// A machine that does not answer ARP yet: its Ethernet address is given, port 68.
    Frame(Ipv4Addr, Mac),
    /// Anybody with an address: a relay, a machine that renews, one that asked port 4011.
    Address(SocketAddrV4),
}

const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;

/// An address that a machine gets with a reply.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'a> {
    /// The address; none in the answer to an INFORM.
    pub ip: Option<Ipv4Addr>,
    /// Where it is.
    pub subnet: &'a Subnet,
    /// The node's name; empty when it has none.
    pub name: &'a str,
}

/// OFFER or ACK of an address, with what to boot if anything.
pub fn grant(
    packet: &Packet<'_>,
    machine: &Machine,
    (kind, grant): (Kind, Grant<'_>),
    boot: Option<&Boot>,
    here: Here,
    config: &DhcpConfig,
) -> Reply {
    let mut draft = start(packet, kind, here);
    draft.siaddr(here.server);
    if packet.kind != Kind::Discover {
        draft.ciaddr(packet.ciaddr());
    }
    if let Some(ip) = grant.ip {
        draft.yiaddr(ip);
        put_times(&mut draft, config.lease_seconds);
    }
    put_network(&mut draft, grant.subnet);
    if let Some(boot) = boot {
        put_boot(&mut draft, packet, machine, boot, here);
    }
    if machine.asker == Asker::Ipxe {
        draft.option(code::IPXE, &[IPXE_NO_PROXY, 1, 1]);
    }
    put_names(&mut draft, grant);
    let to = destination(packet, machine.mac, grant.ip);
    Reply { bytes: finish(draft, packet), to }
}

/// iPXE's encapsulated option `no-pxedhcp`.
const IPXE_NO_PROXY: u8 = 0xb0;

/// Refusal of an address.
pub fn refuse(packet: &Packet<'_>, here: Here) -> Reply {
    let mut draft = start(packet, Kind::Nak, here);
    draft.broadcast();
    let to = relay(packet).unwrap_or(To::Broadcast);
    Reply { bytes: finish(draft, packet), to }
}

/// What to boot, without an address: beside another DHCP server (PXE 2.1 section 2.2).
pub fn proxy(
    packet: &Packet<'_>,
    machine: &Machine,
    (kind, to): (Kind, Option<SocketAddrV4>),
    boot: &Boot,
    here: Here,
) -> Reply {
    let mut draft = start(packet, kind, here);
    draft.siaddr(here.server);
    put_boot(&mut draft, packet, machine, boot, here);
    if machine.asker == Asker::Ipxe {
        // iPXE takes a proxy's word from whoever says PXEClient.
        draft.option(code::VENDOR_CLASS, b"PXEClient");
    }
    let to = match to {
        Some(asked_from) => To::Address(asked_from),
        None => relay(packet).unwrap_or(To::Broadcast),
    };
    Reply { bytes: finish(draft, packet), to }
}

fn start(packet: &Packet<'_>, kind: Kind, here: Here) -> Draft {
    let mut draft = Draft::reply(packet, kind);
    draft.keep_room(room_for_relay(packet));
    draft.option(code::SERVER_ID, &here.server.octets());
    // RFC 6842: the client's identifier comes back to it.
    if let Some(id) = packet.option(code::CLIENT_ID) {
        draft.option(code::CLIENT_ID, &id);
    }
    draft
}

fn room_for_relay(packet: &Packet<'_>) -> usize {
    packet.option(code::RELAY).map_or(0, |data| data.len() + 2)
}

/// RFC 3046: the relay's option comes back to it, last.
fn finish(mut draft: Draft, packet: &Packet<'_>) -> Vec<u8> {
    draft.use_room(room_for_relay(packet));
    if let Some(data) = packet.option(code::RELAY) {
        draft.option(code::RELAY, &data);
    }
    draft.finish()
}

fn put_times(draft: &mut Draft, lease: u32) {
    draft.option(code::LEASE_TIME, &lease.to_be_bytes());
    draft.option(code::RENEWAL, &(lease / 2).to_be_bytes());
    draft.option(code::REBINDING, &(lease / 8 * 7).to_be_bytes());
}

fn put_network(draft: &mut Draft, subnet: &Subnet) {
    draft.option(code::SUBNET_MASK, &subnet.network.mask().octets());
    draft.option(code::BROADCAST, &subnet.network.broadcast().octets());
    if let Some(router) = subnet.router {
        draft.option(code::ROUTER, &router.octets());
    }
    if !subnet.dns.is_empty() {
        let servers: Vec<u8> = subnet.dns.iter().flat_map(Ipv4Addr::octets).collect();
        draft.option(code::DNS, &servers);
    }
}

fn put_names(draft: &mut Draft, grant: Grant<'_>) {
    if !grant.name.is_empty() {
        draft.option(code::HOST_NAME, grant.name.as_bytes());
    }
    if let Some(domain) = &grant.subnet.domain {
        draft.option(code::DOMAIN, domain.as_bytes());
    }
}

/// PXE vendor options: 6 (discovery control) = 8, then the end mark that old ROMs look for.
const TAKE_THE_FILE: [u8; 4] = [6, 1, 8, 255];

fn put_boot(draft: &mut Draft, packet: &Packet<'_>, machine: &Machine, boot: &Boot, here: Here) {
    let name: &str = match boot {
        Boot::Program(name) => name,
        Boot::Url(url) => url,
    };
    // Old ROMs read only the fixed field; UEFI HTTP boot and some others only the option.
    draft.file(name);
    if packet.asks_for(code::BOOT_FILE) || machine.asker == Asker::HttpBoot {
        draft.option(code::BOOT_FILE, name.as_bytes());
    }
    match machine.asker {
        Asker::Pxe => {
            draft.option(code::VENDOR_CLASS, b"PXEClient");
            draft.option(code::VENDOR, &TAKE_THE_FILE);
            if packet.asks_for(code::TFTP_SERVER) {
                draft.option(code::TFTP_SERVER, here.server.to_string().as_bytes());
            }
        }
        Asker::HttpBoot => {
            draft.option(code::VENDOR_CLASS, b"HTTPClient");
        }
        Asker::Ipxe | Asker::System => {}
    }
    // PXE 2.1 table 2-1: the machine's identifier comes back to it.
    if let Some(id) = packet.option(code::MACHINE_ID).filter(|_| machine.asker != Asker::Ipxe) {
        draft.option(code::MACHINE_ID, &id);
    }
}

fn relay(packet: &Packet<'_>) -> Option<To> {
    let relay = packet.giaddr();
    (!relay.is_unspecified()).then(|| To::Address(SocketAddrV4::new(relay, SERVER_PORT)))
}

fn destination(packet: &Packet<'_>, mac: Mac, ip: Option<Ipv4Addr>) -> To {
    if let Some(relay) = relay(packet) {
        return relay;
    }
    let in_use = packet.ciaddr();
    if !in_use.is_unspecified() {
        return To::Address(SocketAddrV4::new(in_use, CLIENT_PORT));
    }
    match ip {
        Some(ip) if !packet.wants_broadcast() => To::Frame(ip, mac),
        _ => To::Broadcast,
    }
}
