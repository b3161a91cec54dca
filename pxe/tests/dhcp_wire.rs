//! DHCP and router advertisements on a real wire: `billet serve` at one end of a veth pair,
//! busybox's udhcpc and raw sockets at the other, all in a network namespace of their own. What a
//! machine was promised must outlive `kill -9`, and malformed packets must not stop the service.

use std::{
    env,
    error::Error,
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Trial};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use socket2::{Domain, Protocol, Socket, Type};

// A program has no library that a test could link with.
#[path = "../src/capture.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the program's own tests use the rest"
)]
mod capture;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Says that this process is in its namespace already.
const INSIDE: &str = "BILLET_TEST_NAMESPACE";

fn main() -> ExitCode {
    if env::var_os(INSIDE).is_none() {
        return enter();
    }
    let mut arguments = Arguments::from_args();
    // All share one wire and the ports 67 and 69.
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("an_address_outlives_kill_9", an_address_outlives_kill_9),
        trial("solicitations_are_answered", solicitations_are_answered),
        trial("nonsense_does_not_stop_the_service", nonsense_does_not_stop_the_service),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &str, story: fn(&Wire) -> Result<()>) -> Trial {
    Trial::test(name, move || Ok(story(&Wire::make()?).map_err(|error| error.to_string())?))
}

/// Starts this program again inside namespaces of its own.
fn enter() -> ExitCode {
    let root =
        fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let flags = if root { "-n" } else { "-Urn" };
    let error = Command::new("unshare")
        .arg(flags)
        .arg(env::current_exe().expect("a test program has a path"))
        .args(env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    println!("entering a network namespace by `unshare {flags}`: {error}");
    ExitCode::FAILURE
}

/// A veth pair and a folder; both are gone with it.
struct Wire {
    folder: tempfile::TempDir,
}

/// How many machines that nobody vouched for are recorded.
const STRANGERS: usize = 20;
const SERVER_END: &str = "srv";
const MACHINE_END: &str = "cli";

impl Wire {
    fn make() -> Result<Wire> {
        run("ip", &["link", "set", "lo", "up"])?;
        run("ip", &["link", "add", SERVER_END, "type", "veth", "peer", "name", MACHINE_END])?;
        run("ip", &["addr", "add", "10.77.0.1/24", "dev", SERVER_END])?;
        run("ip", &["link", "set", SERVER_END, "up"])?;
        run("ip", &["link", "set", MACHINE_END, "up"])?;
        let wire = Wire { folder: tempfile::tempdir()? };
        let script = wire.path("udhcpc");
        fs::write(&script, "#!/bin/sh\n[ \"$1\" = bound ] && echo \"$ip\" >\"$GOT\"\nexit 0\n")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let config = format!(
            "data = '{}'
             [http]
             listen = '10.77.0.1:8080'
             [dhcp]
             mode = 'server'
             interfaces = ['{SERVER_END}']
             [[dhcp.subnets]]
             network = '10.77.0.0/24'
             pools = ['10.77.0.100-10.77.0.199']
             [nodes]
             discovered = {STRANGERS}",
            wire.path("data").display()
        );
        fs::write(wire.path("billet.toml"), config)?;
        Ok(wire)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn serve(&self) -> Result<Server> {
        let log = fs::File::options().create(true).append(true).open(self.path("log"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_billet"));
        command.arg("serve").arg("--config").arg(self.path("billet.toml"));
        Ok(Server(command.stdout(log.try_clone()?).stderr(log).spawn()?))
    }

    /// How many machines are known.
    fn nodes(&self) -> Result<usize> {
        let output = Command::new(env!("CARGO_BIN_EXE_billet"))
            .args(["node", "ls", "--json", "--server", "http://10.77.0.1:8080", "--token-file"])
            .arg(self.path("data/admin.token"))
            .output()?;
        let nodes: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        Ok(nodes.as_array().ok_or("nodes are a list")?.len())
    }

    /// The address that a machine with this hardware address gets, within some seconds.
    fn boot(&self, mac: &str) -> Result<Ipv4Addr> {
        let got = self.path("got");
        fs::write(&got, "")?;
        run("ip", &["link", "set", MACHINE_END, "address", mac])?;
        let client = Command::new("busybox")
            .args(["udhcpc", "-f", "-q", "-n", "-t", "20", "-T", "1", "-i", MACHINE_END, "-s"])
            .arg(self.path("udhcpc"))
            .env("GOT", &got)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if !client.success() {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            return Err(format!("udhcpc got no address; the server said:\n{log}").into());
        }
        Ok(fs::read_to_string(&got)?.trim().parse()?)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = run("ip", &["link", "del", SERVER_END]);
    }
}

/// `billet serve`, killed without mercy when it is dropped.
struct Server(Child);

impl Server {
    /// Its resident memory in KiB.
    fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(number.ok_or("the kernel tells no VmRSS")?.parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(program: impl AsRef<Path>, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program.as_ref()).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{} {}: {said}", program.as_ref().display(), arguments.join(" ")).into())
}

fn an_address_outlives_kill_9(wire: &Wire) -> Result<()> {
    let server = wire.serve()?;
    let first = wire.boot("52:54:00:77:00:01")?;
    drop(server);
    let _server = wire.serve()?;
    let second = wire.boot("52:54:00:77:00:02")?;
    assert_ne!(first, second, "the promised address went to another machine");
    assert_eq!(wire.boot("52:54:00:77:00:01")?, first);
    Ok(())
}

fn solicitations_are_answered(wire: &Wire) -> Result<()> {
    let _server = wire.serve()?;
    let interface = nix::net::if_::if_nametoindex(MACHINE_END)?;
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.bind_device(Some(MACHINE_END.as_bytes()))?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_if_v6(interface)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let socket = UdpSocket::from(socket);
    let routers = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2), 0, 0, interface);
    let until = Instant::now() + Duration::from_secs(30);
    let mut message = [0; 256];
    while Instant::now() < until {
        // Both ends need their link-local addresses first, which takes the kernel a second or two.
        let _ = socket.send_to(&[133, 0, 0, 0, 0, 0, 0, 0], routers);
        let Ok(length) = socket.recv(&mut message) else {
            continue;
        };
        if message[0] == 134 {
            assert_eq!(length, 16, "no options");
            assert_eq!(message[4..16], [0; 12], "no hop limit, no flags, no lifetime");
            return Ok(());
        }
    }
    Err("no advertisement came in 30 s".into())
}

fn nonsense_does_not_stop_the_service(wire: &Wire) -> Result<()> {
    let mut server = wire.serve()?;
    let before = wire.boot("52:54:00:77:00:01")?;
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.bind_device(Some(MACHINE_END.as_bytes()))?;
    socket.set_broadcast(true)?;
    let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, 0).into();
    let requests = capture::requests();
    let mut dice = StdRng::seed_from_u64(7);
    let mut bombard = |packets: usize| -> Result<()> {
        for round in 0..packets {
            let bytes = match round % 4 {
                0 => noise(&mut dice),
                _ => damaged(&requests, &mut dice),
            };
            socket.send_to(&from_a_client(&bytes), &everybody)?;
            if round % 200 == 0 {
                sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    };
    bombard(10_000)?;
    let (warm, room) = (server.resident()?, 8 << 10);
    bombard(30_000)?;
    assert!(server.0.try_wait()?.is_none(), "the server ended");
    assert_eq!(wire.boot("52:54:00:77:00:01")?, before);
    let now = server.resident()?;
    assert!(now < warm + room, "it grew from {warm} to {now} KiB by packets that mean nothing");
    let strangers = wire.nodes()?;
    assert!((2..=STRANGERS).contains(&strangers), "{strangers} strangers are recorded");
    Ok(())
}

/// As an IPv4 datagram whose sender is not this host, which the kernel would drop; it adds the header's
/// checksum (raw(7)).
fn from_a_client(payload: &[u8]) -> Vec<u8> {
    let length = |header: usize| ((header + payload.len()) as u16).to_be_bytes();
    let mut datagram = vec![0x45, 0];
    datagram.extend(length(28));
    datagram.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 77, 255, 255, 255, 255]);
    datagram.extend([0, 68, 0, 67]);
    datagram.extend(length(8));
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// Random bytes, half of them with a DHCP packet's beginning.
fn noise(dice: &mut StdRng) -> Vec<u8> {
    let length = dice.random_range(0..1400);
    let mut bytes: Vec<u8> = (0..length).map(|_| dice.random()).collect();
    if dice.random_bool(0.5) && bytes.len() > 240 {
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
    }
    bytes
}

/// What firmware really sent, from another machine each time and with some bytes changed.
fn damaged(requests: &[Vec<u8>], dice: &mut StdRng) -> Vec<u8> {
    let mut bytes = requests[dice.random_range(0..requests.len())].clone();
    if let Some(hardware_address) = bytes.get_mut(28..34) {
        hardware_address.copy_from_slice(&[0x52, 0x54, 1, dice.random(), dice.random(), 7]);
    }
    for _ in 0..dice.random_range(0..4) {
        let at = dice.random_range(0..bytes.len());
        bytes[at] = dice.random();
    }
    bytes
}
