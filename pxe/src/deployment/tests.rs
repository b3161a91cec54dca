//! The life of a deployment, told as stories.

use protocol::{Disk, Failure};

use super::*;
use crate::{
    mac::Mac,
    refusal::Refusal,
    wait::{Awaited, Then},
};

const LIMITS: Limits = Limits {
    boot: Duration::from_secs(600),
    inventory: Duration::from_secs(300),
    silence: Duration::from_secs(120),
    start: Duration::from_secs(900),
    check_start: true,
    failures: 3,
    boots: 4,
};

/// A deployment and a clock.
struct Story {
    deployment: Deployment,
    now: Timestamp,
    limits: Limits,
    kinds: Vec<&'static str>,
}

impl Story {
    fn begin() -> Story {
        Story::with(LIMITS)
    }

    fn with(limits: Limits) -> Story {
        let now = Timestamp::UNIX_EPOCH;
        let request = Request {
            image: "bare".into(),
            manifest: Digest::of(b"bare"),
            disk: DiskHints::default(),
            grow: true,
            unsigned: false,
            restart: Restart::Reset,
        };
        let node = NodeId(Mac([2, 0, 0, 0, 0, 1]));
        let id = Uuid::from_u128(1);
        let deployment = Deployment::new(id, node, State::Ready, request, now, &limits);
        Story { deployment, now, limits, kinds: Vec::new() }
    }

    fn after(mut self, seconds: u64) -> Story {
        self.now = after(self.now, Duration::from_secs(seconds));
        self
    }

    fn hears(mut self, input: Input<'_>) -> Story {
        let (deployment, notes) = self.deployment.advance(input, self.now, &self.limits).unwrap();
        self.deployment = deployment;
        self.kinds.extend(notes.iter().map(|note| note.kind));
        self
    }

    fn refuses(&self, input: Input<'_>) -> Refusal {
        self.deployment.clone().advance(input, self.now, &self.limits).unwrap_err()
    }

    fn boots(self) -> Story {
        self.hears(Input::BootAsked(Digest::of(b"token")))
            .hears(Input::Hello(Digest::of(b"bearer")))
    }

    fn reports(self, outcome: &Outcome) -> Story {
        self.hears(Input::Reported(outcome))
    }

    fn step(self, step: Step, done: u64) -> Story {
        self.hears(Input::Progress(&progress(step, done)))
    }

    fn waits_for(&self) -> (Awaited, i64, Then) {
        let wait = self.deployment.wait.unwrap();
        (wait.what, wait.until.as_second(), wait.then)
    }

    fn ending(&self) -> &Ending {
        &self.deployment.ended.as_ref().unwrap().ending
    }
}

fn progress(step: Step, done: u64) -> Progress {
    let deployment = Uuid::from_u128(1).to_string();
    Progress { deployment, step, done, total: 100, rate: 1, uptime_ms: 1, note: None }
}

fn written() -> Outcome {
    let disk = Disk {
        name: "vda".into(),
        size: 1 << 30,
        sector_size: 512,
        bus: "virtio".into(),
        model: None,
        serial: None,
        wwn: None,
        rotational: false,
        removable: false,
        read_only: false,
    };
    let (kept, copied, fetched, received, zeroed) = (1, 0, 2, 3, 4);
    Outcome::Written(Box::new(Written {
        disk,
        kept,
        copied,
        fetched,
        received,
        zeroed,
        took_ms: vec![],
    }))
}

fn failed(retry: bool) -> Outcome {
    Outcome::Failed(Failure { step: Step::Write, reason: "the store is gone".into(), retry })
}

#[test]
fn a_blank_machine_becomes_what_was_asked() {
    let story = Story::begin();
    assert_eq!(story.waits_for(), (Awaited::BootRequest, 600, Then::Fail));
    assert!(story.deployment.boots_from_us());
    let story = story.after(10).hears(Input::BootAsked(Digest::of(b"token")));
    assert_eq!(story.waits_for(), (Awaited::Hello, 310, Then::Fail));
    let story = story.after(10).hears(Input::Hello(Digest::of(b"bearer")));
    assert_eq!(story.waits_for(), (Awaited::Progress, 140, Then::AwaitBoot));
    let story = story.after(1).step(Step::Plan, 100).after(1).step(Step::Write, 50);
    let story = story.after(1).step(Step::Write, 100).step(Step::Verify, 100).reports(&written());
    assert_eq!(story.waits_for(), (Awaited::Restart, 923, Then::Fail));
    assert!(!story.deployment.boots_from_us());
    let story = story.after(20).hears(Input::Restarted);
    assert_eq!(story.waits_for(), (Awaited::Answer, 923, Then::Fail));
    let story = story.after(20).hears(Input::Answered);
    assert_eq!(story.ending(), &Ending::Done);
    assert_eq!((story.deployment.wait, story.deployment.boot_token), (None, None));
    let steps: Vec<_> = story.deployment.steps.iter().map(|run| run.step.name()).collect();
    let all = ["boot", "inventory", "disk", "plan", "write", "verify", "restart", "start"];
    assert_eq!(steps, all);
    assert!(story.deployment.steps.iter().all(|run| run.ended.is_some()));
    let write = &story.deployment.steps[4];
    assert_eq!((write.begun.as_second(), write.done), (22, 100));
    assert_eq!(write.ended.unwrap().as_second(), 23);
    assert_eq!(story.kinds.last(), Some(&"deployment.done"));
}

#[test]
fn a_disk_that_is_written_is_enough_when_no_start_is_checked() {
    let limits = Limits { check_start: false, ..LIMITS };
    let story = Story::with(limits).boots().reports(&written());
    assert_eq!(story.ending(), &Ending::Done);
}

#[test]
fn a_node_that_never_boots_fails_with_what_was_awaited() {
    let story = Story::begin().after(599).hears(Input::Overdue);
    assert!(story.deployment.ended.is_none());
    let story = story.after(1).hears(Input::Overdue);
    let Ending::Failed(reason) = story.ending() else { panic!("{:?}", story.ending()) };
    assert!(reason.contains("for the node to boot from the network in step boot"), "{reason}");
}

#[test]
fn a_power_cut_is_a_new_boot_and_a_new_token() {
    let story = Story::begin().boots().step(Step::Write, 50);
    let (old, bearer) = (story.deployment.boot_token, story.deployment.bearer);
    assert!(story.deployment.spent && old.is_some());
    let story = story.after(30).hears(Input::BootAsked(Digest::of(b"fresh")));
    assert_ne!(story.deployment.boot_token, old);
    assert!(!story.deployment.spent);
    let story = story.hears(Input::Hello(Digest::of(b"another")));
    assert_ne!(story.deployment.bearer, bearer);
    let story = story.step(Step::Write, 60);
    let writes = story.deployment.steps.iter().filter(|run| run.step == Step::Write);
    assert_eq!(writes.count(), 1, "a step is listed once, however often it is entered");
}

#[test]
fn a_silent_agent_is_given_a_new_boot_and_then_up() {
    let story = Story::begin().boots().step(Step::Write, 50).after(120).hears(Input::Overdue);
    assert_eq!(story.waits_for(), (Awaited::BootRequest, 720, Then::Fail));
    // It was only the network: the agent goes on, with the same identity.
    let again = Story { deployment: story.deployment.clone(), kinds: vec![], ..story };
    let again = again.after(10).step(Step::Write, 60);
    assert_eq!(again.waits_for(), (Awaited::Progress, 250, Then::AwaitBoot));
    let silent = again.after(120).hears(Input::Overdue).after(600).hears(Input::Overdue);
    assert!(matches!(silent.ending(), Ending::Failed(_)));
}

#[test]
fn a_failure_that_may_pass_is_tried_again_but_not_for_ever() {
    let story = Story::begin().boots().reports(&failed(true));
    assert_eq!(story.waits_for().0, Awaited::BootRequest);
    assert!(story.deployment.boots_from_us());
    let story = story.boots().reports(&failed(true)).boots().reports(&failed(true));
    let Ending::Failed(reason) = story.ending() else { panic!("{:?}", story.ending()) };
    assert_eq!(reason, "step write: the store is gone (tried 3 times)");
}

#[test]
fn a_failure_that_stays_ends_it() {
    let story = Story::begin().boots().reports(&failed(false));
    assert_eq!(story.ending(), &Ending::Failed("step write: the store is gone".into()));
    let again = story.reports(&failed(false));
    assert!(matches!(again.ending(), Ending::Failed(_)), "a repeated report is no error");
}

#[test]
fn a_node_that_boots_in_circles_fails() {
    let mut story = Story::begin();
    for _ in 0..=LIMITS.boots {
        story = story.hears(Input::BootAsked(Digest::of(b"token")));
    }
    assert_eq!(
        story.ending(),
        &Ending::Failed("the node booted 4 times and was not written".into())
    );
}

#[test]
fn a_report_may_be_repeated() {
    let story = Story::begin().boots().reports(&written()).after(5);
    let until = story.waits_for();
    let story = story.reports(&written());
    assert_eq!(story.waits_for(), until);
    let story = story.hears(Input::Answered).reports(&written());
    assert_eq!(story.ending(), &Ending::Done);
}

#[test]
fn what_is_over_stays_over() {
    let story = Story::begin().boots().hears(Input::Cancel);
    assert!(!story.deployment.touched());
    let write = progress(Step::Write, 1);
    for input in [Input::Progress(&write), Input::Cancel, Input::Reported(&written())] {
        let refusal = story.refuses(input);
        assert!(matches!(&refusal, Refusal::Conflict(text) if text.contains("was cancelled")));
    }
    assert!(Story::begin().boots().step(Step::Write, 1).deployment.touched());
}

#[test]
fn an_agent_cannot_tell_what_the_server_observes() {
    let story = Story::begin().boots();
    for step in [Step::Boot, Step::Start] {
        assert!(matches!(story.refuses(Input::Progress(&progress(step, 0))), Refusal::Invalid(_)));
    }
}

#[test]
fn a_script_fetched_after_the_write_is_the_restart() {
    let story = Story::begin().boots().reports(&written());
    let story = story.hears(Input::BootAsked(Digest::of(b"token")));
    assert_eq!(story.deployment.step, Step::Start);
    assert!(!story.deployment.boots_from_us());
}
