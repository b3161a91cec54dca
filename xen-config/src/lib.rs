//! The desired state of a dom0 node, what a node says of itself, and the steps between the two.
//!
//! Nothing here touches a machine: facts come in as plain data ([`Host`]), the desired state as
//! text ([`Desired`]), and [`plan`](plan::plan) makes steps of them. Done means that the plan
//! of fresh facts is empty.

pub mod boot;
pub mod cidr;
pub mod cpus;
mod derive;
pub mod desired;
pub mod domain;
pub mod fabric;
pub mod fit;
pub mod guest_plan;
pub mod guest_step;
pub mod guid;
pub mod host;
pub mod irq;
pub mod link;
mod link_check;
mod link_model;
mod link_move;
pub mod link_plan;
mod link_route;
pub mod link_step;
mod link_target;
mod link_wish;
pub mod list;
pub mod made;
pub mod name;
pub mod network;
pub mod nic;
pub mod pci;
pub mod pkey;
pub mod plan;
pub mod pool;
pub mod pool_plan;
pub mod refusal;
pub mod service;
pub mod size;
pub mod slice;
mod slice_fit;
pub mod slice_place;
pub mod slice_plan;
pub mod slice_refusal;
pub mod slice_step;
pub mod sriov;
pub mod text;
pub mod topology;
pub mod vlan;
pub mod xl;

pub use boot::CommandLine;
pub use cpus::CpuSet;
pub use desired::Desired;
pub use domain::Guest;
pub use host::{Host, Xen};
pub use name::Name;
pub use plan::{Plan, Step, plan};
pub use refusal::{Refusal, Refusals};
pub use size::Size;
pub use topology::Topology;
