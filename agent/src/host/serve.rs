//! The daemon: keeps the node what it should be, with the provisioner or without it.

use std::{
    process::ExitCode,
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use protocol::{HostEventKind, HostReport, HostState};
use xen_config::{Desired, Host, Plan, Refusals, domain::Wanted, list::Domain};

use super::{
    apply::{Agent, Outcome},
    desired::Held,
    guest, probe,
    provisioner::{self, Word},
    report::report,
};
use crate::{console, sys::xl::Xl};

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
    let (words, said) = mpsc::sync_channel(4);
    let reports = provisioner::start(&agent.identity, held.generation, &words)?;
    let mut daemon =
        Daemon { agent, held, applied: 0, reports, seen: Vec::new(), next: Instant::now() };
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
    reports: Option<SyncSender<Box<HostReport>>>,
    /// The domains at the last look.
    seen: Vec<Domain>,
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
        };
        if let Err(error) = taken {
            console::say(format_args!("{error:#}"));
        }
    }

    /// One look, and what follows from it.
    fn turn(&mut self) {
        // A look at everything runs some ten programs; one list tells of most that happens.
        let changed = match probe::look(&Xl::at("/".as_ref())) {
            Ok(domains) => {
                self.miss(&domains);
                changes(&self.seen, &domains)
            }
            Err(error) => {
                console::say(format_args!("{error:#}"));
                false
            }
        };
        if changed || Instant::now() >= self.next {
            self.next = Instant::now() + WHOLE;
            if let Err(error) = self.work() {
                console::say(format_args!("{error:#}"));
                self.next = Instant::now() + AGAIN;
            }
        }
    }

    /// Says which guests are gone that should be there. One that ends by itself leaves its domain
    /// behind, so somebody destroyed these.
    fn miss(&mut self, domains: &[Domain]) {
        let Some(desired) = &self.held.desired else { return };
        let is_there = |one: &Domain| domains.iter().any(|domain| domain.id == one.id);
        for gone in self.seen.iter().filter(|one| !is_there(one)) {
            let is_wanted = desired.guests.iter().any(|guest| {
                guest.name.as_str() == gone.name
                    && matches!(guest.state, Wanted::Running | Wanted::Paused)
            });
            if is_wanted && domains.iter().all(|domain| domain.name != gone.name) {
                let text = format!("{} is gone: somebody destroyed it", gone.name);
                let lines = guest::last_lines(&gone.name);
                if let Err(error) = self.agent.events.note(HostEventKind::GuestDied, &text, lines) {
                    console::say(format_args!("{error:#}"));
                }
            }
        }
        // Told once, also when the next whole look fails; `next` brings that look about.
        let before = self.seen.len();
        self.seen.retain(|one| is_there(one));
        if self.seen.len() < before {
            self.next = Instant::now();
        }
    }

    /// Makes the node what it should be, and tells.
    fn work(&mut self) -> Result<()> {
        let Some(desired) = self.held.desired.clone() else {
            let host = self.agent.probe()?;
            self.tell(None, host, &Plan::default(), HostState::Settled)?;
            return Ok(());
        };
        let mut progress = |plan: &Plan, at: usize| console::say(&plan.steps[at]);
        match self.agent.settle(&desired, &mut progress) {
            Ok(outcome) => self.settled(&desired, outcome),
            Err(error) => match error.downcast::<Refusals>() {
                Ok(reasons) => {
                    let host = self.agent.probe()?;
                    let state = HostState::Refused { reasons };
                    self.tell(Some(&desired), host, &Plan::default(), state)
                }
                Err(error) => Err(error),
            },
        }
    }

    fn settled(&mut self, desired: &Desired, outcome: Outcome) -> Result<()> {
        let Outcome { host, plan, failed, .. } = outcome;
        let state = match failed.first() {
            Some(failed) => {
                self.next = Instant::now() + AGAIN;
                let again = Some(AGAIN.as_secs() as u32);
                let reason = failed.to_string();
                HostState::Failed {
                    reason: protocol::host_report::shorten(&reason).to_owned(),
                    again,
                }
            }
            None if plan.is_empty() => {
                self.applied = self.held.generation;
                HostState::Settled
            }
            None => {
                self.next = Instant::now() + AGAIN;
                let left = plan.sentences().join("; ");
                let reason = format!("did not hold: {left}");
                let again = Some(AGAIN.as_secs() as u32);
                HostState::Failed {
                    reason: protocol::host_report::shorten(&reason).to_owned(),
                    again,
                }
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
        let domains = host.xen.as_ref().map(|xen| xen.domains.clone()).unwrap_or_default();
        self.miss(&domains);
        self.seen = domains;
        let mut report = report(desired, &host, plan, state);
        report.boot = self.agent.boot.clone();
        report.generation = self.held.generation;
        report.applied = self.applied;
        report.events = self.agent.events.pending();
        self.agent.folder.write(STATUS, &report)?;
        if let Some(reports) = &self.reports {
            // A full queue means that the provisioner is away: the next report is newer anyway.
            let _ = reports.try_send(Box::new(report));
        }
        Ok(())
    }
}

/// Whether something happened to a domain that a plan could answer.
fn changes(seen: &[Domain], now: &[Domain]) -> bool {
    let plain = |domain: &Domain| {
        let mut domain = domain.clone();
        domain.time = 0;
        domain.memory = xen_config::Size::ZERO;
        domain.state.running = false;
        domain.state.blocked = false;
        // What only the whole look adds.
        domain.vcpus.clear();
        domain.made = None;
        domain
    };
    seen.len() != now.len() || seen.iter().zip(now).any(|(one, other)| plain(one) != plain(other))
}
