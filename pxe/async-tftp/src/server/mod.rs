//! Server side: a request comes to the listening socket, gets a `session` with a socket
//! of its own, and a `window` that decides what is sent when.

mod builder;
mod handler;
mod listener;
mod options;
mod session;
mod socket;
mod window;

pub use self::{
    builder::TftpServerBuilder,
    handler::{Handler, Outcome},
    listener::TftpServer,
};
