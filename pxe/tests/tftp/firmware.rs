//! What firmware does, as captured, and what it may do.

use std::time::{Duration, Instant};

use crate::{
    capture,
    client::{Client, Packet, SOON, ack, oack},
    serving::{Serving, bytes},
};

const ABORT: &[u8] = b"\0\x05\0\x08User aborted the transfer\0";

/// OVMF's two requests, as captured.
fn ovmf_requests() -> (Vec<u8>, Vec<u8>) {
    let mut asked: Vec<_> =
        capture::ovmf().into_iter().filter(|packet| packet.to_port == 69).collect();
    assert_eq!(asked.len(), 2);
    let second = asked.pop().unwrap().payload;
    (asked.pop().unwrap().payload, second)
}

#[test]
fn ovmf_probes_the_size_aborts_and_fetches_from_the_same_port() {
    let program = bytes(850_528);
    let serving = Serving::program(&program);
    let client = Client::new(serving.address);
    let (probe, request) = ovmf_requests();
    let captured = capture::ovmf();
    let abort = captured.iter().find(|packet| packet.payload == ABORT).expect("the abort");

    client.send(&probe, client.server);
    let (packet, first) = client.answer();
    assert_eq!(packet, oack(&[("blksize", "1468"), ("tsize", "850528"), ("windowsize", "4")]));
    client.send(&abort.payload, first);
    client.send(&request, client.server);
    let (packet, second) = client.answer();
    assert_eq!(packet, oack(&[("blksize", "1468"), ("windowsize", "4")]));
    assert_ne!(first, second, "each transfer has an identifier of its own");
    client.send(&ack(0), second);
    let received = client.receive(second, 1468, 4, |_| false);
    assert!(received.bytes == program);
    assert_eq!(received.packets, 850_528 / 1468 + 1, "nothing was sent twice");
    assert_eq!(client.hear(Duration::from_millis(1500)), None, "the probe is dead");
    assert_eq!(serving.fetched(), [(client.server.ip(), "ipxe.efi".to_string())]);
}

#[test]
fn an_error_ends_a_transfer_in_its_middle_at_once() {
    let serving = Serving::program(&bytes(100_000));
    let client = Client::new(serving.address);
    let from = client.begin(1468, 4);
    for _ in 0..4 {
        assert!(matches!(client.answer().0, Packet::Data(..)));
    }
    client.send(ABORT, from);
    assert_eq!(client.hear(Duration::from_millis(2500)), None);
    assert!(serving.fetched().is_empty());
}

#[test]
fn options_refused_by_the_client_end_the_transfer() {
    let serving = Serving::program(&bytes(1000));
    let client = Client::new(serving.address);
    client.ask("ipxe.efi", &[("blksize", "1000"), ("tsize", "0")]);
    let (packet, from) = client.answer();
    assert_eq!(packet, oack(&[("blksize", "1000"), ("tsize", "1000")]));
    client.send(b"\0\x05\0\x08no option of mine\0", from);
    // Without options, as such a client goes on.
    client.ask("ipxe.efi", &[]);
    let (packet, from) = client.answer();
    assert_eq!(packet, Packet::Data(1, bytes(1000)[..512].to_vec()));
    client.send(&ack(1), from);
    assert_eq!(client.answer().0, Packet::Data(2, bytes(1000)[512..].to_vec()));
    client.send(&ack(2), from);
    assert_eq!(client.hear(Duration::from_millis(1500)), None);
}

#[test]
fn a_second_request_from_the_same_port_is_honoured_without_any_error() {
    let program = bytes(20_000);
    let serving = Serving::program(&program);
    let client = Client::new(serving.address);
    client.begin(1000, 4);
    for _ in 0..4 {
        client.answer();
    }
    let began = Instant::now();
    let from = client.begin(1400, 1);
    assert!(began.elapsed() < SOON);
    assert!(client.receive(from, 1400, 1, |_| false).bytes == program);
    assert_eq!(client.hear(Duration::from_millis(2500)), None, "the first says no more");
}

#[test]
fn a_request_that_is_repeated_crosses_its_answer() {
    let program = bytes(20_000);
    let serving = Serving::program(&program);
    let client = Client::new(serving.address);
    let options = [("blksize", "1000")];
    client.ask("ipxe.efi", &options);
    client.ask("ipxe.efi", &options);
    let (first, second) = (client.answer(), client.answer());
    assert_eq!(first.0, second.0);
    // It goes on with the first answer, and what comes of the other one is not for it.
    client.send(b"\0\x05\0\x05unknown transfer\0", second.1);
    client.send(&ack(0), first.1);
    assert!(client.receive(first.1, 1000, 1, |_| false).bytes == program);
    assert_eq!(serving.fetched().len(), 1);
}

#[test]
fn a_name_may_begin_at_the_root() {
    let serving = Serving::program(b"program");
    let client = Client::new(serving.address);
    client.ask("/ipxe.efi", &[]);
    let (packet, from) = client.answer();
    assert_eq!(packet, Packet::Data(1, b"program".to_vec()));
    client.send(&ack(1), from);
    assert_eq!(serving.fetched()[0].1, "ipxe.efi");
}

#[test]
fn a_program_that_is_replaced_is_read_again() {
    let serving = Serving::program(b"old");
    let client = Client::new(serving.address);
    client.ask("ipxe.efi", &[]);
    assert_eq!(client.answer().0, Packet::Data(1, b"old".to_vec()));
    serving.replace("ipxe.efi", b"newer");
    let other = Client::new(serving.address);
    other.ask("ipxe.efi", &[]);
    assert_eq!(other.answer().0, Packet::Data(1, b"newer".to_vec()));
}

#[test]
fn each_address_answers_for_itself() {
    let addresses = [[127, 0, 0, 1], [127, 0, 0, 2], [127, 5, 6, 7]].map(Into::into);
    let (_serving, bound) = Serving::on(&addresses, Default::default(), b"program");
    for server in bound {
        let client = Client::new(server);
        client.ask("ipxe.efi", &[]);
        assert_eq!(client.answer().1.ip(), server.ip());
    }
}
