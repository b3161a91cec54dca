//! The RAM system: how large it is, which machines it can drive, and what it finds out by itself where
//! nobody tells it.

use std::{
    fs,
    net::Ipv4Addr,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use rack::{
    Bmc, Bus, DiskSpec, Firmware, Kernel, Node, NodeSpec, Size,
    stage::{self, PATIENCE, Program, Stage, Story},
    tool,
};

static PROGRAM: Program = Program::TINY;

fn main() -> ExitCode {
    let stories = vec![
        Story { name: "it_is_small_and_has_the_drivers", play: contents },
        Story { name: "a_bmc_says_where_it_answers", play: bmc },
        Story { name: "without_an_address_it_asks_for_one", play: lease },
    ];
    stage::run(&PROGRAM, stories)
}

/// The RAM disk beside the kernel, and the agent in it, may have this many bytes.
const RAMDISK: u64 = 12 << 20;
const AGENT: u64 = 5 << 20;
/// Modules of the machines that must be imaged; virtio's PCI part is in Debian's kernel itself.
const DRIVERS: [&str; 21] = [
    "virtio_blk",
    "virtio_net",
    "virtio_scsi",
    "ahci",
    "nvme",
    "megaraid_sas",
    "mpt3sas",
    "e1000",
    "e1000e",
    "igb",
    "ixgbe",
    "i40e",
    "ice",
    "mlx4_core",
    "mlx4_en",
    "mlx5_core",
    "bnxt_en",
    "tg3",
    "ext4",
    "ipmi_si",
    "ipmi_devintf",
];

fn contents(stage: &Stage) -> Result<()> {
    let ramdisk = stage.store().join("boot/ramdisk");
    let length = |path| fs::metadata(path).map(|it| it.len()).context("measuring a file");
    let (disk, agent) = (length(&ramdisk)?, length(&stage.artefacts().programs.agent)?);
    ensure!(disk <= RAMDISK, "the RAM disk has {disk} bytes, {RAMDISK} are the most");
    ensure!(agent <= AGENT, "the agent has {agent} bytes, {AGENT} are the most");
    let unpacked = stage.folder().join("ramdisk.cpio");
    let mut unpack = Command::new(tool::program("zstd", "zstd")?);
    let done = unpack.args(["-q", "-d", "-f", "-o"]).arg(&unpacked).arg(&ramdisk).status();
    ensure!(done.context("running zstd")?.success(), "the RAM disk does not unpack");
    let mut list = Command::new(tool::program("busybox", "busybox-static")?);
    list.args(["cpio", "-t"]).stdin(fs::File::open(&unpacked).context("opening the archive")?);
    let listed = list.stderr(Stdio::null()).output().context("running cpio")?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    let has = |name: &str| listed.lines().any(|line| line.ends_with(name));
    for driver in DRIVERS {
        ensure!(has(&format!("/{driver}.ko")), "{driver} is missing in:\n{listed}");
    }
    ensure!(has("init") && has(".pub"), "the agent and a key are missing in:\n{listed}");
    Ok(())
}

/// A machine of one disk with a tiny image on its way; switched off.
fn machine(stage: &Stage, name: &str) -> Result<NodeSpec> {
    let tiny = stage.tiny(name, Size::mib(8))?;
    let disk = DiskSpec::new(Size(tiny.size + (16 << 20)), Bus::Virtio);
    Ok(NodeSpec::new(name, Firmware::Bios).with_disks(vec![disk]))
}

fn bmc(stage: &Stage) -> Result<()> {
    let address = Ipv4Addr::new(10, 77, 9, 1);
    let bmc = Bmc::start(&stage.folder().join("bmc-files"), address)?;
    let spec = NodeSpec { bmc: Some(bmc.port), ..machine(stage, "managed")? };
    let node = stage.enrolled(spec)?;
    stage.done(&stage.deploy(&node, "managed")?, PATIENCE)?;
    node.cut();
    let view = stage.api().node("managed")?;
    let found = view.inventory.and_then(|inventory| inventory.bmc);
    let found = found.context("the inventory has no BMC")?;
    ensure!(found.kind == "ipmi", "it is of kind {}", found.kind);
    ensure!(found.address == Some(address.to_string()), "it answers at {:?}", found.address);
    Ok(())
}

/// As where a boot loader that is not ours has loaded it: the kernel line says who the server is, and no
/// address.
fn lease(stage: &Stage) -> Result<()> {
    let node: Arc<Node> = stage.enrolled(machine(stage, "asks")?)?;
    let deployment = stage.api().deploy("asks", &serde_json::json!({ "image": "asks" }))?;
    let script = stage.api().bytes(&format!("/boot/{}", node.mac()))?;
    let script = String::from_utf8_lossy(&script).into_owned();
    let line = script.lines().find_map(|line| line.strip_prefix("kernel "));
    let line = line.with_context(|| format!("no kernel in the boot script:\n{script}"))?;
    let told =
        |word: &&str| !word.starts_with("billet.ip=") && !word.starts_with("billet.gateway=");
    let words = line.split_whitespace().skip(1).take_while(|word| *word != "||").filter(told);
    let line = words.collect::<Vec<_>>().join(" ");
    ensure!(line.contains("billet.token="), "no token in {line}");
    let boot = stage.store().join("boot");
    let (kernel, ramdisk) = (boot.join("kernel"), boot.join("ramdisk"));
    node.load(Kernel { kernel, ramdisk, line });
    node.power_on()?;
    node.console().wait_for("eth0 has 10.77.0.", PATIENCE)?;
    stage.done(&deployment, PATIENCE)?;
    node.cut();
    Ok(())
}
