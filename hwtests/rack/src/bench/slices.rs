//! `slices-64`: 64 VFs of an InfiniBand card named, on netdevsim. `slices-14`: 14 VFs of two igb
//! cards carved, named, bound to vfio-pci and released again. billet-agent beside a shell script of
//! `ip link set ... vf` and writes to sysfs that does the same, each from a fresh card, on Debian's
//! kernel in a machine.
//!
//! The script looks at nothing before and nothing afterwards, and remembers nothing.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    medians_inside,
    rounds::{Contender, interleave},
    row::{Better, Row},
};
use crate::{
    artefacts::Programs,
    hardware::{self, Hardware},
    kernel::Kernel,
    netdevsim,
};

const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(1200);
/// VFs of the simulated card.
const NAMED: u32 = 64;
/// VFs of each of the two cards.
const CUT: u32 = 7;

/// What needs this machine's network.
pub fn prepare() -> Result<()> {
    hardware::unpacked_qemu()?;
    netdevsim::module().map(drop)
}

/// Both rows, a slice's share each.
pub fn run(folder: &Path) -> Result<Vec<Row>> {
    let named = in_machine(folder, "netdevsim", &Hardware::plain()?)?;
    let cut = in_machine(folder, "igb", &Hardware::with_igb()?)?;
    let row = |name, numbers: &[f64], count: u32| {
        let [ours, script, others @ ..] = numbers else {
            anyhow::bail!("two medians are wanted, {numbers:?} came");
        };
        let each = |all: &f64| all / f64::from(count);
        let row = Row::compare(name, "ms", Better::Less, each(ours), &[("script", each(script))]);
        let mut rows = vec![row.with_bar(1.0)];
        rows.extend(others.iter().map(|batch| {
            let name = &format!("{name}-batch");
            Row::compare(name, "ms", Better::Less, each(ours), &[("ip -batch", each(batch))])
        }));
        Ok(rows)
    };
    Ok([row("slices-64", &named, NAMED)?, row("slices-14", &cut, 2 * CUT)?].concat())
}

fn in_machine(folder: &Path, what: &str, hardware: &Hardware) -> Result<Vec<f64>> {
    let machine = Kernel {
        modules: &["psample", "ib_core", "igb", "vfio_iommu_type1", "vfio-pci"],
        programs: &[("ip", "iproute2")],
        files: &[
            ("bin/billet-agent", Programs::agent()?),
            (netdevsim::INSIDE, netdevsim::module()?),
        ],
    };
    medians_inside(&machine, hardware, folder, what, PATIENCE)
        .with_context(|| format!("measuring on {what}"))
}

/// Inside the machine of that name.
pub(super) fn inside(what: &str) -> Result<Vec<f64>> {
    std::env::set_current_dir("/tmp").context("entering /tmp")?;
    match what {
        "netdevsim" => named(),
        _ => cut(),
    }
}

/// A run of a shell script: milliseconds.
fn timed(script: &str) -> Result<f64> {
    let begun = std::time::Instant::now();
    let mut shell = Command::new("/bin/busybox");
    let output = shell.args(["sh", "-ec", script]).env("PATH", "/bin").output();
    let output = output.context("starting a script")?;
    let time = begun.elapsed().as_secs_f64() * 1000.0;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "a script failed: {}", String::from_utf8_lossy(&said));
    Ok(time)
}

fn write(name: &str, text: &str) -> Result<()> {
    fs::write(name, text).with_context(|| format!("writing {name}"))
}

fn named() -> Result<Vec<f64>> {
    netdevsim::simulate()?;
    let link = netdevsim::cut(1, NAMED)?;
    let guid = |part: u8, vf: u32| format!("02:{part:02x}:00:00:00:00:01:{vf:02x}");
    // As `vf ls` prints them: what is wanted, and what is before.
    let names = |first: u8, policy: &str| {
        let one = |vf| {
            let (node, port) = (guid(first, vf), guid(first + 1, vf));
            format!("\"{vf}\":{{\"node\":\"{node}\",\"port\":\"{port}\",\"policy\":\"{policy}\"}}")
        };
        format!("{{{}}}", (0..NAMED).map(one).collect::<Vec<_>>().join(","))
    };
    write("wanted.json", &names(1, "up"))?;
    write("before.json", &names(3, "down"))?;
    let (mut script, mut batch) = (String::new(), String::new());
    for vf in 0..NAMED {
        let (node, port) = (guid(1, vf), guid(2, vf));
        // The kernel ends a message with its first GUID.
        let set = format!("link set {link} vf {vf}");
        let lines =
            [format!("{set} node_guid {node}"), format!("{set} state enable port_guid {port}")];
        for line in lines {
            script += &format!("/bin/ip {line}\n");
            batch += &format!("{line}\n");
        }
    }
    write("batch", &batch)?;
    let run = |script: &str| {
        timed(&format!("billet-agent vf load {link} before.json"))?;
        let time = timed(script)?;
        let output = Command::new("/bin/billet-agent").args(["vf", "ls", &link]).output();
        let says = output.context("asking for VFs")?.stdout;
        let says = String::from_utf8_lossy(&says).into_owned();
        for vf in 0..NAMED {
            let both = says.contains(&guid(1, vf)) && says.contains(&guid(2, vf));
            ensure!(both, "VF {vf} is not named in {says}");
        }
        Ok(time)
    };
    let load = format!("billet-agent vf load {link} wanted.json");
    interleave(
        ROUNDS,
        &mut [
            Contender::new("billet-agent", || run(&load)),
            Contender::new("script", || run(&script)),
            Contender::new("ip -batch", || run("/bin/ip -batch batch")),
        ],
    )
}

/// Nothing is carved, and drivers may have what is.
const AFRESH: &str = "for pf in /sys/bus/pci/drivers/igb/0000:*; do echo 0 >$pf/sriov_numvfs
    echo 1 >$pf/sriov_drivers_autoprobe; done; rm -rf state";

/// What is wanted of [`CUT`] VFs of every card, done by hand. Released they get the address of
/// nobody, as they do from billet.
const BY_HAND: &str = "
card=0
for pf in /sys/bus/pci/drivers/igb/0000:*; do
    card=$((card + 1))
    link=$(ls $pf/net)
    /bin/ip link set $link up
    echo 0 >$pf/sriov_drivers_autoprobe
    echo 7 >$pf/sriov_numvfs
    for vf in 0 1 2 3 4 5 6; do
        /bin/ip link set $link vf $vf mac 02:00:00:00:0$card:0$vf
        function=$(basename $(readlink $pf/virtfn$vf))
        echo vfio-pci >$pf/virtfn$vf/driver_override
        echo $function >/sys/bus/pci/drivers/vfio-pci/bind
    done
done
card=0
for pf in /sys/bus/pci/drivers/igb/0000:*; do
    card=$((card + 1))
    link=$(ls $pf/net)
    for vf in 0 1 2 3 4 5 6; do
        function=$(basename $(readlink $pf/virtfn$vf))
        echo $function >$pf/virtfn$vf/driver/unbind
        echo >$pf/virtfn$vf/driver_override
        echo 1 >$pf/virtfn$vf/reset
        /bin/ip link set $link vf $vf mac 02:00:00:00:1$card:0$vf
    done
done
";

fn cut() -> Result<Vec<f64>> {
    let fabric = format!(
        "[[fabric]]\nname = \"lan\"\nlink = \"ethernet\"\npfs = [\"eth0\", \"eth1\"]\nvfs = {CUT}\n"
    );
    let slice = |number| format!("[slice.s{number}]\nfabric = \"lan\"\n");
    let slices: String = (0..2 * CUT).map(slice).collect();
    write("up.toml", &format!("{fabric}{slices}"))?;
    write("down.toml", &fabric)?;
    write("agent.toml", "node = \"r1n3\"\n")?;
    let apply = |file: &str| {
        format!("billet-agent apply --desired {file} --state state --identity agent.toml\n")
    };
    let ours = apply("up.toml") + &apply("down.toml");
    let run = |script: &str| timed(AFRESH).and_then(|_| timed(script));
    interleave(
        ROUNDS,
        &mut [
            Contender::new("billet-agent", || run(&ours)),
            Contender::new("script", || run(BY_HAND)),
        ],
    )
}
