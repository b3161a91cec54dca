//! What can go wrong in the server, as opposed to what is told to a client.

use std::{io, net::SocketAddr};

/// Type alias to [`Result<T, Error>`](std::result::Result).
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error type of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes that are no TFTP packet.
    #[error("invalid packet")]
    InvalidPacket,
    /// What the client is told.
    #[error("TFTP protocol error: {0:?}")]
    Packet(crate::packet::Error),
    /// The socket or the reader failed.
    #[error("input or output failed")]
    Io(#[from] io::Error),
    /// The server's own address could not be had.
    #[error("binding {0}")]
    Bind(SocketAddr, #[source] io::Error),
}
