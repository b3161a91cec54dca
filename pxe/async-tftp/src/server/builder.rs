//! Putting a server together.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use super::{Handler, TftpServer, options::Limits};
use crate::error::{Error, Result};

/// TFTP server builder.
#[derive(Debug)]
pub struct TftpServerBuilder<H: Handler> {
    handler: H,
    addr: SocketAddr,
    socket: Option<UdpSocket>,
    limits: Limits,
}

impl<H: Handler> TftpServerBuilder<H> {
    /// Create new builder with custom [`Handler`].
    pub fn with_handler(handler: H) -> Self {
        TftpServerBuilder {
            handler,
            addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 69)),
            socket: None,
            limits: Limits {
                timeout: Duration::from_secs(1),
                block_size: 1468,
                window_size: 16,
                retries: 6,
                transfers: 512,
                per_client: 128,
                ignore_client_timeout: false,
                ignore_client_block_size: false,
                ignore_client_window_size: false,
            },
        }
    }

    /// Set listening address; ignored if the socket is set. **Default:** `0.0.0.0:69`
    pub fn bind(mut self, addr: SocketAddr) -> Self {
        self.addr = addr;
        self
    }

    /// Set the listening socket.
    pub fn std_socket(mut self, socket: UdpSocket) -> Self {
        self.socket = Some(socket);
        self
    }

    /// Set how long an acknowledgement is awaited before the window is sent again.
    ///
    /// A client can override it (RFC 2349) unless
    /// [`ignore_client_timeout`](Self::ignore_client_timeout). **Default:** 1 second
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limits.timeout = timeout;
        self
    }

    /// Set maximum block size. 1468 fills an Ethernet frame; firmware seldom puts fragments of
    /// IP together. **Default:** 1468
    pub fn block_size_limit(mut self, size: u16) -> Self {
        self.limits.block_size = size.max(8);
        self
    }

    /// Set maximum window size; 1 turns windows off. **Default:** 16
    pub fn window_size_limit(mut self, size: u16) -> Self {
        self.limits.window_size = size.max(1);
        self
    }

    /// Set how often a window is sent again before the client is given up. **Default:** 6
    pub fn max_send_retries(mut self, retries: u32) -> Self {
        self.limits.retries = retries;
        self
    }

    /// Set how many transfers there may be at once. **Default:** 512
    pub fn transfer_limit(mut self, transfers: usize) -> Self {
        self.limits.transfers = transfers;
        self
    }

    /// Set how many transfers one client address may have at once. **Default:** 128
    pub fn client_limit(mut self, transfers: usize) -> Self {
        self.limits.per_client = transfers;
        self
    }

    /// Ignore client's `timeout` option.
    pub fn ignore_client_timeout(mut self) -> Self {
        self.limits.ignore_client_timeout = true;
        self
    }

    /// Ignore client's `blksize` option: 512 bytes for everybody.
    pub fn ignore_client_block_size(mut self) -> Self {
        self.limits.ignore_client_block_size = true;
        self
    }

    /// Ignore client's `windowsize` option: one block at a time for everybody.
    pub fn ignore_client_window_size(mut self) -> Self {
        self.limits.ignore_client_window_size = true;
        self
    }

    /// Build [`TftpServer`]. To be called inside a tokio runtime.
    pub async fn build(self) -> Result<TftpServer<H>> {
        let socket = match self.socket {
            Some(socket) => socket,
            None => UdpSocket::bind(self.addr).map_err(|e| Error::Bind(self.addr, e))?,
        };
        TftpServer::new(socket, self.handler, self.limits)
    }
}
