//! The door to the kernel's links and addresses (rtnetlink), with verbs that read like `ip(8)`.
//!
//! The five messages the rack needs are written out by hand: a runtime and a crate for them
//! would weigh more than the rack itself. Layouts: `linux/rtnetlink.h`, `linux/if_link.h`.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        socket,
    },
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;

const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const NLM_F_CREATE_EXCL: u16 = 0x400 | 0x200;
const NLA_F_NESTED: u16 = 1 << 15;

const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;

/// A socket to the kernel's link and address tables.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A message under construction.
struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Request {
    fn link(kind: u16, flags: u16, up: bool) -> Self {
        let mut body = vec![0; 8];
        let state = u32::from(up); // IFF_UP, in flags and in the mask of what changes
        body.extend(state.to_ne_bytes());
        body.extend(state.to_ne_bytes());
        Request { kind, flags, body }
    }

    fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.body.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    fn name(self, kind: u16, name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.body.len();
        self.body.extend([0; 2]);
        self.body.extend((kind | NLA_F_NESTED).to_ne_bytes());
        self = fill(self);
        let length = (self.body.len() - start) as u16;
        self.body[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.body.extend(bytes);
        self
    }
}

impl Netlink {
    /// Opens it, in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .context("opening a netlink socket")?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// `ip link add NAME type bridge stp_state 0 forward_delay 0 mcast_snooping 0`
    pub fn add_bridge(&mut self, name: &str) -> Result<()> {
        let request = Request::link(RTM_NEWLINK, NLM_F_CREATE_EXCL, false)
            .name(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, |info| {
                info.attr(IFLA_INFO_KIND, b"bridge").nest(IFLA_INFO_DATA, |data| {
                    data.attr(IFLA_BR_FORWARD_DELAY, &0_u32.to_ne_bytes())
                        .attr(IFLA_BR_STP_STATE, &0_u32.to_ne_bytes())
                        .attr(IFLA_BR_MCAST_SNOOPING, &[0])
                })
            });
        self.ask(request).with_context(|| format!("adding bridge {name}"))
    }

    /// `ip link add NAME type veth peer name PEER`
    pub fn add_veth(&mut self, name: &str, peer: &str) -> Result<()> {
        let request = Request::link(RTM_NEWLINK, NLM_F_CREATE_EXCL, false)
            .name(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, |info| {
                info.attr(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |other| other.raw(&[0; 16]).name(IFLA_IFNAME, peer))
                })
            });
        self.ask(request).with_context(|| format!("adding veth pair {name}, {peer}"))
    }

    /// `ip link add NAME type veth peer name PEER netns PID`
    pub fn add_veth_to(&mut self, name: &str, peer: &str, pid: u32) -> Result<()> {
        let request = Request::link(RTM_NEWLINK, NLM_F_CREATE_EXCL, false)
            .name(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, |info| {
                info.attr(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |other| {
                        let other = other.raw(&[0; 16]).name(IFLA_IFNAME, peer);
                        other.attr(IFLA_NET_NS_PID, &pid.to_ne_bytes())
                    })
                })
            });
        self.ask(request).with_context(|| format!("adding veth pair {name}, {peer}"))
    }

    /// `ip link set NAME up`
    pub fn set_up(&mut self, name: &str) -> Result<()> {
        let request = Request::link(RTM_NEWLINK, 0, true).name(IFLA_IFNAME, name);
        self.ask(request).with_context(|| format!("setting {name} up"))
    }

    /// `ip link set NAME master BRIDGE up`
    pub fn set_master(&mut self, name: &str, bridge: &str) -> Result<()> {
        let master = index(bridge)?;
        let request = Request::link(RTM_NEWLINK, 0, true)
            .name(IFLA_IFNAME, name)
            .attr(IFLA_MASTER, &master.to_ne_bytes());
        self.ask(request).with_context(|| format!("putting {name} on {bridge}"))
    }

    /// `ip link del NAME`
    pub fn delete(&mut self, name: &str) -> Result<()> {
        let request = Request::link(RTM_DELLINK, 0, false).name(IFLA_IFNAME, name);
        self.ask(request).with_context(|| format!("deleting {name}"))
    }

    /// `ip addr add ADDRESS/PREFIX broadcast + dev NAME`
    pub fn add_address(&mut self, name: &str, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let mut body = vec![nix::libc::AF_INET as u8, prefix, 0, 0];
        body.extend(index(name)?.to_ne_bytes());
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        let broadcast = Ipv4Addr::from(u32::from(address) | !mask);
        let request = Request { kind: RTM_NEWADDR, flags: NLM_F_CREATE_EXCL, body }
            .attr(IFA_LOCAL, &address.octets())
            .attr(IFA_ADDRESS, &address.octets())
            .attr(IFA_BROADCAST, &broadcast.octets());
        self.ask(request).with_context(|| format!("adding {address}/{prefix} to {name}"))
    }

    /// Sends one request and waits for the kernel's acknowledgement.
    fn ask(&mut self, request: Request) -> Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(16 + request.body.len());
        message.extend(((16 + request.body.len()) as u32).to_ne_bytes());
        message.extend(request.kind.to_ne_bytes());
        message.extend((request.flags | NLM_F_REQUEST_ACK).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(&request.body);
        let socket = self.socket.as_raw_fd();
        sendto(socket, &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())
            .context("writing to the netlink socket")?;
        let mut answer = [0; 4096];
        let length = recv(socket, &mut answer, MsgFlags::empty())
            .context("reading from the netlink socket")?;
        let Some(code) = answer[..length].get(16..20) else {
            bail!("the kernel's acknowledgement has {length} bytes, at least 20 are expected");
        };
        match i32::from_ne_bytes([code[0], code[1], code[2], code[3]]) {
            0 => Ok(()),
            code => Err(Errno::from_raw(-code).into()),
        }
    }
}

fn index(name: &str) -> Result<u32> {
    if_nametoindex(name).with_context(|| format!("finding interface {name}"))
}
