//! A dom0 node is shaped by its agent on a real Xen, and stays in shape: pools, pins, a bond below a
//! VLAN-aware bridge, guests that live through all that may be asked of them, strangers, a provisioner that is away,
//! a reboot. The agent is killed after every step of the first shaping; in the second story after every
//! step of what guests are asked too, and within some.

mod desired;
mod guests;

use std::{
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use desired::{Shape, USUAL};
use rack::{
    Firmware, NicModel, Node, NodeSpec, Part, guest,
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
/// Drivers of its two cards: the one that it is deployed through, and one beside it.
const CARDS: [&str; 2] = ["virtio_net", "e1000"];
/// How it is deployed: as two virtual CPUs cannot become more, and words that go with the reboot.
const FIRST: &str = "[service]\ncpus = 2\nmemory = \"1GiB\"\n\
                     [xen]\nextra = [\"loglvl=error\"]\nlinux = [\"billet.test=first\"]\n";
/// What is said of the agent's unit beside its own file.
const DROP_IN: &str = "/etc/systemd/system/billet-agent.service.d";

fn main() -> ExitCode {
    let stories = vec![
        Story { name: "a_dom0_is_shaped_and_stays_so", play: |stage| story(stage, false) },
        Story { name: "a_dom0_whose_agent_dies", play: |stage| story(stage, true) },
    ];
    stage::run(&PROGRAM, stories)
}

fn story(stage: &Stage, dies: bool) -> Result<()> {
    let spec = NodeSpec::xen(NODE, Firmware::Bios).with_cpus(4, 1);
    let node = stage.enrolled(spec.with_cards(vec![NicModel::E1000]))?;
    stage.api().configure(NODE, FIRST)?;
    let deployment = stage.deploy(&node, "dom0")?;
    stage.done(&deployment, PATIENCE).context("imaging")?;
    let host = Host { stage, node: &node, dies };
    host.prepare()?;
    let usual: [(&str, Chapter); 9] = [
        ("shaping it, the agent killed after every step", |host| host.is_shaped()),
        ("pulling one cable of two", |host| host.bond_holds()),
        ("changing guests that run", |host| host.guests_change_live()),
        ("pausing, saving, restoring, stopping", |host| host.guests_rest()),
        ("refusing what cannot be", |host| host.refuses()),
        ("restarting what ends, alone", |host| host.guests_come_back()),
        ("undoing a guest that cannot start", |host| host.failed_guest_is_undone()),
        ("strangers, and one that does not hear", |host| host.strangers_and_the_deaf()),
        ("taking back a change that cuts the node off", |host| host.cut_is_taken_back()),
    ];
    let mut chapters = Vec::from(usual);
    if dies {
        chapters.push(("emulating a machine", |host| host.hvm_has_a_qcow2_disk()));
    }
    chapters.push(("starting again", |host| host.survives_a_reboot()));
    let mut failed = Vec::new();
    for (what, play) in chapters {
        let began = Instant::now();
        let result = play(&host);
        println!("  {what}: {:.0} s", began.elapsed().as_secs_f64());
        if let Err(error) = result {
            failed.push(format!("{what}: {error:#}; {}", host.tail()));
            println!("  {}", failed.last().map_or("", String::as_str));
            host.lives()?;
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
    node: &'a Node,
    /// Whether its agent is killed while guests are asked things, too.
    dies: bool,
}

/// One thing after the other happens to the same node.
type Chapter = fn(&Host<'_>) -> Result<()>;

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
    fn set(&self, shape: &Shape<'_>) -> Result<u64> {
        let [card, spare] = CARDS.map(|driver| self.card(driver));
        self.stage.api().configure(NODE, &shape.text(card?.trim(), spare?.trim()))
    }

    /// What the card with this driver is called.
    fn card(&self, driver: &str) -> Result<String> {
        self.ssh(&format!(
            "set -e; for card in /sys/class/net/*/device/driver/; do
             [ $(basename $(readlink -f $card)) != {driver} ] || basename ${{card%/device/driver/}}
             done"
        ))
    }

    /// Waits until the node says this of that generation.
    fn until(&self, generation: u64, wanted: &str) -> Result<Value> {
        self.stage.api().configured(NODE, generation, wanted, PATIENCE)
    }

    fn becomes(&self, shape: &Shape<'_>) -> Result<()> {
        let generation = self.set(shape)?;
        self.until(generation, "applied").map(drop)
    }

    fn is_shaped(&self) -> Result<()> {
        self.ssh(&format!(
            "mkdir -p {DROP_IN}; printf '[Service]\\nEnvironment=BILLET_AGENT_DIE_AFTER=1\\n\
             RestartSec=200ms\\n' >{DROP_IN}/dies.conf; systemctl daemon-reload; \
             systemctl restart billet-agent"
        ))?;
        self.becomes(&USUAL)?;
        self.lease_is_kept()?;
        let died = self.ssh("systemctl show -P NRestarts billet-agent")?;
        let died: u32 = died.trim().parse().context("reading how often the agent died")?;
        ensure!(died >= 4, "the agent was to die after every step, it did {died} times");
        if !self.dies {
            self.lives()?;
        }
        self.is_in_shape()
    }

    /// From now on the agent does not die after every step.
    fn lives(&self) -> Result<()> {
        self.ssh(&format!(
            "[ ! -e {DROP_IN} ] || {{ rm -r {DROP_IN}; systemctl daemon-reload; \
             systemctl restart billet-agent; }}"
        ))
        .map(drop)
    }

    /// Everything that the usual shape says, asked of Xen and of the kernel.
    fn is_in_shape(&self) -> Result<()> {
        let said = self.ssh(
            "set -e
            echo pools $(xl cpupool-list -c | tail -n +2 | tr -s ' \\n' ' ')
            cd /sys/class/net/bond0
            echo bond $(cat bonding/mode bonding/miimon) on $(basename $(readlink master)) of \
                $(for card in lower_*; do basename $(readlink -f $card/device/driver); done | sort)
            echo known as $(cat address ../br0/address | sort -u)
            echo filtering $(cat /sys/class/net/br0/bridge/vlan_filtering)
            echo addresses $(ip -4 -o addr show dev br0 | wc -l)
            for vif in /sys/class/net/br0/brif/vif*; do
                echo vlans $(bridge vlan show dev ${vif##*/} | tail -n +2 | tr -s ' \\n\\t' ' '); done
            for guest in pv pvh; do xl domid $guest >/dev/null && echo there $guest; done
            for address in 10.9.0.2 10.9.0.3; do for try in $(seq 150); do
                ping -c 1 -W 2 $address >/dev/null && { echo answers $address; break; }
                sleep 1; done; done",
        )?;
        let known = format!("known as {}", self.node.mac());
        for wanted in [
            known.as_str(),
            "pools Pool-0 0,1 guests 2,3",
            "bond active-backup 1 100 on br0 of e1000 virtio_net",
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

    /// Of a bond of two cards one may lose its cable: the node is reached by the other.
    fn bond_holds(&self) -> Result<()> {
        let [card, spare] = CARDS.map(|driver| self.card(driver));
        let (card, spare) = (card?, spare?);
        let active = |card: &str| {
            self.ssh(&format!(
                "for try in $(seq 120); do active=$(cat /sys/class/net/bond0/bonding/active_slave)
                 [ $active != {} ] || exit 0; sleep 0.5; done; cat /proc/net/bonding/bond0 >&2; exit 1",
                card.trim()
            ))
        };
        let choose = format!("echo {} >/sys/class/net/bond0/bonding/active_slave", card.trim());
        self.ssh(&choose)?;
        active(&card).context("before the cable is pulled")?;
        self.node.unplug()?;
        let there = active(&spare).and_then(|_| self.answers("10.9.0.2"));
        self.node.plug()?;
        there.context("with one cable pulled")?;
        // Longer than a DHCP client would take.
        let alone = format!(
            "card={}; until [ $(cat /sys/class/net/$card/carrier) = 1 ]; do sleep 0.2; done
             for try in $(seq 20); do sleep 0.5; ip -4 -o addr show dev $card; done",
            card.trim()
        );
        let addresses = self.ssh(&alone)?;
        ensure!(addresses.is_empty(), "somebody gave a port an address:\n{addresses}");
        let plan = self.ssh("billet-agent plan | grep -v '^reboot needed: ' || true")?;
        ensure!(plan.is_empty(), "a pulled cable is nothing to be repaired:\n{plan}");
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

    fn answers(&self, address: &str) -> Result<()> {
        self.ssh(&format!(
            "for try in $(seq 150); do ping -c 1 -W 2 {address} >/dev/null && exit 0; sleep 1; done; \
             exit 1"
        ))
        .map(drop)
    }

    fn cut_is_taken_back(&self) -> Result<()> {
        let before = self.ssh("ip -br -4 addr show dev br0 | awk '{print $3}'")?;
        // Nobody answers there, so nobody can confirm.
        let network = "[network.confirm]\nseconds = 15\nreach = \"tcp://10.77.0.250:9\"\n\
                       [[network.bond]]\nname = \"bond0\"\nports = [\"SPARE\"]\n\
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
        for reason in [
            "Xen was booted with dom0_mem=1024M,max:1024M, dom0_mem=768M,max:768M is wanted",
            "Xen was booted with loglvl=error, which is not wanted",
            "Linux was booted with billet.test=first, which is not wanted",
        ] {
            let reasons = needed["reboot"].as_array().map_or(&[][..], Vec::as_slice);
            ensure!(reasons.iter().any(|it| it == reason), "no reason `{reason}` in {needed}");
        }
        let shutdowns = self.shutdowns()?;
        let before = self.ssh("cat /proc/sys/kernel/random/boot_id")?;
        self.ssh("(sleep 1; systemctl reboot) >/dev/null 2>&1 &")?;
        let began = Instant::now();
        let took = |what: &str| println!("    {what} after {:.0} s", began.elapsed().as_secs_f64());
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
        took("it answers");
        ensure!(self.shutdowns()? > shutdowns, "the guest was not shut down with its host");
        let away = self.ssh("journalctl -u billet-agent | grep -c 'timeout: per read' || true")?;
        ensure!(away.trim() == "0", "questions that are held up are no silence: {away}");
        self.lease_is_kept()?;
        took("its lease is kept");
        let line = self.ssh("xl info xen_commandline")?;
        ensure!(line.contains("dom0_mem=768M"), "Xen's line is {line}");
        let asked = Instant::now();
        while self.status()?["reboot_needed"] == true {
            ensure!(asked.elapsed() < PATIENCE, "a reboot is needed still: {}", self.status()?);
            sleep(Duration::from_secs(1));
        }
        // It is still being shaped: guests come one after the other.
        let shaped = "for try in $(seq 150); do [ -n \"$(billet-agent plan)\" ] || exit 0; sleep 2; \
                      done; billet-agent plan; exit 1";
        self.ssh(shaped).context("waiting for a plan of nothing")?;
        took("its plan is empty");
        self.is_in_shape()?;
        took("its guests answer");
        self.is_told_by_hand()?;
        // The most that it ever had, after all of a start.
        let resident = "awk '/VmHWM/ {print $2}' /proc/$(pgrep -xo billet-agent)/status";
        let resident: u64 =
            self.ssh(resident)?.trim().parse().context("reading the agent's memory")?;
        println!("  the agent had {resident} KiB resident at most");
        ensure!(resident < 16 << 10, "the agent had {resident} KiB resident, 16384 are the most");
        Ok(())
    }

    /// The verbs by hand: nothing is left to do, and facts and status are told.
    fn is_told_by_hand(&self) -> Result<()> {
        let plan = self.ssh("billet-agent plan")?;
        ensure!(plan.is_empty(), "not all is as desired:\n{plan}");
        let host: Value = serde_json::from_str(&self.ssh("billet-agent probe")?)?;
        let domains = host["xen"]["domains"].as_array().map_or(0, Vec::len);
        ensure!(domains == 3, "Domain-0, pv and pvh are to be probed: {}", host["xen"]["domains"]);
        let status: Value = serde_json::from_str(&self.ssh("billet-agent status")?)?;
        ensure!(status["generation"] == status["applied"], "status: {status}");
        Ok(())
    }
}
