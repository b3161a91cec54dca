//! From facts to steps.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    CommandLine, CpuSet, Desired, Guest, Host, Refusal, Refusals, Topology, Xen,
    boot::{self, Booted},
    fit,
    guest_plan::{self, Site},
    guest_step::GuestStep,
    irq::{self, IrqStep},
    link_plan,
    link_step::LinkStep,
    pci::PciAddress,
    pool::{self, Pool, PoolStep},
    pool_plan,
    service::{self, Dedicate, ServicePlan},
    slice_place::SliceSite,
    slice_plan::{self, SlicePlan},
    slice_step::SliceStep,
};

/// What is to be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Each step is possible once those before it are done.
    pub steps: Vec<Step>,
    /// Why the node must be booted again before it is as desired; empty when it need not.
    pub reboot: Vec<String>,
    /// What is not as desired and cannot be made so by a step, with what would help.
    pub notes: Vec<String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A link, address or route.
    Link(LinkStep),
    /// CPU pools and pins.
    Pool(PoolStep),
    /// An interrupt.
    Irq(IrqStep),
    /// A slice of a fabric.
    Slice(SliceStep),
    /// A guest.
    Guest(GuestStep),
    /// Writes `billet/xen.cfg` of the seed partition, which holds from the next boot on.
    Fragment {
        /// The file.
        text: String,
    },
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Every step as a sentence.
    pub fn sentences(&self) -> Vec<String> {
        self.steps.iter().map(Step::to_string).collect()
    }
}

/// A sentence.
impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Link(step) => step.fmt(out),
            Step::Pool(step) => step.fmt(out),
            Step::Irq(step) => step.fmt(out),
            Step::Slice(step) => step.fmt(out),
            Step::Guest(step) => step.fmt(out),
            Step::Fragment { .. } => {
                out.write_str("write how Xen starts at the next boot to the seed partition")
            }
        }
    }
}

/// The steps from `host` to `desired`, or every reason why there are none.
///
/// # Errors
/// When `desired` cannot be on this machine; nothing has been done then.
pub fn plan(desired: &Desired, host: &Host) -> Result<Plan, Refusals> {
    let network = link_plan::plan(&desired.network, &host.links);
    let (links, refused) = match network {
        Ok(plan) => (plan.steps, Vec::new()),
        Err(refusals) => (Vec::new(), refusals.into_iter().map(Refusal::Network).collect()),
    };
    let links = links.into_iter().map(Step::Link);
    let mut refusals: Vec<Refusal> = refused;
    let Some(xen) = &host.xen else {
        refusals.extend((!desired.guests.is_empty()).then_some(Refusal::NoXen));
        let slices = slices(desired, host, None, &mut refusals);
        let steps = links.chain(slices.steps.into_iter().map(Step::Slice)).collect();
        let plan = Plan { steps, notes: slices.notes, ..Plan::default() };
        return if refusals.is_empty() { Ok(plan) } else { Err(Refusals(refusals)) };
    };
    let service = service(desired, host).map_err(|refusal| Refusals(vec![refusal]))?;
    let ours = ours(desired, host, xen);
    let Pools { service, steps: pools, notes } = pools(desired, xen, &service, &ours)
        .unwrap_or_else(|refusal| {
            refusals.push(refusal);
            Pools { service, steps: Vec::new(), notes: Vec::new() }
        });
    let mut after = xen.clone();
    pools.iter().for_each(|step| after.after(step));
    let slices = slices(desired, host, Some(&service), &mut refusals);
    after.assignable.extend(slices.bound.iter().cloned());
    let site = Site { host, xen: &after, service: &service, slices: &slices };
    let mut bridges = host.links.bridges();
    bridges.extend(desired.network.bridges());
    refusals.extend(fit::refusals(&desired.guests, site, &bridges));
    if !refusals.is_empty() {
        return Err(Refusals(refusals));
    }
    let guests = guest_plan::plan(&with_slices(&desired.guests, &slices), site);
    let notes = notes.into_iter().chain(guests.notes).chain(slices.notes.iter().cloned()).collect();
    let mut plan = Plan { steps: guests.stops, reboot: Vec::new(), notes };
    plan.steps.extend(links);
    plan.steps.extend(pools.into_iter().map(Step::Pool));
    plan.irqs(desired, host, &service, &after);
    plan.steps.extend(slices.steps.into_iter().map(Step::Slice));
    plan.steps.extend(guests.steps);
    plan.boot(desired, host, &service, xen);
    plan.strangers(&service, &after, &ours);
    plan.idle(desired, host, xen);
    Ok(plan)
}

fn slices(
    desired: &Desired,
    host: &Host,
    service: Option<&ServicePlan>,
    refusals: &mut Vec<Refusal>,
) -> SlicePlan {
    slice_plan::plan(SliceSite { desired, host, service }).unwrap_or_else(|reasons| {
        refusals.extend(reasons.into_iter().map(Refusal::Slice));
        SlicePlan::default()
    })
}

/// Guests with the VFs of their slices.
fn with_slices(guests: &[Guest], slices: &SlicePlan) -> Vec<Guest> {
    let with = |guest: &Guest| {
        let mut guest = guest.clone();
        let functions = slices.functions.get(&guest.name);
        guest.pci.extend(functions.into_iter().flatten().cloned());
        guest
    };
    guests.iter().map(with).collect()
}

/// Who runs where on `host`.
///
/// # Errors
/// A wish that the machine cannot fulfil.
pub fn service(desired: &Desired, host: &Host) -> Result<ServicePlan, Refusal> {
    let Some(xen) = &host.xen else {
        let (topology, nobody) = (Topology::default(), CpuSet::default());
        return service::plan(&desired.service, &topology, &host.near(), &nobody);
    };
    if xen.topology.cpus.is_empty() {
        return Err(Refusal::NoTopology);
    }
    if let Some(place) = &desired.service.place {
        let home = pool::home(xen);
        let shared = |pool: &&Pool| pool.is_foreign(&home) && !pool.cpus.and(place).is_empty();
        if let Some(pool) = xen.pools.iter().find(shared) {
            let (pool, cpus) = (pool.name.clone(), pool.cpus.and(place));
            return Err(Refusal::ForeignPool { pool, cpus, home });
        }
    }
    service::plan(&desired.service, &xen.topology, &host.near(), &xen.taken())
}

/// The way to who runs where.
struct Pools {
    service: ServicePlan,
    steps: Vec<PoolStep>,
    notes: Vec<String>,
}

/// The steps to `service`. Where the guests' pool cannot be and was not asked for, hard affinity
/// keeps them off, and that is said.
fn pools(
    desired: &Desired,
    xen: &Xen,
    service: &ServicePlan,
    ours: &[String],
) -> Result<Pools, Refusal> {
    let home = pool::home(xen);
    let foreign = xen.pools.iter().filter(|it| it.is_foreign(&home) && !it.cpus.is_empty());
    let mut notes: Vec<String> = foreign
        .map(|pool| {
            format!(
                "CPUs {} are left to pool {}, which is not billet's: to have them, put them into {home}",
                pool.cpus, pool.name
            )
        })
        .collect();
    let refusal = match pool_plan::plan(xen, service, ours) {
        Ok(steps) => return Ok(Pools { service: service.clone(), steps, notes }),
        Err(refusal) => refusal,
    };
    let asked = desired.service.dedicate.is_some();
    if asked
        || !matches!(
            refusal,
            Refusal::Scheduler { .. } | Refusal::ForeignPin { .. } | Refusal::FirstCpu { .. }
        )
    {
        return Err(refusal);
    }
    let service = ServicePlan { dedicate: Dedicate::Affinity, ..service.clone() };
    let steps = pool_plan::plan(xen, &service, ours)?;
    notes.push(format!(
        "guests have no pool, but hard affinity keeps billet's on CPUs {}: {refusal}",
        service.guests
    ));
    Ok(Pools { service, steps, notes })
}

/// Names of the domains that billet may move: those that it made, and those it is told to own.
fn ours(desired: &Desired, host: &Host, xen: &Xen) -> Vec<String> {
    let owned = |name: &str| desired.guests.iter().any(|it| it.own && it.name.as_str() == name);
    let mine = xen
        .domains
        .iter()
        .filter(|domain| guest_plan::is_ours(domain, &host.node) || owned(&domain.name));
    mine.map(|domain| domain.name.clone()).collect()
}

impl Plan {
    fn irqs(&mut self, desired: &Desired, host: &Host, service: &ServicePlan, xen: &Xen) {
        let dom0 = xen.domains.iter().find(|domain| domain.id == 0);
        let online = dom0.into_iter().flat_map(|domain| &domain.vcpus);
        let online: CpuSet = online.filter(|vcpu| vcpu.online).map(|vcpu| vcpu.vcpu).collect();
        let wanted = match &desired.service.interrupts {
            Some(asked) => asked.and(&online),
            None if service.dedicate == Dedicate::None => return,
            None => online,
        };
        if !wanted.is_empty() {
            self.steps.extend(irq::plan(&host.irqs, &wanted).into_iter().map(Step::Irq));
        }
    }

    fn boot(&mut self, desired: &Desired, host: &Host, service: &ServicePlan, xen: &Xen) {
        let nodes = xen.topology.node_numbers();
        let wanted = CommandLine::of_xen(&desired.xen, service, &nodes);
        let booted = Booted {
            xen: &xen.command_line,
            linux: host.command_line.as_deref(),
            ours: host.fragment.is_some(),
        };
        self.reboot = booted.differences(&desired.xen, &wanted);
        let text = boot::fragment(&wanted, &desired.xen);
        if host.fragment.as_ref().is_some_and(|had| *had != text) {
            self.steps.push(Step::Fragment { text });
        }
    }

    /// Functions that dom0 has let go of and no guest has or is to have. Who let them go is not known:
    /// perhaps somebody who needs them so.
    fn idle(&mut self, desired: &Desired, host: &Host, xen: &Xen) {
        let wanted = desired.guests.iter().flat_map(|guest| &guest.pci);
        let made = xen.domains.iter().filter_map(|domain| domain.made.as_ref());
        let used: Vec<_> = wanted.chain(made.flat_map(|made| &made.pci)).collect();
        let idle = |device: &&PciAddress| !used.contains(device) && !host.is_vf(device);
        for device in xen.assignable.iter().filter(idle) {
            self.notes.push(format!(
                "PCI device {device} is kept for guests and none has it: \
                 `xl pci-assignable-remove -r {device}` gives it back to its driver"
            ));
        }
    }

    /// Guests of others that stay on the service domain's CPUs.
    fn strangers(&mut self, service: &ServicePlan, xen: &Xen, ours: &[String]) {
        let home = pool::home(xen);
        let strange = |domain: &&crate::list::Domain| {
            let apart = |hard: &CpuSet| hard.and(&service.service).is_empty();
            let kept_off = domain.vcpus.iter().all(|vcpu| vcpu.hard.as_ref().is_some_and(apart));
            domain.id != 0 && domain.pool == home && !ours.contains(&domain.name) && !kept_off
        };
        if service.dedicate == Dedicate::None {
            return;
        }
        for domain in xen.domains.iter().filter(strange) {
            self.notes.push(format!(
                "{} is not billet's and runs on the service domain's CPUs {}: stop it, or name \
                 it with own = true",
                domain.name, service.service
            ));
        }
    }
}
