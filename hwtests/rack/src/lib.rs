//! A virtual rack of QEMU machines: real firmware, real boot programs, real kernels, in a
//! network of its own, as root or as an ordinary user.
//!
//! ```no_run
//! use rack::{Firmware, NodeSpec, Rack};
//! # fn main() -> anyhow::Result<()> {
//! rack::enter()?; // before any thread is started
//! let mut rack = Rack::new("/tmp/rack".as_ref())?;
//! let node = rack.add(NodeSpec::new("n1", Firmware::Uefi))?;
//! node.power_on()?;
//! node.console().wait_for("PXE", std::time::Duration::from_secs(60))?;
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_op_in_unsafe_fn)]

pub mod api;
pub mod artefacts;
pub mod bench;
pub mod bmc;
pub mod cable;
pub mod child;
pub mod console;
mod efi;
pub mod enter;
pub mod fallen;
pub mod guest;
pub mod hardware;
pub mod journal;
pub mod kernel;
mod machine;
pub mod neighbour;
pub mod netdevsim;
pub mod netlink;
pub mod node;
pub mod perftest;
pub mod played;
pub mod qmp;
pub mod rack;
pub mod server;
pub mod spec;
pub mod ssh;
pub mod stage;
pub mod tiny;
pub mod tool;

pub use api::Api;
pub use artefacts::{Artefacts, Part, Programs};
pub use bmc::Bmc;
pub use child::Child;
pub use console::Console;
pub use enter::enter;
pub use journal::Journal;
pub use neighbour::Neighbour;
pub use node::Node;
pub use rack::Rack;
pub use server::{Dhcp, Server};
pub use spec::{
    BootFirst, Bus, Cpu, DiskSpec, Firmware, Kernel, NicModel, NodeSpec, RackSpec, Size,
};
pub use tiny::Tiny;
