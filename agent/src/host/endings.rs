//! Guests that ended by themselves: how often, and when they may start again.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xen_config::{Desired, Guest, Name, host::Ended, list::Ending};

use super::folder::Folder;

const FILE: &str = "ended.json";
/// A guest that ran for so long before it ended is not in a circle.
const LONG: Duration = Duration::from_secs(600);
/// The longest pause between two starts.
const LONGEST: Duration = Duration::from_secs(300);

/// All endings of this boot.
#[derive(Debug, Clone)]
pub(crate) struct Endings {
    folder: Folder,
    boot: String,
    known: Vec<Known>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    guest: Name,
    ending: Ending,
    boot: String,
    at: Timestamp,
    /// Endings in a row.
    times: u32,
    /// What was desired of it then: when that changes it starts anew.
    desired: Option<Guest>,
}

impl Endings {
    /// Those in `folder` that happened in the boot `boot`.
    pub(crate) fn at(folder: &Folder, boot: &str) -> Result<Self> {
        let mut known: Vec<Known> = folder.read(FILE)?.unwrap_or_default();
        known.retain(|known| known.boot == boot);
        Ok(Endings { folder: folder.clone(), boot: boot.to_owned(), known })
    }

    /// Notes that a guest ended.
    pub(crate) fn note(&mut self, guest: &Name, ending: Ending, desired: &Desired) -> Result<()> {
        let now = Timestamp::now();
        let before = self.known.iter().position(|known| known.guest == *guest);
        let before = before.map(|at| self.known.swap_remove(at));
        let times = match before {
            // A restart that was asked for is none of a circle.
            _ if ending == Ending::Reboot => 0,
            Some(before) if since(before.at, now) < LONG => before.times + 1,
            _ => 1,
        };
        let desired = desired.guests.iter().find(|wanted| wanted.name == *guest).cloned();
        let (guest, boot) = (guest.clone(), self.boot.clone());
        self.known.push(Known { guest, ending, boot, at: now, times, desired });
        self.folder.write(FILE, &self.known)
    }

    /// Forgets guests of which something else is desired now.
    pub(crate) fn refresh(&mut self, desired: &Desired) -> Result<()> {
        let had = self.known.len();
        self.known.retain(|known| {
            let now = desired.guests.iter().find(|guest| guest.name == known.guest);
            now.is_some_and(|guest| guest.is_up()) && now == known.desired.as_ref()
        });
        if self.known.len() == had { Ok(()) } else { self.folder.write(FILE, &self.known) }
    }

    /// Whether the guest has ended by itself before.
    pub(crate) fn knows(&self, guest: &Name) -> bool {
        self.known.iter().any(|known| known.guest == *guest)
    }

    /// As the plan wants to know it.
    pub(crate) fn facts(&self) -> Vec<Ended> {
        let now = Timestamp::now();
        let fact = |known: &Known| Ended {
            guest: known.guest.clone(),
            ending: known.ending,
            wait: since(known.at, now) < pause(known.times),
        };
        self.known.iter().map(fact).collect()
    }
}

/// The first restart is at once, the others after 2, 4, 8 ... seconds.
fn pause(times: u32) -> Duration {
    match times {
        0 | 1 => Duration::ZERO,
        more => LONGEST.min(Duration::from_secs(1 << (more - 1).min(9))),
    }
}

/// The clock may have been put back.
fn since(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_gets_slower() {
        let at = tempfile::tempdir().unwrap();
        let folder = Folder::at(at.path()).unwrap();
        let desired = "[[guest]]\nname = \"web\"\nmemory = \"64MiB\"\nboot.loader = \"pygrub\"";
        let desired = Desired::from_toml(desired).unwrap();
        let name: Name = "web".parse().unwrap();
        let mut endings = Endings::at(&folder, "one").unwrap();
        endings.note(&name, Ending::Crash, &desired).unwrap();
        assert!(!endings.facts()[0].wait);
        endings.note(&name, Ending::Crash, &desired).unwrap();
        endings.refresh(&desired).unwrap();
        assert!(Endings::at(&folder, "one").unwrap().facts()[0].wait);
        assert!(Endings::at(&folder, "two").unwrap().facts().is_empty());
        let pauses: Vec<u64> = (0..12).map(|times| pause(times).as_secs()).collect();
        assert_eq!(pauses, [0, 0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        endings.refresh(&Desired::default()).unwrap();
        assert!(endings.facts().is_empty());
    }
}
