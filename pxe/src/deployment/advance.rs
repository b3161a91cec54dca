//! What moves a deployment: an [`Input`] and the moment, nothing else. Pure.

use std::time::Duration;

use images::Digest;
use jiff::{SignedDuration, Timestamp};
use protocol::{Failure, Outcome, Progress, Step, Written};

use super::{Deployment, Ended, Ending, Input, Limits, StepRun};
use crate::{
    event::Note,
    refusal::Refusal,
    wait::{Awaited, Then, Wait},
};

impl Deployment {
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
            "disk {} is written: {} bytes kept, {} copied, {} fetched, {} zeroed",
            written.disk.name, written.kept, written.copied, written.fetched, written.zeroed
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
    pub(super) fn enter(&mut self, step: Step, now: Timestamp) -> bool {
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

    pub(super) fn await_boot(&mut self, now: Timestamp, limits: &Limits) {
        self.wait(Awaited::BootRequest, Then::Fail, now, limits.boot);
    }

    fn wait(&mut self, what: Awaited, then: Then, now: Timestamp, span: Duration) {
        // Each word of the agent begins the wait for the next one.
        self.wait = Some(Wait { what, since: now, until: after(now, span), then });
    }
}

/// `span` before `now`, or the beginning of time.
pub fn before(now: Timestamp, span: Duration) -> Timestamp {
    SignedDuration::try_from(span)
        .ok()
        .and_then(|span| now.checked_sub(span).ok())
        .unwrap_or(Timestamp::MIN)
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
