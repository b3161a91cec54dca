//! The kernel's word that a device came or went: a wait that ends when something happens.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};

/// A subscription to the kernel's device events.
#[derive(Debug)]
pub(crate) struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// Subscribes; what happens from here on is not missed.
    pub(crate) fn open() -> nix::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        Ok(Uevents { socket })
    }

    /// Waits for an event, at most `limit`; whether there was one. All that are pending are
    /// taken together: what they say is read from sysfs anyway.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let heard = poll(&mut ready, timeout).is_ok_and(|count| count > 0);
        if heard {
            let mut message = [0; 4096];
            // An overflow (ENOBUFS) is an event too; only an empty queue ends the loop.
            while !matches!(
                recv(self.socket.as_raw_fd(), &mut message, MsgFlags::empty()),
                Err(nix::Error::EAGAIN) | Ok(0)
            ) {}
        }
        heard
    }
}
