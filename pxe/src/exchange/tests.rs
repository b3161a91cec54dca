//! The exchange against captures of real firmware (goldens), against the RFC (stories), and
//! against nonsense (properties).

mod goldens;
mod nonsense;
mod stories;

use std::{
    fmt::Write,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use super::{Arrival, Exchange};
use crate::{
    dhcp_config::DhcpConfig,
    leases::Leases,
    mac::Mac,
    offer::Reply,
    packet::code,
    registry::{Entry, Registry},
};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// A service over 10.77.0.0/24 (or what `config` says) that knows `entries`.
fn exchange(config: &str, entries: Vec<(Mac, Entry)>) -> Exchange {
    let config: DhcpConfig = toml::from_str(config).unwrap();
    let registry = Arc::new(Registry::default());
    for (mac, entry) in entries {
        registry.set(mac, entry);
    }
    let leases = Leases::new(&config.subnets, Vec::new());
    let mut exchange = Exchange::new(config, registry, leases, 8080);
    exchange.set_own([SERVER].into());
    exchange
}

fn arrival(from: Ipv4Addr, port: u16, now: i64) -> Arrival {
    Arrival { from: SocketAddrV4::new(from, 68), local: SERVER, port, now }
}

/// A reply as text: what matters of the fixed fields, then every option.
fn render(reply: &Reply) -> String {
    use dhcproto::{Decodable, Decoder, v4};
    let bytes = &reply.bytes;
    let message = v4::Message::decode(&mut Decoder::new(bytes)).expect("another reader reads it");
    let mut text = String::new();
    let kind = message.opts().msg_type().map(|kind| format!("{kind:?}").to_uppercase());
    writeln!(text, "  {} {:?}, {} bytes", kind.unwrap_or_default(), reply.to, bytes.len()).unwrap();
    writeln!(text, "    yiaddr {} siaddr {}", message.yiaddr(), message.siaddr()).unwrap();
    let file = &bytes[108..236];
    let file = &file[..file.iter().position(|byte| *byte == 0).unwrap_or(128)];
    if !file.is_empty() {
        writeln!(text, "    file {}", String::from_utf8_lossy(file)).unwrap();
    }
    for (number, value) in options(bytes) {
        writeln!(text, "    {number} = {}", render_option(number, value)).unwrap();
    }
    text
}

fn options(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = &bytes[240..];
    let mut options = Vec::new();
    while rest[0] != 255 {
        let end = 2 + usize::from(rest[1]);
        options.push((rest[0], &rest[2..end]));
        rest = &rest[end..];
    }
    options
}

fn render_option(number: u8, value: &[u8]) -> String {
    const TEXTS: [u8; 5] =
        [code::HOST_NAME, code::DOMAIN, code::VENDOR_CLASS, code::TFTP_SERVER, code::BOOT_FILE];
    const ADDRESSES: [u8; 5] =
        [code::SUBNET_MASK, code::ROUTER, code::DNS, code::BROADCAST, code::SERVER_ID];
    match value {
        value if TEXTS.contains(&number) => String::from_utf8_lossy(value).into_owned(),
        [a, b, c, d] if ADDRESSES.contains(&number) => format!("{a}.{b}.{c}.{d}"),
        value => value.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
