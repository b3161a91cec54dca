//! The door to the sockets: what tokio has no word for.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as StdSocket},
    os::fd::AsRawFd,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recv,
        recvmsg, send, sendmmsg, sendmsg, setsockopt, sockopt,
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UdpSocket,
};

/// Requests of a whole rack that is switched on at once must fit.
const LISTEN_BUFFER: usize = 1 << 20;

/// Makes `socket` ready to listen. One bound to every address is told which of them a
/// request was sent to, as the answer must come from there.
pub(crate) fn listen(socket: StdSocket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    if socket.local_addr()?.ip() == IpAddr::from(Ipv4Addr::UNSPECIFIED) {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    }
    let socket = Socket::from(socket);
    socket.set_recv_buffer_size(LISTEN_BUFFER)?;
    UdpSocket::from_std(socket.into())
}

/// A socket that hears nobody but its peer.
///
/// Not tokio's own: that one wants to know when there is room to send as well, and on loopback
/// each packet sent makes room at once, which would wake the thread once more for each.
pub(crate) type Connected = AsyncFd<Socket>;

/// A socket of its own port at `local` that hears nobody but `peer`.
pub(crate) fn connect(local: IpAddr, peer: SocketAddr) -> io::Result<Connected> {
    let socket = Socket::new(
        Domain::for_address(peer),
        Type::DGRAM.nonblocking().cloexec(),
        Some(Protocol::UDP),
    )?;
    socket.bind(&SocketAddr::new(local, 0).into())?;
    socket.connect(&peer.into())?;
    #[expect(unsafe_code, reason = "tokio's promise about file descriptors has no safe form")]
    // SAFETY: the socket is owned by the `AsyncFd` and never handed out of it, so its descriptor
    // stays open and the same until both are dropped together.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    registered.map_err(|e| e.into_parts().1)
}

/// A datagram on the listening socket.
pub(crate) struct Request {
    pub(crate) len: usize,
    pub(crate) peer: SocketAddr,
    /// Where it was sent to, when the socket listens on every address.
    pub(crate) to: Option<IpAddr>,
}

/// Waits for a datagram on the listening socket.
pub(crate) async fn request(socket: &UdpSocket, buf: &mut [u8]) -> io::Result<Request> {
    socket
        .async_io(Interest::READABLE, || {
            let mut iov = [IoSliceMut::new(buf)];
            let mut control = cmsg_space!(nix::libc::in_pktinfo);
            let message = recvmsg::<SockaddrStorage>(
                socket.as_raw_fd(),
                &mut iov,
                Some(&mut control),
                MsgFlags::MSG_DONTWAIT,
            )?;
            let to = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into())
                }
                _ => None,
            });
            let peer = message.address.as_ref().and_then(address);
            let peer = peer.ok_or_else(|| io::Error::other("a datagram from no IP address"))?;
            Ok(Request { len: message.bytes, peer, to })
        })
        .await
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

/// What has come.
pub(crate) fn receive(socket: &Connected, buf: &mut [u8]) -> io::Result<Option<usize>> {
    match recv(socket.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT) {
        Ok(len) => Ok(Some(len)),
        Err(Errno::EAGAIN) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Sends `packets` to the connected peer, in one call. One that finds no room is lost like one
/// that finds none in a switch, and repaired like it.
pub(crate) fn send_all<'a>(
    socket: &Connected,
    mut packets: impl ExactSizeIterator<Item = &'a Vec<u8>>,
) -> io::Result<()> {
    let sent = match packets.len() {
        0 => Ok(0),
        1 => packets
            .next()
            .map_or(Ok(0), |one| send(socket.as_raw_fd(), one, MsgFlags::MSG_DONTWAIT)),
        many => {
            let slices: Vec<_> = packets.map(|packet| [IoSlice::new(packet)]).collect();
            let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(many, None);
            sendmmsg(
                socket.as_raw_fd(),
                &mut headers,
                &slices,
                vec![None; many],
                [],
                MsgFlags::MSG_DONTWAIT,
            )
            .map(|results| results.count())
        }
    };
    match sent.map_err(io::Error::from) {
        Err(e) if !is_loss(&e) => Err(e),
        _ => Ok(()),
    }
}

/// Sends one datagram to `peer` from the address `local`, whatever the routing table prefers.
pub(crate) fn send_from(
    socket: &UdpSocket,
    local: IpAddr,
    peer: SocketAddr,
    packet: &[u8],
) -> io::Result<()> {
    let peer = SockaddrStorage::from(peer);
    let source;
    let control: &[_] = match local {
        IpAddr::V4(local) => {
            source = nix::libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: nix::libc::in_addr { s_addr: u32::from(local).to_be() },
                ipi_addr: nix::libc::in_addr { s_addr: 0 },
            };
            &[ControlMessage::Ipv4PacketInfo(&source)]
        }
        IpAddr::V6(_) => &[],
    };
    let iov = [IoSlice::new(packet)];
    sendmsg(socket.as_raw_fd(), &iov, control, MsgFlags::MSG_DONTWAIT, Some(&peer))?;
    Ok(())
}

fn is_loss(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(nix::libc::ENOBUFS)
        || error.raw_os_error() == Some(nix::libc::EPERM)
}
