//! Interrupts, kept on the service domain's CPUs.
//!
//! All CPU numbers here are the service domain's own virtual CPUs, not Xen's CPUs: that is what
//! `/proc/irq` counts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::CpuSet;

/// Interrupts of the service domain as probed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Irqs {
    /// Where interrupts that come up later will go, `/proc/irq/default_smp_affinity`.
    pub default: CpuSet,
    /// Each of them.
    pub irqs: Vec<Irq>,
}

/// One interrupt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Irq {
    /// Its number.
    pub number: u32,
    /// Who asked for it.
    pub name: String,
    /// Where it may go.
    pub cpus: CpuSet,
    /// Whether it can go elsewhere; those of one virtual CPU (timers, wake-ups) cannot.
    pub movable: bool,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IrqStep {
    /// Where interrupts that come up later go.
    Default {
        /// Virtual CPUs.
        cpus: CpuSet,
    },
    /// Where one goes.
    Move {
        /// Its number.
        irq: u32,
        /// Virtual CPUs.
        cpus: CpuSet,
    },
}

impl fmt::Display for IrqStep {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IrqStep::Default { cpus } => {
                write!(out, "send new interrupts to virtual CPUs {cpus} of the service domain")
            }
            IrqStep::Move { irq, cpus } => {
                write!(out, "send interrupt {irq} to virtual CPUs {cpus} of the service domain")
            }
        }
    }
}
