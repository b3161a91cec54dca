//! What DHCP must know of the nodes without asking the database for every packet.
//!
//! The node side fills it from the store at start and at every change; the DHCP side
//! reads it, and tells through [`Seen`] what it heard.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{PoisonError, RwLock},
};

use crate::mac::Mac;

/// One enrolled or discovered machine, as far as DHCP is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its node's name, used as DHCP host name.
    pub name: String,
    /// The address that is kept for it.
    pub reserved: Option<Ipv4Addr>,
    /// Whether it has something to boot from us now (an open deployment).
    pub boots: bool,
}

/// Something that a machine did on the network, for the node side to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Who.
    pub mac: Mac,
    /// SMBIOS UUID (option 97), when it is not all zero or all one.
    pub uuid: Option<String>,
    /// What it is, when the packet said: `x86_64 uefi`, `x86 bios`, ...
    pub firmware: Option<String>,
    /// What it did.
    pub what: Heard,
}

/// What was heard of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Its firmware asked for something to boot.
    BootRequest,
    /// It was given this address.
    Leased(Ipv4Addr),
    /// It fetched this file by TFTP.
    Fetched(String),
}

/// All entries, by hardware address.
#[derive(Debug, Default)]
pub struct Registry(RwLock<HashMap<Mac, Entry>>);

impl Registry {
    /// The entry of `mac`.
    pub fn get(&self, mac: Mac) -> Option<Entry> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&mac).cloned()
    }

    /// Sets or replaces the entry of `mac`.
    pub fn set(&self, mac: Mac, entry: Entry) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(mac, entry);
    }

    /// Forgets `mac`.
    pub fn remove(&self, mac: Mac) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&mac);
    }

    /// For whom `ip` is kept, if for anybody.
    pub fn holder(&self, ip: Ipv4Addr) -> Option<Mac> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().find(|(_, entry)| entry.reserved == Some(ip)).map(|(mac, _)| *mac)
    }
}
