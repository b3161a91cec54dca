//! Why a desired state cannot be, and what would fit.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Size;

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no hypervisor.
    #[error("guests are asked for, and this node does not run Xen: boot the dom0 image")]
    NoXen,
    /// More CPUs than guests have.
    #[error("guest {guest}: {asked} virtual CPUs asked, guests have {most} CPUs")]
    Vcpus {
        /// Who.
        guest: String,
        /// How many it asks for.
        asked: u32,
        /// How many would fit.
        most: u32,
    },
    /// More memory than there is.
    #[error("{asked} asked for guests, {most} is what the machine has for them")]
    Memory {
        /// All guests together.
        asked: Size,
        /// What would fit.
        most: Size,
    },
    /// Anything else, said whole.
    #[error("{0}")]
    Other(String),
}

/// All reasons; at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals(pub Vec<Refusal>);

impl std::error::Error for Refusals {}

impl fmt::Display for Refusals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, refusal) in self.0.iter().enumerate() {
            let mark = if at == 0 { "" } else { "; " };
            write!(out, "{mark}{refusal}")?;
        }
        Ok(())
    }
}
