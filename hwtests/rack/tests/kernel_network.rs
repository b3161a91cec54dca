//! The network of a dom0 on a real kernel: what `billet-agent network` makes of it, that it can
//! be broken off anywhere, and that a change which cuts the node off is taken back.
//!
//! Each story is played by a process in a network namespace of its own. Where the host's kernel
//! has no VLAN-aware bridges or bonds, all of them are played on Debian's kernel in a machine.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::mount::{MsFlags, mount};
use rack::{
    artefacts::Programs,
    hardware::Hardware,
    kernel::{self, Kernel},
    played::{Played, Story, tell},
    tool::{run, said},
};

const STORIES: [Story; 9] = [
    ("a_vlan_aware_bridge_keeps_vlans_apart", vlans_apart),
    ("bonds_vlan_devices_and_mtus_are_made_and_kept", bond_vlan_mtu),
    ("the_management_address_moves_onto_its_bridge", management_moves),
    ("killed_after_any_step_all_is_taken_back", killed_and_taken_back),
    ("killed_after_any_step_the_next_run_ends_the_change", killed_and_started_again),
    ("a_change_that_cuts_the_node_off_is_taken_back", cut_off),
    ("a_step_that_the_kernel_refuses_leaves_nothing_behind", refused_step),
    ("what_is_not_named_is_left_alone", foreign_things),
    ("sixty_four_bridges_with_512_vlans", many),
];

/// A machine and nine stories, emulated on busy cores.
const PATIENCE: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    if Kernel::is_inside() {
        kernel::start_inside(play_all);
    }
    let words: Vec<String> = env::args().collect();
    if let [_, flag, name] = &words[..]
        && flag == "--story"
    {
        return play(name);
    }
    let arguments = Arguments::from_args();
    let trial = |(name, _): Story| Trial::test(name, move || outcome(name).map_err(Failed::from));
    libtest_mimic::run(&arguments, STORIES.into_iter().map(trial).collect()).exit_code()
}

/// Of one story: played here, or by the machine that plays all of them.
fn outcome(name: &str) -> Result<(), String> {
    static CAPABLE: OnceLock<bool> = OnceLock::new();
    static PLAYED: OnceLock<Result<Played, String>> = OnceLock::new();
    if *CAPABLE.get_or_init(|| play_here("capable").is_ok_and(|said| said == "ok")) {
        return match play_here(name).map_err(|error| format!("{error:#}"))?.as_str() {
            "ok" => Ok(()),
            said => Err(said.to_owned()),
        };
    }
    let played = PLAYED.get_or_init(|| play_in_machine().map_err(|error| format!("{error:#}")));
    let played = played.as_ref().map_err(Clone::clone)?;
    played.outcome(name).map_err(|error| format!("{error:#}"))
}

/// In a process and a namespace of its own: what it said.
fn play_here(name: &str) -> Result<String> {
    let agent = Programs::agent()?;
    let own = env::current_exe().context("finding the program itself")?;
    let output = Command::new(own).args(["--story", name]).env("BILLET_AGENT", agent).output();
    let output = output.with_context(|| format!("playing {name}"))?;
    match output.status.success() {
        true => Ok("ok".to_owned()),
        false => Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

fn play_in_machine() -> Result<Played> {
    let folder = tempfile::tempdir().context("making a folder")?;
    let machine = Kernel {
        modules: &["bridge", "8021q", "bonding", "veth", "dummy"],
        programs: &[("ip", "iproute2"), ("bridge", "iproute2")],
        files: &[("bin/billet-agent", Programs::agent()?)],
    };
    Played::on(&machine, &Hardware::plain()?, folder.path(), "", PATIENCE)
}

/// Inside the machine.
fn play_all() -> Result<()> {
    for (name, _) in STORIES {
        let output = Command::new("/proc/self/exe")
            .args(["--story", name])
            .env("PATH", "/bin")
            .env("BILLET_AGENT", "/bin/billet-agent")
            .output()
            .with_context(|| format!("playing {name}"))?;
        let ended = match output.status.success() {
            true => Ok(()),
            false => Err(anyhow!("{}", String::from_utf8_lossy(&output.stderr).trim())),
        };
        tell(name, &ended);
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            println!("note {name}: {line}");
        }
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "how a story tells the process that started it")]
fn play(name: &str) -> ExitCode {
    let story = STORIES.into_iter().chain([("capable", capable as fn() -> Result<()>)]);
    let story = story.into_iter().find(|(known, _)| *known == name).map(|(_, play)| play);
    let played = enter().and_then(|()| story.context("no such story")?());
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A namespace of its own, with a view of its own links and its own neighbours in it.
fn enter() -> Result<()> {
    rack::enter()?;
    for (kind, place) in [("sysfs", "/sys"), ("tmpfs", "/run")] {
        let nothing = None::<&str>;
        mount(Some(kind), place, Some(kind), MsFlags::empty(), nothing)
            .with_context(|| format!("mounting {place}"))?;
    }
    Ok(())
}

/// Whether this kernel has what the stories need.
fn capable() -> Result<()> {
    ip("link add br0 type bridge vlan_filtering 1")?;
    ip("link add bond0 type bond")?;
    ip("link add link br0 name br0.5 type vlan id 5")?;
    ip("link add d0 type dummy")
}

fn ip(words: &str) -> Result<()> {
    said("ip", words).map(drop)
}

fn agent() -> String {
    env::var("BILLET_AGENT").unwrap_or_else(|_| "billet-agent".to_owned())
}

/// A node's desired state and its state folder.
struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new(network: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder")?;
        fs::write(folder.path().join("desired.toml"), network)
            .context("writing a desired state")?;
        Ok(Node { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its guard may live on: what it says goes to files, which nobody waits to be closed.
    fn apply(&self, more: &str) -> Result<Output> {
        let file = |name: &str| fs::File::create(self.path(name)).context("opening a log");
        let read = |name: &str| fs::read(self.path(name)).context("reading a log");
        let status = Command::new(agent())
            .args(["network", "apply"])
            .arg(self.path("desired.toml"))
            .arg("--state")
            .arg(self.path("state"))
            .args(more.split_whitespace())
            .stdout(file("stdout")?)
            .stderr(file("stderr")?)
            .status()
            .context("running the agent")?;
        Ok(Output { status, stdout: read("stdout")?, stderr: read("stderr")? })
    }

    /// Applied, and then again: the second time there is nothing to do.
    fn holds(&self, more: &str) -> Result<String> {
        let first = self.apply(more)?;
        let error = String::from_utf8_lossy(&first.stderr).trim().to_owned();
        ensure!(first.status.success(), "applying: {error}");
        let again = String::from_utf8_lossy(&self.apply(more)?.stdout).trim().to_owned();
        ensure!(again.starts_with("0 steps"), "applied again it had {again} to do");
        Ok(String::from_utf8_lossy(&first.stdout).trim().to_owned())
    }

    fn wait_for(&self, name: &str, patience: Duration) -> Result<String> {
        let begin = Instant::now();
        while begin.elapsed() < patience {
            if let Ok(text) = fs::read_to_string(self.path("state").join(name)) {
                return Ok(text);
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("no {name} after {} s", patience.as_secs())
    }
}

fn facts() -> Result<String> {
    let mut facts: serde_json::Value =
        serde_json::from_str(&said(&agent(), "network probe")?).context("reading the facts")?;
    for link in facts["links"].as_object_mut().into_iter().flat_map(|links| links.values_mut()) {
        // A link's carrier comes a moment after its port is up.
        link["carrier"] = serde_json::Value::Null;
    }
    Ok(serde_json::to_string_pretty(&facts)?)
}

/// Another host at the end of a new link `name`, with this address.
fn neighbour(name: &str, address: &str) -> Result<()> {
    fs::create_dir_all("/run/netns").context("making /run/netns")?;
    ip(&format!("netns add {name}"))?;
    ip(&format!("link add {name} type veth peer name wire0 netns {name}"))?;
    ip(&format!("-n {name} addr add {address} dev wire0"))?;
    ip(&format!("-n {name} link set lo up"))?;
    ip(&format!("-n {name} link set wire0 up"))
}

fn pings(from: &str, to: &str) -> Result<bool> {
    let begin = Instant::now();
    let ping =
        |seconds| run("ip", &format!("netns exec {from} busybox ping -c 1 -W {seconds} {to}"));
    while begin.elapsed() < Duration::from_secs(4) {
        if ping(1)?.status.success() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn vlans_apart() -> Result<()> {
    for (name, address) in [("h1", "10.5.0.1/24"), ("h2", "10.5.0.2/24"), ("h3", "10.5.0.3/24")] {
        neighbour(name, address)?;
    }
    // A trunk: its host tags its frames itself.
    neighbour("h4", "192.0.2.1/24")?;
    ip("-n h4 link add link wire0 name wire0.10 type vlan id 10")?;
    ip("-n h4 addr add 10.5.0.4/24 dev wire0.10")?;
    ip("-n h4 link set wire0.10 up")?;
    let node = Node::new(
        r#"
        [[network.bridge]]
        name = "br0"
        vlan_filtering = true
        default_pvid = 0
        ports = [
            { name = "h1", pvid = 10 },
            { name = "h2", pvid = 10 },
            { name = "h3", pvid = 20 },
            { name = "h4", vlans = "10,20-30" },
        ]
        [[network.vlan]]
        name = "br0.10"
        link = "br0"
        id = 10
        addresses = ["10.5.0.9/24"]
        "#,
    )?;
    node.holds("")?;
    for (from, to, reaches) in [
        ("h1", "10.5.0.2", true),
        ("h1", "10.5.0.4", true),
        ("h1", "10.5.0.9", true),
        ("h3", "10.5.0.1", false),
        ("h3", "10.5.0.9", false),
    ] {
        let answer = pings(from, to)?;
        ensure!(answer == reaches, "{from} to {to}: an answer is {reaches}, and was {answer}");
    }
    let vlans = said("bridge", "vlan show dev h4")?;
    ensure!(vlans.contains("20-30") || vlans.contains("25"), "bridge says {vlans}");
    Ok(())
}

fn bond_vlan_mtu() -> Result<()> {
    for name in ["d0", "d1", "d2"] {
        ip(&format!("link add {name} type dummy"))?;
    }
    ip("link set d0 up")?;
    let node = Node::new(
        r#"
        [[network.bond]]
        name = "bond0"
        mode = "active-backup"
        ports = ["d0", "d1"]
        mtu = 9000
        [[network.vlan]]
        name = "bond0.7"
        link = "bond0"
        id = 7
        mtu = 8000
        addresses = ["10.7.0.1/24", "2001:db8:7::1/64"]
        [[network.bridge]]
        name = "br7"
        ports = ["d2"]
        mtu = 4000
        [[network.route]]
        to = "10.70.0.0/16"
        via = "10.7.0.254"
        [[network.route]]
        to = "2001:db8:70::/48"
        via = "2001:db8:7::fe"
        "#,
    )?;
    node.holds("")?;
    let link = |name| said("ip", &format!("-d link show {name}"));
    for (name, words) in [
        ("bond0", ["bond mode active-backup", "mtu 9000"]),
        ("bond0.7", ["vlan protocol 802.1Q id 7", "mtu 8000"]),
        ("d1", ["master bond0", "mtu 9000"]),
        ("d2", ["master br7", "mtu 4000"]),
    ] {
        let text = link(name)?;
        ensure!(words.iter().all(|word| text.contains(word)), "{name} is {text}");
    }
    let routes = said("ip", "route")? + &said("ip", "-6 route")?;
    ensure!(routes.contains("10.70.0.0/16 via 10.7.0.254"), "routes: {routes}");
    ensure!(routes.contains("2001:db8:70::/48 via 2001:db8:7::fe"), "routes: {routes}");
    Ok(())
}

/// `eth0` with an address and a way to everywhere, over which `door` is reached; two more cards.
fn managed() -> Result<()> {
    neighbour("door", "10.0.0.1/24")?;
    ip("link set door name eth0")?;
    ip("addr add 10.0.0.5/24 dev eth0")?;
    ip("link set eth0 up")?;
    ip("route add default via 10.0.0.1")?;
    for name in ["eth1", "eth2"] {
        ip(&format!("link add {name} type dummy"))?;
    }
    let serve = "netns exec door busybox nc -ll -p 22 -e /bin/true";
    let mut serve = serve.split_whitespace();
    let mut listener = Command::new("ip");
    listener.args(&mut serve).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    listener.spawn().context("starting a listener")?;
    thread::sleep(Duration::from_millis(300));
    Ok(())
}

fn desired(seconds: u32, more: &str) -> String {
    format!(
        "[network]\nmanagement = \"eth0\"\nconfirm = {{ seconds = {seconds}, reach = \
         \"tcp://10.0.0.1:22\" }}\n[[network.bridge]]\nname = \"br0\"\nvlan_filtering = true\n\
         ports = [{more}, {{ name = \"eth1\", vlans = \"10,20-30\" }}]\n[[network.bond]]\n\
         name = \"bond0\"\nports = [\"eth2\"]\n"
    )
}

fn management_moves() -> Result<()> {
    managed()?;
    let node = Node::new(&desired(20, "\"eth0\""))?;
    let mac = said("busybox", "cat /sys/class/net/eth0/address")?;
    let done = node.holds("")?;
    ensure!(done.ends_with("tcp://10.0.0.1:22 answered"), "it said {done}");
    ensure!(!node.path("state/confirm.json").exists(), "the change still waits");
    let address = said("ip", "-br addr show br0")?;
    ensure!(address.contains("10.0.0.5/24"), "br0 has {address}");
    ensure!(said("busybox", "cat /sys/class/net/br0/address")? == mac, "br0 has another MAC");
    let route = said("ip", "route")?;
    ensure!(route.contains("default via 10.0.0.1 dev br0"), "routes: {route}");
    ensure!(!said("ip", "-br addr show eth0")?.contains("10.0.0.5"), "eth0 kept its address");
    Ok(())
}

/// How many steps the change has.
fn steps(node: &Node) -> Result<usize> {
    let plan = said(&agent(), &format!("network plan {}", node.path("desired.toml").display()))?;
    Ok(plan.lines().count())
}

fn killed_and_taken_back() -> Result<()> {
    managed()?;
    let node = Node::new(&desired(2, "\"eth0\""))?;
    let before = facts()?;
    let count = steps(&node)?;
    ensure!(count > 10, "only {count} steps");
    for step in 0..count {
        let done = node.apply(&format!("--die-after {step}"))?;
        ensure!(!done.status.success(), "it outlived step {step}");
        let undone = node.wait_for("undone.json", Duration::from_secs(20))?;
        ensure!(undone.contains("nobody confirmed it within 2 s"), "it said {undone}");
        ensure!(undone.contains("\"left\":[]"), "after step {step}: {undone}");
        let after = facts()?;
        ensure!(after == before, "after step {step}: {}", difference(&before, &after));
        fs::remove_file(node.path("state/undone.json")).context("forgetting")?;
    }
    node.holds("").map(drop)
}

fn killed_and_started_again() -> Result<()> {
    managed()?;
    let node = Node::new(&desired(20, "\"eth0\""))?;
    let before = facts()?;
    let count = steps(&node)?;
    let mut wanted = None;
    for step in (0..count).rev() {
        node.apply(&format!("--die-after {step}"))?;
        ensure!(node.path("state/confirm.json").exists(), "nothing waits after step {step}");
        node.holds("").with_context(|| format!("after step {step}"))?;
        ensure!(!node.path("state/confirm.json").exists(), "the change waits after step {step}");
        let ended = facts()?.replace("index", "");
        let same = wanted.get_or_insert_with(|| without_numbers(&ended));
        ensure!(
            *same == without_numbers(&ended),
            "after step {step}: {}",
            difference(same, &without_numbers(&ended))
        );
        ip("link del br0")?;
        ip("link del bond0")?;
        ip("link set eth1 down")?;
        ip("link set eth2 down")?;
        ip("addr add 10.0.0.5/24 dev eth0")?;
        ip("route add default via 10.0.0.1 proto boot")?;
        let now = facts()?;
        ensure!(now == before, "the stage after step {step}: {}", difference(&before, &now));
    }
    Ok(())
}

/// New links have new numbers, and a bond chooses its own hardware address.
fn without_numbers(facts: &str) -> String {
    let lines =
        facts.lines().filter(|line| !line.contains("\"\": ") && !line.contains("\"mac\": "));
    lines.collect::<Vec<_>>().join("\n")
}

fn difference(a: &str, b: &str) -> String {
    let only = |a: &str, b: &str, mark: &str| {
        let lines = a.lines().filter(|line| !b.lines().any(|other| other == *line));
        lines.map(|line| format!("{mark}{}", line.trim())).collect::<Vec<_>>().join(" ")
    };
    format!("{} {}", only(a, b, "-"), only(b, a, "+"))
}

fn cut_off() -> Result<()> {
    managed()?;
    // The port speaks VLAN 99, the node VLAN 1: nobody hears it any more.
    let node = Node::new(&desired(5, "{ name = \"eth0\", pvid = 99 }"))?;
    let before = facts()?;
    let begin = Instant::now();
    let done = node.apply("")?;
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(!done.status.success(), "it stayed");
    ensure!(error.contains("taken back: tcp://10.0.0.1:22 did not answer"), "it said {error}");
    ensure!(begin.elapsed() < Duration::from_secs(20), "after {:?}", begin.elapsed());
    let after = facts()?;
    ensure!(after == before, "{}", difference(&before, &after));
    let reached = run("busybox", "ping -c 3 -W 1 10.0.0.1")?.status.success();
    ensure!(reached, "the node is still cut off");
    // The same is not tried a second time by itself.
    let error = String::from_utf8_lossy(&node.apply("")?.stderr).into_owned();
    ensure!(error.contains("not tried again"), "it said {error}");
    ensure!(facts()? == before, "it was tried again");
    Ok(())
}

fn refused_step() -> Result<()> {
    managed()?;
    ip("link add eth9 type veth peer name far9")?;
    let node = Node::new("[[network.bridge]]\nname = \"br8\"\nports = [\"eth9\", \"lo9\"]\n")?;
    let before = facts()?;
    let error = String::from_utf8_lossy(&node.apply("")?.stderr).into_owned();
    ensure!(error.contains("no link lo9 to be a port of br8: there are"), "it said {error}");
    ensure!(facts()? == before, "a refused network changed something");
    // A VLAN device cannot be put into a bridge over itself by way of a foreign bridge.
    ip("link add brx type bridge")?;
    ip("link add link brx name brx.3 type vlan id 3")?;
    let node = Node::new("[[network.bridge]]\nname = \"brx\"\nports = [\"eth9\", \"brx.3\"]\n")?;
    let before = facts()?;
    let error = String::from_utf8_lossy(&node.apply("")?.stderr).into_owned();
    ensure!(error.contains("the kernel refused to make brx.3 a port of brx"), "it said {error}");
    let after = facts()?;
    ensure!(after == before, "{}", difference(&before, &after));
    Ok(())
}

fn foreign_things() -> Result<()> {
    managed()?;
    ip("link add docker0 type bridge")?;
    ip("addr add 172.17.0.1/16 dev docker0")?;
    ip("link set docker0 up")?;
    ip("link add vif1.0 type dummy")?;
    let node = Node::new(&desired(20, "\"eth0\""))?;
    node.holds("")?;
    // Xen's scripts put a guest's link on the bridge.
    ip("link set vif1.0 master br0 up")?;
    ip("addr add 10.44.0.1/24 dev br0")?;
    ip("route add 10.45.0.0/16 via 10.44.0.9")?;
    node.holds("")?;
    let own = desired(20, "\"eth0\"").replace("[network]\n", "[network]\nown = true\n");
    let owned = Node::new(&own)?;
    let still = said("ip", "route")? + &said("ip", "-br addr")?;
    for kept in ["10.45.0.0/16 via 10.44.0.9", "172.17.0.1/16", "10.44.0.1/24"] {
        ensure!(still.contains(kept), "{kept} is gone: {still}");
    }
    owned.holds("")?;
    let left = said("ip", "-br link")?;
    ensure!(!left.contains("docker0"), "docker0 stayed: {left}");
    let port = said("ip", "link show vif1.0")?;
    ensure!(port.contains("master br0"), "the guest's link was taken: {port}");
    Ok(())
}

/// 64 bridges, 256 ports, each of 512 VLANs that do not lie side by side.
fn many() -> Result<()> {
    let mut text = String::new();
    let vlans: Vec<String> = (1..=512).map(|number| (2 * number).to_string()).collect();
    let vlans = vlans.join(",");
    let mut batch = String::new();
    for bridge in 0..64 {
        let ports: Vec<String> = (0..4)
            .map(|port| format!("{{ name = \"p{bridge}.{port}\", vlans = \"{vlans}\" }}"))
            .collect();
        text += &format!(
            "[[network.bridge]]\nname = \"br{bridge}\"\nvlan_filtering = true\nports = [{}]\n",
            ports.join(", ")
        );
        (0..4).for_each(|port| batch += &format!("link add p{bridge}.{port} type dummy\n"));
    }
    let node = Node::new(&text)?;
    let file = node.path("batch");
    fs::write(&file, batch).context("writing a batch")?;
    ip(&format!("-batch {}", file.display()))?;
    let begin = Instant::now();
    let done = node.apply("")?;
    let first = begin.elapsed();
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let begin = Instant::now();
    let again = String::from_utf8_lossy(&node.apply("")?.stdout).trim().to_owned();
    println!("first {} ms, again {} ms", first.as_millis(), begin.elapsed().as_millis());
    ensure!(again == "0 steps", "again: {again}");
    let vlans = said("bridge", "vlan show dev p63.3")?;
    ensure!(vlans.lines().count() >= 512, "p63.3 has {} lines", vlans.lines().count());
    Ok(())
}
