//! Four blank machines become Debian at once: every firmware's way, several cards and disks.

use std::{net::Ipv4Addr, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use rack::{
    BootFirst, Bus, DiskSpec, Firmware, NicModel, Node, NodeSpec, Part, Size,
    api::Enroll,
    stage::{self, Program, Stage, Story},
};
use serde_json::json;

static PROGRAM: Program = Program {
    parts: &[Part::Ram, Part::Bare],
    cached_store: true,
    options: |options| options,
    at_once: 1,
};

/// Four emulated machines on two cores.
const PATIENCE: Duration = Duration::from_secs(540);

fn main() -> ExitCode {
    let stories = vec![
        Story { name: "four_machines_at_once", play: four_machines },
        Story { name: "a_machine_goes_into_its_system_by_kexec", play: kexec },
    ];
    stage::run(&PROGRAM, stories)
}

/// What Linux says of who loaded it, in `kernel.bootloader_type`: kexec's number and no version
/// (Documentation/arch/x86/boot.rst, `type_of_loader`).
const KEXEC: &str = "208";

fn kexec(stage: &Stage) -> Result<()> {
    let node = stage.enrolled(NodeSpec::new("kexec", Firmware::Bios))?;
    let deployment = stage.deploy_with(&node, &json!({ "image": "bare", "restart": "kexec" }))?;
    stage.done(&deployment, PATIENCE)?;
    let script = "sysctl -n kernel.bootloader_type";
    let loader = stage.server().ssh(&node.name(), script, PATIENCE)?;
    ensure!(loader.trim() == KEXEC, "the system was loaded by {loader}, kexec is {KEXEC}");
    Ok(())
}

fn four_machines(stage: &Stage) -> Result<()> {
    let disk = |bus| vec![DiskSpec::new(Size::gib(6), bus)];
    let specs = [
        NodeSpec::new("bios-virtio", Firmware::Bios).with_disks(disk(Bus::Virtio)),
        NodeSpec::new("bios-e1000-nvme", Firmware::Bios)
            .with_nic(NicModel::E1000)
            .with_disks(disk(Bus::Nvme)),
        NodeSpec::new("uefi-pxe", Firmware::Uefi).with_disks(disk(Bus::Ahci)),
        NodeSpec::new("uefi-http", Firmware::UefiHttp).with_disks(disk(Bus::Nvme)),
    ];
    let mut open = Vec::new();
    for spec in specs {
        let firmware = spec.firmware;
        let node = stage.rack().add(spec)?;
        enroll(stage, &node)?;
        // With the network first, what was imaged asks again and has nothing to do. One is enough: OVMF
        // tries every other way over the network before it takes the disk.
        if firmware == Firmware::UefiHttp {
            node.boot_first(BootFirst::Net);
        }
        open.push((node.clone(), firmware, stage.deploy(&node, "bare")?));
    }
    for (node, firmware, deployment) in &open {
        let name = node.name();
        stage.done(deployment, PATIENCE).with_context(|| format!("imaging {name}"))?;
        let script = "cat /etc/hostname; [ -d /sys/firmware/efi ] && echo uefi || echo bios; \
                      findmnt -no SIZE -b /; ip -4 -o addr show scope global | \
                      awk '{print $4, /dynamic/ ? \"dynamic\" : \"fixed\"}'; systemctl is-system-running --wait || \
                      systemctl --failed --no-legend";
        let server = stage.server();
        let said = server.ssh(&name, script, PATIENCE).with_context(|| format!("asking {name}"))?;
        let lines: Vec<_> = said.lines().map(str::trim).collect();
        let kind = if *firmware == Firmware::Bios { "bios" } else { "uefi" };
        ensure!(lines.first() == Some(&name.as_str()), "{name} says it is {lines:?}");
        ensure!(lines.get(1) == Some(&kind), "{name} says it is {lines:?}");
        let size: u64 = lines.get(2).context("no size")?.parse().context("reading a size")?;
        ensure!(size > 5 << 30, "{name}'s file system was not grown: {size} bytes of 6 GiB");
        let address = lines.get(3).copied().unwrap_or_default();
        let wanted = if name == FIXED { format!("{ADDRESS}/24 fixed") } else { "dynamic".into() };
        ensure!(address.ends_with(&wanted), "{name} has {address}, not {wanted}");
        ensure!(lines.get(4) == Some(&"running"), "{name} has failed units: {lines:?}");
        // The others have its share of the host from now on.
        drop(server);
        node.cut();
    }
    Ok(())
}

/// The node whose system has its address written down.
const FIXED: &str = "bios-virtio";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 60);

fn enroll(stage: &Stage, node: &Node) -> Result<()> {
    let server = stage.server();
    let fixed = node.name() == FIXED;
    server.api().enroll(&Enroll {
        name: node.name(),
        macs: vec![node.mac().to_owned()],
        authorized_keys: vec![server.key().public.clone()],
        reserved: fixed.then_some(ADDRESS),
        fixed,
        ..Enroll::default()
    })?;
    Ok(())
}
