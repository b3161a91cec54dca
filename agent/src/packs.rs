//! Packs over HTTP, as the writer wants them: a range is a stream that does not end before it
//! is whole, whatever happens to the connections under it.

use std::{
    io::{self, Read},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use images::{Digest, pack::Source};
use protocol::path;
use ureq::http::StatusCode;

use crate::{
    patience::Patience,
    ranges::{Answer, Ranges},
    server::{Server, ServerError},
};

/// How long nothing at all may come before the deployment is given up.
const DROUGHT: Duration = Duration::from_secs(10 * 60);

/// The packs of a provisioner.
#[derive(Debug)]
pub(crate) struct Packs {
    ranges: Ranges,
    /// For answers that are not plain.
    server: Server,
    drought: Duration,
    received: AtomicU64,
}

impl Packs {
    /// The packs of `server`, over connections of their own: one that asked for nothing but files
    /// is served them straight from the page cache.
    pub(crate) fn of(server: &Server) -> Self {
        let (ranges, server) = (server.ranges(), server.clone());
        Packs { ranges, server, drought: DROUGHT, received: AtomicU64::new(0) }
    }

    /// A range of the file at `path`, which is called `what` where it is waited for.
    pub(crate) fn stream(
        &self,
        path: String,
        range: Range<u64>,
        what: &str,
    ) -> Box<dyn Read + Send + '_> {
        let patience = Patience::new(what, self.drought);
        Box::new(Stream { packs: self, path, range, body: None, patience })
    }

    /// Bytes that have travelled so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Source for Packs {
    fn read(&self, pack: &Digest, range: Range<u64>) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(self.stream(format!("{}/{pack}", path::PACKS), range, "the rest of a pack"))
    }
}

/// What is still to come of a range.
struct Stream<'a> {
    packs: &'a Packs,
    path: String,
    range: Range<u64>,
    body: Option<Box<dyn Read + Send + 'a>>,
    patience: Patience,
}

impl<'a> Stream<'a> {
    fn left(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    /// Asks for what is left, from the byte where the last connection broke off.
    fn open(&self) -> Result<Box<dyn Read + Send + 'a>, ServerError> {
        let plain = self.packs.ranges.get(&self.path, &self.range);
        let (partial, length, mut body): (_, _, Box<dyn Read + Send + 'a>) =
            match plain.map_err(|error| self.unwell(error.to_string()))? {
                Some(Answer { status, length, body }) if status.is_success() => {
                    (status == StatusCode::PARTIAL_CONTENT, length, Box::new(body))
                }
                Some(Answer { status, body, .. }) => {
                    return Err(ServerError::of(&self.path, status, &body.text()));
                }
                None => {
                    let answer = self.packs.server.get(&self.path, Some(self.range.clone()))?;
                    (answer.is_partial(), answer.length(), answer.reader())
                }
            };
        if let Some(length) = length.filter(|length| partial && *length != self.left()) {
            let left = self.left();
            return Err(self.unwell(format!("sends {length} bytes where {left} were asked")));
        }
        let skip = if partial { 0 } else { self.range.start };
        // A cache that does not know ranges sends the whole pack.
        let skipped = io::copy(&mut body.by_ref().take(skip), &mut io::sink());
        match skipped {
            Ok(bytes) if bytes == skip => Ok(body),
            Ok(bytes) => Err(self.unwell(format!("ended after {bytes} bytes"))),
            Err(error) => Err(self.unwell(error.to_string())),
        }
    }

    fn unwell(&self, reason: String) -> ServerError {
        ServerError::Unwell { path: self.path.clone(), reason }
    }

    /// One read of the body; 0 and errors mean that the connection is of no use any more.
    fn receive(&mut self, bytes: &mut [u8]) -> Result<usize, ServerError> {
        if self.body.is_none() {
            self.body = Some(self.open()?);
        }
        let most = self.left().min(bytes.len() as u64) as usize;
        let read = self.body.as_mut().map_or(Ok(0), |body| body.read(&mut bytes[..most]));
        match read {
            Ok(0) => Err(self.unwell("the connection ended early".to_owned())),
            Ok(read) => Ok(read),
            Err(error) => Err(self.unwell(error.to_string())),
        }
    }

    /// A body that was read to its very end gives its connection back for the next range.
    fn finish(&mut self) {
        if let Some(mut body) = self.body.take() {
            let _ = body.read(&mut [0]);
        }
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.left() == 0 || bytes.is_empty() {
            return Ok(0);
        }
        loop {
            match self.receive(bytes) {
                Ok(read) => {
                    self.range.start += read as u64;
                    self.packs.received.fetch_add(read as u64, Ordering::Relaxed);
                    self.patience.renew();
                    if self.left() == 0 {
                        self.finish();
                    }
                    return Ok(read);
                }
                Err(error) => {
                    self.body = None;
                    if !error.may_pass() || !self.patience.pause(&error.to_string()) {
                        return Err(io::Error::other(error));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::{TcpListener, TcpStream},
        thread,
    };

    use super::*;

    const PACK: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

    /// A real HTTP server whose n-th connection is served by the n-th of `habits`.
    fn packs(habits: Vec<fn(&mut TcpStream, Range<usize>)>) -> Packs {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for habit in habits {
                let (mut stream, _) = listener.accept().unwrap();
                let range = asked(&stream);
                habit(&mut stream, range);
            }
        });
        let server = Server::at(&base).unwrap();
        Packs { drought: Duration::from_secs(5), ..Packs::of(&server) }
    }

    fn asked(stream: &TcpStream) -> Range<usize> {
        let mut range = 0..PACK.len();
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap().to_ascii_lowercase();
            if let Some(asked) = line.strip_prefix("range: bytes=") {
                let (from, to) = asked.split_once('-').unwrap();
                range = from.parse().unwrap()..to.parse::<usize>().unwrap() + 1;
            }
            if line.is_empty() {
                break;
            }
        }
        range
    }

    fn send(stream: &mut TcpStream, status: &str, length: usize, body: &[u8]) {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let _ = stream.write_all(body);
    }

    fn good(stream: &mut TcpStream, range: Range<usize>) {
        send(stream, "206 Partial Content", range.len(), &PACK[range.clone()]);
    }

    fn cut(stream: &mut TcpStream, range: Range<usize>) {
        send(stream, "206 Partial Content", range.len(), &PACK[range.start..range.start + 3]);
    }

    fn silent(_: &mut TcpStream, _: Range<usize>) {}

    fn unwell(stream: &mut TcpStream, _: Range<usize>) {
        send(stream, "503 Unavailable", 0, b"");
    }

    fn absent(stream: &mut TcpStream, _: Range<usize>) {
        send(stream, "404 Not Found", 0, b"");
    }

    fn whole(stream: &mut TcpStream, _: Range<usize>) {
        send(stream, "200 OK", PACK.len(), PACK);
    }

    fn short(stream: &mut TcpStream, range: Range<usize>) {
        send(stream, "206 Partial Content", 2, &PACK[range.start..range.start + 2]);
    }

    fn chunked(stream: &mut TcpStream, range: Range<usize>) {
        stream
            .write_all(b"HTTP/1.1 206 Partial Content\r\ntransfer-encoding: chunked\r\n\r\n")
            .unwrap();
        for bytes in PACK[range].chunks(5) {
            let _ = write!(stream, "{:x}\r\n{}\r\n", bytes.len(), str::from_utf8(bytes).unwrap());
        }
        let _ = stream.write_all(b"0\r\n\r\n");
    }

    fn endless(stream: &mut TcpStream, range: Range<usize>) {
        stream.write_all(b"HTTP/1.1 206 Partial Content\r\n\r\n").unwrap();
        stream.write_all(&PACK[range]).unwrap();
        while stream.write_all(&[b'!'; 4096]).is_ok() {}
    }

    fn read(
        habits: Vec<fn(&mut TcpStream, Range<usize>)>,
        range: Range<u64>,
    ) -> io::Result<Vec<u8>> {
        let packs = packs(habits);
        let mut bytes = Vec::new();
        packs.read(&Digest::of(PACK), range)?.read_to_end(&mut bytes)?;
        assert_eq!(packs.received(), bytes.len() as u64);
        Ok(bytes)
    }

    #[test]
    fn a_range_survives_lost_connections_and_a_server_that_is_away() {
        let bytes = read(vec![cut, silent, unwell, cut, good], 4..20).unwrap();
        assert_eq!(bytes, &PACK[4..20]);
    }

    #[test]
    fn a_server_without_ranges_will_do() {
        assert_eq!(read(vec![whole], 4..20).unwrap(), &PACK[4..20]);
    }

    #[test]
    fn an_answer_in_chunks_will_do() {
        assert_eq!(read(vec![chunked, chunked], 4..20).unwrap(), &PACK[4..20]);
    }

    #[test]
    fn a_wrong_length_is_asked_again() {
        assert_eq!(read(vec![short, good], 4..20).unwrap(), &PACK[4..20]);
    }

    #[test]
    fn an_endless_body_is_left_at_its_end() {
        assert_eq!(read(vec![endless], 4..20).unwrap(), &PACK[4..20]);
    }

    #[test]
    fn a_pack_that_is_not_there_is_final() {
        let error = read(vec![absent], 0..4).unwrap_err().to_string();
        assert!(error.contains("404"), "{error}");
    }
}
