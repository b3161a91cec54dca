//! The words a node and the provisioner exchange, and no I/O.
//!
//! A node comes up knowing only its kernel command line ([`BootLine`]). It says
//! what it is ([`Hello`] with an [`Inventory`]), is told what to do ([`Welcome`]
//! with a [`Job`]), tells how far it is ([`Progress`]) and how it ended
//! ([`Report`]). All of it is JSON over HTTP; [`path`] names the doors.

pub mod boot_line;
pub mod disk;
pub mod inventory;
pub mod job;
pub mod path;
pub mod progress;
pub mod report;

pub use boot_line::BootLine;
pub use disk::{Disk, DiskHints};
pub use inventory::Inventory;
pub use job::{Deploy, Hello, Identity, Job, Restart, Welcome};
pub use progress::{Progress, Step};
pub use report::{Failure, Outcome, Report, Written};
