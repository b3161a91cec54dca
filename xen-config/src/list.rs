//! What xl's lists say of domains.

use serde::{Deserialize, Serialize};

use crate::{CpuSet, Size};

/// A domain as probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its number; another one after every start.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// What it is doing.
    pub state: State,
    /// Why it ended, once it has.
    pub ended: Option<Ending>,
    /// The memory that it has now.
    pub memory: Size,
    /// CPU time that it has used, in milliseconds.
    pub time: u64,
    /// The pool that it is in.
    pub pool: String,
    /// Its virtual CPUs.
    pub vcpus: Vec<Vcpu>,
}

/// The six letters of `xl list`, each there or not, in any combination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// `r`
    pub running: bool,
    /// `b`
    pub blocked: bool,
    /// `p`
    pub paused: bool,
    /// `s`
    pub shutdown: bool,
    /// `c`
    pub crashed: bool,
    /// `d`
    pub dying: bool,
}

/// Why a domain ended (`SHUTDOWN_*` of Xen's public/sched.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It switched itself off.
    PowerOff,
    /// It wants to start again.
    Reboot,
    /// It was saved or migrated.
    Suspend,
    /// It crashed.
    Crash,
    /// Something else, by number.
    Other(u32),
}

/// A virtual CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vcpu {
    /// Its number within its domain.
    pub vcpu: u32,
    /// Whether it is switched on.
    pub online: bool,
    /// Where it must run; anywhere in its pool for `None`.
    pub hard: Option<CpuSet>,
}
