//! A client made by hand, which can be made to misbehave.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// How long an answer may take on loopback, however busy the machine is.
pub const SOON: Duration = Duration::from_millis(700);

/// A packet of the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Packet {
    Data(u16, Vec<u8>),
    Oack(Vec<(String, String)>),
    Error(u16, String),
}

impl Packet {
    /// Reads a packet and insists that it is one that a server may send.
    pub fn parse(bytes: &[u8]) -> Packet {
        let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        match number(0) {
            3 => Packet::Data(number(2), bytes[4..].to_vec()),
            5 => {
                let text = bytes[4..].strip_suffix(&[0]).expect("an error ends with a zero");
                Packet::Error(number(2), String::from_utf8(text.to_vec()).unwrap())
            }
            6 => {
                let text = String::from_utf8(bytes[2..].to_vec()).unwrap();
                let text = text.strip_suffix('\0').expect("an option ends with a zero");
                let words: Vec<_> = text.split('\0').map(str::to_string).collect();
                assert_eq!(words.len() % 2, 0, "options come in pairs: {words:?}");
                Packet::Oack(
                    words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect(),
                )
            }
            other => panic!("a server sends no packet of type {other}"),
        }
    }
}

pub fn oack(options: &[(&str, &str)]) -> Packet {
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    Packet::Oack(options.iter().map(owned).collect())
}

/// A read request.
pub fn rrq(name: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut request = format!("\0\x01{name}\0octet\0");
    for (option, value) in options {
        request += &format!("{option}\0{value}\0");
    }
    request.into_bytes()
}

pub fn ack(block: u16) -> Vec<u8> {
    [[0, 4], block.to_be_bytes()].concat()
}

/// A socket and the server it asks.
pub struct Client {
    pub socket: UdpSocket,
    pub server: SocketAddr,
}

impl Client {
    pub fn new(server: SocketAddr) -> Self {
        Client { socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), server }
    }

    pub fn ask(&self, name: &str, options: &[(&str, &str)]) {
        self.send(&rrq(name, options), self.server);
    }

    pub fn send(&self, packet: &[u8], to: SocketAddr) {
        self.socket.send_to(packet, to).unwrap();
    }

    /// The next packet and where it came from; none when `time` goes by.
    pub fn hear(&self, time: Duration) -> Option<(Packet, SocketAddr)> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut buf = [0; 2048];
        match self.socket.recv_from(&mut buf) {
            Ok((len, from)) => Some((Packet::parse(&buf[..len]), from)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(e) => panic!("receiving: {e}"),
        }
    }

    /// The next packet, which must come soon.
    pub fn answer(&self) -> (Packet, SocketAddr) {
        self.hear(SOON).expect("the server does not answer")
    }

    /// Asks, and tells what the only answer is.
    pub fn asked(&self, request: &[u8]) -> Packet {
        self.send(request, self.server);
        self.answer().0
    }

    /// Asks with a block and a window size, takes the OACK and acknowledges it.
    pub fn begin(&self, block: usize, window: usize) -> SocketAddr {
        let (block, window) = (block.to_string(), window.to_string());
        self.ask("ipxe.efi", &[("blksize", &block), ("windowsize", &window)]);
        let (packet, from) = self.answer();
        assert_eq!(packet, oack(&[("blksize", &block), ("windowsize", &window)]));
        self.send(&ack(0), from);
        from
    }

    /// Receives the rest from `from` as RFC 7440 has a receiver do it. Data packets whose number
    /// (counting everything that arrives, from 0) `lose` wants are not seen.
    pub fn receive(
        &self,
        from: SocketAddr,
        block: usize,
        window: usize,
        mut lose: impl FnMut(usize) -> bool,
    ) -> Received {
        let began = Instant::now();
        let mut received = Received { bytes: Vec::new(), packets: 0, took: Duration::ZERO };
        let (mut last, mut fresh, mut told_hole) = (0u16, 0, false);
        loop {
            // Longer than the server waits: what was lost it must repair by itself.
            let heard = self.hear(Duration::from_secs(3)).expect("the transfer has stopped");
            let (Packet::Data(number, data), true) = (heard.0, heard.1 == from) else {
                panic!("something else than data, or from elsewhere");
            };
            received.packets += 1;
            if lose(received.packets - 1) {
                continue;
            }
            if number != last.wrapping_add(1) {
                if window > 1 && !told_hole {
                    told_hole = true;
                    fresh = 0;
                    self.send(&ack(last), from);
                }
                continue;
            }
            told_hole = false;
            last = number;
            fresh += 1;
            received.bytes.extend_from_slice(&data);
            let ended = data.len() < block;
            if ended || fresh == window {
                fresh = 0;
                self.send(&ack(last), from);
            }
            if ended {
                received.took = began.elapsed();
                return received;
            }
        }
    }
}

/// What came of a transfer.
pub struct Received {
    pub bytes: Vec<u8>,
    /// Data packets that arrived, repeated ones and lost ones too.
    pub packets: usize,
    pub took: Duration,
}
