//! A connection under hyper: what was read ahead of it comes first, and it is not cut under a
//! client that is still sending.
//!
//! A socket that is closed with bytes unread is reset (RFC 1122, section 4.2.2.13), and the reset
//! may overtake the answer that says why the bytes were not wanted. So the close of one whose
//! request was left unread waits until the client has heard: RFC 9112, section 9.6.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// How long a close waits for the client's.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes that are thrown away at once.
const WASTE: usize = 16 << 10;

/// Whether a request of a connection was answered before it was read.
#[derive(Debug, Default, Clone)]
pub struct Unread(Arc<AtomicBool>);

/// A connection.
pub struct Wire {
    ahead: Bytes,
    stream: TcpStream,
    unread: Unread,
    closing: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    /// `stream`, of which `ahead` was read.
    pub fn new(ahead: Bytes, stream: TcpStream) -> Wire {
        Wire { ahead, stream, unread: Unread::default(), closing: None }
    }

    /// What the bodies of its requests are to tell.
    pub fn unread(&self) -> Unread {
        self.unread.clone()
    }

    /// Reads to the client's end, or until its time is over.
    fn poll_waste(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let closing = self.closing.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if closing.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut waste = [0; WASTE];
        loop {
            let mut bytes = ReadBuf::new(&mut waste);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut bytes));
            if read.is_err() || bytes.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, bytes);
        }
        let most = self.ahead.len().min(bytes.remaining());
        bytes.put_slice(&self.ahead.split_to(most));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        if self.unread.0.load(Ordering::Relaxed) {
            ready!(self.poll_waste(context));
        }
        Poll::Ready(Ok(()))
    }
}

/// The body of a request, which tells when it was dropped before its end.
pub struct Told {
    body: Incoming,
    ended: bool,
    unread: Unread,
}

impl Told {
    /// `body`, of a connection that `unread` belongs to.
    pub fn of(body: Incoming, unread: Unread) -> Body {
        Body::new(Told { body, ended: false, unread })
    }
}

impl hyper::body::Body for Told {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.ended |= frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.unread.0.store(true, Ordering::Relaxed);
        }
    }
}
