//! What makes a node what it should be: facts are probed, steps planned and applied.

mod apply;
pub(crate) mod cli;
pub(crate) mod confirm;
mod desired;
mod endings;
mod events;
mod folder;
mod fragment;
pub(crate) mod guard;
mod guest;
mod identity;
mod journal;
mod latest;
mod lease;
pub(crate) mod network;
pub(crate) mod network_cli;
mod pool;
mod probe;
mod provisioner;
pub(crate) mod reach;
mod report;
mod rest;
mod serve;
mod slice;
mod sriov;
pub(crate) mod vf_cli;
mod watch;
