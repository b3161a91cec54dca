//! What a machine is made of: CPUs in cores, sockets and NUMA nodes, and its memory.

use serde::{Deserialize, Serialize};

use crate::Size;

/// CPUs and memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// All CPUs, by number.
    pub cpus: Vec<Cpu>,
    /// All NUMA nodes, by number.
    pub nodes: Vec<Node>,
    /// All memory.
    pub memory: Size,
    /// Memory that no domain has.
    pub free: Size,
}

/// One CPU (a hardware thread).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Its number.
    pub cpu: u32,
    /// Its core, numbered within its socket.
    pub core: u32,
    /// Its socket.
    pub socket: u32,
    /// Its NUMA node.
    pub node: u32,
}

/// One NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub node: u32,
    /// Its memory.
    pub memory: Size,
    /// What of it no domain has.
    pub free: Size,
}
