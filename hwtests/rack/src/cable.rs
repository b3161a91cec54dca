//! A cable: how a node's network card is joined to the rack's bridge.
//!
//! Where `/dev/net/tun` can be opened it is a tap. Where it cannot (an ordinary user on
//! most hosts, many containers) it is a veth pair: QEMU speaks length-prefixed frames on a
//! socket (`-netdev stream`), and two threads copy them to and from a packet socket on the
//! pair's far end.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    libc,
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};

use crate::netlink::Netlink;

/// Longest frame that is carried; QEMU's own limit is 68 KiB.
const FRAME: usize = 69 * 1024;

/// Which kind of cable a rack uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The kernel's tap devices.
    Tap,
    /// A veth pair and a pair of copying threads.
    Stream,
}

impl Kind {
    /// A tap where this process may open one, else a stream; `RACK_CABLES=tap|stream` decides
    /// otherwise.
    pub fn choose() -> Result<Self> {
        match std::env::var("RACK_CABLES").as_deref() {
            Ok("tap") => Ok(Kind::Tap),
            Ok("stream") => Ok(Kind::Stream),
            Ok(other) => anyhow::bail!("RACK_CABLES is `{other}`, `tap` or `stream` is accepted"),
            Err(_) if open_tun().is_ok() => Ok(Kind::Tap),
            Err(_) => Ok(Kind::Stream),
        }
    }
}

/// One cable, laid once and kept while its node is switched on and off.
pub struct Cable {
    kind: Kind,
    /// The end on the bridge.
    near: String,
    /// The packet socket on the far end of a veth pair.
    far: Option<Arc<OwnedFd>>,
}

/// What QEMU needs to hold its end.
pub struct Plug {
    /// The value of `-netdev`, with id `net0`.
    pub netdev: String,
    /// A descriptor that QEMU must inherit.
    pub fd: Option<OwnedFd>,
}

impl Cable {
    /// Lays a cable named after `number` onto `bridge`.
    pub fn lay(kind: Kind, number: usize, bridge: &str) -> Result<Self> {
        let mut netlink = Netlink::open()?;
        let near = format!("rack0p{number}");
        let far = match kind {
            Kind::Tap => {
                persistent_tap(&near)?;
                None
            }
            Kind::Stream => {
                let peer = format!("rack0q{number}");
                netlink.add_veth(&near, &peer)?;
                // The kernel leaves checksums to a device that says it can: ours cannot.
                no_checksum_offload(&near)?;
                no_checksum_offload(&peer)?;
                no_ipv6(&peer);
                netlink.set_up(&peer)?;
                Some(Arc::new(packet_socket(&peer)?))
            }
        };
        no_ipv6(&near);
        netlink.set_master(&near, bridge)?;
        Ok(Cable { kind, near, far })
    }

    /// Prepares one power cycle's end of the cable.
    pub fn plug(&self) -> Result<Plug> {
        let Some(far) = &self.far else {
            let near = &self.near;
            let netdev = format!("tap,id=net0,ifname={near},script=no,downscript=no");
            return Ok(Plug { netdev, fd: None });
        };
        let (ours, theirs) = UnixStream::pair().context("making a socket pair")?;
        let inbound = ours.try_clone().context("copying a socket")?;
        let (to_bridge, to_node) = (far.clone(), far.clone());
        thread::spawn(move || node_to_bridge(inbound, &to_bridge));
        thread::spawn(move || bridge_to_node(&to_node, ours));
        let theirs = OwnedFd::from(theirs);
        let netdev =
            format!("stream,id=net0,server=off,addr.type=fd,addr.str={}", theirs.as_raw_fd());
        Ok(Plug { netdev, fd: Some(theirs) })
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // The namespace takes the link with it in any case; a rack made later in the same
        // process wants the name back.
        if let Ok(mut netlink) = Netlink::open() {
            let _ = netlink.delete(&self.near);
        }
    }
}

/// QEMU's side closes when the machine is switched off, which ends the loop.
fn node_to_bridge(mut node: UnixStream, bridge: &OwnedFd) {
    let mut frame = vec![0; FRAME];
    let mut prefix = [0; 4];
    while node.read_exact(&mut prefix).is_ok() {
        let length = u32::from_be_bytes(prefix) as usize;
        let Some(room) = frame.get_mut(..length) else { return };
        if node.read_exact(room).is_err() {
            return;
        }
        // A full queue or a link that is down loses the frame, as an Ethernet does.
        let _ = nix::unistd::write(bridge.as_fd(), room);
    }
}

/// Several power cycles share the packet socket, so this one must leave it when its node is
/// gone: it polls both.
fn bridge_to_node(bridge: &OwnedFd, mut node: UnixStream) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut frame = vec![0; FRAME];
    loop {
        let mut ready = [
            PollFd::new(bridge.as_fd(), PollFlags::POLLIN),
            PollFd::new(node.as_fd(), PollFlags::empty()),
        ];
        if poll(&mut ready, PollTimeout::NONE).is_err_and(|errno| errno != Errno::EINTR)
            || ready[1].revents().is_some_and(|events| !events.is_empty())
        {
            return;
        }
        let length = match nix::unistd::read(bridge, &mut frame[4..]) {
            Ok(length) => length,
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENETDOWN) => continue,
            Err(_) => return,
        };
        frame[..4].copy_from_slice(&(length as u32).to_be_bytes());
        match node.write_all(&frame[..4 + length]) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Only the bridge speaks for this host: a port that solicits routers by itself is a stranger
/// on the rack's network.
fn no_ipv6(name: &str) {
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
}

fn open_tun() -> std::io::Result<File> {
    File::options().read(true).write(true).open("/dev/net/tun")
}

/// The part of `struct ifreq` that TUNSETIFF and ETHTOOL read.
#[repr(C)]
struct Interface<T> {
    name: [u8; libc::IFNAMSIZ],
    value: T,
    rest: [u8; 24 - 8],
}

impl<T> Interface<T> {
    fn new(name: &str, value: T) -> Self {
        let mut bytes = [0; libc::IFNAMSIZ];
        for (byte, letter) in bytes.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *byte = letter;
        }
        Interface { name: bytes, value, rest: [0; 16] }
    }
}

/// Makes a tap that outlives this descriptor, for QEMU to open by name.
#[expect(unsafe_code, reason = "TUNSETIFF and TUNSETPERSIST are ioctls")]
fn persistent_tap(name: &str) -> Result<()> {
    let tun = open_tun().context("opening /dev/net/tun")?;
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI) as u64;
    let request = Interface::new(name, flags);
    // SAFETY: `request` has the size and layout of `struct ifreq` and outlives the call.
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
    Errno::result(done).with_context(|| format!("making tap {name}"))?;
    // SAFETY: TUNSETPERSIST takes a number, not a pointer.
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST, 1_u64) };
    Errno::result(done).with_context(|| format!("keeping tap {name}"))?;
    Ok(())
}

/// `ethtool -K NAME tx-checksumming off`
#[expect(unsafe_code, reason = "SIOCETHTOOL is an ioctl that takes a pointer in a pointer")]
fn no_checksum_offload(name: &str) -> Result<()> {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    let off: [u32; 2] = [ETHTOOL_STXCSUM, 0];
    let request = Interface::new(name, off.as_ptr() as u64);
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context("opening a socket")?;
    // SAFETY: `request` is a `struct ifreq` whose data pointer leads to a `struct
    // ethtool_value`; both outlive the call.
    let done = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCETHTOOL, &raw const request) };
    Errno::result(done).with_context(|| format!("turning {name}'s checksum offload off"))?;
    Ok(())
}

/// A socket that takes and gives whole Ethernet frames of one interface.
#[expect(unsafe_code, reason = "nix has no constructor for a packet socket's address")]
fn packet_socket(name: &str) -> Result<OwnedFd> {
    let fd =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
            .context("opening a packet socket")?;
    let one: libc::c_int = 1;
    // SAFETY: the option's value is one int. Frames that we sent ourselves would come back.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const one).cast(),
            size_of_val(&one) as libc::socklen_t,
        )
    };
    Errno::result(done).context("ignoring outgoing frames")?;
    // SAFETY: all-zero is a valid `sockaddr_ll`, and bind reads only within its size.
    let done = unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = if_nametoindex(name)? as i32;
        let size = size_of_val(&address) as libc::socklen_t;
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size)
    };
    Errno::result(done).with_context(|| format!("binding a packet socket to {name}"))?;
    Ok(fd)
}
