//! The usual hand-made way to image machines, which billet is measured against: dnsmasq for DHCP
//! and TFTP, iPXE, busybox's `httpd`, and a RAM system of Debian's kernel and busybox that runs
//! `wget | zstd -d | dd`. It is as quick as its parts allow: only the drivers that the machine
//! needs, everything compressed with zstd, the image beforehand, the disk written directly.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{golden, ours, peers, wire::run};
use crate::{
    Child,
    rack::{ADDRESS, BRIDGE},
    tool,
};

const RAMDISK: &str = include_str!("handmade/ramdisk.sh");
const INIT: &str = include_str!("handmade/init.sh");
/// Where the files are that it serves, in the scratch folder.
const FOLDER: &str = "handmade";

/// Makes the RAM system and exports the image. Wants the network: the kernel comes from
/// Debian's archive.
pub fn prepare(scratch: &Path) -> Result<()> {
    let folder = scratch.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for (program, package) in
        [("depmod", "kmod"), ("busybox", "busybox-static"), ("zstd", "zstd"), ("xz", "xz-utils")]
    {
        tool::program(program, package)?;
    }
    let kernel = peers::kernel()?;
    let (script, init) = (folder.join("ramdisk.sh"), folder.join("init.sh"));
    fs::write(&script, RAMDISK).context("writing a script")?;
    fs::write(&init, INIT).context("writing a script")?;
    let mut make = Command::new("sh");
    make.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    run(make.arg(script).arg(kernel).arg(init).arg(&folder)).context("making a RAM system")?;
    let efi = tool::file("ipxe.efi", &["/usr/lib/ipxe/ipxe.efi"], "ipxe")?;
    fs::copy(efi, folder.join("ipxe.efi")).context("copying ipxe.efi")?;
    fs::write(folder.join("boot.ipxe"), script_text()).context("writing the boot script")?;
    golden::export(&ours::artefacts(true)?.store, "bare", &folder)
}

fn script_text() -> String {
    format!(
        "#!ipxe\nkernel http://{ADDRESS}/kernel initrd=ramdisk quiet console=ttyS0\n\
         initrd http://{ADDRESS}/ramdisk\nboot\n"
    )
}

/// Its servers, on the rack's bridge.
pub struct Handmade {
    _servers: [Child; 2],
    leases: PathBuf,
}

impl Handmade {
    /// Starts them, with their state in `state`.
    pub fn start(scratch: &Path, state: &Path) -> Result<Self> {
        let folder = scratch.join(FOLDER);
        let leases = state.join("leases");
        let mut dnsmasq = Command::new(tool::program("dnsmasq", "dnsmasq-base")?);
        dnsmasq
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root"])
            .args(["--log-facility=-", "--log-dhcp", &format!("--interface={BRIDGE}")])
            .args(["--dhcp-range=10.77.0.100,10.77.0.199", "--dhcp-authoritative", "--no-ping"])
            .args(["--enable-tftp", "--dhcp-match=set:ipxe,175"])
            .arg("--dhcp-boot=tag:!ipxe,ipxe.efi")
            .arg(format!("--dhcp-boot=tag:ipxe,http://{ADDRESS}/boot.ipxe"))
            .arg(format!("--tftp-root={}", folder.display()))
            .arg(format!("--dhcp-leasefile={}", leases.display()));
        let mut httpd = Command::new(tool::program("busybox", "busybox-static")?);
        httpd.args(["httpd", "-f", "-p", &format!("{ADDRESS}:80"), "-h"]).arg(&folder);
        let servers = [
            Child::start("dnsmasq", dnsmasq, &state.join("dnsmasq.log"), Vec::new())?,
            Child::start("httpd", httpd, &state.join("httpd.log"), Vec::new())?,
        ];
        Ok(Handmade { _servers: servers, leases })
    }

    /// The addresses it has given: the RAM system and what was installed may have different ones.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        let leases = fs::read_to_string(&self.leases).unwrap_or_default();
        let addresses = leases.lines().filter_map(|line| line.split(' ').nth(2)?.parse().ok());
        addresses.collect()
    }
}
