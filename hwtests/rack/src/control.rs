//! What `rack`'s verbs say to the process that holds the rack, and what it answers: one line
//! of JSON each, on a Unix socket in the rack's folder.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The socket's name in the rack's folder.
pub(crate) const SOCKET: &str = "control.sock";

/// A request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    /// List the nodes.
    Ls,
    /// Switch one.
    Power { node: String, to: Power },
    /// Lines of a node's console from this number on.
    Console { node: String, from: usize },
    /// Take the rack down.
    Down,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Done.
    Done,
    /// The nodes, and the process that holds the rack.
    Nodes { holder: u32, nodes: Vec<NodeLine> },
    /// Lines, and whether the node is on.
    Console { lines: Vec<ConsoleLine> },
    /// It was not done.
    Failed { reason: String },
}

/// One node in a list.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NodeLine {
    pub name: String,
    pub on: bool,
    pub firmware: rack::Firmware,
    pub nic: rack::NicModel,
    pub mac: String,
    pub memory: u32,
    pub disks: Vec<String>,
}

/// One line of a console, and when it came in seconds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConsoleLine {
    pub at: f64,
    pub text: String,
}

/// What a power switch can do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Power {
    /// Switch it on.
    On,
    /// Press the power button: its system is to switch it off.
    Off,
    /// Cut its power.
    Cut,
    /// Press its reset button.
    Reset,
}
