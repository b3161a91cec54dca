//! The door to the kernel's network configuration, with verbs that read like `ip(8)`.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::runtime::{Builder, Runtime};

/// A netlink connection. rtnetlink is asynchronous, its users here are not: every verb runs
/// on a runtime of its own, in this thread, until it is done.
#[derive(Debug)]
pub(crate) struct Link {
    runtime: Runtime,
    handle: Handle,
}

impl Link {
    /// Connects.
    pub(crate) fn open() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let handle = runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            anyhow::Ok(handle)
        });
        Ok(Link { runtime, handle: handle.context("opening netlink")? })
    }

    /// `ip link set dev <index> up`
    pub(crate) fn up(&self, index: u32) -> Result<()> {
        let request = self.handle.link().set(LinkUnspec::new_with_index(index).up().build());
        self.runtime.block_on(request.execute()).with_context(|| format!("taking link {index} up"))
    }

    /// `ip address replace <ip>/<prefix> dev <index>`
    pub(crate) fn address(&self, index: u32, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        let request = self.handle.address().add(index, ip.into(), prefix).replace();
        self.runtime
            .block_on(request.execute())
            .with_context(|| format!("setting address {ip}/{prefix}"))
    }

    /// `ip route replace default via <gateway>`
    pub(crate) fn default_route(&self, gateway: Ipv4Addr) -> Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        let request = self.handle.route().add(route).replace();
        self.runtime
            .block_on(request.execute())
            .with_context(|| format!("setting the route by {gateway}"))
    }
}
