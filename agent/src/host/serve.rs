//! The daemon: keeps the node what it should be, with the provisioner or without it.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use protocol::{HostEventKind, HostReport, HostState, host_report::shorten};
use xen_config::{
    Desired, Host, Plan, Refusals, Step,
    guest_step::{Change, GuestStep},
};

use super::{
    apply::{Agent, Outcome, Underway},
    desired::Held,
    events::Events,
    folder::Folder,
    latest::Latest,
    lease,
    provisioner::{self, Word},
    report::report,
};
use crate::console;

/// The last report, for `billet-agent status`.
pub(crate) const STATUS: &str = "status.json";
/// Between two looks at the domains.
const LOOK: Duration = Duration::from_secs(2);
/// Between two looks at everything, and between two reports of a node where nothing happens.
const WHOLE: Duration = Duration::from_secs(30);
/// After a step that failed.
const AGAIN: Duration = Duration::from_secs(15);

/// Serves for ever.
pub(crate) fn run(mut agent: Agent) -> Result<ExitCode> {
    agent.resume().context("ending what an earlier agent began")?;
    let held = Held::read(&agent.folder)?;
    agent.booted()?;
    let (words, said) = mpsc::sync_channel(4);
    let reports = provisioner::start(&agent.identity, held.generation, &words)?;
    lease::keep(&agent.folder, &agent.boot, &words);
    let mut daemon = Daemon { agent, held, applied: 0, reports, next: Instant::now() };
    loop {
        daemon.turn();
        daemon.listen(&said, &words);
    }
}

struct Daemon {
    agent: Agent,
    held: Held,
    /// The last generation of which no step was left.
    applied: u64,
    reports: Option<Arc<Latest<HostReport>>>,
    /// When everything is looked at again.
    next: Instant,
}

impl Daemon {
    /// Waits for a word of the provisioner, as long as the next look may wait.
    fn listen(&mut self, said: &Receiver<Word>, _keep: &SyncSender<Word>) {
        let word = match said.recv_timeout(LOOK) {
            Ok(word) => word,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        };
        let taken = match word {
            Word::Config(config) => {
                self.held = Held { generation: config.generation, desired: config.desired };
                self.next = Instant::now();
                self.held.write(&self.agent.folder)
            }
            Word::Heard(heard) => self.agent.events.heard(heard.events),
            Word::Lease(text) => {
                self.agent.events.note(HostEventKind::AddressLost, &text, Vec::new())
            }
        };
        if let Err(error) = taken {
            console::say(format_args!("{error:#}"));
        }
    }

    /// One look, and what follows from it.
    fn turn(&mut self) {
        // A look at everything runs some ten programs; one list tells of most that happens.
        let changed = self.agent.look(self.held.desired.as_ref()).unwrap_or_else(|error| {
            console::say(format_args!("{error:#}"));
            false
        });
        if changed || Instant::now() >= self.next {
            self.next = Instant::now() + WHOLE;
            if let Err(error) = self.work() {
                console::say(format_args!("{error:#}"));
                self.next = Instant::now() + AGAIN;
            }
        }
    }

    /// Makes the node what it should be, and tells.
    fn work(&mut self) -> Result<()> {
        let Some(desired) = self.held.desired.clone() else {
            let host = self.agent.probe()?;
            self.tell(None, host, &Plan::default(), HostState::Settled)?;
            return Ok(());
        };
        let (frame, folder) = (self.frame(), self.agent.folder.clone());
        let reports = self.reports.clone();
        let mut tell = |it: &Underway<'_>| {
            console::say(&it.plan.steps[it.at]);
            let mut report = report(Some(&desired), it.host, it.plan, underway(it));
            frame.fill(&mut report, it.events);
            if let Err(error) = send(&folder, reports.as_deref(), report) {
                console::say(format_args!("{error:#}"));
            }
        };
        match self.agent.settle(&desired, &mut tell) {
            Ok(outcome) => self.settled(&desired, outcome),
            Err(error) => match error.downcast::<Refusals>() {
                Ok(reasons) => {
                    let host = self.agent.probe()?;
                    // Early after a start what is missing may have another name for a moment.
                    self.next = Instant::now() + AGAIN;
                    let state = HostState::Refused { reasons };
                    self.tell(Some(&desired), host, &Plan::default(), state)
                }
                Err(error) => Err(error),
            },
        }
    }

    fn settled(&mut self, desired: &Desired, outcome: Outcome) -> Result<()> {
        let Outcome { host, plan, failed, .. } = outcome;
        let trouble = match failed.first() {
            Some(failed) => Some(failed.to_string()),
            None if plan.is_empty() => None,
            None => Some(format!("did not hold: {}", plan.sentences().join("; "))),
        };
        let state = match trouble {
            Some(reason) => {
                self.next = Instant::now() + AGAIN;
                let again = Some(AGAIN.as_secs() as u32);
                HostState::Failed { reason: shorten(&reason).to_owned(), again }
            }
            None => {
                self.applied = self.held.generation;
                HostState::Settled
            }
        };
        // A guest that waits for its next start is looked at sooner.
        if host.ended.iter().any(|ended| ended.wait) {
            self.next = self.next.min(Instant::now() + LOOK);
        }
        self.tell(Some(desired), host, &plan, state)
    }

    fn tell(
        &mut self,
        desired: Option<&Desired>,
        host: Host,
        plan: &Plan,
        state: HostState,
    ) -> Result<()> {
        let mut report = report(desired, &host, plan, state);
        self.frame().fill(&mut report, &self.agent.events);
        send(&self.agent.folder, self.reports.as_deref(), report)
    }

    fn frame(&self) -> Frame {
        let (generation, applied) = (self.held.generation, self.applied);
        Frame { boot: self.agent.boot.clone(), generation, applied }
    }
}

/// What a report says beside the facts.
struct Frame {
    boot: String,
    generation: u64,
    applied: u64,
}

impl Frame {
    fn fill(&self, report: &mut HostReport, events: &Events) {
        report.boot = self.boot.clone();
        report.generation = self.generation;
        report.applied = self.applied;
        report.events = events.pending();
    }
}

/// To `billet-agent status`, and to the provisioner.
fn send(folder: &Folder, to: Option<&Latest<HostReport>>, report: HostReport) -> Result<()> {
    folder.write(STATUS, &report)?;
    if let Some(reports) = to {
        reports.put(report);
    }
    Ok(())
}

/// What is done now, or waited for.
fn underway(it: &Underway<'_>) -> HostState {
    let step = &it.plan.steps[it.at];
    match step {
        Step::Guest(GuestStep { guest, change: Change::Shutdown { seconds } }) => {
            HostState::Waiting {
                what: format!("{guest} to shut down"),
                seconds: *seconds,
                then: "it is destroyed".to_owned(),
            }
        }
        _ => HostState::Applying {
            step: shorten(&step.to_string()).to_owned(),
            done: it.at as u32,
            of: it.plan.steps.len() as u32,
        },
    }
}
