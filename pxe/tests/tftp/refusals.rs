//! What is asked for and not given, or not as much as asked.

use std::time::Duration;

use crate::{
    client::{Client, Packet, ack, oack, rrq},
    serving::{PROGRAMS, Serving, bytes, open_files},
    tftp::{TftpConfig, serve},
};

fn refused(client: &Client, request: &[u8], code: u16, says: &str) {
    let answer = client.asked(request);
    let Packet::Error(given, text) = &answer else { panic!("no error: {answer:?}") };
    assert_eq!(*given, code, "{text}");
    assert!(text.contains(says), "{text}");
}

#[test]
fn only_boot_programs_are_given() {
    let serving = Serving::program(b"program");
    serving.replace("kernel", b"kernel");
    let secret = serving.boot.path().join("kernel");
    let client = Client::new(serving.address);
    for name in ["kernel", "/kernel", "", "/", ".", "ipxe.efi/", "pxelinux.cfg/default"] {
        refused(&client, &rrq(name, &[]), 1, "ipxe.efi snponly.efi undionly.kpxe");
    }
    for name in [secret.to_str().unwrap(), "/etc/passwd", "\\ipxe.efi", "C:\\ipxe.efi"] {
        refused(&client, &rrq(name, &[]), 1, "no such boot program");
    }
    for name in ["../ipxe.efi", "..", "/../../etc/passwd", "x/../ipxe.efi"] {
        refused(&client, &rrq(name, &[("blksize", "1468")]), 2, "");
    }
    refused(&client, &rrq("snponly.efi", &[]), 1, "not in the boot folder");
    assert!(serving.fetched().is_empty());
}

#[test]
fn nothing_is_taken_and_text_is_not_given() {
    let serving = Serving::program(b"program");
    let client = Client::new(serving.address);
    refused(&client, b"\0\x02ipxe.efi\0octet\0", 4, "none are taken");
    refused(&client, b"\0\x01ipxe.efi\0netascii\0", 4, "octet");
    refused(&client, b"\0\x01ipxe.efi\0mail\0", 4, "octet");
    assert_eq!(std::fs::read(serving.boot.path().join("ipxe.efi")).unwrap(), b"program");
}

#[test]
fn options_are_cut_to_the_limits_or_not_heard() {
    let program = bytes(100_000);
    let serving = Serving::program(&program);
    let agreed: [(&[_], Packet); 6] = [
        (
            &[("windowsize", "65535"), ("blksize", "65464")],
            oack(&[("blksize", "1468"), ("windowsize", "16")]),
        ),
        (&[("BLKSIZE", "8")], oack(&[("blksize", "8")])),
        (&[("timeout", "255"), ("tsize", "0")], oack(&[("tsize", "100000")])),
        (&[("timeout", "255")], Packet::Data(1, program[..512].to_vec())),
        (
            &[("blksize", "7"), ("windowsize", "0"), ("multicast", "")],
            Packet::Data(1, program[..512].to_vec()),
        ),
        (
            &[("blksize", "-1"), ("blksize", "1e3"), ("tsize", "1")],
            Packet::Data(1, program[..512].to_vec()),
        ),
    ];
    for (asked, answer) in agreed {
        let client = Client::new(serving.address);
        assert_eq!(client.asked(&rrq("ipxe.efi", asked)), answer, "{asked:?}");
    }
}

/// The window of 65535 blocks that loaded gigabytes before there were limits.
#[test]
fn a_huge_window_is_sixteen_blocks() {
    let program = bytes(2_000_000);
    let serving = Serving::program(&program);
    let client = Client::new(serving.address);
    client.ask("ipxe.efi", &[("blksize", "1468"), ("windowsize", "65535")]);
    let (_, from) = client.answer();
    client.send(&ack(0), from);
    let mut count = 0;
    while client.hear(Duration::from_millis(300)).is_some() {
        count += 1;
    }
    assert_eq!(count, 16);
}

#[test]
fn a_flood_of_requests_is_bounded_and_told_so() {
    let limits = TftpConfig { transfers: 60, per_client: 40, retries: 0, ..TftpConfig::default() };
    let serving = Serving::alone(limits, &bytes(100_000));
    let before = open_files();
    let flood: Vec<_> = (0..50).map(|_| Client::new(serving.address)).collect();
    let mut busy = 0;
    for _ in 0..40 {
        for client in &flood {
            client.ask("ipxe.efi", &[("blksize", "1468"), ("windowsize", "65535")]);
        }
        std::thread::sleep(Duration::from_millis(2));
        assert!(open_files() <= before + flood.len() + 60 + 20, "{} files", open_files());
    }
    for client in &flood {
        while let Some((packet, _)) = client.hear(Duration::from_millis(5)) {
            match packet {
                Packet::Oack(_) => {}
                Packet::Error(0, text) => {
                    assert!(text.contains("40 transfers for one client"), "{text}");
                    busy += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(busy > 0);
    std::thread::sleep(Duration::from_millis(1500));
    let client = Client::new(serving.address);
    let from = client.begin(1468, 16);
    assert!(client.receive(from, 1468, 16, |_| false).bytes == bytes(100_000));
}

/// The last acknowledgement of one transfer and the request for the next arrive together.
#[test]
fn a_place_is_free_as_soon_as_its_transfer_ends() {
    let config = TftpConfig { per_client: 1, ..TftpConfig::default() };
    let serving = Serving::with(config, b"program");
    for _ in 0..500 {
        let client = Client::new(serving.address);
        client.ask("ipxe.efi", &[]);
        let (packet, from) = client.answer();
        assert_eq!(packet, Packet::Data(1, b"program".to_vec()));
        client.send(&ack(1), from);
    }
}

#[tokio::test]
async fn an_address_that_is_not_ours_is_an_error_that_names_it() {
    let boot = tempfile::tempdir().unwrap().path().to_path_buf();
    let nowhere = vec!["192.0.2.1".parse().unwrap()];
    let config = TftpConfig { port: 6969, ..TftpConfig::default() };
    let wait = std::future::pending();
    let error = serve(config, boot, &PROGRAMS, nowhere, |_, _| {}, wait).await.unwrap_err();
    assert_eq!(error.to_string(), "binding 192.0.2.1:6969 for TFTP");
}
