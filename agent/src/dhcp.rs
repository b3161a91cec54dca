//! A small DHCP client, for nodes whose firmware did not pass its address on, and for leases of
//! addresses that the agent moved to another link.
//!
//! Four messages over one UDP socket that is bound to the interface, RFC 2131 and 2132. The
//! broadcast flag is set while the interface has no address that a reply could be sent to. A
//! client is its hardware address, as it is for iPXE and for the systems that are installed.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};
use std::os::fd::AsRawFd;

use crate::patience::Patience;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const FIXED: usize = 236;
/// How long one answer is waited for before the question is put again.
const ANSWER: Duration = Duration::from_secs(3);

/// The message types that a client sends or heeds.
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// What a DHCP server gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The address.
    pub(crate) ip: Ipv4Addr,
    /// Its prefix length.
    pub(crate) prefix: u8,
    /// The router.
    pub(crate) gateway: Option<Ipv4Addr>,
}

/// A reply, as far as a client cares.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reply {
    kind: u8,
    xid: u32,
    ip: Ipv4Addr,
    mac: [u8; 6],
    server: Option<Ipv4Addr>,
    mask: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
    /// Seconds that a lease lasts.
    lasts: Option<u32>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
enum Ask<'a> {
    /// Any address.
    Discover,
    /// The one that was offered.
    Request(&'a Reply),
    /// To keep this one (REBINDING, RFC 2131 section 4.3.2).
    Rebind(Ipv4Addr),
}

/// What a DHCP server says of an address that is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rebound {
    /// It is kept for so long.
    Kept(Duration),
    /// It is not this machine's any more.
    Refused,
}

impl Reply {
    /// `None` for whatever is not a well-formed reply: broadcasts of others arrive here too.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let options = bytes.get(FIXED..)?.strip_prefix(&COOKIE)?;
        if bytes[0] != 2 {
            return None;
        }
        let mut reply = Reply {
            kind: 0,
            xid: u32::from_be_bytes(bytes[4..8].try_into().ok()?),
            ip: address(&bytes[16..20])?,
            mac: bytes[28..34].try_into().ok()?,
            server: None,
            mask: None,
            gateway: None,
            lasts: None,
        };
        for (code, value) in Options(options) {
            match code {
                53 => reply.kind = *value.first()?,
                54 => reply.server = address(value),
                1 => reply.mask = address(value),
                3 => reply.gateway = address(value),
                51 => reply.lasts = value.first_chunk::<4>().map(|it| u32::from_be_bytes(*it)),
                _ => {}
            }
        }
        Some(reply)
    }

    fn lease(&self) -> Lease {
        // Without a mask the class of the address would say; /24 is what is meant today.
        let prefix = self.mask.map_or(24, prefix_of);
        Lease { ip: self.ip, prefix, gateway: self.gateway }
    }
}

/// Leading ones of a netmask.
pub(crate) fn prefix_of(mask: Ipv4Addr) -> u8 {
    mask.to_bits().leading_ones() as u8
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?))
}

/// Code and value of each option, up to the end mark or the first malformed one.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while let [0, rest @ ..] = self.0 {
            self.0 = rest;
        }
        let [code, length, rest @ ..] = self.0 else { return None };
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        self.0 = rest;
        (*code != 255).then_some((*code, value))
    }
}

/// A message to every server.
fn render(xid: u32, mac: [u8; 6], ask: Ask<'_>) -> Vec<u8> {
    let mut bytes = vec![0; FIXED];
    bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&xid.to_be_bytes());
    match ask {
        Ask::Rebind(ip) => bytes[12..16].copy_from_slice(&ip.octets()),
        Ask::Discover | Ask::Request(_) => bytes[10] = 0x80,
    }
    bytes[28..34].copy_from_slice(&mac);
    bytes.extend(COOKIE);
    bytes.extend([53, 1, if matches!(ask, Ask::Discover) { DISCOVER } else { REQUEST }]);
    if let Ask::Request(offer) = ask {
        bytes.extend([50, 4]);
        bytes.extend(offer.ip.octets());
        if let Some(server) = offer.server {
            bytes.extend([54, 4]);
            bytes.extend(server.octets());
        }
    }
    bytes.extend([61, 7, 1]);
    bytes.extend(mac);
    bytes.extend([55, 2, 1, 3, 255]);
    // Old relays drop anything shorter than BOOTP was.
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

/// Asks once on `interface` to keep `ip`, which was given to `mac`.
///
/// # Errors
/// Sockets, and nobody who answers.
pub(crate) fn rebind(interface: &str, mac: [u8; 6], ip: Ipv4Addr) -> io::Result<Rebound> {
    let socket = open(interface)?;
    let xid = u32::from_be_bytes(ip.octets()) ^ std::process::id();
    let to_all = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
    socket.send_to(&render(xid, mac, Ask::Rebind(ip)), to_all)?;
    let answer = hear(&socket, xid, mac, &[ACK, NAK])?;
    if answer.kind == NAK || answer.ip != ip {
        return Ok(Rebound::Refused);
    }
    // A server that does not say how long means for ever (RFC 2131 wants it to say so).
    Ok(Rebound::Kept(Duration::from_secs(answer.lasts.unwrap_or(u32::MAX).into())))
}

/// Asks on `interface` until somebody gives an address, with the patience given.
pub(crate) fn acquire(interface: &str, mac: [u8; 6], patience: &mut Patience) -> io::Result<Lease> {
    let socket = open(interface)?;
    let mut xid = u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]);
    loop {
        xid = xid.wrapping_add(0x1000_0001);
        match exchange(&socket, xid, mac) {
            Ok(lease) => return Ok(lease),
            Err(error) if !patience.pause(&error.to_string()) => return Err(error),
            Err(_) => {}
        }
    }
}

fn exchange(socket: &UdpSocket, xid: u32, mac: [u8; 6]) -> io::Result<Lease> {
    let to_all = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
    socket.send_to(&render(xid, mac, Ask::Discover), to_all)?;
    let offer = hear(socket, xid, mac, &[OFFER])?;
    socket.send_to(&render(xid, mac, Ask::Request(&offer)), to_all)?;
    let answer = hear(socket, xid, mac, &[ACK, NAK])?;
    if answer.kind == NAK {
        return Err(io::Error::other("a DHCP server took its offer back"));
    }
    Ok(answer.lease())
}

fn hear(socket: &UdpSocket, xid: u32, mac: [u8; 6], kinds: &[u8]) -> io::Result<Reply> {
    let until = Instant::now() + ANSWER;
    let mut packet = [0; 1500];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no DHCP server answered"));
        }
        socket.set_read_timeout(Some(left))?;
        let Ok(length) = socket.recv(&mut packet) else { continue };
        match Reply::parse(&packet[..length]) {
            Some(reply) if reply.xid == xid && reply.mac == mac && kinds.contains(&reply.kind) => {
                return Ok(reply);
            }
            _ => {}
        }
    }
}

/// A socket that speaks on one interface, before that has an address.
fn open(interface: &str) -> io::Result<UdpSocket> {
    let fd: OwnedFd =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd.as_fd(), sockopt::ReuseAddr, &true)?;
    setsockopt(&fd.as_fd(), sockopt::Broadcast, &true)?;
    setsockopt(&fd.as_fd(), sockopt::BindToDevice, &interface.into())?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 68))?;
    Ok(UdpSocket::from(fd))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x77, 0, 1];

    fn offer() -> Vec<u8> {
        let mut bytes = render(7, MAC, Ask::Discover);
        bytes.truncate(FIXED + 4);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[10, 77, 0, 9]);
        bytes.extend([53, 1, OFFER, 0, 0, 1, 4, 255, 255, 252, 0, 3, 4, 10, 77, 0, 1]);
        bytes.extend([54, 4, 10, 77, 0, 2, 255, 99]);
        bytes
    }

    #[test]
    fn an_offer_becomes_a_lease() {
        let reply = Reply::parse(&offer()).unwrap();
        assert_eq!((reply.kind, reply.xid, reply.mac), (OFFER, 7, MAC));
        assert_eq!(reply.server, Some(Ipv4Addr::new(10, 77, 0, 2)));
        let gateway = Some(Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(reply.lease(), Lease { ip: Ipv4Addr::new(10, 77, 0, 9), prefix: 22, gateway });
    }

    #[test]
    fn a_request_names_offer_and_server() {
        let reply = Reply::parse(&offer()).unwrap();
        let request = render(7, MAC, Ask::Request(&reply));
        assert_eq!(request.len(), 300);
        let options: Vec<(u8, &[u8])> = Options(&request[FIXED + 4..]).collect();
        assert_eq!(options[0], (53, &[REQUEST][..]));
        assert_eq!(options[1], (50, &[10, 77, 0, 9][..]));
        assert_eq!(options[2], (54, &[10, 77, 0, 2][..]));
    }

    #[test]
    fn who_keeps_an_address_asks_from_it() {
        let request = render(7, MAC, Ask::Rebind(Ipv4Addr::new(10, 77, 0, 9)));
        assert_eq!((request[10], &request[12..16]), (0, &[10, 77, 0, 9][..]));
        let codes: Vec<u8> = Options(&request[FIXED + 4..]).map(|(code, _)| code).collect();
        assert_eq!(codes, [53, 61, 55]);
        let mut ack = offer();
        let end = ack.len() - 2;
        ack.splice(end.., [51, 4, 0, 0, 14, 16, 255]);
        assert_eq!(Reply::parse(&ack).and_then(|reply| reply.lasts), Some(3600));
    }

    #[test]
    fn a_request_of_somebody_is_no_reply() {
        assert_eq!(Reply::parse(&render(7, MAC, Ask::Discover)), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            Reply::parse(&bytes);
        }

        #[test]
        fn nothing_panics_on_damaged_offers(at in 0..FIXED + 30, byte: u8, cut in 0..FIXED + 40) {
            let mut bytes = offer();
            let at = at.min(bytes.len() - 1);
            bytes[at] = byte;
            bytes.truncate(cut);
            Reply::parse(&bytes);
        }
    }
}
