//! `billet`: the provisioner and the operator's command line.

mod lease;
mod mac;
mod registry;

fn main() {}
