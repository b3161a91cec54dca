//! How a deployment ended on the node.

use serde::{Deserialize, Serialize};

use crate::{Disk, Step};

/// The agent's last message before it lets go of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The deployment it speaks of.
    pub deployment: String,
    /// How it went.
    pub outcome: Outcome,
}

/// Done or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The image is on the disk, checked, and will boot.
    Written(Box<Written>),
    /// It is not, and the disk does not boot.
    Failed(Failure),
}

/// What was done to the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The disk that was written.
    pub disk: Disk,
    /// Bytes found in place and left alone.
    pub kept: u64,
    /// Bytes that stood elsewhere on the disk and were copied.
    #[serde(default)]
    pub copied: u64,
    /// Bytes of chunks fetched and written (plain).
    pub fetched: u64,
    /// Bytes that travelled for them (compressed).
    pub received: u64,
    /// Bytes set to zero.
    pub zeroed: u64,
    /// Milliseconds each step took.
    pub took_ms: Vec<(Step, u64)>,
}

/// Why a deployment failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In which step.
    pub step: Step,
    /// The reason, with what would have been accepted.
    pub reason: String,
    /// Whether trying the same again may help (the network, the store) or not (the disk, the image).
    pub retry: bool,
}
