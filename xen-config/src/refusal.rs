//! Why a desired state cannot be, and what would fit.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{CpuSet, Name, Size, pci::PciAddress, slice_refusal::SliceRefusal};

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The network cannot be so, in a sentence.
    #[error("{0}")]
    Network(String),
    /// There is no hypervisor.
    #[error("guests are asked for, and this node does not run Xen: boot the dom0 image")]
    NoXen,
    /// The service domain cannot have so many.
    #[error("{asked} CPUs asked for the service domain, the machine has {machine}: at most {most}")]
    ServiceCpus {
        /// How many are asked for.
        asked: u32,
        /// How many there are.
        machine: u32,
        /// How many would fit.
        most: u32,
    },
    /// Half a core for the service domain.
    #[error(
        "{asked} CPUs asked for the service domain, and cores are given whole: {below} or {above}"
    )]
    HalfCore {
        /// How many are asked for.
        asked: u32,
        /// Whole cores below it.
        below: u32,
        /// Whole cores above it.
        above: u32,
    },
    /// A core that guests and the service domain would share.
    #[error(
        "CPUs {place} asked for the service domain, and {core} are one core: all of them or none"
    )]
    CutCore {
        /// What is asked for.
        place: CpuSet,
        /// The core.
        core: CpuSet,
    },
    /// Nothing can be dedicated.
    #[error(
        "the machine has one core ({cpus} CPUs), which cannot be dedicated: dedicate = \"none\""
    )]
    OneCore {
        /// CPUs of that core.
        cpus: u32,
    },
    /// Two numbers that differ.
    #[error("cpus = {asked} and place = \"{place}\" differ: say one of them")]
    CountAndPlace {
        /// The number.
        asked: u32,
        /// The CPUs.
        place: CpuSet,
    },
    /// CPUs that are not there, or not for this.
    #[error("there are no CPUs {missing} for {who}: {most} are there")]
    NoSuchCpus {
        /// Who asks.
        who: String,
        /// What is not there.
        missing: CpuSet,
        /// What is.
        most: CpuSet,
    },
    /// Memory that the service domain cannot have.
    #[error("{asked} asked for the service domain, {least} up to less than {machine} would fit")]
    ServiceMemory {
        /// How much is asked for.
        asked: Size,
        /// The least that Linux starts with.
        least: Size,
        /// What there is.
        machine: Size,
    },
    /// A pool of somebody else that has the name of the guests'.
    #[error(
        "pool {pool} has the scheduler {scheduler}, and billet's of that name has credit2: rename that pool, or dedicate = \"affinity\""
    )]
    Scheduler {
        /// The pool.
        pool: String,
        /// Its scheduler.
        scheduler: String,
    },
    /// A hypervisor that does not say which CPUs there are.
    #[error(
        "Xen tells of no CPU's core and socket (`xl info -n`), as it does of sockets with one core: who runs where can only be planned on others"
    )]
    NoTopology,
    /// A pool that Xen does not let go of its first CPU.
    #[error(
        "the service domain has CPUs {service}, and Xen keeps CPU 0 in {home} beside them: ask for CPUs with CPU 0 among them (place), or dedicate = \"affinity\""
    )]
    FirstCpu {
        /// The service domain's pool.
        home: String,
        /// Its CPUs.
        service: CpuSet,
    },
    /// CPUs in a pool of somebody else.
    #[error(
        "CPUs {cpus} asked for the service domain are in pool {pool}, which is not billet's: put them into {home}, or ask for others"
    )]
    ForeignPool {
        /// The pool.
        pool: String,
        /// What of it is asked for.
        cpus: CpuSet,
        /// The service domain's pool.
        home: String,
    },
    /// A domain of somebody else that holds CPUs back.
    #[error(
        "domain {domain}, which is not billet's, is pinned to CPUs {cpus}, which its pool is to lose: unpin it, name it with own = true, or dedicate = \"affinity\""
    )]
    ForeignPin {
        /// The domain.
        domain: String,
        /// Its pin.
        cpus: CpuSet,
    },
    /// Two pools of one CPU each that would have to swap.
    #[error(
        "pool {pool} cannot let go of its last CPU {cpus} while domains run in it: stop them, or place = \"{cpus}\""
    )]
    Stuck {
        /// The pool.
        pool: String,
        /// Its CPU.
        cpus: CpuSet,
    },
    /// More virtual CPUs than guests have CPUs.
    #[error("guest {guest}: {asked} virtual CPUs asked, guests have {most} CPUs")]
    Vcpus {
        /// Who.
        guest: Name,
        /// How many it asks for.
        asked: u32,
        /// How many would fit.
        most: u32,
    },
    /// More memory than there is.
    #[error("{asked} asked for guests, {most} is what the machine has for them")]
    Memory {
        /// All guests together, with what Xen needs for each.
        asked: Size,
        /// What would fit.
        most: Size,
    },
    /// The same thing twice.
    #[error("{what} is asked for twice, by {first} and by {second}")]
    Twice {
        /// A name, an address, a device.
        what: String,
        /// Who has it.
        first: Name,
        /// Who has it too.
        second: Name,
    },
    /// No such bridge.
    #[error("guest {guest}: there is no bridge {bridge}{}", there_is(.known))]
    Bridge {
        /// Who.
        guest: Name,
        /// What it asks for.
        bridge: String,
        /// What there is or will be.
        known: Vec<String>,
    },
    /// No such PCI function.
    #[error("guest {guest}: there is no PCI device {device}")]
    Pci {
        /// Who.
        guest: Name,
        /// What it asks for.
        device: PciAddress,
    },
    /// A domain that somebody else made.
    #[error(
        "guest {guest}: a domain of this name was made by somebody else; own = true takes it over"
    )]
    Foreign {
        /// Who.
        guest: Name,
    },
    /// Something of a guest that does not fit its other words.
    #[error("guest {guest}: {reason}")]
    Guest {
        /// Who.
        guest: Name,
        /// What, and what would fit.
        reason: String,
    },
    /// A slice that cannot be so.
    #[error(transparent)]
    Slice(SliceRefusal),
    /// Anything else, said whole.
    #[error("{0}")]
    Other(String),
}

fn there_is(known: &[String]) -> String {
    match known {
        [] => " and no other".to_owned(),
        known => format!("; there are {}", known.join(", ")),
    }
}

/// All reasons; at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals(pub Vec<Refusal>);

impl std::error::Error for Refusals {}

impl fmt::Display for Refusals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, refusal) in self.0.iter().enumerate() {
            let mark = if at == 0 { "" } else { "; " };
            write!(out, "{mark}{refusal}")?;
        }
        Ok(())
    }
}
