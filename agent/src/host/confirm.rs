//! A change of the network that nobody confirmed yet, on disk: what was before, and by when it
//! must be confirmed. Whoever finds it late (the guard, or the agent when it starts) takes the
//! change back.
//!
//! In the state folder: `confirm.json` while a change waits, `undone.json` after one was taken
//! back, `confirm.lock` for whoever ends one.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    fcntl::{Flock, FlockArg},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};
use xen_config::{
    link::{LinkName, Links},
    link_plan::restore,
    network::Network,
};

use crate::sys::link::Door;

/// After so many rounds what cannot be brought back is left and told.
const ROUNDS: usize = 5;

/// A change that waits for its confirmation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// The boot in which it was made (`/proc/sys/kernel/random/boot_id`).
    boot: String,
    /// When it is taken back, in milliseconds of `CLOCK_BOOTTIME`: clocks may be set meanwhile.
    deadline: u64,
    /// What was desired.
    pub(crate) network: Network,
    /// What was before the first step.
    before: Links,
    /// What may have changed since.
    touched: BTreeSet<LinkName>,
}

/// A change that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Undone {
    /// What had been desired.
    pub(crate) network: Network,
    /// Why.
    pub(crate) why: Why,
    /// For people.
    pub(crate) text: String,
    /// What could not be brought back; empty when all is as before.
    pub(crate) left: Vec<String>,
    /// Whether it has become an event.
    #[serde(default)]
    told: bool,
}

/// Why a change was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Why {
    /// After it, who should answer did not: the same change would do the same again.
    Unreached,
    /// The kernel refused a step.
    Refused,
    /// Nobody said anything until the deadline: the agent had ended.
    Silence,
    /// The node was restarted meanwhile.
    Restart,
}

/// The folder with the state.
#[derive(Debug, Clone)]
pub(crate) struct State {
    folder: PathBuf,
}

impl State {
    /// In this folder, which is made.
    pub(crate) fn at(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(State { folder: folder.to_owned() })
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The change that waits.
    pub(crate) fn pending(&self) -> Result<Option<Pending>> {
        self.read("confirm.json")
    }

    /// The change that was taken back last.
    pub(crate) fn undone(&self) -> Result<Option<Undone>> {
        self.read("undone.json")
    }

    /// The change that was taken back last, unless somebody asked here before.
    pub(crate) fn news(&self) -> Result<Option<Undone>> {
        let Some(mut undone) = self.undone()?.filter(|undone| !undone.told) else {
            return Ok(None);
        };
        undone.told = true;
        self.write_undone(&undone)?;
        Ok(Some(undone))
    }

    fn write_undone(&self, undone: &Undone) -> Result<()> {
        self.write("undone.json", &serde_json::to_vec(undone).context("rendering the event")?)
    }

    /// Forgets that a change was taken back.
    pub(crate) fn forget_undone(&self) -> Result<()> {
        self.remove("undone.json")
    }

    /// Writes down, before its first step, what a change may touch.
    pub(crate) fn open(&self, pending: &Pending) -> Result<()> {
        self.write(
            "confirm.json",
            &serde_json::to_vec(pending).context("rendering the former state")?,
        )
    }

    /// Nobody else ends a change while this is held.
    pub(crate) fn lock(&self) -> Result<Flock<File>> {
        let path = self.folder.join("confirm.lock");
        let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
        lock.with_context(|| format!("locking {}", path.display()))
    }

    /// The change stays.
    ///
    /// # Errors
    /// Also when it was taken back meanwhile.
    pub(crate) fn confirm(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.pending()?.context("the change was taken back before it was confirmed")?;
        self.remove("confirm.json")
    }

    /// Brings back what was before, when a change still waits: what came of it. Done again after
    /// it was broken off, it goes on.
    pub(crate) fn take_back(&self, why: Why, reason: &str) -> Result<Option<Undone>> {
        let _lock = self.lock()?;
        let Some(pending) = self.pending()? else { return Ok(None) };
        let left = if pending.boot == boot_id()? { bring_back(&pending) } else { Vec::new() };
        let text = format!("the change of the network was taken back: {reason}");
        let undone = Undone { network: pending.network, why, text, left, told: false };
        self.write_undone(&undone)?;
        self.remove("confirm.json")?;
        Ok(Some(undone))
    }

    /// Brings back what was before a change that was broken off and is to be made again: what
    /// could not be brought back.
    pub(crate) fn rewind(&self) -> Result<Vec<String>> {
        let _lock = self.lock()?;
        let Some(pending) = self.pending()? else { return Ok(Vec::new()) };
        let left = bring_back(&pending);
        self.remove("confirm.json")?;
        Ok(left)
    }

    fn read<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<Option<T>> {
        let path = self.folder.join(name);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.with_context(|| format!("reading {}", path.display()))?,
        };
        let value = serde_json::from_slice(&bytes);
        value.map(Some).with_context(|| format!("reading {}", path.display()))
    }

    /// Whole or not at all, and durable.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (path, fresh) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
        let write = || {
            let mut file = File::create(&fresh)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            removed => removed.with_context(|| format!("removing {}", path.display()))?,
        }
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.with_context(|| format!("flushing {}", self.folder.display()))
    }
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.left.is_empty() {
            true => Ok(()),
            false => write!(f, "; could not be brought back: {}", self.left.join("; ")),
        }
    }
}

impl Pending {
    /// A change from `before`, with its deadline counted from now.
    pub(crate) fn new(
        network: &Network,
        before: Links,
        touched: BTreeSet<LinkName>,
    ) -> Result<Self> {
        let deadline = now()? + u64::from(network.confirm.seconds) * 1000;
        Ok(Pending { boot: boot_id()?, deadline, network: network.clone(), before, touched })
    }

    /// Whether it was made since the machine started.
    pub(crate) fn is_of_this_boot(&self) -> Result<bool> {
        Ok(self.boot == boot_id()?)
    }

    /// How long it may still wait.
    pub(crate) fn left(&self) -> Result<Duration> {
        Ok(Duration::from_millis(self.deadline.saturating_sub(now()?)))
    }
}

/// Plans back from what is there now, until there is nothing left to do: what is left even so.
fn bring_back(pending: &Pending) -> Vec<String> {
    let mut left = Vec::new();
    for _ in 0..ROUNDS {
        match bring_back_once(pending) {
            Ok(steps) if steps.is_empty() => return steps,
            Ok(steps) => left = steps,
            Err(error) => left = vec![format!("{error:#}")],
        }
    }
    left
}

/// The steps that were still to be done.
fn bring_back_once(pending: &Pending) -> Result<Vec<String>> {
    let mut door = Door::open()?;
    let now = door.probe()?;
    let steps = restore(&pending.before, &pending.touched, &now);
    let mut said = Vec::new();
    // One by one: what the kernel refuses must not keep the others from being done.
    for step in &steps {
        said.push(match door.apply(std::slice::from_ref(step)) {
            Ok(()) => step.to_string(),
            Err(error) => format!("{error:#}"),
        });
    }
    Ok(said)
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(text.trim().to_owned())
}

fn now() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).context("reading the clock")?;
    Ok(Duration::from(now).as_millis() as u64)
}
