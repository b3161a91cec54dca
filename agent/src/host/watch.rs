//! Which domains were there at the last look: what became of them since, and who ended it.

use std::collections::{BTreeMap, BTreeSet};

use xen_config::{Desired, Name, Size, list::Domain};

/// The domains of the last look, by their numbers, without those that the agent ended itself.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: BTreeMap<u32, Domain>,
    /// Guests that the agent has made since.
    made: BTreeSet<String>,
}

/// What a look showed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Guests of the desired state whose domains are gone. One that ends by itself leaves its
    /// domain behind, and those that the agent ends are forgotten first: somebody destroyed these.
    pub(crate) destroyed: Vec<String>,
    /// Something happened that a plan could answer.
    pub(crate) changed: bool,
}

impl Watch {
    /// Compares `domains` with the last look, and remembers them.
    pub(crate) fn look(&mut self, domains: &[Domain], desired: Option<&Desired>) -> Seen {
        let now = domains.iter().map(|domain| (domain.id, domain.clone())).collect();
        let before = std::mem::replace(&mut self.seen, now);
        let is_ours = |name: &str| {
            desired.is_some_and(|it| it.guests.iter().any(|guest| guest.name.as_str() == name))
        };
        let still_up = |it: &Domain| self.seen.get(&it.id).is_some_and(is_up);
        let gone = before.values().filter(|it| is_up(it) && !still_up(it));
        let is_there = |name: &String| {
            self.seen.values().any(|domain| domain.name == *name && !domain.state.dying)
        };
        // One that was made and destroyed between two looks was never seen.
        let unseen = self.made.iter().filter(|name| !is_there(name)).cloned();
        let missed = gone.map(|domain| domain.name.clone()).chain(unseen);
        let destroyed: BTreeSet<String> = missed.filter(|name| is_ours(name)).collect();
        let destroyed = destroyed.into_iter().collect();
        self.made.clear();
        let same = |(one, other): (&Domain, &Domain)| lasting(one) == lasting(other);
        let changed =
            before.len() != self.seen.len() || !before.values().zip(self.seen.values()).all(same);
        Seen { destroyed, changed }
    }

    /// The agent made this guest: the next look must show it.
    pub(crate) fn expect(&mut self, guest: &Name) {
        self.made.insert(guest.to_string());
    }

    /// The agent ends this guest: its domain will be missed by nobody.
    pub(crate) fn forget(&mut self, guest: &Name) {
        self.seen.retain(|_, domain| domain.name != guest.as_str());
        self.made.remove(guest.as_str());
    }
}

/// Whether nobody has begun to destroy it.
fn is_up(domain: &Domain) -> bool {
    !domain.state.dying && domain.has_name()
}

/// What does not change while a domain goes about its work.
fn lasting(domain: &Domain) -> Domain {
    let mut domain = domain.clone();
    domain.time = 0;
    domain.memory = Size::ZERO;
    domain.state.running = false;
    domain.state.blocked = false;
    // What only the whole look adds.
    domain.vcpus.clear();
    domain.made = None;
    domain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(id: u32, name: &str) -> Domain {
        let text = format!(
            "Name ID Mem VCPUs State Time(s) UUID Reason-Code Security Label Cpupool\n\
             {name} {id} 96 1 -b---- 1.0 00000000-0000-0000-0000-{id:012} - - guests\n"
        );
        let mut domains = xen_config::list::parse(&text, "", "").unwrap();
        domains.remove(0)
    }

    fn desired() -> Desired {
        let guest = |name: &str| {
            format!("[[guest]]\nname = \"{name}\"\nmemory = \"64MiB\"\nboot.loader = \"pygrub\"\n")
        };
        Desired::from_toml(&(guest("web") + &guest("db"))).unwrap()
    }

    #[test]
    fn a_guest_that_was_destroyed_is_told_once_even_when_it_is_back() {
        let (mut watch, desired) = (Watch::default(), desired());
        let mut look = |domains: &[Domain]| watch.look(domains, Some(&desired));
        assert!(look(&[domain(1, "web"), domain(2, "foreign")]).changed);
        assert_eq!(look(&[domain(1, "web"), domain(2, "foreign")]), Seen::default());
        let seen = look(&[domain(3, "web")]);
        assert_eq!(seen, Seen { destroyed: vec!["web".into()], changed: true });
        assert_eq!(look(&[domain(3, "web")]), Seen::default());
    }

    #[test]
    fn a_guest_that_has_lost_its_name_is_missed() {
        let (mut watch, desired) = (Watch::default(), desired());
        let mut look = |domains: &[Domain]| watch.look(domains, Some(&desired)).destroyed;
        assert!(look(&[domain(1, "web")]).is_empty());
        // As a real `xl list` shows it while `xl destroy` is under way.
        assert_eq!(look(&[domain(1, "(null)")]), ["web"]);
        assert!(look(&[]).is_empty());
    }

    #[test]
    fn a_guest_that_the_agent_ends_is_not_missed() {
        let (mut watch, desired) = (Watch::default(), desired());
        watch.look(&[domain(1, "web"), domain(2, "db")], Some(&desired));
        watch.forget(&"web".parse().unwrap());
        let seen = watch.look(&[domain(4, "web")], Some(&desired));
        assert_eq!(seen, Seen { destroyed: vec!["db".into()], changed: true });
    }

    #[test]
    fn a_guest_that_was_destroyed_before_it_was_seen_is_missed() {
        let (mut watch, desired) = (Watch::default(), desired());
        let made = |watch: &mut Watch| {
            for name in ["web", "db"] {
                watch.expect(&name.parse().unwrap());
            }
        };
        made(&mut watch);
        let seen = watch.look(&[domain(1, "web")], Some(&desired));
        assert_eq!(seen, Seen { destroyed: vec!["db".into()], changed: true });
        assert_eq!(watch.look(&[domain(1, "web")], Some(&desired)), Seen::default());
        made(&mut watch);
        watch.forget(&"db".parse().unwrap());
        assert_eq!(watch.look(&[domain(1, "web")], Some(&desired)), Seen::default());
    }
}
