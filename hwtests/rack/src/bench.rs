//! `rack bench`: billet's figures, beside the peers', measured in one sitting.
//!
//! Absolute numbers drift between machines, so every figure is a *ratio*: billet and its peers
//! run in turns on the same wire or the same virtual machine, and their medians are divided.
//! See [`row::Better`] for how, and the modules for what a run is:
//!
//! | figure | module |
//! |---|---|
//! | `boot-bios`, `boot-uefi`: power-on to the banner of SSH | [`boot`], [`handmade`] |
//! | `tftp-1`, `tftp-100`: boot programs over TFTP | [`tftp`], [`load`] |
//! | `dhcp`: exchanges per second without loss | [`dhcp`] |
//! | `slices-64`, `slices-14`: VFs named on netdevsim; carved, named, bound, released on igb | [`slices`] |
//! | `bypass-cpu`, `bypass-rate`: bytes over a slice and over a vif, and what dom0 spends | [`bypass`] |
//! | `dom0-latency`: timers of a service domain beside a guest that burns CPUs | [`interference`] |
//! | `net-first`, `net-again`: a dom0's network, made and found made | [`network`] |
//! | `engine-whole`, `-used`, `-upgrade`, `-rebuilt`, `-same`: a disk becomes an image | [`engine`] |
//! | `import`: a disk becomes an image in a store | [`import`] |
//! | `serve-cpu`: what serving packs costs the server | [`serving`] |
//! | `agent-size`, `ramdisk-size`, `server-rss` | [`size`] |

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

pub mod boot;
pub mod bypass;
pub mod dhcp;
pub mod dom0;
pub mod engine;
pub mod engine_limit;
pub mod engine_load;
pub mod engine_peers;
pub mod engine_run;
pub mod engine_site;
pub mod engine_target;
pub mod engine_work;
pub mod golden;
pub mod handmade;
pub mod import;
pub mod interference;
pub mod load;
pub mod network;
pub mod ours;
pub mod peers;
pub mod rounds;
pub mod row;
pub mod serving;
pub mod sitting;
pub mod size;
pub mod slices;
pub mod stolen;
pub mod tftp;
pub mod wire;

use row::{Row, Table};
use sitting::Sitting;

use crate::{
    hardware::Hardware,
    kernel::{self, Kernel},
};

/// What a run inside a machine prints before its medians.
const MEDIANS: &str = "medians:";

/// A figure: what it is called, and what measures it.
type Figure = (&'static str, fn(&Sitting) -> Result<Vec<Row>>);

/// In the order in which they are run: the quick ones first.
const FIGURES: [Figure; 19] = [
    ("agent-size", |it| size::agent(&it.folder)),
    ("ramdisk-size", |it| size::ramdisk(&it.folder)),
    ("server-rss", |it| size::server(&it.folder)),
    ("net", |it| network::run(&it.folder)),
    ("slices", |it| slices::run(&it.folder)),
    ("tftp-1", |it| tftp::one(&it.folder)),
    ("tftp-100", |it| tftp::hundred(&it.folder)),
    ("dhcp", |it| dhcp::run(&it.folder)),
    ("dom0-latency", |it| interference::run(&it.folder)),
    ("bypass", |it| bypass::run(&it.folder)),
    ("serve-cpu", |it| serving::cpu(&it.folder)),
    ("import", |it| import::run(&it.folder)),
    ("engine-whole", engine::whole),
    ("engine-used", engine::used),
    ("engine-upgrade", engine::upgrade),
    ("engine-rebuilt", engine::rebuilt),
    ("engine-same", engine::same),
    ("boot-bios", |it| boot::bios(&it.folder)),
    ("boot-uefi", |it| boot::uefi(&it.folder)),
];

/// Measures all figures, or `only` one, in so many runs; prints the table and writes
/// `target/bench.json`. True when every ratio is within its bar. Peers of the engine that are far
/// behind in one run are left out of the next.
///
/// Call it before any thread is started: it enters a network namespace of its own once what
/// needs the network is there. The engine's peers that `without` names are not measured.
///
/// # Errors
/// When there is no such figure, or when one could not be measured, as when a peer is
/// missing. The others are measured and written down even so.
pub fn run(only: Option<&str>, runs: u32, without: &[String]) -> Result<bool> {
    let chosen = choose(only)?;
    let folder = scratch()?;
    prepare(&chosen, &folder)?;
    crate::enter()?;
    let mut table = Table::default();
    let mut failures = Vec::new();
    let sitting = Sitting::at(folder, without);
    for (name, measure) in chosen {
        for run in 1..=runs {
            say(&format!("measuring {name}{}", of_run(run, runs)));
            match measure(&sitting).with_context(|| format!("measuring {name}")) {
                Ok(rows) => table.add(rows, &of_run(run, runs)),
                Err(error) => failures.push(format!("{error:#}")),
            }
            table.write(&target()?.join("bench.json"))?;
        }
    }
    print(&table);
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(table.within_bars())
}

/// What is said of a run, of more than one.
fn of_run(run: u32, runs: u32) -> String {
    if runs > 1 { format!(" {run}/{runs}") } else { String::new() }
}

fn choose(only: Option<&str>) -> Result<Vec<Figure>> {
    // A figure is also known by the names of its further rows: `dhcp-kea`, `boot-bios-kexec`.
    let known = |only: &str, name: &str| {
        only.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let wanted = |name: &str| only.is_none_or(|only| known(only, name));
    let chosen: Vec<_> = FIGURES.into_iter().filter(|(name, _)| wanted(name)).collect();
    if chosen.is_empty() {
        let names = FIGURES.map(|(name, _)| name).join(", ");
        bail!("no figure `{}`: there are {names}", only.unwrap_or_default());
    }
    Ok(chosen)
}

/// What needs the host's network: peers are downloaded and the image is built.
fn prepare(chosen: &[Figure], folder: &Path) -> Result<()> {
    let has = |begin: &str| chosen.iter().any(|(name, _)| name.starts_with(begin));
    if has("tftp") {
        peers::fetch()?;
    }
    if has("boot") || has("ramdisk") {
        ours::artefacts(has("boot"))?;
    }
    if has("dom0") {
        interference::artefacts()?;
        peers::cyclictest()?;
    }
    if has("bypass") {
        bypass::artefacts()?;
    }
    if has("slices") {
        slices::prepare()?;
    }
    if has("engine") || has("import") || has("serve") {
        engine::prepare()?;
    }
    if has("net") {
        peers::kernel()?;
    }
    if has("boot") {
        handmade::prepare(folder)?;
    }
    Ok(())
}

/// Measures and never returns, when this process is process 1 of a machine.
pub fn start_if_inside() {
    if Kernel::is_inside() {
        kernel::start_inside(|| {
            let medians = match std::env::args().nth(1).as_deref() {
                Some("network") => network::inside(),
                what => slices::inside(what.unwrap_or_default()),
            }?;
            let medians: Vec<_> = medians.iter().map(f64::to_string).collect();
            println!("\n{MEDIANS} {}", medians.join(" "));
            Ok(())
        });
    }
}

/// The medians of `what`, measured in a machine of which this program is process 1.
fn medians_inside(
    machine: &Kernel<'_>,
    hardware: &Hardware,
    folder: &Path,
    what: &str,
    patience: Duration,
) -> Result<Vec<f64>> {
    let mut medians = Vec::new();
    let mut said = String::new();
    machine.run_on(hardware, folder, what, patience, |line| {
        if let Some(numbers) = line.strip_prefix(MEDIANS) {
            medians = numbers.split_whitespace().filter_map(|one| one.parse().ok()).collect();
        }
        said = line.to_owned();
    })?;
    ensure!(!medians.is_empty(), "the machine measured nothing; its last word: {said}");
    Ok(medians)
}

/// `target/` of this build, where the result goes and peers are kept.
pub(crate) fn target() -> Result<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let default = repository.context("finding the repository's folder")?.join("target");
    Ok(std::env::var_os("CARGO_TARGET_DIR").map_or(default, PathBuf::from))
}

/// `target/bench/`, where configurations, logs and state of the runs are.
fn scratch() -> Result<PathBuf> {
    let folder = target()?.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    folder.canonicalize().context("resolving the scratch folder")
}

#[expect(clippy::print_stderr, reason = "what a person who waits for minutes looks at")]
fn say(what: &str) {
    eprintln!("bench: {what}");
}

fn print(table: &Table) {
    println!("{table}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_chosen_by_the_name_of_any_of_its_rows() {
        let names = |only| choose(only).unwrap().iter().map(|(name, _)| *name).collect::<Vec<_>>();
        assert_eq!(names(None).len(), FIGURES.len());
        assert_eq!(names(Some("tftp-1")), ["tftp-1"]);
        assert_eq!(names(Some("tftp-100-window16")), ["tftp-100"]);
        assert_eq!(names(Some("dhcp-kea")), ["dhcp"]);
        let refusal = choose(Some("tftp")).unwrap_err().to_string();
        assert!(refusal.contains("agent-size, ramdisk-size"), "{refusal}");
    }
}
