//! One run of writing an image to a node: the state machine, pure.
//!
//! An [`Input`] and a deployment give the next deployment and what is worth noting. Nothing
//! here waits: a [`Wait`] says what is awaited and until when, and somebody's clock gives
//! [`Input::Overdue`].

mod advance;
#[cfg(test)]
mod tests;

use std::time::Duration;

use images::Digest;
use jiff::Timestamp;
use protocol::{DiskHints, Outcome, Progress, Restart, Step, Written};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    node::{NodeId, State},
    wait::Wait,
};

pub use advance::{after, before};

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
}
