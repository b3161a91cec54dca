//! A host that goes down asks its guests to shut down first, billet's or not.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use xen_config::{Desired, list::Domain};

use super::probe;
use crate::{console, sys::xl::Xl};

/// How long a guest may take of which nothing is desired.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(1);

/// Asks all guests to shut down, at the same time, and destroys those that have not by their
/// deadlines.
///
/// # Errors
/// When xl does not answer: then it is not known what became of the guests.
pub(crate) fn stop_guests(xl: &Xl, desired: Option<&Desired>) -> Result<()> {
    let mut deadlines = BTreeMap::new();
    for guest in running(xl)? {
        let patience = patience(&guest, desired);
        console::say(format_args!("{} is to shut down within {patience:?}", guest.name));
        ask(xl, &guest);
        deadlines.insert(guest.id, Instant::now() + patience);
    }
    loop {
        let running = running(xl)?;
        if running.is_empty() {
            return Ok(());
        }
        // What was started meanwhile has no time of its own.
        let late = |guest: &&Domain| deadlines.get(&guest.id).is_none_or(|at| *at < Instant::now());
        for guest in running.iter().filter(late) {
            console::say(format_args!(
                "{} did not shut down in its time: it is destroyed",
                guest.name
            ));
            xl.tell(&["xl", "destroy", &guest.id.to_string()])?;
        }
        thread::sleep(LOOK);
    }
}

fn running(xl: &Xl) -> Result<Vec<Domain>> {
    let mut domains = probe::look(xl)?;
    domains.retain(|domain| domain.id != 0 && domain.state.is_up());
    Ok(domains)
}

fn patience(guest: &Domain, desired: Option<&Desired>) -> Duration {
    let named = desired.and_then(|it| it.guests.iter().find(|it| it.name.as_str() == guest.name));
    named.map_or(PATIENCE, |guest| Duration::from_secs(guest.shutdown_seconds.into()))
}

/// One that stands still hears nothing. One that has no ear at all (`-F` tries its power button)
/// is destroyed at its deadline.
fn ask(xl: &Xl, guest: &Domain) {
    let id = guest.id.to_string();
    let unpause = guest.state.paused.then(|| xl.tell(&["xl", "unpause", &id]));
    for told in unpause.into_iter().chain([xl.tell(&["xl", "shutdown", "-F", &id])]) {
        if let Err(error) = told {
            console::say(format_args!("{}: {error}", guest.name));
        }
    }
}
