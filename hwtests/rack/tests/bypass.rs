//! Slices on a real Xen, into which the node went by kexec: a guest without any vif has a VF of an
//! igb card, whose address was announced before there was a VF, and speaks through it past the
//! service domain. The VF goes back, is reset, and becomes another guest's with another address,
//! while the agent is killed after every step; a guest that somebody destroyed gets its slice
//! again; and without an IOMMU what xl began is undone. A whole card goes to a guest that runs, and
//! comes back.

use std::{
    process::{Command, ExitCode},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rack::{
    Firmware, Node, NodeSpec, Part, guest,
    stage::{self, Program, Stage, Story},
};
use serde_json::{Value, json};

static PROGRAM: Program = Program {
    parts: &[Part::Ram, Part::Dom0, Part::Qemu],
    cached_store: true,
    options: |options| options,
    at_once: 1,
};

/// A Xen, its service domain and a guest, all emulated, on busy cores.
const PATIENCE: Duration = Duration::from_secs(540);
const NODE: &str = "bypass";
const SERVICE: &str = "[service]\ncpus = 1\nmemory = \"768MiB\"\n";
/// Who the guests speak to: the provisioning host, outside of the machine.
const PEER: &str = "10.77.0.1";

fn main() -> ExitCode {
    stage::run(&PROGRAM, vec![Story { name: "slices_pass_the_service_domain_by", play: story }])
}

fn story(stage: &Stage) -> Result<()> {
    // One is cut, the other one given away whole.
    let node = stage.enrolled(NodeSpec::xen(NODE, Firmware::Bios).with_vf_cards(2))?;
    let generation = stage.api().configure(NODE, SERVICE)?;
    let deployment = stage.deploy_with(&node, &json!({ "image": "dom0", "restart": "kexec" }))?;
    let done = stage.done(&deployment, PATIENCE).context("imaging")?;
    let way = stage.restarted(&done)?;
    ensure!(way == "by kexec", "it was restarted {way}");
    is_as_wished(stage, generation).context("looking at Xen after kexec")?;
    let server = stage.server();
    guest::install(server.key(), &server.target(NODE)?)?;
    drop(server);
    let cards = "sync; ls /sys/bus/pci/drivers/igb | grep :";
    let cards = stage.server().ssh(NODE, cards, PATIENCE).context("finding the cards")?;
    let (card, whole) = cards.trim().split_once('\n').context("finding two cards")?;
    let host = Host { stage, card: card.to_owned(), whole: whole.to_owned() };
    let chapters: [(&str, Chapter); 6] = [
        ("undoing what xl began without an IOMMU", without_iommu),
        ("a guest with nothing but its slice", given),
        ("the next owner, the agent killed after every step", next_owner),
        ("a guest that somebody destroyed", destroyed),
        ("a whole card for a guest that runs", whole_card),
        ("all of it back", returned),
    ];
    for (what, play) in chapters {
        let began = Instant::now();
        let result = play(&host, &node);
        println!("  {what}: {:.0} s", began.elapsed().as_secs_f64());
        result.with_context(|| format!("{what}; {}", host.tail()))?;
    }
    Ok(())
}

/// Xen's line is the node's own, with the word that kexec adds and GRUB does not; the agent finds no
/// reason to start again.
fn is_as_wished(stage: &Stage, generation: u64) -> Result<()> {
    let script = "xl info xen_commandline; cat /proc/cmdline";
    let said = stage.server().ssh(NODE, script, PATIENCE)?;
    let (xen, linux) = said.split_once('\n').with_context(|| format!("no lines: {said}"))?;
    let line = "console=vga,com1 com1=115200,8n1 dom0_mem=768M,max:768M dom0_max_vcpus=1 \
                dom0_vcpus_pin no-real-mode";
    ensure!(xen.trim() == line, "Xen's line is `{xen}`");
    let line = " rw quiet panic=30 console=tty0 console=hvc0";
    ensure!(linux.starts_with("root=UUID=") && linux.contains(line), "Linux's is `{linux}`");
    let status = stage.api().configured(NODE, generation, "applied", PATIENCE)?;
    ensure!(status["reboot_needed"] == false, "it was booted as it should: {status}");
    Ok(())
}

/// The node, as the test sees it: by the API, and over SSH.
struct Host<'a> {
    stage: &'a Stage,
    /// The PCI address of the card that is cut.
    card: String,
    /// The one of the card that is given away whole.
    whole: String,
}

/// One thing after the other happens to the same node.
type Chapter = fn(&Host<'_>, &Node) -> Result<()>;

/// The two owners of the one VF, one after the other.
const ONE: (&str, &str) = ("one", "10.77.0.51");
const TWO: (&str, &str) = ("two", "10.77.0.52");

impl Host<'_> {
    fn ssh(&self, script: &str) -> Result<String> {
        self.stage.server().ssh(NODE, script, PATIENCE)
    }

    fn tail(&self) -> String {
        let log = "journalctl -u billet-agent -n 40 --no-pager -o cat; xl list; \
                   tail -n 30 /var/log/xen/console/guest-*.log";
        let log = self.stage.server().ssh(NODE, log, Duration::from_secs(20));
        format!("its log ends:\n{}", log.unwrap_or_else(|error| format!("{error:#}")))
    }

    /// Says which guest is to have the VF, and perhaps more; tells the generation.
    fn set_more(&self, owner: Option<(&str, &str)>, more: &str) -> Result<u64> {
        let (card, kernel, ramdisk) = (&self.card, guest::KERNEL, guest::RAMDISK);
        let guest = owner.map_or(String::new(), |(name, address)| {
            format!(
                "[[guest]]\nname = \"{name}\"\ntype = \"pv\"\nmemory = \"256MiB\"\n\
                 restart = \"always\"\nboot.kernel = {{ path = \"{kernel}\", \
                 ramdisk = \"{ramdisk}\", line = \"console=hvc0 iommu=soft swiotlb=4096 \
                 gip={address}/24 peer={PEER} plug=yes\" }}\nslice = {{ fabric = \"lan\" }}\n{more}"
            )
        });
        let text = format!(
            "{SERVICE}[[fabric]]\nname = \"lan\"\nlink = \"ethernet\"\npfs = [\"{card}\"]\nvfs = 1\n{guest}"
        );
        self.stage.api().configure(NODE, &text)
    }

    fn set(&self, owner: Option<(&str, &str)>) -> Result<u64> {
        self.set_more(owner, "")
    }

    fn becomes(&self, owner: Option<(&str, &str)>) -> Result<()> {
        let generation = self.set(owner)?;
        self.until(generation, "applied").map(drop)
    }

    fn until(&self, generation: u64, wanted: &str) -> Result<Value> {
        self.stage.api().configured(NODE, generation, wanted, PATIENCE)
    }

    /// The slice of `guest` as the API tells of it.
    fn slice(&self, guest: &str) -> Result<Value> {
        let view: Value = self.stage.api().get(&format!("/v1/nodes/{NODE}/slices"))?;
        let items = view["items"].as_array();
        let own = |it: &&Value| it["slice"] == format!("{guest}/0").as_str();
        let found = items.and_then(|items| items.iter().find(own));
        found.cloned().with_context(|| format!("no slice of {guest} in {view}"))
    }

    fn mac(&self, guest: &str) -> Result<String> {
        let slice = self.slice(guest)?;
        let mac = slice["mac"].as_str().with_context(|| format!("no address in {slice}"))?;
        Ok(mac.to_owned())
    }

    /// The guest has the VF with the address that was announced, nothing else, and is heard
    /// through it.
    fn has_it(&self, (guest, address): (&str, &str), mac: &str) -> Result<()> {
        let log = format!("/var/log/xen/console/guest-{guest}.log");
        let said = self.ssh(&format!(
            "for try in $(seq 240); do grep -qs 'guest hears {PEER}' {log} && break; sleep 1; done
             grep '^guest' {log} | tr -d '\\r'; echo vifs $(xl network-list {guest} | tail -n +2)
             echo bridges $(ls -d /sys/class/net/*/bridge /sys/class/net/vif* 2>/dev/null)"
        ))?;
        for wanted in [&format!("guest has eth0 {mac} igbvf"), "vifs", "bridges"] {
            ensure!(said.lines().any(|line| line.trim() == wanted), "no `{wanted}` in:\n{said}");
        }
        ensure!(said.contains(&format!("guest hears {PEER}")), "it hears nobody:\n{said}");
        let mut ping = Command::new("ping");
        let output = ping.args(["-c", "3", "-W", "10", address]).output().context("pinging")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{guest} does not answer: {said}");
        // Who answered, by hardware address.
        let output = Command::new("ip").args(["neigh", "show", address]).output();
        let output = output.context("asking for neighbours")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(said.contains(mac), "somebody else answered for {guest}: {said}");
        let slice = self.slice(guest)?;
        ensure!(slice["state"] == "given" && slice["mac"] == mac, "{slice}");
        Ok(())
    }

    /// No driver has the VF, any may have it, xl does not list it, and it bears none of these
    /// addresses.
    fn is_free(&self, macs: &[&str]) -> Result<()> {
        let said = self.ssh(&format!(
            "cd /sys/bus/pci/devices/{}; echo listed $(xl pci-assignable-list)
             echo driver $(readlink virtfn0/driver); echo only $(cat virtfn0/driver_override)
             ip link show $(ls net)",
            self.card
        ))?;
        for wanted in ["listed", "driver", "only (null)"] {
            ensure!(said.lines().any(|line| line.trim() == wanted), "no `{wanted}` in:\n{said}");
        }
        ensure!(macs.iter().all(|mac| !said.contains(mac)), "still somebody:\n{said}");
        Ok(())
    }
}

fn without_iommu(host: &Host<'_>, _: &Node) -> Result<()> {
    let generation = host.set(Some(ONE))?;
    let status = host.until(generation, "retrying")?;
    let text = status["text"].as_str().unwrap_or_default();
    ensure!(text.contains("is the IOMMU on?"), "the reason does not name the IOMMU: {text}");
    host.is_free(&[])?;
    let list = host.ssh("xl list")?;
    ensure!(!list.contains("one"), "a guest was made without its slice:\n{list}");
    Ok(())
}

const UNIT: &str = "/etc/systemd/system/billet-agent.service.d";
/// The agent dies after one step, after two, after one ...: nothing tells afterwards that a VF was
/// reset, so one that always died of that would never come further.
const DIES: &str = "[Service]
EnvironmentFile=-/run/dies
ExecStartPre=/bin/sh -c 'grep -qs =1 /run/dies && n=2 || n=1; echo BILLET_AGENT_DIE_AFTER=$$n >/run/dies'
RestartSec=200ms
";

/// The same desired state, once the firmware has its IOMMU on.
fn given(host: &Host<'_>, node: &Node) -> Result<()> {
    let announced = host.mac(ONE.0)?;
    node.cut();
    node.iommu(true);
    node.power_on()?;
    let generation = host.stage.api().config(NODE)?["generation"].as_u64();
    host.until(generation.context("no generation")?, "applied")?;
    host.has_it(ONE, &announced)
}

fn next_owner(host: &Host<'_>, _: &Node) -> Result<()> {
    let (first, before) = (host.mac(ONE.0)?, host.slice(ONE.0)?);
    host.ssh(&format!(
        "mkdir -p {UNIT}; cat >{UNIT}/dies.conf <<'EOF'\n{DIES}EOF\nsystemctl daemon-reload; \
         systemctl restart billet-agent"
    ))?;
    let generation = host.set(Some(TWO))?;
    let announced = host.mac(TWO.0)?;
    ensure!(announced != first, "both guests are called {first}");
    host.until(generation, "applied")?;
    let died = host.ssh("systemctl show -P NRestarts billet-agent")?;
    let died: u32 = died.trim().parse().context("reading how often the agent died")?;
    // Off the driver, reset, anonymous, free; held, named, bound; the guest made.
    ensure!(died >= 8, "the agent was to die after one step and after two, it did {died} times");
    host.ssh(&format!("rm -r {UNIT}; systemctl daemon-reload; systemctl restart billet-agent"))?;
    host.has_it(TWO, &announced)?;
    let after = host.slice(TWO.0)?;
    ensure!(after["address"] == before["address"], "not the same VF: {before} and {after}");
    let list = host.ssh("xl list")?;
    ensure!(!list.contains("one"), "the first owner is still there:\n{list}");
    Ok(())
}

/// Its slice comes home, and is given to it again when it starts again.
fn destroyed(host: &Host<'_>, _: &Node) -> Result<()> {
    let (mac, id) = (host.mac(TWO.0)?, host.ssh("xl domid two")?);
    host.ssh("xl destroy two; : >/var/log/xen/console/guest-two.log")?;
    let began = Instant::now();
    loop {
        let now = host.ssh("xl domid two 2>/dev/null || true")?;
        if now != id && now.trim().parse::<u32>().is_ok() {
            break;
        }
        ensure!(began.elapsed() < PATIENCE, "it stays away");
        sleep(Duration::from_secs(1));
    }
    host.has_it(TWO, &mac)
}

/// A function that is no slice is given to a guest as it is, and taken from it, and the guest runs
/// on meanwhile.
fn whole_card(host: &Host<'_>, _: &Node) -> Result<()> {
    let card = &host.whole;
    let mac = host.ssh(&format!("cat /sys/bus/pci/devices/{card}/net/*/address"))?;
    let id = host.ssh("xl domid two")?;
    let driver = format!("basename $(readlink /sys/bus/pci/devices/{card}/driver)");
    let log = "/var/log/xen/console/guest-two.log";
    let printed = |text: &str| {
        let wait =
            format!("for try in $(seq 120); do grep -q '{text}' {log} && exit; sleep 1; done");
        let said = host.ssh(&format!("{wait}; tail -n 20 {log}"))?;
        ensure!(said.is_empty(), "it did not print `{text}` but\n{said}");
        Ok(())
    };
    let generation = host.set_more(Some(TWO), &format!("pci = [\"{card}\"]\n"))?;
    host.until(generation, "applied")?;
    printed(&format!("guest has eth1 {} igb", mac.trim()))?;
    let now = host.ssh(&driver)?;
    ensure!(now.trim() == "pciback", "the card's driver is {now}");
    host.becomes(Some(TWO))?;
    printed("guest lost eth1")?;
    let config: Value = host.stage.api().get(&format!("/v1/nodes/{NODE}/config"))?;
    let back = format!("xl pci-assignable-remove -r {card}");
    ensure!(config["notes"].to_string().contains(&back), "it is not noted: {config}");
    let now = host.ssh(&format!("{back} >/dev/null; {driver}"))?;
    ensure!(now.trim() == "igb", "after `{back}` the card's driver is {now}");
    ensure!(host.ssh("xl domid two")? == id, "the guest was started again");
    host.has_it(TWO, &host.mac(TWO.0)?)
}

fn returned(host: &Host<'_>, _: &Node) -> Result<()> {
    let (first, second) = (host.ssh("cat /var/lib/billet/slices.json")?, host.mac(TWO.0)?);
    let memory: Value = serde_json::from_str(&first).context("reading the agent's memory")?;
    let owners = memory["past"].as_array().map_or(0, Vec::len);
    ensure!(owners >= 1, "the first owner is forgotten: {memory}");
    host.becomes(None)?;
    host.is_free(&[&second])
}
