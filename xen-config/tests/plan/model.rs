//! A node on which steps happen at once and as they should; a step that Xen would refuse panics.

use xen_config::{
    CpuSet, Desired, Host, Size, Step, Topology, Xen,
    domain::Boot,
    guest_step::{Change, GuestStep},
    list::{Domain, State, Vcpu},
    made::{Made, MadeDisk, MadeNic},
    pci::PciAddress,
    pool::{Pool, PoolStep},
};

pub(crate) struct Node {
    pub(crate) host: Host,
}

const NODE: &str = "r1n3";

impl Node {
    /// Xen just booted: one pool, one domain with `vcpus` virtual CPUs, unpinned.
    pub(crate) fn booted(cpus: u32, nodes: u32, vcpus: u32) -> Node {
        let mut topology = Topology::even(cpus, 1, nodes, Size::of_mib(8192));
        topology.free = Size::of_mib(7000);
        let pool =
            Pool { name: "Pool-0".into(), scheduler: "credit2".into(), cpus: topology.all() };
        let dom0 = Domain { vcpus: vcpus_of(vcpus), ..domain(0, "Domain-0", 1024) };
        let xen = Xen { topology, pools: vec![pool], domains: vec![dom0], ..Xen::default() };
        Node { host: Host { node: NODE.into(), xen: Some(xen), ..Host::default() } }
    }

    pub(crate) fn xen(&mut self) -> &mut Xen {
        self.host.xen.as_mut().unwrap()
    }

    pub(crate) fn domain(&mut self, name: &str) -> &mut Domain {
        let named = self.xen().domains.iter_mut().find(|domain| domain.name == name);
        named.unwrap_or_else(|| panic!("no domain {name}"))
    }

    pub(crate) fn has(&mut self, name: &str) -> bool {
        self.xen().domains.iter().any(|domain| domain.name == name)
    }

    pub(crate) fn apply(&mut self, step: &Step, desired: &Desired) {
        match step {
            Step::Pool(step) => {
                self.check(step);
                self.xen().after(step);
            }
            Step::Irq(step) => self.host.irqs.after(step),
            Step::Guest(step) => self.guest(step, desired),
            Step::Fragment { text } => self.host.fragment = Some(text.clone()),
            Step::Link(_) => {}
            Step::Slice(step) => self.slice(step),
        }
    }

    /// What Xen refuses.
    fn check(&mut self, step: &PoolStep) {
        let xen = self.xen().clone();
        let pooled = xen.pools.iter().fold(CpuSet::default(), |all, pool| all.or(&pool.cpus));
        match step {
            PoolStep::Remove { pool, cpus } => {
                let left = xen.pool(pool).unwrap().cpus.without(cpus);
                let members = xen.domains.iter().filter(|domain| domain.pool == *pool);
                let vcpus: Vec<Vcpu> = members.flat_map(|domain| domain.vcpus.clone()).collect();
                assert!(!left.is_empty() || vcpus.is_empty(), "{step}: its last CPU");
                let held =
                    |vcpu: &Vcpu| vcpu.hard.as_ref().is_some_and(|it| it.and(&left).is_empty());
                assert!(!vcpus.iter().any(held), "{step}: Cannot assign requested address");
            }
            PoolStep::Create { pool, cpus } => {
                assert!(xen.pool(pool).is_none() && cpus.and(&pooled).is_empty(), "{step}");
            }
            PoolStep::Add { pool, cpus } => {
                assert!(xen.pool(pool).is_some() && cpus.and(&pooled).is_empty(), "{step}");
            }
            PoolStep::Migrate { pool, domain } => {
                assert!(domain != "Domain-0" && !xen.pool(pool).unwrap().cpus.is_empty(), "{step}");
            }
            PoolStep::Pin { domain, cpus: Some(cpus), .. } => {
                let pool = self.domain(domain).pool.clone();
                assert!(!cpus.and(&xen.pool(&pool).unwrap().cpus).is_empty(), "{step}");
            }
            PoolStep::Pin { .. } | PoolStep::Vcpus { .. } | PoolStep::Memory { .. } => {}
        }
    }

    fn guest(&mut self, step: &GuestStep, desired: &Desired) {
        let name = step.guest.as_str();
        match &step.change {
            Change::Create { config } | Change::Restore { config } => {
                assert!(!self.has(name), "{step}: it is there");
                self.create(name, config, desired);
            }
            Change::Forget => self.host.saved.retain(|saved| saved.as_str() != name),
            Change::Save => {
                self.xen().domains.retain(|domain| domain.name != name);
                self.host.saved.push(step.guest.clone());
            }
            Change::Shutdown { .. } => self.xen().domains.retain(|domain| domain.name != name),
            Change::Clear { ending } => {
                self.xen().domains.retain(|domain| domain.name != name);
                let ended = xen_config::host::Ended {
                    guest: step.guest.clone(),
                    ending: *ending,
                    wait: false,
                };
                self.host.ended.push(ended);
            }
            Change::Unpause => self.domain(name).state.paused = false,
            Change::Pause => self.domain(name).state.paused = true,
            Change::Assign { device } => self.xen().assignable.push(device.clone()),
            Change::PlugPci { device } => {
                self.check_function(device);
                let made = self.domain(name).made.as_mut().unwrap();
                assert!(!made.pci.contains(device), "{step}: it has it");
                made.pci.push(device.clone());
            }
            change => live(self.domain(name).made.as_mut().unwrap(), change),
        }
    }

    fn create(&mut self, name: &str, config: &str, desired: &Desired) {
        let guest = desired.guests.iter().find(|guest| guest.name.as_str() == name).unwrap();
        let macs: Vec<&str> = config.split("mac=").skip(1).map(|rest| &rest[..17]).collect();
        let nics = guest.nics.iter().zip(macs).zip(0..).map(|((nic, mac), number)| MadeNic {
            number,
            mac: mac.parse().unwrap(),
            bridge: nic.bridge.clone(),
            rate: nic.rate.map(|rate| rate.share()),
            vlan: None,
        });
        let disks = guest.disks.iter().map(|disk| MadeDisk {
            path: disk.path.to_string(),
            device: disk.device.as_str().to_owned(),
            format: Some(disk.format),
            readonly: disk.readonly,
        });
        let functions: Vec<PciAddress> = setting(config, "pci")
            .map(|list| list.split('"').skip(1).step_by(2).map(|it| it.parse().unwrap()).collect())
            .unwrap_or_default();
        functions.iter().for_each(|function| self.check_function(function));
        let (kernel, ramdisk, line) = match &guest.boot {
            Boot::Kernel { path, ramdisk, line } => (
                Some(path.to_string()),
                ramdisk.as_ref().map(ToString::to_string),
                line.to_string(),
            ),
            _ => (None, None, String::new()),
        };
        let made = Made {
            kind: guest.kind,
            kernel,
            ramdisk,
            line,
            loader: None,
            most_vcpus: guest.most_vcpus(),
            vcpus: guest.vcpus,
            most_memory: guest.most_memory(),
            memory: guest.memory,
            weight: guest.weight.into(),
            cap: guest.cap.into(),
            disks: disks.collect(),
            nics: nics.collect(),
            pci: functions.clone(),
        };
        let pins = setting(config, "cpus").map(|list| {
            list.split('"')
                .skip(1)
                .step_by(2)
                .map(|cpus| cpus.parse().unwrap())
                .collect::<Vec<CpuSet>>()
        });
        let mut vcpus = vcpus_of(guest.most_vcpus());
        for vcpu in &mut vcpus {
            vcpu.hard = pins.as_ref().map(|pins| pins[vcpu.vcpu as usize].clone());
        }
        let pool = setting(config, "pool")
            .map_or("Pool-0".into(), |pool| pool.trim_matches('"').to_owned());
        assert!(self.xen().pool(&pool).is_some(), "no pool {pool}");
        let id = self.xen().domains.iter().map(|domain| domain.id).max().unwrap() + 1;
        let state = State { paused: true, ..State::default() };
        let uuid = guest.name.uuid(NODE);
        let domain = domain(id, name, guest.memory.mib());
        self.xen().domains.push(Domain { uuid, state, pool, vcpus, made: Some(made), ..domain });
    }
}

fn setting<'a>(config: &'a str, key: &str) -> Option<&'a str> {
    config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))
}

fn live(made: &mut Made, change: &Change) {
    match change {
        Change::Weight { weight, cap } => {
            (made.weight, made.cap) = ((*weight).into(), (*cap).into());
        }
        Change::Memory { size } => made.memory = *size,
        Change::Vcpus { count } => made.vcpus = *count,
        Change::PullNic { number } => made.nics.retain(|nic| nic.number != *number),
        Change::PlugNic { mac, words } => {
            let bridge = words[1].trim_start_matches("bridge=").to_owned();
            let number = made.nics.iter().map(|nic| nic.number + 1).max().unwrap_or(0);
            made.nics.push(MadeNic { number, mac: mac.clone(), bridge, rate: None, vlan: None });
        }
        Change::Rate { number, rate } => {
            let nic = made.nics.iter_mut().find(|nic| nic.number == *number).unwrap();
            nic.rate = rate.map(|rate| rate.share());
        }
        Change::Vlan { mac, vlan } => {
            let nic = made.nics.iter_mut().find(|nic| nic.mac == *mac).unwrap();
            nic.vlan = Some(vlan.number());
        }
        Change::PullDisk { device } => made.disks.retain(|disk| disk.device != *device),
        Change::PlugDisk { disk } => {
            let of =
                |key: &str| disk.split_once(key).unwrap().1.split(',').next().unwrap().to_owned();
            let readonly = of("access=") == "ro";
            let (path, device) = (of("target="), of("vdev="));
            made.disks.push(MadeDisk { path, device, format: None, readonly });
        }
        Change::PullPci { device } => made.pci.retain(|had| had != device),
        other => panic!("{other:?} is not a change of a live guest"),
    }
}

pub(crate) fn domain(id: u32, name: &str, mib: u64) -> Domain {
    Domain {
        id,
        name: name.into(),
        uuid: "00000000-0000-0000-0000-000000000000".into(),
        state: State::default(),
        ended: None,
        memory: Size::of_mib(mib),
        time: 0,
        pool: "Pool-0".into(),
        vcpus: Vec::new(),
        made: None,
    }
}

pub(crate) fn vcpus_of(count: u32) -> Vec<Vcpu> {
    (0..count).map(|vcpu| Vcpu { vcpu, online: true, hard: None }).collect()
}
