//! Power cuts on a machine whose disk has a volatile write cache. What a real system's kernel wrote and flushed
//! while an image came onto its disk is kept in a journal, and the power fails at chance moments of it: of what was
//! not flushed, any sector may be missing. After every cut real firmware starts the old system, the new one, or
//! none, never half of one; and the next run fetches nothing that is in place.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use images::{
    Digest, Disk, Image, Index, Manifest, Store,
    previous::Previous,
    write::{Options, write},
};
use rack::{
    BootFirst, Bus, DiskSpec, Firmware, Journal, Node, NodeSpec, Size, Tiny,
    stage::{self, PATIENCE, Program, Stage, Story},
    tiny::{self, BOOTS, DATA, Numbers, SEED},
};

/// Whether UEFI is asked too after a cut: it takes longer than a BIOS.
fn is_for_uefi(round: u64) -> bool {
    round < 3 || round % 10 == 9
}

/// In `make test`; `make torture` plays the long ones.
const SAMPLE: u64 = 8;
const LONG: u64 = 125;

fn main() -> ExitCode {
    let stories = vec![
        Story { name: "a_full_writing_is_cut", play: |stage| full(stage, "full", SAMPLE) },
        Story { name: "a_delta_writing_is_cut", play: |stage| delta(stage, "delta", SAMPLE) },
        Story { name: "torture_of_a_full_writing", play: |stage| full(stage, "fulls", LONG) },
        Story { name: "torture_of_a_delta_writing", play: |stage| delta(stage, "deltas", LONG) },
    ];
    stage::run(&Program::TINY, stories)
}

const LEN: Size = Size::mib(24);
const MIB: usize = 1 << 20;

/// Onto the disk of somebody else's system.
fn full(stage: &Stage, name: &str, cuts: u64) -> Result<()> {
    let foreign = Tiny::make(stage.folder(), &format!("{name}-foreign"), LEN)?.for_uefi()?;
    let new = tiny(stage, &format!("{name}-new"), |_| Ok(()))?;
    let node = machine(stage, name, &new)?;
    fs::copy(&foreign.path, node.disk(0)?).context("copying a disk")?;
    Cut::record(stage, node, foreign, None, new)?.play(stage, cuts)
}

/// Onto the disk of the version before: a third is kept, a quarter stands elsewhere.
fn delta(stage: &Stage, name: &str, cuts: u64) -> Result<()> {
    let old = tiny(stage, &format!("{name}-old"), |_| Ok(()))?;
    let new = tiny(stage, &format!("{name}-new"), |file| {
        for (to, from, mib) in [(0, 0, 8), (8, 14, 6)] {
            let bytes = old.read(DATA + (from * MIB) as u64, mib * MIB)?;
            file.write_all_at(&bytes, DATA + (to * MIB) as u64).context("changing a disk")?;
        }
        Ok(())
    })?;
    let node = machine(stage, name, &new)?;
    stage.done(&stage.deploy(&node, old.name())?, PATIENCE)?;
    node.console().wait_for(&says(&old), PATIENCE)?;
    node.cut();
    let store = Store::open(stage.store())?;
    let previous = store.manifest(&store.resolve(old.name())?)?;
    Cut::record(stage, node, old, Some(previous), new)?.play(stage, cuts)
}

/// A disk that starts by both firmwares, changed, and imported.
fn tiny(stage: &Stage, name: &str, change: impl FnOnce(&File) -> Result<()>) -> Result<Tiny> {
    let tiny = Tiny::make(stage.folder(), name, LEN)?.for_uefi()?;
    change(&File::options().write(true).open(&tiny.path).context("opening a disk")?)?;
    stage.artefacts().import(stage.store(), name, Some(SEED), &tiny.path)?;
    Ok(tiny)
}

fn machine(stage: &Stage, name: &str, tiny: &Tiny) -> Result<Arc<Node>> {
    let node = stage.enrolled(spec(name, Firmware::Bios, tiny))?;
    node.boot_first(BootFirst::Net);
    Ok(node)
}

fn spec(name: &str, firmware: Firmware, tiny: &Tiny) -> NodeSpec {
    let disk = DiskSpec::new(Size(tiny.size), Bus::Virtio);
    NodeSpec::new(name, firmware).with_disks(vec![disk])
}

/// What a disk prints when it starts.
fn says(tiny: &Tiny) -> String {
    format!("{BOOTS} {}", tiny.name())
}

/// A writing that can be cut.
struct Cut {
    node: Arc<Node>,
    /// Another machine for the same disks.
    uefi: Arc<Node>,
    old: Tiny,
    previous: Option<Manifest>,
    new: Tiny,
    manifest: Manifest,
    index: Index,
    before: Vec<u8>,
    after: Vec<u8>,
    journal: Journal,
}

impl Cut {
    /// Has the machine do it once, whole.
    fn record(
        stage: &Stage,
        node: Arc<Node>,
        old: Tiny,
        previous: Option<Manifest>,
        new: Tiny,
    ) -> Result<Self> {
        let uefi = spec(&format!("{}-uefi", node.name()), Firmware::Uefi, &new);
        let uefi = stage.rack().add(uefi)?;
        let (disk, path) = (node.disk(0)?, node.folder().join("journal"));
        let before = fs::read(disk).context("reading a disk")?;
        node.journal(Some(&path));
        stage.done(&stage.deploy(&node, new.name())?, PATIENCE)?;
        node.console().wait_for(&says(&new), PATIENCE)?;
        node.cut();
        node.journal(None);
        let (journal, after) = (Journal::read(&path)?, fs::read(disk).context("reading a disk")?);
        ensure!(journal.until(&before, journal.len(), || true) == after, "the journal has it all");
        let store = Store::open(stage.store())?;
        let digest = store.resolve(new.name())?;
        let (manifest, index) = (store.manifest(&digest)?, store.index(&digest)?);
        Ok(Cut { node, uefi, old, previous, new, manifest, index, before, after, journal })
    }

    fn play(&self, stage: &Stage, cuts: u64) -> Result<()> {
        let all = self.journal.len();
        let mut numbers = Numbers::of(&self.node.name());
        let (mut seen, mut spared, mut uefi) = (BTreeMap::new(), 0, 0);
        for round in 0..cuts {
            let at = match round {
                0 => 0,
                1 => all,
                // The ends of a writing, where it takes the old system away and makes the new one start.
                2..4 => round as usize,
                4..6 => all.saturating_sub(round as usize - 3),
                _ => numbers.draw() as usize % all,
            };
            // From nearly all that was not flushed is lost to nearly nothing.
            let share = numbers.draw() >> 61;
            let disk = self.journal.until(&self.before, at, || numbers.draw() >> 61 < share);
            let cut = || format!("cut {round}, before effect {at} of {all}");
            let boots = self.firmware(&self.node, &disk).with_context(cut)?;
            *seen.entry(boots).or_insert(0) += 1;
            if is_for_uefi(round) {
                let by_uefi = self.firmware(&self.uefi, &disk).with_context(cut)?;
                ensure!(by_uefi == boots, "{}: UEFI starts {by_uefi:?}, BIOS {boots:?}", cut());
                uefi += 1;
            }
            let kept = self.resume(&Store::open(stage.store())?, &disk, round).with_context(cut)?;
            spared += if boots == Boots::Nothing { kept } else { 0 };
        }
        let kinds: Vec<_> = seen.keys().copied().collect();
        ensure!(kinds == [Boots::Old, Boots::New, Boots::Nothing], "of {cuts} cuts: {seen:?}");
        ensure!(spared > LEN.0, "{spared} bytes were in place after {cuts} cuts");
        let name = self.node.name();
        println!(
            "{name}: {cuts} cuts of {all} effects, after which started: {seen:?}; {uefi} by UEFI too"
        );
        self.resume_there(stage)
    }

    /// Which system a machine's firmware starts: a whole one, or none.
    fn firmware(&self, node: &Node, disk: &[u8]) -> Result<Boots> {
        let path = node.disk(0)?;
        fs::write(path, disk).context("writing a disk")?;
        node.boot_first(BootFirst::Disk);
        node.power_on()?;
        let (old, new) = (says(&self.old), says(&self.new));
        // SeaBIOS, and OVMF.
        let none = ["not a bootable disk", "BdsDxe: failed to load"];
        let wanted = [old.as_str(), new.as_str(), none[0], none[1]];
        let said = node.console().wait_for_any(&wanted, PATIENCE);
        node.cut();
        let same = |whole: &[u8]| disk == whole;
        Ok(match said?.0 {
            0 => {
                ensure!(same(&self.before), "the old system starts, and is not whole");
                Boots::Old
            }
            1 => {
                ensure!(same(&self.after), "the new system starts, and is not whole");
                tiny::table_is_sound(path)?;
                Boots::New
            }
            _ => {
                ensure!(disk[510..512] != [0x55, 0xaa], "there is a boot sector");
                Boots::Nothing
            }
        })
    }

    /// The next run makes it the image, and fetches no chunk that is in place. Returns how many bytes that spared.
    fn resume(&self, store: &Store, disk: &[u8], round: u64) -> Result<u64> {
        let path = self.node.disk(0)?;
        let previous = self.previous.as_ref().filter(|_| !round.is_multiple_of(3));
        let previous = previous.map(Previous::of).transpose()?;
        let options = Options { previous: previous.as_ref(), ..Options::default() };
        // In one part, and in several.
        let part = if round % 4 == 1 { 100 } else { usize::MAX };
        let target = Disk::open(path)?;
        let image = Image::of(&self.manifest, &self.index, part)?;
        let written = write(&image, &target, store, &options)?;
        let image = fs::read(&self.new.path).context("reading an image")?;
        ensure!(fs::read(path)? == image, "the disk is not the image");
        let (missing, fetched) = (self.missing(&image, disk), written.plan.fetched);
        ensure!(fetched <= missing, "{fetched} bytes were fetched, {missing} are not in place");
        Ok(written.plan.kept)
    }

    /// Bytes of the chunks that are not in place wherever the image has them, and of those with the partition table,
    /// which is made anew.
    fn missing(&self, image: &[u8], disk: &[u8]) -> u64 {
        let mut chunks: BTreeMap<Digest, (u64, bool)> = BTreeMap::new();
        for (offset, size, name) in self.manifest.chunks() {
            let range = offset as usize..offset as usize + size as usize;
            let table = range.start < TABLE || range.end > image.len() - TABLE;
            let there = !table && disk[range.clone()] == image[range];
            let known = chunks.entry(name).or_insert((u64::from(size), true));
            known.1 &= there;
        }
        chunks.values().filter(|(_, there)| !there).map(|(size, _)| size).sum()
    }

    /// The same on the machine itself: it is cut in the middle, and its agent goes on.
    fn resume_there(&self, stage: &Stage) -> Result<()> {
        let disk = self.journal.until(&self.before, self.journal.len() * 2 / 3, || false);
        let path = self.node.disk(0)?;
        fs::write(path, &disk).context("writing a disk")?;
        tiny::does_not_boot(path)?;
        self.node.boot_first(BootFirst::Net);
        let done = stage.done(&stage.deploy(&self.node, self.new.name())?, PATIENCE)?;
        let (fetched, image) = (done.written.context("nothing was reported")?.fetched, &self.new);
        let missing = self.missing(&fs::read(&image.path).context("reading an image")?, &disk);
        ensure!(fetched <= missing, "{fetched} bytes were fetched, {missing} are not in place");
        image.is_on(path)?;
        self.node.console().wait_for(&says(image), PATIENCE)?;
        self.node.cut();
        Ok(())
    }
}

/// Two blocks at either end.
const TABLE: usize = 2 * 4096;

/// What a disk starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Boots {
    Old,
    New,
    Nothing,
}
