//! What a machine is made of: CPUs in cores, sockets and NUMA nodes, and its memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{CpuSet, Size, pci::PciAddress};

/// The NUMA nodes of PCI functions, as `xl info -n` tells them. dom0's own sysfs does not: Linux
/// leaves NUMA off in a PV domain, and hands what the firmware says on to Xen.
pub fn devices(info: &str) -> BTreeMap<PciAddress, u32> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    info.lines().skip_while(|line| !line.starts_with("device topology")).filter_map(row).collect()
}

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

impl Topology {
    /// A machine of which only numbers are known, as an inventory has them: CPUs are taken to
    /// be dealt to the NUMA nodes in order, `threads` of them to a core.
    pub fn even(cpus: u32, threads: u32, nodes: u32, memory: Size) -> Topology {
        let (threads, nodes) = (threads.max(1), nodes.clamp(1, cpus.max(1)));
        let share = cpus.div_ceil(nodes).max(1);
        let cpu = |cpu: u32| Cpu { cpu, core: cpu / threads, socket: 0, node: cpu / share };
        let node_memory = Size::of_bytes(memory.bytes() / u64::from(nodes));
        let node = |node| Node { node, memory: node_memory, free: node_memory };
        Topology {
            cpus: (0..cpus).map(cpu).collect(),
            nodes: (0..nodes).map(node).collect(),
            memory,
            free: memory,
        }
    }

    /// Reads `xl info -n`; lines that are not about CPUs and memory are passed over.
    pub fn parse(info: &str) -> Topology {
        let mut topology = Topology::default();
        // Rows of both tables look alike: `0: 0 0 0`.
        let mut table = "";
        for line in info.lines() {
            let (key, value) = line.split_once(':').unwrap_or_default();
            let key = key.trim();
            let numbers: Vec<u32> =
                value.split_whitespace().map_while(|word| word.parse().ok()).collect();
            let mib =
                |at: usize| numbers.get(at).map_or(Size::ZERO, |mib| Size::of_mib((*mib).into()));
            match (key, key.parse(), &numbers[..]) {
                ("total_memory", ..) => topology.memory = mib(0),
                ("free_memory", ..) => topology.free = mib(0),
                (_, Ok(cpu), &[core, socket, node]) if table == "cpu" => {
                    topology.cpus.push(Cpu { cpu, core, socket, node });
                }
                (_, Ok(node), &[_, _, ..]) if table == "node" => {
                    topology.nodes.push(Node { node, memory: mib(0), free: mib(1) });
                }
                (_, Ok(_), _) => {}
                (title, ..) => table = title,
            }
        }
        topology
    }

    /// All CPUs.
    pub fn all(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.cpu).collect()
    }

    /// The CPUs of each core, cores in the order of their first CPU, of NUMA node `node`.
    pub fn cores(&self, node: u32) -> Vec<CpuSet> {
        let mut cores: BTreeMap<(u32, u32), CpuSet> = BTreeMap::new();
        for cpu in self.cpus.iter().filter(|cpu| cpu.node == node) {
            cores.entry((cpu.socket, cpu.core)).or_default().insert(cpu.cpu);
        }
        let mut cores: Vec<CpuSet> = cores.into_values().collect();
        cores.sort();
        cores
    }

    /// Numbers of all NUMA nodes that have CPUs.
    pub fn node_numbers(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.node).collect()
    }

    /// How many threads the widest core has; at least one.
    pub fn threads(&self) -> u32 {
        let cores =
            self.node_numbers().iter().flat_map(|node| self.cores(node)).collect::<Vec<_>>();
        cores.iter().map(CpuSet::len).max().unwrap_or(1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_of_one_node() {
        let topology = Topology::parse(include_str!("../tests/captures/xl-info-n.txt"));
        assert_eq!(topology.all().to_string(), "0-3");
        assert_eq!(topology.nodes.len(), 1);
        assert_eq!(topology.memory, Size::of_mib(2047));
        assert_eq!(topology.free, Size::of_mib(1512));
        assert_eq!(topology.threads(), 1);
    }

    #[test]
    fn a_machine_of_two_nodes() {
        let topology = Topology::parse(include_str!("../tests/captures/numa-xl-info-n.txt"));
        assert_eq!(topology.cores(1), [CpuSet::one(2), CpuSet::one(3)]);
        let nodes: Vec<Size> = topology.nodes.iter().map(|node| node.memory).collect();
        assert_eq!(nodes, [Size::of_mib(1024), Size::of_mib(1023)]);
    }

    #[test]
    fn functions_have_nodes_where_the_firmware_says() {
        let info = include_str!("../tests/captures/numa-xl-info-n.txt");
        assert_eq!(devices(info), BTreeMap::new());
        let rows = "0000:00:02.0      0\n0000:81:00.0      1\n";
        let info = info.replace("No device topology data available\n", rows);
        let nodes: Vec<(String, u32)> =
            devices(&info).into_iter().map(|(at, node)| (at.to_string(), node)).collect();
        assert_eq!(nodes, [("0000:00:02.0".into(), 0), ("0000:81:00.0".into(), 1)]);
        assert_eq!(Topology::parse(&info).nodes.len(), 2);
    }

    #[test]
    fn threads_share_a_core_of_their_socket() {
        // Numbered as most firmware does: first all cores, then their second threads.
        let rows = "cpu: core socket node\n0: 0 0 0\n1: 1 0 0\n2: 0 1 1\n3: 1 1 1\n4: 0 0 0\n5: 1 0 0\n6: 0 1 1\n7: 1 1 1";
        let topology = Topology::parse(rows);
        let cores: Vec<String> = topology.cores(0).iter().map(CpuSet::to_string).collect();
        assert_eq!(cores, ["0,4", "1,5"]);
        assert_eq!(topology.threads(), 2);
    }

    #[test]
    fn an_even_machine() {
        let topology = Topology::even(8, 2, 2, Size::of_mib(4096));
        assert_eq!(topology.cores(1).len(), 2);
        assert_eq!(Topology::even(0, 0, 0, Size::ZERO).all(), CpuSet::default());
    }
}
