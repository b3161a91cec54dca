//! A small guest for the rack's Xen hosts: the host's own Debian kernel, and a RAM disk with
//! busybox that is made on the host. `guest/init` says what its kernel's command line can ask for.

use std::fs::File;

use anyhow::{Context, Result, ensure};

use crate::{
    ssh::{Key, Target},
    tool,
};

/// Where its kernel lies on the host.
pub const KERNEL: &str = "/var/lib/billet/guest/kernel";
/// Where its RAM disk lies on the host.
pub const RAMDISK: &str = "/var/lib/billet/guest/initrd";
/// What it prints when it has its address.
pub const READY: &str = "guest ready";

/// A static busybox, which Debian has as a package.
const BUSYBOX: [&str; 2] = ["/usr/bin/busybox", "/bin/busybox"];

/// Puts kernel and RAM disk onto a Xen host.
pub fn install(key: &Key, host: &Target) -> Result<()> {
    let busybox = tool::file("a static busybox", &BUSYBOX, "busybox-static")?;
    let busybox = File::open(&busybox).context("opening busybox")?;
    let init = include_str!("../guest/init");
    ensure!(!init.contains("EOF"), "the guest's first process contains the mark of its end");
    let make = include_str!("../guest/make");
    let script = format!("INIT=$(cat <<'EOF'\n{init}EOF\n)\nexport INIT\n{make}");
    key.run_with(host, &script, busybox).context("making the guest on its host").map(drop)
}
