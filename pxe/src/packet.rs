//! DHCP packets as bytes (RFC 2131 section 2, options of RFC 2132 and RFC 3396).
//!
//! Reading borrows and refuses; it never panics and never guesses: an option that runs past its
//! field makes the whole packet malformed. Writing keeps within what the client can receive and
//! pads to the 300 bytes of BOOTP, because old ROMs drop anything shorter.
//! A reader of our own, because the usual crate panics on some malformed options and keeps only
//! the first architecture of option 93.

use std::{borrow::Cow, fmt, net::Ipv4Addr};

/// Option numbers, by the names of the IANA registry.
pub mod code {
    /// Subnet mask.
    pub const SUBNET_MASK: u8 = 1;
    /// Routers.
    pub const ROUTER: u8 = 3;
    /// Name servers.
    pub const DNS: u8 = 6;
    /// Host name.
    pub const HOST_NAME: u8 = 12;
    /// Domain name.
    pub const DOMAIN: u8 = 15;
    /// Broadcast address.
    pub const BROADCAST: u8 = 28;
    /// Vendor options, here those of PXE.
    pub const VENDOR: u8 = 43;
    /// The address that the client asks for.
    pub const REQUESTED_IP: u8 = 50;
    /// Lease time in seconds.
    pub const LEASE_TIME: u8 = 51;
    /// Which of `file` and `sname` hold options too.
    pub const OVERLOAD: u8 = 52;
    /// Message type.
    pub const MESSAGE_TYPE: u8 = 53;
    /// Server identifier.
    pub const SERVER_ID: u8 = 54;
    /// What the client wants to be told.
    pub const PARAMETERS: u8 = 55;
    /// The largest message that the client takes.
    pub const MAX_SIZE: u8 = 57;
    /// Renewal time T1.
    pub const RENEWAL: u8 = 58;
    /// Rebinding time T2.
    pub const REBINDING: u8 = 59;
    /// Vendor class: `PXEClient:...`, `HTTPClient:...`.
    pub const VENDOR_CLASS: u8 = 60;
    /// Client identifier.
    pub const CLIENT_ID: u8 = 61;
    /// TFTP server name.
    pub const TFTP_SERVER: u8 = 66;
    /// Boot file name.
    pub const BOOT_FILE: u8 = 67;
    /// User class: `iPXE`.
    pub const USER_CLASS: u8 = 77;
    /// What the relay added, to be given back (RFC 3046).
    pub const RELAY: u8 = 82;
    /// Client architectures (RFC 4578, list in RFC 9390).
    pub const ARCHITECTURE: u8 = 93;
    /// Client machine identifier (SMBIOS UUID).
    pub const MACHINE_ID: u8 = 97;
    /// iPXE's own options.
    pub const IPXE: u8 = 175;
}

/// DHCP message types (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Who is there?
    Discover,
    /// An address on offer.
    Offer,
    /// That one, please; or: still mine?
    Request,
    /// That address is taken, says the client.
    Decline,
    /// Yours.
    Ack,
    /// Not yours.
    Nak,
    /// The client gives it back.
    Release,
    /// The client has an address and wants the rest.
    Inform,
}

impl Kind {
    fn parse(value: u8) -> Option<Kind> {
        use Kind::{Ack, Decline, Discover, Inform, Nak, Offer, Release, Request};
        [Discover, Offer, Request, Decline, Ack, Nak, Release, Inform]
            .get(usize::from(value).checked_sub(1)?)
            .copied()
    }
}

/// Why bytes are not a DHCP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too short for the fixed fields.
    #[error("{0} bytes, at least 240 expected")]
    Short(usize),
    /// Not the magic cookie of DHCP.
    #[error("no DHCP magic cookie")]
    Cookie,
    /// An option runs past the end of its field.
    #[error("option {0} runs past its field")]
    Overrun(u8),
    /// An option has a length it cannot have.
    #[error("option {0} has {1} bytes")]
    Length(u8, usize),
    /// No message type, or an unknown one.
    #[error("no known message type")]
    Kind,
}

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const FIXED: usize = 240;

/// A packet, borrowed from the bytes that came.
#[derive(Clone)]
pub struct Packet<'a> {
    head: &'a [u8; FIXED],
    options: Vec<(u8, &'a [u8])>,
    /// The message type.
    pub kind: Kind,
}

impl<'a> Packet<'a> {
    /// Reads `bytes`, every option included.
    pub fn parse(bytes: &'a [u8]) -> Result<Packet<'a>, Malformed> {
        let Some((head, rest)) = bytes.split_first_chunk::<FIXED>() else {
            return Err(Malformed::Short(bytes.len()));
        };
        if head[236..] != COOKIE {
            return Err(Malformed::Cookie);
        }
        let mut options = Vec::with_capacity(24);
        read_options(rest, &mut options)?;
        let overload = options.iter().find(|(code, _)| *code == code::OVERLOAD);
        let overload = overload.and_then(|(_, data)| data.first()).copied().unwrap_or(0);
        if overload & 1 != 0 {
            read_options(&head[108..236], &mut options)?;
        }
        if overload & 2 != 0 {
            read_options(&head[44..108], &mut options)?;
        }
        let mut packet = Packet { head, options, kind: Kind::Discover };
        let kind = packet.fixed::<1>(code::MESSAGE_TYPE)?.ok_or(Malformed::Kind)?;
        packet.kind = Kind::parse(kind[0]).ok_or(Malformed::Kind)?;
        Ok(packet)
    }

    /// Whether a client sent it (BOOTREQUEST).
    pub fn is_request(&self) -> bool {
        self.head[0] == 1
    }

    /// The Ethernet address of the client; other hardware is not ours to boot.
    pub fn ethernet(&self) -> Option<[u8; 6]> {
        let mac = [28, 29, 30, 31, 32, 33].map(|at: usize| self.head[at]);
        (self.head[1] == 1 && self.head[2] == 6 && mac != [0; 6]).then_some(mac)
    }

    /// Whether the client cannot receive unicast before it has an address.
    pub fn wants_broadcast(&self) -> bool {
        self.head[10] & 0x80 != 0
    }

    /// The address that the client uses already, or 0.0.0.0.
    pub fn ciaddr(&self) -> Ipv4Addr {
        self.address(12)
    }

    /// The relay that brought it, or 0.0.0.0.
    pub fn giaddr(&self) -> Ipv4Addr {
        self.address(24)
    }

    /// An option's bytes, its fragments joined.
    pub fn option(&self, code: u8) -> Option<Cow<'a, [u8]>> {
        let mut parts = self.options.iter().filter(|(found, _)| *found == code);
        let first = parts.next()?.1;
        let mut joined = Cow::Borrowed(first);
        for (_, part) in parts {
            joined.to_mut().extend_from_slice(part);
        }
        Some(joined)
    }

    /// An option that has exactly `N` bytes.
    pub fn fixed<const N: usize>(&self, code: u8) -> Result<Option<[u8; N]>, Malformed> {
        self.option(code)
            .map(|data| {
                <[u8; N]>::try_from(&data[..]).map_err(|_| Malformed::Length(code, data.len()))
            })
            .transpose()
    }

    /// An option that is one IPv4 address.
    pub fn ip(&self, code: u8) -> Result<Option<Ipv4Addr>, Malformed> {
        Ok(self.fixed::<4>(code)?.map(Ipv4Addr::from))
    }

    /// Whether the client asked to be told option `code`.
    pub fn asks_for(&self, code: u8) -> bool {
        self.option(code::PARAMETERS).is_some_and(|list| list.contains(&code))
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        let [a, b, c, d] = [0, 1, 2, 3].map(|n| self.head[at + n]);
        Ipv4Addr::new(a, b, c, d)
    }
}

impl fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} with options {:?}", self.kind, self.options)
    }
}

/// Encapsulated options, as in 82 and 175: `code, length, bytes` repeated; what is malformed ends
/// the list.
pub fn encapsulated(mut data: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (code, rest) = data.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        data = rest;
        Some((*code, value))
    })
}

fn read_options<'a>(mut field: &'a [u8], into: &mut Vec<(u8, &'a [u8])>) -> Result<(), Malformed> {
    while let Some((code, rest)) = field.split_first() {
        match code {
            0 => field = rest,
            255 => break,
            code => {
                let (length, rest) = rest.split_first().ok_or(Malformed::Overrun(*code))?;
                let (value, rest) =
                    rest.split_at_checked(usize::from(*length)).ok_or(Malformed::Overrun(*code))?;
                into.push((*code, value));
                field = rest;
            }
        }
    }
    Ok(())
}

/// A reply while it is written.
#[derive(Debug)]
pub struct Draft {
    bytes: Vec<u8>,
    limit: usize,
}

/// The largest UDP payload that every client must take (RFC 2131 section 2), and the largest that
/// an Ethernet frame carries.
const SMALLEST_LIMIT: usize = 548;
const LARGEST_LIMIT: usize = 1472;
/// IP and UDP headers, which option 57 counts.
const HEADERS: usize = 28;

impl Draft {
    /// A reply to `packet`: its transaction, flags, relay and hardware address are taken over.
    pub fn reply(packet: &Packet<'_>, kind: Kind) -> Draft {
        let mut bytes = Vec::with_capacity(SMALLEST_LIMIT);
        bytes.extend_from_slice(packet.head);
        bytes[0] = 2;
        bytes[3] = 0;
        bytes[8..10].fill(0);
        bytes[12..24].fill(0);
        bytes[44..236].fill(0);
        let told = packet.fixed::<2>(code::MAX_SIZE).ok().flatten().map(u16::from_be_bytes);
        let limit = usize::from(told.unwrap_or(0)).saturating_sub(HEADERS);
        let mut draft = Draft { bytes, limit: limit.clamp(SMALLEST_LIMIT, LARGEST_LIMIT) };
        draft.option(code::MESSAGE_TYPE, &[kind as u8 + 1]);
        draft
    }

    /// Sets the broadcast flag, which a relay then obeys.
    pub fn broadcast(&mut self) {
        self.bytes[10] |= 0x80;
    }

    /// The address in use, given back (only in answers to those who have one).
    pub fn ciaddr(&mut self, ip: Ipv4Addr) {
        self.bytes[12..16].copy_from_slice(&ip.octets());
    }

    /// The client's address.
    pub fn yiaddr(&mut self, ip: Ipv4Addr) {
        self.bytes[16..20].copy_from_slice(&ip.octets());
    }

    /// The next server, where the boot file is.
    pub fn siaddr(&mut self, ip: Ipv4Addr) {
        self.bytes[20..24].copy_from_slice(&ip.octets());
    }

    /// The boot file in its old place; a longer name than the field's 127 is left out.
    pub fn file(&mut self, name: &str) {
        if name.len() < 128 {
            self.bytes[108..108 + name.len()].copy_from_slice(name.as_bytes());
        }
    }

    /// Appends an option when it fits; says whether it did.
    pub fn option(&mut self, code: u8, value: &[u8]) -> bool {
        let Ok(length) = u8::try_from(value.len()) else {
            return false;
        };
        if self.bytes.len() + 2 + value.len() + 1 > self.limit {
            return false;
        }
        self.bytes.extend_from_slice(&[code, length]);
        self.bytes.extend_from_slice(value);
        true
    }

    /// Keeps `size` bytes for an option that must still come.
    pub fn keep_room(&mut self, size: usize) {
        self.limit = self.limit.saturating_sub(size);
    }

    /// Gives kept room back.
    pub fn use_room(&mut self, size: usize) {
        self.limit += size;
    }

    /// Ends the options and pads to BOOTP's length.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(255);
        let length = self.bytes.len().max(300);
        self.bytes.resize(length, 0);
        self.bytes
    }
}
