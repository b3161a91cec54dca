//! How Xen is to start on a node, from what the node should be and what its RAM system saw. Pure.

use protocol::Inventory;
use xen_config::{
    CommandLine, CpuSet, Desired, Refusal, Size, Topology, boot, pci, service,
    topology::{Cpu, Node},
};

/// The fragment of GRUB's configuration for a node like `inventory`.
///
/// # Errors
/// When the service domain cannot be as `desired` on that machine.
pub fn fragment(desired: &Desired, inventory: &Inventory) -> Result<String, Refusal> {
    let topology = topology(inventory);
    let plan = service::plan(&desired.service, &topology, &near(inventory), &CpuSet::default())?;
    let line = CommandLine::of_xen(&desired.xen, &plan, &topology.node_numbers());
    Ok(boot::fragment(&line, &desired.xen))
}

/// The machine as Xen will number it: node by node, and the threads of a core side by side (Linux,
/// which made the inventory, numbers the second threads last). Once Xen runs, its own numbers
/// count: where they differ, the agent says that a reboot is needed.
fn topology(inventory: &Inventory) -> Topology {
    let cpu = &inventory.cpu;
    let threads = (cpu.threads / cpu.cores.max(1)).max(1);
    let mut nodes: Vec<(u32, u32)> = Vec::new();
    for node in &inventory.numa {
        let count = node.cpus.parse::<CpuSet>().map_or(0, |cpus| cpus.len() as u32);
        nodes.push((node.id, count));
    }
    if nodes.iter().map(|(_, count)| count).sum::<u32>() != cpu.threads {
        nodes = vec![(0, cpu.threads.max(1))];
    }
    let mut cpus = Vec::new();
    for (node, count) in nodes {
        for at in 0..count {
            let (number, core) = (cpus.len() as u32, at / threads);
            cpus.push(Cpu { cpu: number, core, socket: node, node });
        }
    }
    let size = |bytes| Size::of_bytes(bytes);
    let of_node = |node: &protocol::inventory::NumaNode| {
        let memory = size(node.memory);
        Node { node: node.id, memory, free: memory }
    };
    let memory = size(inventory.memory);
    Topology { cpus, nodes: inventory.numa.iter().map(of_node).collect(), memory, free: memory }
}

/// NUMA nodes of NICs and HCAs.
fn near(inventory: &Inventory) -> Vec<u32> {
    pci::near(inventory.pci.iter().map(|device| (device.class.as_str(), device.numa)))
}

#[cfg(test)]
mod tests {
    use protocol::inventory::{Cpu, Nic, NumaNode, PciDevice};

    use super::*;

    /// Two sockets of four cores with two threads each, as Linux numbers them.
    fn inventory() -> Inventory {
        let node = |id, cpus: &str| NumaNode { id, memory: 16 << 30, cpus: cpus.to_owned() };
        let nic = Nic {
            name: "eth0".into(),
            mac: "52:54:00:77:00:01".into(),
            driver: None,
            link: true,
            speed: None,
            pci: Some("0000:81:00.0".into()),
            boot: true,
        };
        let device = |address: &str, class: &str, numa| PciDevice {
            address: address.into(),
            id: "8086:1533".into(),
            class: class.into(),
            driver: None,
            numa: Some(numa),
        };
        Inventory {
            cpu: Cpu { model: "x".into(), sockets: 2, cores: 8, threads: 16 },
            memory: 32 << 30,
            numa: vec![node(0, "0-3,8-11"), node(1, "4-7,12-15")],
            nics: vec![nic],
            pci: vec![device("0000:01:00.0", "010802", 0), device("0000:81:00.0", "020000", 1)],
            ..Inventory::default()
        }
    }

    fn line(desired: &str, inventory: &Inventory) -> String {
        let desired = Desired::from_toml(desired).unwrap();
        let fragment = fragment(&desired, inventory).unwrap();
        let line = fragment.lines().find_map(|line| line.strip_prefix("set xen_line=\"")).unwrap();
        line.trim_end_matches('"').to_owned()
    }

    #[test]
    fn the_service_domain_is_near_the_nic() {
        let line = line("[service]\ncpus = 4\nmemory = \"2GiB\"", &inventory());
        assert!(line.contains("dom0_mem=2048M,max:2048M dom0_max_vcpus=4 dom0_nodes=1"), "{line}");
    }

    #[test]
    fn a_machine_of_one_node_pins() {
        let small = Inventory {
            cpu: Cpu { model: "x".into(), sockets: 1, cores: 2, threads: 2 },
            memory: 2 << 30,
            ..Inventory::default()
        };
        assert!(line("", &small).ends_with("dom0_max_vcpus=1 dom0_vcpus_pin"));
    }

    #[test]
    fn what_the_machine_has_not_is_refused() {
        let desired = Desired::from_toml("[service]\ncpus = 64").unwrap();
        assert!(fragment(&desired, &inventory()).is_err());
        assert!(fragment(&Desired::default(), &Inventory::default()).is_ok());
    }
}
