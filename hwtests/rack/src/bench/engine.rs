//! `engine-whole`, `engine-used`, `engine-upgrade`, `engine-rebuilt`, `engine-same`: a disk
//! becomes an image, by `billet-agent write` and by what else writes images.
//!
//! Beside each its `-limit`, `-disk` and `-together`: the same seconds against what this machine allows at best
//! ([`super::engine_limit`]), and its `-bytes`: what travelled against the compressed bytes of
//! the chunks that the disk had nowhere. `-memory` is the most that any run needed.

use std::{
    cell::RefCell,
    collections::HashSet,
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use anyhow::{Context, Result};
use images::{Digest, Manifest};

use super::{
    engine_limit::{Limit, PARTS},
    engine_load::Machine,
    engine_peers::Writer,
    engine_run::Taken,
    engine_site::Site,
    engine_target::Target,
    engine_work::{State, Work},
    rounds::{Contender, interleave, median},
    row::{Better, Row},
    sitting::Sitting,
    stolen::undisturbed,
};

const ROUNDS: usize = 5;
/// The whole agent, whatever the disk's size.
const MEMORY: f64 = 96.0;

/// What is on the disk, what it becomes, who does it, and the bar.
struct Case {
    name: &'static str,
    before: State,
    image: State,
    previous: Option<State>,
    peers: &'static [Writer],
    /// Those that leave what the disk held where the image has nothing, or do not write the whole
    /// disk: shown, and never the best peer.
    partial: &'static [Writer],
    bar: f64,
    /// What may travel at most, of what is nowhere on the disk; none where that is everything.
    bytes: Option<f64>,
}

const SEEDED: &[Writer] = &[Writer::Dd, Writer::Rsync, Writer::Casync];

/// `engine-whole`
pub fn whole(sitting: &Sitting) -> Result<Vec<Row>> {
    Case {
        name: "engine-whole",
        before: State::Foreign,
        image: State::Base,
        previous: None,
        peers: &[
            Writer::Dd,
            Writer::CoreosInstaller,
            Writer::QemuImg,
            Writer::Casync,
            Writer::Udpcast,
        ],
        partial: &[Writer::Bmaptool, Writer::Partclone],
        bar: 0.33,
        bytes: None,
    }
    .measure(sitting)
}

/// `engine-used`
pub fn used(sitting: &Sitting) -> Result<Vec<Row>> {
    let (before, previous) = (State::Used, Some(State::Base));
    Case::again("engine-used", before, State::Base, previous, 0.4, Some(1.05)).measure(sitting)
}

/// `engine-upgrade`
pub fn upgrade(sitting: &Sitting) -> Result<Vec<Row>> {
    let (before, previous) = (State::Base, Some(State::Base));
    Case::again("engine-upgrade", before, State::Upgrade, previous, 0.4, Some(1.05))
        .measure(sitting)
}

/// `engine-rebuilt`
pub fn rebuilt(sitting: &Sitting) -> Result<Vec<Row>> {
    Case {
        name: "engine-rebuilt",
        before: State::Base,
        image: State::Rebuilt,
        previous: Some(State::Base),
        peers: &[Writer::Dd, Writer::Rsync, Writer::Casync, Writer::Zsync],
        partial: &[],
        bar: 0.5,
        bytes: Some(1.15),
    }
    .measure(sitting)
}

/// `engine-same`
pub fn same(sitting: &Sitting) -> Result<Vec<Row>> {
    let (before, previous) = (State::Base, Some(State::Base));
    Case::again("engine-same", before, State::Base, previous, 0.4, None).measure(sitting)
}

/// Makes what is measured, while the host's network is there.
pub fn prepare() -> Result<()> {
    Work::prepare().map(drop)
}

impl Case {
    fn again(
        name: &'static str,
        before: State,
        image: State,
        previous: Option<State>,
        bar: f64,
        bytes: Option<f64>,
    ) -> Self {
        Case { name, before, image, previous, peers: SEEDED, partial: &[], bar, bytes }
    }

    fn measure(&self, sitting: &Sitting) -> Result<Vec<Row>> {
        let folder = &sitting.folder.join(self.name);
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let work = Work::prepare()?;
        let target = Target::attach(folder)?;
        let _site = Site::start(&work, folder)?;
        let (ours, machine) =
            (RefCell::new(Vec::new()), RefCell::new(Machine::new(&work, &target, self.image)?));
        let billet = Writer::Billet { previous: self.previous };
        let run = |writer: Writer| {
            let (work, target, ours, machine) = (&work, &target, &ours, &machine);
            move || {
                let taken = undisturbed(|| {
                    target.become_state(work, self.before)?;
                    work.keep_in_memory(self.image)?;
                    let command = writer.command(work, target, self.image)?;
                    let taken = Taken::of(command, &folder.join("run.log"))?;
                    target.check(work, self.image, writer.writes())?;
                    Ok(taken)
                })?;
                let seconds = taken.seconds;
                if writer == billet {
                    let limit = Limit::measure(&mut machine.borrow_mut(), &taken)?;
                    ours.borrow_mut().push((limit, taken));
                }
                Ok(seconds)
            }
        };
        let has_hope = |peer: &&Writer| sitting.has_hope(self.name, peer.name());
        let peers: Vec<_> = self.peers.iter().filter(has_hope).copied().collect();
        let asked = |peer: &&Writer| sitting.asks(peer.name());
        let partial: Vec<_> = self.partial.iter().filter(asked).copied().collect();
        let writers = [&[billet], &peers[..], &partial].concat();
        let mut contenders: Vec<_> =
            writers.iter().map(|writer| Contender::new(writer.name(), run(*writer))).collect();
        let medians = interleave(ROUNDS, &mut contenders)?;
        drop(contenders);
        let names = writers.iter().map(|writer| writer.name());
        let others: Vec<_> = names.zip(medians.iter().copied()).skip(1).collect();
        let (peers, partial) = others.split_at(peers.len());
        sitting.told(self.name, peers);
        let row = Row::compare(self.name, "s", Better::Less, medians[0], peers);
        let mut rows =
            vec![row.with_bar(self.bar).beside("leaving bytes that were there", partial)];
        rows.extend(self.beside(&work, medians[0], &ours.into_inner())?);
        Ok(rows)
    }

    /// The rows that have no peer.
    fn beside(&self, work: &Work, seconds: f64, ours: &[(Limit, Taken)]) -> Result<Vec<Row>> {
        let of_runs = |part: &dyn Fn(&Limit) -> f64| {
            median(ours.iter().map(|(limit, _)| part(limit)).collect())
        };
        let (limit, disk) = (of_runs(&Limit::longest), of_runs(&|limit| limit.disk));
        let together = of_runs(&|limit| limit.together);
        let parts: Vec<_> = PARTS
            .iter()
            .enumerate()
            .map(|(at, name)| (*name, of_runs(&|limit| limit.parts[at])))
            .collect();
        let name = |what: &str| format!("{}-{what}", self.name);
        let (less, peer) = (Better::Less, "physical limit");
        let peak = ours.iter().map(|(_, taken)| taken.peak).fold(0.0, f64::max);
        let mut rows = vec![
            Row::compare(&name("limit"), "s", less, seconds, &[(peer, limit)])
                .with_bar(2.0)
                .beside("if nothing else took time", &parts),
            Row::compare(
                &name("disk"),
                "s",
                less,
                seconds,
                &[("disk reads and writes at once", disk)],
            ),
            Row::compare(&name("together"), "s", less, seconds, &[("all of it at once", together)]),
            Row::limit(&name("memory"), "MiB", peak, MEMORY),
        ];
        if let Some(bar) = self.bytes {
            let received = ours.iter().map(|(_, taken)| taken.bytes("received")).collect();
            let (received, new) = (median(received) / 1e6, self.new_bytes(work)? / 1e6);
            let new = [("in no image before", new)];
            rows.push(Row::compare(&name("bytes"), "MB", less, received, &new).with_bar(bar));
        }
        Ok(rows)
    }

    /// Chunks that the disk's state has: those of its image, and where it is none's, those of what it becomes that are
    /// in place, for what is touched is nowhere.
    fn known(&self, work: &Work, becomes: &Manifest) -> Result<HashSet<Digest>> {
        if let Ok(before) = work.manifest(self.before) {
            let before = work.store.manifest(&before)?;
            return Ok(before.chunks().map(|(_, _, name)| name).collect());
        }
        let disk = File::open(work.path(self.before, "raw")).context("opening a disk")?;
        let (mut known, mut bytes) = (HashSet::new(), Vec::new());
        for (offset, size, name) in becomes.chunks() {
            bytes.resize(size as usize, 0);
            disk.read_exact_at(&mut bytes, offset).context("reading a disk")?;
            if Digest::of(&bytes) == name {
                known.insert(name);
            }
        }
        Ok(known)
    }

    /// Compressed bytes of the chunks that the disk's state has nowhere.
    fn new_bytes(&self, work: &Work) -> Result<f64> {
        let (manifest, index) = (work.manifest(self.image)?, work.manifest(self.image)?);
        let (manifest, index) = (work.store.manifest(&manifest)?, work.store.index(&index)?);
        let mut known = self.known(work, &manifest)?;
        let chunks = manifest.chunks().zip(index.locations());
        let new = chunks.filter(|((_, _, name), _)| known.insert(*name));
        Ok(new.map(|(_, at)| f64::from(at.len)).sum())
    }
}
