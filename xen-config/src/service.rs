//! The service domain's CPUs: how many, which ones, and what is left for guests.

use serde::{Deserialize, Serialize};

use crate::{CpuSet, Size};

/// `[service]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceWish {
    /// So many CPUs; one for every eight, in whole cores, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// These CPUs; near the NICs and HCAs when absent.
    #[serde(deserialize_with = "crate::cpus::some", skip_serializing_if = "Option::is_none")]
    pub place: Option<CpuSet>,
    /// Its memory; 1 GiB and a sixteenth of what is above 16 GiB when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// How guests are kept off its CPUs; by a pool where the machine has two cores, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedicate: Option<Dedicate>,
    /// Its own virtual CPUs that take interrupts; all when absent.
    #[serde(deserialize_with = "crate::cpus::some", skip_serializing_if = "Option::is_none")]
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
