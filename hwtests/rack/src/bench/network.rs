//! `net-first`, `net-again`: 64 bridges and 256 ports with their VLANs, by `billet-agent` and by
//! `ip -batch` with `bridge -batch`; and the same state applied again, which has to start a program
//! and to ask the kernel for every link and VLAN: `net-look` has beside it what `ip` and `bridge`
//! take to do no more than that. Each run has a network namespace of its own, on the host's kernel
//! where that has VLAN-aware bridges, else on Debian's kernel in a machine.
//!
//! nmstate (`nmstatectl apply --kernel`) is no peer: without NetworkManager, version 2.2.62 reads the VLANs of a
//! bridge's ports and never sets them.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    rounds::{Contender, interleave},
    row::{Better, Row},
    say,
};
use crate::{artefacts::Programs, hardware::Hardware, kernel::Kernel, tool};

const BRIDGES: usize = 64;
const PORTS: usize = 4;
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(900);

/// All rows.
pub fn run(folder: &Path) -> Result<Vec<Row>> {
    let agent = Programs::agent()?;
    let medians = if capable()? { measure(&agent, folder)? } else { in_machine(agent, folder)? };
    let [first, batch, again, look] = medians[..] else {
        anyhow::bail!("four medians are wanted, {medians:?} came");
    };
    Ok(vec![
        Row::compare("net-first", "ms", Better::Less, first, &[("ip and bridge -batch", batch)])
            .with_bar(1.5),
        Row::compare("net-again", "ms", Better::Less, again, &[("net-first", first)]).with_bar(0.1),
        Row::compare("net-look", "ms", Better::Less, again, &[("ip link, bridge vlan", look)]),
    ])
}

/// Inside the machine.
pub(super) fn inside() -> Result<Vec<f64>> {
    std::env::set_current_dir("/tmp").context("entering /tmp")?;
    measure(Path::new("/bin/billet-agent"), Path::new("/tmp"))
}

fn in_machine(agent: PathBuf, folder: &Path) -> Result<Vec<f64>> {
    say("this kernel has no VLAN-aware bridges: measuring on Debian's in a machine");
    let machine = Kernel {
        modules: &["bridge", "8021q", "dummy"],
        programs: &[("ip", "iproute2"), ("bridge", "iproute2")],
        files: &[("bin/billet-agent", agent)],
    };
    super::medians_inside(&machine, &Hardware::plain()?, folder, "network", PATIENCE)
}

/// Whether the host's kernel has what is measured.
fn capable() -> Result<bool> {
    let ip = tool::program("ip", "iproute2")?;
    let ip = ip.display();
    let script =
        format!("{ip} link add br0 type bridge vlan_filtering 1 && {ip} link add d0 type dummy");
    let mut command = Command::new("busybox");
    let output = command.args(["unshare", "-n", "busybox", "sh", "-c", &script]).output();
    Ok(output.context("starting busybox")?.status.success())
}

/// The medians of billet's first run, the batches, billet's second run, and the look of others, in
/// milliseconds.
fn measure(agent: &Path, folder: &Path) -> Result<Vec<f64>> {
    let files = Files::write(folder)?;
    let state = folder.join("net-state").display().to_string();
    let agent = agent.display().to_string();
    let desired = files.desired.display().to_string();
    let apply = [agent.as_str(), "network", "apply", desired.as_str(), "--state", state.as_str()];
    // By their paths: busybox's shell has an `ip` of its own.
    let (ip, bridge) = (tool::program("ip", "iproute2")?, tool::program("bridge", "iproute2")?);
    let batch = |by: &Path, file: &Path| format!("{} -batch {}", by.display(), file.display());
    let (links, vlans) = (batch(&ip, &files.links), batch(&bridge, &files.vlans));
    let stage = batch(&ip, &files.stage);
    let apply = apply.join(" ");
    let both = format!("{links} && {vlans}");
    let (first, twice) = (timed(&stage, &apply, ""), timed(&stage, &apply, &apply));
    let batches = timed(&stage, &both, "");
    let look =
        format!("{} -d link >/dev/null && {} -c vlan >/dev/null", ip.display(), bridge.display());
    let looks = timed(&stage, &apply, &look);
    interleave(
        ROUNDS,
        &mut [
            Contender::new("billet-agent", || first(folder)),
            Contender::new("ip and bridge -batch", || batches(folder)),
            Contender::new("billet-agent again", || twice(folder)),
            Contender::new("ip link and bridge vlan", || looks(folder)),
        ],
    )
}

/// A run of the last command, after the others, in a namespace of its own.
fn timed(stage: &str, first: &str, second: &str) -> impl Fn(&Path) -> Result<f64> {
    let script = match second {
        "" => format!("{stage} && echo ready && read go && {first} && echo done && read end"),
        second => {
            format!(
                "{stage} && {first} >&2 && echo ready && read go && {second} && echo done && read end"
            )
        }
    };
    move |folder| {
        let log = fs::File::create(folder.join("net.log")).context("opening a log")?;
        let mut child = Command::new("busybox")
            .args(["unshare", "-n", "busybox", "sh", "-c", &script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(log)
            .spawn()
            .context("starting a run")?;
        let mut input = child.stdin.take().context("taking a run's input")?;
        let output = child.stdout.take().context("taking a run's output")?;
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(output));
        let mut wait_for = |word: &str| {
            let found = lines.by_ref().map_while(Result::ok).any(|line| line == word);
            ensure!(found, "a run failed; see {}", folder.join("net.log").display());
            Ok(())
        };
        wait_for("ready")?;
        let begin = Instant::now();
        std::io::Write::write_all(&mut input, b"go\n").context("starting a run")?;
        wait_for("done")?;
        let time = begin.elapsed().as_secs_f64() * 1000.0;
        drop(input);
        child.wait().context("waiting for a run")?;
        Ok(time)
    }
}

/// What both are told.
struct Files {
    desired: PathBuf,
    /// The ports, which are there before.
    stage: PathBuf,
    links: PathBuf,
    vlans: PathBuf,
}

impl Files {
    fn write(folder: &Path) -> Result<Self> {
        let (mut desired, mut stage) = (String::new(), String::new());
        let (mut links, mut vlans) = (String::new(), String::new());
        for bridge in 0..BRIDGES {
            let name = format!("br{bridge}");
            links += &format!("link add {name} type bridge vlan_filtering 1\n");
            let mut ports = Vec::new();
            for number in 0..PORTS {
                let port = format!("p{bridge}.{number}");
                writeln!(stage, "link add {port} type dummy")?;
                writeln!(links, "link set {port} master {name} up")?;
                writeln!(vlans, "vlan del dev {port} vid 1")?;
                let first = 100 + 10 * number;
                for id in [first, first + 2, first + 4] {
                    writeln!(vlans, "vlan add dev {port} vid {id}")?;
                }
                writeln!(vlans, "vlan add dev {port} vid 1000-1099")?;
                let ids = format!("{first},{},{},1000-1099", first + 2, first + 4);
                ports.push(format!("{{ name = \"{port}\", vlans = \"{ids}\" }}"));
            }
            writeln!(links, "link set {name} up")?;
            let ports = ports.join(", ");
            write!(desired, "[[network.bridge]]\nname = \"{name}\"\nvlan_filtering = true\n")?;
            writeln!(desired, "ports = [{ports}]")?;
        }
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            anyhow::Ok(path)
        };
        Ok(Files {
            desired: write("net-desired.toml", &desired)?,
            stage: write("net-stage", &stage)?,
            links: write("net-links", &links)?,
            vlans: write("net-vlans", &vlans)?,
        })
    }
}
