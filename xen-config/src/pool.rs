//! CPU pools: what there is, and the steps that give guests a pool of their own.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::CpuSet;

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
        }
    }
}
