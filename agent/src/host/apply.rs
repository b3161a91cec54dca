//! Steps, done one after the other.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use protocol::HostEventKind;
use xen_config::{
    Desired, Host, Name, Plan, Step,
    guest_step::{Change, GuestStep},
    link::Links,
    list::Domain,
    slice::SliceId,
    slice_step::{SliceStep, VfChange},
};

use super::{
    confirm,
    endings::Endings,
    events::Events,
    folder::Folder,
    fragment,
    guest::{self, Came, Guests, Woken},
    identity::Identity,
    journal::{Half, Journal},
    lease,
    network::{self, Options},
    networkd, pool,
    probe::{self, Probe},
    slice::Slices,
    watch::Watch,
};
use crate::{
    console,
    sys::{irq, xl::Xl},
};

/// For tests of what survives: the process aborts after so many steps.
const DIE_AFTER: &str = "BILLET_AGENT_DIE_AFTER";
/// Of the last boot that was told.
const BOOT: &str = "boot.json";
/// Guests that start change what others may have, so one look is not always enough.
const ROUNDS: usize = 4;

/// The agent of this node: what it knows, remembers and may do.
#[derive(Debug)]
pub(crate) struct Agent {
    /// Who and where this node is.
    pub(crate) identity: Identity,
    /// Its memory.
    pub(crate) folder: Folder,
    /// What happened.
    pub(crate) events: Events,
    endings: Endings,
    journal: Journal,
    guests: Guests,
    watch: Watch,
    /// Guests that were made and did not run yet.
    made: BTreeSet<Name>,
    slices: Slices,
    /// Another one after every boot of the node.
    pub(crate) boot: String,
    state: PathBuf,
    /// Steps until the process aborts.
    dies: Option<u32>,
}

/// A step that is about to be done.
#[derive(Debug)]
pub(crate) struct Underway<'a> {
    /// The facts that it was planned on.
    pub(crate) host: &'a Host,
    /// The plan that it is of.
    pub(crate) plan: &'a Plan,
    /// Its number in the plan, from 0.
    pub(crate) at: usize,
    /// What happened until now.
    pub(crate) events: &'a Events,
}

/// Hears of every step before it is done.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(&Underway<'_>);

/// A step that failed, and what was wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {reason:#}")]
pub(crate) struct Failed {
    /// The step, as a sentence.
    pub(crate) step: String,
    /// Whose it is.
    guest: Option<String>,
    /// Why.
    pub(crate) reason: anyhow::Error,
}

/// What came of making the node what it should be.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Facts after the last step.
    pub(crate) host: Host,
    /// The plan of those facts: empty, or what did not hold.
    pub(crate) plan: Plan,
    /// Steps that were done.
    pub(crate) done: usize,
    /// Steps that failed; those after them that stand alone were tried all the same.
    pub(crate) failed: Vec<Failed>,
}

/// Nobody else brings up what is a port now. The links are as they should be without that, too.
fn keep_ports(desired: &Desired, links: &Links) {
    if let Err(error) = networkd::leave_alone(&desired.network, links, "/run".as_ref()) {
        console::say(format_args!("{error:#}"));
    }
}

impl Agent {
    /// The agent whose memory is in `state`.
    pub(crate) fn at(state: &Path, identity: Identity) -> Result<Self> {
        let folder = Folder::at(state)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let boot = boot.context("reading the boot's number")?.trim().to_owned();
        let dies = std::env::var(DIE_AFTER).ok().and_then(|steps| steps.parse().ok());
        Ok(Agent {
            events: Events::at(&folder)?,
            endings: Endings::at(&folder, &boot)?,
            journal: Journal::at(&folder, &boot),
            guests: Guests::new(&folder),
            watch: Watch::default(),
            made: BTreeSet::new(),
            slices: Slices::at(&folder, Path::new("/"))?,
            state: state.to_owned(),
            identity,
            folder,
            boot,
            dies,
        })
    }

    /// All facts of this node.
    pub(crate) fn probe(&self) -> Result<Host> {
        let folder = Some(self.folder.clone());
        let probe = Probe { root: "/".into(), node: self.identity.node.clone(), folder };
        probe.host(Some(&self.endings))
    }

    /// Tells, once a boot, that the node has started.
    ///
    /// # Errors
    /// The agent's memory.
    pub(crate) fn booted(&mut self) -> Result<()> {
        if self.folder.read::<String>(BOOT)?.as_ref() == Some(&self.boot) {
            return Ok(());
        }
        self.events.note(HostEventKind::NodeBooted, "the node has started", Vec::new())?;
        self.folder.write(BOOT, &self.boot)
    }

    /// Looks at the domains alone; whether a plan could answer what happened to them.
    ///
    /// # Errors
    /// When xl does not list them.
    pub(crate) fn look(&mut self, desired: Option<&Desired>) -> Result<bool> {
        let domains = probe::look(&Xl::at("/".as_ref()))?;
        self.watch(&domains, desired)
    }

    /// Tells which guests somebody else destroyed since the last look.
    fn watch(&mut self, domains: &[Domain], desired: Option<&Desired>) -> Result<bool> {
        let seen = self.watch.look(domains, desired);
        for guest in &seen.destroyed {
            let text = format!("{guest} is gone: somebody destroyed it");
            self.events.note(HostEventKind::GuestDied, &text, guest::last_lines(guest))?;
        }
        Ok(seen.changed)
    }

    /// Ends what an earlier agent left half done.
    pub(crate) fn resume(&mut self) -> Result<()> {
        let options = Options { reach: self.identity.reach(), ..Options::default() };
        let state = confirm::State::at(&self.state)?;
        network::resume(&state, &options)?;
        // What the guard did while there was no agent to tell.
        if let Some(undone) = state.news()? {
            self.events.note(HostEventKind::NetworkUndone, &undone.to_string(), Vec::new())?;
        }
        match self.journal.half()? {
            Some(Half::Made(guest)) if self.guests.made_half(&guest)? => {
                let text = format!("{guest} was half made when the agent ended, and is made anew");
                self.events.note(HostEventKind::StateRepaired, &text, Vec::new())?;
            }
            Some(Half::Made(_)) => {}
            Some(Half::Saved(guest)) => match self.guests.saved_half(&guest)? {
                Woken::WasAwake => {}
                Woken::GoesOn => {
                    let text = format!("{guest} was half saved when the agent ended, and goes on");
                    self.events.note(HostEventKind::StateRepaired, &text, Vec::new())?;
                }
                Woken::Destroyed => {
                    let text =
                        format!("{guest} was half saved when the agent ended, and cannot go on");
                    let lines = guest::last_lines(guest.as_str());
                    self.events.note(HostEventKind::GuestDestroyed, &text, lines)?;
                }
            },
            None => {}
        }
        self.journal.end()
    }

    /// Plans and applies until the plan of fresh facts is empty, or a step fails.
    ///
    /// # Errors
    /// A desired state that cannot be ([`xen_config::Refusals`]), facts that cannot be had.
    pub(crate) fn settle(&mut self, desired: &Desired, tell: Tell<'_>) -> Result<Outcome> {
        self.endings.refresh(desired)?;
        let (mut done, mut failed) = (0, Vec::new());
        let mut rounds = 0;
        loop {
            let host = self.probe()?;
            let domains = host.xen.as_ref().map_or(&[][..], |xen| &xen.domains);
            self.watch(domains, Some(desired))?;
            let plan = xen_config::plan(desired, &host)?;
            if !plan.steps.iter().any(|step| matches!(step, Step::Link(_))) {
                keep_ports(desired, &host.links);
            }
            if plan.is_empty() || rounds == ROUNDS || !failed.is_empty() {
                return Ok(Outcome { host, plan, done, failed });
            }
            done += self.steps(&host, &plan, desired, &mut failed, tell)?;
            rounds += 1;
        }
    }

    fn steps(
        &mut self,
        host: &Host,
        plan: &Plan,
        desired: &Desired,
        failed: &mut Vec<Failed>,
        tell: Tell<'_>,
    ) -> Result<usize> {
        self.ask_to_shut_down(plan);
        let mut done = 0;
        for (at, step) in plan.steps.iter().enumerate() {
            // A guest of which a step failed is let alone until the next plan.
            if failed.iter().any(|it| it.guest.is_some() && it.guest == guest_of(step)) {
                continue;
            }
            // All links are one change, which is confirmed or taken back as a whole.
            let linked = at > 0 && matches!(plan.steps[at - 1], Step::Link(_));
            if linked && matches!(step, Step::Link(_)) {
                continue;
            }
            tell(&Underway { host, plan, at, events: &self.events });
            let result = self.noted(step, desired)?;
            match result {
                Ok(came) => {
                    done += 1;
                    self.say(step, came)?;
                }
                Err(reason) => {
                    let guest = guest_of(step);
                    let alone = guest.is_some() || matches!(step, Step::Irq(_));
                    let failure = Failed { step: step.to_string(), guest, reason };
                    self.fault(step, &failure)?;
                    failed.push(failure);
                    if !alone {
                        break;
                    }
                }
            }
            self.die();
        }
        Ok(done)
    }

    /// Does a step that the journal has while it lasts. What slices are in the middle of is
    /// in their own memory.
    fn noted(&mut self, step: &Step, desired: &Desired) -> Result<Result<Came>> {
        if let Step::Slice(step) = step {
            return Ok(self.slices.apply(step).map(|()| Came::AsPlanned));
        }
        self.journal.begin(step)?;
        let result = self.step(step, desired);
        self.journal.end()?;
        Ok(result)
    }

    /// All guests that are to shut down do it at the same time.
    fn ask_to_shut_down(&mut self, plan: &Plan) {
        let asked = plan.steps.iter().filter_map(|step| match step {
            Step::Guest(GuestStep { guest, change: Change::Shutdown { .. } }) => Some(guest),
            _ => None,
        });
        self.guests.ask_to_shut_down(asked);
    }

    fn step(&mut self, step: &Step, desired: &Desired) -> Result<Came> {
        match step {
            Step::Link(_) => {
                let options = Options { reach: self.identity.reach(), ..Options::default() };
                let state = confirm::State::at(&self.state)?;
                if let Some(card) = &desired.network.management {
                    let links = network::probe("/".as_ref())?;
                    lease::note(&self.folder, &self.boot, card, &links, "/run".as_ref())?;
                }
                network::apply(&desired.network, &state, &options)?;
                keep_ports(desired, &network::probe("/".as_ref())?);
            }
            Step::Pool(step) => pool::apply(step)?,
            Step::Irq(step) => irq::apply(step)?,
            Step::Slice(step) => self.slices.apply(step)?,
            Step::Guest(step) => {
                if step.change.ends() {
                    self.watch.forget(&step.guest);
                }
                if let Change::Clear { ending } = step.change {
                    self.ended(step, ending, desired)?;
                }
                let came = self.guests.apply(step)?;
                if matches!(step.change, Change::Create { .. } | Change::Restore { .. }) {
                    self.watch.expect(&step.guest);
                }
                return Ok(came);
            }
            Step::Fragment { text } => {
                let seed =
                    fragment::partition().ok_or_else(|| anyhow!("there is no seed partition"))?;
                fragment::write(&seed, text)?;
            }
        }
        Ok(Came::AsPlanned)
    }

    /// A guest has ended by itself: why, with its last lines, before it is cleared away.
    fn ended(
        &mut self,
        step: &GuestStep,
        ending: xen_config::list::Ending,
        desired: &Desired,
    ) -> Result<()> {
        self.endings.note(&step.guest, ending, desired)?;
        let lines = guest::last_lines(step.guest.as_str());
        let text = format!("{} {ending}", step.guest);
        self.events.note(HostEventKind::GuestDied, &text, lines)
    }

    /// What is worth an event.
    fn say(&mut self, step: &Step, came: Came) -> Result<()> {
        let kind = match step {
            Step::Link(_) => HostEventKind::NetworkChanged,
            Step::Guest(_) if came == Came::Destroyed => HostEventKind::GuestDestroyed,
            Step::Guest(step) => match &step.change {
                Change::Create { .. } => {
                    self.made.insert(step.guest.clone());
                    return Ok(());
                }
                Change::Vlan { .. } | Change::Assign { .. } => return Ok(()),
                Change::Clear { .. } | Change::Forget => return Ok(()),
                Change::Unpause if !self.made.remove(&step.guest) => HostEventKind::GuestUnpaused,
                Change::Unpause if self.endings.knows(&step.guest) => HostEventKind::GuestRestarted,
                Change::Unpause => HostEventKind::GuestStarted,
                Change::Restore { .. } => HostEventKind::GuestRestored,
                Change::Pause => HostEventKind::GuestPaused,
                Change::Save => HostEventKind::GuestSaved,
                Change::Shutdown { .. } => HostEventKind::GuestStopped,
                _ => HostEventKind::GuestChanged,
            },
            Step::Slice(SliceStep::Vf { change: VfChange::Bind { .. }, .. }) => {
                HostEventKind::SliceReady
            }
            Step::Slice(SliceStep::Free { .. }) => HostEventKind::SliceReturned,
            Step::Slice(_) | Step::Pool(_) | Step::Irq(_) | Step::Fragment { .. } => return Ok(()),
        };
        let text = match (step, came) {
            (Step::Link(_), _) => "the network is as desired".to_owned(),
            (Step::Guest(step), Came::Destroyed) => {
                format!("{} did not shut down in its time and was destroyed", step.guest)
            }
            (Step::Slice(SliceStep::Vf { slice, at, .. }), _) => {
                format!("slice {slice} is ready: {at}, {}", self.slices.identity(slice))
            }
            (Step::Slice(SliceStep::Free { slice, at }), _) => {
                format!("the VF of slice {slice} is free again: {at}")
            }
            _ => format!("done: {step}"),
        };
        self.events.note(kind, &text, Vec::new())
    }

    fn fault(&mut self, step: &Step, failure: &Failed) -> Result<()> {
        let kind = match step {
            Step::Link(_) => HostEventKind::NetworkUndone,
            Step::Guest(GuestStep {
                change: Change::Create { .. } | Change::Restore { .. },
                ..
            }) => HostEventKind::GuestFailed,
            Step::Slice(_) => HostEventKind::SliceFailed,
            _ => HostEventKind::StepFailed,
        };
        self.events.note(kind, &failure.to_string(), Vec::new())?;
        // It is told with that.
        if kind == HostEventKind::NetworkUndone {
            confirm::State::at(&self.state)?.news()?;
        }
        Ok(())
    }

    /// See [`DIE_AFTER`].
    fn die(&mut self) {
        if let Some(left) = &mut self.dies {
            *left = left.saturating_sub(1);
            if *left == 0 {
                std::process::abort();
            }
        }
    }
}

/// Whose step it is: what others have need not wait for it.
fn guest_of(step: &Step) -> Option<String> {
    match step {
        Step::Guest(step) => Some(step.guest.to_string()),
        Step::Slice(SliceStep::Vf { slice, .. } | SliceStep::Free { slice, .. }) => {
            Some(owner(slice))
        }
        Step::Slice(SliceStep::Hold { held }) => Some(owner(&held.slice)),
        _ => None,
    }
}

/// A guest's own name has no blank.
fn owner(slice: &SliceId) -> String {
    match slice {
        SliceId::Guest(guest, _) => guest.to_string(),
        SliceId::Named(name) => format!("slice {name}"),
    }
}
