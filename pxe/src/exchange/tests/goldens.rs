//! Captured requests and what they are answered. A case is a folder in `tests/dhcp`: `case.toml`
//! names a capture, a configuration and what nodes there are; `expected.txt` has the answers.
//! `BILLET_REWRITE=1 cargo test -p pxe` writes them anew.

use std::{env, fmt::Write, fs, net::Ipv4Addr, path::Path};

use serde::Deserialize;

use super::{arrival, exchange, render};
use crate::{capture, mac::Mac, registry::Entry};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    capture: String,
    dhcp: toml::Table,
    #[serde(default)]
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    mac: Mac,
    #[serde(default)]
    name: String,
    reserved: Option<Ipv4Addr>,
    boots: bool,
}

#[test]
fn captured_requests_get_the_expected_answers() {
    let mut folders: Vec<_> =
        fs::read_dir(capture::data("dhcp")).unwrap().map(|folder| folder.unwrap().path()).collect();
    folders.sort();
    assert!(!folders.is_empty());
    let wrong: Vec<String> = folders.iter().filter_map(|folder| check(folder)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn check(folder: &Path) -> Option<String> {
    let case = fs::read_to_string(folder.join("case.toml")).unwrap();
    let got = answers(toml::from_str(&case).unwrap());
    let expected = folder.join("expected.txt");
    if env::var_os("BILLET_REWRITE").is_some() {
        fs::write(&expected, &got).unwrap();
    }
    let wanted = fs::read_to_string(&expected).unwrap_or_default();
    (got != wanted).then(|| format!("{}: wanted\n{wanted}got\n{got}", folder.display()))
}

fn answers(case: Case) -> String {
    let nodes = case.nodes.into_iter().map(|node| {
        (node.mac, Entry { name: node.name, reserved: node.reserved, boots: node.boots })
    });
    let mut exchange = exchange(&case.dhcp.to_string(), nodes.collect());
    let mut text = String::new();
    let captured = capture::read(&case.capture);
    for datagram in captured.iter().filter(|datagram| [67, 4011].contains(&datagram.port)) {
        let now = 1_000_000 + datagram.at as i64;
        let arrival = arrival(datagram.from.0, datagram.port, now);
        let packet = crate::packet::Packet::parse(&datagram.payload).unwrap();
        if !packet.is_request() {
            continue;
        }
        let machine = crate::machine::Machine::parse(&packet).unwrap().unwrap();
        let platform = machine.platform().map(|platform| platform.to_string());
        writeln!(
            text,
            "{:.2} {:?} from {:?} of {} ({})",
            datagram.at,
            packet.kind,
            machine.asker,
            machine.mac,
            platform.as_deref().unwrap_or("architecture not said"),
        )
        .unwrap();
        let outcome = exchange.answer(&datagram.payload, arrival).unwrap();
        text += &outcome.reply.as_ref().map_or("  silence\n".to_owned(), render);
        if outcome.promises {
            text += "    once durable\n";
        }
        if let Some(seen) = outcome.seen {
            writeln!(text, "  seen {:?}", seen.what).unwrap();
        }
    }
    text
}
