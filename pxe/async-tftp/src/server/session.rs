//! One transfer on its own socket: what the [window](super::window) wants sent is sent, and what
//! the client says is told to it.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncRead,
    time::{Sleep, sleep_until},
};

use super::{
    handler::Outcome,
    options::Agreed,
    socket::{self, Connected},
    window::{Ack, Window},
};
use crate::{
    error::Result,
    packet::{self, Packet},
};

/// The shortest pause that tokio's timer knows, between two bursts of one window.
const GAP: Duration = Duration::from_millis(1);
/// Longer than every packet that means something here; the rest of a longer one is cut off,
/// and it is then none of ours.
const LONGEST: usize = 64;
const OPCODE_ACK: u8 = 4;
const OPCODE_ERROR: u8 = 5;

/// How long an answer is awaited with open eyes, and whose answers: one that came sooner than
/// the kernel needs to put this thread to sleep and wake it again. That is a machine on this
/// host; no wire is that fast. Only a transfer that is alone does so.
const SPIN: Duration = Duration::from_micros(60);
/// After so many packets in a row the others have their turn.
const TURN: u32 = 32;

/// What woke a session.
enum Wake {
    Timer,
    Ack(u16),
    Error,
}

impl Wake {
    fn parse(packet: &[u8]) -> Option<Wake> {
        match packet {
            &[0, OPCODE_ACK, high, low] => Some(Wake::Ack(u16::from_be_bytes([high, low]))),
            [0, OPCODE_ERROR, ..] => Some(Wake::Error),
            _ => None,
        }
    }
}

/// A transfer's place among the others, kept for as long as it lives.
pub(crate) struct Place {
    /// Set when the client asked again from the same port: then this transfer answers what it
    /// is asked, but repeats nothing by itself.
    superseded: Arc<AtomicBool>,
    running: Arc<AtomicUsize>,
}

impl Place {
    /// Counts one more in `running`.
    pub(crate) fn new(superseded: Arc<AtomicBool>, running: &Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, Ordering::Relaxed);
        Place { superseded, running: Arc::clone(running) }
    }

    fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Relaxed)
    }

    fn is_alone(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 1
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One transfer.
pub(crate) struct Session<R> {
    socket: Connected,
    reader: R,
    window: Window,
    /// The OACK, until it is acknowledged, and when it was last sent.
    greeting: Option<(Vec<u8>, Option<Instant>)>,
    timeout: Duration,
    retries: u32,
    /// How often the same was sent again in vain.
    vain: u32,
    place: Place,
    heard: u32,
    /// Whether nothing can have come yet: a block has just left in lock step. Asking the socket
    /// then would be a fourth of all calls, each for nothing.
    is_hopeless: bool,
    /// When to stop waiting. The timer is set anew only when it fires too early, or would fire
    /// too late: it is not touched for each packet.
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<R: AsyncRead + Unpin> Session<R> {
    pub(crate) fn new(
        local: IpAddr,
        peer: SocketAddr,
        reader: R,
        agreed: Agreed,
        retries: u32,
        place: Place,
    ) -> Result<Self> {
        let deadline = Instant::now() + agreed.timeout;
        let greeting = agreed.oack.map(|opts| (Packet::OAck(opts).to_bytes().to_vec(), None));
        Ok(Session {
            socket: socket::connect(local, peer)?,
            reader,
            window: Window::new(agreed.block_size, agreed.window_size, retries),
            greeting,
            timeout: agreed.timeout,
            retries,
            vain: 0,
            place,
            heard: 0,
            is_hopeless: false,
            deadline,
            timer: Box::pin(sleep_until(deadline.into())),
        })
    }

    /// Runs to the end. When reading fails the client is told.
    pub(crate) async fn run(mut self) -> Result<Outcome> {
        match self.drive().await {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(Outcome::Gone),
            Err(e) => {
                let told = Packet::Error(packet::Error::from(e)).to_bytes().to_vec();
                socket::send_all(&self.socket, [told].iter())?;
                Ok(Outcome::Refused)
            }
            Ok(outcome) => Ok(outcome),
        }
    }

    async fn drive(&mut self) -> io::Result<Outcome> {
        // Read first: what cannot be read is refused before anything is promised.
        self.window.fill(&mut self.reader).await?;
        loop {
            self.send()?;
            match self.wake_for_sending().await? {
                Some(outcome) => return Ok(outcome),
                None if self.window.is_complete() => return Ok(Outcome::Complete),
                None => self.window.fill(&mut self.reader).await?,
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.deadline = now + self.timeout;
        if let Some((oack, sent)) = &mut self.greeting {
            *sent = Some(now);
            return socket::send_all(&self.socket, [&*oack].into_iter());
        }
        socket::send_all(&self.socket, self.window.due())?;
        self.window.left(now);
        self.is_hopeless = self.window.is_lock_step();
        if !self.window.is_sent() {
            self.deadline = now + GAP;
        }
        Ok(())
    }

    /// Waits until there is something to send, or the transfer has ended.
    async fn wake_for_sending(&mut self) -> io::Result<Option<Outcome>> {
        loop {
            match self.wake().await? {
                Wake::Error => return Ok(Some(Outcome::Aborted)),
                Wake::Ack(id) if self.acknowledge(id) => return Ok(None),
                Wake::Ack(_) => {}
                Wake::Timer if self.greeting.is_none() && !self.window.is_sent() => {
                    return Ok(None);
                }
                Wake::Timer if self.place.is_superseded() => {
                    return Ok(Some(Outcome::Superseded));
                }
                Wake::Timer if self.vain == self.retries => return Ok(Some(Outcome::Silent)),
                Wake::Timer => {
                    self.vain += 1;
                    if self.greeting.is_none() {
                        self.window.repeat();
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Takes an acknowledgement; tells whether there is something to send now.
    fn acknowledge(&mut self, id: u16) -> bool {
        let now = Instant::now();
        match &self.greeting {
            Some(_) if id != 0 => return false,
            Some((_, sent)) => {
                if let (Some(sent), 0) = (sent, self.vain) {
                    self.window.answered_in(now.saturating_duration_since(*sent));
                }
                self.greeting = None;
                self.vain = 0;
                return true;
            }
            None => {}
        }
        match self.window.acknowledge(id, now) {
            Ack::Progress => self.vain = 0,
            Ack::Again => {}
            Ack::Nothing => return false,
        }
        true
    }

    async fn wake(&mut self) -> io::Result<Wake> {
        if self.is_hopeless {
            self.is_hopeless = false;
        } else if let Some(wake) = self.hear().await? {
            return Ok(wake);
        }
        loop {
            if let Some(wake) = self.spin().await? {
                return Ok(wake);
            }
            let is_late = self.wait().await?;
            match self.hear().await? {
                Some(wake) => return Ok(wake),
                None if is_late => return Ok(Wake::Timer),
                None => {}
            }
        }
    }

    /// What has come and means something.
    async fn hear(&mut self) -> io::Result<Option<Wake>> {
        let mut buf = [0; LONGEST];
        while let Some(len) = socket::receive(&self.socket, &mut buf)? {
            self.heard = self.heard.wrapping_add(1);
            if self.heard.is_multiple_of(TURN) {
                tokio::task::yield_now().await;
            }
            if let Some(wake) = Wake::parse(&buf[..len]) {
                return Ok(Some(wake));
            }
        }
        Ok(None)
    }

    /// Looks for the answer of a very near client for a moment.
    async fn spin(&mut self) -> io::Result<Option<Wake>> {
        let near = self.window.round_trip().is_some_and(|time| time < SPIN);
        if !near || !self.place.is_alone() {
            return Ok(None);
        }
        let began = Instant::now();
        while began.elapsed() < SPIN {
            if let Some(wake) = self.hear().await? {
                return Ok(Some(wake));
            }
            // The client may be waiting for this very processor.
            std::thread::yield_now();
        }
        Ok(None)
    }

    /// Waits for a packet, or until the deadline: then true.
    async fn wait(&mut self) -> io::Result<bool> {
        if self.timer.deadline().into_std() > self.deadline {
            self.timer.as_mut().reset(self.deadline.into());
        }
        let Session { socket, timer, deadline, .. } = self;
        poll_fn(|cx| {
            if let Poll::Ready(ready) = socket.poll_read_ready(cx) {
                // What comes from now on makes it ready anew; what came is heard next.
                return Poll::Ready(ready.map(|mut ready| {
                    ready.clear_ready();
                    false
                }));
            }
            while timer.as_mut().poll(cx).is_ready() {
                if Instant::now() >= *deadline {
                    return Poll::Ready(Ok(true));
                }
                timer.as_mut().reset((*deadline).into());
            }
            Poll::Pending
        })
        .await
    }
}
