//! Slices on a real kernel: GUIDs through its own parser and back out of a dump (netdevsim with
//! two more operations), and VFs of two igb cards that are carved, named, bound to vfio-pci
//! and given back by `billet-agent apply`, killed after every step. Verbs devices of two machines
//! (soft-RoCE) are found, and move bytes from one to the other.
//!
//! Each machine plays its stories in order; a story is what it printed.

use std::{
    env, fs,
    path::Path,
    process::{Command, ExitCode, Output},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use rack::{
    artefacts::Programs,
    hardware::Hardware,
    kernel::{self, Kernel},
    netdevsim::{self, cut},
    perftest,
    played::{Played, Story, tell},
    tool::{run, said},
};
use serde_json::Value;

const NETDEVSIM: [Story; 4] = [
    ("guids_of_3_vfs_go_in_and_come_out", guids_of_three),
    ("guids_of_64_vfs_go_in_and_come_out", guids_of_many),
    ("two_guids_in_one_message_are_one", two_in_one),
    ("an_ethernet_card_has_macs_and_no_guids", ethernet),
];
const IGB: [Story; 6] = [
    ("vfs_are_carved_named_and_bound_to_vfio", carved),
    ("the_kernel_keeps_its_rules", rules),
    ("a_count_in_use_is_refused_with_numbers", in_use),
    ("a_driver_that_was_loaded_again_has_the_same_macs", reloaded),
    ("the_next_owner_is_somebody_else", next_owner),
    ("killed_after_every_step_a_slice_is_whole_or_free", killed),
];

const ROCE: [Story; 2] = [
    ("verbs_devices_are_found", verbs_found),
    ("bytes_go_from_one_verbs_device_to_another", verbs_move_bytes),
];

/// A machine and its stories, emulated on busy cores.
const PATIENCE: Duration = Duration::from_secs(1800);

fn main() -> ExitCode {
    if Kernel::is_inside() {
        kernel::start_inside(play);
    }
    let arguments = Arguments::from_args();
    let trial = |machine: &'static Machine, name| {
        Trial::test(name, move || machine.outcome(name).map_err(Failed::from))
    };
    let sim = NETDEVSIM.into_iter().map(|(name, _)| trial(&SIM, name));
    let cards = IGB.into_iter().map(|(name, _)| trial(&CARDS, name));
    let roce = ROCE.into_iter().map(|(name, _)| trial(&VERBS, name));
    libtest_mimic::run(&arguments, sim.chain(cards).chain(roce).collect()).exit_code()
}

/// One machine, started when the first of its stories is asked for.
struct Machine {
    name: &'static str,
    played: OnceLock<Result<Played, String>>,
}

static SIM: Machine = Machine { name: "netdevsim", played: OnceLock::new() };
static CARDS: Machine = Machine { name: "igb", played: OnceLock::new() };
static VERBS: Machine = Machine { name: "roce", played: OnceLock::new() };

impl Machine {
    fn outcome(&self, name: &str) -> Result<(), String> {
        let played = self.played.get_or_init(|| self.play().map_err(|error| format!("{error:#}")));
        let played = played.as_ref().map_err(Clone::clone)?;
        played.outcome(name).map_err(|error| format!("{error:#}"))
    }

    fn play(&self) -> Result<Played> {
        let agent = Programs::agent()?;
        let folder = tempfile::tempdir().context("making a folder")?;
        let folder = folder.path();
        let mut files = vec![("bin/billet-agent".to_owned(), agent)];
        let mut modules =
            vec!["psample", "ib_core", "igb", "igbvf", "vfio_iommu_type1", "vfio-pci"];
        let hardware = match self.name {
            "igb" => Hardware::with_igb()?,
            "roce" => {
                modules = perftest::MODULES.to_vec();
                files.extend(perftest::files()?);
                Hardware::cabled(folder, 1)?
            }
            _ => {
                files.push((netdevsim::INSIDE.to_owned(), netdevsim::module()?));
                Hardware::plain()?
            }
        };
        let files: Vec<_> = files.iter().map(|(at, path)| (at.as_str(), path.clone())).collect();
        let machine = Kernel {
            modules: &modules,
            programs: &[("ip", "iproute2"), ("rdma", "iproute2")],
            files: &files,
        };
        if self.name != "roce" {
            return Played::on(&machine, &hardware, folder, self.name, PATIENCE);
        }
        let other = folder.join("other");
        fs::create_dir(&other).context("making a folder")?;
        let peer = Hardware::cabled(folder, 2)?;
        thread::scope(|scope| {
            // It ends by itself: what it says is of interest only when the first one fails.
            let peer = scope.spawn(|| {
                let mut said = String::new();
                let ran = machine.run_on(&peer, &other, "peer", PATIENCE, |line| {
                    said = format!("{said}{line}\n");
                });
                (ran, said)
            });
            let played = Played::on(&machine, &hardware, folder, self.name, PATIENCE);
            let peer = peer.join();
            played.with_context(|| format!("the other machine said {peer:?}"))
        })
    }
}

/// Inside the machine.
fn play() -> Result<()> {
    let stories: &[Story] = match env::args().nth(1).as_deref() {
        Some("igb") => &IGB,
        Some("roce") => {
            soft_roce(1)?;
            &ROCE
        }
        Some("peer") => return serve_verbs(),
        _ => {
            netdevsim::simulate()?;
            &NETDEVSIM
        }
    };
    for (name, story) in stories {
        tell(name, &story());
    }
    Ok(())
}

/// What it said while it refused.
fn refused(program: &str, words: &str) -> Result<String> {
    let output = run(program, words)?;
    ensure!(!output.status.success(), "{program} {words} was not refused");
    Ok([output.stdout, output.stderr].concat().iter().map(|byte| *byte as char).collect())
}

fn vf(words: &str) -> Result<String> {
    said("billet-agent", &format!("vf {words}"))
}

fn write(path: &str, text: &str) -> std::io::Result<()> {
    fs::write(path, text)
}

fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim().to_owned())
}

// netdevsim: device 1 is InfiniBand, device 2 Ethernet.

fn node(vf: u32) -> String {
    format!("02:10:00:00:00:00:01:{vf:02x}")
}

fn port(vf: u32) -> String {
    format!("02:20:00:00:00:00:02:{vf:02x}")
}

/// Each VF gets its own GUIDs; our dump and `ip`'s say the same ones.
fn guids(count: u32) -> Result<()> {
    let link = cut(1, count)?;
    let fresh: Value = serde_json::from_str(&vf(&format!("ls {link}"))?)?;
    ensure!(fresh.as_object().is_some_and(|all| all.len() == count as usize), "{fresh}");
    ensure!(fresh["0"]["guids"] == true, "{fresh}");
    for number in 0..count {
        let (node, port) = (node(number), port(number));
        let policy = ["follow", "up", "down"][number as usize % 3];
        let words = format!("--node-guid {node} --port-guid {port} --policy {policy}");
        vf(&format!("set {link} {number} {words}"))?;
    }
    let all: Value = serde_json::from_str(&vf(&format!("ls {link}"))?)?;
    let second: Value = serde_json::from_str(&said("ip", &format!("-j link show {link}"))?)?;
    for number in 0..count {
        let one = &all[number.to_string()];
        let policy = ["follow", "up", "down"][number as usize % 3];
        ensure!(one["node"] == node(number) && one["port"] == port(number), "VF {number}: {one}");
        ensure!(one["policy"] == policy, "VF {number}: {one}");
        let theirs = &second[0]["vfinfo_list"][number as usize];
        ensure!(theirs["port guid"] == port(number), "ip says of VF {number}: {theirs}");
        ensure!(theirs["node guid"] == node(number), "ip says of VF {number}: {theirs}");
    }
    loaded(&link, &all, count)
}

/// What `ls` printed goes in in one go: everybody's names the other way round, and back again.
fn loaded(link: &str, before: &Value, count: u32) -> Result<()> {
    let other =
        |number: u32| (number.to_string(), before[(count - 1 - number).to_string()].clone());
    let around: Value = Value::Object((0..count).map(other).collect());
    ensure!(around != *before, "nothing would change");
    for wanted in [&around, before, before] {
        write("/run/vfs.json", &wanted.to_string()).context("writing what is wanted")?;
        vf(&format!("load {link} /run/vfs.json"))?;
        let after: Value = serde_json::from_str(&vf(&format!("ls {link}"))?)?;
        ensure!(after == *wanted, "not what was loaded: {after}");
    }
    Ok(())
}

fn guids_of_three() -> Result<()> {
    guids(3)
}

fn guids_of_many() -> Result<()> {
    guids(64)
}

/// What this kernel makes of a nest with both: the reason why ours are two messages.
fn two_in_one() -> Result<()> {
    let link = cut(1, 3)?;
    said("ip", &format!("link set {link} vf 1 node_guid {} port_guid {}", node(9), port(9)))?;
    let all: Value = serde_json::from_str(&vf(&format!("ls {link}"))?)?;
    ensure!(all["1"]["node"] == node(9), "{all}");
    ensure!(all["1"]["port"] != port(9), "this kernel takes both now: {all}");
    for none in ["00:00:00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff:ff:ff"] {
        let reason = refused("billet-agent", &format!("vf set {link} 1 --port-guid {none}"))?;
        ensure!(reason.contains("leave guid out"), "{reason}");
    }
    let reason = refused("billet-agent", &format!("vf set {link} 7 --port-guid {}", port(7)))?;
    ensure!(reason.contains("refused") && reason.contains("VF 7"), "{reason}");
    Ok(())
}

fn ethernet() -> Result<()> {
    let link = cut(2, 3)?;
    vf(&format!("set {link} 1 --mac 02:00:00:00:00:01 --vlan 100 --trust true --rate 100Mb/s"))?;
    let all: Value = serde_json::from_str(&vf(&format!("ls {link}"))?)?;
    let one = &all["1"];
    ensure!(one["mac"] == "02:00:00:00:00:01" && one["vlan"] == 100, "{one}");
    ensure!(one["trust"] == true && one["rate"] == 100, "{one}");
    ensure!(
        all["0"]["mac"].is_null() && all["0"]["vlan"] == 0 && all["0"]["guids"] == false,
        "{all}"
    );
    let second: Value = serde_json::from_str(&said("ip", &format!("-j link show {link}"))?)?;
    let theirs = &second[0]["vfinfo_list"][1];
    ensure!(theirs["address"] == "02:00:00:00:00:01" && theirs["trust"] == true, "{theirs}");
    ensure!(theirs["vlan_list"][0]["vlan"] == 100 && theirs["rate"]["max_tx"] == 100, "{theirs}");
    vf(&format!("set {link} 1 --vlan 0 --trust false"))?;
    let all: Value = serde_json::from_str(&vf(&format!("ls {link}"))?)?;
    ensure!(all["1"]["vlan"] == 0 && all["1"]["trust"] == false, "{all}");
    let reason = refused("billet-agent", &format!("vf set {link} 1 --port-guid {}", port(1)))?;
    ensure!(reason.contains("EOPNOTSUPP"), "{reason}");
    Ok(())
}

// igb: two cards behind an IOMMU.

const FABRIC: &str =
    "[[fabric]]\nname = \"lan\"\nlink = \"ethernet\"\npfs = [\"eth0\", \"eth1\"]\nvfs = 4\n";
const SLICES: &str =
    "[slice.a]\nfabric = \"lan\"\nvlan = 100\n[slice.b]\nfabric = \"lan\"\nrate = \"100Mb/s\"\n";

fn agent(verb: &str, text: &str, dies: Option<u32>) -> Result<Output> {
    let write = |path: &str, text: &str| fs::write(path, text).context("writing a file");
    write("/run/desired.toml", text)?;
    write("/run/agent.toml", "node = \"r1n3\"\n")?;
    let mut command = Command::new("/bin/billet-agent");
    command.args([verb, "--desired", "/run/desired.toml", "--state", "/run/billet"]);
    command.args(["--identity", "/run/agent.toml"]).env("PATH", "/bin");
    if let Some(steps) = dies {
        command.env("BILLET_AGENT_DIE_AFTER", steps.to_string());
    }
    command.output().context("running the agent")
}

/// Applied, and then again: the second time there is nothing to do.
fn apply(text: &str) -> Result<()> {
    for end in ["0 left", "0 steps done, 0 left"] {
        let output = agent("apply", text, None)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success() && text.contains(end), "{text}{error}");
    }
    Ok(())
}

/// What the agent's memory, the card and sysfs say of each slice: its VF and its MAC.
fn slices() -> Result<Vec<(String, String, String)>> {
    let memory: Value = serde_json::from_str(&read("/run/billet/slices.json")?)?;
    let mut slices = Vec::new();
    for held in memory["held"].as_array().context("no list")? {
        let (pf, number) = (text(&held["pf"]), &held["vf"]);
        let mac = text(&held["identity"]["ethernet"]["mac"]);
        let place = format!("/sys/bus/pci/devices/{pf}/virtfn{number}");
        ensure!(driver(&place).as_deref() == Some("vfio-pci"), "{held}: {:?}", driver(&place));
        ensure!(Path::new(&place).join("iommu_group").exists(), "{place} has no IOMMU group");
        let link = link(&pf)?;
        let card: Value = serde_json::from_str(&said("ip", &format!("-j link show {link}"))?)?;
        let says = &card[0]["vfinfo_list"][number.as_u64().unwrap_or(99) as usize];
        ensure!(says["address"] == mac.as_str(), "{held}: the card says {says}");
        slices.push((text(&held["slice"]), format!("{pf}/{number}"), mac));
    }
    slices.sort();
    Ok(slices)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn driver(function: &str) -> Option<String> {
    let target = fs::read_link(Path::new(function).join("driver")).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

fn link(pf: &str) -> Result<String> {
    let entries =
        fs::read_dir(format!("/sys/bus/pci/devices/{pf}/net")).context("listing links")?;
    let name = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).next();
    name.context("finding a link")
}

fn pfs() -> Result<Vec<String>> {
    let entries = fs::read_dir("/sys/bus/pci/drivers/igb").context("listing cards")?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("0000:"))
        .collect();
    names.sort();
    ensure!(names.len() == 2, "{names:?}");
    Ok(names)
}

/// No VF is bound to anything.
fn all_free() -> Result<()> {
    for pf in pfs()? {
        for number in 0..4 {
            let place = format!("/sys/bus/pci/devices/{pf}/virtfn{number}");
            ensure!(driver(&place).is_none(), "{place} has {:?}", driver(&place));
            let only = read(format!("{place}/driver_override"))?;
            ensure!(only == "(null)", "{place} is for {only}");
        }
    }
    let memory: Value = serde_json::from_str(&read("/run/billet/slices.json")?)?;
    ensure!(memory["held"].as_array().is_some_and(Vec::is_empty), "{memory}");
    Ok(())
}

fn carved() -> Result<()> {
    let begun = Instant::now();
    apply(&format!("{FABRIC}{SLICES}"))?;
    println!("note carved, named, bound and checked: {} ms", begun.elapsed().as_millis());
    let slices = slices()?;
    ensure!(slices.len() == 2, "{slices:?}");
    // Spread over the cards.
    ensure!(slices[0].1.split('/').next() != slices[1].1.split('/').next(), "{slices:?}");
    let card: Value = serde_json::from_str(&said("ip", "-j link show eth0")?)?;
    let says = &card[0]["vfinfo_list"][0];
    ensure!(says["vlan_list"][0]["vlan"] == 100, "{says}");
    // vfio-pci has them: each group has its device file.
    let groups = fs::read_dir("/dev/vfio").context("listing groups")?.count();
    ensure!(groups == 3, "{groups} files in /dev/vfio, two groups and `vfio` are wanted");
    Ok(())
}

/// What plans stand on, seen on this kernel.
fn rules() -> Result<()> {
    let pf = &pfs()?[0];
    let file = |name: &str| format!("/sys/bus/pci/devices/{pf}/{name}");
    let errno = |result: std::io::Result<()>| result.err().and_then(|it| it.raw_os_error());
    let busy = errno(write(&file("sriov_numvfs"), "2"));
    ensure!(busy == Some(nix::libc::EBUSY), "another count: {busy:?}");
    ensure!(read(file("sriov_drivers_autoprobe"))? == "0", "autoprobe is on");
    // One that nobody has: without its override even an explicit bind finds no driver.
    let free = fs::read_link(file("virtfn3")).context("finding VF 3")?;
    let free = free.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let none = errno(write("/sys/bus/pci/drivers/vfio-pci/bind", &free));
    ensure!(none == Some(nix::libc::ENODEV), "bind without override: {none:?}");
    Ok(())
}

fn in_use() -> Result<()> {
    let before = slices()?;
    let desired = format!("{FABRIC}{SLICES}");
    for (text, reason) in [
        (desired.replace("vfs = 4", "vfs = 6"), "has 4 VFs and 6 are asked for"),
        (desired.replace("vfs = 4", "vfs = 8"), "its firmware offers 7: vfs = 7"),
    ] {
        let output = agent("apply", &text, None)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && said.contains(reason), "{said}");
    }
    ensure!(slices()? == before, "a refusal changed something");
    // Without slices the count may change, through 0.
    apply(FABRIC)?;
    all_free()?;
    apply(&FABRIC.replace("vfs = 4", "vfs = 6"))?;
    let pf = &pfs()?[0];
    ensure!(read(format!("/sys/bus/pci/devices/{pf}/sriov_numvfs"))? == "6", "no 6 VFs");
    apply(&desired)?;
    ensure!(slices()? == before, "{:?} and before {before:?}", slices()?);
    Ok(())
}

fn reloaded() -> Result<()> {
    let before = slices()?;
    for pf in pfs()? {
        for verb in ["unbind", "bind"] {
            write(&format!("/sys/bus/pci/drivers/igb/{verb}"), &pf)
                .with_context(|| format!("{verb} of {pf}"))?;
        }
    }
    apply(&format!("{FABRIC}{SLICES}"))?;
    let after = slices()?;
    ensure!(after == before, "{after:?} and before {before:?}");
    Ok(())
}

fn next_owner() -> Result<()> {
    let before = slices()?;
    apply(&format!("{FABRIC}[slice.c]\nfabric = \"lan\"\n[slice.d]\nfabric = \"lan\"\n"))?;
    let after = slices()?;
    let places = |slices: &[(String, String, String)]| {
        let mut places: Vec<String> = slices.iter().map(|it| it.1.clone()).collect();
        places.sort();
        places
    };
    ensure!(places(&after) == places(&before), "{after:?} and before {before:?}");
    ensure!(after.iter().all(|it| before.iter().all(|had| had.2 != it.2)), "{after:?}");
    let memory: Value = serde_json::from_str(&read("/run/billet/slices.json")?)?;
    ensure!(memory["past"].as_array().is_some_and(|past| past.len() >= 2), "{memory}");
    apply(FABRIC)?;
    all_free()?;
    for pf in pfs()? {
        let card: Value =
            serde_json::from_str(&said("ip", &format!("-j link show {}", link(&pf)?))?)?;
        let says = card[0]["vfinfo_list"].to_string();
        ensure!(before.iter().chain(&after).all(|it| !says.contains(&it.2)), "{says}");
    }
    Ok(())
}

/// From nothing carved: killed after the first step, the second, ... on the way up and on the way
/// down; the next run ends it.
fn killed() -> Result<()> {
    // No rate: the card would have to be waited for after every cut.
    let up = format!("{FABRIC}{}", SLICES.replace("rate = \"100Mb/s\"\n", ""));
    let mut wanted = None;
    for steps in 1..64 {
        for pf in pfs()? {
            write(&format!("/sys/bus/pci/devices/{pf}/sriov_numvfs"), "0")
                .context("taking VFs away")?;
            write(&format!("/sys/bus/pci/devices/{pf}/sriov_drivers_autoprobe"), "1")?;
        }
        let dead = agent("apply", &up, Some(steps))?.status.code().is_none();
        apply(&up).with_context(|| format!("after {steps} steps up"))?;
        let is = slices()?;
        ensure!(*wanted.get_or_insert(is.clone()) == is, "after {steps} steps up: {is:?}");
        let died = agent("apply", FABRIC, Some(steps))?.status.code().is_none();
        apply(FABRIC).with_context(|| format!("after {steps} steps down"))?;
        all_free().with_context(|| format!("after {steps} steps down"))?;
        if !dead && !died {
            println!("note killed after each of {} steps", steps - 1);
            ensure!(steps > 10, "only {steps} steps");
            return Ok(());
        }
    }
    bail!("it always died")
}

// soft-RoCE: two machines with a cable between them.

/// Makes a verbs device of this machine's card.
fn soft_roce(machine: u8) -> Result<()> {
    said("ip", "link set eth0 up")?;
    said("ip", &format!("addr add 10.99.0.{machine}/24 dev eth0"))?;
    said("rdma", "link add rxe0 type rxe netdev eth0").map(drop)
}

fn verbs_found() -> Result<()> {
    write("/run/agent.toml", "node = \"r1n3\"\n")?;
    let facts = said("billet-agent", "probe --state /run/billet --identity /run/agent.toml")?;
    let facts: Value = serde_json::from_str(&facts)?;
    let device = &facts["sriov"]["verbs"][0];
    ensure!(device["name"] == "rxe0" && device["guid"].is_string(), "{}", facts["sriov"]);
    let port = &device["ports"][0];
    ensure!(port["link"] == "ethernet" && port["state"] == "ACTIVE", "{device}");
    ensure!(facts["sriov"]["pfs"].as_array().is_some_and(Vec::is_empty), "{}", facts["sriov"]);
    Ok(())
}

/// The words of `ib_write_bw`: on which device, from which of its addresses, how much.
fn ib_write_bw() -> Result<String> {
    let gids = "/sys/class/infiniband/rxe0/ports/1/gids";
    let ipv4 =
        |index: &u32| read(format!("{gids}/{index}")).is_ok_and(|gid| gid.contains(":ffff:"));
    let index = (0..8).find(ipv4).context("finding the address of IPv4 among those of rxe0")?;
    Ok(format!("-d rxe0 -x {index} -F -s 65536 -n 200"))
}

/// The other machine: one run, however it ends.
fn serve_verbs() -> Result<()> {
    soft_roce(2)?;
    println!("{}", said("busybox", &format!("timeout 600 /bin/ib_write_bw {}", ib_write_bw()?))?);
    Ok(())
}

fn verbs_move_bytes() -> Result<()> {
    let words = format!("{} 10.99.0.2", ib_write_bw()?);
    let begun = Instant::now();
    let text = loop {
        match said("ib_write_bw", &words) {
            Ok(text) => break text,
            // The other machine is not there yet.
            Err(error) if begun.elapsed() > Duration::from_secs(300) => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(500)),
        }
    };
    // Bytes, iterations, peak and average in MiB a second, messages.
    let numbers = text.lines().find_map(|line| {
        let words: Vec<f64> = line.split_whitespace().map_while(|it| it.parse().ok()).collect();
        (words.len() == 5 && words[0] == 65536.0).then_some(words)
    });
    let numbers = numbers.with_context(|| format!("no numbers in {text}"))?;
    ensure!(numbers[1] == 200.0 && numbers[3] > 0.0, "{text}");
    println!("note ib_write_bw between two machines: {} MiB/s", numbers[3]);
    Ok(())
}
