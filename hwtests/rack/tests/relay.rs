//! A machine behind a DHCP relay: it gets an address of its own subnet, and what to boot. The
//! relay is dnsmasq's, the machine busybox's client with the words of a firmware.

use std::{
    fs,
    net::Ipv4Addr,
    process::{Command, ExitCode},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rack::{
    Neighbour, Size,
    api::Enroll,
    rack::ADDRESS,
    stage::{self, PATIENCE, Program, Stage, Story},
    tool,
};
use serde_json::json;

/// The relay's end of the rack's network.
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Its end of the network where the machines are.
const FAR: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
const MAC: &str = "52:54:00:79:00:01";

static PROGRAM: Program = Program {
    options: |mut options| {
        options.more = format!(
            "\n[[dhcp.subnets]]\nnetwork = \"10.79.0.0/24\"\n\
             pools = [\"10.79.0.100-10.79.0.149\"]\nrouter = \"{FAR}\"\n"
        );
        options
    },
    ..Program::TINY
};

fn main() -> ExitCode {
    let story = Story { name: "a_machine_behind_a_relay", play: relayed };
    stage::run(&PROGRAM, vec![story])
}

fn relayed(stage: &Stage) -> Result<()> {
    let heard = stage.folder().join("heard");
    fs::create_dir_all(&heard).context("making a folder")?;
    let mut host = Command::new("busybox");
    let script = include_str!("relay/host");
    host.args(["sh", "-c", script]).env("FOLDER", &heard).env("MAC", MAC);
    host.env("IP", tool::program("ip", "iproute2")?);
    host.env("DNSMASQ", tool::program("dnsmasq", "dnsmasq-base")?);
    host.env("FAR", FAR.to_string()).env("SERVER", ADDRESS.to_string());
    let mut route = Command::new(tool::program("ip", "iproute2")?);
    let _relay = Neighbour::start(1, RELAY, host, &heard.join("log"))?;
    route.args(["route", "add", "10.79.0.0/24", "via", &RELAY.to_string()]);
    ensure!(route.status().context("running ip")?.success(), "no route to the relay's network");

    // A machine that nobody knows has an address, and nothing to boot.
    let said = ask(&heard, "plain", "")?;
    ensure!(value(&said, "ip").starts_with("10.79.0.1"), "no address of its subnet:\n{said}");
    ensure!(value(&said, "router") == FAR.to_string(), "another router:\n{said}");
    let said = ask(&heard, "unknown", "PXEClient:Arch:00007:UNDI:003000")?;
    ensure!(value(&said, "boot_file").is_empty(), "a stranger is told what to boot:\n{said}");

    stage.tiny("far", Size::mib(4))?;
    let node = Enroll { name: "far".into(), macs: vec![MAC.into()], ..Enroll::default() };
    stage.api().enroll(&node)?;
    stage.api().deploy("far", &json!({ "image": "far" }))?;
    let said = ask(&heard, "uefi", "PXEClient:Arch:00007:UNDI:003000")?;
    ensure!(value(&said, "boot_file").ends_with(".efi"), "no program for UEFI:\n{said}");
    ensure!(value(&said, "siaddr") == ADDRESS.to_string(), "another server:\n{said}");
    ensure!(value(&said, "ip").starts_with("10.79.0.1"), "no address of its subnet:\n{said}");
    Ok(())
}

/// Has the machine ask, as the firmware with this vendor class, and tells what it was given.
fn ask(folder: &std::path::Path, name: &str, class: &str) -> Result<String> {
    fs::write(folder.join("ask.new"), format!("{name} {class}\n")).context("asking")?;
    fs::rename(folder.join("ask.new"), folder.join("ask")).context("asking")?;
    let began = Instant::now();
    loop {
        if let Ok(said) = fs::read_to_string(folder.join(name)) {
            return Ok(said);
        }
        let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
        ensure!(began.elapsed() < PATIENCE, "the machine hears nothing:\n{}", log());
        sleep(Duration::from_millis(100));
    }
}

fn value<'a>(said: &'a str, key: &str) -> &'a str {
    let of = |line: &'a str| line.strip_prefix(key)?.strip_prefix('=');
    said.lines().find_map(of).unwrap_or_default()
}
