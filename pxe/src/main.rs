//! `billet`: the provisioner and the operator's command line.
#![allow(
    unreachable_pub,
    reason = "a program has no public; `pub` says what a module offers the others"
)]

mod api;
mod boot_program;
mod bucket;
mod bucket_lock;
#[cfg(test)]
mod capture;
mod cli;
mod config;
mod datagram;
mod deployment;
mod dhcp;
mod dhcp_config;
mod event;
mod exchange;
mod frame;
mod http;
mod identity;
mod interface;
mod lease;
mod leases;
mod library;
mod live;
mod mac;
mod machine;
mod node;
mod node_agent;
mod offer;
mod packet;
mod partition;
mod place;
mod provisioner;
mod ra;
mod refusal;
mod registry;
mod script;
mod serve;
mod shape;
mod shape_view;
mod store;
mod subnet;
mod subnet_manager;
mod tftp;
mod token;
mod view;
mod wait;
mod xen_line;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            cli::complain(&error);
            // 1: refused, asking again alike will not help; 2: broken.
            ExitCode::from(if error.is::<cli::Refused>() { 1 } else { 2 })
        }
    }
}
