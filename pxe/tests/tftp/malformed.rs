//! Packets that are no TFTP, made from captured ones by the ten thousand.

use std::{net::SocketAddr, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    capture,
    client::{Client, Packet, ack, rrq},
    serving::{Serving, bytes, open_files, resident},
    tftp::TftpConfig,
};

const PACKETS: usize = 30_000;

/// What was captured, and what the captures lack.
fn seeds() -> Vec<Vec<u8>> {
    let captured = capture::ovmf().into_iter().chain(capture::pxelinux());
    let mut seeds: Vec<_> =
        captured.filter(capture::is_tftp).map(|packet| packet.payload).collect();
    assert!(seeds.len() > 20, "the captures have {} TFTP packets", seeds.len());
    seeds.extend([
        rrq("ipxe.efi", &[("blksize", "1468"), ("windowsize", "65535"), ("tsize", "0")]),
        b"\0\x02ipxe.efi\0octet\0".to_vec(),
        ack(0),
        ack(1),
        Vec::new(),
    ]);
    seeds
}

/// Bytes flipped, cut out, doubled, swapped for those of another packet, or cut off.
fn mutate(seeds: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut packet = seeds[rng.random_range(0..seeds.len())].clone();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=packet.len());
        match rng.random_range(0..6) {
            0 if at < packet.len() => packet[at] = rng.random(),
            1 if at < packet.len() => packet[at] ^= 1 << rng.random_range(0..8),
            2 => packet.truncate(at),
            3 => packet.insert(at, [0, 0xff, b'.', b'/', b'9'][rng.random_range(0..5)]),
            4 => {
                let other = &seeds[rng.random_range(0..seeds.len())];
                packet.splice(at.., other[at.min(other.len())..].iter().copied());
            }
            _ => packet.extend_from_within(at..),
        }
    }
    packet.truncate(1472);
    packet
}

/// Takes all that has come; each must be a proper answer and nobody's secret.
fn check_answers(client: &Client, program: &[u8]) {
    while let Some((packet, _)) = client.hear(Duration::from_millis(1)) {
        match packet {
            Packet::Data(number, data) => {
                assert!((1..=16).contains(&number), "block {number} that nobody asked for");
                assert!(program.windows(data.len().max(1)).any(|part| part == data));
            }
            Packet::Oack(_) => {}
            Packet::Error(code, text) => assert!(matches!(code, 0 | 1 | 2 | 4), "{code} {text}"),
        }
    }
}

fn bombard(serving: &Serving, program: &[u8], to: impl Fn(&Client) -> SocketAddr, seed: u64) {
    let seeds = seeds();
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..PACKETS / 500 {
        let client = Client::new(serving.address);
        let to = to(&client);
        for number in 0..500 {
            client.send(&mutate(&seeds, &mut rng), to);
            if number % 50 == 49 {
                check_answers(&client, program);
            }
        }
    }
}

fn still_serves(serving: &Serving, program: &[u8]) {
    let client = Client::new(serving.address);
    let from = client.begin(512, 8);
    assert!(client.receive(from, 512, 8, |_| false).bytes == program);
}

fn limits() -> TftpConfig {
    TftpConfig { retries: 0, transfers: 60, per_client: 50, ..TftpConfig::default() }
}

#[test]
fn malformed_requests_change_nothing() {
    let program = bytes(20_000);
    let serving = Serving::alone(limits(), &program);
    bombard(&serving, &program, |client| client.server, 1);
    let (memory, files) = (resident(), open_files());
    bombard(&serving, &program, |client| client.server, 2);
    assert!(resident() < memory + 16 * 1024, "{memory} KiB grew to {}", resident());
    assert!(open_files() < files + 70, "{files} files grew to {}", open_files());
    std::thread::sleep(Duration::from_millis(1500));
    still_serves(&serving, &program);
}

#[test]
fn malformed_packets_in_a_transfer_change_nothing() {
    let program = bytes(20_000);
    let serving = Serving::alone(limits(), &program);
    let begin = |client: &Client| {
        client.ask("ipxe.efi", &[("blksize", "512"), ("windowsize", "2")]);
        client.answer().1
    };
    bombard(&serving, &program, begin, 3);
    std::thread::sleep(Duration::from_millis(1500));
    still_serves(&serving, &program);
}
