//! A machine's specification as a QEMU command line: pure but for finding the firmware.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    hardware, journal,
    spec::{BootFirst, Bus, Cpu, DiskSpec, Firmware, NicModel, NodeSpec},
    tool,
};

/// Debian 12 and 13 both have these; the variables are a template that every node copies.
const OVMF_CODE: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd"];
const OVMF_VARS: [&str; 2] = ["/usr/share/OVMF/OVMF_VARS_4M.fd", "/usr/share/OVMF/OVMF_VARS.fd"];

/// Its first card's own end of a cable that it shares.
const OWN: &str = "own";

/// What carries the first card's packets, and what is pulled out when its cable is.
pub(crate) fn first_cable(spec: &NodeSpec) -> &'static str {
    if spec.shares_cable() { OWN } else { "net0" }
}

/// Where a node's parts are for one power cycle.
pub(crate) struct Parts<'a> {
    pub mac: &'a str,
    pub uuid: &'a str,
    /// One file a disk.
    pub disks: &'a [PathBuf],
    /// The node's own copy of the firmware's variables.
    pub variables: &'a Path,
    /// The value of `-netdev`, with id `net0`.
    pub netdev: &'a str,
    /// Descriptors of the serial line and of the machine protocol.
    pub serial: i32,
    pub qmp: i32,
}

/// The template for a UEFI machine's variables.
pub(crate) fn variables_template() -> Result<PathBuf> {
    tool::file("the UEFI firmware's variables", &OVMF_VARS, "ovmf")
}

/// The whole command.
pub(crate) fn command(spec: &NodeSpec, parts: &Parts) -> Result<Command> {
    let mut command = match spec.vf_cards {
        0 => Command::new(tool::program("qemu-system-x86_64", "qemu-system-x86")?),
        _ => hardware::newer_qemu()?,
    };
    let mut line = Line(Vec::new());
    line.option("-name", &spec.name);
    line.option("-uuid", parts.uuid);
    // Emulation only: nested KVM hangs where it is half there, and figures stay comparable.
    line.option("-accel", "tcg,thread=multi");
    processors(&mut line, spec);
    line.option(
        "-smbios",
        &format!("type=1,manufacturer=billet,product=rack,serial={}", spec.name),
    );
    line.word("-nodefaults");
    line.word("-no-user-config");
    line.option("-display", "none");
    line.option("-device", "VGA");
    line.option("-device", "virtio-rng-pci");
    line.option("-chardev", &format!("socket,id=serial0,fd={}", parts.serial));
    line.option("-serial", "chardev:serial0");
    line.option("-chardev", &format!("socket,id=qmp0,fd={}", parts.qmp));
    line.option("-mon", "chardev=qmp0,mode=control");
    firmware(&mut line, spec, parts)?;
    network(&mut line, spec, parts);
    disks(&mut line, spec, parts);
    if let Some(direct) = &spec.kernel {
        line.0.extend(["-kernel".into(), direct.kernel.clone().into_os_string()]);
        line.0.extend(["-initrd".into(), direct.ramdisk.clone().into_os_string()]);
        line.option("-append", &direct.line);
    }
    if let Some(port) = spec.bmc {
        line.option("-chardev", &format!("socket,id=bmc0,host=127.0.0.1,port={port},reconnect=1"));
        line.option("-device", "ipmi-bmc-extern,id=bmc,chardev=bmc0");
        line.option("-device", "isa-ipmi-kcs,bmc=bmc");
    }
    // Last: a device that names no bus goes to the one that was made last.
    far_nic(&mut line, spec);
    command.args(line.0);
    Ok(command)
}

/// TCG is quickest with plain SSE2: BLAKE3 takes half the time that it takes with AVX2. The
/// kernel gets its first random numbers from RDRAND instead of waiting for jitter.
const CPU: &str = "qemu64,+rdrand";
/// The one kind of virtualisation that TCG emulates.
const XEN_CPU: &str = "qemu64,+rdrand,+svm,+npt";

struct Line(Vec<OsString>);

impl Line {
    fn word(&mut self, word: &str) {
        self.0.push(word.into());
    }

    fn option(&mut self, name: &str, value: &str) {
        self.0.extend([name.into(), value.into()]);
    }
}

fn processors(line: &mut Line, spec: &NodeSpec) {
    let plain = std::env::var("RACK_CPU").unwrap_or_else(|_| CPU.to_owned());
    line.option("-cpu", if spec.cpu == Cpu::Xen { XEN_CPU } else { &plain });
    line.option("-m", &spec.memory.to_string());
    let (cpus, nodes) = (spec.cpus, spec.numa.clamp(1, spec.cpus));
    line.option("-smp", &format!("cpus={cpus},sockets={nodes},cores={},threads=1", cpus / nodes));
    let share = spec.memory / nodes;
    for node in (0..nodes).filter(|_| nodes > 1) {
        let (first, last) = (node * cpus / nodes, (node + 1) * cpus / nodes - 1);
        line.option("-object", &format!("memory-backend-ram,id=memory{node},size={share}M"));
        line.option(
            "-numa",
            &format!("node,nodeid={node},memdev=memory{node},cpus={first}-{last}"),
        );
    }
    if spec.iommu {
        line.option("-device", "intel-iommu,intremap=on");
    }
}

fn firmware(line: &mut Line, spec: &NodeSpec, parts: &Parts) -> Result<()> {
    if spec.firmware == Firmware::Bios {
        // Without graphics SeaBIOS and iPXE speak on the serial line.
        let kind = if spec.iommu || spec.vf_cards > 0 { "q35" } else { "pc" };
        line.option("-machine", &format!("{kind},graphics=off"));
        return Ok(());
    }
    line.option("-machine", "q35");
    let code = tool::file("the UEFI firmware", &OVMF_CODE, "ovmf")?;
    let flash = |unit: u32, path: &Path, access: &str| {
        format!("if=pflash,format=raw,unit={unit},{access}file={}", escape(path))
    };
    line.option("-drive", &flash(0, &code, "readonly=on,"));
    line.option("-drive", &flash(1, parts.variables, ""));
    if spec.firmware == Firmware::UefiHttp {
        line.option("-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n");
        line.option("-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n");
    }
    Ok(())
}

fn network(line: &mut Line, spec: &NodeSpec, parts: &Parts) {
    line.option("-netdev", parts.netdev);
    let index = match spec.boot_first {
        BootFirst::Net => 1,
        BootFirst::Disk => spec.disks.len() + 1,
    };
    // OVMF drives virtio itself and is to do so; for the other cards it needs iPXE's ROM.
    let rom = match (spec.firmware, spec.nic) {
        (Firmware::Uefi | Firmware::UefiHttp, NicModel::VirtioNet) => ",romfile=",
        _ => "",
    };
    let (device, mac) = (spec.nic.device(), parts.mac);
    // Cards that share the cable hang on a hub.
    let own = first_cable(spec);
    if spec.shares_cable() {
        line.option("-netdev", "hubport,id=cable,hubid=0,netdev=net0");
        line.option("-netdev", &format!("hubport,id={OWN},hubid=0"));
    }
    line.option("-device", &format!("{device},netdev={own},mac={mac},bootindex={index}{rom}"));
    for (number, card) in spec.cards.iter().enumerate() {
        let (device, mac) = (card.device(), beside(mac, 0xa0 + number));
        line.option("-netdev", &format!("hubport,id=more{number},hubid=0"));
        line.option("-device", &format!("{device},netdev=more{number},mac={mac},romfile="));
    }
    for card in 0..spec.vf_cards {
        line.option("-netdev", &format!("hubport,id=n{card},hubid=0"));
        line.0.extend(hardware::igb(card, &beside(mac, 0x80 + card as usize)).map(OsString::from));
    }
}

/// The address of another card, beside the first one's.
fn beside(mac: &str, number: usize) -> String {
    mac.replacen(":77:", &format!(":{number:02x}:"), 1)
}

/// A card behind a host bridge of its own, which the firmware's tables put on the last NUMA node.
fn far_nic(line: &mut Line, spec: &NodeSpec) {
    let Some(nic) = spec.far_nic else { return };
    let node = spec.numa.clamp(1, spec.cpus) - 1;
    line.option("-device", &format!("pxb-pcie,id=far,bus=pcie.0,bus_nr=128,numa_node={node}"));
    line.option("-device", "pcie-root-port,id=far0,bus=far,chassis=9");
    line.option("-device", &format!("{},bus=far0,romfile=", nic.device()));
}

fn disks(line: &mut Line, spec: &NodeSpec, parts: &Parts) {
    let first = match spec.boot_first {
        BootFirst::Net => 2,
        BootFirst::Disk => 1,
    };
    if spec.disks.iter().any(|disk| disk.bus == Bus::Ahci) {
        line.option("-device", "ich9-ahci,id=ahci0");
    }
    let mut port = 0;
    for (number, (disk, path)) in spec.disks.iter().zip(parts.disks).enumerate() {
        // The host's page cache stands for the disk: it outlives a killed QEMU.
        let file = escape(path);
        let medium = match (&disk.journal, disk.unwritable) {
            (None, None) => format!("format=raw,file={file}"),
            // EIO, for whatever is written over the sector.
            (None, Some(sector)) => format!(
                "driver=blkdebug,image.driver=raw,image.file.driver=file,image.file.filename={file},\
                 inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.errno=5,\
                 inject-error.0.sector={sector}"
            ),
            (Some(journal), _) => format!(
                "driver=blklogwrites,file.driver=raw,file.file.driver=file,file.file.filename={file},\
                 log.driver=file,log.filename={},log-sector-size={}",
                escape(journal),
                journal::SECTOR
            ),
        };
        let rate = disk.rate;
        let rate = rate.map_or(String::new(), |rate| format!(",throttling.bps-total={}", rate.0));
        let way = format!("if=none,id=disk{number},cache=writeback,discard=unmap");
        line.option("-drive", &format!("{way},{medium}{rate}"));
        let device = match disk.bus {
            Bus::Virtio => "virtio-blk-pci".to_owned(),
            Bus::Nvme => "nvme".to_owned(),
            Bus::Ahci => {
                port += 1;
                format!("ide-hd,bus=ahci0.{}", port - 1)
            }
        };
        let serial = serial(spec, disk, number);
        let (sector, index) = (disk.sector, first + number);
        line.option(
            "-device",
            &format!(
                "{device},drive=disk{number},serial={serial},logical_block_size={sector},\
                 physical_block_size=4096,bootindex={index}"
            ),
        );
    }
}

/// The serial number that a disk shows.
pub(crate) fn serial(spec: &NodeSpec, disk: &DiskSpec, number: usize) -> String {
    disk.serial.clone().unwrap_or_else(|| format!("{}-{number}", spec.name))
}

/// QEMU's option syntax doubles commas.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
