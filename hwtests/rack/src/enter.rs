//! Into a network of our own.
//!
//! Everything the rack does on a network happens in a namespace that this process
//! alone lives in: real ports 67, 69 and 80 and raw sockets, as root or as an
//! ordinary user, and nothing of it can be seen from the host.

use std::fs;

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{Gid, Uid, getegid, geteuid},
};

use crate::netlink::Netlink;

/// Moves the process into new network and mount namespaces, and where it is not root into a new
/// user namespace first, in which it is. Brings `lo` up.
///
/// Call it before any thread is started: the kernel refuses user namespaces to a process
/// that has threads, and a network namespace would be this thread's alone.
pub fn enter() -> Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        unshare(OURS).context(
            "making a network namespace (root in a container needs CAP_SYS_ADMIN for it)",
        )?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER.union(OURS)).context(
            "making a user namespace: allow it with `sysctl user.max_user_namespaces=10000` \
             (and on Ubuntu `kernel.apparmor_restrict_unprivileged_userns=0`), or run as root",
        )?;
        map_to_root(uid, gid)?;
    }
    // What is mounted here stays here.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("making the mounts private")?;
    Netlink::open()?.set_up("lo").context("bringing lo up")
}

/// Mounts too, so that a test may have a file system of its own.
const OURS: CloneFlags = CloneFlags::CLONE_NEWNET.union(CloneFlags::CLONE_NEWNS);

/// The kernel lets an ordinary user map just itself, and only once it has given up setgroups.
fn map_to_root(uid: Uid, gid: Gid) -> Result<()> {
    fs::write("/proc/self/setgroups", "deny").context("writing /proc/self/setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("writing /proc/self/uid_map")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("writing /proc/self/gid_map")
}
