//! A DHCP request in, at most one reply out: the protocol without sockets or clocks.
//!
//! In mode `server` billet is the authority of its subnets (RFC 2131 section 4.3): a machine that
//! comes back with an address that is free gets it, one with any other address hears NAK. In mode
//! `proxy` it says only what to boot, and only to machines that boot from it now; for all others
//! it does not exist.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use crate::{
    boot_program::{self, Boot, Here},
    dhcp_config::{DhcpConfig, DhcpMode},
    lease::Lease,
    leases::Leases,
    machine::Machine,
    offer::{self, Grant, Reply},
    packet::{Kind, Malformed, Packet, code, encapsulated},
    registry::{Entry, Heard, Registry, Seen},
    subnet::Subnet,
};

/// Port of a PXE boot server.
pub const BOOT_SERVER_PORT: u16 = 4011;

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Who sent it.
    pub from: SocketAddrV4,
    /// Our address on the interface where it came.
    pub local: Ipv4Addr,
    /// Our port.
    pub port: u16,
    /// When, in Unix seconds.
    pub now: i64,
}

/// What follows from a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What is said; nothing: silence.
    pub reply: Option<Reply>,
    /// Whether the reply may leave only after the table's changes are durable.
    pub promises: bool,
    /// What the node side should know.
    pub seen: Option<Seen>,
}

/// The state of a DHCP service.
#[derive(Debug)]
pub struct Exchange {
    config: DhcpConfig,
    registry: Arc<Registry>,
    /// The addresses.
    pub leases: Leases,
    http_port: u16,
    own: HashSet<Ipv4Addr>,
    warned: i64,
}

/// At most one warning about a full subnet in this many seconds.
const WARN_EVERY: i64 = 60;

impl Exchange {
    /// A service over `leases`, naming `http_port` for what is fetched by HTTP.
    pub fn new(
        config: DhcpConfig,
        registry: Arc<Registry>,
        leases: Leases,
        http_port: u16,
    ) -> Exchange {
        Exchange { config, registry, leases, http_port, own: HashSet::new(), warned: 0 }
    }

    /// Our own addresses, which no machine gets.
    pub fn set_own(&mut self, own: HashSet<Ipv4Addr>) {
        self.own = own;
    }

    /// Answers the packet in `bytes`.
    pub fn answer(&mut self, bytes: &[u8], arrival: Arrival) -> Result<Outcome, Malformed> {
        let packet = Packet::parse(bytes)?;
        if !packet.is_request() {
            return Ok(Outcome::default());
        }
        let Some(machine) = Machine::parse(&packet)? else {
            return Ok(Outcome::default());
        };
        let asked = Asked {
            entry: self.registry.get(machine.mac).unwrap_or_default(),
            here: Here { server: arrival.local, http_port: self.http_port },
            packet,
            machine,
            arrival,
        };
        let mut outcome = match self.config.mode {
            DhcpMode::Off => Outcome::default(),
            DhcpMode::Proxy => self.answer_as_proxy(&asked),
            DhcpMode::Server => self.answer_as_server(&asked)?,
        };
        if outcome.seen.is_none() && asked.packet.kind == Kind::Discover && asked.machine.boots() {
            outcome.seen = Some(asked.seen(Heard::BootRequest));
        }
        Ok(outcome)
    }

    fn answer_as_proxy(&self, asked: &Asked<'_>) -> Outcome {
        let at_boot_port = asked.arrival.port == BOOT_SERVER_PORT;
        let (kind, to) = match asked.packet.kind {
            Kind::Discover if !at_boot_port => (Kind::Offer, None),
            Kind::Request | Kind::Inform if at_boot_port => (Kind::Ack, Some(asked.arrival.from)),
            _ => return Outcome::default(),
        };
        let Some(boot) = self.boot(asked) else {
            return Outcome::default();
        };
        let reply = offer::proxy(&asked.packet, &asked.machine, (kind, to), &boot, asked.here);
        Outcome { reply: Some(reply), ..Outcome::default() }
    }

    fn answer_as_server(&mut self, asked: &Asked<'_>) -> Result<Outcome, Malformed> {
        let Some(subnet) = self.subnet(asked) else {
            return Ok(Outcome::default());
        };
        match asked.packet.kind {
            Kind::Discover => self.discover(asked, &subnet),
            Kind::Request => self.request(asked, &subnet),
            Kind::Release => Ok(self.give_back(asked)),
            Kind::Decline => self.decline(asked),
            Kind::Inform => Ok(self.inform(asked, &subnet)),
            Kind::Offer | Kind::Ack | Kind::Nak => Ok(Outcome::default()),
        }
    }

    fn discover(&mut self, asked: &Asked<'_>, subnet: &Subnet) -> Result<Outcome, Malformed> {
        let wanted = asked.packet.ip(code::REQUESTED_IP)?;
        let Some(ip) = self.choose(asked, subnet, wanted) else {
            self.warn_full(asked, subnet);
            return Ok(Outcome::default());
        };
        let until = asked.arrival.now + i64::from(self.config.offer_seconds);
        self.leases.offer(ip, asked.machine.mac, until);
        let reply = self.grant(asked, subnet, Kind::Offer, Some(ip));
        Ok(Outcome { reply: Some(reply), ..Outcome::default() })
    }

    fn request(&mut self, asked: &Asked<'_>, subnet: &Subnet) -> Result<Outcome, Malformed> {
        let packet = &asked.packet;
        let mac = asked.machine.mac;
        if packet.ip(code::SERVER_ID)?.is_some_and(|server| server != asked.here.server) {
            // It chose another server: what it was offered is free again.
            self.leases.withdraw(mac);
            return Ok(Outcome::default());
        }
        let wanted = packet.ip(code::REQUESTED_IP)?.unwrap_or(packet.ciaddr());
        if wanted.is_unspecified() {
            return Err(Malformed::Length(code::REQUESTED_IP, 0));
        }
        if !self.may_have(asked, subnet, wanted) {
            let reply = Some(offer::refuse(packet, asked.here));
            return Ok(Outcome { reply, ..Outcome::default() });
        }
        self.leases.lease(Lease {
            ip: wanted,
            mac,
            client_id: packet.option(code::CLIENT_ID).map(|id| hex(&id)),
            hostname: packet.option(code::HOST_NAME).and_then(|name| printable(&name)),
            until: asked.arrival.now + i64::from(self.config.lease_seconds),
        });
        let reply = Some(self.grant(asked, subnet, Kind::Ack, Some(wanted)));
        // Machines that are nobody's node and do not boot are not worth a record.
        let ours = asked.machine.boots() || self.registry.get(mac).is_some();
        let seen = ours.then(|| asked.seen(Heard::Leased(wanted)));
        Ok(Outcome { reply, promises: true, seen })
    }

    fn give_back(&mut self, asked: &Asked<'_>) -> Outcome {
        self.leases.release(asked.packet.ciaddr(), asked.machine.mac);
        Outcome::default()
    }

    fn decline(&mut self, asked: &Asked<'_>) -> Result<Outcome, Malformed> {
        let until = asked.arrival.now + i64::from(self.config.decline_seconds);
        if let Some(ip) = asked.packet.ip(code::REQUESTED_IP)?
            && self.leases.decline(ip, asked.machine.mac, until)
        {
            tracing::warn!(%ip, mac = %asked.machine.mac, "address is in use by a machine we do not know");
        }
        Ok(Outcome::default())
    }

    fn inform(&mut self, asked: &Asked<'_>, subnet: &Subnet) -> Outcome {
        if asked.packet.ciaddr().is_unspecified() {
            return Outcome::default();
        }
        Outcome { reply: Some(self.grant(asked, subnet, Kind::Ack, None)), ..Outcome::default() }
    }

    fn grant(&self, asked: &Asked<'_>, subnet: &Subnet, kind: Kind, ip: Option<Ipv4Addr>) -> Reply {
        let grant = Grant { ip, subnet, name: &asked.entry.name };
        let boot = self.boot(asked);
        let Asked { packet, machine, here, .. } = asked;
        offer::grant(packet, machine, (kind, grant), boot.as_ref(), *here, &self.config)
    }

    fn boot(&self, asked: &Asked<'_>) -> Option<Boot> {
        if !asked.entry.boots {
            return None;
        }
        boot_program::boot(&asked.machine, asked.here, self.config.uefi_program)
    }

    /// The subnet where the machine is: its relay's, its own if it speaks from it, or the wire's.
    fn subnet(&self, asked: &Asked<'_>) -> Option<Subnet> {
        let source = *asked.arrival.from.ip();
        let at = match asked.machine.relay {
            Some(relay) => link_selection(&asked.packet).unwrap_or(relay),
            None if !source.is_unspecified() && source == asked.packet.ciaddr() => source,
            None => asked.arrival.local,
        };
        self.config.subnets.iter().find(|subnet| subnet.network.contains(at)).cloned()
    }

    /// Reservation, then the address it had, then the one it asks for, then any.
    fn choose(
        &mut self,
        asked: &Asked<'_>,
        subnet: &Subnet,
        wanted: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        let had = self.leases.of(asked.machine.mac);
        let candidates = [asked.entry.reserved, had, wanted];
        let good = candidates.into_iter().flatten().find(|ip| self.may_have(asked, subnet, *ip));
        if good.is_some() {
            return good;
        }
        let (registry, own, mac) = (&self.registry, &self.own, asked.machine.mac);
        self.leases.pick(subnet, |ip| {
            own.contains(&ip)
                || subnet.router == Some(ip)
                || registry.holder(ip).is_some_and(|holder| holder != mac)
        })
    }

    fn may_have(&self, asked: &Asked<'_>, subnet: &Subnet, ip: Ipv4Addr) -> bool {
        let mac = asked.machine.mac;
        let reserved = asked.entry.reserved == Some(ip) && subnet.network.contains(ip);
        let free = subnet.pools(ip)
            && subnet.router != Some(ip)
            && self.registry.holder(ip).is_none_or(|holder| holder == mac);
        (reserved || free) && !self.own.contains(&ip) && self.leases.allows(ip, mac)
    }

    fn warn_full(&mut self, asked: &Asked<'_>, subnet: &Subnet) {
        if asked.arrival.now - self.warned >= WARN_EVERY {
            self.warned = asked.arrival.now;
            let in_use = self.leases.in_use();
            let mac = asked.machine.mac;
            tracing::warn!(%mac, network = %subnet.network, in_use, "no free address is left in the pools");
        }
    }
}

/// A request with all that is known about it.
struct Asked<'a> {
    packet: Packet<'a>,
    machine: Machine,
    entry: Entry,
    here: Here,
    arrival: Arrival,
}

impl Asked<'_> {
    fn seen(&self, what: Heard) -> Seen {
        let firmware = self.machine.platform().map(|platform| platform.to_string());
        let firmware = firmware.or_else(|| {
            let first = self.machine.architectures.first()?;
            Some(format!("architecture {}", first.0))
        });
        Seen { mac: self.machine.mac, uuid: self.machine.uuid.clone(), firmware, what }
    }
}

/// RFC 3527: a relay that must not put its own address there names the subnet apart.
fn link_selection(packet: &Packet<'_>) -> Option<Ipv4Addr> {
    const LINK: u8 = 5;
    let data = packet.option(code::RELAY)?;
    let (_, ip) = encapsulated(&data).find(|(code, _)| *code == LINK)?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A host name is for people to read: only if it looks like one.
fn printable(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
    let good = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    good.then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
