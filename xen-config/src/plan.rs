//! From facts to steps.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Desired, Host, Refusals, irq::IrqStep, link::LinkStep, pool::PoolStep};

/// What is to be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Each step is possible once those before it are done.
    pub steps: Vec<Step>,
    /// Why the node must be booted again before it is as desired; empty when it need not.
    pub reboot: Vec<String>,
    /// What is not as desired and cannot be made so by a step, with what would help.
    pub notes: Vec<String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A link, address or route.
    Link(LinkStep),
    /// CPU pools and pins.
    Pool(PoolStep),
    /// An interrupt.
    Irq(IrqStep),
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// A sentence.
impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Link(step) => step.fmt(out),
            Step::Pool(step) => step.fmt(out),
            Step::Irq(step) => step.fmt(out),
        }
    }
}

/// The steps from `host` to `desired`, or every reason why there are none.
///
/// # Errors
/// When `desired` cannot be on this machine; nothing has been done then.
pub fn plan(_desired: &Desired, _host: &Host) -> Result<Plan, Refusals> {
    Ok(Plan::default())
}
