//! `rack`: a virtual rack on the command line, and the demo that stands on it.

mod bar;
mod control;
mod demo;
mod holder;
mod out;
mod remote;
mod timeline;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use control::Power;

/// A rack of virtual machines with real firmware, in a network of its own.
#[derive(Debug, Parser)]
#[command(name = "rack", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Put a rack up, switched off, and leave it standing in the background.
    Up {
        #[command(flatten)]
        state: State,
        /// TOML file with a `[[node]]` table a machine; without it two machines, BIOS and UEFI.
        #[arg(long, value_name = "FILE")]
        spec: Option<PathBuf>,
    },
    /// List the nodes.
    Ls {
        #[command(flatten)]
        state: State,
        /// Print JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Switch a node on or off, cut its power or press its reset button.
    Power {
        #[command(flatten)]
        state: State,
        /// The node's name.
        node: String,
        /// What to do.
        to: Power,
    },
    /// Print a node's serial console.
    Console {
        #[command(flatten)]
        state: State,
        /// The node's name.
        node: String,
        /// Go on with what comes, until interrupted.
        #[arg(long, short)]
        follow: bool,
    },
    /// Run a program on the rack's network: `rack exec -- billet serve`.
    Exec {
        #[command(flatten)]
        state: State,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Take the rack down, disks and all.
    Down(State),
    /// Two blank machines become Debian, before your eyes.
    Demo {
        /// Leave everything (disks, logs, consoles) in this folder.
        #[arg(long, value_name = "FOLDER")]
        keep: Option<PathBuf>,
    },
    /// billet's figures beside its peers': a table, and `target/bench.json`. Exits with 1 when a
    /// ratio is over its bar.
    Bench {
        /// Measure this figure only.
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
        /// Measure each figure in so many runs.
        #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
        /// Measure the engine without these peers.
        #[arg(long, value_name = "PEERS", value_delimiter = ',')]
        without: Vec<String>,
    },
    /// What `up` leaves standing.
    #[command(hide = true)]
    Hold {
        #[command(flatten)]
        state: State,
        #[arg(long)]
        spec: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct State {
    /// Folder of the rack's disks, logs and control socket.
    #[arg(long, env = "RACK_STATE", default_value = "rack-state", value_name = "FOLDER")]
    state: PathBuf,
}

fn main() -> ExitCode {
    rack::bench::start_if_inside();
    match run(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one place that prints errors")]
fn complain(error: &anyhow::Error) {
    eprintln!("rack: {error:#}");
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Up { state, spec } => remote::up(&state.state, spec.as_deref())?,
        Verb::Ls { state, json } => remote::ls(&state.state, json)?,
        Verb::Power { state, node, to } => remote::power(&state.state, node, to)?,
        Verb::Console { state, node, follow } => remote::console(&state.state, node, follow)?,
        Verb::Exec { state, command } => return remote::exec(&state.state, &command),
        Verb::Down(state) => remote::down(&state.state)?,
        Verb::Demo { keep } => return demo::run(keep),
        Verb::Bench { only, runs, without }
            if rack::bench::run(only.as_deref(), runs, &without)? => {}
        Verb::Bench { .. } => return Ok(ExitCode::FAILURE),
        Verb::Hold { state, spec } => holder::hold(&state.state, spec.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}
