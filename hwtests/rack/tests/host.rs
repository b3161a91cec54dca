//! A dom0 node is shaped by its agent on a real Xen, and stays in shape: pools, pins, a VLAN-aware
//! bridge, guests that live through all that may be asked of them, a reboot, and an agent that is
//! killed after every step.

use std::{
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rack::{
    Firmware, NodeSpec, Part,
    api::Event,
    guest,
    stage::{self, Program, Stage, Story},
};
use serde_json::Value;

static PROGRAM: Program = Program {
    parts: &[Part::Ram, Part::Dom0],
    cached_store: true,
    options: |mut options| {
        // Several times over while the story is played.
        options.lease = Some(120);
        options
    },
    at_once: 1,
};

/// A Xen, its service domain and guests, all emulated, on busy cores.
const PATIENCE: Duration = Duration::from_secs(540);
const NODE: &str = "host";

fn main() -> ExitCode {
    stage::run(&PROGRAM, vec![Story { name: "a_dom0_is_shaped_and_stays_so", play: story }])
}

fn story(stage: &Stage) -> Result<()> {
    let node = stage.enrolled(NodeSpec::xen(NODE, Firmware::Bios))?;
    let deployment = stage.deploy(&node, "dom0")?;
    stage.done(&deployment, PATIENCE).context("imaging")?;
    let host = Host { stage };
    host.prepare()?;
    let chapters: [(&str, Chapter); 8] = [
        ("shaping it, the agent killed after every step", |host| host.is_shaped()),
        ("refusing what cannot be", |host| host.refuses()),
        ("pausing, saving, restoring, weighing", |host| host.guests_change()),
        ("restarting what dies", |host| host.guests_come_back()),
        ("undoing a guest that cannot start", |host| host.failed_guest_is_undone()),
        ("ending a guest that does not hear", |host| host.deaf_guest_ends()),
        ("taking back a change that cuts the node off", |host| host.cut_is_taken_back()),
        ("starting again", |host| host.survives_a_reboot()),
    ];
    let mut failed = Vec::new();
    for (what, play) in chapters {
        let began = Instant::now();
        let result = play(&host);
        println!("  {what}: {:.0} s", began.elapsed().as_secs_f64());
        if let Err(error) = result {
            failed.push(format!("{what}: {error:#}; {}", host.tail()));
            // The next chapter is to find the node as it should be.
            host.becomes(&USUAL)?;
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}

/// The node, as the tests see it: by the API, and over SSH.
struct Host<'a> {
    stage: &'a Stage,
}

/// One thing after the other happens to the same node.
type Chapter = fn(&Host<'_>) -> Result<()>;

/// What may differ from chapter to chapter.
struct Shape {
    pv: &'static str,
    pvh: &'static str,
    more: &'static str,
    network: &'static str,
}

const USUAL: Shape = Shape { pv: "", pvh: "", more: "", network: "" };

impl Host<'_> {
    fn prepare(&self) -> Result<()> {
        let server = self.stage.server();
        guest::install(server.key(), &server.target(NODE)?)?;
        Ok(())
    }

    fn ssh(&self, script: &str) -> Result<String> {
        self.stage.server().ssh(NODE, script, PATIENCE)
    }

    fn tail(&self) -> String {
        let status = self.status().map_or_else(|error| error.to_string(), |it| it.to_string());
        let log = "journalctl -u billet-agent -n 40 --no-pager -o cat; xl list; ip -br addr";
        let log = self.stage.server().ssh(NODE, log, Duration::from_secs(20));
        format!("its state is {status}; its log ends:\n{}", log.unwrap_or_default())
    }

    fn status(&self) -> Result<Value> {
        self.stage.api().config(NODE)
    }

    /// Says what the node should be; tells the generation.
    fn set(&self, shape: &Shape) -> Result<u64> {
        let card = self.ssh("ip -o route get 10.77.0.1 | sed 's/.* dev //; s/ .*//'")?;
        // Once it is shaped, the way out is the bridge; the card is the one that is no bridge's.
        let card = match card.trim() {
            "br0" => self.ssh("ls /sys/class/net/br0/brif | grep -v ^vif")?,
            _ => card,
        };
        let text = desired(card.trim(), shape);
        self.stage.api().configure(NODE, &text)
    }

    /// Waits until the node says this of that generation.
    fn until(&self, generation: u64, wanted: &str) -> Result<Value> {
        self.stage.api().configured(NODE, generation, wanted, PATIENCE)
    }

    fn becomes(&self, shape: &Shape) -> Result<()> {
        let generation = self.set(shape)?;
        self.until(generation, "applied").map(drop)
    }

    fn is_shaped(&self) -> Result<()> {
        let unit = "/etc/systemd/system/billet-agent.service.d";
        self.ssh(&format!(
            "mkdir -p {unit}; printf '[Service]\\nEnvironment=BILLET_AGENT_DIE_AFTER=1\\n\
             RestartSec=200ms\\n' >{unit}/dies.conf; systemctl daemon-reload; \
             systemctl restart billet-agent"
        ))?;
        self.becomes(&USUAL)?;
        self.lease_is_kept()?;
        let died = self.ssh("systemctl show -P NRestarts billet-agent")?;
        let died: u32 = died.trim().parse().context("reading how often the agent died")?;
        ensure!(died >= 4, "the agent was to die after every step, it did {died} times");
        self.ssh(&format!(
            "rm -r {unit}; systemctl daemon-reload; systemctl restart billet-agent"
        ))?;
        self.is_in_shape()
    }

    /// Everything that the usual shape says, asked of Xen and of the kernel.
    fn is_in_shape(&self) -> Result<()> {
        let said = self.ssh(
            "set -e
            echo pools $(xl cpupool-list -c | tail -n +2 | tr -s ' \\n' ' ')
            echo filtering $(cat /sys/class/net/br0/bridge/vlan_filtering)
            echo addresses $(ip -4 -o addr show dev br0 | wc -l)
            for vif in /sys/class/net/br0/brif/vif*; do
                echo vlans $(bridge vlan show dev ${vif##*/} | tail -n +2 | tr -s ' \\n\\t' ' '); done
            for guest in pv pvh; do xl domid $guest >/dev/null && echo there $guest; done
            for address in 10.9.0.2 10.9.0.3; do for try in $(seq 150); do
                ping -c 1 -W 2 $address >/dev/null && { echo answers $address; break; }
                sleep 1; done; done",
        )?;
        for wanted in [
            "pools Pool-0 0 guests 1",
            "filtering 1",
            "addresses 1",
            "there pv",
            "there pvh",
            "answers 10.9.0.2",
            "answers 10.9.0.3",
        ] {
            ensure!(said.lines().any(|line| line.trim() == wanted), "no `{wanted}` in:\n{said}");
        }
        let vlans: Vec<_> = said.lines().filter(|line| line.starts_with("vlans")).collect();
        let tagged = vlans.iter().all(|line| line.contains("10 PVID") && !line.contains(" 1 "));
        ensure!(vlans.len() == 2 && tagged, "guests' ports are to be in VLAN 10 alone: {vlans:?}");
        Ok(())
    }

    /// The address was a DHCP client's before it moved onto the bridge: the agent renews it now.
    fn lease_is_kept(&self) -> Result<()> {
        let kept = "for try in $(seq 60); do journalctl -b -u billet-agent -o cat | \
                    grep 'on br0 is kept, for 120 s' && exit 0; sleep 1; done; exit 1";
        self.ssh(kept).context("waiting for a lease that is kept").map(drop)
    }

    fn refuses(&self) -> Result<()> {
        let before = self.ssh("xl list | awk '{print $1, $2}'; ip -br link")?;
        let more = "[[guest]]\nname = \"big\"\nmemory = \"100GiB\"\nvcpus = 1\n\
                    boot.loader = \"pygrub\"\n[[guest.nic]]\nbridge = \"nowhere\"\n";
        let generation = self.set(&Shape { more, ..USUAL })?;
        let status = self.until(generation, "refused")?;
        let text = status["text"].as_str().unwrap_or_default();
        ensure!(text.contains("102720MiB") && text.contains("nowhere"), "not every reason: {text}");
        let after = self.ssh("xl list | awk '{print $1, $2}'; ip -br link")?;
        ensure!(before == after, "something was done all the same:\n{before}\n{after}");
        Ok(())
    }

    fn guests_change(&self) -> Result<()> {
        let states = "xl list | awk '$1 == \"pv\" {print $5}'";
        self.becomes(&Shape { pv: "state = \"paused\"", ..USUAL })?;
        let state = self.ssh(states)?;
        ensure!(state.contains('p'), "it is not paused: {state}");
        self.becomes(&Shape { pv: "state = \"saved\"", ..USUAL })?;
        ensure!(self.ssh(states)?.trim().is_empty(), "it is saved and still there");
        self.becomes(&Shape { pv: "weight = 512\ncap = 80", ..USUAL })?;
        let weight = self.ssh("xl sched-credit2 -d pv | awk 'END {print $3, $4}'")?;
        ensure!(weight.trim() == "512 80", "weight and cap are {weight}");
        self.answers("10.9.0.2")?;
        // Not a new start: the words of the first one are still those of this guest.
        let ready = format!("grep -c '{}' /var/log/xen/console/guest-pv.log", guest::READY);
        let started = self.ssh(&ready)?;
        ensure!(started.trim() == "1", "it was started {started} times, not restored");
        self.becomes(&Shape { pv: "state = \"stopped\"", ..USUAL })?;
        ensure!(self.ssh(states)?.trim().is_empty(), "it is stopped and still there");
        self.becomes(&USUAL)?;
        self.is_in_shape()
    }

    fn answers(&self, address: &str) -> Result<()> {
        self.ssh(&format!(
            "for try in $(seq 150); do ping -c 1 -W 2 {address} >/dev/null && exit 0; sleep 1; done; \
             exit 1"
        ))
        .map(drop)
    }

    fn guests_come_back(&self) -> Result<()> {
        self.becomes(&Shape { pvh: "restart = \"always\"", ..USUAL })?;
        let id = self.ssh("xl domid pvh")?;
        self.ssh("xl destroy pvh")?;
        let began = Instant::now();
        while self.ssh("xl domid pvh 2>/dev/null || true")?.trim().parse::<u32>().is_err() {
            ensure!(began.elapsed() < PATIENCE, "it stays away");
            sleep(Duration::from_secs(1));
        }
        ensure!(self.ssh("xl domid pvh")? != id, "it is the same domain");
        self.answers("10.9.0.3")?;
        let began = Instant::now();
        let is_its_end = |event: &Event| event.kind == "guest.died" && event.text.contains("pvh");
        while !self.stage.api().events(0)?.iter().any(is_its_end) {
            ensure!(began.elapsed() < PATIENCE, "its end is no event");
            sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    fn failed_guest_is_undone(&self) -> Result<()> {
        let more = "[[guest]]\nname = \"half\"\ntype = \"pv\"\nmemory = \"96MiB\"\n\
                    boot.kernel = { path = \"/var/lib/billet/guest/kernel\" }\n\
                    [[guest.disk]]\npath = \"/srv/absent.img\"\nas = \"xvda\"\n";
        let generation = self.set(&Shape { more, ..USUAL })?;
        let status = self.until(generation, "retrying")?;
        let text = status["text"].as_str().unwrap_or_default();
        ensure!(text.contains("/srv/absent.img"), "the reason does not name the disk: {text}");
        let list = self.ssh("xl list; xl domid pv; xl domid pvh")?;
        ensure!(!list.contains("half"), "half a guest was left:\n{list}");
        self.becomes(&USUAL)
    }

    fn deaf_guest_ends(&self) -> Result<()> {
        let pv = "shutdown_seconds = 5";
        let deaf = Shape { more: DEAF, ..USUAL };
        self.becomes(&deaf)?;
        self.answers("10.9.0.4")?;
        self.becomes(&Shape { pv, ..USUAL })?;
        let list = self.ssh("xl list")?;
        // What the desired state does not name any more and the agent made is taken away.
        ensure!(!list.contains("deaf"), "it is still there:\n{list}");
        Ok(())
    }

    fn cut_is_taken_back(&self) -> Result<()> {
        let before = self.ssh("ip -br -4 addr show dev br0 | awk '{print $3}'")?;
        // Nobody answers there, so nobody can confirm.
        let network = "[network.confirm]\nseconds = 15\nreach = \"tcp://10.77.0.250:9\"\n\
                       [[network.bridge]]\nname = \"br1\"\nports = [\"CARD\"]\n\
                       [[network.bridge]]\nname = \"br0\"\nvlan_filtering = true\n\
                       [[network.vlan]]\nname = \"br0.10\"\nlink = \"br0\"\nid = 10\n\
                       addresses = [\"10.9.0.1/24\"]\n";
        let generation = self.set(&Shape { network, ..USUAL })?;
        let status = self.until(generation, "retrying")?;
        let text = status["text"].as_str().unwrap_or_default();
        ensure!(text.contains("10.77.0.250"), "the reason does not name who was silent: {text}");
        let after = self.ssh("ip -br -4 addr show dev br0 | awk '{print $3}'")?;
        ensure!(before == after, "the address was {before}, is {after}");
        self.becomes(&USUAL)?;
        self.is_in_shape()
    }

    /// How often the guest's own kernel has said that it goes down.
    fn shutdowns(&self) -> Result<u32> {
        let said = "grep -c 'reboot: Power ' /var/log/xen/console/guest-pv.log || true";
        self.ssh(said)?.trim().parse().context("counting the guest's shutdowns")
    }

    fn survives_a_reboot(&self) -> Result<()> {
        self.becomes(&USUAL)?;
        let needed = self.status()?;
        ensure!(
            needed["reboot_needed"] == true,
            "no reboot is needed for another memory: {needed}"
        );
        let shutdowns = self.shutdowns()?;
        let before = self.ssh("cat /proc/sys/kernel/random/boot_id")?;
        self.ssh("(sleep 1; systemctl reboot) >/dev/null 2>&1 &")?;
        let began = Instant::now();
        loop {
            if began.elapsed() > PATIENCE {
                bail!("it does not come back");
            }
            sleep(Duration::from_secs(2));
            let now = self.stage.server().ssh(
                NODE,
                "cat /proc/sys/kernel/random/boot_id",
                Duration::from_secs(10),
            );
            if now.is_ok_and(|now| now != before) {
                break;
            }
        }
        ensure!(self.shutdowns()? > shutdowns, "the guest was not shut down with its host");
        let resident = "for try in $(seq 200); do pgrep -x billet-agent >/dev/null && \
                        xl domid pvh >/dev/null 2>&1 && break; sleep 1; done; \
                        awk '/VmRSS/ {print $2}' /proc/$(pgrep -xo billet-agent)/status";
        let resident = self.ssh(resident)?;
        let resident: u64 = resident.trim().parse().context("reading the agent's memory")?;
        ensure!(resident < 16 << 10, "the agent has {resident} KiB resident, 16384 are the most");
        let away = self.ssh("journalctl -u billet-agent | grep -c 'timeout: per read' || true")?;
        ensure!(away.trim() == "0", "questions that are held up are no silence: {away}");
        self.lease_is_kept()?;
        let line = self.ssh("xl info xen_commandline")?;
        ensure!(line.contains("dom0_mem=768M"), "Xen's line is {line}");
        let began = Instant::now();
        while self.status()?["reboot_needed"] == true {
            ensure!(began.elapsed() < PATIENCE, "a reboot is needed still: {}", self.status()?);
            sleep(Duration::from_secs(1));
        }
        self.is_in_shape()
    }
}

const DEAF: &str = "[[guest]]\nname = \"deaf\"\ntype = \"pv\"\nmemory = \"96MiB\"\n\
                    shutdown_seconds = 5\n\
                    boot.kernel = { path = \"/var/lib/billet/guest/kernel\", \
                    ramdisk = \"/var/lib/billet/guest/initrd\", \
                    line = \"console=hvc0 gip=10.9.0.4/24 deaf=yes\" }\n\
                    [[guest.nic]]\nbridge = \"br0\"\nvlan = 10\n";

/// What the node should be.
fn desired(card: &str, shape: &Shape) -> String {
    let Shape { pv, pvh, more, network } = shape;
    let (kernel, ramdisk) = (guest::KERNEL, guest::RAMDISK);
    let usual = "[[network.bridge]]\nname = \"br0\"\nvlan_filtering = true\nports = [\"CARD\"]\n\
                 [[network.vlan]]\nname = \"br0.10\"\nlink = \"br0\"\nid = 10\n\
                 addresses = [\"10.9.0.1/24\"]\n";
    let network = if network.is_empty() { usual } else { network };
    let network = network.replace("CARD", card);
    let guest = |kind: &str, address: &str, more: &str| {
        format!(
            "[[guest]]\nname = \"{kind}\"\ntype = \"{kind}\"\nmemory = \"160MiB\"\n{more}\n\
             boot.kernel = {{ path = \"{kernel}\", ramdisk = \"{ramdisk}\", \
             line = \"console=hvc0 gip={address}/24\" }}\n\
             [[guest.nic]]\nbridge = \"br0\"\nvlan = 10\n"
        )
    };
    format!(
        "[service]\ncpus = 1\nmemory = \"768MiB\"\ndedicate = \"pool\"\n\
         [network]\nmanagement = \"{card}\"\n{network}{}{}{more}",
        guest("pv", "10.9.0.2", pv),
        guest("pvh", "10.9.0.3", pvh),
    )
}
