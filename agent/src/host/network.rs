//! The network of a node: probed, planned, applied, and confirmed when it could cut the node off.
//!
//! What the disk says when the power or the agent fails: before the first step that could cut
//! the node off, `confirm.json` has the former state and a guard runs; it goes only after the
//! provisioner answered over the new network. Until then whoever comes late takes it back.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use xen_config::{
    link::Links,
    link_plan::{LinkPlan, plan, restore},
    link_step::LinkStep,
    network::Network,
};

use super::{
    confirm::{Pending, State, Why},
    guard,
    reach::Reach,
};
use crate::{console, sys::link::Door};

/// What follows from other things (the kernel lowers the mtu of a VLAN device) may need a second
/// look, seldom a third.
const ROUNDS: usize = 4;
/// One attempt to reach somebody; several fit into a deadline.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(250);

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Steps that were done.
    pub(crate) steps: usize,
    /// Who answered over the changed network.
    pub(crate) confirmed: Option<Reach>,
}

/// How it is done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Who must answer after a change, when the network names nobody.
    pub(crate) reach: Option<Reach>,
    /// Try a network again that was taken back.
    pub(crate) again: bool,
    /// For tests of what survives: the process kills itself after so many steps.
    pub(crate) die_after: Option<usize>,
}

/// All links; with a `sysroot` from its `links.json` instead of the kernel.
pub(crate) fn probe(sysroot: &Path) -> Result<Links> {
    if sysroot == Path::new("/") {
        return Door::open()?.probe();
    }
    let path = sysroot.join("links.json");
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
}

/// Ends what an earlier agent left: a change whose deadline passed, or whose machine restarted,
/// is taken back; one that still has time is begun again from there.
///
/// # Errors
/// When the state cannot be read. A change that did not go well is said, and is no error.
pub(crate) fn resume(state: &State, options: &Options) -> Result<()> {
    expire(state)?;
    let Some(pending) = state.pending()? else { return Ok(()) };
    if let Err(error) = apply(&pending.network, state, options) {
        console::say(format_args!("{error:#}"));
    }
    Ok(())
}

fn expire(state: &State) -> Result<()> {
    let Some(pending) = state.pending()? else { return Ok(()) };
    let undone = if !pending.is_of_this_boot()? {
        state.take_back(Why::Restart, "the node restarted before it was confirmed")?
    } else if pending.left()?.is_zero() {
        state.take_back(Why::Silence, "nobody confirmed it in time")?
    } else {
        None
    };
    undone.iter().for_each(console::say);
    Ok(())
}

/// Makes the network what it should be.
///
/// # Errors
/// When it cannot be on this machine, when the kernel refused a step, when nobody answers
/// afterwards. In the last two cases everything is as before, or it says what is not.
pub(crate) fn apply(network: &Network, state: &State, options: &Options) -> Result<Applied> {
    expire(state)?;
    // Broken off anywhere, an address may be nowhere at all: only the former state has it.
    state.rewind()?.iter().for_each(console::say);
    let mut change = Change::begin(network, state, options)?;
    match change.run() {
        Ok(steps) => change.end(steps),
        Err(error) => Err(change.take_back(error)),
    }
}

/// A change under way.
struct Change<'a> {
    network: &'a Network,
    state: &'a State,
    options: &'a Options,
    reach: Option<Reach>,
    door: Door,
    /// What was before the first step.
    before: Links,
    plan: LinkPlan,
    guard: Option<std::process::Child>,
    waits: bool,
}

impl<'a> Change<'a> {
    fn begin(network: &'a Network, state: &'a State, options: &'a Options) -> Result<Self> {
        let named = network.confirm.reach.as_deref().map(str::parse::<Reach>).transpose();
        let reach = named.map_err(|error| anyhow!("{error}"))?.or_else(|| options.reach.clone());
        let mut door = Door::open()?;
        let before = door.probe()?;
        let plan = plan_of(network, &before)?;
        let undone = state.undone()?.filter(|undone| undone.network == *network && !options.again);
        if let Some(undone) = undone.filter(|undone| undone.why == Why::Unreached)
            && !plan.is_empty()
        {
            bail!("{}; it is not tried again unless it changes or `--again` is said", undone.text);
        }
        let mut change = Change {
            network,
            state,
            options,
            reach,
            door,
            before,
            plan,
            guard: None,
            waits: false,
        };
        change.watch()?;
        Ok(change)
    }

    /// Before the first step: the former state on disk and a guard beside it.
    fn watch(&mut self) -> Result<()> {
        if self.plan.guarded && self.reach.is_some() {
            let touched = self.plan.touched.clone();
            self.state.open(&Pending::new(self.network, self.before.clone(), touched)?)?;
            self.guard = Some(guard::start(self.state)?);
            self.waits = true;
        }
        Ok(())
    }

    /// Steps until the plan of fresh facts is empty.
    fn run(&mut self) -> Result<usize> {
        let mut steps = self.plan.steps.clone();
        let mut done = 0;
        for _ in 0..ROUNDS {
            if steps.is_empty() {
                return Ok(done);
            }
            self.apply_steps(&steps, done)?;
            done += steps.len();
            let facts = self.door.probe()?;
            steps = plan_of(self.network, &facts)?.steps;
        }
        let left: Vec<_> = steps.iter().map(ToString::to_string).collect();
        bail!("the network did not hold, still to do: {}", left.join("; "))
    }

    fn apply_steps(&mut self, steps: &[LinkStep], done: usize) -> Result<()> {
        let Some(last) = self.options.die_after else { return self.door.apply(steps) };
        let first = steps.get(..last.saturating_sub(done)).unwrap_or(steps);
        self.door.apply(first)?;
        if first.len() < steps.len() {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
        Ok(())
    }

    /// The steps are done: asks whoever must answer.
    fn end(mut self, steps: usize) -> Result<Applied> {
        let Some(reach) = self.reach.clone().filter(|_| self.waits) else {
            self.state.forget_undone().map(drop)?;
            return Ok(Applied { steps, confirmed: None });
        };
        if let Err(error) = self.wait_for(&reach) {
            return Err(self.take_back(error));
        }
        self.state.confirm()?;
        self.state.forget_undone()?;
        if let Some(guard) = self.guard.take() {
            guard::dismiss(guard);
        }
        Ok(Applied { steps, confirmed: Some(reach) })
    }

    /// Asks until somebody answers, or so long that there is time left to take all back.
    fn wait_for(&self, reach: &Reach) -> Result<()> {
        let margin = Duration::from_millis(u64::from(self.network.confirm.seconds) * 200);
        let mut answer = Err(anyhow!("there was no time left to ask"));
        loop {
            let left =
                self.state.pending()?.map_or(Ok(Duration::ZERO), |pending| pending.left())?;
            let left = left.saturating_sub(margin);
            if left.is_zero() {
                return answer.context(Unreached(reach.clone()));
            }
            answer = reach.try_once(left.min(PATIENCE));
            if answer.is_ok() {
                return answer;
            }
            thread::sleep(PAUSE.min(left));
        }
    }

    /// Brings back what was before; the error says why, and what could not be brought back.
    fn take_back(&mut self, error: anyhow::Error) -> anyhow::Error {
        if self.waits {
            let unreached = error.downcast_ref::<Unreached>().is_some();
            let why = if unreached { Why::Unreached } else { Why::Refused };
            let undone = self.state.take_back(why, &format!("{error:#}"));
            if let Some(guard) = self.guard.take() {
                guard::dismiss(guard);
            }
            return match undone {
                Ok(Some(undone)) => anyhow!("{undone}"),
                Ok(None) => error.context("the change was taken back by its guard"),
                Err(other) => error.context(format!("taking the change back failed: {other:#}")),
            };
        }
        match self.restore() {
            Ok(()) => error.context("the change was taken back"),
            Err(other) => error.context(format!("taking the change back failed: {other:#}")),
        }
    }

    fn restore(&mut self) -> Result<()> {
        let now = self.door.probe()?;
        let steps = restore(&self.before, &self.plan.touched, &now);
        self.door.apply(&steps)
    }
}

/// Nobody answered over the new network.
#[derive(Debug, thiserror::Error)]
#[error("{0} did not answer")]
struct Unreached(Reach);

fn plan_of(network: &Network, facts: &Links) -> Result<LinkPlan> {
    plan(network, facts).map_err(|refusals| anyhow!("{}", refusals.join("; ")))
}
