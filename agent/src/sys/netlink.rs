//! A socket to the kernel's network tables (rtnetlink(7)): requests go out many at a time, and
//! each is answered by its number.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::TimeVal,
    },
};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage,
        NlasIterator,
    },
    packet_route::RouteNetlinkMessage,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// Requests on their way at once: as many answers wait for us, and the kernel silently drops what
/// does not fit into the socket (208 KiB unless somebody set it otherwise). An acknowledgement
/// takes less than 1 KiB of it, a link up to 5.
const IN_FLIGHT: usize = 64;
/// So many acknowledgements are as large as one link.
const LINK: usize = 5;
/// The kernel answers while it is asked: what is not there after this time was dropped.
const PATIENCE: TimeVal = TimeVal::new(10, 0);
/// A datagram with so many bytes is not made longer.
const DATAGRAM: usize = 48 << 10;
/// A dump comes in parts of at most 32 KiB.
const PART: usize = 64 << 10;
/// A table that changes while it is read is read again.
const TRIES: usize = 8;

const DONE: u16 = 3;
const ERROR: u16 = 2;
const HEADER: usize = 16;
/// Attribute of an error that says it in words (linux/netlink.h).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A request, with what it is called in a refusal.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// What is asked.
    pub(crate) message: RouteNetlinkMessage,
    /// Beside `NLM_F_REQUEST`.
    pub(crate) flags: u16,
}

/// What the kernel said to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Done.
    Done,
    /// What was asked for: the message's body.
    Found(Vec<u8>),
    /// No, in its own words where it has any.
    Refused(Errno, String),
}

/// The socket.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens it, in the network namespace of this thread.
    pub(crate) fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("opening a netlink socket")?;
        socket.bind_auto().context("binding a netlink socket")?;
        socket.connect(&SocketAddr::new(0, 0)).context("connecting to the kernel")?;
        // Errors in words, and without our request in them. Old kernels have neither.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        setsockopt(&socket, ReceiveTimeout, &PATIENCE).context("setting a netlink timeout")?;
        Ok(Netlink { socket, sequence: 0, buffer: Vec::with_capacity(PART) })
    }

    /// Sends all and waits for all answers, which come in the order of the requests.
    pub(crate) fn ask(&mut self, requests: &[Request]) -> Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let mut datagram = Vec::new();
            let (mut count, mut room) = (0, IN_FLIGHT);
            for request in rest {
                room = room.saturating_sub(if request.flags & NLM_F_ACK != 0 { 1 } else { LINK });
                // A message is smaller than 64 KiB, and the socket takes three of them.
                if room == 0 || datagram.len() > DATAGRAM {
                    break;
                }
                datagram.extend(self.encode(request));
                count += 1;
            }
            self.socket.send(&datagram, 0).context("writing to the netlink socket")?;
            answers.extend(self.answers(count)?);
            rest = &rest[count..];
        }
        Ok(answers)
    }

    fn encode(&mut self, request: &Request) -> Vec<u8> {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(request.message.clone());
        message.header.flags = NLM_F_REQUEST | request.flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
        message.serialize(&mut bytes);
        bytes
    }

    /// The answers to the last `count` requests.
    fn answers(&mut self, count: usize) -> Result<Vec<Answer>> {
        let first = self.sequence + 1 - count as u32;
        let mut answers = BTreeMap::new();
        while answers.len() < count {
            for message in self.receive()? {
                if message.sequence >= first {
                    let answer = message.answer()?;
                    answers.entry(message.sequence).or_insert(answer);
                }
            }
        }
        Ok(answers.into_values().collect())
    }

    /// A whole table: the body of each of its messages.
    pub(crate) fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<Vec<u8>>> {
        for _ in 0..TRIES {
            if let Some(bodies) = self.dump_once(message)? {
                return Ok(bodies);
            }
        }
        bail!("the kernel's table changed each of {TRIES} times while it was read")
    }

    fn dump_once(&mut self, message: &RouteNetlinkMessage) -> Result<Option<Vec<Vec<u8>>>> {
        let request = Request { message: message.clone(), flags: NLM_F_DUMP };
        let datagram = self.encode(&request);
        self.socket.send(&datagram, 0).context("writing to the netlink socket")?;
        let (mut bodies, mut whole) = (Vec::new(), true);
        loop {
            let sequence = self.sequence;
            for message in self.receive()?.into_iter().filter(|one| one.sequence == sequence) {
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    DONE => return Ok(whole.then_some(bodies)),
                    ERROR => match message.answer()? {
                        Answer::Refused(errno, words) => bail!("{words} ({errno})"),
                        _ => return Ok(whole.then_some(bodies)),
                    },
                    _ => bodies.push(message.body),
                }
            }
        }
    }

    fn receive(&mut self) -> Result<Vec<Message>> {
        self.buffer.clear();
        let length =
            self.socket.recv(&mut self.buffer, 0).context("reading from the netlink socket")?;
        let mut rest = self.buffer.get(..length).unwrap_or_default();
        let mut messages = Vec::new();
        while let Some((message, after)) = Message::parse(rest) {
            messages.push(message);
            rest = after;
        }
        Ok(messages)
    }
}

impl Request {
    /// A change, which the kernel acknowledges.
    pub(crate) fn change(message: RouteNetlinkMessage, flags: u16) -> Self {
        Request { message, flags: NLM_F_ACK | flags }
    }

    /// A question.
    pub(crate) fn question(message: RouteNetlinkMessage) -> Self {
        Request { message, flags: 0 }
    }
}

/// One message of the kernel's.
struct Message {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: Vec<u8>,
}

impl Message {
    /// The first of several, and the others.
    fn parse(bytes: &[u8]) -> Option<(Message, &[u8])> {
        let length = u32_at(bytes, 0)? as usize;
        let body = bytes.get(HEADER..length)?.to_vec();
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            body,
        };
        Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
    }

    fn answer(&self) -> Result<Answer> {
        if self.kind != ERROR {
            return Ok(Answer::Found(self.body.clone()));
        }
        let code = u32_at(&self.body, 0).context("the kernel's answer is cut short")? as i32;
        if code == 0 {
            return Ok(Answer::Done);
        }
        let errno = Errno::from_raw(-code);
        // The code, the header of our request, and what it has to say.
        let attributes = self.body.get(4 + HEADER..).filter(|_| self.flags & NLM_F_ACK_TLVS != 0);
        let mut words = errno.desc().to_lowercase();
        for attribute in NlasIterator::new(attributes.unwrap_or_default()).flatten() {
            if attribute.kind() == NLMSGERR_ATTR_MSG {
                words =
                    String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned();
            }
        }
        Ok(Answer::Refused(errno, words))
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
