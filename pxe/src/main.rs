//! `billet`: the provisioner and the operator's command line.
#![allow(
    unreachable_pub,
    reason = "a program has no public; `pub` says what a module offers the others"
)]

mod api;
mod boot_program;
#[cfg(test)]
mod capture;
mod datagram;
mod dhcp;
mod dhcp_config;
mod exchange;
mod frame;
mod interface;
mod lease;
mod leases;
mod mac;
mod machine;
mod offer;
mod packet;
mod ra;
mod registry;
mod store;
mod subnet;
mod tftp;

fn main() {}
