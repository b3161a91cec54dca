//! What RFC 2131, RFC 3046 and PXE ask of a server, each as a short story of one machine.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{SERVER, arrival, exchange, options};
use crate::{
    exchange::{Arrival, BOOT_SERVER_PORT, Exchange, Outcome},
    mac::Mac,
    offer::{Reply, To},
    packet::code,
    registry::Entry,
};

const CONFIG: &str = "mode = 'server'
    [[subnets]]
    network = '10.77.0.0/24'
    pools = ['10.77.0.100-10.77.0.103']
    router = '10.77.0.100'
    [[subnets]]
    network = '10.78.0.0/24'
    pools = ['10.78.0.10-10.78.0.20']";
const MAC: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 9]);
const OTHER: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 8]);

/// A request while it is written.
struct Request(Vec<u8>);

const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;

impl Request {
    fn new(kind: u8, mac: Mac) -> Request {
        let mut bytes = vec![0; 240];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[28..34].copy_from_slice(&mac.0);
        bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
        Request(bytes).with(code::MESSAGE_TYPE, &[kind])
    }

    fn with(mut self, option: u8, value: &[u8]) -> Request {
        self.0.extend_from_slice(&[option, value.len() as u8]);
        self.0.extend_from_slice(value);
        self
    }

    fn at(mut self, field: usize, ip: Ipv4Addr) -> Request {
        self.0[field..field + 4].copy_from_slice(&ip.octets());
        self
    }

    fn asking(self, ip: Ipv4Addr) -> Request {
        self.with(code::REQUESTED_IP, &ip.octets())
    }

    fn chosen(self, server: Ipv4Addr) -> Request {
        self.with(code::SERVER_ID, &server.octets())
    }

    fn pxe(self, class: &[u8], architecture: u16) -> Request {
        self.with(code::VENDOR_CLASS, class).with(code::ARCHITECTURE, &architecture.to_be_bytes())
    }

    fn send(mut self, exchange: &mut Exchange, now: i64) -> Outcome {
        self.0.push(255);
        exchange.answer(&self.0, arrival(Ipv4Addr::UNSPECIFIED, 67, now)).unwrap()
    }
}

const CIADDR: usize = 12;
const GIADDR: usize = 24;

fn yiaddr(reply: &Reply) -> Ipv4Addr {
    <[u8; 4]>::try_from(&reply.bytes[16..20]).unwrap().into()
}

fn kind(reply: &Reply) -> u8 {
    options(&reply.bytes)[0].1[0]
}

const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fn offered(exchange: &mut Exchange, mac: Mac, now: i64) -> Option<Ipv4Addr> {
    Request::new(DISCOVER, mac).send(exchange, now).reply.as_ref().map(yiaddr)
}

fn requested(exchange: &mut Exchange, mac: Mac, ip: Ipv4Addr, now: i64) -> u8 {
    let request = Request::new(REQUEST, mac).asking(ip).chosen(SERVER);
    kind(&request.send(exchange, now).reply.unwrap())
}

fn lease(exchange: &mut Exchange, mac: Mac) -> Ipv4Addr {
    let ip = offered(exchange, mac, 0).unwrap();
    assert_eq!(requested(exchange, mac, ip, 0), ACK);
    ip
}

#[test]
fn four_way_exchange_skips_the_router_and_waits_for_the_store() {
    let mut exchange = exchange(CONFIG, Vec::new());
    let offer = Request::new(DISCOVER, MAC).send(&mut exchange, 0);
    assert!(!offer.promises);
    let offer = offer.reply.unwrap();
    assert_eq!((kind(&offer), yiaddr(&offer)), (OFFER, ip(101)));
    assert_eq!(offer.to, To::Frame(ip(101), MAC));
    let request = Request::new(REQUEST, MAC).asking(ip(101)).chosen(SERVER);
    let ack = request.send(&mut exchange, 0);
    assert!(ack.promises);
    assert_eq!(kind(&ack.reply.unwrap()), ACK);
    let changes = exchange.leases.take_changes();
    assert_eq!(changes.leases.len(), 1);
    assert_eq!((changes.leases[0].ip, changes.leases[0].until), (ip(101), 3600));
}

#[test]
fn broadcast_flag_is_obeyed() {
    let mut exchange = exchange(CONFIG, Vec::new());
    let mut request = Request::new(DISCOVER, MAC);
    request.0[10] = 0x80;
    assert_eq!(request.send(&mut exchange, 0).reply.unwrap().to, To::Broadcast);
}

#[test]
fn a_machine_that_chose_another_server_frees_its_offer() {
    let mut exchange = exchange(CONFIG, Vec::new());
    let first = offered(&mut exchange, MAC, 0).unwrap();
    let elsewhere = Request::new(REQUEST, MAC).asking(ip(7)).chosen(ip(2));
    assert_eq!(elsewhere.send(&mut exchange, 0), Outcome::default());
    assert!(exchange.leases.allows(first, OTHER));
}

#[test]
fn what_another_machine_has_is_refused() {
    let mut exchange = exchange(CONFIG, Vec::new());
    let taken = lease(&mut exchange, OTHER);
    assert_eq!(requested(&mut exchange, MAC, taken, 0), NAK);
    let nak = Request::new(REQUEST, MAC).asking(taken).send(&mut exchange, 0).reply.unwrap();
    assert_eq!((kind(&nak), nak.to, yiaddr(&nak)), (NAK, To::Broadcast, Ipv4Addr::UNSPECIFIED));
}

#[test]
fn a_machine_that_moved_here_from_another_network_is_refused() {
    let mut exchange = exchange(CONFIG, Vec::new());
    let reboot = Request::new(REQUEST, MAC).asking(Ipv4Addr::new(192, 168, 1, 5));
    assert_eq!(kind(&reboot.send(&mut exchange, 0).reply.unwrap()), NAK);
}

#[test]
fn renewing_is_answered_to_the_address_in_use() {
    let mut exchange = exchange(CONFIG, Vec::new());
    let mine = lease(&mut exchange, MAC);
    let renew = Request::new(REQUEST, MAC).at(CIADDR, mine).send(&mut exchange, 1800);
    let ack = renew.reply.unwrap();
    assert_eq!((kind(&ack), ack.to), (ACK, To::Address(SocketAddrV4::new(mine, 68))));
    assert_eq!(exchange.leases.take_changes().leases[0].until, 5400);
}

#[test]
fn a_free_address_is_given_to_whoever_comes_back_with_it() {
    let mut exchange = exchange(CONFIG, Vec::new());
    let reboot = Request::new(REQUEST, MAC).asking(ip(103));
    assert_eq!(kind(&reboot.send(&mut exchange, 0).reply.unwrap()), ACK);
}

#[test]
fn a_released_address_is_remembered_for_its_machine_and_free_for_others() {
    let mut exchange = exchange(CONFIG, Vec::new());
    let mine = lease(&mut exchange, MAC);
    let released = Request::new(RELEASE, MAC).at(CIADDR, mine).send(&mut exchange, 1);
    assert_eq!(released, Outcome::default());
    assert_eq!(exchange.leases.take_changes().expired, [mine]);
    assert_eq!(offered(&mut exchange, MAC, 2), Some(mine));
    let foreign = Request::new(RELEASE, OTHER).at(CIADDR, mine).send(&mut exchange, 3);
    assert_eq!(foreign, Outcome::default());
    assert!(!exchange.leases.allows(mine, OTHER));
}

#[test]
fn a_declined_address_rests() {
    let mut exchange = exchange(CONFIG, Vec::new());
    let bad = lease(&mut exchange, MAC);
    Request::new(DECLINE, MAC).asking(bad).chosen(SERVER).send(&mut exchange, 0);
    assert_ne!(offered(&mut exchange, MAC, 1), Some(bad));
    assert!(!exchange.leases.allows(bad, MAC));
    exchange.leases.expire(600);
    assert!(exchange.leases.allows(bad, MAC));
}

#[test]
fn a_full_pool_is_silent_until_an_offer_runs_out() {
    let mut exchange = exchange(CONFIG, Vec::new());
    let machines = [1, 2, 3, 4].map(|last| Mac([2, 0, 0, 0, 0, last]));
    let given = machines.map(|mac| offered(&mut exchange, mac, 0));
    assert_eq!(given, [Some(ip(101)), Some(ip(102)), Some(ip(103)), None]);
    exchange.leases.expire(30);
    assert_eq!(offered(&mut exchange, machines[3], 30), Some(ip(101)));
}

#[test]
fn a_reservation_is_for_its_machine_only() {
    let entry = Entry { name: "a1".into(), reserved: Some(ip(101)), boots: false };
    let outside = Entry { name: "a2".into(), reserved: Some(ip(9)), boots: false };
    let mut exchange = exchange(CONFIG, vec![(MAC, entry), (Mac([2; 6]), outside)]);
    assert_eq!(offered(&mut exchange, OTHER, 0), Some(ip(102)));
    assert_eq!(requested(&mut exchange, OTHER, ip(101), 0), NAK);
    assert_eq!(offered(&mut exchange, MAC, 0), Some(ip(101)));
    assert_eq!(offered(&mut exchange, Mac([2; 6]), 0), Some(ip(9)));
}

#[test]
fn our_own_address_is_nobodys() {
    let mut exchange = exchange(CONFIG, Vec::new());
    exchange.set_own([SERVER, ip(101)].into());
    assert_eq!(offered(&mut exchange, MAC, 0), Some(ip(102)));
    assert_eq!(requested(&mut exchange, MAC, ip(101), 0), NAK);
}

#[test]
fn through_a_relay_the_subnet_is_the_relays_and_its_option_comes_back_last() {
    let mut exchange = exchange(CONFIG, Vec::new());
    let relay = Ipv4Addr::new(10, 78, 0, 1);
    let circuit = [1, 3, b'e', b't', b'h'];
    let request = Request::new(DISCOVER, MAC).at(GIADDR, relay).with(code::RELAY, &circuit);
    let offer = request.send(&mut exchange, 0).reply.unwrap();
    assert_eq!(offer.to, To::Address(SocketAddrV4::new(relay, 67)));
    assert_eq!(yiaddr(&offer), Ipv4Addr::new(10, 78, 0, 10));
    assert_eq!(offer.bytes[24..28], relay.octets());
    assert_eq!(options(&offer.bytes).last(), Some(&(code::RELAY, &circuit[..])));

    let selection = [5, 4, 10, 77, 0, 0];
    let relay = Ipv4Addr::new(192, 0, 2, 1);
    let request = Request::new(DISCOVER, OTHER).at(GIADDR, relay).with(code::RELAY, &selection);
    let offer = request.send(&mut exchange, 0).reply.unwrap();
    assert_eq!((yiaddr(&offer), offer.to), (ip(101), To::Address(SocketAddrV4::new(relay, 67))));

    let unknown = Request::new(DISCOVER, OTHER).at(GIADDR, relay);
    assert_eq!(unknown.send(&mut exchange, 0).reply, None);
}

#[test]
fn inform_gets_options_but_no_address() {
    let mut exchange = exchange(CONFIG, Vec::new());
    let ack = Request::new(INFORM, MAC).at(CIADDR, ip(50)).send(&mut exchange, 0).reply.unwrap();
    assert_eq!((kind(&ack), yiaddr(&ack)), (ACK, Ipv4Addr::UNSPECIFIED));
    assert!(options(&ack.bytes).iter().all(|(number, _)| *number != code::LEASE_TIME));
    assert_eq!(ack.to, To::Address(SocketAddrV4::new(ip(50), 68)));
}

fn boot_file(exchange: &mut Exchange, request: Request) -> String {
    let reply = request.send(exchange, 0).reply.unwrap();
    let file = &reply.bytes[108..236];
    let end = file.iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(file[..end].to_vec()).unwrap()
}

#[test]
fn each_firmware_gets_the_program_made_for_it() {
    let boots = Entry { name: "a1".into(), reserved: None, boots: true };
    let mut exchange = exchange(CONFIG, vec![(MAC, boots)]);
    let http = "http://10.77.0.1:8080/boot";
    let cases: [(u16, &[u8], String); 9] = [
        (0, b"PXEClient:Arch:00000", "undionly.kpxe".into()),
        (6, b"PXEClient:Arch:00006", "ipxe-i386.efi".into()),
        (7, b"PXEClient:Arch:00007", "ipxe.efi".into()),
        (9, b"PXEClient:Arch:00009", "ipxe.efi".into()),
        (11, b"PXEClient:Arch:00011", "ipxe-arm64.efi".into()),
        (16, b"HTTPClient:Arch:00016", format!("{http}/ipxe.efi")),
        (19, b"HTTPClient:Arch:00019", format!("{http}/ipxe-arm64.efi")),
        (2, b"PXEClient:Arch:00002", String::new()),
        (7, b"MSFT 5.0", String::new()),
    ];
    for (architecture, class, wanted) in cases {
        let request = Request::new(DISCOVER, MAC).pxe(class, architecture);
        assert_eq!(boot_file(&mut exchange, request), wanted, "architecture {architecture}");
    }
    for class in [&b"iPXE"[..], b"\x04iPXE", b"\x03abc\x04iPXE"] {
        let request = Request::new(DISCOVER, MAC).pxe(b"PXEClient:Arch:00000", 0);
        let request = request.with(code::USER_CLASS, class);
        assert_eq!(boot_file(&mut exchange, request), format!("{http}/{MAC}"));
    }
    let several = Request::new(DISCOVER, MAC)
        .with(code::VENDOR_CLASS, b"PXEClient")
        .with(code::ARCHITECTURE, &[0, 2, 0, 7, 0, 0]);
    assert_eq!(boot_file(&mut exchange, several), "ipxe.efi");
    let without_http = Request::new(DISCOVER, MAC)
        .pxe(b"PXEClient:Arch:00000", 0)
        .with(code::USER_CLASS, b"iPXE")
        .with(code::IPXE, &[0x17, 1, 1]);
    assert_eq!(boot_file(&mut exchange, without_http), "undionly.kpxe");
}

#[test]
fn a_proxy_speaks_only_to_machines_that_boot() {
    let boots = Entry { name: "a1".into(), reserved: None, boots: true };
    let mut exchange = exchange("mode = 'proxy'", vec![(MAC, boots)]);
    let pxe = |kind, mac| Request::new(kind, mac).pxe(b"PXEClient:Arch:00000", 0);
    assert_eq!(pxe(DISCOVER, OTHER).send(&mut exchange, 0).reply, None);
    assert_eq!(Request::new(DISCOVER, MAC).send(&mut exchange, 0).reply, None);
    assert_eq!(pxe(REQUEST, MAC).send(&mut exchange, 0).reply, None);
    let offer = pxe(DISCOVER, MAC).send(&mut exchange, 0).reply.unwrap();
    assert_eq!((kind(&offer), yiaddr(&offer)), (OFFER, Ipv4Addr::UNSPECIFIED));
    assert!(options(&offer.bytes).contains(&(code::VENDOR, &[6, 1, 8, 255])));

    let from = SocketAddrV4::new(ip(50), 4011);
    let boot_server = Arrival { from, local: SERVER, port: BOOT_SERVER_PORT, now: 0 };
    let mut request = pxe(REQUEST, MAC).at(CIADDR, ip(50)).0;
    request.push(255);
    let ack = exchange.answer(&request, boot_server).unwrap().reply.unwrap();
    assert_eq!((kind(&ack), ack.to), (ACK, To::Address(from)));
    assert_eq!(exchange.leases.in_use(), 0);
}
