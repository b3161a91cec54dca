//! UDP packets out of a capture file (classic pcap, Ethernet, IPv4).

/// A UDP packet.
pub struct Captured {
    pub to_port: u16,
    pub payload: Vec<u8>,
}

/// The UDP packets of a capture, in order.
pub fn udp(pcap: &[u8]) -> Vec<Captured> {
    assert_eq!(pcap[..4], 0xa1b2_c3d4_u32.to_le_bytes(), "a little-endian pcap file");
    let mut rest = &pcap[24..];
    let mut packets = Vec::new();
    while let Some((header, after)) = rest.split_at_checked(16) {
        let len = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
        let (frame, after) = after.split_at(len);
        rest = after;
        let ip = &frame[14..];
        if frame[12..14] != [8, 0] || ip[9] != 17 {
            continue;
        }
        let udp = &ip[usize::from(ip[0] & 15) * 4..];
        let to_port = u16::from_be_bytes([udp[2], udp[3]]);
        let end = usize::from(u16::from_be_bytes([udp[4], udp[5]])).min(udp.len());
        packets.push(Captured { to_port, payload: udp[8..end].to_vec() });
    }
    packets
}

/// OVMF fetches `ipxe.efi`: a size probe that it aborts, and then the file.
pub fn ovmf() -> Vec<Captured> {
    udp(include_bytes!("uefi-pxe-ovmf-ipxe.pcap"))
}

/// iPXE and PXELINUX fetch, and try names that do not exist.
pub fn pxelinux() -> Vec<Captured> {
    udp(include_bytes!("bios-ipxe-e1000-pxelinux.pcap"))
}

/// Whether it has to do with TFTP: DHCP has ports of its own.
pub fn is_tftp(packet: &Captured) -> bool {
    !matches!(packet.to_port, 67 | 68 | 4011) && packet.payload.first() == Some(&0)
}
