//! Doors to the running system, one for each kind of effect.

pub(crate) mod irq;
pub(crate) mod link;
mod link_facts;
mod link_request;
mod netlink;
pub(crate) mod sriov;
pub(crate) mod vf;
pub(crate) mod xl;
