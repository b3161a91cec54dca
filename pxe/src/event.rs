//! What happened, numbered in the order in which it became durable.

use jiff::Timestamp;
use uuid::Uuid;

use crate::node::NodeId;

/// A line of the log, before it has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What kind, `noun.verb`.
    pub kind: &'static str,
    /// In words.
    pub text: String,
}

impl Note {
    /// A line of this kind.
    pub fn new(kind: &'static str, text: impl Into<String>) -> Note {
        Note { kind, text: text.into() }
    }
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Grows with every event.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// What kind, `noun.verb`.
    pub kind: String,
    /// The node it concerns.
    pub node: Option<NodeId>,
    /// The deployment it concerns.
    pub deployment: Option<Uuid>,
    /// In words.
    pub text: String,
}

/// The present moment, as exact as the database keeps it.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
