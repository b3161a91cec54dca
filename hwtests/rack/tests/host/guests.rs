//! What may be asked of guests, and what may happen to them.

use std::{
    fs::{self, File},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rack::{api::Event, guest, tool};
use serde_json::Value;

use crate::{
    Host, NODE, PATIENCE,
    desired::{Shape, USUAL, boot},
};

/// What Xen, xenstore and the kernel say of the guest `pv`.
const PV: &str = "id=$(xl domid pv)
    echo id $id
    echo weight $(xl sched-credit2 -d pv | awk 'END {print $3, $4}')
    echo memory $(xenstore-read /local/domain/$id/memory/target)
    echo has $(xl list pv | awk 'END {print $3}')
    echo rate $(xenstore-read /local/domain/0/backend/vif/$id/0/rate 2>/dev/null)
    echo vlan $(bridge vlan show dev vif$id.0 | tail -n +2 | sed 's/^vif[^ \\t]*//')
    xl vcpu-list pv | awk 'NR > 1 {print \"vcpu\", $3, $4 == \"-\" ? \"off\" : \"on\", $7}'
    echo disks $(xl block-list pv | awk 'NR > 1' | wc -l)";

/// Disks of every kind, made once: a file, a block device, a volume. Prints the block device.
const DISKS: &str = "set -e; mkdir -p /srv/words; cd /srv/words; [ -e done ] || {
    for word in file device; do
        truncate -s 4M $word.img; echo \"the word of the $word\" | dd of=$word.img conv=notrunc
    done
    truncate -s 16M group.img; group=$(losetup -f --show /srv/words/group.img)
    vgcreate -q words $group; lvcreate -q -y -W n -L 4M -n volume words
    echo 'the word of the volume' | dd of=/dev/words/volume conv=fsync
    losetup -f --show /srv/words/device.img >done; } >/dev/null 2>&1; cat done";

impl Host<'_> {
    /// Has the agent killed once it is in the middle of this word of xl, where it is to die.
    fn dies_during(&self, word: &str) -> Result<()> {
        if !self.dies {
            return Ok(());
        }
        // `[x]l`: the loop must not find itself. Debian's `xl` is a script that becomes xl.
        self.ssh(&format!(
            "nohup bash -c 'for try in $(seq 2000); do pgrep -f \"[x]l {word}\" >/dev/null && \
             systemctl kill -s KILL --kill-whom=main billet-agent && \
             echo {word} >>/run/killed && exit; sleep 0.1; done' >/dev/null 2>&1 &"
        ))
        .map(drop)
    }

    /// Waits until Xen says all of this of the guest `pv`.
    fn pv_is(&self, wanted: &[&str]) -> Result<()> {
        let began = Instant::now();
        loop {
            let said = self.ssh(PV)?;
            let is = |wanted: &&&str| said.lines().any(|line| line.trim_end() == **wanted);
            let Some(missing) = wanted.iter().find(|wanted| !is(wanted)) else { return Ok(()) };
            ensure!(began.elapsed() < Duration::from_secs(300), "no `{missing}` in:\n{said}");
            sleep(Duration::from_secs(1));
        }
    }

    /// How often `pv` was started: the words of a start stay where it was restored.
    fn starts(&self) -> Result<u32> {
        let ready = format!("grep -c '{}' /var/log/xen/console/guest-pv.log", guest::READY);
        self.ssh(&ready)?.trim().parse().context("counting the guest's starts")
    }

    /// Waits until the guest has printed this.
    fn printed(&self, name: &str, text: &str) -> Result<()> {
        let log = format!("/var/log/xen/console/guest-{name}.log");
        let wait =
            format!("for try in $(seq 120); do grep -q '{text}' {log} && exit; sleep 1; done");
        let said = self.ssh(&format!("{wait}; tail -n 20 {log}"))?;
        ensure!(said.is_empty(), "{name} did not print `{text}` but\n{said}");
        Ok(())
    }

    /// Waits for an event of this kind that says all of this.
    fn event(&self, kind: &str, texts: &[&str]) -> Result<()> {
        let is = |event: &Event| {
            event.kind == kind && texts.iter().all(|text| event.text.contains(text))
        };
        let began = Instant::now();
        while !self.stage.api().events(0)?.iter().any(is) {
            ensure!(began.elapsed() < PATIENCE, "no event {kind} of {texts:?}");
            sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    /// A running guest is changed in every way that there is: it is the same domain, and is never started
    /// again.
    pub(crate) fn guests_change_live(&self) -> Result<()> {
        self.ssh(DISKS).context("making disks")?;
        let id = self.ssh("echo id $(xl domid pv)")?;
        let live = Shape {
            pv: "memory = \"144MiB\"\nvcpus = 2\ncpus = \"3\"\nweight = 300\ncap = 90",
            devices: "rate = \"40Mb/s\"\n[[guest.disk]]\npath = \"/srv/words/file.img\"\nas = \"xvda\"",
            ..USUAL
        };
        self.becomes(&live)?;
        let changed = [
            id.trim(),
            "weight 300 90",
            "memory 147456",
            "has 144",
            "rate 250000,50000",
            "vlan 10 PVID Egress Untagged",
            "vcpu 0 on 3",
            "vcpu 1 on 3",
            "disks 1",
        ];
        self.pv_is(&changed)?;
        self.printed("pv", "xvda says: the word of the file")?;
        // What somebody turns by hand comes back.
        self.ssh(
            "xl vcpu-pin pv 0 all; ip addr del 10.9.0.1/24 dev br0.10 2>/dev/null;
             bridge vlan add dev vif$(xl domid pv).0 vid 20 pvid untagged",
        )?;
        self.pv_is(&["vcpu 0 on 3", "vlan 10 PVID Egress Untagged"])?;
        self.answers("10.9.0.2")?;
        self.becomes(&USUAL)?;
        self.pv_is(&[
            id.trim(),
            "weight 256 0",
            "memory 163840",
            "has 160",
            "rate",
            "vcpu 0 on all",
            "vcpu 1 off all",
            "disks 0",
        ])?;
        ensure!(self.starts()? == 1, "it was started again");
        Ok(())
    }

    /// Through pauses and files.
    pub(crate) fn guests_rest(&self) -> Result<()> {
        let states = "xl list | awk '$1 == \"pv\" {print $5}'";
        self.becomes(&Shape { pv: "state = \"paused\"", ..USUAL })?;
        let state = self.ssh(states)?;
        ensure!(state.contains('p'), "it is not paused: {state}");
        self.dies_during("save")?;
        self.becomes(&Shape { pv: "state = \"saved\"", ..USUAL })?;
        ensure!(self.ssh(states)?.trim().is_empty(), "it is saved and still there");
        self.dies_during("restore")?;
        self.becomes(&Shape { pv: "weight = 512\ncap = 80", ..USUAL })?;
        self.pv_is(&["weight 512 80"])?;
        self.answers("10.9.0.2")?;
        ensure!(self.starts()? == 1, "it was started again, not restored");
        if self.dies {
            let killed = self.ssh("cat /run/killed || true")?;
            ensure!(killed == "save\nrestore\n", "the agent was not killed in both: {killed}");
            self.event("state.repaired", &["pv was half made"])?;
            self.lives()?;
        }
        // It stops, and meanwhile interrupts move to one of the service domain's two CPUs.
        let service = "interrupts = \"0\"";
        self.becomes(&Shape { pv: "state = \"stopped\"", service, ..USUAL })?;
        ensure!(self.ssh(states)?.trim().is_empty(), "it is stopped and still there");
        let interrupts = self.ssh(
            "cat /proc/irq/default_smp_affinity; awk '/xen-(pirq|dyn)/ {sub(\":\", \"\", $1); \
             print $1}' /proc/interrupts | while read irq; do \
             echo $irq on $(cat /proc/irq/$irq/smp_affinity_list); done",
        )?;
        let astray = interrupts.lines().skip(1).find(|line| !line.ends_with(" on 0"));
        ensure!(interrupts.lines().count() > 5 && astray.is_none(), "interrupts:\n{interrupts}");
        ensure!(interrupts.starts_with("1\n"), "new interrupts go elsewhere:\n{interrupts}");
        self.becomes(&USUAL)?;
        self.is_in_shape()
    }

    /// The provisioner is away and the agent is a new one, which knows from its disk alone what
    /// should be: guests that end by themselves come back, and their ends are told later.
    pub(crate) fn guests_come_back(&self) -> Result<()> {
        self.becomes(&Shape { pv: "restart = \"always\"", ..USUAL })?;
        let alone = "set -e
            pv=$(xl domid pv); pvh=$(xl domid pvh)
            systemctl kill -s KILL --kill-whom=main billet-agent
            xl sysrq pvh c; xl sysrq pv o
            back() { for try in $(seq 300); do
                now=$(xl domid $1 2>/dev/null || true)
                if [ -n \"$now\" ] && [ \"$now\" != $2 ]; then
                    ping -c 1 -W 2 $3 >/dev/null && return; fi
                sleep 1; done; xl list >&2; exit 1; }
            back pv $pv 10.9.0.2; back pvh $pvh 10.9.0.3";
        let mut server = self.stage.server();
        let target = server.target(NODE)?;
        server.stop();
        let came_back = server.key().run(&target, alone);
        server.restart()?;
        drop(server);
        came_back.context("coming back while the provisioner is away")?;
        self.event("guest.died", &["pvh crashed", "its last lines", "TASK>"])?;
        self.event("guest.died", &["pv switched itself off"])?;
        self.event("guest.restarted", &["pvh"])?;
        let id = self.ssh("xl domid pvh")?;
        self.ssh("xl destroy pvh")?;
        let began = Instant::now();
        while self.ssh("xl domid pvh 2>/dev/null || true")?.trim().parse::<u32>().is_err() {
            ensure!(began.elapsed() < PATIENCE, "it stays away");
            sleep(Duration::from_secs(1));
        }
        ensure!(self.ssh("xl domid pvh")? != id, "it is the same domain");
        self.event("guest.died", &["pvh is gone: somebody destroyed it"])
    }

    pub(crate) fn failed_guest_is_undone(&self) -> Result<()> {
        let more = "[[guest]]\nname = \"half\"\ntype = \"pv\"\nmemory = \"96MiB\"\n\
                    boot.kernel = { path = \"/var/lib/billet/guest/kernel\" }\n\
                    [[guest.disk]]\npath = \"/srv/absent.img\"\nas = \"xvda\"\n";
        let generation = self.set(&Shape { more, ..USUAL })?;
        let status = self.until(generation, "retrying")?;
        let text = status["text"].as_str().unwrap_or_default();
        ensure!(text.contains("/srv/absent.img"), "the reason does not name the disk: {text}");
        let list = self.ssh("xl list; xl domid pv; xl domid pvh")?;
        ensure!(!list.contains("half"), "half a guest was left:\n{list}");
        Ok(())
    }

    /// A guest of somebody else, and one with disks of every kind that does not hear.
    pub(crate) fn strangers_and_the_deaf(&self) -> Result<()> {
        let (kernel, ramdisk) = (guest::KERNEL, guest::RAMDISK);
        let theirs = self.ssh(&format!(
            "set -e; xl domid theirs 2>/dev/null && exit; printf '%s\\n' 'name = \"theirs\"' \
             'type = \"pv\"' 'memory = 96' 'kernel = \"{kernel}\"' 'ramdisk = \"{ramdisk}\"' \
             'cmdline = \"console=hvc0 \"' >/root/theirs.cfg; xl create -q /root/theirs.cfg; \
             xl domid theirs"
        ))?;
        let pool = "xl list -c theirs | awk 'END {print $2, $7}'";
        let is_in = |wanted: &str| {
            let said = self.ssh(pool)?;
            ensure!(said.trim() == format!("{} {wanted}", theirs.trim()), "theirs is {said}");
            Ok(())
        };
        let device = self.ssh(DISKS)?;
        let disks: String = [
            ("xvda", "/srv/words/file.img"),
            ("xvdb", device.trim()),
            ("xvdc", "/dev/words/volume"),
        ]
        .iter()
        .map(|(name, path)| format!("[[guest.disk]]\npath = \"{path}\"\nas = \"{name}\"\n"))
        .collect();
        let deaf = |state: &str, theirs: &str| {
            format!(
                "[[guest]]\nname = \"deaf\"\ntype = \"pv\"\nmemory = \"96MiB\"\n\
                 shutdown_seconds = 5\nstate = \"{state}\"\n{}\
                 [[guest.nic]]\nbridge = \"br0\"\nvlan = 10\n{disks}{theirs}",
                boot("gip=10.9.0.4/24 deaf=yes plug=yes")
            )
        };
        self.becomes(&Shape { more: &deaf("running", ""), ..USUAL })?;
        for (name, what) in [("xvda", "file"), ("xvdb", "device"), ("xvdc", "volume")] {
            self.printed("deaf", &format!("{name} says: the word of the {what}"))?;
        }
        self.answers("10.9.0.4")?;
        self.is_used("deaf", &["cpu_ms", "received", "sent", "read"])?;
        is_in("Pool-0").context("left alone")?;
        let config: Value = self.stage.api().get(&format!("/v1/nodes/{NODE}/config"))?;
        let notes = config["notes"].to_string();
        ensure!(notes.contains("theirs is not billet's"), "it is not noted: {notes}");
        // Told to own it, billet moves it to where guests are; the other one does not hear.
        let owned = format!(
            "[[guest]]\nname = \"theirs\"\ntype = \"pv\"\nmemory = \"96MiB\"\nown = true\n{}",
            boot("")
        );
        self.becomes(&Shape { more: &deaf("stopped", &owned), ..USUAL })?;
        self.event("guest.destroyed", &["deaf did not shut down in its time"])?;
        is_in("guests").context("owned")?;
        self.becomes(&USUAL)?;
        is_in("guests").context("owned no longer")?;
        let gone = "xl destroy theirs; vgchange -q -an words >/dev/null; losetup -D; xl list";
        let list = self.ssh(gone)?;
        ensure!(!list.contains("deaf"), "it is still there:\n{list}");
        Ok(())
    }

    /// A guest with a firmware and devices of its own: QEMU stands between it and a qcow2 disk.
    pub(crate) fn hvm_has_a_qcow2_disk(&self) -> Result<()> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let [raw, qcow2] = ["raw", "qcow2"].map(|kind| folder.path().join(kind));
        let mut word = b"the word of the qcow2\n".to_vec();
        word.resize(4 << 20, 0);
        fs::write(&raw, word).context("writing a disk")?;
        let mut convert = Command::new(tool::program("qemu-img", "qemu-utils")?);
        let convert = convert.args(["convert", "-f", "raw", "-O", "qcow2"]).args([&raw, &qcow2]);
        ensure!(convert.status().context("running qemu-img")?.success(), "there is no qcow2");
        let disk = File::open(&qcow2).context("opening a disk")?;
        let server = self.stage.server();
        server.key().run_with(&server.target(NODE)?, "cat >/srv/hvm.qcow2", disk)?;
        drop(server);
        let hvm = format!(
            "[[guest]]\nname = \"hvm\"\ntype = \"hvm\"\nmemory = \"160MiB\"\n{}\
             [[guest.nic]]\nbridge = \"br0\"\nvlan = 10\n\
             [[guest.disk]]\npath = \"/srv/hvm.qcow2\"\nformat = \"qcow2\"\nas = \"xvda\"\n",
            boot("gip=10.9.0.5/24 plug=yes")
        );
        self.becomes(&Shape { more: &hvm, ..USUAL })?;
        self.printed("hvm", "xvda says: the word of the qcow2")?;
        self.answers("10.9.0.5")?;
        self.is_used("hvm", &["cpu_ms", "received", "sent"])?;
        // It was not started again since it was first said what to be: that is all there is to do.
        let plan = self.ssh("billet-agent plan")?;
        let mut left = plan.lines().filter(|line| !line.starts_with("reboot needed: "));
        ensure!(left.next().is_none(), "not all is as desired:\n{plan}");
        self.becomes(&USUAL)?;
        let list = self.ssh("xl list")?;
        ensure!(!list.contains("hvm"), "it is still there:\n{list}");
        Ok(())
    }

    /// Waits until a guest has used something of all of these, by its node's reports.
    fn is_used(&self, name: &str, what: &[&str]) -> Result<()> {
        let began = Instant::now();
        loop {
            let guests: Value = self.stage.api().get(&format!("/v1/nodes/{NODE}/guests"))?;
            let items = guests["items"].as_array().map_or(&[][..], Vec::as_slice);
            let guest = items.iter().find(|guest| guest["name"] == name);
            let guest = guest.with_context(|| format!("{name} is not among {guests}"))?;
            if what.iter().all(|what| guest[*what].as_u64().is_some_and(|used| used > 0)) {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "not all of {what:?} is used: {guest}");
            sleep(Duration::from_secs(1));
        }
    }
}
