//! `dhcp`: four-way exchanges per second of which none is lost, by ISC's `perfdhcp`, which plays
//! a relay with thousands of machines behind it.
//!
//! billet answers once a lease is as safe as everything it keeps; the peers keep theirs in
//! files as they come from their packages.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::{
    ours, peers,
    rounds::{Contender, interleave},
    row::{Better, Row},
    wire::{LOAD, SERVE_ADDRESS, Wire},
};
use crate::tool;

/// A search takes the better part of a minute, so three are enough.
const ROUNDS: usize = 3;
/// Machines that ask, each again and again.
const CLIENTS: &str = "5000";
/// Seconds that a rate has to be held for.
const PERIOD: u32 = 3;
/// Where the first search begins.
const BEGIN: u32 = 100;
/// No search goes further: the load itself takes a core by then.
const END: u32 = 100_000;
/// How finely the rate is found: so many halvings between a rate that was held and its double.
const HALVINGS: u32 = 4;
const PORT: u16 = 67;

/// What a server at the wire's other end is started with, with an empty folder for its state.
type Start = fn(&Wire, &Path) -> Result<Command>;

/// `dhcp-dnsmasq`, `dhcp-kea`: billet's rate is to be five times the one and half the other.
pub fn run(folder: &Path) -> Result<Vec<Row>> {
    let folder = folder.join("dhcp");
    let wire = Wire::lay(&folder)?;
    let contender = |name: &'static str, start: Start| {
        let (wire, state, mut begin) = (&wire, folder.join(name), BEGIN);
        Contender::new(name, move || {
            let held = |rate| holds(wire, &state, name, start, rate);
            let rate = highest(begin, held)?;
            begin = rate / 2;
            Ok(f64::from(rate))
        })
    };
    let medians = interleave(
        ROUNDS,
        &mut [
            contender("billet", ours::command),
            contender("dnsmasq", peers::dnsmasq_dhcp),
            contender("kea-dhcp4", peers::kea),
        ],
    )?;
    let [billet, dnsmasq, kea] = medians[..] else { bail!("three were to be measured") };
    let row =
        |name, peer, rate| Row::compare(name, "exchanges/s", Better::More, billet, &[(peer, rate)]);
    Ok(vec![
        row("dhcp-dnsmasq", "dnsmasq", dnsmasq).with_bar(1.0 / 5.0),
        row("dhcp-kea", "kea-dhcp4", kea).with_bar(1.0 / 0.5),
    ])
}

/// The highest rate that `held` is true of, from `begin` up or down, within a few per cent.
///
/// A rate is tried twice before it counts as too high: this machine does other things too.
fn highest(begin: u32, mut held: impl FnMut(u32) -> Result<bool>) -> Result<u32> {
    let mut held = |rate| Ok::<_, anyhow::Error>(held(rate)? || held(rate)?);
    let mut low = begin.max(1);
    while !held(low)? {
        low /= 2;
        if low == 0 {
            return Ok(0);
        }
    }
    let mut high = low * 2;
    while high <= END && held(high)? {
        low = high;
        high *= 2;
    }
    for _ in 0..HALVINGS {
        let middle = low.midpoint(high);
        if middle > low && held(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// Whether a server that has just been started, with nothing in its state, loses nothing.
fn holds(wire: &Wire, state: &Path, name: &str, start: Start, rate: u32) -> Result<bool> {
    let _ = fs::remove_dir_all(state);
    fs::create_dir_all(state).with_context(|| format!("making {}", state.display()))?;
    let _server = wire.serve(name, start(wire, state)?, &state.join("server.log"), PORT)?;
    let mut perfdhcp = Command::new(tool::program("perfdhcp", "kea-admin")?);
    perfdhcp.args(["-4", "-R", CLIENTS, "-W", "500000", "-l", LOAD]);
    perfdhcp.args(["-r", &rate.to_string(), "-p", &PERIOD.to_string()]);
    let output = perfdhcp.arg(SERVE_ADDRESS.to_string()).output().context("starting perfdhcp")?;
    // It fails when something was lost, which the text says better.
    let said = String::from_utf8_lossy(&output.stdout);
    let complete = Complete::parse(&said).with_context(|| {
        format!("reading what perfdhcp said: {said}{}", String::from_utf8_lossy(&output.stderr))
    })?;
    Ok(complete.holds(rate))
}

/// What was sent and what came, in both halves of the exchange.
#[derive(Debug, PartialEq, Eq)]
struct Complete {
    sent: [u32; 2],
    received: [u32; 2],
}

impl Complete {
    fn parse(text: &str) -> Result<Self> {
        let both = |label: &str| {
            let numbers =
                text.lines().filter_map(|line| line.strip_prefix(label)?.trim().parse().ok());
            let numbers: Vec<u32> = numbers.collect();
            <[u32; 2]>::try_from(numbers)
                .ok()
                .with_context(|| format!("two lines `{label}` expected"))
        };
        Ok(Complete { sent: both("sent packets:")?, received: both("received packets:")? })
    }

    /// All was answered, and the load came about as fast as it was asked to.
    fn holds(&self, rate: u32) -> bool {
        let asked = rate * PERIOD;
        self.sent == self.received
            && self.sent[0] == self.sent[1]
            && self.sent[0] >= asked - asked / 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_rate_is_found_from_either_side() {
        for (begin, limit) in [(100, 7_900), (100, 230), (4_000, 60), (100, 3), (100, 0)] {
            let found = highest(begin, |rate| Ok(rate <= limit)).unwrap();
            assert!(
                found <= limit && f64::from(found) >= f64::from(limit) * 0.93,
                "{limit}: {found}"
            );
        }
        assert!(highest(100, |_| Ok(true)).unwrap() >= END / 2);
    }

    #[test]
    fn perfdhcp_is_understood() {
        let text = "Rate: 1.5\n***Statistics for: DISCOVER-OFFER***\nsent packets: 300\n\
                    received packets: 300\ndrops: 0\n***Statistics for: REQUEST-ACK***\n\
                    sent packets: 300\nreceived packets: 299\ndrops: 1\n";
        let complete = Complete::parse(text).unwrap();
        assert_eq!(complete, Complete { sent: [300, 300], received: [300, 299] });
        assert!(!complete.holds(100));
        assert!(Complete { sent: [296, 296], received: [296, 296] }.holds(100));
        assert!(!Complete { sent: [200, 200], received: [200, 200] }.holds(100), "a load too slow");
        assert!(Complete::parse("no servers here").is_err());
    }
}
