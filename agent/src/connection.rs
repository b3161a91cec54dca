//! Connections to the provisioner that acknowledge at once.
//!
//! A server or cache that corks its answers (nginx: `tcp_nopush on`) keeps the last bytes of one until those before
//! are acknowledged, and Linux waits 40 ms with that (tcp(7), TCP_QUICKACK; RFC 9293, 3.8.6.3): as long as half a
//! MiB takes to come.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::linux::net::TcpStreamExt as _,
    time::Duration,
};

use ureq::{
    Error,
    unversioned::transport::{
        Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
    },
};

/// Opens them.
#[derive(Debug)]
pub(crate) struct Prompt;

/// One that is open.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffers: LazyBuffers,
    /// How long a read may wait, as the kernel was told last.
    patience: Option<Duration>,
    /// Whether the last read had room for more: all that had come was taken.
    drained: bool,
}

impl Connector for Prompt {
    type Out = Connection;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> Result<Option<Connection>, Error> {
        let mut failure = Error::Io(io::ErrorKind::AddrNotAvailable.into());
        for address in &details.addrs {
            match open(address, details.timeout) {
                Ok(stream) => {
                    let (input, output) =
                        (details.config.input_buffer_size(), details.config.output_buffer_size());
                    let buffers = LazyBuffers::new(input, output);
                    return Ok(Some(Connection { stream, buffers, patience: None, drained: true }));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

fn open(address: &SocketAddr, timeout: NextTimeout) -> Result<TcpStream, Error> {
    let opened = match timeout.not_zero() {
        Some(after) => TcpStream::connect_timeout(address, *after),
        None => TcpStream::connect(address),
    };
    let stream = opened.map_err(|error| named(error, timeout))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Connection {
    /// In whole seconds, of which there are few: each that differs from the last is a system call.
    fn wait_at_most(&mut self, timeout: NextTimeout) -> io::Result<()> {
        let whole = |after: Duration| Duration::from_secs(after.as_secs_f64().ceil() as u64);
        let patience = timeout.not_zero().map(|after| whole(*after));
        if self.patience != patience {
            self.stream.set_read_timeout(patience)?;
            self.patience = patience;
        }
        Ok(())
    }
}

/// # Errors
/// When no time is left.
fn left(timeout: NextTimeout) -> Result<NextTimeout, Error> {
    if timeout.after.is_zero() { Err(Error::Timeout(timeout.reason)) } else { Ok(timeout) }
}

/// An end of patience by its reason.
fn named(error: io::Error, timeout: NextTimeout) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::Timeout(timeout.reason),
        _ => Error::Io(error),
    }
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = left(timeout.for_write())?;
        self.stream.set_write_timeout(timeout.not_zero().map(|after| *after))?;
        let output = &self.buffers.output()[..amount];
        self.stream.write_all(output).map_err(|error| named(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = left(timeout.for_read())?;
        self.wait_at_most(timeout)?;
        if self.drained {
            // The kernel forgets it. Where it cannot be set, bytes come later, and no others.
            let _ = self.stream.set_quickack(true);
        }
        let input = self.buffers.input_append_buf();
        let amount = loop {
            match self.stream.read(input) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|error| named(error, timeout))?,
            }
        };
        self.drained = amount < input.len();
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        is_idle(&self.stream)
    }
}

/// Whether a connection is open with nothing to read: whatever came unasked is no answer.
pub(crate) fn is_idle(stream: &TcpStream) -> bool {
    let peek = || {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        peeked
    };
    matches!(peek(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
