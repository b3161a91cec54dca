//! Why something that was asked for is not done, in words for whoever asked.

/// A refusal; its text says what would have been accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// It makes no sense, now or later.
    #[error("{0}")]
    Invalid(String),
    /// It cannot be done in the present state.
    #[error("{0}")]
    Conflict(String),
    /// It was asked for on top of something that is not so any more.
    #[error("{0}")]
    Stale(String),
    /// Nobody proved who asks.
    #[error("{0}")]
    Unproven(String),
    /// Who asks may not.
    #[error("{0}")]
    Forbidden(String),
}
