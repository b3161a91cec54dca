//! The provisioner, as the daemon talks to it: two threads, one that asks for another desired
//! state and one that tells how the node is. Neither keeps the daemon from its work.

use std::{
    sync::mpsc::{self, Receiver, SyncSender},
    thread,
    time::Duration,
};

use protocol::{Heard, HostReport, NodeConfig, config::HELD, path};

use super::identity::Identity;
use crate::{
    console,
    server::{Server, ServerError},
};

/// Between two attempts at a provisioner that is away.
const PAUSE: Duration = Duration::from_secs(5);
/// A provisioner that does not know this node will hardly know it soon.
const LONG_PAUSE: Duration = Duration::from_secs(60);

/// What the provisioner said.
#[derive(Debug)]
pub(crate) enum Word {
    /// Another desired state.
    Config(Box<NodeConfig>),
    /// It has a report.
    Heard(Heard),
}

/// Starts both threads; what the provisioner says comes out of the first end, reports go into
/// the second. `None` when there is no provisioner.
pub(crate) fn start(
    identity: &Identity,
    generation: u64,
    words: &SyncSender<Word>,
) -> Result<Option<SyncSender<Box<HostReport>>>, ServerError> {
    let Some(base) = &identity.server else { return Ok(None) };
    let patient = Server::patient(base, HELD + Duration::from_secs(15))?;
    let quick = Server::at(base)?;
    let (token, said) = (identity.token.clone(), words.clone());
    thread::spawn(move || ask(&patient, &token, generation, &said));
    let (token, said) = (identity.token.clone(), words.clone());
    let (reports, queue) = mpsc::sync_channel(1);
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

/// Tells every report, the newest only when there is a queue.
fn tell(server: &Server, token: &str, queue: &Receiver<Box<HostReport>>, words: &SyncSender<Word>) {
    let mut away = Away::default();
    while let Ok(mut report) = queue.recv() {
        loop {
            let told = server.post(path::STATUS, Some(token), &report);
            match told.and_then(|answer| answer.json()) {
                Ok(heard) => {
                    away.ended("reports");
                    if words.send(Word::Heard(heard)).is_err() {
                        return;
                    }
                    break;
                }
                Err(error) => away.pause(&error),
            }
            while let Ok(newer) = queue.try_recv() {
                report = newer;
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
