//! The lease of an address that the agent moved off its card: the DHCP client that got it renews
//! it no more, so the agent does.
//!
//! `lease.json` says, from before the move on, whose lease it was; where the address is by then
//! the kernel says.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::mpsc::SyncSender,
    thread,
    time::Duration,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use xen_config::link::{LinkName, Links, Mac};

use super::{folder::Folder, network, provisioner::Word};
use crate::{
    console,
    dhcp::{self, Rebound},
};

const FILE: &str = "lease.json";
/// Between two looks whether there is a lease to keep.
const LOOK: Duration = Duration::from_secs(5);
/// Between two questions that nobody answered (RFC 2131 section 4.4.5).
const AGAIN: Duration = Duration::from_secs(60);
/// A lease that lasts longer is asked for as often as this one.
const LONGEST: Duration = Duration::from_secs(86_400);

/// A lease that somebody else got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    /// The boot in which it was got.
    boot: String,
    /// The hardware address that it was given to.
    mac: Mac,
    address: Ipv4Addr,
}

/// Notes, before links change, the leases that may move with them: those of `card`. `run` is `/run`.
pub(crate) fn note(
    folder: &Folder,
    boot: &str,
    card: &LinkName,
    links: &Links,
    run: &Path,
) -> Result<()> {
    let Some(link) = links.links.get(card) else { return Ok(()) };
    let lease = leased(run, link.index);
    let given = link.addresses.iter().filter_map(|address| match address.net.ip {
        IpAddr::V4(ip) if address.dynamic || lease == Some(ip) => Some(ip),
        _ => None,
    });
    let lease = |(address, mac)| Lease { boot: boot.to_owned(), mac, address };
    let leases: Vec<Lease> = given.zip(link.own_mac().into_iter().cycle()).map(lease).collect();
    if leases.is_empty() { Ok(()) } else { folder.write(FILE, &leases) }
}

/// The address that systemd-networkd has a lease of for the link of this number. An address that
/// it was told to keep (`KeepConfiguration=`) looks in the kernel like one that nobody gave.
fn leased(run: &Path, index: u32) -> Option<Ipv4Addr> {
    let file = run.join("systemd/netif/leases").join(index.to_string());
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("ADDRESS=")?.trim().parse().ok())
}

/// Keeps them from now on; what an operator should know goes into `words`.
pub(crate) fn keep(folder: &Folder, boot: &str, words: &SyncSender<Word>) {
    let (folder, boot, words) = (folder.clone(), boot.to_owned(), words.clone());
    thread::spawn(move || {
        let mut keeper = Keeper::default();
        loop {
            match keeper.turn(&folder, &boot) {
                Ok(None) => {}
                Ok(Some(text)) => {
                    if words.send(Word::Lease(text)).is_err() {
                        return;
                    }
                }
                Err(error) => console::say(format_args!("keeping a lease: {error:#}")),
            }
            thread::sleep(LOOK);
        }
    });
}

#[derive(Debug, Default)]
struct Keeper {
    terms: Vec<Term>,
}

/// How long a lease lasts, and when it is asked for again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    address: Ipv4Addr,
    /// Until the next question.
    wait: Duration,
    /// Until it ends.
    left: Duration,
    /// The last answer let it be kept.
    kept: bool,
    /// It was told that it is lost.
    told: bool,
}

impl Keeper {
    /// One look; a text when a lease was lost.
    fn turn(&mut self, folder: &Folder, boot: &str) -> Result<Option<String>> {
        let leases: Vec<Lease> = folder.read(FILE)?.unwrap_or_default();
        self.terms.iter_mut().for_each(|term| term.pass(LOOK));
        let mut lost = None;
        for lease in leases.iter().filter(|lease| lease.boot == boot) {
            let term = match self.terms.iter_mut().position(|term| term.address == lease.address) {
                Some(at) => &mut self.terms[at],
                None => {
                    self.terms.push(Term::unknown(lease.address));
                    let last = self.terms.len() - 1;
                    &mut self.terms[last]
                }
            };
            if !term.wait.is_zero() {
                continue;
            }
            let links = network::probe(Path::new("/"))?;
            let Some(link) = moved_to(&links, lease.address) else {
                term.wait = LOOK;
                continue;
            };
            let answer = dhcp::rebind(link.as_str(), lease.mac.0, lease.address);
            if let (Ok(Rebound::Kept(lasts)), true) = (&answer, term.is_new()) {
                let (address, seconds) = (lease.address, lasts.as_secs());
                console::say(format_args!(
                    "{address} on {link} is kept, for {seconds} s at a time"
                ));
            }
            lost = term.hear(answer).or(lost);
        }
        Ok(lost)
    }
}

/// The link where the address is without an end. Where it has one, its DHCP client renews it.
fn moved_to(links: &Links, address: Ipv4Addr) -> Option<&LinkName> {
    let has = |net: &xen_config::link::Address| !net.dynamic && net.net.ip == IpAddr::V4(address);
    links.links.iter().find(|(_, link)| link.addresses.iter().any(has)).map(|(name, _)| name)
}

impl Term {
    /// How long it lasts is heard by the first question.
    fn unknown(address: Ipv4Addr) -> Self {
        Term { address, wait: Duration::ZERO, left: AGAIN, kept: false, told: false }
    }

    /// Whether nobody answered for it yet, or not any more.
    fn is_new(&self) -> bool {
        !self.kept
    }

    fn pass(&mut self, time: Duration) {
        self.wait = self.wait.saturating_sub(time);
        self.left = self.left.saturating_sub(time);
    }

    /// What came of a question; a text when an operator should know.
    fn hear(&mut self, answer: std::io::Result<Rebound>) -> Option<String> {
        let address = self.address;
        let text = match answer {
            Ok(Rebound::Kept(lasts)) => {
                let lasts = lasts.min(LONGEST);
                (self.wait, self.left) = (lasts / 2, lasts);
                (self.kept, self.told) = (true, false);
                return None;
            }
            Ok(Rebound::Refused) => {
                self.left = Duration::ZERO;
                format!("a DHCP server does not let this node keep {address} any longer")
            }
            Err(error) => format!("no DHCP server renewed {address} in time: {error}"),
        };
        self.kept = false;
        // As soon as half of what is left, but no sooner than a minute.
        self.wait = AGAIN.max(self.left / 2);
        let lost = self.left.is_zero() && !std::mem::replace(&mut self.told, self.left.is_zero());
        lost.then(|| format!("{text}; somebody else may be given it"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn a_lease_is_asked_for_at_its_half_and_told_once_when_it_is_lost() {
        let silence = || Err(Error::from(ErrorKind::TimedOut));
        let mut term = Term::unknown(Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(term.hear(Ok(Rebound::Kept(Duration::from_secs(3600)))), None);
        assert_eq!((term.wait.as_secs(), term.left.as_secs()), (1800, 3600));
        term.pass(Duration::from_secs(1800));
        assert_eq!(term.hear(silence()), None);
        assert_eq!(term.wait.as_secs(), 900);
        term.pass(Duration::from_secs(1790));
        assert_eq!(term.hear(silence()), None);
        assert_eq!(term.wait, AGAIN);
        term.pass(AGAIN);
        assert!(term.hear(silence()).unwrap().contains("10.0.0.9"));
        assert_eq!(term.hear(silence()), None);
        assert_eq!(term.hear(Ok(Rebound::Kept(Duration::from_secs(120)))), None);
        assert!(term.hear(Ok(Rebound::Refused)).is_some());
    }

    #[test]
    fn only_an_address_that_moved_is_kept() {
        let link = |index: u32, net: &str, dynamic: bool| {
            serde_json::json!({
                "index": index, "mac": "52:54:00:77:00:01", "mtu": 1500, "up": true,
                "carrier": true, "master": null, "kind": { "other": "" }, "vlans": null,
                "addresses": [{ "net": net, "dynamic": dynamic }]
            })
        };
        let links = serde_json::json!({ "links": {
            "br0": link(1, "10.0.0.9/24", false), "ens5": link(2, "10.0.1.9/24", true),
            "ens4": link(3, "10.0.3.9/24", false)
        }, "routes": [] });
        let links: Links = serde_json::from_value(links).unwrap();
        let at = |text: &str| moved_to(&links, text.parse().unwrap()).map(LinkName::as_str);
        assert_eq!((at("10.0.0.9"), at("10.0.1.9"), at("10.0.2.9")), (Some("br0"), None, None));
        let place = tempfile::tempdir().unwrap();
        let (folder, run) = (Folder::at(place.path()).unwrap(), place.path());
        let noted = |card: &str| {
            note(&folder, "one", &card.parse().unwrap(), &links, run).unwrap();
            let leases: Vec<Lease> = folder.read(FILE).unwrap().unwrap();
            leases.iter().map(|it| it.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(noted("ens5"), ["10.0.1.9"]);
        // A card that has none forgets none.
        assert_eq!(noted("ens4"), ["10.0.1.9"]);
        let leases = run.join("systemd/netif/leases");
        std::fs::create_dir_all(&leases).unwrap();
        std::fs::write(leases.join("3"), "# private\nADDRESS=10.0.3.9\nLIFETIME=120\n").unwrap();
        assert_eq!(noted("ens4"), ["10.0.3.9"]);
    }
}
