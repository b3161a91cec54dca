//! One writing of an image, from the job to the restart: disk, plan, write, verify, seed,
//! table, report.

use std::{io::Write as _, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use images::{
    Disk,
    disk::Region,
    manifest::Partition,
    previous::Previous,
    write::{self, Options, Phase, WriteError},
};
use protocol::{Deploy, Identity, Outcome, Report, Restart, Step, Written, path};

use crate::{
    choice::{self, NotOne},
    console,
    devices::Devices,
    disks,
    fault::Fault,
    identity::Checked,
    image::{self, Image, TRUSTED},
    kexec,
    listings::Listings,
    packs::Packs,
    patience::Patience,
    progress::Teller,
    restart::Ending,
    seed::{self, SeedFile},
    server::Server,
    sysfs::Sysfs,
};

/// Disks that spin, and controllers that have many, come late.
const DISKS: Duration = Duration::from_secs(30);
/// The report is worth more patience than anything: without it the work seems undone.
const REPORT: Duration = Duration::from_secs(15 * 60);
/// What a thread of the writer may take of a small machine's memory.
const MEMORY_PER_THREAD: u64 = 64 << 20;

/// Does the job, reports how it went, and says how the machine is to be let go of.
pub(crate) fn run(devices: &mut Devices, server: &Server, bearer: String, job: &Deploy) -> Ending {
    console::say(format_args!("deployment {} of image {}", job.deployment, job.image));
    let teller = Teller::start(Some((server.clone(), bearer.clone())), &job.deployment);
    let written = deploy(devices, server, job, &teller);
    let took_ms = teller.close();
    let (outcome, ending) = match written {
        Ok((written, ending)) => {
            (Outcome::Written(Box::new(Written { took_ms, ..written })), ending)
        }
        Err(fault) => {
            console::say(format_args!("{} failed: {:#}", fault.step, fault.reason));
            let ending = if fault.retry { Ending::Retry } else { Ending::Refused };
            (Outcome::Failed(fault.failure()), ending)
        }
    };
    let report = Report { deployment: job.deployment.clone(), outcome };
    let mut patience = Patience::new("the server to take the report", REPORT);
    let sent = Server::insist(&mut patience, || server.post(path::REPORT, Some(&bearer), &report));
    if let Err(error) = sent {
        // The disk is as it is: when the machine asks again, it will be found so.
        console::say(format_args!("the report was not delivered: {error}"));
    }
    ending
}

fn deploy(
    devices: &mut Devices,
    server: &Server,
    job: &Deploy,
    teller: &Teller,
) -> Result<(Written, Ending), Fault> {
    teller.begin(Step::Disk, 0, None);
    let chosen = choose_disk(devices, job)?;
    teller.note(choice::row(&chosen));
    teller.begin(Step::Plan, 0, None);
    let image = Image::fetch(server, &job.manifest, Path::new(TRUSTED), job.unsigned)?;
    if let Some(signer) = &image.signer {
        teller.note(format!("signed by {signer}"));
    }
    let files = seed_files(&image, &job.identity)?;
    let previous = previous(server, job);
    let done = write_image(server, &image, previous.as_ref(), &chosen, job.grow, files, teller)?;
    let ending = prepare_restart(job, &chosen.name, &image, teller);
    let plan = done.plan;
    let written = Written {
        disk: chosen,
        kept: plan.kept,
        copied: plan.copied,
        fetched: plan.fetched,
        received: plan.received,
        zeroed: plan.zeroed,
        took_ms: Vec::new(),
    };
    Ok((written, ending))
}

/// The disk that the hints mean, which may take a while to appear.
fn choose_disk(devices: &mut Devices, job: &Deploy) -> Result<protocol::Disk, Fault> {
    let sysfs = Sysfs::at("/");
    let choose = || choice::choose(&disks::probe(&sysfs), &job.disk);
    let missing = || {
        let is_missing = choose().as_ref().is_err_and(NotOne::is_none);
        is_missing.then(|| "a disk that fits".to_owned())
    };
    devices.settle(DISKS, missing);
    choose().map_err(|refusal| Fault::stays(Step::Disk, refusal))
}

/// What goes to the seed partition; nothing where the image has none.
fn seed_files(image: &Image, identity: &Identity) -> Result<Option<Vec<SeedFile>>, Fault> {
    if image.image.header().seed.is_none() {
        console::say("the image has no seed partition: it keeps its own identity");
        return Ok(None);
    }
    let checked = Checked::of(identity).map_err(|refusal| Fault::stays(Step::Seed, refusal))?;
    Ok(Some(seed::render(&checked)))
}

/// What the image that was written before had where. It may be gone by now: it is only a hint.
fn previous(server: &Server, job: &Deploy) -> Option<Previous<'static>> {
    let previous = image::previous(Arc::new(Listings::of(server, job.previous?)));
    previous
        .inspect_err(|fault| console::say(format_args!("without a hint: {:#}", fault.reason)))
        .ok()
}

fn write_image(
    server: &Server,
    image: &Image,
    previous: Option<&Previous<'_>>,
    chosen: &protocol::Disk,
    grow: bool,
    files: Option<Vec<SeedFile>>,
    teller: &Teller,
) -> Result<write::Written, Fault> {
    let disk = Disk::open(Path::new("/dev").join(&chosen.name));
    let disk = disk.map_err(|refusal| Fault::stays(Step::Disk, refusal))?;
    let packs = Packs::of(server);
    let write_seed = |region: &mut Region<'_>, _: &Partition| {
        seed::write(&mut *region, chosen.sector_size, files.as_deref().unwrap_or_default())?;
        region.flush().context("flushing the seed")
    };
    let progress = |now: write::Progress| teller.reach(step_of(now.phase), now.done, now.total);
    let options = Options {
        grow,
        threads: threads(),
        progress: &progress,
        seed: files.is_some().then_some(&write_seed),
        previous,
        ..Options::default()
    };
    let written = write::write(&image.image, &disk, &packs, &options);
    match written {
        Ok(mut written) => {
            // What really travelled: chunks that were asked for again count again.
            written.plan.received = packs.received();
            Ok(written)
        }
        Err(error) => Err(fault_of(error, teller.step().unwrap_or(Step::Write))),
    }
}

/// Why writing failed, in which step.
pub(crate) fn fault_of(error: WriteError, step: Step) -> Fault {
    if error.may_pass() { Fault::passes(step, error) } else { Fault::stays(step, error) }
}

/// The step of a deployment that a phase of the writer is.
pub(crate) const fn step_of(phase: Phase) -> Step {
    match phase {
        Phase::Plan => Step::Plan,
        Phase::Write => Step::Write,
        Phase::Verify => Step::Verify,
        Phase::Seed => Step::Seed,
        Phase::Table => Step::Table,
    }
}

/// As many threads as there are CPUs, unless memory is scarce.
pub(crate) fn threads() -> usize {
    let memory = crate::inventory::memory(&Sysfs::at("/"));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    cpus.min(8).min((memory / MEMORY_PER_THREAD).max(1) as usize)
}

/// Loads the new kernel where that is wanted; says which way it will be, while there is still
/// somebody to say it.
fn prepare_restart(job: &Deploy, disk: &str, image: &Image, teller: &Teller) -> Ending {
    let by_firmware = "through the firmware";
    let header = image.image.header();
    // What the seed says, where there is one.
    let xen = header.seed.and(job.identity.xen.as_deref());
    let (ending, way) = match (job.restart, &header.boot) {
        (Restart::Reset, _) => (Ending::Reset, by_firmware.to_owned()),
        (Restart::Kexec, None) => {
            let why = "the image does not say how to start it by kexec";
            (Ending::Reset, format!("{by_firmware}: {why}"))
        }
        (Restart::Kexec, Some(boot)) => match kexec::load(disk, boot, xen) {
            Ok(()) => (Ending::Kexec, "by kexec".to_owned()),
            Err(error) => (Ending::Reset, format!("{by_firmware}: kexec failed: {error:#}")),
        },
    };
    teller.begin(Step::Restart, 0, Some(way));
    ending
}
