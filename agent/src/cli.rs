//! `billet-agent` by hand: the same doors as in the RAM system, one verb at a time.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::{
    console,
    host::{self, network_cli, vf_cli},
    inventory, local,
    sysfs::Sysfs,
};

/// What runs on a node: as /init of the RAM system it writes an image to the disk.
#[derive(Debug, Parser)]
#[command(name = "billet-agent", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print what this machine is, as JSON
    Inventory {
        /// Read sysfs and procfs below this folder
        #[arg(long, value_name = "DIR", default_value = "/")]
        sysroot: PathBuf,
    },
    /// Write an image to a disk
    Write(Box<local::Write>),
    /// Print everything that is known of this dom0, as JSON
    Probe {
        #[command(flatten)]
        place: host::cli::Place,
        #[command(flatten)]
        tree: host::cli::Tree,
    },
    /// Print the steps to the desired state, and touch nothing
    Plan {
        #[command(flatten)]
        place: host::cli::Place,
        #[command(flatten)]
        tree: host::cli::Tree,
        #[command(flatten)]
        wish: host::cli::Wish,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Make this dom0 what it should be
    Apply {
        #[command(flatten)]
        place: host::cli::Place,
        #[command(flatten)]
        wish: host::cli::Wish,
    },
    /// Keep this dom0 what it should be, as the provisioner says
    Serve {
        #[command(flatten)]
        place: host::cli::Place,
    },
    /// Print what the daemon reported last, as JSON
    Status {
        #[command(flatten)]
        place: host::cli::Place,
    },
    /// Shut all guests down, as their host does before it goes down itself
    StopGuests {
        #[command(flatten)]
        place: host::cli::Place,
    },
    /// The network of a dom0
    #[command(subcommand)]
    Network(network_cli::Verb),
    /// VFs of a link
    #[command(subcommand)]
    Vf(vf_cli::Verb),
    /// Print the version
    Version,
}

/// Does what the arguments say: 0 done, 1 refused, 2 broken.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match apply(cli.verb) {
        Ok(code) => code,
        Err(error) => {
            console::say(format_args!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

fn apply(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Inventory { sysroot } => {
            let inventory = inventory::probe(&Sysfs::at(sysroot), None);
            print(&serde_json::to_string_pretty(&inventory)?)?;
        }
        Verb::Write(asked) => {
            if let Err(fault) = local::write(&asked) {
                console::say(format_args!("{} failed: {:#}", fault.step, fault.reason));
                return Ok(ExitCode::from(if fault.retry { 2 } else { 1 }));
            }
        }
        Verb::Probe { place, tree } => return host::cli::probe(&place, &tree),
        Verb::Plan { place, tree, wish, json } => {
            return host::cli::plan(&place, &tree, &wish, json);
        }
        Verb::Apply { place, wish } => return host::cli::apply(&place, &wish),
        Verb::Serve { place } => return host::cli::serve(&place),
        Verb::Status { place } => return host::cli::status(&place),
        Verb::StopGuests { place } => return host::cli::stop_guests(&place),
        Verb::Network(verb) => return network_cli::run(verb),
        Verb::Vf(verb) => return vf_cli::run(verb),
        Verb::Version => print(env!("CARGO_PKG_VERSION"))?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("writing to standard output")
}
