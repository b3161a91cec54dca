//! The service domain's CPUs: how many, which ones, and what is left for guests.

use serde::{Deserialize, Serialize};

use crate::{CpuSet, Refusal, Size, Topology};

/// `[service]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceWish {
    /// So many CPUs; one for every eight, in whole cores, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// These CPUs; near the NICs and HCAs when absent.
    #[serde(
        default,
        deserialize_with = "crate::cpus::some",
        skip_serializing_if = "Option::is_none"
    )]
    pub place: Option<CpuSet>,
    /// Its memory; 1 GiB and a sixteenth of what is above 16 GiB, half of
    /// a small machine's at most, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// How guests are kept off its CPUs; by a pool where the machine has two cores, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedicate: Option<Dedicate>,
    /// Its own virtual CPUs that take interrupts; all when absent.
    #[serde(
        default,
        deserialize_with = "crate::cpus::some",
        skip_serializing_if = "Option::is_none"
    )]
    pub interrupts: Option<CpuSet>,
}

/// How guests are kept off the service domain's CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dedicate {
    /// Guests have a pool of their own: nothing runs outside of its pool.
    Pool,
    /// Every guest is pinned to the other CPUs.
    Affinity,
    /// Not at all.
    None,
}

/// Who runs where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePlan {
    /// The service domain's CPUs.
    pub service: CpuSet,
    /// Those that guests may run on.
    pub guests: CpuSet,
    /// The NUMA nodes of `service`.
    pub nodes: CpuSet,
    /// Its memory.
    pub memory: Size,
    /// How guests are kept off.
    pub dedicate: Dedicate,
}

impl ServicePlan {
    /// How many virtual CPUs the service domain has.
    pub fn count(&self) -> u32 {
        self.service.len() as u32
    }

    /// Where virtual CPU `vcpu` of the service domain must run.
    pub fn pin(&self, vcpu: u32) -> Option<CpuSet> {
        let own = self.service.iter().nth(vcpu as usize).map(CpuSet::one);
        own.filter(|_| self.dedicate != Dedicate::None)
    }
}

/// Who runs where on a machine like `topology`, whose NICs and HCAs are on the NUMA nodes
/// `near`, the most important first, and of which somebody else has the CPUs `taken`.
///
/// # Errors
/// A wish that the machine cannot fulfil, with what it could.
pub fn plan(
    wish: &ServiceWish,
    topology: &Topology,
    near: &[u32],
    taken: &CpuSet,
) -> Result<ServicePlan, Refusal> {
    let all = topology.all().without(taken);
    let order = node_order(topology, near);
    let cores = order.iter().flat_map(|node| topology.cores(*node));
    let cores: Vec<CpuSet> =
        cores.map(|core| core.without(taken)).filter(|core| !core.is_empty()).collect();
    let dedicate = match wish.dedicate {
        Some(asked) if asked != Dedicate::None && cores.len() < 2 => {
            return Err(Refusal::OneCore { cpus: all.len() as u32 });
        }
        Some(asked) => asked,
        None if cores.len() < 2 => Dedicate::None,
        None => Dedicate::Pool,
    };
    let service = match &wish.place {
        Some(place) => placed(wish, place, &all, &cores, dedicate)?,
        None => chosen(wish, topology.cpus.len() as u32, &cores, dedicate)?,
    };
    let guests = if dedicate == Dedicate::None { all } else { all.without(&service) };
    let home = topology.cpus.iter().filter(|cpu| service.contains(cpu.cpu));
    let nodes = home.map(|cpu| cpu.node).collect();
    let memory = memory(wish, topology)?;
    Ok(ServicePlan { service, guests, nodes, memory, dedicate })
}

/// NUMA nodes: those of the devices first, then the others by number.
fn node_order(topology: &Topology, near: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = Vec::new();
    for node in near.iter().copied().chain(topology.node_numbers().iter()) {
        if !order.contains(&node) {
            order.push(node);
        }
    }
    order
}

/// The CPUs that were asked for by number, when they are whole cores and leave some.
fn placed(
    wish: &ServiceWish,
    place: &CpuSet,
    all: &CpuSet,
    cores: &[CpuSet],
    dedicate: Dedicate,
) -> Result<CpuSet, Refusal> {
    let missing = place.without(all);
    if !missing.is_empty() {
        return Err(Refusal::NoSuchCpus { who: SERVICE.into(), missing, most: all.clone() });
    }
    if wish.cpus.is_some_and(|count| count as usize != place.len()) {
        let (asked, place) = (wish.cpus.unwrap_or_default(), place.clone());
        return Err(Refusal::CountAndPlace { asked, place });
    }
    let most = all.len() as u32 - cores.last().map_or(0, |core| core.len() as u32);
    if dedicate != Dedicate::None && place == all {
        let (asked, machine) = (place.len() as u32, all.len() as u32);
        return Err(Refusal::ServiceCpus { asked, machine, most });
    }
    let cut = cores.iter().find(|core| !core.is_subset(place) && !core.and(place).is_empty());
    match cut.filter(|_| dedicate != Dedicate::None) {
        Some(core) => Err(Refusal::CutCore { place: place.clone(), core: core.clone() }),
        None => Ok(place.clone()),
    }
}

const SERVICE: &str = "the service domain";

/// The first whole cores of `cores`, as many as are asked for or as the rule says of the whole
/// machine.
fn chosen(
    wish: &ServiceWish,
    machine: u32,
    cores: &[CpuSet],
    dedicate: Dedicate,
) -> Result<CpuSet, Refusal> {
    let leave = if dedicate == Dedicate::None { 0 } else { 1 };
    let most: u32 =
        cores.iter().take(cores.len().saturating_sub(leave)).map(|core| core.len() as u32).sum();
    let asked = wish.cpus.unwrap_or_else(|| (machine / 8).min(most).max(1));
    if asked == 0 || wish.cpus.is_some() && asked > most {
        return Err(Refusal::ServiceCpus { asked, machine, most });
    }
    let mut service = CpuSet::default();
    for core in cores {
        if service.len() as u32 >= asked {
            break;
        }
        service = service.or(core);
    }
    // The rule rounds up to whole cores; a number that was asked for is kept or refused.
    match wish.cpus {
        Some(asked) if asked != service.len() as u32 => {
            let above = service.len() as u32;
            let core = cores.first().map_or(1, |core| core.len() as u32);
            Err(Refusal::HalfCore { asked, below: above.saturating_sub(core), above })
        }
        _ => Ok(service),
    }
}

fn memory(wish: &ServiceWish, topology: &Topology) -> Result<Size, Refusal> {
    const LEAST: Size = Size::of_mib(256);
    let all = topology.memory;
    let above = all.without(Size::of_mib(16 << 10)).bytes() / 16;
    let rule = Size::of_mib(1024).and(Size::of_bytes(above)).min(Size::of_bytes(all.bytes() / 2));
    // In steps, so that an inventory that counts a little less says the same.
    let asked = wish.memory.unwrap_or(Size::of_mib(rule.mib() / 256 * 256).max(LEAST));
    if wish.memory.is_some() && (asked < LEAST || asked >= all) {
        return Err(Refusal::ServiceMemory { asked, least: LEAST, machine: all });
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nobody() -> CpuSet {
        CpuSet::default()
    }

    fn wish(cpus: u32) -> ServiceWish {
        ServiceWish { cpus: Some(cpus), ..ServiceWish::default() }
    }

    fn machine(cpus: u32, threads: u32, nodes: u32) -> Topology {
        Topology::even(cpus, threads, nodes, Size::of_mib(8192))
    }

    #[test]
    fn one_in_eight_and_whole_cores() {
        for (cpus, threads, service) in [
            (2, 1, "0"),
            (4, 1, "0"),
            (8, 2, "0-1"),
            (16, 1, "0-1"),
            (24, 2, "0-3"),
            (64, 2, "0-7"),
        ] {
            let plan =
                plan(&ServiceWish::default(), &machine(cpus, threads, 1), &[], &nobody()).unwrap();
            assert_eq!(plan.service.to_string(), service, "{cpus}");
            assert_eq!(plan.service.len() + plan.guests.len(), cpus as usize);
        }
    }

    #[test]
    fn the_node_of_the_nic_comes_first() {
        let plan = plan(&wish(2), &machine(8, 1, 2), &[1], &nobody()).unwrap();
        assert_eq!((plan.service.to_string(), plan.nodes.to_string()), ("4-5".into(), "1".into()));
    }

    #[test]
    fn a_refusal_says_what_would_fit() {
        let four = machine(4, 1, 1);
        fn said(wish: &ServiceWish, machine: &Topology) -> String {
            plan(wish, machine, &[], &nobody()).unwrap_err().to_string()
        }
        assert_eq!(
            said(&wish(5), &four),
            "5 CPUs asked for the service domain, the machine has 4: at most 3"
        );
        assert!(said(&wish(4), &four).ends_with("at most 3"));
        assert!(said(&wish(3), &machine(8, 2, 1)).contains("2 or 4"));
        let place = |cpus: &str| ServiceWish { place: cpus.parse().ok(), ..ServiceWish::default() };
        assert!(said(&place("3-5"), &four).contains("no CPUs 4-5"));
        assert!(said(&place("0-3"), &four).ends_with("at most 3"));
        assert!(said(&place("0"), &machine(4, 2, 1)).contains("0-1"));
        let pool = ServiceWish { dedicate: Some(Dedicate::Pool), ..ServiceWish::default() };
        assert!(said(&pool, &machine(1, 1, 1)).contains("none"));
        let large = ServiceWish { memory: Some(Size::of_mib(9000)), ..ServiceWish::default() };
        assert!(said(&large, &four).contains("8GiB"));
    }

    #[test]
    fn a_single_core_is_shared() {
        let plan = plan(&ServiceWish::default(), &machine(1, 1, 1), &[], &nobody()).unwrap();
        assert_eq!(plan.dedicate, Dedicate::None);
        assert_eq!(plan.guests, CpuSet::one(0));
    }

    proptest! {
        #[test]
        fn nobody_is_left_without(
            cores in 1_u32..40, threads in 1_u32..3, nodes in 1_u32..5,
            near in proptest::collection::vec(0_u32..6, 0..3), asked in proptest::option::of(0_u32..90),
            taken in proptest::collection::btree_set(1_u32..40, 0..9),
        ) {
            let taken: CpuSet = taken.into_iter().collect();
            let topology = machine(cores * threads, threads, nodes);
            let wish = ServiceWish { cpus: asked, ..ServiceWish::default() };
            if let Ok(plan) = plan(&wish, &topology, &near, &taken) {
                prop_assert!(!plan.service.is_empty() && !plan.guests.is_empty());
                prop_assert!(plan.dedicate == Dedicate::None || plan.service.and(&plan.guests).is_empty());
                prop_assert_eq!(plan.service.or(&plan.guests), topology.all().without(&taken));
                prop_assert!(asked.is_none_or(|asked| asked == plan.count()));
            }
        }
    }
}
