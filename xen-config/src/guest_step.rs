//! One change of a guest.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    Name, Size,
    list::Ending,
    nic::{Mac, Rate, Vlan},
    pci::PciAddress,
};

/// What is done to which guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStep {
    /// The guest.
    pub guest: Name,
    /// What is done to it.
    pub change: Change,
}

/// A change. A guest is always made paused, and let go by a step of its own: what must hold
/// before its first instruction (the VLAN of its port) comes between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Makes it of xl's file, paused.
    Create {
        /// The file.
        config: String,
    },
    /// Goes on from where it was saved, paused.
    Restore {
        /// The file it is made of.
        config: String,
    },
    /// Writes its memory to a file; it is gone then.
    Save,
    /// Removes the saved memory of a guest that goes on already: it must never go on twice.
    Forget,
    /// Lets it run.
    Unpause,
    /// Makes it stand still.
    Pause,
    /// Asks it to shut down, and destroys it when it has not after `seconds`.
    Shutdown {
        /// How long it may take.
        seconds: u32,
    },
    /// Clears away what is left of it after it ended by itself.
    Clear {
        /// Why it ended.
        ending: Ending,
    },
    /// Its share and limit.
    Weight {
        /// Against others.
        weight: u16,
        /// Hundredths of one CPU; 0 is none.
        cap: u16,
    },
    /// Its memory.
    Memory {
        /// What it should have.
        size: Size,
    },
    /// Its virtual CPUs.
    Vcpus {
        /// How many are switched on.
        count: u32,
    },
    /// Plugs a NIC in.
    PlugNic {
        /// Its hardware address.
        mac: Mac,
        /// How xl reads it.
        words: Vec<String>,
    },
    /// Pulls a NIC out.
    PullNic {
        /// Its number.
        number: u32,
    },
    /// The limit of a NIC.
    Rate {
        /// Its number.
        number: u32,
        /// The limit; none for `None`.
        rate: Option<Rate>,
    },
    /// The VLAN of a NIC's untagged frames.
    Vlan {
        /// Its hardware address.
        mac: Mac,
        /// The VLAN.
        vlan: Vlan,
    },
    /// Plugs a disk in.
    PlugDisk {
        /// How xl reads it.
        disk: String,
    },
    /// Pulls a disk out.
    PullDisk {
        /// Its name in the guest.
        device: String,
    },
    /// Takes a PCI function from its driver in dom0, for guests.
    Assign {
        /// Where it sits.
        device: PciAddress,
    },
    /// Gives a PCI function to it.
    PlugPci {
        /// Where it sits.
        device: PciAddress,
    },
    /// Takes a PCI function from it.
    PullPci {
        /// Where it sits.
        device: PciAddress,
    },
}

impl Change {
    /// Whether the guest's domain is gone after it.
    pub fn ends(&self) -> bool {
        matches!(self, Change::Save | Change::Shutdown { .. } | Change::Clear { .. })
    }
}

impl fmt::Display for GuestStep {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guest = &self.guest;
        match &self.change {
            Change::Create { .. } => write!(out, "create {guest}, paused"),
            Change::Restore { .. } => write!(out, "restore {guest} from its file, paused"),
            Change::Save => write!(out, "save {guest} to a file"),
            Change::Forget => write!(out, "remove the file of {guest}, which goes on already"),
            Change::Unpause => write!(out, "let {guest} run"),
            Change::Pause => write!(out, "pause {guest}"),
            Change::Shutdown { seconds } => {
                write!(out, "shut {guest} down, and destroy it after {seconds} s")
            }
            Change::Clear { ending } => write!(out, "clear {guest} away, which {ending}"),
            Change::Weight { weight, cap: 0 } => {
                write!(out, "give {guest} the weight {weight} and no cap")
            }
            Change::Weight { weight, cap } => {
                write!(out, "give {guest} the weight {weight} and the cap {cap}")
            }
            Change::Memory { size } => write!(out, "give {guest} {size} of memory"),
            Change::Vcpus { count } => write!(out, "give {guest} {count} virtual CPUs"),
            Change::PlugNic { words, .. } => {
                write!(out, "plug a NIC into {guest}: {}", words.join(" "))
            }
            Change::PullNic { number } => write!(out, "pull NIC {number} out of {guest}"),
            Change::Rate { number, rate: Some(rate) } => {
                write!(out, "limit NIC {number} of {guest} to {rate}")
            }
            Change::Rate { number, rate: None } => {
                write!(out, "take the limit off NIC {number} of {guest}")
            }
            Change::Vlan { mac, vlan } => write!(out, "put NIC {mac} of {guest} into VLAN {vlan}"),
            Change::PlugDisk { disk } => write!(out, "plug a disk into {guest}: {disk}"),
            Change::PullDisk { device } => write!(out, "pull disk {device} out of {guest}"),
            Change::Assign { device } => {
                write!(out, "take PCI device {device} from dom0 for {guest}")
            }
            Change::PlugPci { device } => write!(out, "give PCI device {device} to {guest}"),
            Change::PullPci { device } => write!(out, "take PCI device {device} from {guest}"),
        }
    }
}
