//! The words a node and the provisioner exchange, and no I/O.
//!
//! A node comes up knowing only its kernel command line ([`BootLine`]). It says
//! what it is ([`Hello`] with an [`Inventory`]), is told what to do ([`Welcome`]
//! with a [`Job`]), tells how far it is ([`Progress`]) and how it ended
//! ([`Report`]). The system that was written has an agent too, with an identity of its own
//! ([`AgentIdentity`]): it is told what the node should be ([`NodeConfig`]) and tells what it is
//! ([`HostReport`]). All of it is JSON over HTTP; [`path`] names the doors.

pub mod boot_line;
pub mod config;
pub mod disk;
pub mod guest;
pub mod host_event;
pub mod host_report;
pub mod inventory;
pub mod job;
pub mod path;
pub mod progress;
pub mod report;

pub use boot_line::BootLine;
pub use config::NodeConfig;
pub use disk::{Disk, DiskHints};
pub use guest::{GuestReport, GuestState};
pub use host_event::{HostEvent, HostEventKind};
pub use host_report::{Heard, HostReport, HostState};
pub use inventory::Inventory;
pub use job::{AgentIdentity, Deploy, Hello, Identity, Job, Restart, Welcome};
pub use progress::{Progress, Step};
pub use report::{Failure, Outcome, Report, Written};
