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

/// The steps that keep every interrupt that can move on the virtual CPUs `wanted`.
pub fn plan(irqs: &Irqs, wanted: &CpuSet) -> Vec<IrqStep> {
    let mut steps = Vec::new();
    let cpus = wanted.clone();
    if !irqs.default.is_empty() && irqs.default != *wanted {
        steps.push(IrqStep::Default { cpus });
    }
    let astray = |irq: &&Irq| irq.movable && !irq.cpus.is_subset(wanted);
    let home = |irq: &Irq| IrqStep::Move { irq: irq.number, cpus: wanted.clone() };
    steps.extend(irqs.irqs.iter().filter(astray).map(home));
    steps
}

impl Irqs {
    /// What these facts are after `step`.
    pub fn after(&mut self, step: &IrqStep) {
        match step {
            IrqStep::Default { cpus } => self.default = cpus.clone(),
            IrqStep::Move { irq, cpus } => {
                for found in self.irqs.iter_mut().filter(|found| found.number == *irq) {
                    found.cpus = cpus.clone();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    #[test]
    fn what_strays_comes_home() {
        let irq = |number, at: &str, movable| Irq {
            number,
            name: "eth0".into(),
            cpus: cpus(at),
            movable,
        };
        let mut irqs = Irqs {
            default: cpus("0-7"),
            irqs: vec![
                irq(24, "0-7", true),
                irq(25, "1", true),
                irq(26, "3", false),
                irq(27, "2", true),
            ],
        };
        let steps = plan(&irqs, &cpus("0-1"));
        assert_eq!(
            steps,
            [
                IrqStep::Default { cpus: cpus("0-1") },
                IrqStep::Move { irq: 24, cpus: cpus("0-1") },
                IrqStep::Move { irq: 27, cpus: cpus("0-1") },
            ]
        );
        steps.iter().for_each(|step| irqs.after(step));
        assert_eq!(plan(&irqs, &cpus("0-1")), []);
    }
}
