//! `billet`: the provisioner and the operator's command line.

mod api;
mod lease;
mod mac;
mod registry;

fn main() {}
