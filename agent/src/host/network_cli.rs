//! `billet-agent network`: the network alone, by hand and for scripts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Subcommand;
use xen_config::{Desired, link_plan::plan, network::Network};

use super::{
    confirm::State,
    guard,
    network::{self, Options},
    reach::Reach,
};
use crate::console;

/// Verbs of the network.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Print links, addresses and routes, as JSON
    Probe {
        /// Read links.json in this folder instead of asking the kernel
        #[arg(long, value_name = "DIR", default_value = "/")]
        sysroot: PathBuf,
    },
    /// Print the steps to a desired state, and change nothing
    Plan {
        /// The desired state, of which [network] is read
        desired: PathBuf,
        /// Read links.json in this folder instead of asking the kernel
        #[arg(long, value_name = "DIR", default_value = "/")]
        sysroot: PathBuf,
    },
    /// Make the network as it is desired
    Apply {
        /// The desired state, of which [network] is read
        desired: PathBuf,
        /// Who must answer after a change: http://10.0.0.1:8080 or tcp://10.0.0.1:22
        #[arg(long)]
        reach: Option<Reach>,
        /// Try again what was taken back
        #[arg(long)]
        again: bool,
        /// Where a change that waits for its confirmation is written down
        #[arg(long, value_name = "DIR", default_value = "/var/lib/billet")]
        state: PathBuf,
        #[arg(long, hide = true)]
        die_after: Option<usize>,
    },
    /// Take back a change that nobody confirmed by its deadline
    #[command(hide = true)]
    Guard {
        #[arg(long)]
        state: PathBuf,
    },
    /// Go on with a change that waits for its confirmation, or take it back when it is too late
    Resume {
        /// Who must answer: http://10.0.0.1:8080 or tcp://10.0.0.1:22
        #[arg(long)]
        reach: Option<Reach>,
        /// Where a change that waits for its confirmation is written down
        #[arg(long, value_name = "DIR", default_value = "/var/lib/billet")]
        state: PathBuf,
    },
}

/// Does what was said: 0 done, 1 refused.
pub(crate) fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Probe { sysroot } => {
            crate::cli::print(&serde_json::to_string_pretty(&network::probe(&sysroot)?)?)?;
        }
        Verb::Plan { desired, sysroot } => {
            let planned = plan(&read(&desired)?, &network::probe(&sysroot)?);
            let plan = match planned {
                Ok(plan) => plan,
                Err(refusals) => {
                    refusals.iter().for_each(console::say);
                    return Ok(ExitCode::FAILURE);
                }
            };
            for step in &plan.steps {
                crate::cli::print(&step.to_string())?;
            }
        }
        Verb::Apply { desired, reach, again, state, die_after } => {
            let options = Options { reach, again, die_after };
            let done = network::apply(&read(&desired)?, &State::at(&state)?, &options);
            let applied = match done {
                Ok(applied) => applied,
                Err(error) => {
                    console::say(format_args!("{error:#}"));
                    return Ok(ExitCode::FAILURE);
                }
            };
            let answered = applied.confirmed.map(|reach| format!(", {reach} answered"));
            crate::cli::print(&format!("{} steps{}", applied.steps, answered.unwrap_or_default()))?;
        }
        Verb::Guard { state } => guard::watch(&state)?,
        Verb::Resume { reach, state } => {
            let options = Options { reach, ..Options::default() };
            network::resume(&State::at(&state)?, &options)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<Network> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let desired = Desired::from_toml(&text);
    Ok(desired.with_context(|| format!("reading {}", path.display()))?.network)
}
