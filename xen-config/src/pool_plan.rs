//! The steps that give guests a pool of their own.

use crate::{
    CpuSet, Refusal, Size, Xen,
    list::Domain,
    pool::{self, GUESTS, Pool, PoolStep, SERVICE},
    service::{Dedicate, ServicePlan},
};

/// The steps to the pools and the service domain's pins that `service` asks for.
///
/// The service domain cannot leave its pool, and a CPU leaves a pool only while no virtual CPU
/// in it is pinned there alone; so pins go first, then CPUs move one pool at a time while both
/// keep some, then domains, then pins come back. No pool is ever destroyed: Xen was seen to
/// panic after that, and an empty pool costs nothing.
///
/// Pools of somebody else, and their CPUs, are left alone.
///
/// # Errors
/// A pool or a domain of somebody else that is in the way.
pub fn plan(xen: &Xen, service: &ServicePlan, ours: &[String]) -> Result<Vec<PoolStep>, Refusal> {
    let (home, taken) = (pool::home(xen), xen.taken());
    let wanted = |pool: &str| match service.dedicate {
        Dedicate::Pool if pool == home => service.service.clone(),
        Dedicate::Pool => service.guests.clone(),
        _ if pool == home => service.service.or(&service.guests),
        _ => CpuSet::default(),
    };
    let foreign = |pool: &&Pool| pool.is_foreign(&home);
    if let Some(pool) = xen.pools.iter().filter(foreign).find(|pool| pool.name == GUESTS)
        && service.dedicate == Dedicate::Pool
    {
        let (pool, scheduler) = (pool.name.clone(), pool.scheduler.clone());
        return Err(Refusal::Scheduler { pool, scheduler });
    }
    // Seen with Xen 4.20: `xl cpupool-cpu-remove Pool-0 0` says that it is done, and nothing is.
    let keeps_first = xen.pool(&home).is_some_and(|pool| pool.cpus.contains(0));
    if keeps_first && service.dedicate == Dedicate::Pool && !service.service.contains(0) {
        let service = service.service.clone();
        return Err(Refusal::FirstCpu { home, service });
    }
    let mut xen = xen.clone();
    xen.topology.cpus.retain(|cpu| !taken.contains(cpu.cpu));
    xen.pools.retain(|pool| !foreign(&pool));
    let mut moves = Moves { xen, steps: Vec::new() };
    moves.vcpus(service);
    moves.memory(service);
    let settled = moves.xen.pools.iter().all(|pool| pool.cpus == wanted(&pool.name))
        && (service.dedicate != Dedicate::Pool || moves.xen.pool(GUESTS).is_some());
    if !settled {
        moves.foreign(ours, &wanted)?;
        moves.unpin(ours, &home, &wanted);
        // Without dedication the guests leave before their pool loses its last CPU.
        if service.dedicate != Dedicate::Pool {
            moves.migrate(ours, &home);
        }
        moves.cpus(&home, &wanted);
        if let Some(pool) = moves.xen.pools.iter().find(|pool| pool.cpus != wanted(&pool.name)) {
            let (pool, cpus) = (pool.name.clone(), pool.cpus.clone());
            return Err(Refusal::Stuck { pool, cpus });
        }
    }
    if service.dedicate == Dedicate::Pool {
        moves.migrate(ours, GUESTS);
    }
    moves.pin(service);
    Ok(moves.steps)
}

/// Facts that follow the steps as they are planned.
struct Moves {
    xen: Xen,
    steps: Vec<PoolStep>,
}

impl Moves {
    fn step(&mut self, step: PoolStep) {
        self.xen.after(&step);
        self.steps.push(step);
    }

    /// As many virtual CPUs for the service domain as it was booted with and should have.
    fn vcpus(&mut self, service: &ServicePlan) {
        let Some(domain) = self.xen.domains.iter().find(|domain| domain.id == 0) else { return };
        let online = domain.vcpus.iter().filter(|vcpu| vcpu.online).count();
        let count = domain.vcpus.len().min(service.service.len());
        if count > 0 && online != count {
            self.step(PoolStep::Vcpus { count: count as u32 });
        }
    }

    /// Memory that the service domain has beyond its own, for guests. Giving it more is Xen's
    /// matter, at the next boot.
    fn memory(&mut self, service: &ServicePlan) {
        let dom0 = self.xen.domains.iter().find(|domain| domain.id == 0);
        let had = dom0.map_or(Size::ZERO, |domain| domain.memory);
        // xl and the balloon driver round.
        if had.mib() > service.memory.mib() + 8 {
            self.step(PoolStep::Memory { size: service.memory });
        }
    }

    /// Refuses when a domain of somebody else is pinned to CPUs that its pool is to lose. Those in
    /// other people's pools are in nobody's way.
    fn foreign(&self, ours: &[String], wanted: &impl Fn(&str) -> CpuSet) -> Result<(), Refusal> {
        let theirs = |it: &&Domain| {
            it.id != 0 && !ours.contains(&it.name) && self.xen.pool(&it.pool).is_some()
        };
        for domain in self.xen.domains.iter().filter(theirs) {
            let pins = domain.vcpus.iter().filter_map(|vcpu| vcpu.hard.as_ref());
            if let Some(pin) =
                pins.into_iter().find(|pin| pin.and(&wanted(&domain.pool)).is_empty())
            {
                let (domain, cpus) = (domain.name.clone(), pin.clone());
                return Err(Refusal::ForeignPin { domain, cpus });
            }
        }
        Ok(())
    }

    /// Takes away the pins that would hold a CPU back in its pool.
    fn unpin(&mut self, ours: &[String], home: &str, wanted: &impl Fn(&str) -> CpuSet) {
        let mut held = Vec::new();
        for domain in self.xen.domains.iter().filter(|it| it.id == 0 || ours.contains(&it.name)) {
            let to = if domain.id == 0 { home } else { domain.pool.as_str() };
            for vcpu in &domain.vcpus {
                if vcpu.hard.as_ref().is_some_and(|hard| !hard.is_subset(&wanted(to))) {
                    held.push((domain.name.clone(), vcpu.vcpu));
                }
            }
        }
        for (domain, vcpu) in held {
            self.step(PoolStep::Pin { domain, vcpu, cpus: None });
        }
    }

    /// Moves CPUs until every pool has its own, and none is without a CPU in between.
    fn cpus(&mut self, home: &str, wanted: &impl Fn(&str) -> CpuSet) {
        loop {
            let free = self.xen.topology.all().without(&self.xen.pooled());
            for pool in [home, GUESTS] {
                self.fill(pool, &free.and(&wanted(pool)));
            }
            let from = [home, GUESTS].into_iter().find_map(|name| {
                let pool = self.xen.pool(name)?;
                let astray = pool.cpus.without(&wanted(name));
                // A pool may be left without a CPU only when no domain is in it.
                let last = astray == pool.cpus && self.xen.domains.iter().any(|it| it.pool == name);
                let moved = if last { astray.iter().skip(1).collect() } else { astray };
                (!moved.is_empty()).then(|| (name.to_owned(), moved))
            });
            let Some((pool, cpus)) = from else { break };
            self.step(PoolStep::Remove { pool, cpus });
        }
    }

    fn fill(&mut self, pool: &str, cpus: &CpuSet) {
        if cpus.is_empty() {
            return;
        }
        let (name, cpus) = (pool.to_owned(), cpus.clone());
        self.step(match self.xen.pool(pool) {
            Some(_) => PoolStep::Add { pool: name, cpus },
            None => PoolStep::Create { pool: name, cpus },
        });
    }

    fn migrate(&mut self, domains: &[String], pool: &str) {
        let stray = |domain: &&Domain| domains.contains(&domain.name) && domain.pool != pool;
        let names: Vec<String> =
            self.xen.domains.iter().filter(stray).map(|domain| domain.name.clone()).collect();
        for domain in names {
            self.step(PoolStep::Migrate { domain, pool: pool.to_owned() });
        }
    }

    /// Puts the service domain's pins back.
    fn pin(&mut self, service: &ServicePlan) {
        let Some(domain) = self.xen.domains.iter().find(|domain| domain.id == 0) else { return };
        let online = domain.vcpus.iter().filter(|vcpu| vcpu.online);
        let wrong: Vec<u32> = online
            .filter(|vcpu| vcpu.hard != service.pin(vcpu.vcpu))
            .map(|vcpu| vcpu.vcpu)
            .collect();
        for vcpu in wrong {
            let domain = SERVICE.to_owned();
            self.step(PoolStep::Pin { domain, vcpu, cpus: service.pin(vcpu) });
        }
    }
}
