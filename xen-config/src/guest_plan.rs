//! From guests as they are to guests as they should be.

use crate::{
    CpuSet, Host, Name, Step, Xen,
    domain::{Boot, Guest, Restart, Wanted},
    guest_step::{Change, GuestStep},
    list::{Domain, Ending},
    made::{Made, MadeNic},
    nic::Mac,
    pci::PciAddress,
    pool::{self, PoolStep},
    service::{Dedicate, ServicePlan},
    slice_plan::SlicePlan,
    xl::{self, Place},
};

/// How long a guest that is no longer wanted may take to shut down, in seconds.
const PATIENCE: u32 = 60;

/// A node on which guests are planned: its facts, and who runs where on it.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// All facts.
    pub host: &'a Host,
    /// The hypervisor's facts, as they are once the pools are right.
    pub xen: &'a Xen,
    /// Who runs where.
    pub service: &'a ServicePlan,
    /// What slices bring with them.
    pub slices: &'a SlicePlan,
}

/// What is to be done for guests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestPlan {
    /// What ends or vanishes: it comes first and makes room.
    pub stops: Vec<Step>,
    /// What changes and starts.
    pub steps: Vec<Step>,
    /// What no step can do.
    pub notes: Vec<String>,
}

/// Whether a domain was made by this node's agent: its UUID says so.
pub fn is_ours(domain: &Domain, node: &str) -> bool {
    domain.name.parse().is_ok_and(|name: Name| name.uuid(node) == domain.uuid)
}

/// The steps from the domains of `site` to `guests`, which fit the machine.
pub fn plan(guests: &[Guest], site: Site<'_>) -> GuestPlan {
    let mut plan = GuestPlan::default();
    let named = |name: &str| guests.iter().any(|guest| guest.name.as_str() == name);
    for domain in &site.xen.domains {
        if let (true, Ok(name)) = (is_ours(domain, &site.host.node), domain.name.parse::<Name>())
            && !named(&domain.name)
        {
            plan.end(&name, domain, PATIENCE);
        }
    }
    for guest in guests {
        let domain = site.xen.domains.iter().find(|domain| domain.name == guest.name.as_str());
        match domain {
            Some(domain) if domain.state.dying => {
                plan.notes.push(format!("{} is about to vanish; once more then", guest.name));
            }
            Some(domain) if domain.state.is_up() => plan.live(guest, domain, site),
            Some(domain) => plan.ended(guest, domain, site),
            None => plan.absent(guest, site),
        }
    }
    plan
}

/// What `guest` gets from its node.
pub fn place(guest: &Guest, site: Site<'_>) -> Place {
    let node = &site.host.node;
    let macs = guest.nics.iter().enumerate();
    let derived = |at: usize| guest.name.mac(node, at as u32).parse().ok();
    let pooled = site.service.dedicate == Dedicate::Pool;
    Place {
        uuid: guest.name.uuid(node),
        pool: pooled.then(|| pool::GUESTS.to_owned()),
        pins: pins(guest, site),
        macs: macs.filter_map(|(at, nic)| nic.mac.clone().or_else(|| derived(at))).collect(),
    }
}

/// Where each virtual CPU must run. All CPUs of the machine are the same as no pin, and xl
/// shows them so.
fn pins(guest: &Guest, site: Site<'_>) -> Option<Vec<CpuSet>> {
    let all = site.xen.topology.all();
    let each = |cpus: &CpuSet| vec![cpus.clone(); guest.most_vcpus() as usize];
    let pins = match (&guest.cpus, site.service.dedicate) {
        _ if !guest.pins.is_empty() => guest.pins.clone(),
        (Some(cpus), _) => each(cpus),
        (None, Dedicate::Affinity) => each(&site.service.guests),
        (None, _) => return None,
    };
    (!pins.iter().all(|pin| all.is_subset(pin))).then_some(pins)
}

impl GuestPlan {
    fn step(&mut self, guest: &Name, change: Change) {
        self.steps.push(Step::Guest(GuestStep { guest: guest.clone(), change }));
    }

    fn stop(&mut self, guest: &Name, change: Change) {
        self.stops.push(Step::Guest(GuestStep { guest: guest.clone(), change }));
    }

    /// A domain that should not be.
    fn end(&mut self, guest: &Name, domain: &Domain, seconds: u32) {
        match domain.ended {
            _ if domain.state.dying => {}
            // Somebody is saving it or moving it away right now.
            Some(Ending::Suspend) => {}
            Some(ending) => self.stop(guest, Change::Clear { ending }),
            None if domain.state.crashed => {
                self.stop(guest, Change::Clear { ending: Ending::Crash });
            }
            None => self.stop(guest, Change::Shutdown { seconds }),
        }
    }

    /// A domain that has ended by itself.
    fn ended(&mut self, guest: &Guest, domain: &Domain, site: Site<'_>) {
        let ending = domain.ended.unwrap_or(Ending::Crash);
        if ending == Ending::Suspend {
            self.notes.push(format!("{} is being saved or moved", guest.name));
            return;
        }
        self.stop(&guest.name, Change::Clear { ending });
        if guest.is_up() {
            self.again(guest, ending, site);
        }
    }

    /// No domain.
    fn absent(&mut self, guest: &Guest, site: Site<'_>) {
        if !guest.is_up() {
            return;
        }
        if site.slices.waiting.contains(&guest.name) {
            return;
        }
        match site.host.ended.iter().find(|ended| ended.guest == guest.name) {
            Some(ended) if ended.wait => {
                let (name, ending) = (&guest.name, ended.ending);
                self.notes.push(format!("{name} {ending}, and is started again in a while"));
            }
            Some(ended) => self.again(guest, ended.ending, site),
            None => self.start(guest, site),
        }
    }

    /// A guest that ended by itself: whether it is started again.
    fn again(&mut self, guest: &Guest, ending: Ending, site: Site<'_>) {
        let again = match (guest.restart, ending) {
            (_, Ending::Reboot) | (Restart::Always, _) => true,
            (Restart::OnFailure, ending) => ending != Ending::PowerOff,
            (Restart::Never, _) => false,
        };
        // Said of its slice already: it starts after the next look.
        if again && site.slices.waiting.contains(&guest.name) {
            return;
        }
        if again {
            return self.start(guest, site);
        }
        let (name, restart) = (&guest.name, guest.restart.name());
        self.notes.push(format!("{name} {ending} and stays down: restart = \"{restart}\""));
    }

    fn start(&mut self, guest: &Guest, site: Site<'_>) {
        let place = place(guest, site);
        let name = &guest.name;
        for device in &guest.pci {
            if !site.xen.assignable.contains(device) {
                self.step(name, Change::Assign { device: device.clone() });
            }
        }
        let config = xl::render(guest, &place);
        let saved = site.host.saved.contains(name);
        self.step(name, if saved { Change::Restore { config } } else { Change::Create { config } });
        if saved {
            self.step(name, Change::Forget);
        }
        for (nic, mac) in guest.nics.iter().zip(&place.macs) {
            if let Some(vlan) = nic.vlan {
                self.step(name, Change::Vlan { mac: mac.clone(), vlan });
            }
        }
        if guest.state == Wanted::Running {
            self.step(name, Change::Unpause);
        }
    }

    /// A domain that runs or stands still.
    fn live(&mut self, guest: &Guest, domain: &Domain, site: Site<'_>) {
        let name = &guest.name;
        match guest.state {
            Wanted::Stopped => return self.end(name, domain, guest.shutdown_seconds),
            Wanted::Saved => {
                // A guest that stands still cannot prepare for it.
                if domain.state.paused {
                    self.stop(name, Change::Unpause);
                }
                return self.stop(name, Change::Save);
            }
            Wanted::Running | Wanted::Paused => {}
        }
        if site.host.saved.contains(name) {
            self.step(name, Change::Forget);
        }
        let place = place(guest, site);
        self.cpus(guest, domain, &place);
        match &domain.made {
            Some(made) => self.made(guest, made, &place, site),
            None => self.notes.push(format!("xl does not tell what {name} is made of")),
        }
        match (guest.state, domain.state.paused) {
            (Wanted::Running, true) => self.step(name, Change::Unpause),
            (Wanted::Paused, false) => self.step(name, Change::Pause),
            _ => {}
        }
    }

    fn cpus(&mut self, guest: &Guest, domain: &Domain, place: &Place) {
        for vcpu in &domain.vcpus {
            let pins = place.pins.as_ref();
            let wanted = pins.and_then(|pins| pins.get(vcpu.vcpu as usize).cloned());
            if vcpu.hard != wanted {
                let domain = guest.name.to_string();
                let step = PoolStep::Pin { domain, vcpu: vcpu.vcpu, cpus: wanted };
                self.steps.push(Step::Pool(step));
            }
        }
    }

    fn made(&mut self, guest: &Guest, made: &Made, place: &Place, site: Site<'_>) {
        let name = &guest.name;
        if (made.weight, made.cap) != (guest.weight.into(), guest.cap.into()) {
            self.step(name, Change::Weight { weight: guest.weight, cap: guest.cap });
        }
        // What xl rounds, and the screen of an HVM guest, are no difference.
        let near = |a: crate::Size, b: crate::Size| a.mib().abs_diff(b.mib()) <= 17;
        let fits = guest.memory <= made.most_memory || near(guest.memory, made.most_memory);
        if made.memory.mib().abs_diff(guest.memory.mib()) > 2 && fits {
            self.step(name, Change::Memory { size: guest.memory });
        }
        if made.vcpus != guest.vcpus && guest.vcpus <= made.most_vcpus {
            self.step(name, Change::Vcpus { count: guest.vcpus });
        }
        self.disks(guest, made);
        self.nics(guest, made, place);
        self.pci(guest, made, site);
        let reasons = restarts(guest, made);
        if !reasons.is_empty() {
            self.notes.push(format!("{name} needs a restart for its {}", reasons.join(", ")));
        }
    }

    fn disks(&mut self, guest: &Guest, made: &Made) {
        let wanted = |device: &str| guest.disks.iter().any(|it| it.device.as_str() == device);
        for disk in made.disks.iter().filter(|disk| !wanted(&disk.device)) {
            self.step(&guest.name, Change::PullDisk { device: disk.device.clone() });
        }
        let there = |device: &str| made.disks.iter().any(|it| it.device == device);
        for disk in guest.disks.iter().filter(|disk| !there(disk.device.as_str())) {
            self.step(&guest.name, Change::PlugDisk { disk: xl::disk(disk) });
        }
    }

    fn nics(&mut self, guest: &Guest, made: &Made, place: &Place) {
        let name = &guest.name;
        let wanted: Vec<(&crate::nic::Nic, &Mac)> = guest.nics.iter().zip(&place.macs).collect();
        let same = |had: &MadeNic, (nic, mac): &(&crate::nic::Nic, &Mac)| {
            had.mac == **mac && had.bridge == nic.bridge
        };
        for had in made.nics.iter().filter(|had| !wanted.iter().any(|it| same(had, it))) {
            self.step(name, Change::PullNic { number: had.number });
        }
        for pair @ (nic, mac) in wanted {
            let had = made.nics.iter().find(|had| same(had, &pair));
            if had.is_none() {
                let words = xl::nic(nic, mac);
                self.step(name, Change::PlugNic { mac: mac.clone(), words });
            }
            if let Some(had) = had.filter(|had| had.rate != nic.rate.map(|rate| rate.share())) {
                self.step(name, Change::Rate { number: had.number, rate: nic.rate });
            }
            if let Some(vlan) = nic.vlan
                && had.and_then(|had| had.vlan) != Some(vlan.number())
            {
                self.step(name, Change::Vlan { mac: mac.clone(), vlan });
            }
        }
    }

    fn pci(&mut self, guest: &Guest, made: &Made, site: Site<'_>) {
        // xl still names a function that vanished, and only a detach makes it forget.
        let lost = |device: &PciAddress| site.slices.lost.contains(device);
        let stays = |device: &PciAddress| guest.pci.contains(device) && !lost(device);
        for device in made.pci.iter().filter(|device| !stays(device)) {
            self.step(&guest.name, Change::PullPci { device: device.clone() });
        }
        let had = |device: &PciAddress| made.pci.contains(device) && !lost(device);
        for device in guest.pci.iter().filter(|device| !had(device)) {
            if !site.xen.assignable.contains(device) {
                self.step(&guest.name, Change::Assign { device: device.clone() });
            }
            self.step(&guest.name, Change::PlugPci { device: device.clone() });
        }
    }
}

/// What of a guest is another than it was made with, and cannot be changed while it runs.
fn restarts(guest: &Guest, made: &Made) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    let mut differs = |differs: bool, what| reasons.extend(differs.then_some(what));
    differs(made.kind != guest.kind, "type");
    let most = guest.most_memory().mib();
    differs(made.most_memory.mib().abs_diff(most) > 17, "max_memory");
    differs(made.most_vcpus != guest.most_vcpus(), "max_vcpus");
    if let Boot::Kernel { path, ramdisk, line } = &guest.boot {
        let same = made.kernel.as_deref() == Some(path) && made.line == line.trim();
        let ram = ramdisk.as_deref().filter(|path| !path.is_empty());
        differs(!same || made.ramdisk.as_deref() != ram, "kernel");
    }
    let changed = guest.disks.iter().any(|disk| {
        let had = made.disks.iter().find(|had| had.device == disk.device.as_str());
        had.is_some_and(|had| {
            had.path != *disk.path
                || had.readonly != disk.readonly
                || had.format.is_some_and(|format| format != disk.format)
        })
    });
    differs(changed, "disks");
    reasons
}

impl Restart {
    fn name(self) -> &'static str {
        match self {
            Restart::Never => "never",
            Restart::OnFailure => "on-failure",
            Restart::Always => "always",
        }
    }
}
