//! The verbs of a dom0, by hand.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args;
use xen_config::{Desired, Plan, Refusals};

use super::{
    apply::{Agent, Underway},
    desired::Held,
    folder::Folder,
    identity::{self, Identity},
    probe::Probe,
    rest, serve,
};
use crate::{cli::print, console, sys::xl::Xl};

/// Where the agent's memory and its identity are.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The agent's memory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/billet")]
    state: PathBuf,
    /// Who this node is
    #[arg(long, value_name = "FILE", default_value = identity::FILE)]
    identity: PathBuf,
}

/// What the node should be.
#[derive(Debug, Args)]
pub(crate) struct Wish {
    /// The desired state, TOML or JSON; what the provisioner said last when absent
    #[arg(long, value_name = "FILE")]
    desired: Option<PathBuf>,
}

/// What is read.
#[derive(Debug, Args)]
pub(crate) struct Tree {
    /// Read a captured node: links.json, xl/, sys/ and proc/ in this folder
    #[arg(long, value_name = "DIR", default_value = "/")]
    sysroot: PathBuf,
}

/// Prints all facts, as JSON.
pub(crate) fn probe(place: &Place, tree: &Tree) -> Result<ExitCode> {
    let host = probing(place, tree)?.host(None)?;
    print(&serde_json::to_string_pretty(&host)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the steps, and touches nothing.
pub(crate) fn plan(place: &Place, tree: &Tree, wish: &Wish, json: bool) -> Result<ExitCode> {
    let desired = wish.read(place)?;
    let host = probing(place, tree)?.host(None)?;
    match xen_config::plan(&desired, &host) {
        Ok(plan) if json => print(&serde_json::to_string_pretty(&plan)?)?,
        Ok(plan) => show(&plan)?,
        Err(refusals) => return Ok(refuse(&refusals)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the node what it should be: 0 it is, 1 it cannot be or something did not hold.
pub(crate) fn apply(place: &Place, wish: &Wish) -> Result<ExitCode> {
    let desired = wish.read(place)?;
    let mut agent = Agent::at(&place.state, Identity::load(&place.identity)?)?;
    agent.resume()?;
    let mut say = |it: &Underway<'_>| console::say(&it.plan.steps[it.at]);
    let outcome = match agent.settle(&desired, &mut say) {
        Ok(outcome) => outcome,
        Err(error) => match error.downcast::<Refusals>() {
            Ok(refusals) => return Ok(refuse(&refusals)),
            Err(error) => return Err(error),
        },
    };
    for failed in &outcome.failed {
        console::say(format_args!("failed: {failed}"));
    }
    let left = outcome.plan.steps.iter();
    left.for_each(|step| console::say(format_args!("did not hold: {step}")));
    for line in outcome.plan.reboot.iter().chain(&outcome.plan.notes) {
        console::say(line);
    }
    print(&format!("{} steps done, {} left", outcome.done, outcome.plan.steps.len()))?;
    let good = outcome.failed.is_empty() && outcome.plan.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what the daemon told the provisioner last.
pub(crate) fn status(place: &Place) -> Result<ExitCode> {
    let path = place.state.join(serve::STATUS);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    print(text.trim())?;
    Ok(ExitCode::SUCCESS)
}

/// Keeps the node what it should be, for ever.
pub(crate) fn serve(place: &Place) -> Result<ExitCode> {
    serve::run(Agent::at(&place.state, Identity::load(&place.identity)?)?)
}

/// Shuts all guests down, billet's or not, and destroys those that do not in their time.
pub(crate) fn stop_guests(place: &Place) -> Result<ExitCode> {
    // Guests are to be shut down whatever became of the agent's memory.
    let held = Folder::at(&place.state).and_then(|folder| Held::read(&folder));
    let held = held.unwrap_or_else(|error| {
        console::say(format_args!("{error:#}"));
        Held::default()
    });
    rest::stop_guests(&Xl::at("/".as_ref()), held.desired.as_ref())?;
    Ok(ExitCode::SUCCESS)
}

impl Wish {
    fn read(&self, place: &Place) -> Result<Desired> {
        let Some(path) = &self.desired else {
            let held = Held::read(&Folder::at(&place.state)?)?;
            return Ok(held.desired.unwrap_or_default());
        };
        let reading = || format!("reading {}", path.display());
        let text = fs::read_to_string(path).with_context(reading)?;
        let json = path.extension().is_some_and(|end| end == "json");
        let read = if json { Desired::from_json(&text) } else { Desired::from_toml(&text) };
        read.with_context(reading)
    }
}

fn probing(place: &Place, tree: &Tree) -> Result<Probe> {
    let live = tree.sysroot == Path::new("/");
    let file = if live { place.identity.clone() } else { tree.sysroot.join("agent.toml") };
    let folder = live.then(|| Folder::at(&place.state)).transpose()?;
    Ok(Probe { root: tree.sysroot.clone(), node: Identity::load(&file)?.node, folder })
}

fn show(plan: &Plan) -> Result<()> {
    plan.sentences().iter().try_for_each(|step| print(step))?;
    for line in &plan.notes {
        print(&format!("note: {line}"))?;
    }
    for line in &plan.reboot {
        print(&format!("reboot needed: {line}"))?;
    }
    Ok(())
}

fn refuse(refusals: &Refusals) -> ExitCode {
    refusals.0.iter().for_each(console::say);
    ExitCode::FAILURE
}
