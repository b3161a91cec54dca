//! The short way for files of the store: from the page cache to the socket by `sendfile(2)`, never
//! through this program.
//!
//! A connection begins here. As long as it asks for such files and nothing unusual, it is answered
//! here; the first other request (another door, a body, a file that there is not) goes with all
//! that follows to hyper, which answers the same doors. Both say the same of a file: [`Found`].

use std::{
    fs::File,
    io,
    ops::Range,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header},
};
use bytes::BytesMut;
use images::Digest;
use nix::{
    fcntl::{PosixFadviseAdvice, posix_fadvise},
    sys::{
        sendfile::sendfile,
        socket::{MsgFlags, send},
    },
};
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::TcpStream,
    sync::watch,
    task::spawn_blocking,
    time::timeout,
};

use super::{
    Shared,
    bytes::Named,
    file::{Answer, Content, Found},
};

/// The longest head that is read here; hyper takes longer ones.
const LONGEST_HEAD: usize = 8 << 10;
const HEADERS: usize = 48;
/// Bytes that are brought into the page cache at once, off the async threads, while those before
/// them are being sent.
const WINDOW: u64 = 4 << 20;
/// How long a client may take nothing. Some write what they get to a slow disk.
const STALL: Duration = Duration::from_secs(300);
/// Headers that change what the bytes after a head mean, or who reads them.
const UNUSUAL: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Answers what it can; gives back a connection that asks for something else, with what was read
/// of that. Nothing is left of one that ended or said nothing for as long as `idle`.
pub async fn serve(
    mut stream: TcpStream,
    shared: &Shared,
    idle: Duration,
    mut end: watch::Receiver<()>,
) -> io::Result<Option<(Bytes, TcpStream)>> {
    let mut read = BytesMut::with_capacity(LONGEST_HEAD);
    loop {
        let head = tokio::select! {
            head = timeout(idle, head(&mut stream, &mut read)) => head,
            _ = end.changed() => return Ok(None),
        };
        let Ok(head) = head else { return Ok(None) };
        let Some(head) = head? else { return Ok(None) };
        let answered = match &head {
            Head::Plain(ask) => answer(&stream, shared, ask).await?,
            Head::Other => false,
        };
        match head {
            Head::Plain(ask) if answered => drop(read.split_to(ask.len)),
            _ => return Ok(Some((read.freeze(), stream))),
        }
    }
}

/// What a connection begins with.
enum Head {
    Plain(Ask),
    Other,
}

/// A request for a file of the store, and nothing else.
struct Ask {
    kind: Named,
    digest: Digest,
    method: Method,
    headers: HeaderMap,
    /// Bytes of its head.
    len: usize,
}

/// Reads a head; nothing when the client ended in front of one.
async fn head(stream: &mut TcpStream, read: &mut BytesMut) -> io::Result<Option<Head>> {
    loop {
        if !read.is_empty() {
            match parse(read) {
                Some(head) => return Ok(Some(head)),
                None if read.len() >= LONGEST_HEAD => return Ok(Some(Head::Other)),
                None => {}
            }
        }
        if stream.read_buf(read).await? == 0 {
            return Ok((!read.is_empty()).then_some(Head::Other));
        }
    }
}

/// What `bytes` begin with, as soon as they tell.
fn parse(bytes: &[u8]) -> Option<Head> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => {
            Some(plain(&request, len).map_or(Head::Other, Head::Plain))
        }
        Ok(httparse::Status::Partial) if may_be_plain(bytes) => None,
        Ok(httparse::Status::Partial) | Err(_) => Some(Head::Other),
    }
}

/// Whether a head that is not whole may be one of ours: another one is not kept waiting.
fn may_be_plain(bytes: &[u8]) -> bool {
    ["GET /v1/packs/", "GET /v1/manifests/", "HEAD /v1/packs/", "HEAD /v1/manifests/"].iter().any(
        |door| {
            let known = door.len().min(bytes.len());
            door.as_bytes()[..known] == bytes[..known]
        },
    )
}

fn plain(request: &httparse::Request<'_, '_>, len: usize) -> Option<Ask> {
    let method = match request.method? {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        _ => return None,
    };
    let (kind, digest) = Named::at(request.path?)?;
    let mut headers = HeaderMap::new();
    for one in request.headers.iter() {
        let name: HeaderName = one.name.parse().ok()?;
        headers.append(name, HeaderValue::from_bytes(one.value).ok()?);
    }
    let usual = UNUSUAL.iter().all(|name| !headers.contains_key(name));
    (request.version == Some(1) && usual).then_some(Ask { kind, digest, method, headers, len })
}

/// Sends a file, if it is one of this host and the request can be met.
async fn answer(stream: &TcpStream, shared: &Shared, ask: &Ask) -> io::Result<bool> {
    let what = ask.kind.of(shared.provisioner.library.store(), &ask.digest);
    let Ok(Some(found)) = Found::open(what).await else { return Ok(false) };
    let name = ask.digest.to_string();
    let Some(Answer { head, body }) = found.answer(ask.kind.kept(&name), &ask.method, &ask.headers)
    else {
        return Ok(false);
    };
    let text = render(&head);
    match body {
        None => say(stream, &text, MsgFlags::empty()).await?,
        Some((Content::Remote(..), _)) => return Ok(false),
        Some((Content::File(file), part)) => {
            shared.metrics.sent(part.end - part.start);
            say(stream, &text, MsgFlags::from_bits_retain(libc::MSG_MORE)).await?;
            send_file(stream, Arc::new(file), part).await?;
        }
    }
    shared.metrics.answered(ask.kind.door(), head.status().as_u16());
    tracing::debug!("{} {} {}: {}", ask.method, ask.kind.door(), ask.digest, head.status());
    Ok(true)
}

/// A head as it travels (RFC 9112, section 4).
fn render(head: &Response<()>) -> Vec<u8> {
    let status = head.status();
    let mut text = Vec::with_capacity(512);
    let line =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or(""));
    text.extend_from_slice(line.as_bytes());
    for (name, value) in head.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            text.extend_from_slice(part);
        }
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    text.extend_from_slice(format!("date: {date}\r\n\r\n").as_bytes());
    text
}

async fn say(stream: &TcpStream, mut bytes: &[u8], how: MsgFlags) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = when_taken(stream, || {
            Ok(send(stream.as_raw_fd(), bytes, how | MsgFlags::MSG_NOSIGNAL)?)
        });
        bytes = &bytes[sent.await?..];
    }
    Ok(())
}

async fn send_file(stream: &TcpStream, file: Arc<File>, part: Range<u64>) -> io::Result<()> {
    let warm = |start: u64| {
        let (file, window) = (file.clone(), start..(start + WINDOW).min(part.end));
        spawn_blocking(move || warm(&file, window))
    };
    let (mut at, mut next) = (part.start, warm(part.start));
    while at < part.end {
        next.await??;
        let end = (at + WINDOW).min(part.end);
        next = warm(end);
        while at < end {
            let sent = when_taken(stream, || {
                let mut offset = at as i64;
                Ok(sendfile(stream, &*file, Some(&mut offset), (end - at) as usize)?)
            });
            match sent.await? as u64 {
                0 => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the file became shorter",
                    ));
                }
                sent => at += sent,
            }
        }
    }
    Ok(())
}

/// Brings a window into the page cache: sendfile waits for the disk where it finds none, and an
/// async thread must not.
fn warm(file: &File, window: Range<u64>) -> io::Result<()> {
    let Some(last) = window.end.checked_sub(1).filter(|last| *last >= window.start) else {
        return Ok(());
    };
    let length = (window.end - window.start) as i64;
    posix_fadvise(file, window.start as i64, length, PosixFadviseAdvice::POSIX_FADV_WILLNEED)?;
    // The disk reads in order: what is before the last byte is there when it is.
    file.read_exact_at(&mut [0], last)
}

/// Does `act` as soon as the client takes bytes.
async fn when_taken(
    stream: &TcpStream,
    act: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    timeout(STALL, stream.async_io(Interest::WRITABLE, act))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "836f63ea3d7d09f5e9716822f45617fafa06cf7e71f357e78cde49b3e665e470";

    fn is_plain(text: &str) -> bool {
        matches!(parse(text.as_bytes()), Some(Head::Plain(ask)) if ask.len == text.len())
    }

    #[test]
    fn files_of_the_store_are_plain_and_nothing_else_is() {
        let host = "Host: x\r\n";
        for door in ["packs/N", "manifests/N", "manifests/N/index", "manifests/N/minisig"] {
            let door = door.replace('N', NAME);
            assert!(is_plain(&format!("GET /v1/{door} HTTP/1.1\r\n{host}\r\n")), "{door}");
            assert!(is_plain(&format!(
                "HEAD /v1/{door} HTTP/1.1\r\n{host}Range: bytes=1-2\r\n\r\n"
            )));
        }
        for other in [
            format!("GET /v1/packs/{NAME} HTTP/1.0\r\n\r\n"),
            format!("POST /v1/packs/{NAME} HTTP/1.1\r\n{host}\r\n"),
            format!("GET /v1/packs/{NAME}?x HTTP/1.1\r\n{host}\r\n"),
            format!("GET /v1/packs/{NAME} HTTP/1.1\r\n{host}Connection: close\r\n\r\n"),
            format!("GET /v1/packs/{NAME} HTTP/1.1\r\n{host}Content-Length: 3\r\n\r\nabc"),
            format!("GET /v1/packs/{NAME} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n"),
            format!("GET /v1/packs/{} HTTP/1.1\r\n{host}\r\n", &NAME[1..]),
            format!("GET /v1/manifests/{NAME}/other HTTP/1.1\r\n{host}\r\n"),
            "GET /v1/nodes HTTP/1.1\r\n\r\n".to_owned(),
            "nonsense\r\n\r\n".to_owned(),
            "\u{16}\u{3}\u{1}".to_owned(),
        ] {
            assert!(matches!(parse(other.as_bytes()), Some(Head::Other)), "{other}");
        }
    }

    #[test]
    fn a_head_is_waited_for_as_long_as_it_may_be_plain() {
        let whole = format!("GET /v1/packs/{NAME} HTTP/1.1\r\nHost: x\r\n\r\n");
        for end in 1..whole.len() {
            assert!(parse(&whole.as_bytes()[..end]).is_none(), "{end}");
        }
        assert!(matches!(parse(b"POST"), Some(Head::Other)));
        assert!(matches!(parse(b"GET /v1/n"), Some(Head::Other)));
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            parse(&bytes);
        }

        #[test]
        fn what_follows_a_head_is_not_taken_for_it(rest: Vec<u8>) {
            let head = format!("GET /v1/packs/{NAME} HTTP/1.1\r\nHost: x\r\n\r\n");
            let bytes = [head.as_bytes(), &rest].concat();
            let Some(Head::Plain(ask)) = parse(&bytes) else { panic!("it is plain") };
            assert_eq!(ask.len, head.len());
        }
    }
}
