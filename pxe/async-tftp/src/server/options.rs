//! What is agreed with a client: the limits of the server and the answer to its options.

use std::time::Duration;

use crate::packet::{Opts, RwReq};

const DEFAULT_BLOCK_SIZE: usize = 512;

/// What the server allows. No default is unlimited: a window of 65535 blocks of 65464 bytes
/// would be four gigabytes for one small request.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) timeout: Duration,
    pub(crate) block_size: u16,
    pub(crate) window_size: u16,
    pub(crate) retries: u32,
    pub(crate) transfers: usize,
    pub(crate) per_client: usize,
    pub(crate) ignore_client_timeout: bool,
    pub(crate) ignore_client_block_size: bool,
    pub(crate) ignore_client_window_size: bool,
}

/// What holds for one transfer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Agreed {
    /// The OACK to be sent first; none when no option was asked or taken.
    pub(crate) oack: Option<Opts>,
    pub(crate) block_size: usize,
    pub(crate) window_size: usize,
    pub(crate) timeout: Duration,
}

impl Limits {
    /// Answers the options of `req` for a file of `size` bytes.
    pub(crate) fn agree(&self, req: &RwReq, size: Option<u64>) -> Agreed {
        let mut opts = Opts::default();
        if !self.ignore_client_block_size {
            opts.block_size = req.opts.block_size.map(|asked| asked.min(self.block_size));
        }
        if !self.ignore_client_timeout {
            opts.timeout = req.opts.timeout;
        }
        if req.opts.transfer_size == Some(0) {
            opts.transfer_size = size;
        }
        if !self.ignore_client_window_size {
            opts.window_size = req.opts.window_size.map(|asked| asked.min(self.window_size));
        }
        Agreed {
            block_size: opts.block_size.map_or(DEFAULT_BLOCK_SIZE, usize::from),
            window_size: opts.window_size.map_or(1, usize::from),
            timeout: opts
                .timeout
                .map_or(self.timeout, |seconds| Duration::from_secs(u64::from(seconds))),
            oack: (opts != Opts::default()).then_some(opts),
        }
    }
}
