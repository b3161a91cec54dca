//! Blank machines become Xen hosts over the network, by BIOS and by UEFI: Xen starts from their
//! own disks with the lines that their seeds say, and guests of every kind start on them.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use rack::{
    Firmware, NicModel, Node, NodeSpec, Part, guest,
    stage::{self, Program, Stage, Story},
};

static PROGRAM: Program = Program {
    parts: &[Part::Ram, Part::Dom0],
    cached_store: true,
    options: |options| options,
    at_once: 1,
};

/// A Xen, its service domain and perhaps a guest, all emulated, on busy cores.
const PATIENCE: Duration = Duration::from_secs(540);

fn main() -> ExitCode {
    let stories = vec![
        Story { name: "bios_seed_and_guests", play: bios },
        Story { name: "uefi_and_two_sockets", play: uefi },
    ];
    stage::run(&PROGRAM, stories)
}

/// A blank machine becomes a Xen host that nothing is wrong with; tells what `xl info -n` says.
fn deploy(stage: &Stage, node: &Node) -> Result<String> {
    let deployment = stage.deploy(node, "dom0")?;
    let name = node.name();
    stage.done(&deployment, PATIENCE).with_context(|| format!("imaging {name}"))?;
    let script = "systemctl is-system-running --wait || \
                  { systemctl --failed --no-legend | grep -v billet-agent && exit 1; }; xl info -n";
    stage.server().ssh(&name, script, PATIENCE)
}

fn ensure_says(said: &str, key: &str, wanted: &str) -> Result<()> {
    let value =
        said.lines().find_map(|line| Some(line.strip_prefix(key)?.trim_start_matches([' ', ':'])));
    ensure!(value.is_some_and(|value| value.contains(wanted)), "{key}: {value:?}, not {wanted}");
    Ok(())
}

fn bios(stage: &Stage) -> Result<()> {
    let node = stage.enrolled(NodeSpec::xen("xen-bios", Firmware::Bios))?;
    let said = deploy(stage, &node)?;
    ensure_says(&said, "xen_commandline", "dom0_mem=1024M,max:1024M")?;
    ensure_says(&said, "virt_caps", "pv hvm")?;
    seed_is_read(stage, "xen-bios")?;
    for kind in ["pv", "pvh", "hvm"] {
        guest_lives(stage, "xen-bios", kind).with_context(|| format!("a {kind} guest"))?;
    }
    let turn = "set -e; cd /var/log/xen/console; truncate -s 17M guest-pv.log; \
                systemctl start billet-guest-logs.service; test -e guest-pv.log.old; \
                test ! -e guest-pvh.log.old; systemctl is-active xenconsoled.service";
    stage.server().ssh("xen-bios", turn, PATIENCE).context("turning over a guest's log").map(drop)
}

/// The NIC of one of two NUMA nodes decides where the service domain is, from the first start on;
/// the agent finds Xen as it was told to start, and shapes pins and a bridge.
fn uefi(stage: &Stage) -> Result<()> {
    let name = "xen-uefi";
    // Of a socket with a single core Xen 4.20 tells no topology.
    let spec = NodeSpec::xen(name, Firmware::Uefi).with_cpus(4, 2).with_far_nic(NicModel::E1000e);
    let node = stage.enrolled(spec)?;
    let first = "[service]\ncpus = 1\nmemory = \"640MiB\"\n[xen]\niommu = false\n\
                 extra = [\"loglvl=warning\"]\nlinux = [\"billet.test=uefi\"]\n";
    let generation = stage.api().configure(name, first)?;
    let said = deploy(stage, &node)?;
    ensure_says(&said, "nr_nodes", "2")?;
    ensure_says(&said, "nr_cpus", "4")?;
    let line = "dom0_mem=640M,max:640M dom0_max_vcpus=1 dom0_nodes=1 iommu=off loglvl=warning";
    ensure_says(&said, "xen_commandline", line)?;
    let status = stage.api().configured(name, generation, "applied", PATIENCE)?;
    ensure!(status["reboot_needed"] == false, "it was booted as it should: {status}");
    let ssh = |script: &str| stage.server().ssh(name, script, PATIENCE);
    let pools = ssh("xl cpupool-list -c | tail -n +2 | tr -s ' \\n' ' '")?;
    // Without CPU 0 it cannot have its pool alone: hard affinity keeps guests off then.
    ensure!(pools.trim() == "Pool-0 0,1,2,3", "pools are {pools}");
    let pin = ssh("xl vcpu-list Domain-0 | awk 'END {print $4, $7}'")?;
    ensure!(pin.trim() == "2 2", "the service domain runs on and is pinned to {pin}");
    let card = ssh("ip -o route get 10.77.0.1 | sed 's/.* dev //; s/ .*//'")?;
    let bridge = format!(
        "{first}[network]\nmanagement = \"{0}\"\n[[network.bridge]]\nname = \"br0\"\n\
         vlan_filtering = true\nports = [\"{0}\"]\n",
        card.trim()
    );
    let generation = stage.api().configure(name, &bridge)?;
    stage.api().configured(name, generation, "applied", PATIENCE).context("shaping a bridge")?;
    let said = ssh("ls /sys/firmware/efi; cat /proc/cmdline; ip -4 -o addr show dev br0")?;
    for wanted in ["config_table", "billet.test=uefi", "inet 10.77.0."] {
        ensure!(said.contains(wanted), "no {wanted} in {said}");
    }
    // What goes is a reason to start again as what comes.
    let generation = stage.api().configure(name, &bridge.replace("iommu = false\n", ""))?;
    let status = stage.api().configured(name, generation, "applied", PATIENCE)?;
    let reason = "Xen was booted with iommu=off, which is not wanted";
    ensure!(status["reboot"][0] == reason, "no reason for a reboot: {status}");
    Ok(())
}

/// The lines that the seed partition says are those of the next start, and the agent's identity
/// is taken over with the node's.
fn seed_is_read(stage: &Stage, node: &str) -> Result<()> {
    let write = "set -e; mkdir -p /run/seed; mount LABEL=CIDATA /run/seed; \
                 echo 'set xen_line=\"console=com1 com1=115200,8n1 dom0_mem=640M,max:640M \
                 dom0_max_vcpus=1 dom0_vcpus_pin\"' >/run/seed/billet/xen.cfg; \
                 echo 'set linux_line=\"console=hvc0 billet.test=seed\"' \
                 >>/run/seed/billet/xen.cfg; echo again >/run/seed/billet/instance; \
                 echo 'token = \"secret\"' >/run/seed/billet/agent.toml; umount /run/seed; \
                 cat /proc/sys/kernel/random/boot_id; \
                 (sleep 1; systemctl reboot) >/dev/null 2>&1 &";
    let before = stage.server().ssh(node, write, PATIENCE).context("writing xen.cfg")?;
    let before = before.trim();
    let read = format!(
        "[ \"$(cat /proc/sys/kernel/random/boot_id)\" != {before} ] && xl info && \
         cat /proc/cmdline && stat -c %a /etc/billet/agent.toml"
    );
    let said = stage.server().ssh(node, &read, PATIENCE).context("starting with xen.cfg")?;
    let wanted = "dom0_mem=640M,max:640M dom0_max_vcpus=1 dom0_vcpus_pin";
    ensure_says(&said, "xen_commandline", wanted)?;
    ensure!(said.trim_end().ends_with("\n600"), "the agent's identity is not private: {said}");
    ensure!(said.contains("billet.test=seed"), "Linux has another command line: {said}");
    Ok(())
}

/// A guest starts, answers through a bridge, hears that it is to shut down, and its words are
/// kept.
fn guest_lives(stage: &Stage, node: &str, kind: &str) -> Result<()> {
    let server = stage.server();
    let target = server.target(node)?;
    guest::install(server.key(), &target)?;
    let (kernel, ramdisk, ready) = (guest::KERNEL, guest::RAMDISK, guest::READY);
    let script = format!(
        "set -e
        ip link show br0 >/dev/null 2>&1 || {{
            ip link add br0 type bridge; ip addr add 10.9.0.1/24 dev br0; ip link set br0 up; }}
        printf '%s\\n' 'name = \"{kind}\"' 'type = \"{kind}\"' 'memory = 160' \
            'kernel = \"{kernel}\"' 'ramdisk = \"{ramdisk}\"' \
            'extra = \"console=hvc0 gip=10.9.0.2/24\"' 'vif = [ \"bridge=br0\" ]' \
            'on_crash = \"preserve\"' >/root/{kind}.cfg
        xl create -q /root/{kind}.cfg
        for try in $(seq 120); do ping -c 1 -W 2 10.9.0.2 >/dev/null && break; sleep 1; done
        ping -c 3 -W 10 10.9.0.2 >/dev/null
        for try in $(seq 60); do grep -q '{ready}' /var/log/xen/console/guest-{kind}.log && break
            sleep 1; done
        grep '{ready}' /var/log/xen/console/guest-{kind}.log
        xl shutdown -w {kind} >/dev/null
        for try in $(seq 60); do xl domid {kind} >/dev/null 2>&1 || exit 0; sleep 1; done
        xl list; exit 1"
    );
    server.key().run(&target, &script).map(drop)
}
