//! The peers: where their programs come from and how an operator would start them.
//!
//! What can be installed beside us is (the Makefile's `BENCH_PACKAGES`). Debian's TFTP servers
//! exclude one another as packages and start at once as services, so they are only unpacked,
//! into `target/peers/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{
    target,
    wire::{self, LOAD_ADDRESS, SERVE, Wire, run},
};
use crate::tool;

/// Packages that are unpacked, libraries of theirs among them.
const UNPACKED: [&str; 3] = ["tftpd-hpa", "atftpd", "libwrap0"];

fn folder() -> Result<PathBuf> {
    Ok(target()?.join("peers"))
}

/// Downloads and unpacks the peers that cannot be installed, once.
///
/// # Errors
/// When one cannot be had: naming the package.
pub fn fetch() -> Result<()> {
    UNPACKED.iter().try_for_each(|package| fetch_one(package).map(drop))
}

/// cyclictest and the library that it needs, for a Debian node: a program and a library.
pub fn cyclictest() -> Result<[PathBuf; 2]> {
    let program = fetch_one("rt-tests")?.join("usr/bin/cyclictest");
    let library = fetch_one("libnuma1")?.join("usr/lib/x86_64-linux-gnu/libnuma.so.1");
    Ok([program, library])
}

/// Debian's kernel for the hand-made RAM system: its package, unpacked.
pub fn kernel() -> Result<PathBuf> {
    fetch_one(&needed_by("linux-image-amd64", "linux-image-")?)
}

/// What a package needs, by how that one's name begins: releases name the same thing differently.
pub(crate) fn needed_by(package: &str, begins: &str) -> Result<String> {
    let depends = ask_apt("apt-cache", &["depends", "--important", package], Path::new("/"))
        .with_context(|| format!("finding the peer package {package}"))?;
    let mut needed = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let found = needed.find(|name| name.starts_with(begins));
    found.map(str::to_owned).with_context(|| format!("{package} needs no package {begins}..."))
}

/// Asks one of apt's programs, and once more with fresh lists: on many machines there are none.
fn ask_apt(program: &str, words: &[&str], folder: &Path) -> Result<String> {
    let program = tool::program(program, "apt")?;
    let ask = || run(Command::new(&program).args(words).current_dir(folder));
    ask().or_else(|_| {
        let mut update = Command::new(tool::program("apt-get", "apt")?);
        run(update.args(["-qq", "update"])).context("fetching package lists, as root may")?;
        ask()
    })
}

/// One package, unpacked below `target/peers/`.
pub(crate) fn fetch_one(package: &str) -> Result<PathBuf> {
    let folder = folder()?;
    let place = folder.join(package);
    if place.is_dir() {
        return Ok(place);
    }
    let scratch = folder.join(format!("{package}.new"));
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).with_context(|| format!("making {}", scratch.display()))?;
    unpack(package, &scratch)
        .with_context(|| format!("fetching the peer package {package} by apt-get"))?;
    fs::rename(&scratch, &place).with_context(|| format!("making {}", place.display()))?;
    Ok(place)
}

fn unpack(package: &str, folder: &Path) -> Result<()> {
    // As root apt would hand the download to its own user, who may not write here.
    ask_apt("apt-get", &["-o", "APT::Sandbox::User=root", "download", package], folder)?;
    let entries = fs::read_dir(folder).context("listing the download")?;
    let archive = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let archive = archive.context("finding the downloaded archive")?;
    run(Command::new(tool::program("dpkg-deb", "dpkg")?).arg("-x").arg(archive).arg(folder))?;
    Ok(())
}

fn unpacked(wire: &Wire, package: &str, program: &str) -> Result<Command> {
    let folder = folder()?;
    let path = folder.join(package).join("usr/sbin").join(program);
    ensure!(path.is_file(), "{} is missing in the peer package {package}", path.display());
    let mut command = wire.command(&path)?;
    let libraries = folder.join("libwrap0");
    let places = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
    let places = places.map(|place| libraries.join(place).display().to_string());
    command.env("LD_LIBRARY_PATH", places.join(":"));
    Ok(command)
}

/// tftpd-hpa, serving the files of `root`.
pub fn tftpd_hpa(wire: &Wire, root: &Path) -> Result<Command> {
    let mut command = unpacked(wire, "tftpd-hpa", "in.tftpd")?;
    command.args(["--foreground", "--secure", "--user", "root", "--address", "0.0.0.0:69"]);
    command.arg(root);
    Ok(command)
}

/// atftpd, serving the files of `root`; the only one of them that grants windows.
pub fn atftpd(wire: &Wire, root: &Path) -> Result<Command> {
    let mut command = unpacked(wire, "atftpd", "atftpd")?;
    command.args(["--daemon", "--no-fork", "--user", "root.root", "--logfile", "-"]);
    command.args(["--maxthread", "200", "--port", "69", "--verbose=3"]).arg(root);
    Ok(command)
}

fn dnsmasq(wire: &Wire) -> Result<Command> {
    let mut command = wire.command(&tool::program("dnsmasq", "dnsmasq-base")?)?;
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"]);
    command.args(["--log-facility=-", "--user=root", &format!("--interface={SERVE}")]);
    Ok(command)
}

/// dnsmasq, serving the files of `root`. Its limit of transfers is 50 otherwise.
pub fn dnsmasq_tftp(wire: &Wire, root: &Path) -> Result<Command> {
    let mut command = dnsmasq(wire)?;
    command.args(["--enable-tftp", "--tftp-max=200"]);
    command.arg(format!("--tftp-root={}", root.display()));
    Ok(command)
}

/// dnsmasq, giving addresses; without the ping that holds an offer back for seconds.
pub fn dnsmasq_dhcp(wire: &Wire, state: &Path) -> Result<Command> {
    let mut command = dnsmasq(wire)?;
    let [first, last] = POOL;
    command.arg(format!("--dhcp-range={first},{last},255.255.0.0,1h"));
    command.args(["--no-ping", "--dhcp-authoritative", "--quiet-dhcp", "--dhcp-lease-max=30000"]);
    command.arg(format!("--dhcp-leasefile={}", state.join("leases").display()));
    Ok(command)
}

/// The addresses that every DHCP server gives on the wire.
pub const POOL: [&str; 2] = ["10.78.16.0", "10.78.127.255"];

/// kea-dhcp4 with its leases in a file, as its package ships it.
pub fn kea(wire: &Wire, state: &Path) -> Result<Command> {
    let mut command = wire.command(&tool::program("kea-dhcp4", "kea-dhcp4-server")?)?;
    let path = state.join("kea.json");
    let [first, last] = POOL;
    let configuration = serde_json::json!({ "Dhcp4": {
        "interfaces-config": { "interfaces": [SERVE] },
        "lease-database": { "type": "memfile", "persist": true, "name": state.join("leases.csv") },
        "valid-lifetime": 3600,
        "subnet4": [{
            "subnet": format!("10.78.0.0/{}", wire::PREFIX),
            "pools": [{ "pool": format!("{first} - {last}") }],
            "option-data": [{ "name": "routers", "data": LOAD_ADDRESS }],
        }],
        "loggers": [{ "name": "kea-dhcp4", "severity": "ERROR" }],
    }});
    fs::write(&path, configuration.to_string()).context("configuring kea-dhcp4")?;
    command.arg("-c").arg(path);
    command.env("KEA_LOCKFILE_DIR", state).env("KEA_PIDFILE_DIR", state);
    Ok(command)
}
