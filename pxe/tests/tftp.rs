//! The TFTP side, served on loopback from a port of its own.
//!
//! `programs` fetches with the real clients, `firmware` does what captured firmware did,
//! `losses` drops packets, `refusals` asks for what is not given, and `malformed` sends what is
//! no TFTP at all.
#![allow(unreachable_pub, reason = "the modules below have no public but each other")]
#![allow(clippy::unwrap_used, reason = "in what only tests call a panic is the verdict")]

// A program has no library that a test could link with.
#[path = "../src/tftp.rs"]
mod tftp;

#[path = "tftp/capture.rs"]
mod capture;
#[path = "tftp/client.rs"]
mod client;
#[path = "tftp/firmware.rs"]
mod firmware;
#[path = "tftp/losses.rs"]
mod losses;
#[path = "tftp/malformed.rs"]
mod malformed;
#[path = "tftp/programs.rs"]
mod programs;
#[path = "tftp/refusals.rs"]
mod refusals;
#[path = "tftp/serving.rs"]
mod serving;
