//! Who has which address: the table in memory, and what of it must still be made durable.
//!
//! One address a machine, found by its hardware address: firmware, iPXE, the RAM system and the
//! installed system each send another client identifier (or none), and a node that changed its
//! address in mid-boot would help nobody. Times are Unix seconds. The table holds at most one
//! entry for each address of the pools and each reservation, whatever the network sends.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    net::Ipv4Addr,
};

use crate::{lease::Lease, mac::Mac, subnet::Subnet};

/// All addresses that were given or offered.
#[derive(Debug, Default)]
pub struct Leases {
    slots: HashMap<Ipv4Addr, Slot>,
    by_mac: HashMap<Mac, Ipv4Addr>,
    deadlines: BTreeSet<(i64, Ipv4Addr)>,
    pools: Vec<Pool>,
    changed: HashSet<Ipv4Addr>,
}

#[derive(Debug, Default)]
struct Slot {
    state: State,
    /// Who has it, or had it last: it gets the same again while nobody else needs it.
    mac: Option<Mac>,
    client_id: Option<String>,
    hostname: Option<String>,
    queued: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    Offered(i64),
    Leased(i64),
    Declined(i64),
}

impl State {
    fn deadline(self) -> Option<i64> {
        match self {
            State::Free => None,
            State::Offered(until) | State::Leased(until) | State::Declined(until) => Some(until),
        }
    }
}

/// Addresses of one subnet: first those never given, in order, then those free again, oldest first.
#[derive(Debug)]
struct Pool {
    subnet: Subnet,
    next: Option<u32>,
    free: VecDeque<Ipv4Addr>,
}

/// Changes that a commit makes durable.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Leases that began or go on.
    pub leases: Vec<Lease>,
    /// Addresses that are nobody's any more.
    pub expired: Vec<Ipv4Addr>,
}

/// How many free addresses are looked at for one request, when some are kept for others.
const LOOKS: usize = 64;

impl Leases {
    /// The table over `subnets`, with what the store remembers.
    pub fn new(subnets: &[Subnet], stored: Vec<Lease>) -> Leases {
        let pools = subnets.iter().map(|subnet| Pool {
            subnet: subnet.clone(),
            next: subnet.pools.first().map(|pool| pool.first),
            free: VecDeque::new(),
        });
        let mut leases = Leases { pools: pools.collect(), ..Leases::default() };
        for lease in stored {
            // Two leases of one machine: the later one counts, the other one runs out by itself.
            leases.put(lease.ip, State::Leased(lease.until), Some(lease.mac));
            if let Some(slot) = leases.slots.get_mut(&lease.ip) {
                slot.client_id = lease.client_id;
                slot.hostname = lease.hostname;
            }
        }
        let Leases { slots, changed, .. } = &mut leases;
        changed
            .retain(|ip| !slots.get(ip).is_some_and(|slot| matches!(slot.state, State::Leased(_))));
        leases
    }

    /// The address that `mac` has, was offered, or had last.
    pub fn of(&self, mac: Mac) -> Option<Ipv4Addr> {
        self.by_mac.get(&mac).copied()
    }

    /// Whether `mac` may have `ip`, going by this table alone.
    pub fn allows(&self, ip: Ipv4Addr, mac: Mac) -> bool {
        match self.slots.get(&ip) {
            None => true,
            Some(slot) => match slot.state {
                State::Free => true,
                State::Offered(_) | State::Leased(_) => slot.mac == Some(mac),
                State::Declined(_) => false,
            },
        }
    }

    /// A free address of `subnet` that `kept` does not keep from this machine.
    pub fn pick(&mut self, subnet: &Subnet, kept: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let index = self.pools.iter().position(|pool| pool.subnet.network == subnet.network)?;
        let mut looks = 0;
        while looks < LOOKS {
            let ip = self.pools[index].take()?;
            if let Some(slot) = self.slots.get_mut(&ip) {
                slot.queued = false;
                if slot.state != State::Free {
                    continue;
                }
            }
            if !kept(ip) {
                return Some(ip);
            }
            self.queue(ip);
            looks += 1;
        }
        None
    }

    /// Keeps `ip` for `mac` until it asks for it, unless it has it already.
    pub fn offer(&mut self, ip: Ipv4Addr, mac: Mac, until: i64) {
        let leased = self.slots.get(&ip).is_some_and(|slot| matches!(slot.state, State::Leased(_)));
        if !leased {
            self.put(ip, State::Offered(until), Some(mac));
        }
    }

    /// Gives `ip` to the lease's machine.
    pub fn lease(&mut self, lease: Lease) {
        self.put(lease.ip, State::Leased(lease.until), Some(lease.mac));
        if let Some(slot) = self.slots.get_mut(&lease.ip) {
            slot.client_id = lease.client_id;
            slot.hostname = lease.hostname;
        }
    }

    /// Takes back what `mac` was offered and did not take.
    pub fn withdraw(&mut self, mac: Mac) {
        if let Some(ip) = self.of(mac)
            && let Some(Slot { state: State::Offered(_), .. }) = self.slots.get(&ip)
        {
            self.put(ip, State::Free, Some(mac));
        }
    }

    /// `mac` gives `ip` back; false when it did not have it.
    pub fn release(&mut self, ip: Ipv4Addr, mac: Mac) -> bool {
        let had = self.slots.contains_key(&ip) && self.of(mac) == Some(ip);
        if had {
            self.put(ip, State::Free, Some(mac));
        }
        had
    }

    /// `mac` found `ip` in use: nobody gets it until then. False when it did not have it.
    pub fn decline(&mut self, ip: Ipv4Addr, mac: Mac, until: i64) -> bool {
        let had = self.slots.contains_key(&ip) && self.of(mac) == Some(ip);
        if had {
            self.put(ip, State::Declined(until), None);
        }
        had
    }

    /// Frees what ran out before `now`.
    pub fn expire(&mut self, now: i64) {
        while let Some((until, ip)) =
            self.deadlines.first().copied().filter(|(until, _)| *until <= now)
        {
            self.deadlines.remove(&(until, ip));
            let mac = self.slots.get(&ip).and_then(|slot| slot.mac);
            self.put(ip, State::Free, mac);
        }
    }

    /// What changed since the last call, for the store.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for ip in self.changed.drain() {
            let leased = self.slots.get(&ip).and_then(|slot| match (slot.state, slot.mac) {
                (State::Leased(until), Some(mac)) => Some((slot, mac, until)),
                _ => None,
            });
            match leased {
                Some((slot, mac, until)) => changes.leases.push(Lease {
                    ip,
                    mac,
                    client_id: slot.client_id.clone(),
                    hostname: slot.hostname.clone(),
                    until,
                }),
                None => changes.expired.push(ip),
            }
        }
        changes
    }

    /// Takes changes back that could not be made durable: the next commit tries again.
    pub fn restore(&mut self, changes: &Changes) {
        self.changed
            .extend(changes.expired.iter().chain(changes.leases.iter().map(|lease| &lease.ip)));
    }

    /// Whether anything waits to be made durable.
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// How many addresses are leased, offered or declined.
    pub fn in_use(&self) -> usize {
        self.deadlines.len()
    }

    /// How many addresses the table remembers at all.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.slots.len().max(self.by_mac.len())
    }

    fn put(&mut self, ip: Ipv4Addr, state: State, mac: Option<Mac>) {
        let slot = self.slots.entry(ip).or_default();
        let before = std::mem::replace(&mut slot.state, state);
        let had = std::mem::replace(&mut slot.mac, mac);
        if let Some(until) = before.deadline() {
            self.deadlines.remove(&(until, ip));
        }
        if let Some(until) = state.deadline() {
            self.deadlines.insert((until, ip));
        }
        if matches!(before, State::Leased(_)) || matches!(state, State::Leased(_)) {
            self.changed.insert(ip);
        }
        if had != mac
            && let Some(had) = had
            && self.by_mac.get(&had) == Some(&ip)
        {
            self.by_mac.remove(&had);
        }
        if state == State::Free {
            self.queue(ip);
        }
        if let Some(mac) = mac {
            self.move_to(mac, ip);
        }
    }

    /// `mac` is at `ip` now; what it had elsewhere is free.
    fn move_to(&mut self, mac: Mac, ip: Ipv4Addr) {
        if let Some(old) = self.by_mac.insert(mac, ip).filter(|old| *old != ip) {
            self.put(old, State::Free, None);
        }
    }

    fn queue(&mut self, ip: Ipv4Addr) {
        let Some(pool) = self.pools.iter_mut().find(|pool| pool.subnet.pools(ip)) else {
            // A reservation outside the pools: nothing to remember once nobody has it.
            return;
        };
        let slot = self.slots.entry(ip).or_default();
        if !std::mem::replace(&mut slot.queued, true) {
            pool.free.push_back(ip);
        }
    }
}

impl Pool {
    fn take(&mut self) -> Option<Ipv4Addr> {
        let Some(next) = self.next else {
            return self.free.pop_front();
        };
        let ranges = &self.subnet.pools;
        let last = ranges.iter().find(|range| (range.first..=range.last).contains(&next))?.last;
        self.next = if next < last {
            Some(next + 1)
        } else {
            ranges.iter().map(|range| range.first).find(|first| *first > next)
        };
        Some(Ipv4Addr::from_bits(next))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::{any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest},
        strategy::{Just, Strategy},
    };

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Ask(u8),
        Take(u8, u8),
        Release(u8),
        Decline(u8),
        Commit,
        FailToCommit,
        Wait(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let mac = 0..12_u8;
        prop_oneof![
            mac.clone().prop_map(Step::Ask),
            (mac.clone(), any::<u8>()).prop_map(|(mac, ip)| Step::Take(mac, ip % 10)),
            mac.clone().prop_map(Step::Release),
            mac.prop_map(Step::Decline),
            prop_oneof![Just(Step::Commit), Just(Step::FailToCommit)],
            (0..30_i64).prop_map(Step::Wait),
        ]
    }

    fn subnet() -> Subnet {
        toml::from_str(
            "network = '10.0.0.0/24'
             pools = ['10.0.0.1-10.0.0.4', '10.0.0.6-10.0.0.9']",
        )
        .unwrap()
    }

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn mac(last: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, last])
    }

    type Stored = HashMap<Ipv4Addr, Lease>;

    fn commit(leases: &mut Leases, stored: &mut Stored) {
        let changes = leases.take_changes();
        for ip in changes.expired {
            stored.remove(&ip);
        }
        for lease in changes.leases {
            stored.insert(lease.ip, lease);
        }
    }

    fn take(leases: &mut Leases, ip: Ipv4Addr, mac: Mac, now: i64) {
        if leases.allows(ip, mac) {
            let until = now + 60;
            leases.lease(Lease { ip, mac, client_id: None, hostname: None, until });
        }
    }

    fn apply(leases: &mut Leases, stored: &mut Stored, step: Step, now: i64) {
        match step {
            Step::Ask(machine) => {
                let machine = mac(machine);
                let had = leases.of(machine).filter(|ip| leases.allows(*ip, machine));
                if let Some(ip) = had.or_else(|| leases.pick(&subnet(), |ip| ip == self::ip(3))) {
                    leases.offer(ip, machine, now + 10);
                }
            }
            Step::Take(machine, last) => take(leases, ip(last), mac(machine), now),
            Step::Release(machine) => {
                leases.of(mac(machine)).map(|ip| leases.release(ip, mac(machine)));
            }
            Step::Decline(machine) => {
                leases.of(mac(machine)).map(|ip| leases.decline(ip, mac(machine), now + 20));
            }
            Step::Commit => commit(leases, stored),
            Step::FailToCommit => {
                let changes = leases.take_changes();
                leases.restore(&changes);
            }
            Step::Wait(_) => leases.expire(now),
        }
    }

    proptest! {
        #[test]
        fn what_the_store_has_is_what_the_table_has(steps in prop::collection::vec(step(), 1..200)) {
            let (mut leases, mut stored, mut now) =
                (Leases::new(&[subnet()], Vec::new()), Stored::new(), 0);
            for step in steps {
                if let Step::Wait(seconds) = step {
                    now += seconds;
                }
                apply(&mut leases, &mut stored, step, now);
                prop_assert!(leases.size() <= 10);
                let owners: HashSet<Mac> = leases.by_mac.keys().copied().collect();
                for owner in owners {
                    let ip = leases.by_mac[&owner];
                    prop_assert_eq!(leases.slots[&ip].mac, Some(owner));
                }
            }
            commit(&mut leases, &mut stored);
            let again = Leases::new(&[subnet()], stored.values().cloned().collect());
            prop_assert!(!again.has_changes());
            for (ip, slot) in &leases.slots {
                let lasts = matches!(slot.state, State::Leased(_));
                prop_assert_eq!(lasts, stored.contains_key(ip));
                if lasts {
                    prop_assert_eq!(again.slots[ip].state, slot.state);
                    prop_assert_eq!(again.slots[ip].mac, slot.mac);
                }
            }
        }
    }
}
