//! How far a deployment is.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The steps of a deployment, in order. Those up to `Boot` and from `Start` on are the
/// server's to observe, the others are reported by the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Waiting for the node to ask for its boot script.
    Boot,
    /// The RAM system was handed out; waiting for its hello.
    Inventory,
    /// Choosing the disk.
    Disk,
    /// Comparing the disk with the image.
    Plan,
    /// Writing what differs.
    Write,
    /// Reading back what was written.
    Verify,
    /// Writing the node's identity.
    Seed,
    /// Fitting the partition table to the disk: from here on the disk boots.
    Table,
    /// The node restarts into its disk.
    Restart,
    /// Waiting for the new system to answer.
    Start,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Step; 10] = [
        Step::Boot,
        Step::Inventory,
        Step::Disk,
        Step::Plan,
        Step::Write,
        Step::Verify,
        Step::Seed,
        Step::Table,
        Step::Restart,
        Step::Start,
    ];

    /// Its name in API, CLI and log.
    pub const fn name(self) -> &'static str {
        match self {
            Step::Boot => "boot",
            Step::Inventory => "inventory",
            Step::Disk => "disk",
            Step::Plan => "plan",
            Step::Write => "write",
            Step::Verify => "verify",
            Step::Table => "table",
            Step::Seed => "seed",
            Step::Restart => "restart",
            Step::Start => "start",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no step.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a step of a deployment")]
pub struct NotAStep(String);

impl FromStr for Step {
    type Err = NotAStep;

    fn from_str(text: &str) -> Result<Self, NotAStep> {
        let step = Step::ALL.into_iter().find(|step| step.name() == text);
        step.ok_or_else(|| NotAStep(text.to_owned()))
    }
}

/// Sent when a step begins, about once a second while it lasts, and when it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The deployment it speaks of.
    pub deployment: String,
    /// The step.
    pub step: Step,
    /// Bytes done of this step.
    pub done: u64,
    /// Bytes in all of this step; 0 where it has none.
    pub total: u64,
    /// Bytes per second, lately.
    pub rate: u64,
    /// Milliseconds since the RAM system's kernel started.
    pub uptime_ms: u64,
    /// What a person should know: the disk chosen, what is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
