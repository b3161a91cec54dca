//! Another host on the rack's network: a program in a network namespace of its own, with its
//! own address, such as a foreign DHCP server.

use std::{net::Ipv4Addr, path::Path, process::Command, sync::mpsc, thread};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, unshare};

use crate::{child::Child, netlink::Netlink, rack::BRIDGE};

/// The program runs until this is dropped.
pub struct Neighbour {
    /// Closing it ends the thread, and with the thread the program and its namespace.
    alive: mpsc::Sender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Neighbour {
    /// Starts `command` as a host with `address` (in a /24), its output in `log`. Its network
    /// interface is called `wire0`; at most one neighbour per `number`.
    pub fn start(number: u32, address: Ipv4Addr, command: Command, log: &Path) -> Result<Self> {
        let (alive, dead) = mpsc::channel::<()>();
        let (ready, started) = mpsc::channel();
        let log = log.to_owned();
        let port = format!("rack0h{number}");
        let far = port.clone();
        // A thread may leave its process's network namespace, and what it starts goes along.
        let thread = thread::spawn(move || {
            let child = move_out(&far, address)
                .and_then(|()| Child::start_here("neighbour", command, &log));
            let (outcome, child) = match child {
                Ok(child) => (Ok(()), Some(child)),
                Err(error) => (Err(error), None),
            };
            let _ = ready.send(outcome);
            let _ = dead.recv();
            drop(child);
        });
        started.recv().map_err(|_| anyhow!("the neighbour's thread has ended"))??;
        Netlink::open()?.set_master(&port, BRIDGE)?;
        Ok(Neighbour { alive, thread: Some(thread) })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel();
        self.alive = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn move_out(port: &str, address: Ipv4Addr) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a neighbour's network namespace")?;
    let mut netlink = Netlink::open()?;
    netlink.set_up("lo")?;
    netlink.add_veth_to("wire0", port, std::process::id())?;
    netlink.add_address("wire0", address, 24)?;
    netlink.set_up("wire0")
}
