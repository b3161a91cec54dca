//! The network that a node should have.

use serde::{Deserialize, Serialize};

/// `[network]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {}

impl Network {
    /// Names of the bridges that it makes, for the NICs of guests.
    pub fn bridges(&self) -> Vec<&str> {
        Vec::new()
    }
}
