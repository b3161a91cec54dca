//! The DHCP service: sockets, clock and commits around [`Exchange`].
//!
//! One task does it all, so the table needs no lock. An ACK is a promise that must outlive a power
//! cut: it leaves only after its lease is durable. While one commit runs, further ACKs gather, and
//! the next commit takes them all, so thousands of exchanges a second share a few hundred commits.
//! What a commit lets go leaves at a measured pace: hundreds of ACKs in one burst overran the
//! receive buffers of relays and of perfdhcp (the kernel's default holds about 270 of them).

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::{Ipv4Addr, SocketAddrV4},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    datagram::{Came, DatagramSocket},
    dhcp_config::{DhcpConfig, DhcpMode},
    exchange::{Arrival, BOOT_SERVER_PORT, Exchange},
    frame::{Ends, FrameSocket},
    interface::Interfaces,
    lease::Lease,
    leases::{Changes, Leases},
    offer::{Reply, To},
    registry::{Registry, Seen},
};

/// What the service shares with the rest of the program.
#[derive(Debug)]
pub struct Neighbours {
    /// What nodes there are and what they boot.
    pub registry: Arc<Registry>,
    /// Where it tells what it heard; when the channel is full, words are lost, never packets.
    pub seen: mpsc::Sender<Seen>,
    /// The port of our HTTP server.
    pub http_port: u16,
}

/// Answers DHCP until `shutdown` is done.
///
/// `stored` are the leases that the store remembers; `save(leases, expired)` makes changes durable
/// before it returns.
pub async fn serve<S, F>(
    config: DhcpConfig,
    neighbours: Neighbours,
    stored: Vec<Lease>,
    save: S,
    shutdown: impl Future<Output = ()>,
) -> Result<()>
where
    S: Fn(Vec<Lease>, Vec<Ipv4Addr>) -> F,
    F: Future<Output = Result<()>>,
{
    if config.mode == DhcpMode::Off {
        shutdown.await;
        return Ok(());
    }
    let mut service = Service::open(config, neighbours, stored)?;
    let mut commit: Option<Commit<F>> = None;
    let mut may_commit_at = Instant::now();
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pace = interval(Duration::from_millis(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = readable(&service.doors), if service.backlog() < MOST_WAITING => service.drain(),
            result = finished(&mut commit) => {
                if let Some(done) = commit.take() {
                    may_commit_at = service.conclude(done.changes, done.waiting, result);
                }
            }
            _ = pace.tick(), if !service.released.is_empty() => service.keep_promises(PACE),
            _ = tick.tick() => service.tick(),
            () = &mut shutdown => break,
        }
        if commit.is_none() && Instant::now() >= may_commit_at {
            commit = service.begin(&save);
        }
    }
    if let Some(running) = commit.take() {
        let result = running.future.await;
        service.conclude(running.changes, running.waiting, result);
    }
    if let Some(last) = service.begin(&save) {
        let result = last.future.await;
        service.conclude(last.changes, last.waiting, result);
    }
    service.keep_promises(usize::MAX);
    Ok(())
}

/// Replies that may wait for commits; beyond them the kernel's queue holds requests back.
const MOST_WAITING: usize = 16 * 1024;
/// Requests handled before commits and clock get their turn.
const TURN: usize = 256;
/// ACKs that leave in a millisecond.
const PACE: usize = 24;
/// Pause after a commit that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A commit that runs, and the replies that it lets go.
struct Commit<F> {
    future: Pin<Box<F>>,
    changes: Changes,
    waiting: Vec<Promise>,
}

/// A reply that waits until what it promises is durable.
struct Promise {
    reply: Reply,
    door: usize,
    came: Came,
    seen: Option<Seen>,
}

struct Service {
    exchange: Exchange,
    doors: Vec<DatagramSocket>,
    frames: Option<FrameSocket>,
    interfaces: Interfaces,
    only: Vec<String>,
    seen: mpsc::Sender<Seen>,
    waiting: Vec<Promise>,
    released: VecDeque<Promise>,
}

impl Service {
    fn open(config: DhcpConfig, neighbours: Neighbours, stored: Vec<Lease>) -> Result<Service> {
        ensure!(
            config.mode != DhcpMode::Server || !config.subnets.is_empty(),
            "mode `server` gives addresses, so [[dhcp.subnets]] must name at least one subnet: \
             network = \"10.77.0.0/24\", pools = [\"10.77.0.100-10.77.0.199\"]"
        );
        let mut ports = vec![67];
        if config.mode == DhcpMode::Proxy {
            ports.push(BOOT_SERVER_PORT);
        }
        let doors = ports.into_iter().map(|port| {
            DatagramSocket::bind(port).with_context(|| {
                format!("binding UDP port {port} for DHCP (it must be free, and ports below 1024 need root or CAP_NET_BIND_SERVICE)")
            })
        });
        let doors = doors.collect::<Result<_>>()?;
        let frames = FrameSocket::open()
            .inspect_err(|error| {
                tracing::warn!(%error, "no packet socket (it needs CAP_NET_RAW): DHCP answers are broadcast instead");
            })
            .ok();
        let interfaces = Interfaces::probe()?;
        let leases = Leases::new(&config.subnets, stored);
        let only = config.interfaces.clone();
        tracing::info!(mode = ?config.mode, known = leases.in_use(), "DHCP is served");
        let Neighbours { registry, seen, http_port } = neighbours;
        let mut exchange = Exchange::new(config, registry, leases, http_port);
        exchange.set_own(interfaces.addresses().clone());
        Ok(Service {
            exchange,
            doors,
            frames,
            interfaces,
            only,
            seen,
            waiting: Vec::new(),
            released: VecDeque::new(),
        })
    }

    /// Handles what has come, a turn's worth.
    fn drain(&mut self) {
        let now = unix_now();
        let mut buffer = [0; 2048];
        for door in 0..self.doors.len() {
            for _ in 0..TURN {
                match self.doors[door].receive(&mut buffer) {
                    Ok(came) => self.handle(&buffer[..came.length], door, came, now),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        tracing::warn!(%error, "receiving a DHCP request");
                        break;
                    }
                }
            }
        }
    }

    fn handle(&mut self, bytes: &[u8], door: usize, came: Came, now: i64) {
        if came.local.is_unspecified() || !self.serves(came.interface) {
            return;
        }
        let port = self.doors[door].port();
        let arrival = Arrival { from: came.from, local: came.local, port, now };
        let outcome = match self.exchange.answer(bytes, arrival) {
            Ok(outcome) => outcome,
            Err(error) => {
                return tracing::debug!(from = %came.from, %error, "malformed DHCP packet");
            }
        };
        match outcome.reply {
            Some(reply) if outcome.promises => {
                self.waiting.push(Promise { reply, door, came, seen: outcome.seen });
            }
            Some(reply) => {
                self.send(&reply, door, came);
                self.tell(outcome.seen);
            }
            None => self.tell(outcome.seen),
        }
    }

    fn serves(&mut self, interface: u32) -> bool {
        if self.only.is_empty() {
            return true;
        }
        if self.interfaces.name(interface).is_none() {
            self.look_around();
        }
        self.interfaces
            .name(interface)
            .is_some_and(|name| self.only.iter().any(|only| only == name))
    }

    fn look_around(&mut self) {
        match Interfaces::probe() {
            Ok(interfaces) => {
                self.exchange.set_own(interfaces.addresses().clone());
                self.interfaces = interfaces;
            }
            Err(error) => tracing::warn!("{error:#}"),
        }
    }

    fn tick(&mut self) {
        self.exchange.leases.expire(unix_now());
        self.look_around();
    }

    fn begin<S, F>(&mut self, save: &S) -> Option<Commit<F>>
    where
        S: Fn(Vec<Lease>, Vec<Ipv4Addr>) -> F,
    {
        if !self.exchange.leases.has_changes() && self.waiting.is_empty() {
            return None;
        }
        let changes = self.exchange.leases.take_changes();
        let waiting = std::mem::take(&mut self.waiting);
        let future = Box::pin(save(changes.leases.clone(), changes.expired.clone()));
        Some(Commit { future, changes, waiting })
    }

    /// Lets the promises of a commit go; says when the next one may begin.
    fn conclude(&mut self, changes: Changes, waiting: Vec<Promise>, result: Result<()>) -> Instant {
        if let Err(error) = result {
            let lost = waiting.len();
            tracing::error!("saving leases: {error:#}; {lost} machines must ask again");
            self.exchange.leases.restore(&changes);
            return Instant::now() + AFTER_FAILURE;
        }
        self.released.extend(waiting);
        Instant::now()
    }

    /// Sends at most `most` ACKs whose leases are durable.
    fn keep_promises(&mut self, most: usize) {
        let most = most.min(self.released.len());
        for promise in self.released.drain(..most).collect::<Vec<_>>() {
            self.send(&promise.reply, promise.door, promise.came);
            self.tell(promise.seen);
        }
    }

    fn backlog(&self) -> usize {
        self.waiting.len() + self.released.len()
    }

    fn send(&self, reply: &Reply, door: usize, came: Came) {
        let broadcast = SocketAddrV4::new(Ipv4Addr::BROADCAST, 68);
        let here = (came.local, came.interface);
        let sent = match (reply.to, &self.frames) {
            (To::Address(to), _) => self.doors[door].send(&reply.bytes, to, (came.local, 0)),
            (To::Frame(to, mac), Some(frames)) => {
                let ends = Ends { from: came.local, to, mac, interface: came.interface };
                frames.send(ends, &reply.bytes)
            }
            (To::Broadcast | To::Frame(..), _) => {
                self.doors[door].send(&reply.bytes, broadcast, here)
            }
        };
        if let Err(error) = sent {
            tracing::debug!(to = ?reply.to, %error, "sending a DHCP reply");
        }
    }

    fn tell(&self, seen: Option<Seen>) {
        if let Some(seen) = seen
            && let Err(error) = self.seen.try_send(seen)
        {
            tracing::debug!(%error, "telling what DHCP heard");
        }
    }
}

async fn readable(doors: &[DatagramSocket]) {
    poll_fn(|context| {
        let ready = doors.iter().filter(|door| door.poll_readable(context).is_ready()).count();
        if ready > 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn finished<F: Future<Output = Result<()>>>(commit: &mut Option<Commit<F>>) -> Result<()> {
    match commit {
        Some(commit) => commit.future.as_mut().await,
        None => std::future::pending().await,
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
