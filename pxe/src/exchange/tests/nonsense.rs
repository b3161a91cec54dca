//! Malformed packets by the ten thousand: captured requests with bytes flipped, lengths wrong,
//! pieces cut, doubled and swapped. No panic, no wrong answer, no growth.

use std::net::Ipv4Addr;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{SERVER, arrival, exchange, render};
use crate::{capture, offer::To, packet::Packet, registry::Entry};

const ROUNDS: i64 = 60_000;
const POOL: usize = 40;

#[test]
fn mutated_captures_are_answered_soundly_or_not_at_all() {
    let config = "mode = 'server'
        [[subnets]]
        network = '10.77.0.0/24'
        pools = ['10.77.0.1-10.77.0.40']";
    check_many(config, 1);
}

#[test]
fn mutated_captures_do_not_disturb_a_proxy() {
    check_many("mode = 'proxy'", 2);
}

fn check_many(config: &str, seed: u64) {
    let requests = capture::requests();
    assert!(requests.len() > 20);
    let nodes = requests.iter().take(3).map(|request| {
        let mac = Packet::parse(request).unwrap().ethernet().unwrap();
        (crate::mac::Mac(mac), Entry { name: "n".repeat(63), reserved: None, boots: true })
    });
    let mut exchange = exchange(config, nodes.collect());
    let mut dice = StdRng::seed_from_u64(seed);
    let (mut answered, mut malformed) = (0, 0);
    for round in 0..ROUNDS {
        let mut bytes = requests.choose(&mut dice).unwrap().clone();
        for _ in 0..dice.random_range(0..5) {
            mutate(&mut bytes, &requests, &mut dice);
        }
        let port = if dice.random_bool(0.1) { 4011 } else { 67 };
        let now = round / 50;
        exchange.leases.expire(now);
        match exchange.answer(&bytes, arrival(Ipv4Addr::UNSPECIFIED, port, now)) {
            Ok(outcome) => {
                if let Some(reply) = &outcome.reply {
                    answered += 1;
                    check_reply(&bytes, reply);
                }
            }
            Err(_) => malformed += 1,
        }
        assert!(exchange.leases.in_use() <= POOL);
        assert!(exchange.leases.size() <= POOL);
    }
    assert!(answered > ROUNDS / 100, "only {answered} were answered");
    assert!(malformed > ROUNDS / 100, "only {malformed} were malformed");
}

fn check_reply(request: &[u8], reply: &crate::offer::Reply) {
    let bytes = &reply.bytes;
    assert!((300..=1472).contains(&bytes.len()));
    assert_eq!(bytes[0], 2);
    assert_eq!(bytes[1..3], [1, 6]);
    assert_eq!(bytes[4..8], request[4..8], "the transaction is the request's");
    assert_eq!(bytes[28..44], request[28..44], "the hardware address is the request's");
    let yiaddr = Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]);
    let given = u32::from(yiaddr).wrapping_sub(u32::from(SERVER));
    assert!(yiaddr.is_unspecified() || (1..POOL as u32).contains(&given), "{yiaddr} was given");
    if let To::Frame(ip, _) = reply.to {
        assert_eq!(ip, yiaddr);
    }
    render(reply);
}

fn mutate(bytes: &mut Vec<u8>, requests: &[Vec<u8>], dice: &mut StdRng) {
    if bytes.is_empty() {
        return;
    }
    let at = dice.random_range(0..bytes.len());
    match dice.random_range(0..8) {
        0 => bytes[at] = dice.random(),
        1 => bytes[at] ^= 1 << dice.random_range(0..8),
        2 => bytes.truncate(at),
        3 => drop(bytes.remove(at)),
        4 => bytes.insert(at, dice.random()),
        5 => bytes[at] = *[0, 1, 254, 255].choose(dice).unwrap(),
        6 => {
            // In the options, where most can go wrong.
            let at = dice.random_range(240.min(bytes.len() - 1)..bytes.len());
            bytes[at] = dice.random();
        }
        _ => {
            let other = requests.choose(dice).unwrap();
            let cut = at.min(other.len());
            bytes.truncate(cut);
            bytes.extend_from_slice(&other[cut..]);
        }
    }
}
