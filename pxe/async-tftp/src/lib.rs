//! A TFTP server (RFC 1350, 2347, 2348, 2349 and, for its windows, 7440) that gives files to
//! read and takes none.
//!
//! This is [async-tftp] 0.4.2 with its transfers written anew; `README.md` tells what differs
//! and why. What is served comes from a [`server::Handler`].
//!
//! [async-tftp]: https://github.com/oblique/async-tftp-rs

pub mod packet;
pub mod server;

mod error;
mod parse;
#[cfg(test)]
mod tests;

pub use crate::error::*;
