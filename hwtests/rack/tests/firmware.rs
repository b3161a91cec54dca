//! The rack itself: real firmware reaches its network over both kinds of cable, and power,
//! cable and console do what they say. Needs no billet.

use std::{
    fs,
    net::Ipv4Addr,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rack::{
    Firmware, Neighbour, NodeSpec, Rack, Size, Tiny,
    cable::Kind,
    tiny::{self, BOOTS},
    tool,
};

const PATIENCE: Duration = Duration::from_secs(300);

#[expect(clippy::print_stderr, reason = "a test program of its own")]
fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The rack's bridge has one name and one address: one rack at a time.
    arguments.test_threads = Some(1);
    if let Err(error) = rack::enter() {
        eprintln!("entering a network namespace: {error:#}");
        return ExitCode::FAILURE;
    }
    // Without /dev/net/tun (an ordinary user on most hosts) the first is reported as ignored.
    let no_tap = !matches!(Kind::choose(), Ok(Kind::Tap));
    let kinds = [("tap", Kind::Tap, no_tap), ("stream", Kind::Stream, false)];
    let trials = kinds.map(|(name, kind, ignored)| {
        let trial = Trial::test(format!("bios_and_uefi_boot_a_program_over_{name}"), move || {
            boots_over(kind).map_err(|error| Failed::from(format!("{error:#}")))
        });
        trial.with_ignored_flag(ignored)
    });
    let tiny = Trial::test("a_tiny_disk_says_that_it_boots", || {
        tiny_boots().map_err(|error| Failed::from(format!("{error:#}")))
    });
    let dead = Trial::test("a_wait_ends_when_the_emulator_dies", || {
        the_emulator_dies().map_err(|error| Failed::from(format!("{error:#}")))
    });
    let trials = trials.into_iter().chain([tiny, dead]).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A script for the iPXE in the card's ROM, and any file at all for OVMF's own PXE client.
fn boots_over(kind: Kind) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut rack = Rack::with_cables(folder.path(), kind)?;
    fs::write(folder.path().join("hello.ipxe"), "#!ipxe\necho the rack says hello\nshell\n")?;
    let mut dnsmasq = Command::new(tool::program("dnsmasq", "dnsmasq-base")?);
    dnsmasq
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-"])
        .args(["--user=", "--group=", "--interface=wire0", "--dhcp-range=10.77.0.100,10.77.0.199"])
        .args(["--log-dhcp", "--enable-tftp", "--dhcp-boot=hello.ipxe"])
        .arg(format!("--tftp-root={}", folder.path().display()))
        .arg(format!("--pid-file={}/pid", folder.path().display()))
        .arg(format!("--dhcp-leasefile={}/leases", folder.path().display()));
    let log = folder.path().join("dnsmasq.log");
    let _server = Neighbour::start(1, Ipv4Addr::new(10, 77, 0, 2), dnsmasq, &log)?;

    let bios = rack.add(NodeSpec::new("bios", Firmware::Bios))?;
    let uefi = rack.add(NodeSpec::new("uefi", Firmware::Uefi))?;
    bios.power_on()?;
    uefi.power_on()?;
    bios.console().wait_for("the rack says hello", PATIENCE)?;
    uefi.console().wait_for("NBP file downloaded successfully", PATIENCE)?;

    uefi.cut();
    bios.reset()?;
    bios.console().wait_for("SeaBIOS", PATIENCE)?;
    bios.cut();
    ensure!(!bios.is_on(), "the power was cut");
    if kind == Kind::Stream {
        return Ok(()); // the cable is pulled in QEMU, which is the same for both
    }
    bios.unplug()?;
    bios.power_on()?;
    bios.console().wait_for("No more network devices", PATIENCE)?;
    bios.plug()?;
    bios.reset()?;
    bios.console().wait_for("the rack says hello", PATIENCE)?;
    Ok(())
}

fn tiny_boots() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = Tiny::make(folder.path(), "hello", Size::mib(4))?;
    let mut rack = Rack::new(&folder.path().join("rack"))?;
    let node = rack.add(NodeSpec::new("tiny", Firmware::Bios))?;
    tiny::does_not_boot(node.disk(0)?)?;
    ensure!(disk.is_on(node.disk(0)?).is_err(), "the disk is empty");
    fs::copy(&disk.path, node.disk(0)?)?;
    disk.is_on(node.disk(0)?)?;
    ensure!(tiny::does_not_boot(node.disk(0)?).is_err(), "the disk boots");
    tiny::table_is_sound(node.disk(0)?)?;
    node.power_on()?;
    node.console().wait_for(&format!("{BOOTS} hello"), PATIENCE)?;
    Ok(())
}

/// As of a failed assertion. A machine that the rack itself cuts off is not taken for dead.
fn the_emulator_dies() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut rack = Rack::new(&folder.path().join("rack"))?;
    let node = rack.add(NodeSpec::new("mortal", Firmware::Bios))?;
    node.power_on()?;
    node.cut();
    node.power_on()?;
    node.console().wait_for("SeaBIOS", PATIENCE)?;
    let pid = node.pid().context("it is on")?;
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGABRT)?;
    let waited = node.console().wait_for("what never comes", PATIENCE);
    let why = waited.err().context("nobody prints that")?.to_string();
    ensure!(why.contains("QEMU of mortal died of SIGABRT") && why.contains("qemu.log"), "{why}");
    Ok(())
}
