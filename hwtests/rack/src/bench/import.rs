//! `import`: a disk of 4 GiB becomes an image in a store that was empty, by `billet image import`
//! and by what else publishes disks; each ends with the bytes on the medium.
//!
//! `import-cores` is how many cores were busy meanwhile, of two (or of all, where there are
//! fewer); `import-memory` the most memory that an import of the same bytes from a pipe needed.

use std::{cell::RefCell, fs, path::Path, process::Command, thread};

use anyhow::{Context, Result};

use super::{
    engine_run::Taken,
    engine_work::{State, Work},
    rounds::{Contender, interleave, median},
    row::{Better, Row},
    stolen::undisturbed,
};
use crate::{artefacts::Programs, tool};

const ROUNDS: usize = 5;
/// As much as the engine may use on a node.
const MEMORY: f64 = 96.0;
/// Of two cores, 1.6 are busy at least.
const BUSY: f64 = 1.25;

/// `import`, `import-cores`, `import-memory`
pub fn run(folder: &Path) -> Result<Vec<Row>> {
    let folder = &folder.join("import");
    let work = Work::prepare()?;
    let raw = work.path(State::Base, "raw");
    let (raw, new) = (raw.display(), folder.join("new"));
    let to = new.display();
    let programs = Programs::find()?;
    let billet = format!("exec {} image import --store {to}/store", programs.billet.display());
    tool::program("casync", "casync")?;
    let made = RefCell::new(Vec::new());
    let take = |line: String| {
        let (new, made) = (&new, &made);
        move || {
            let taken = undisturbed(|| {
                let _ = fs::remove_dir_all(new);
                fs::create_dir_all(new).with_context(|| format!("making {}", new.display()))?;
                Taken::of(shell(&line), &folder.join("run.log"))
            })?;
            made.borrow_mut().push(taken.clone());
            Ok(taken.seconds)
        }
    };
    let casync = format!("casync --store={to}/casync.castr --compression=zstd make {to}/new.caibx");
    let mut contenders = [
        Contender::new("billet", take(format!("{billet} --name base {raw}"))),
        Contender::new("casync", take(format!("{casync} {raw} && sync"))),
        Contender::new("zstd -3", take(format!("zstd -q -3 -T0 {raw} -o {to}/new.zst && sync"))),
        Contender::new(
            "qemu-img -c",
            take(format!(
                "qemu-img convert -c -o compression_type=zstd -O qcow2 {raw} {to}/new.qcow2 && sync"
            )),
        ),
    ];
    let medians = interleave(ROUNDS, &mut contenders)?;
    let names: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
    drop(contenders);
    let ours = made.take();
    let busy = ours.iter().step_by(names.len()).map(|taken| taken.cpu / taken.seconds).collect();
    take(format!("{billet} --name base - < <(cat {raw})"))()?;
    let piped = made.take().pop().unwrap_or_default();
    let _ = fs::remove_dir_all(&new);
    let others: Vec<_> = names.into_iter().zip(medians.iter().copied()).skip(2).collect();
    let casync = [("casync", medians[1])];
    let cores = thread::available_parallelism().map_or(1, usize::from).min(2) as f64;
    Ok(vec![
        Row::compare("import", "s", Better::Less, medians[0], &casync)
            .with_bar(0.333)
            .beside("no chunks to share", &others),
        Row::compare("import-cores", "cores", Better::More, median(busy), &[("limit", cores)])
            .with_bar(BUSY),
        Row::limit("import-memory", "MiB", piped.peak, MEMORY),
    ])
}

fn shell(line: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", line]);
    command
}
