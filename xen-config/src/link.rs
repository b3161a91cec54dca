//! The links of a node, as probed.

use serde::{Deserialize, Serialize};

/// All links.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Links {}

impl Links {
    /// Names of the bridges that exist.
    pub fn bridges(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// One change of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkStep {}

impl std::fmt::Display for LinkStep {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}
