//! A UDP socket that knows by which interface and to which of our addresses a datagram came, and
//! that answers from there: a host with several networks must not mix them up.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
    task::{Context, Poll},
};

use nix::{
    libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
        sockopt::{Ipv4PacketInfo, RcvBuf, RcvBufForce, SndBuf, SndBufForce},
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

/// A bound port.
#[derive(Debug)]
pub struct DatagramSocket {
    socket: UdpSocket,
    port: u16,
}

/// How a datagram came.
#[derive(Debug, Clone, Copy)]
pub struct Came {
    /// Its length in the buffer.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddrV4,
    /// Our address there.
    pub local: Ipv4Addr,
    /// The kernel's index of the interface.
    pub interface: u32,
}

/// Room for bursts: a rack that is switched on asks all at once.
const BUFFER: usize = 8 << 20;

impl DatagramSocket {
    /// Binds `port` on all addresses, broadcast allowed.
    pub fn bind(port: u16) -> io::Result<DatagramSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        socket.set_broadcast(true)?;
        setsockopt(&socket, Ipv4PacketInfo, &true)?;
        // Beyond the system's limit needs CAP_NET_ADMIN; without it, what the limit allows.
        if setsockopt(&socket, RcvBufForce, &BUFFER).is_err() {
            setsockopt(&socket, RcvBuf, &BUFFER)?;
        }
        if setsockopt(&socket, SndBufForce, &BUFFER).is_err() {
            setsockopt(&socket, SndBuf, &BUFFER)?;
        }
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let port = socket.local_addr()?.port();
        Ok(DatagramSocket { socket, port })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until [`Self::receive`] has something.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_recv_ready(context)
    }

    /// Takes one datagram; `WouldBlock` when there is none. One that does not fit `buffer`, or does
    /// not say how it came, has length 0.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Came> {
        self.socket.try_io(Interest::READABLE, || {
            let mut control = nix::cmsg_space!(libc::in_pktinfo);
            let mut room = [IoSliceMut::new(buffer)];
            let message = recvmsg::<SockaddrIn>(
                self.socket.as_raw_fd(),
                &mut room,
                Some(&mut control),
                MsgFlags::MSG_DONTWAIT,
            )?;
            let info = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
                _ => None,
            });
            let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
            Ok(match (info, message.address) {
                (Some(info), Some(from)) if whole => Came {
                    length: message.bytes,
                    from: from.into(),
                    local: Ipv4Addr::from_bits(u32::from_be(info.ipi_spec_dst.s_addr)),
                    interface: u32::try_from(info.ipi_ifindex).unwrap_or(0),
                },
                _ => Came {
                    length: 0,
                    from: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
                    local: Ipv4Addr::UNSPECIFIED,
                    interface: 0,
                },
            })
        })
    }

    /// Sends from `local`, by `interface` when that is not 0 (routing decides then).
    pub fn send(
        &self,
        payload: &[u8],
        to: SocketAddrV4,
        (local, interface): (Ipv4Addr, u32),
    ) -> io::Result<()> {
        let info = libc::in_pktinfo {
            ipi_ifindex: i32::try_from(interface).map_err(io::Error::other)?,
            ipi_spec_dst: libc::in_addr { s_addr: local.to_bits().to_be() },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        sendmsg(
            self.socket.as_raw_fd(),
            &[IoSlice::new(payload)],
            &[ControlMessage::Ipv4PacketInfo(&info)],
            MsgFlags::MSG_DONTWAIT,
            Some(&SockaddrIn::from(to)),
        )?;
        Ok(())
    }
}
