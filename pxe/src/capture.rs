//! Captures of real firmware for the tests: a reader of classic pcap files that knows Ethernet,
//! IPv4 and UDP.

use std::{fs, net::Ipv4Addr, path::PathBuf};

/// One UDP datagram of a capture.
pub struct Datagram {
    /// Seconds since the first packet.
    pub at: f64,
    /// Source.
    pub from: (Ipv4Addr, u16),
    /// Destination port.
    pub port: u16,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// Where the test data are.
pub fn data(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// All UDP datagrams of `tests/pcaps/<name>.pcap`.
pub fn read(name: &str) -> Vec<Datagram> {
    let bytes = fs::read(data(&format!("pcaps/{name}.pcap"))).unwrap();
    assert_eq!(bytes[..4], [0xd4, 0xc3, 0xb2, 0xa1], "a little-endian pcap with microseconds");
    assert_eq!(bytes[20..24], [1, 0, 0, 0], "Ethernet frames");
    let mut rest = &bytes[24..];
    let mut first = None;
    let mut datagrams = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<16>() {
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let (frame, after) = after.split_at(word(8) as usize);
        let at = f64::from(word(0)) + f64::from(word(4)) / 1e6;
        datagrams.extend(datagram(frame, at - *first.get_or_insert(at)));
        rest = after;
    }
    datagrams
}

/// What machines sent to DHCP servers in any capture.
pub fn requests() -> Vec<Vec<u8>> {
    let names = [
        "bios-ipxe-e1000-pxelinux",
        "bios-ipxe-virtio-http",
        "bios-ipxe-virtio-tftp",
        "uefi-httpboot-ovmf",
        "uefi-pxe-ovmf-grub",
        "uefi-pxe-ovmf-ipxe",
    ];
    let all = names.into_iter().flat_map(read);
    all.filter(|datagram| datagram.port == 67).map(|datagram| datagram.payload).collect()
}

fn datagram(frame: &[u8], at: f64) -> Option<Datagram> {
    let ip = frame.get(14..)?;
    if frame[12..14] != [8, 0] || *ip.get(9)? != 17 {
        return None;
    }
    let udp = ip.get(usize::from(ip[0] & 15) * 4..)?;
    let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let source = Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]);
    let payload = udp.get(8..usize::from(port(4)))?.to_vec();
    Some(Datagram { at, from: (source, port(0)), port: port(2), payload })
}
