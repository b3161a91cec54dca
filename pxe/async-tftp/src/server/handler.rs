//! Where the files come from.

use std::{future::Future, net::SocketAddr, path::Path};

use tokio::io::AsyncRead;

use crate::packet;

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client acknowledged the last block.
    Complete,
    /// The client sent an ERROR. OVMF does so on purpose, once it knows the size.
    Aborted,
    /// The client's port is closed.
    Gone,
    /// The client did not answer in all the tries it had.
    Silent,
    /// The client asked again and did not go on with this transfer.
    Superseded,
    /// The request was refused, or reading failed; the client was told.
    Refused,
}

/// Where the files come from. Requests call it side by side.
pub trait Handler: Send + Sync + 'static {
    /// The bytes of one file.
    type Reader: AsyncRead + Unpin + Send + 'static;

    /// Opens `path` for `client`; gives its size too where it is known.
    fn read_req_open(
        &self,
        client: &SocketAddr,
        path: &Path,
    ) -> impl Future<Output = Result<(Self::Reader, Option<u64>), packet::Error>> + Send;

    /// Told when a transfer has ended, unless a third request from the same port cut it short.
    fn ended(&self, _client: &SocketAddr, _path: &Path, _outcome: Outcome) {}
}
