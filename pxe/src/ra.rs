//! Answers IPv6 Router Solicitations, so that iPXE does not wait for a router that is not there.
//!
//! iPXE configures IPv4 and IPv6 at once and goes on when both are done. Measured with Debian 12's
//! virtio ROM under QEMU's software emulation, from its first DHCPDISCOVER to its request for the
//! script: unanswered, it solicits at 0, 0.3, 0.8, 1.9, 3.9 and 8.0 s and gives up at 16.1 s;
//! answered by an empty advertisement (no prefix, lifetime 0, neither M nor O) it needs 0.09 s, of
//! which the advertisement is nothing measurable. M or O would start DHCPv6, and a wait of its own.
//! Beside it, DHCP took 3 s until option 175.176 said that there is no proxy (see `offer`); both
//! are needed. With both, from QEMU's start to the script's request: virtio ROM 2.7 s, of which
//! 2 s are the ROM's own "Press Ctrl-B"; undionly.kpxe loaded by it 2.8 s more; OVMF's PXE with
//! ipxe.efi 12.5 s and its HTTP boot 11.6 s, of which 3.7 s are OVMF's own wait for more offers
//! (it waits for them whatever the first one says). The second DHCP of a loaded iPXE costs 0.01 s.
//!
//! The answer goes to all nodes: a unicast would first have to find the machine by a solicitation
//! of ours. Other hosts on the link lose nothing: a lifetime of 0 names no router.

use std::{
    collections::HashSet,
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    time::{MissedTickBehavior, interval},
};

use crate::interface::Interfaces;

/// `[ra]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaConfig {
    /// Whether solicitations are answered at all (the default). Switch it off beside an IPv6 router.
    pub enabled: bool,
    /// Interfaces that are answered on; empty: every one.
    pub interfaces: Vec<String>,
}

impl Default for RaConfig {
    fn default() -> RaConfig {
        RaConfig { enabled: true, interfaces: Vec::new() }
    }
}

const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const SOLICITATION: u8 = 133;

/// The whole advertisement (RFC 4861 section 4.2): no hop limit, no flags (so no DHCPv6), a
/// lifetime of 0 (so not a router to use), no prefixes. The kernel fills in the checksum.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Answers until `shutdown` is done. A host without IPv6 is worth a warning, not a failure.
pub async fn serve(config: RaConfig, shutdown: impl Future<Output = ()>) {
    if !config.enabled {
        return shutdown.await;
    }
    match open() {
        Ok(socket) => {
            tokio::select! {
                () = answer(&socket, &config) => {}
                () = shutdown => {}
            }
        }
        Err(error) => {
            tracing::warn!(
                "IPv6 router solicitations stay unanswered, so iPXE waits about 16 s longer: {error:#}"
            );
            shutdown.await;
        }
    }
}

/// A raw socket in the clothes of a UDP one: the runtime knows no raw sockets, and reading and
/// sending with an address is the same for both.
fn open() -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking(), Some(Protocol::ICMPV6))
        .context("opening an ICMPv6 socket (it needs CAP_NET_RAW)")?;
    // RFC 4861 section 6.1.2: whoever gets an advertisement checks that no router forwarded it.
    socket.set_unicast_hops_v6(255).context("setting the hop limit")?;
    socket.set_multicast_hops_v6(255).context("setting the hop limit")?;
    socket.set_multicast_loop_v6(false).context("switching multicast loops off")?;
    UdpSocket::from_std(socket.into()).context("watching the ICMPv6 socket")
}

async fn answer(socket: &UdpSocket, config: &RaConfig) {
    let mut joined = HashSet::new();
    // Interfaces come and go: bridges of a rack, cards that get their link late.
    let mut tick = interval(Duration::from_secs(2));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut message = [0; 256];
    loop {
        tokio::select! {
            got = socket.recv_from(&mut message) => {
                let answered = match got {
                    Ok((length, from)) => answer_one(socket, &message[..length], from).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = answered {
                    tracing::debug!(%error, "answering a router solicitation");
                }
            }
            _ = tick.tick() => join(socket, config, &mut joined),
        }
    }
}

fn join(socket: &UdpSocket, config: &RaConfig, joined: &mut HashSet<u32>) {
    let interfaces = match Interfaces::probe() {
        Ok(interfaces) => interfaces,
        Err(error) => return tracing::warn!("{error:#}"),
    };
    let wanted: HashSet<u32> =
        interfaces.among(&config.interfaces).map(|(index, _)| index).collect();
    joined.retain(|index| wanted.contains(index));
    for index in wanted {
        if !joined.contains(&index) && socket.join_multicast_v6(&ALL_ROUTERS, index).is_ok() {
            joined.insert(index);
        }
    }
}

/// Answers an ICMPv6 message if it is a solicitation from the link.
async fn answer_one(socket: &UdpSocket, message: &[u8], from: SocketAddr) -> io::Result<()> {
    let SocketAddr::V6(from) = from else {
        return Ok(());
    };
    let asks = message.len() >= 8 && message[0] == SOLICITATION;
    if !asks || !from.ip().is_unicast_link_local() {
        return Ok(());
    }
    let to = SocketAddrV6::new(ALL_NODES, 0, 0, from.scope_id());
    socket.send_to(&ADVERTISEMENT, to).await?;
    tracing::debug!(%from, "answered a router solicitation");
    Ok(())
}
