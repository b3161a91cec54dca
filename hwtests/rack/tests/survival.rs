//! What a deployment must survive, each a short story on a machine of its own. The disks are
//! tiny: it is the road that is tested, not Debian.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use protocol::Step;
use rack::{
    BootFirst, Bus, DiskSpec, Firmware, NodeSpec, Size,
    stage::{self, PATIENCE, Program, Stage, Story, is_at},
    tiny::{self, BOOTS, DATA},
};
use serde_json::json;

static PROGRAM: Program = Program {
    options: |mut options| {
        // A fault that stays is not tried for longer than it takes to see that it does.
        options.failures = 2;
        options
    },
    at_once: 2,
    ..Program::TINY
};

fn main() -> ExitCode {
    let stories = vec![
        Story { name: "power_cuts_while_writing", play: power_cuts_while_writing },
        Story { name: "server_killed_in_mid_deployment", play: server_killed },
        Story { name: "connection_lost_for_30_seconds", play: connection_lost },
        Story { name: "chunk_corrupted_in_the_store", play: chunk_corrupted },
        Story { name: "sector_that_takes_no_writes", play: unwritable_sector },
        Story { name: "manifest_with_a_foreign_signature", play: foreign_signature },
        Story { name: "image_larger_than_the_disk", play: image_too_large },
        Story { name: "two_disks_that_fit", play: two_disks },
        Story { name: "no_disk", play: no_disk },
        Story { name: "kexec_that_cannot_be_is_a_restart", play: no_kexec },
        Story { name: "unknown_then_enrolled_then_nothing_to_do", play: unknown_machine },
    ];
    stage::run(&PROGRAM, stories)
}

/// Slow enough that a moment of the write can be met.
const SLOW: Size = Size::mib(12);

fn power_cuts_while_writing(stage: &Stage) -> Result<()> {
    let tiny = stage.tiny("cuts", Size::mib(96))?;
    let node = stage.enrolled_for("cuts", &tiny, Some(Size::mib(8)))?;
    let disk = node.disk(0)?;
    let deployment = stage.deploy(&node, "cuts")?;
    let mut written = 0;
    // Reading back has no moment of its own: it goes on beside the write.
    for percent in [10, 45, 80] {
        // Before that, what the server tells may be of the agent that was cut.
        node.console().wait_for("billet: write", PATIENCE)?;
        stage.moment(&deployment, |seen| is_at(seen, Step::Write, percent))?;
        node.cut();
        tiny::does_not_boot(disk).with_context(|| format!("cut at {percent} % of the write"))?;
        let now = tiny.blocks_on(disk)?;
        ensure!(now > written, "{now} blocks are on the disk, {written} were before");
        written = now;
        node.power_on()?;
    }
    let done = stage.done(&deployment, PATIENCE)?;
    let kept = done.written.context("nothing was reported")?.kept;
    ensure!(kept >= tiny.data / 2, "{kept} bytes were kept of {}", tiny.data);
    tiny.is_on(disk)?;
    tiny::table_is_sound(disk)?;
    node.console().wait_for(&format!("{BOOTS} cuts"), PATIENCE)?;
    Ok(())
}

fn server_killed(stage: &Stage) -> Result<()> {
    let tiny = stage.tiny("killed", Size::mib(48))?;
    let node = stage.enrolled_for("killed", &tiny, Some(SLOW))?;
    let deployment = stage.deploy(&node, "killed")?;
    stage.moment(&deployment, |seen| is_at(seen, Step::Write, 10))?;
    {
        let mut server = stage.server();
        server.kill9();
        thread::sleep(Duration::from_secs(2));
        server.restart()?;
    }
    stage.done(&deployment, PATIENCE)?;
    tiny.is_on(node.disk(0)?)?;
    node.console().wait_for(&format!("{BOOTS} killed"), PATIENCE)?;
    let boots =
        node.console().lines(0).into_iter().filter(|line| line.text.contains("gets killed"));
    ensure!(boots.count() == 1, "the node did not have to start again");
    Ok(())
}

fn connection_lost(stage: &Stage) -> Result<()> {
    let tiny = stage.tiny("lost", Size::mib(48))?;
    let node = stage.enrolled_for("lost", &tiny, Some(SLOW))?;
    let deployment = stage.deploy(&node, "lost")?;
    stage.moment(&deployment, |seen| is_at(seen, Step::Write, 10))?;
    node.unplug()?;
    let unplugged = Instant::now();
    thread::sleep(Duration::from_secs(30));
    ensure!(unplugged.elapsed() >= Duration::from_secs(30));
    node.plug()?;
    stage.done(&deployment, PATIENCE)?;
    tiny.is_on(node.disk(0)?)?;
    node.console().wait_for(&format!("{BOOTS} lost"), PATIENCE)?;
    let boots = node.console().lines(0).into_iter().filter(|line| line.text.contains("gets lost"));
    ensure!(boots.count() == 1, "the node did not have to start again");
    Ok(())
}

fn chunk_corrupted(stage: &Stage) -> Result<()> {
    let before = packs(stage.store())?;
    // No other disk has this size: what it shares with others must not rot.
    let tiny = stage.tiny("rotten", Size::mib(9))?;
    let mut fresh = packs(stage.store())?;
    fresh.retain(|pack| !before.contains(pack));
    ensure!(!fresh.is_empty(), "the image has packs of its own");
    for pack in &fresh {
        let mut bytes = fs::read(pack).context("reading a pack")?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        fs::remove_file(pack).context("removing a pack")?;
        fs::write(pack, bytes).context("writing a rotten pack")?;
    }
    let node = stage.enrolled_for("rotten", &tiny, None)?;
    let reason = stage.refused(&stage.deploy(&node, "rotten")?, PATIENCE)?;
    ensure!(names_a_digest(&reason), "the chunk is named: {reason}");
    tiny::does_not_boot(node.disk(0)?)?;
    tiny.blocks_on(node.disk(0)?)?;
    node.cut();
    Ok(())
}

/// Every pack of a store.
fn packs(store: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in fs::read_dir(store.join("packs")).into_iter().flatten() {
        let folder = folder.context("reading the packs' folder")?.path();
        for pack in fs::read_dir(&folder).context("reading a folder of packs")? {
            found.push(pack.context("reading a folder of packs")?.path());
        }
    }
    Ok(found)
}

fn names_a_digest(text: &str) -> bool {
    text.split(|letter: char| !letter.is_ascii_hexdigit()).any(|word| word.len() == 64)
}

/// Named, on a node that is marked; and with a sound disk the next deployment ends it.
fn unwritable_sector(stage: &Stage) -> Result<()> {
    let tiny = stage.tiny("worn", Size::mib(12))?;
    let node = stage.enrolled_for("worn", &tiny, None)?;
    let sector = (DATA + (7 << 20)) / 512 + 5;
    node.unwritable(Some(sector));
    let reason = stage.refused(&stage.deploy(&node, "worn")?, PATIENCE)?;
    let named = format!("writing 512 bytes at offset {} (sector {sector})", sector * 512);
    ensure!(reason.contains(&named), "{reason}");
    let marked = stage.api().node("worn")?;
    ensure!(marked.state == "failed" && marked.reason.is_some(), "it is {}", marked.state);
    tiny::does_not_boot(node.disk(0)?)?;
    node.cut();
    node.unwritable(None);
    node.boot_first(BootFirst::Net);
    stage.done(&stage.deploy(&node, "worn")?, PATIENCE)?;
    tiny.is_on(node.disk(0)?)?;
    node.console().wait_for(&format!("{BOOTS} worn"), PATIENCE)?;
    Ok(())
}

/// The same disk imported by somebody else has the same manifest, and another signature.
fn foreign_signature(stage: &Stage) -> Result<()> {
    let tiny = stage.tiny("foreign", Size::mib(8))?;
    let elsewhere = stage.folder().join("elsewhere");
    stage.artefacts().import(&elsewhere, "foreign", Some(tiny::SEED), &tiny.path)?;
    let node = stage.enrolled_for("foreign", &tiny, None)?;
    let deployment = stage.server().api().deploy("foreign", &json!({ "image": "foreign" }))?;
    let mut swapped = 0;
    for entry in fs::read_dir(elsewhere.join("manifests")).context("reading the manifests")? {
        let entry = entry.context("reading the manifests")?;
        if entry.path().extension().is_some_and(|kind| kind == "minisig") {
            let ours = stage.store().join("manifests").join(entry.file_name());
            ensure!(ours.exists(), "both stores have the manifest {:?}", entry.file_name());
            fs::remove_file(&ours).context("removing our signature")?;
            fs::copy(entry.path(), ours).context("copying the foreign signature")?;
            swapped += 1;
        }
    }
    ensure!(swapped == 1, "one manifest was imported elsewhere");
    node.power_on()?;
    let reason = stage.refused(&deployment, PATIENCE)?;
    ensure!(reason.contains("sign"), "the signature is named: {reason}");
    is_blank(node.disk(0)?)?;
    node.cut();
    Ok(())
}

fn image_too_large(stage: &Stage) -> Result<()> {
    let tiny = stage.tiny("large", Size::mib(24))?;
    let disk = DiskSpec::new(Size(tiny.size - (1 << 20)), Bus::Virtio);
    let node = stage.enrolled(NodeSpec::new("large", Firmware::Bios).with_disks(vec![disk]))?;
    let reason = stage.refused(&stage.deploy(&node, "large")?, PATIENCE)?;
    ensure!(reason.contains(&tiny.size.to_string()), "the size is named: {reason}");
    is_blank(node.disk(0)?)?;
    node.cut();
    Ok(())
}

fn two_disks(stage: &Stage) -> Result<()> {
    let tiny = stage.tiny("two", Size::mib(8))?;
    let disks = [Bus::Nvme, Bus::Ahci].map(|bus| DiskSpec::new(Size::mib(64), bus));
    let node = stage.enrolled(NodeSpec::new("two", Firmware::Bios).with_disks(disks.into()))?;
    let reason = stage.refused(&stage.deploy(&node, "two")?, PATIENCE)?;
    ensure!(reason.contains("two-0") && reason.contains("two-1"), "both are named: {reason}");
    is_blank(node.disk(0)?)?;
    is_blank(node.disk(1)?)?;
    node.cut();
    // A hint decides. A BIOS starts its first disk and no other.
    let request = json!({ "image": "two", "disk": { "serial": "two-0" } });
    stage.done(&stage.deploy_with(&node, &request)?, PATIENCE)?;
    is_blank(node.disk(1)?)?;
    tiny.is_on(node.disk(0)?)?;
    node.console().wait_for(&format!("{BOOTS} two"), PATIENCE)?;
    Ok(())
}

fn no_disk(stage: &Stage) -> Result<()> {
    stage.tiny("none", Size::mib(1))?;
    let node = stage.enrolled(NodeSpec::new("none", Firmware::Bios).with_disks(Vec::new()))?;
    let reason = stage.refused(&stage.deploy(&node, "none")?, PATIENCE)?;
    ensure!(reason.contains("disk"), "{reason}");
    node.cut();
    Ok(())
}

/// Through the firmware instead, and the deployment says so: of an image that names no kernel, and of one
/// whose partition has no file system.
fn no_kexec(stage: &Stage) -> Result<()> {
    let tiny = stage.tiny("told", Size::mib(8))?;
    let (store, disk) = (stage.store().to_string_lossy(), tiny.path.to_string_lossy());
    let seed = tiny::SEED.to_string();
    let import = ["image", "import", "--store", &store, "--name", "named", "--seed", &seed];
    stage.billet(&[&import[..], &["--kernel", "1:/vmlinuz", &disk]].concat())?;
    let node = stage.enrolled_for("told", &tiny, None)?;
    node.boot_first(BootFirst::Net);
    let ways = [
        ("told", "the image does not say how to start it by kexec"),
        ("named", "kexec failed: mounting /dev/vda1 as ext4"),
    ];
    for (image, why) in ways {
        let request = json!({ "image": image, "restart": "kexec" });
        let done = stage.done(&stage.deploy_with(&node, &request)?, PATIENCE)?;
        let way = stage.restarted(&done)?;
        ensure!(way.starts_with(&format!("through the firmware: {why}")), "restarted {way}");
        node.console().wait_for(&format!("{BOOTS} told"), PATIENCE)?;
        node.cut();
    }
    Ok(())
}

fn is_blank(disk: &Path) -> Result<()> {
    let bytes = fs::read(disk).with_context(|| format!("reading {}", disk.display()))?;
    ensure!(bytes.iter().all(|byte| *byte == 0), "{} was written to", disk.display());
    Ok(())
}

fn unknown_machine(stage: &Stage) -> Result<()> {
    let tiny = stage.tiny("late", Size::mib(8))?;
    let disk = DiskSpec::new(Size::mib(64), Bus::Virtio);
    let node = stage.rack().add(NodeSpec::new("late", Firmware::Bios).with_disks(vec![disk]))?;
    node.boot_first(BootFirst::Net);
    node.power_on()?;
    node.console().wait_for("No bootable device", PATIENCE)?;
    let known = stage.api().nodes()?;
    let known = known.iter().find(|known| known.macs.iter().any(|mac| mac == node.mac()));
    let known = known.context("the machine was not recorded")?;
    ensure!(known.state == "discovered", "it is {}", known.state);
    ensure!(known.uuid.as_deref() == Some(node.uuid()), "its UUID is {:?}", known.uuid);
    is_blank(node.disk(0)?)?;
    node.cut();

    stage.server().enroll(&node)?;
    stage.done(&stage.deploy(&node, "late")?, PATIENCE)?;
    tiny.is_on(node.disk(0)?)?;
    // The network is still first in its boot order, and now has nothing for it.
    node.console().wait_for(&format!("{BOOTS} late"), PATIENCE)?;
    node.reset()?;
    node.console().wait_for(&format!("{BOOTS} late"), PATIENCE)?;
    Ok(())
}
