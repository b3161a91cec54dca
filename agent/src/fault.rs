//! A failed deployment: in which step, why, and whether the next try may go better.

use protocol::{Failure, Step};

/// Ends a deployment. The reason is an error with its chain, as the console shows it.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) step: Step,
    pub(crate) reason: anyhow::Error,
    pub(crate) retry: bool,
}

impl Fault {
    /// The same try will fail the same way: the disk, the image, the hints.
    pub(crate) fn stays(step: Step, reason: impl Into<anyhow::Error>) -> Self {
        Fault { step, reason: reason.into(), retry: false }
    }

    /// Another try may help: the network, the server.
    pub(crate) fn passes(step: Step, reason: impl Into<anyhow::Error>) -> Self {
        Fault { step, reason: reason.into(), retry: true }
    }

    /// As the report says it.
    pub(crate) fn failure(&self) -> Failure {
        Failure { step: self.step, reason: format!("{:#}", self.reason), retry: self.retry }
    }
}
