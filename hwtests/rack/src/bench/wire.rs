//! A wire between two namespaces: servers at one end with their real ports, load at the other.
//!
//! Two ends in one namespace would not do: the kernel hands a packet between two addresses of
//! its own over `lo`, and a DHCP server's broadcast never comes back.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{Child, netlink::Netlink, tool};

/// The load's interface, in this process's namespace.
pub const LOAD: &str = "load0";
/// The servers' interface, in the other.
pub const SERVE: &str = "serve0";
/// The load's address.
pub const LOAD_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// The servers' address.
pub const SERVE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
/// Both are in a /16: thousands of machines ask at once.
pub const PREFIX: u8 = 16;

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(15);

/// The wire; gone when dropped.
pub struct Wire {
    /// Keeps the other namespace alive.
    holder: Child,
}

impl Wire {
    /// Lays it, from the namespace that [`crate::enter()`] made.
    pub fn lay(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let mut unshare = Command::new(tool::program("unshare", "util-linux")?);
        unshare.args(["--net", "sleep", "infinity"]);
        let log = folder.join("wire.log");
        let wire = Wire { holder: Child::start("unshare", unshare, &log, Vec::new())? };
        wire.wait_for_namespace()?;
        let mut netlink = Netlink::open()?;
        netlink.add_veth(LOAD, SERVE)?;
        netlink.add_address(LOAD, LOAD_ADDRESS, PREFIX)?;
        netlink.set_up(LOAD)?;
        let ip = tool::program("ip", "iproute2")?;
        let pid = wire.holder.pid().to_string();
        run(Command::new(&ip).args(["link", "set", SERVE, "netns", &pid]))?;
        let address = format!("{SERVE_ADDRESS}/{PREFIX}");
        for words in [
            ["addr", "add", &address, "broadcast", "+", "dev", SERVE].as_slice(),
            &["link", "set", SERVE, "up"],
            &["link", "set", "lo", "up"],
        ] {
            run(wire.command(&ip)?.args(words))?;
        }
        Ok(wire)
    }

    /// `unshare` has a process id before it has a namespace.
    fn wait_for_namespace(&self) -> Result<()> {
        let ours = fs::read_link("/proc/self/ns/net").context("reading our namespace")?;
        let theirs = format!("/proc/{}/ns/net", self.holder.pid());
        let began = Instant::now();
        while fs::read_link(&theirs).with_context(|| format!("reading {theirs}"))? == ours {
            ensure!(began.elapsed() < Duration::from_secs(5), "unshare made no namespace");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// A command that will run `program` at the servers' end, under one process id with it.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(tool::program("nsenter", "util-linux")?);
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.pid())).arg("--").arg(program);
        Ok(command)
    }

    /// Starts a server at the other end and waits until it listens on UDP `port`.
    ///
    /// # Errors
    /// When it ends or does not within some seconds: with its log.
    pub fn serve(&self, name: &str, command: Command, log: &Path, port: u16) -> Result<Child> {
        let mut server = Child::start(name, command, log, Vec::new())?;
        let began = Instant::now();
        while !self.listens(port)? {
            let ended = server.ended();
            if ended.is_some() || began.elapsed() > PATIENCE {
                let how = ended.map_or("does not listen".to_owned(), |status| status.to_string());
                let said = fs::read_to_string(log).unwrap_or_default();
                bail!("{name} on UDP port {port}: {how}; it said:\n{said}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    fn listens(&self, port: u16) -> Result<bool> {
        let sockets = format!("/proc/{}/net/udp", self.holder.pid());
        let sockets = fs::read_to_string(&sockets).with_context(|| format!("reading {sockets}"))?;
        let port = format!(":{port:04X}");
        let mut locals = sockets.lines().filter_map(|line| line.split_whitespace().nth(1));
        Ok(locals.any(|local| local.ends_with(&port)))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Ok(mut netlink) = Netlink::open() {
            let _ = netlink.delete(LOAD);
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it fails: with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
