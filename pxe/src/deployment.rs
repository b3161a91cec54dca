//! One run of writing an image to a node: the state machine, pure.
//!
//! An [`Input`] and a deployment give the next deployment and what is worth noting. Nothing
//! here waits: a [`Wait`] says what is awaited and until when, and somebody's clock gives
//! [`Input::Overdue`].

use std::time::Duration;

use images::Digest;
use jiff::{SignedDuration, Timestamp};
use protocol::{DiskHints, Failure, Outcome, Progress, Restart, Step, Written};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    event::Note,
    node::{NodeId, State},
    refusal::Refusal,
    wait::{Awaited, Then, Wait},
};

/// A deployment, as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its identifier; grows with time.
    #[serde(skip)]
    pub id: Uuid,
    /// Its node.
    #[serde(skip, default = "crate::node::nobody")]
    pub node: NodeId,
    /// Name of its image, as asked for.
    #[serde(skip)]
    pub image: String,
    /// The image.
    #[serde(skip, default = "nothing")]
    pub manifest: Digest,
    /// The step it is in, or ended in.
    #[serde(skip, default = "first_step")]
    pub step: Step,
    /// What it waits for; nothing once it has ended.
    #[serde(skip)]
    pub wait: Option<Wait>,
    /// How it ended.
    #[serde(skip)]
    pub ended: Option<Ended>,
    /// Hash of the token in the boot script that was handed out last.
    #[serde(skip)]
    pub boot_token: Option<Digest>,
    /// Hash of the bearer token of the agent that said hello last.
    #[serde(skip)]
    pub bearer: Option<Digest>,
    /// How often its row was written.
    #[serde(skip)]
    pub version: i64,
    /// Whether the boot token has bought an identity that was used: then it is worth nothing.
    pub spent: bool,
    /// What the node was before, to which a deployment cancelled early returns it.
    pub before: State,
    /// Which disk may be written.
    pub disk: DiskHints,
    /// Whether the last partition is grown to the disk's end.
    pub grow: bool,
    /// Whether an image without a signature may be written.
    pub unsigned: bool,
    /// How the node goes from the RAM system into the image.
    pub restart: Restart,
    /// Every step it has entered, in the order of their first beginning.
    pub steps: Vec<StepRun>,
    /// How often a boot script was handed out.
    pub boots: u32,
    /// How often the agent failed and may try again.
    pub failures: u32,
    /// What was done to the disk, once it was.
    pub written: Option<Written>,
    /// When it was asked for.
    pub created: Timestamp,
}

fn nothing() -> Digest {
    Digest::from_bytes([0; 32])
}

fn first_step() -> Step {
    Step::Boot
}

/// A step that was entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRun {
    /// Which.
    pub step: Step,
    /// When it began, the first time.
    pub begun: Timestamp,
    /// When it ended, the last time.
    pub ended: Option<Timestamp>,
    /// Bytes done of it.
    pub done: u64,
    /// Bytes in all of it; 0 where it has none.
    pub total: u64,
}

/// When and how a deployment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// When.
    pub at: Timestamp,
    /// How.
    pub ending: Ending,
}

/// How a deployment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The node runs the image.
    Done,
    /// It does not, for this reason.
    Failed(String),
    /// Somebody did not want it any more.
    Cancelled,
}

/// How long a deployment waits, and how often it tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For the node to boot from the network.
    pub boot: Duration,
    /// From the boot script to the RAM system's hello.
    pub inventory: Duration,
    /// For the agent's next word.
    pub silence: Duration,
    /// From the written disk to an answer of the new system.
    pub start: Duration,
    /// Whether an answer of the new system is awaited at all.
    pub check_start: bool,
    /// Failures of the agent after which it is not tried again.
    pub failures: u32,
    /// Boot scripts after which no more are handed out.
    pub boots: u32,
}

/// What a deployment can be told.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// The node's firmware asked for its script and is given this one-time token.
    BootAsked(Digest),
    /// The agent spent the token; it is given this bearer token.
    Hello(Digest),
    /// The agent says how far it is.
    Progress(&'a Progress),
    /// The agent says how it ended.
    Reported(&'a Outcome),
    /// The node was seen to come up again after its disk was written.
    Restarted,
    /// The new system answers.
    Answered,
    /// The deadline of the wait has passed.
    Overdue,
    /// Somebody does not want it any more.
    Cancel,
}

/// What a request for a deployment has come to, once it was understood.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name of the image, as asked for.
    pub image: String,
    /// The image.
    pub manifest: Digest,
    /// Which disk may be written.
    pub disk: DiskHints,
    /// Whether the last partition is grown to the disk's end.
    pub grow: bool,
    /// Whether an image without a signature may be written.
    pub unsigned: bool,
    /// How the node goes from the RAM system into the image.
    pub restart: Restart,
}

impl Deployment {
    /// A deployment that waits for its node to boot.
    pub fn new(
        id: Uuid,
        node: NodeId,
        before: State,
        request: Request,
        now: Timestamp,
        limits: &Limits,
    ) -> Deployment {
        let mut deployment = Deployment {
            id,
            node,
            image: request.image,
            manifest: request.manifest,
            step: Step::Boot,
            wait: None,
            ended: None,
            boot_token: None,
            bearer: None,
            version: 0,
            spent: false,
            before,
            disk: request.disk,
            grow: request.grow,
            unsigned: request.unsigned,
            restart: request.restart,
            steps: Vec::new(),
            boots: 0,
            failures: 0,
            written: None,
            created: now,
        };
        deployment.enter(Step::Boot, now);
        deployment.await_boot(now, limits);
        deployment
    }

    /// Whether its node has something to boot from us.
    pub fn boots_from_us(&self) -> bool {
        self.ended.is_none() && self.step < Step::Restart
    }

    /// Whether the disk may have been written to.
    pub fn touched(&self) -> bool {
        self.steps.iter().any(|run| (Step::Write..=Step::Start).contains(&run.step))
    }

    /// The next state, and what is worth noting.
    pub fn advance(
        mut self,
        input: Input<'_>,
        now: Timestamp,
        limits: &Limits,
    ) -> Result<(Deployment, Vec<Note>), Refusal> {
        if let Some(ended) = &self.ended {
            return match (input, &ended.ending) {
                // The agent repeats a report whose answer it did not get.
                (Input::Reported(Outcome::Written(_)), Ending::Done)
                | (Input::Reported(Outcome::Failed(_)), Ending::Failed(_)) => Ok((self, vec![])),
                _ => Err(self.over()),
            };
        }
        let notes = match input {
            Input::BootAsked(token) => self.boot_asked(token, now, limits)?,
            Input::Hello(bearer) => self.hello(bearer, now, limits),
            Input::Progress(progress) => self.progress(progress, now, limits)?,
            Input::Reported(Outcome::Written(written)) => self.written(written, now, limits),
            Input::Reported(Outcome::Failed(failure)) => self.failed(failure, now, limits),
            Input::Restarted => self.restarted(now),
            Input::Answered if self.step >= Step::Restart => self.done(now),
            Input::Answered => vec![],
            Input::Overdue => self.overdue(now, limits),
            Input::Cancel => {
                self.end(Ending::Cancelled, now);
                let text = format!("cancelled in step {}", self.step);
                vec![Note::new("deployment.cancelled", text)]
            }
        };
        Ok((self, notes))
    }

    fn over(&self) -> Refusal {
        let how = match self.ended.as_ref().map(|ended| &ended.ending) {
            None => "is open".to_owned(),
            Some(Ending::Done) => "is done".to_owned(),
            Some(Ending::Cancelled) => "was cancelled".to_owned(),
            Some(Ending::Failed(reason)) => format!("has failed: {reason}"),
        };
        Refusal::Conflict(format!("deployment {} {how}; only an open one goes on", self.id))
    }

    fn boot_asked(
        &mut self,
        token: Digest,
        now: Timestamp,
        limits: &Limits,
    ) -> Result<Vec<Note>, Refusal> {
        if self.step >= Step::Restart {
            return Ok(self.restarted(now));
        }
        if self.boots >= limits.boots {
            let boots = self.boots;
            let reason = format!("the node booted {boots} times and was not written");
            return Ok(self.fail(reason, now));
        }
        self.boots += 1;
        self.boot_token = Some(token);
        self.spent = false;
        self.enter(Step::Inventory, now);
        self.wait(Awaited::Hello, Then::Fail, now, limits.inventory);
        Ok(vec![Note::new("deployment.boot", format!("boot script handed out ({})", self.boots))])
    }

    fn hello(&mut self, bearer: Digest, now: Timestamp, limits: &Limits) -> Vec<Note> {
        self.bearer = Some(bearer);
        self.enter(Step::Disk, now);
        self.wait(Awaited::Progress, Then::AwaitBoot, now, limits.silence);
        vec![Note::new("deployment.hello", "the RAM system is up and has its job")]
    }

    fn progress(
        &mut self,
        progress: &Progress,
        now: Timestamp,
        limits: &Limits,
    ) -> Result<Vec<Note>, Refusal> {
        let step = progress.step;
        if !(Step::Inventory..=Step::Restart).contains(&step) {
            return Err(Refusal::Invalid(format!(
                "step {step} is the server's to observe; an agent reports {} to {}",
                Step::Inventory,
                Step::Restart
            )));
        }
        self.spent = true;
        if self.step >= Step::Restart {
            return Ok(vec![]);
        }
        let entered = self.enter(step, now);
        if let Some(run) = self.steps.iter_mut().find(|run| run.step == step) {
            (run.done, run.total) = (progress.done, progress.total);
        }
        if step == Step::Restart {
            // It said goodbye before its report, which may still come.
            self.wait(Awaited::Progress, Then::Fail, now, limits.silence);
        } else {
            self.wait(Awaited::Progress, Then::AwaitBoot, now, limits.silence);
        }
        if !entered {
            return Ok(vec![]);
        }
        let note = progress.note.as_deref().map(|note| format!(": {note}")).unwrap_or_default();
        Ok(vec![Note::new("deployment.step", format!("step {step}{note}"))])
    }

    fn written(&mut self, written: &Written, now: Timestamp, limits: &Limits) -> Vec<Note> {
        if self.written.is_some() && self.step >= Step::Restart {
            return vec![];
        }
        self.written = Some(written.clone());
        self.spent = true;
        self.enter(Step::Restart, now);
        let text = format!(
            "disk {} is written: {} bytes kept, {} fetched, {} zeroed",
            written.disk.name, written.kept, written.fetched, written.zeroed
        );
        let mut notes = vec![Note::new("deployment.written", text)];
        if limits.check_start {
            self.wait(Awaited::Restart, Then::Fail, now, limits.start);
        } else {
            notes.extend(self.done(now));
        }
        notes
    }

    fn failed(&mut self, failure: &Failure, now: Timestamp, limits: &Limits) -> Vec<Note> {
        let Failure { step, reason, retry } = failure;
        self.spent = true;
        self.failures += 1;
        if !retry {
            return self.fail(format!("step {step}: {reason}"), now);
        }
        if self.failures >= limits.failures {
            let failures = self.failures;
            return self.fail(format!("step {step}: {reason} (tried {failures} times)"), now);
        }
        self.enter(Step::Boot, now);
        self.await_boot(now, limits);
        let text = format!("step {step}: {reason}; it is tried again");
        vec![Note::new("deployment.retry", text)]
    }

    fn restarted(&mut self, now: Timestamp) -> Vec<Note> {
        if self.step != Step::Restart || self.written.is_none() {
            return vec![];
        }
        self.enter(Step::Start, now);
        // The deadline stays that of the restart: both together are what takes a machine to come up.
        if let Some(wait) = &mut self.wait {
            *wait = Wait { what: Awaited::Answer, since: now, ..*wait };
        }
        vec![Note::new("deployment.step", format!("step {}", Step::Start))]
    }

    fn overdue(&mut self, now: Timestamp, limits: &Limits) -> Vec<Note> {
        let Some(wait) = self.wait.filter(|wait| wait.until <= now) else {
            return vec![];
        };
        let waited = now.duration_since(wait.since);
        let text = format!("waited {} for {} in step {}", seconds(waited), wait.what, self.step);
        match wait.then {
            Then::Fail => self.fail(text, now),
            Then::AwaitBoot => {
                self.enter(Step::Boot, now);
                self.await_boot(now, limits);
                vec![Note::new("deployment.silent", format!("{text}; a new boot is awaited"))]
            }
        }
    }

    fn done(&mut self, now: Timestamp) -> Vec<Note> {
        if self.step == Step::Restart {
            self.enter(Step::Start, now);
        }
        self.end(Ending::Done, now);
        let took = seconds(now.duration_since(self.created));
        vec![Note::new("deployment.done", format!("{} runs after {took}", self.image))]
    }

    fn fail(&mut self, reason: String, now: Timestamp) -> Vec<Note> {
        let note = Note::new("deployment.failed", reason.clone());
        self.end(Ending::Failed(reason), now);
        vec![note]
    }

    fn end(&mut self, ending: Ending, now: Timestamp) {
        self.leave(now);
        self.wait = None;
        self.boot_token = None;
        self.ended = Some(Ended { at: now, ending });
    }

    /// Goes to `step`; whether it was in another one.
    fn enter(&mut self, step: Step, now: Timestamp) -> bool {
        let moves = self.step != step || self.steps.is_empty();
        if moves {
            self.leave(now);
            self.step = step;
            match self.steps.iter_mut().find(|run| run.step == step) {
                Some(run) => run.ended = None,
                None => {
                    self.steps.push(StepRun { step, begun: now, ended: None, done: 0, total: 0 })
                }
            }
        }
        moves
    }

    fn leave(&mut self, now: Timestamp) {
        for run in self.steps.iter_mut().filter(|run| run.ended.is_none()) {
            run.ended = Some(now);
        }
    }

    fn await_boot(&mut self, now: Timestamp, limits: &Limits) {
        self.wait(Awaited::BootRequest, Then::Fail, now, limits.boot);
    }

    fn wait(&mut self, what: Awaited, then: Then, now: Timestamp, span: Duration) {
        // Each word of the agent begins the wait for the next one.
        self.wait = Some(Wait { what, since: now, until: after(now, span), then });
    }
}

/// `span` after `now`, or the end of time.
pub fn after(now: Timestamp, span: Duration) -> Timestamp {
    SignedDuration::try_from(span)
        .ok()
        .and_then(|span| now.checked_add(span).ok())
        .unwrap_or(Timestamp::MAX)
}

fn seconds(span: SignedDuration) -> String {
    format!("{:#}", SignedDuration::from_secs(span.as_secs()))
}

#[cfg(test)]
mod tests;
