//! The real `billet serve` on loopback, driven through its doors by a client, a firmware and an
//! agent that speaks the protocol's own words.
#![allow(unreachable_pub, reason = "a test has no public; `pub` says what a module offers")]
#![allow(clippy::unwrap_used, reason = "what the stories stand on may panic as they may")]

mod api;
mod bytes;
mod config;
mod host;
mod life;
mod node_agent;
mod server;
mod slices;
mod trust;
