//! The network interfaces of this host, by the kernel's index.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

use anyhow::{Context, Result};
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};

/// What `ip address` says, as far as serving goes.
#[derive(Debug, Default)]
pub struct Interfaces {
    names: HashMap<u32, String>,
    addresses: HashSet<Ipv4Addr>,
}

impl Interfaces {
    /// Asks the kernel.
    pub fn probe() -> Result<Interfaces> {
        let mut found = Interfaces::default();
        for interface in getifaddrs().context("listing network interfaces")? {
            let address = interface.address.as_ref().and_then(|address| address.as_sockaddr_in());
            found.addresses.extend(address.map(|address| address.ip()));
            if !found.names.values().any(|name| *name == interface.interface_name)
                && let Ok(index) = if_nametoindex(interface.interface_name.as_str())
            {
                found.names.insert(index, interface.interface_name);
            }
        }
        Ok(found)
    }

    /// The name of interface `index`.
    pub fn name(&self, index: u32) -> Option<&str> {
        self.names.get(&index).map(String::as_str)
    }

    /// Name and index of every interface that `wanted` names; all when it names none.
    pub fn among<'a>(&'a self, wanted: &'a [String]) -> impl Iterator<Item = (u32, &'a str)> {
        self.names
            .iter()
            .filter(|(_, name)| wanted.is_empty() || wanted.contains(name))
            .map(|(index, name)| (*index, name.as_str()))
    }

    /// Every IPv4 address of this host.
    pub fn addresses(&self) -> &HashSet<Ipv4Addr> {
        &self.addresses
    }
}
