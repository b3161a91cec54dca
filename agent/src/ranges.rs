//! Ranges of a server's files, from the socket straight into the reader's memory.
//!
//! Packs come by the gigabyte, and a general HTTP client copies each byte once more, in many small
//! reads. What is asked here is HTTP/1.1 of the plainest kind: a GET with a range (RFC 9110,
//! 14.2), answered by as many bytes as the answer's head says, or by all until the connection
//! ends (RFC 9112, 6.3). An answer in chunks (7.1), or one that is not the last (RFC 9110, 15.2),
//! is left to the general client.

use std::{
    io::{self, Read, Write as _},
    net::{SocketAddr, TcpStream},
    ops::Range,
    os::{fd::AsRawFd as _, linux::net::TcpStreamExt as _},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use ureq::http::StatusCode;

use crate::connection;

/// The longest head of an answer, in bytes, and how many fields it has at most.
const HEAD: usize = 8 << 10;
const FIELDS: usize = 64;
/// Of an answer that is no range, so much is read to know what it says.
const SAID: u64 = 4 << 10;
/// Longer than a route and a server need that are there.
const CONNECT: Duration = Duration::from_secs(10);

/// A server's files.
#[derive(Debug)]
pub(crate) struct Ranges {
    address: SocketAddr,
    /// What stands before every path.
    prefix: String,
    silence: Duration,
    /// Connections whose last answer was read to its end.
    idle: Mutex<Vec<TcpStream>>,
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: StatusCode,
    /// Bytes that its head says are to come, if it does.
    pub(crate) length: Option<u64>,
    pub(crate) body: Body<'a>,
}

/// The bytes of an answer, as they come.
#[derive(Debug)]
pub(crate) struct Body<'a> {
    ranges: &'a Ranges,
    /// Until all is read.
    stream: Option<TcpStream>,
    /// What came with the head.
    early: Vec<u8>,
    /// Bytes to come, where that is known.
    left: Option<u64>,
    /// Whether another answer may come after this one.
    stays: bool,
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    status: StatusCode,
    length: Option<u64>,
    stays: bool,
    chunked: bool,
}

impl Ranges {
    /// The files of a server, each called `prefix` and its path. Silence for as long as `silence`
    /// means that a connection is lost.
    pub(crate) fn at(address: SocketAddr, prefix: String, silence: Duration) -> Self {
        Ranges { address, prefix, silence, idle: Mutex::default() }
    }

    /// Asks for a range of the file at `path`. `None` for an answer that is not plain.
    ///
    /// # Errors
    /// When there is no connection, no answer, or none that is HTTP/1.1.
    pub(crate) fn get(&self, path: &str, range: &Range<u64>) -> io::Result<Option<Answer<'_>>> {
        let Ranges { address, prefix, .. } = self;
        let last = range.end.saturating_sub(1);
        let request = format!(
            "GET {prefix}{path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: {}\r\nrange: bytes={}-{last}\r\n\r\n",
            crate::server::USER_AGENT,
            range.start,
        );
        // The server may have closed what was left open, and may be doing so now.
        if let Some(stream) = self.take()
            && let Ok(answer) = self.ask(stream, &request)
        {
            return Ok(answer);
        }
        self.ask(self.connect()?, &request)
    }

    fn take(&self) -> Option<TcpStream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(connection::is_idle)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.silence))?;
        stream.set_write_timeout(Some(self.silence))?;
        Ok(stream)
    }

    fn ask(&self, stream: TcpStream, request: &str) -> io::Result<Option<Answer<'_>>> {
        (&stream).write_all(request.as_bytes())?;
        let until = Instant::now() + self.silence;
        let (mut early, mut filled) = (vec![0; HEAD], 0);
        loop {
            let received = receive(&stream, &mut early[filled..], MsgFlags::empty())?;
            filled += received;
            if let Some((Head { status, length, stays, chunked }, len)) = head(&early[..filled])? {
                early.truncate(filled);
                early.drain(..len);
                let body = Body { ranges: self, stream: Some(stream), early, left: length, stays };
                let plain = !chunked && !status.is_informational();
                return Ok(plain.then_some(Answer { status, length, body }));
            }
            if received == 0 {
                let why = match filled {
                    HEAD => format!("the answer's head is longer than {HEAD} bytes"),
                    _ => format!("the connection ended after {filled} bytes of the answer's head"),
                };
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
            if Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Read for Body<'_> {
    /// Waits until `bytes` is full, or nothing more comes.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = self.left.map_or(bytes.len(), |left| left.min(bytes.len() as u64) as usize);
        let bytes = &mut bytes[..most];
        let Some(stream) = self.stream.as_ref().filter(|_| most > 0) else { return Ok(0) };
        let read = if self.early.is_empty() {
            // A server that corks its answers keeps their ends back until all before is acknowledged.
            let _ = stream.set_quickack(true);
            receive(stream, bytes, MsgFlags::MSG_WAITALL)?
        } else {
            let read = most.min(self.early.len());
            bytes[..read].copy_from_slice(&self.early[..read]);
            self.early.drain(..read);
            read
        };
        self.left = self.left.map(|left| left - read as u64);
        if self.left == Some(0) {
            self.end();
        }
        Ok(read)
    }
}

impl Body<'_> {
    /// All is read: the connection may serve again.
    fn end(&mut self) {
        if let Some(stream) = self.stream.take().filter(|_| self.stays && self.early.is_empty()) {
            self.ranges.idle.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        }
    }

    /// What the answer says, or how it begins where it says more than 4 KiB.
    pub(crate) fn text(self) -> Vec<u8> {
        let mut said = Vec::new();
        let _ = self.take(SAID).read_to_end(&mut said);
        said
    }
}

/// Receives as `recv(2)` does, again after a signal.
fn receive(stream: &TcpStream, bytes: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
    loop {
        match recv(stream.as_raw_fd(), bytes, flags) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing comes any more"));
            }
            received => return Ok(received?),
        }
    }
}

/// The head that `bytes` begin with, and its length, once all of it is there.
fn head(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(len) = answer.parse(bytes).map_err(invalid)? else {
        return Ok(None);
    };
    let status = StatusCode::from_u16(answer.code.unwrap_or_default()).map_err(invalid)?;
    let mut head = Head { status, length: None, stays: answer.version == Some(1), chunked: false };
    for field in answer.headers {
        let value = str::from_utf8(field.value).map_err(invalid)?.trim();
        match field.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let length = value.parse().map_err(invalid)?;
                if head.length.replace(length).is_some_and(|before| before != length) {
                    return Err(invalid("the answer has two lengths"));
                }
            }
            "transfer-encoding" => head.chunked = true,
            "connection" => head.stays &= !value.to_ascii_lowercase().contains("close"),
            _ => {}
        }
    }
    Ok(Some((head, len)))
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    /// Of a server that gives each of `answers` to a request of one connection.
    fn answering(answers: &'static [&'static str]) -> Ranges {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut request = [0; 1024];
                let len = stream.read(&mut request).unwrap();
                assert!(request[..len].starts_with(b"GET /a/b HTTP/1.1\r\nhost: 127.0.0.1:"));
                assert!(request[..len].ends_with(b"\r\nrange: bytes=3-6\r\n\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Ranges::at(address, "/a".to_owned(), Duration::from_secs(5))
    }

    fn ask(ranges: &Ranges) -> io::Result<Option<String>> {
        let Some(mut answer) = ranges.get("/b", &(3..7))? else { return Ok(None) };
        let mut bytes = String::new();
        answer.body.read_to_string(&mut bytes)?;
        Ok(Some(format!("{} {bytes}", answer.status.as_u16())))
    }

    #[test]
    fn one_connection_serves_again_when_all_is_read() {
        let ranges = answering(&[
            "HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\n\r\nabcd",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno",
            "HTTP/1.1 206 Partial Content\r\ncontent-length: 4\r\nconnection: close\r\n\r\nefgh",
        ]);
        for answer in ["206 abcd", "404 no", "206 efgh"] {
            assert_eq!(ask(&ranges).unwrap().as_deref(), Some(answer));
        }
        assert!(ranges.take().is_none());
    }

    #[test]
    fn a_body_without_a_length_lasts_until_the_connection_ends() {
        let ranges = answering(&["HTTP/1.1 200 OK\r\n\r\nabcdefghij"]);
        assert_eq!(ask(&ranges).unwrap().as_deref(), Some("200 abcdefghij"));
        assert!(ranges.take().is_none());
    }

    #[test]
    fn what_is_not_plain_is_left() {
        for answers in [
            &[
                "HTTP/1.1 206 Partial Content\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
            ],
            &["HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd"],
        ] {
            assert_eq!(ask(&answering(answers)).unwrap(), None);
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for answers in [
            &["220 mail.example.org ESMTP\r\n"],
            &["HTTP/1.1 206 Partial"],
            &[
                "HTTP/1.1 206 Partial Content\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
            ],
            &["HTTP/1.1 206 Partial Content\r\ncontent-length: -4\r\n\r\nabcd"],
        ] {
            assert!(ask(&answering(answers)).is_err());
        }
        let long = format!("HTTP/1.1 206 Partial Content\r\nx: {}\r\n", "x".repeat(HEAD));
        let error = ask(&answering(Box::leak(Box::new([&*long.leak()])))).unwrap_err();
        assert!(error.to_string().contains("8192"), "{error}");
    }

    proptest! {
        #[test]
        fn a_head_is_read_or_refused(
            status in any::<u16>(),
            length in "[0-9-]{0,21}",
            bytes in vec(any::<u8>(), 0..64),
        ) {
            let _ = head(&bytes);
            let mut answer = format!("HTTP/1.1 {status} \r\ncontent-length: {length}\r\n").into_bytes();
            answer.extend(&bytes);
            answer.extend(b"\r\n\r\n");
            if let Ok(Some((head, len))) = head(&answer) {
                assert!(len <= answer.len() && head.status.as_u16() == status);
            }
        }
    }
}
