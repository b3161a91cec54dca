//! Beside a foreign DHCP server: it gives the addresses, billet what to boot.

use std::{net::Ipv4Addr, process::Command, process::ExitCode};

use anyhow::{Result, ensure};
use rack::{
    Bus, Dhcp, DiskSpec, Firmware, Neighbour, NodeSpec, Part, Size,
    stage::{self, PATIENCE, Program, Stage, Story},
    tool,
};

static PROGRAM: Program = Program {
    parts: &[Part::Ram],
    cached_store: false,
    options: |mut options| {
        options.dhcp = Dhcp::Proxy;
        options.check_start = false;
        options
    },
    at_once: 1,
};

/// Where the foreign server lives.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

fn main() -> ExitCode {
    let story = Story { name: "bios_and_uefi_beside_a_foreign_dhcp_server", play: beside };
    stage::run(&PROGRAM, vec![story])
}

fn beside(stage: &Stage) -> Result<()> {
    let mut dnsmasq = Command::new(tool::program("dnsmasq", "dnsmasq-base")?);
    dnsmasq
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-"])
        .args(["--user=root", "--interface=wire0", "--dhcp-range=10.77.0.30,10.77.0.60"])
        .args(["--log-dhcp", "--dhcp-authoritative", "--dhcp-leasefile=/dev/null"]);
    let log = stage.folder().join("dnsmasq.log");
    let _foreign = Neighbour::start(1, FOREIGN, dnsmasq, &log)?;
    let tiny = stage.tiny("beside", Size::mib(8))?;
    let mut open = Vec::new();
    for (name, firmware) in [("bios", Firmware::Bios), ("uefi", Firmware::Uefi)] {
        let disk = DiskSpec::new(Size::mib(64), Bus::Virtio);
        let node = stage.enrolled(NodeSpec::new(name, firmware).with_disks(vec![disk]))?;
        open.push((stage.deploy(&node, "beside")?, node));
    }
    for (deployment, node) in &open {
        stage.done(deployment, PATIENCE)?;
        tiny.is_on(node.disk(0)?)?;
        let given = std::fs::read_to_string(&log)?;
        ensure!(given.contains(node.mac()), "the foreign server gave {} its address", node.name());
        node.cut();
    }
    Ok(())
}
