//! Beside a foreign DHCP server: it gives the addresses, billet what to boot.

use std::{
    fs,
    net::Ipv4Addr,
    process::{Command, ExitCode},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rack::{
    Bus, Dhcp, DiskSpec, Firmware, Neighbour, Node, NodeSpec, Size,
    rack::ADDRESS,
    stage::{self, PATIENCE, Program, Stage, Story},
    tool,
};

static PROGRAM: Program = Program {
    options: |mut options| {
        options.dhcp = Dhcp::Proxy;
        options
    },
    ..Program::TINY
};

/// Where the foreign server lives, and a client without firmware.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);

fn main() -> ExitCode {
    let story = Story { name: "bios_and_uefi_beside_a_foreign_dhcp_server", play: beside };
    stage::run(&PROGRAM, vec![story])
}

fn beside(stage: &Stage) -> Result<()> {
    let mut dnsmasq = Command::new(tool::program("dnsmasq", "dnsmasq-base")?);
    dnsmasq
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-"])
        .args(["--user=", "--group=", "--interface=wire0", "--dhcp-range=10.77.0.30,10.77.0.60"])
        .args(["--log-dhcp", "--dhcp-authoritative", "--dhcp-leasefile=/dev/null"])
        .arg(format!("--pid-file={}", stage.folder().join("dnsmasq.pid").display()));
    let log = stage.folder().join("dnsmasq.log");
    let _foreign = Neighbour::start(1, FOREIGN, dnsmasq, &log)?;
    let tiny = stage.tiny("beside", Size::mib(8))?;
    let mut open = Vec::new();
    for (name, firmware) in [("bios", Firmware::Bios), ("uefi", Firmware::Uefi)] {
        let disk = DiskSpec::new(Size::mib(64), Bus::Virtio);
        let node = stage.enrolled(NodeSpec::new(name, firmware).with_disks(vec![disk]))?;
        open.push((stage.deploy(&node, "beside")?, node));
    }
    asks_the_boot_server(stage, &open[1].1)?;
    for (deployment, node) in &open {
        stage.done(deployment, PATIENCE)?;
        tiny.is_on(node.disk(0)?)?;
        let given = std::fs::read_to_string(&log)?;
        ensure!(given.contains(node.mac()), "the foreign server gave {} its address", node.name());
        node.cut();
    }
    Ok(())
}

/// The PXE boot server's own port (PXE 2.1, section 2.2.4), to which firmware turns that has no use for
/// the proxy's offer: it has its address by then.
fn asks_the_boot_server(stage: &Stage, node: &Node) -> Result<()> {
    let (request, answer) = (stage.folder().join("request"), stage.folder().join("answer"));
    let packet = boot_server_request(node.mac())?;
    fs::write(&request, &packet).context("writing a packet")?;
    // One `write` is one datagram.
    let script = format!(
        "exec 3<>/dev/udp/{ADDRESS}/4011; dd if={} bs=4096 count=1 >&3; \
         timeout 20 dd of={} bs=4096 count=1 <&3; echo asked",
        request.display(),
        answer.display(),
    );
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]);
    let log = stage.folder().join("boot-server.log");
    let _client = Neighbour::start(2, CLIENT, bash, &log)?;
    let began = Instant::now();
    while !fs::read_to_string(&log).unwrap_or_default().contains("asked") {
        ensure!(began.elapsed() < PATIENCE, "the client does not end");
        sleep(Duration::from_millis(100));
    }
    let answer = fs::read(&answer).context("reading an answer")?;
    ensure!(answer.len() >= 240, "port 4011 does not answer");
    ensure!(answer[0] == 2 && answer[4..8] == packet[4..8], "it is no reply to this request");
    let named = answer.windows(8).any(|part| part == b"ipxe.efi");
    ensure!(named, "no boot program is named: {answer:?}");
    Ok(())
}

/// A DHCPREQUEST of an x86-64 UEFI machine (RFC 2131, section 2; RFC 4578).
fn boot_server_request(mac: &str) -> Result<Vec<u8>> {
    let mac = mac.split(':').map(|part| u8::from_str_radix(part, 16));
    let mac = mac.collect::<Result<Vec<u8>, _>>().context("reading a MAC address")?;
    let mut packet = vec![0; 236];
    packet[..8].copy_from_slice(&[1, 1, 6, 0, 0xb1, 0x11, 0xe7, 0x01]);
    packet[12..16].copy_from_slice(&CLIENT.octets());
    packet[28..34].copy_from_slice(&mac);
    packet.extend([99, 130, 83, 99, 53, 1, 3, 93, 2, 0, 7, 60, 32]);
    packet.extend(b"PXEClient:Arch:00007:UNDI:003016");
    packet.push(255);
    Ok(packet)
}
