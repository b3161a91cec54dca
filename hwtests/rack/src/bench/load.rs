//! A TFTP client for load: reads one file as firmware does, many times over or at once.
//!
//! It is the same for every server, and as dull as a boot ROM: one socket a transfer, an
//! acknowledgement for each window, a second of patience (RFC 1350, 2347, 2348, 7440).

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// How long a block is waited for before the last acknowledgement is sent again.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often that happens before a transfer counts as lost.
const TRIES: u32 = 8;

const DATA: u16 = 3;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The server; port 69.
    pub server: Ipv4Addr,
    /// The file's name.
    pub file: &'a str,
    /// `blksize`.
    pub block_size: u16,
    /// `windowsize`; 1 asks for none.
    pub window: u16,
}

/// Reads the file once.
///
/// # Errors
/// When the server refuses, or says nothing however often it is asked.
pub fn fetch(ask: Ask<'_>) -> Result<Vec<u8>> {
    let mut transfer = Transfer::begin(ask)?;
    while !transfer.step()? {}
    Ok(transfer.bytes)
}

/// Not every transfer brought the file.
#[derive(Debug, thiserror::Error)]
#[error("{lost} of {count} transfers lost: {why:#}")]
pub struct Lost {
    lost: usize,
    count: usize,
    why: anyhow::Error,
}

/// Reads it `count` times, one after the other, to the first that is lost. Megabytes a second.
pub fn in_turn(ask: Ask<'_>, expected: &[u8], count: usize) -> Result<f64, Lost> {
    let began = Instant::now();
    for _ in 0..count {
        check(fetch(ask), expected).map_err(|why| Lost { lost: 1, count, why })?;
    }
    Ok(rate(expected.len() * count, began))
}

/// Reads it `count` times at once. Megabytes a second, of all together.
pub fn at_once(ask: Ask<'_>, expected: &[u8], count: usize) -> Result<f64, Lost> {
    let barrier = Barrier::new(count + 1);
    let one = || {
        barrier.wait();
        check(fetch(ask), expected)
    };
    let (began, mut failures) = thread::scope(|scope| {
        let clients: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
        barrier.wait();
        let began = Instant::now();
        let ended = clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|_| bail!("a client of the load panicked")));
        (began, ended.filter_map(Result::err).collect::<Vec<_>>())
    });
    let rate = rate(expected.len() * count, began);
    let lost = failures.len();
    failures.pop().map_or(Ok(rate), |why| Err(Lost { lost, count, why }))
}

fn check(read: Result<Vec<u8>>, expected: &[u8]) -> Result<()> {
    ensure!(read? == expected, "other bytes came than the file has");
    Ok(())
}

fn rate(bytes: usize, began: Instant) -> f64 {
    bytes as f64 / 1e6 / began.elapsed().as_secs_f64()
}

struct Transfer<'a> {
    ask: Ask<'a>,
    socket: UdpSocket,
    /// The server's port of this transfer, known from its first packet on.
    peer: Option<SocketAddr>,
    bytes: Vec<u8>,
    block_size: usize,
    window: u16,
    /// Number of the last block that came in order.
    last: u16,
    /// Blocks that came since the last acknowledgement.
    since: u16,
    packet: [u8; 65536],
    /// How often in a row nothing came.
    silent: u32,
}

impl<'a> Transfer<'a> {
    fn begin(ask: Ask<'a>) -> Result<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0").context("opening a socket")?;
        socket.set_read_timeout(Some(PATIENCE)).context("setting a timeout")?;
        let transfer = Transfer {
            ask,
            socket,
            peer: None,
            bytes: Vec::with_capacity(1 << 20),
            block_size: 512,
            window: 1,
            last: 0,
            since: 0,
            packet: [0; 65536],
            silent: 0,
        };
        transfer.request()?;
        Ok(transfer)
    }

    fn request(&self) -> Result<()> {
        let mut request =
            format!("\0\u{1}{}\0octet\0blksize\0{}\0", self.ask.file, self.ask.block_size);
        if self.ask.window > 1 {
            request += &format!("windowsize\0{}\0", self.ask.window);
        }
        let server = SocketAddr::from((self.ask.server, 69));
        self.socket.send_to(request.as_bytes(), server).context("asking for the file")?;
        Ok(())
    }

    fn acknowledge(&mut self) -> Result<()> {
        let Some(peer) = self.peer else { return self.request() };
        self.since = 0;
        let [high, low] = self.last.to_be_bytes();
        self.socket.send_to(&[0, 4, high, low], peer).context("acknowledging")?;
        Ok(())
    }

    /// Takes one packet; true when it was the last.
    fn step(&mut self) -> Result<bool> {
        let (length, from) = match self.socket.recv_from(&mut self.packet) {
            Ok(received) => received,
            Err(error) if timed_out(&error) => {
                self.silent += 1;
                ensure!(self.silent < TRIES, "silence after {} bytes", self.bytes.len());
                self.acknowledge()?;
                return Ok(false);
            }
            Err(error) => return Err(error).context("receiving"),
        };
        if *self.peer.get_or_insert(from) != from || length < 4 {
            return Ok(false);
        }
        self.silent = 0;
        let word = |at: usize| u16::from_be_bytes([self.packet[at], self.packet[at + 1]]);
        match (word(0), word(2)) {
            (OACK, _) => self.agree(length).map(|()| false),
            (DATA, number) => self.take(number, length),
            (ERROR, code) => {
                bail!("error {code}: {}", String::from_utf8_lossy(&self.packet[4..length]))
            }
            (other, _) => bail!("packet {other}, where data (3) or options (6) are expected"),
        }
    }

    fn agree(&mut self, length: usize) -> Result<()> {
        let text = String::from_utf8_lossy(&self.packet[2..length]).to_lowercase();
        let words: Vec<_> = text.split('\0').collect();
        for pair in words.chunks_exact(2) {
            match pair[0] {
                "blksize" => self.block_size = pair[1].parse().context("reading blksize")?,
                "windowsize" => self.window = pair[1].parse().context("reading windowsize")?,
                _ => {}
            }
        }
        self.acknowledge()
    }

    fn take(&mut self, number: u16, length: usize) -> Result<bool> {
        if number != self.last.wrapping_add(1) {
            // A gap within a window: the rest of it is useless. A block seen before: its
            // acknowledgement was lost. Once for a window is enough (RFC 7440, section 4).
            if self.since > 0 || self.window == 1 {
                self.acknowledge()?;
            }
            return Ok(false);
        }
        self.bytes.extend_from_slice(&self.packet[4..length]);
        self.last = number;
        self.since += 1;
        let ended = length - 4 < self.block_size;
        if ended || self.since >= self.window {
            self.acknowledge()?;
        }
        Ok(ended)
    }
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
