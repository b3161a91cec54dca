//! `billet`: the provisioner and the operator's command line.
#![allow(
    unreachable_pub,
    reason = "a program has no public; `pub` says what a module offers the others"
)]

mod api;
mod boot_program;
#[cfg(test)]
mod capture;
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
mod offer;
mod packet;
mod provisioner;
mod ra;
mod refusal;
mod registry;
mod script;
mod serve;
mod store;
mod subnet;
mod tftp;
mod token;
mod view;
mod wait;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::Parser;

/// Turns bare machines into what people need for a while.
#[derive(Debug, Parser)]
#[command(name = "billet", version, arg_required_else_help = true)]
enum Command {
    /// Answer DHCP, TFTP and HTTP, keep the nodes' states, serve the API.
    Serve {
        /// The TOML file; without it every key has its default.
        #[arg(long, env = "BILLET_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the API's description (OpenAPI 3.1).
    Openapi,
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve { config } => serve::run(config::Config::load(config.as_deref())?),
        Command::Openapi => Ok(writeln!(std::io::stdout(), "{}", http::openapi_json()?)?),
    }
}

#[expect(clippy::print_stderr, reason = "the one place that prints errors")]
fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("billet: {error:#}");
            ExitCode::from(2)
        }
    }
}
