//! The provisioner, as the daemon talks to it: two threads, one that asks for another desired
//! state and one that tells how the node is. Neither keeps the daemon from its work.

use std::{
    sync::{Arc, mpsc::SyncSender},
    thread,
    time::Duration,
};

use protocol::{Heard, HostReport, NodeConfig, config::HELD, path};

use super::{identity::Identity, latest::Latest};
use crate::{
    console,
    server::{Server, ServerError},
};

/// Between two attempts at a provisioner that is away.
const PAUSE: Duration = Duration::from_secs(5);
/// A provisioner that does not know this node will hardly know it soon.
const LONG_PAUSE: Duration = Duration::from_secs(60);

/// What the daemon hears.
#[derive(Debug)]
pub(crate) enum Word {
    /// Another desired state.
    Config(Box<NodeConfig>),
    /// It has a report.
    Heard(Heard),
    /// Not its word: an address is not this node's any more.
    Lease(String),
}

/// Starts both threads: what the provisioner says goes into `words`, reports go into what is
/// returned. `None` when there is no provisioner.
pub(crate) fn start(
    identity: &Identity,
    generation: u64,
    words: &SyncSender<Word>,
) -> Result<Option<Arc<Latest<HostReport>>>, ServerError> {
    let Some(base) = &identity.server else { return Ok(None) };
    let patient = Server::patient(base, HELD + Duration::from_secs(15))?;
    let quick = Server::at(base)?;
    let (token, said) = (identity.token.clone(), words.clone());
    thread::spawn(move || ask(&patient, &token, generation, &said));
    let (token, said) = (identity.token.clone(), words.clone());
    let reports = Arc::new(Latest::default());
    let queue = reports.clone();
    thread::spawn(move || tell(&quick, &token, &queue, &said));
    Ok(Some(reports))
}

/// Asks for another state than the one that is held, for ever.
fn ask(server: &Server, token: &str, mut generation: u64, words: &SyncSender<Word>) {
    let mut away = Away::default();
    loop {
        let path = format!("{}?generation={generation}", path::CONFIG);
        match server.get_with(&path, token).and_then(|answer| answer.json_or_nothing()) {
            Ok(Some(config)) => {
                away.ended("its desired state");
                let config: NodeConfig = config;
                generation = config.generation;
                if words.send(Word::Config(Box::new(config))).is_err() {
                    return;
                }
            }
            Ok(None) => away.ended("its desired state"),
            Err(error) => away.pause(&error),
        }
    }
}

/// Tells the newest report whenever there is another, for ever.
fn tell(server: &Server, token: &str, reports: &Latest<HostReport>, words: &SyncSender<Word>) {
    let mut away = Away::default();
    let mut report = reports.take();
    loop {
        match server.post(path::STATUS, Some(token), &report).and_then(|answer| answer.json()) {
            Ok(heard) => {
                away.ended("reports");
                if words.send(Word::Heard(heard)).is_err() {
                    return;
                }
                report = reports.take();
            }
            Err(error) => {
                away.pause(&error);
                report = reports.newer().unwrap_or(report);
            }
        }
    }
}

/// A provisioner that is away, said once.
#[derive(Default)]
struct Away {
    said: bool,
}

impl Away {
    fn pause(&mut self, error: &ServerError) {
        if !std::mem::replace(&mut self.said, true) {
            console::say(format_args!("the provisioner is away, work goes on: {error}"));
        }
        thread::sleep(if error.may_pass() { PAUSE } else { LONG_PAUSE });
    }

    fn ended(&mut self, what: &str) {
        if std::mem::replace(&mut self.said, false) {
            console::say(format_args!("the provisioner is there again, for {what}"));
        }
    }
}
