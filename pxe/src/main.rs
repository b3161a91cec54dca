//! `billet`: the provisioner and the operator's command line.
#![allow(
    unreachable_pub,
    reason = "a program has no public; `pub` says what a module offers the others"
)]

mod api;
mod lease;
mod mac;
mod registry;
mod store;

fn main() {}
