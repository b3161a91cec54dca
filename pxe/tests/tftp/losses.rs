//! Packets that are lost, doubled, late or a stranger's.

use std::time::{Duration, Instant};

use crate::{
    client::{Client, Packet, ack},
    serving::{Serving, bytes},
    tftp::TftpConfig,
};

const BLOCK: usize = 1000;

/// Fetches with losses; tells how many packets arrived and how long it took.
fn fetch(window: usize, lose: impl FnMut(usize) -> bool) -> (usize, Duration) {
    let program = bytes(100 * BLOCK + 1);
    let serving = Serving::program(&program);
    let client = Client::new(serving.address);
    let from = client.begin(BLOCK, window);
    let received = client.receive(from, BLOCK, window, lose);
    assert!(received.bytes == program);
    assert_eq!(serving.fetched().len(), 1);
    (received.packets, received.took)
}

/// Less than the server's timeout of a second: the loss was repaired without it.
const WITHOUT_TIMEOUT: Duration = Duration::from_millis(900);

#[test]
fn nothing_is_repeated_when_nothing_is_lost() {
    for window in [1, 2, 4, 8, 16] {
        assert_eq!(fetch(window, |_| false).0, 101, "window {window}");
    }
}

#[test]
fn the_lost_first_block_of_a_window_costs_no_timeout() {
    for window in [2, 4, 16] {
        for at in [0, window, 3 * window] {
            let (packets, took) = fetch(window, |number| number == at);
            assert!(took < WITHOUT_TIMEOUT, "window {window}, block {at}: {took:?}");
            assert!(packets <= 101 + window, "window {window}, block {at}: {packets}");
        }
    }
}

#[test]
fn a_lost_block_inside_a_window_costs_no_timeout() {
    let (packets, took) = fetch(8, |number| number == 10);
    assert!(took < WITHOUT_TIMEOUT, "{took:?}");
    assert!(packets <= 101 + 8, "{packets}");
}

#[test]
fn the_lost_last_block_of_a_window_costs_one_timeout() {
    let (_, took) = fetch(4, |number| number == 7);
    assert!(took < Duration::from_millis(1900), "{took:?}");
}

#[test]
fn a_block_lost_in_lock_step_costs_one_timeout() {
    let (packets, took) = fetch(1, |number| number == 50);
    assert_eq!(packets, 102);
    assert!(took > WITHOUT_TIMEOUT && took < Duration::from_millis(1900), "{took:?}");
}

#[test]
fn every_tenth_packet_lost_is_survived() {
    let (_, took) = fetch(8, |number| number % 10 == 3);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// A receiver that has room for five packets and asks for windows of sixteen.
#[test]
fn a_window_larger_than_the_receive_buffer_does_not_collapse() {
    let program = bytes(400 * BLOCK);
    let serving = Serving::program(&program);
    let client = Client::new(serving.address);
    let from = client.begin(BLOCK, 16);
    let (mut burst, mut last) = (0, Instant::now());
    let received = client.receive(from, BLOCK, 16, |_| {
        burst = if last.elapsed() > Duration::from_micros(500) { 1 } else { burst + 1 };
        last = Instant::now();
        burst > 5
    });
    assert!(received.bytes == program);
    assert!(received.took < Duration::from_secs(8), "{:?}", received.took);
}

#[test]
fn doubled_acknowledgements_double_nothing() {
    let program = bytes(100 * BLOCK);
    let serving = Serving::program(&program);
    let client = Client::new(serving.address);
    let from = client.begin(BLOCK, 1);
    client.send(&ack(0), from);
    let mut arrived = 0;
    while let Some((packet, _)) = client.hear(Duration::from_millis(800)) {
        let Packet::Data(number, _) = packet else { panic!("no data: {packet:?}") };
        arrived += 1;
        assert_eq!(number, arrived, "each block comes once");
        client.send(&ack(number), from);
        client.send(&ack(number), from);
        client.send(&ack(number.wrapping_sub(1)), from);
    }
    assert_eq!(arrived, 101);
}

/// In windows the same acknowledgement twice may mean a lost block, so each costs one repetition;
/// it must not cost another one in turn.
#[test]
fn doubled_acknowledgements_of_windows_grow_into_nothing() {
    let program = bytes(100 * BLOCK);
    let serving = Serving::program(&program);
    let client = Client::new(serving.address);
    let from = client.begin(BLOCK, 4);
    let (mut arrived, mut last, mut got) = (0, 0, Vec::new());
    while let Some((packet, _)) = client.hear(Duration::from_millis(1300)) {
        let Packet::Data(number, data) = packet else { panic!("no data: {packet:?}") };
        arrived += 1;
        if number != last + 1 {
            continue;
        }
        last = number;
        got.extend_from_slice(&data);
        if number % 4 == 0 || data.len() < BLOCK {
            client.send(&ack(number), from);
            client.send(&ack(number), from);
        }
    }
    assert!(got == program);
    assert!(arrived <= 3 * 101, "{arrived} packets for 101 blocks");
}

#[test]
fn acknowledgements_of_blocks_never_sent_move_nothing() {
    let program = bytes(10 * BLOCK);
    let serving = Serving::program(&program);
    let client = Client::new(serving.address);
    let from = client.begin(BLOCK, 4);
    for wrong in [5, 9, 11, 1000, 32768, 65534] {
        client.send(&ack(wrong), from);
    }
    assert!(client.receive(from, BLOCK, 4, |_| false).bytes == program);
}

#[test]
fn a_stranger_cannot_disturb() {
    let program = bytes(10 * BLOCK);
    let serving = Serving::program(&program);
    let (client, stranger) = (Client::new(serving.address), Client::new(serving.address));
    let from = client.begin(BLOCK, 1);
    stranger.send(b"\0\x05\0\0stop\0", from);
    stranger.send(&ack(1), from);
    let received = client.receive(from, BLOCK, 1, |_| false);
    assert!(received.bytes == program);
    assert_eq!(received.packets, 11);
}

#[test]
fn a_silent_client_is_given_up_and_its_place_is_free() {
    let config = TftpConfig { retries: 2, per_client: 1, ..TftpConfig::default() };
    let serving = Serving::with(config, &bytes(10));
    let client = Client::new(serving.address);
    client.ask("ipxe.efi", &[("tsize", "0")]);
    for _ in 0..3 {
        let heard = client.hear(Duration::from_millis(1500)).expect("a repeated answer").0;
        assert!(matches!(heard, Packet::Oack(_)));
    }
    assert_eq!(client.hear(Duration::from_millis(2200)), None);
    let other = Client::new(serving.address);
    other.ask("ipxe.efi", &[]);
    assert!(matches!(other.answer().0, Packet::Data(1, _)));
}

#[test]
fn a_closed_port_ends_the_transfer_at_once() {
    let config = TftpConfig { per_client: 1, ..TftpConfig::default() };
    let serving = Serving::with(config, &bytes(100_000));
    let client = Client::new(serving.address);
    let from = client.begin(BLOCK, 1);
    client.answer();
    let late = client.socket.try_clone().unwrap();
    drop(client);
    late.send_to(&ack(1), from).unwrap();
    drop(late);
    // Long before it would be given up as silent, which takes seven seconds.
    let began = Instant::now();
    let other = Client::new(serving.address);
    loop {
        other.ask("ipxe.efi", &[]);
        match other.answer().0 {
            Packet::Data(1, _) => break,
            busy => assert!(began.elapsed() < Duration::from_secs(4), "{busy:?}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
