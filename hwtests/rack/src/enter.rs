//! Into a network of our own.
//!
//! Everything the rack does on a network happens in a namespace that this process
//! alone lives in: real ports 67, 69 and 80 and raw sockets, as root or as an
//! ordinary user, and nothing of it can be seen from the host.

use std::fs;

use anyhow::{Context, Result};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid, getegid, geteuid},
};

use crate::netlink::Netlink;

/// Moves the process into a new network namespace, and where it is not root into a new
/// user namespace first, in which it is. Brings `lo` up.
///
/// Call it before any thread is started: the kernel refuses user namespaces to a process
/// that has threads, and a network namespace would be this thread's alone.
pub fn enter() -> Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNET).context(
            "making a network namespace (root in a container needs CAP_SYS_ADMIN for it)",
        )?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CLONE_NET).context(
            "making a user namespace: allow it with `sysctl user.max_user_namespaces=10000` \
             (and on Ubuntu `kernel.apparmor_restrict_unprivileged_userns=0`), or run as root",
        )?;
        map_to_root(uid, gid)?;
    }
    Netlink::open()?.set_up("lo").context("bringing lo up")
}

const CLONE_NET: CloneFlags = CloneFlags::CLONE_NEWNET;

/// The kernel lets an ordinary user map just itself, and only once it has given up setgroups.
fn map_to_root(uid: Uid, gid: Gid) -> Result<()> {
    fs::write("/proc/self/setgroups", "deny").context("writing /proc/self/setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("writing /proc/self/uid_map")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("writing /proc/self/gid_map")
}
