//! A guest, as the agent of its node sees it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xen_config::Size;

/// A guest of a node: one that is desired, one that was, or somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestReport {
    /// Its name.
    pub name: String,
    /// Whether the desired state names it; others are left alone.
    pub ours: bool,
    /// What it is doing.
    pub state: GuestState,
    /// Since when, by the node's clock.
    pub since: Option<Timestamp>,
    /// Why, where that needs a reason: how it died, why it could not be started, what is awaited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The last lines of its console, once it has died.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
    /// Number of its domain while it has one.
    pub domain: Option<u32>,
    /// Its virtual CPUs that are switched on.
    pub vcpus: u32,
    /// The memory that it has.
    pub memory: Size,
    /// What it has used since it was started.
    #[serde(default)]
    pub usage: GuestUsage,
}

/// What a guest has used since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestUsage {
    /// CPU time in milliseconds, over all virtual CPUs.
    pub cpu_ms: u64,
    /// Bytes that its NICs received.
    pub received: u64,
    /// Bytes that its NICs sent.
    pub sent: u64,
    /// Bytes read of its disks.
    pub read: u64,
    /// Bytes written to its disks.
    pub written: u64,
}

/// What a guest is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestState {
    /// It is being created.
    Starting,
    /// It runs.
    Running,
    /// It stands still.
    Paused,
    /// Its memory is in a file.
    Saved,
    /// It was told to shut down and has not yet.
    Stopping,
    /// It is off, as it should be.
    Stopped,
    /// It ended by itself and is not started again.
    Died,
    /// It could not be made as desired.
    Failed,
}

impl GuestState {
    /// Its word in API, CLI and log.
    pub const fn name(self) -> &'static str {
        match self {
            GuestState::Starting => "starting",
            GuestState::Running => "running",
            GuestState::Paused => "paused",
            GuestState::Saved => "saved",
            GuestState::Stopping => "stopping",
            GuestState::Stopped => "stopped",
            GuestState::Died => "died",
            GuestState::Failed => "failed",
        }
    }
}

impl fmt::Display for GuestState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}
