//! CPU pools: what there is, and what one step changes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{CpuSet, Size, Xen};

/// A pool as probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its scheduler, `credit2`.
    pub scheduler: String,
    /// Its CPUs.
    pub cpus: CpuSet,
}

/// One change of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolStep {
    /// Takes CPUs out of a pool; they are in none then.
    Remove {
        /// The pool.
        pool: String,
        /// What is taken.
        cpus: CpuSet,
    },
    /// Makes a pool of CPUs that are in none.
    Create {
        /// The pool.
        pool: String,
        /// Its first CPUs.
        cpus: CpuSet,
    },
    /// Puts CPUs that are in none into a pool.
    Add {
        /// The pool.
        pool: String,
        /// What is put in.
        cpus: CpuSet,
    },
    /// Moves a domain into a pool; its pins are gone then.
    Migrate {
        /// The domain's name.
        domain: String,
        /// The pool.
        pool: String,
    },
    /// Keeps a virtual CPU of a domain on CPUs of its pool; nowhere in particular for `None`.
    Pin {
        /// The domain's name.
        domain: String,
        /// Its virtual CPU.
        vcpu: u32,
        /// The CPUs.
        cpus: Option<CpuSet>,
    },
    /// Gives the service domain so many virtual CPUs.
    Vcpus {
        /// How many.
        count: u32,
    },
    /// Takes memory from the service domain, which had it while nobody else wanted it.
    Memory {
        /// What is left to it.
        size: Size,
    },
}

impl fmt::Display for PoolStep {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolStep::Remove { pool, cpus } => write!(out, "take CPUs {cpus} out of pool {pool}"),
            PoolStep::Create { pool, cpus } => write!(out, "make pool {pool} of CPUs {cpus}"),
            PoolStep::Add { pool, cpus } => write!(out, "put CPUs {cpus} into pool {pool}"),
            PoolStep::Migrate { domain, pool } => write!(out, "move {domain} into pool {pool}"),
            PoolStep::Pin { domain, vcpu, cpus: Some(cpus) } => {
                write!(out, "pin virtual CPU {vcpu} of {domain} to CPUs {cpus}")
            }
            PoolStep::Pin { domain, vcpu, cpus: None } => {
                write!(out, "unpin virtual CPU {vcpu} of {domain}")
            }
            PoolStep::Vcpus { count } => {
                write!(out, "give the service domain {count} virtual CPUs")
            }
            PoolStep::Memory { size } => {
                write!(out, "leave {size} of memory to the service domain")
            }
        }
    }
}

/// The pool that guests get.
pub const GUESTS: &str = "guests";

/// The scheduler of that pool.
pub const SCHEDULER: &str = "credit2";

/// The name of the domain that is the service domain.
pub const SERVICE: &str = "Domain-0";

/// A table of xl that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`xl cpupool-list` printed a line that is no pool: {line:?}")]
pub struct PoolError {
    line: String,
}

/// Reads what `xl cpupool-list` and `xl cpupool-list -c` printed.
///
/// # Errors
/// A line that is no row.
pub fn parse(list: &str, cpus: &str) -> Result<Vec<Pool>, PoolError> {
    let mut pools = Vec::new();
    for line in list.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let wrong = || PoolError { line: line.to_owned() };
        let [.., _count, scheduler, _active, _domains] =
            line.split_whitespace().collect::<Vec<_>>()[..]
        else {
            return Err(wrong());
        };
        let end = line.rfind(scheduler).ok_or_else(wrong)?;
        let front = line[..end].trim_end().trim_end_matches(|letter: char| letter.is_ascii_digit());
        let name = front.trim().to_owned();
        // The list of a pool without CPUs is empty.
        let row = cpus.lines().skip(1).find_map(|row| row.strip_prefix(name.as_str()));
        let cpus = row.unwrap_or_default().trim().parse().map_err(|_| wrong())?;
        pools.push(Pool { name, scheduler: scheduler.to_owned(), cpus });
    }
    Ok(pools)
}

impl Pool {
    /// Whether it is neither the service domain's, `home`, nor the one that billet gives to guests.
    pub fn is_foreign(&self, home: &str) -> bool {
        self.name != home && (self.name != GUESTS || self.scheduler != SCHEDULER)
    }
}

/// The service domain's pool, whatever its name.
pub fn home(xen: &Xen) -> String {
    let service = xen.domains.iter().find(|domain| domain.id == 0);
    service.map_or_else(|| "Pool-0".to_owned(), |domain| domain.pool.clone())
}

impl Xen {
    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// CPUs in pools of somebody else, which billet leaves alone.
    pub fn taken(&self) -> CpuSet {
        let home = home(self);
        let foreign = self.pools.iter().filter(|pool| pool.is_foreign(&home));
        foreign.fold(CpuSet::default(), |all, pool| all.or(&pool.cpus))
    }

    /// CPUs that are in some pool.
    pub(crate) fn pooled(&self) -> CpuSet {
        self.pools.iter().fold(CpuSet::default(), |all, pool| all.or(&pool.cpus))
    }

    /// What these facts are after `step`.
    pub fn after(&mut self, step: &PoolStep) {
        match step {
            PoolStep::Remove { pool, cpus } => self.repool(pool, |had| had.without(cpus)),
            PoolStep::Add { pool, cpus } => self.repool(pool, |had| had.or(cpus)),
            PoolStep::Create { pool, cpus } => {
                let (name, scheduler) = (pool.clone(), SCHEDULER.to_owned());
                self.pools.push(Pool { name, scheduler, cpus: cpus.clone() });
            }
            PoolStep::Migrate { domain, pool } => {
                for found in self.domains.iter_mut().filter(|found| found.name == *domain) {
                    found.pool = pool.clone();
                    found.vcpus.iter_mut().for_each(|vcpu| vcpu.hard = None);
                }
            }
            PoolStep::Pin { domain, vcpu, cpus } => {
                let found = self.domains.iter_mut().filter(|found| found.name == *domain);
                let vcpus = found.flat_map(|found| &mut found.vcpus);
                for one in vcpus.filter(|one| one.vcpu == *vcpu) {
                    one.hard = cpus.clone();
                }
            }
            PoolStep::Vcpus { count } => {
                let service = self.domains.iter_mut().filter(|domain| domain.id == 0);
                for vcpu in service.flat_map(|domain| &mut domain.vcpus) {
                    vcpu.online = vcpu.vcpu < *count;
                }
            }
            PoolStep::Memory { size } => {
                for domain in self.domains.iter_mut().filter(|domain| domain.id == 0) {
                    let given = domain.memory.without(*size);
                    self.topology.free = self.topology.free.and(given);
                    domain.memory = *size;
                }
            }
        }
    }

    fn repool(&mut self, name: &str, change: impl Fn(&CpuSet) -> CpuSet) {
        for pool in self.pools.iter_mut().filter(|pool| pool.name == name) {
            pool.cpus = change(&pool.cpus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pool() {
        let pools = parse(
            include_str!("../tests/captures/xl-cpupool-list.txt"),
            include_str!("../tests/captures/xl-cpupool-list-c.txt"),
        );
        let cpus = CpuSet::first(4);
        let pool = Pool { name: "Pool-0".into(), scheduler: "credit2".into(), cpus };
        assert_eq!(pools.unwrap(), [pool]);
    }

    #[test]
    fn two_pools_and_an_empty_one() {
        let list = include_str!("../tests/captures/numa-cpupool-list-3.txt");
        let cpus = include_str!("../tests/captures/numa-cpupool-list-2.txt");
        let list = format!("{list}guests  0   credit2       y          0\n");
        let pools = parse(&list, &format!("{cpus}guests\n")).unwrap();
        let each: Vec<String> =
            pools.iter().map(|pool| format!("{} {}", pool.name, pool.cpus)).collect();
        assert_eq!(each, ["Pool-node0 0-1", "Pool-node1 2-3", "guests "]);
        assert!(parse("Name\nnonsense\n", "").is_err());
    }
}
