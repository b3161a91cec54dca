//! What makes a node what it should be: facts are probed, steps planned and applied.

pub(crate) mod confirm;
pub(crate) mod guard;
pub(crate) mod network;
pub(crate) mod network_cli;
pub(crate) mod reach;
