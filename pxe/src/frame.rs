//! UDP to a machine that has no address yet: an Ethernet frame with its hardware address.
//!
//! An ordinary socket would ask by ARP first, and a machine that was just offered an address does
//! not answer for it (RFC 2131 section 4.1).

use std::{
    io, mem,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use crate::mac::Mac;

/// A packet socket that only sends.
#[derive(Debug)]
pub struct FrameSocket(OwnedFd);

/// Sender and receiver of one datagram.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Our address, port 67.
    pub from: Ipv4Addr,
    /// The machine's future address, port 68.
    pub to: Ipv4Addr,
    /// The machine's hardware address.
    pub mac: Mac,
    /// The interface the frame leaves by.
    pub interface: u32,
}

impl FrameSocket {
    /// Opens it; needs CAP_NET_RAW.
    #[expect(unsafe_code, reason = "no safe wrapper makes an owned packet socket of protocol 0")]
    pub fn open() -> io::Result<FrameSocket> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0 receives nothing, so that no queue fills up.
        // SAFETY: no pointers are passed.
        let socket = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(FrameSocket(unsafe { OwnedFd::from_raw_fd(socket) }))
    }

    /// Sends `payload` from port 67 to port 68.
    #[expect(unsafe_code, reason = "nix cannot make a link-layer address to send to")]
    pub fn send(&self, ends: Ends, payload: &[u8]) -> io::Result<()> {
        let datagram = datagram(ends, payload);
        // SAFETY: all zero is a valid sockaddr_ll.
        let mut to: libc::sockaddr_ll = unsafe { mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = (libc::ETH_P_IP as u16).to_be();
        to.sll_ifindex = i32::try_from(ends.interface).map_err(io::Error::other)?;
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(&ends.mac.0);
        // SAFETY: both pointers are to live objects of the lengths given.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                datagram.as_ptr().cast(),
                datagram.len(),
                0,
                (&raw const to).cast(),
                mem::size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

fn datagram(ends: Ends, payload: &[u8]) -> Vec<u8> {
    let udp_length = (UDP_HEADER + payload.len()) as u16;
    let mut bytes = Vec::with_capacity(IP_HEADER + usize::from(udp_length));
    bytes.extend_from_slice(&[0x45, 0x10]);
    bytes.extend_from_slice(&(IP_HEADER as u16 + udp_length).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    bytes.extend_from_slice(&ends.from.octets());
    bytes.extend_from_slice(&ends.to.octets());
    let header = !fold(sum(&bytes));
    bytes[10..12].copy_from_slice(&header.to_be_bytes());

    bytes.extend_from_slice(&67_u16.to_be_bytes());
    bytes.extend_from_slice(&68_u16.to_be_bytes());
    bytes.extend_from_slice(&udp_length.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(payload);
    // The pseudo header: both addresses (bytes 12 to 20), the protocol and the length.
    let pseudo = sum(&bytes[12..20]) + 17 + u64::from(udp_length);
    let checksum = match !fold(pseudo + sum(&bytes[IP_HEADER..])) {
        0 => 0xffff,
        sum => sum,
    };
    bytes[26..28].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2);
    words.map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_add_up() {
        let ends = Ends {
            from: Ipv4Addr::new(10, 77, 0, 1),
            to: Ipv4Addr::new(10, 77, 0, 9),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            interface: 1,
        };
        for payload in [&b"odd"[..], b"even", b""] {
            let bytes = datagram(ends, payload);
            assert_eq!(fold(sum(&bytes[..20])), 0xffff);
            let pseudo = sum(&bytes[12..20]) + 17 + bytes.len() as u64 - 20;
            assert_eq!(fold(pseudo + sum(&bytes[20..])), 0xffff);
        }
    }
}
