//! What the daemon tells the provisioner: facts as they are, and each guest in its words.

use protocol::{
    GuestReport, GuestState, HostReport, HostState,
    guest::GuestUsage,
    host_report::{GUESTS, LINES, shorten},
};
use xen_config::{
    Desired, Host, Plan,
    domain::{Guest, Wanted},
    guest_plan,
    list::Domain,
    made::MadeNic,
};

use super::guest;
use crate::sysfs::Sysfs;

/// The report of `host`, of which `plan` is left of `desired`.
pub(crate) fn report(
    desired: Option<&Desired>,
    host: &Host,
    plan: &Plan,
    state: HostState,
) -> HostReport {
    let none = Desired::default();
    let lines = |lines: &[String]| {
        lines.iter().take(LINES).map(|line| shorten(line).to_owned()).collect::<Vec<_>>()
    };
    HostReport {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        state,
        reboot: lines(&plan.reboot),
        left: lines(&plan.sentences()),
        notes: lines(&plan.notes),
        host: host.clone(),
        guests: guests(desired.unwrap_or(&none), host),
        ..HostReport::default()
    }
}

/// Every guest that is desired, and every domain that is none of them.
fn guests(desired: &Desired, host: &Host) -> Vec<GuestReport> {
    let domains = host.xen.iter().flat_map(|xen| &xen.domains).filter(|domain| domain.id != 0);
    let domains: Vec<&Domain> = domains.collect();
    let wanted = |name: &str| desired.guests.iter().find(|guest| guest.name.as_str() == name);
    let mut reports: Vec<GuestReport> = Vec::new();
    for domain in &domains {
        let ours = guest_plan::is_ours(domain, &host.node);
        reports.push(of_domain(domain, wanted(&domain.name), ours));
    }
    let there = |guest: &&Guest| domains.iter().any(|domain| domain.name == guest.name.as_str());
    reports.extend(desired.guests.iter().filter(|guest| !there(guest)).map(|it| absent(it, host)));
    reports.sort_by(|one, other| one.name.cmp(&other.name));
    reports.truncate(GUESTS);
    reports
}

fn of_domain(domain: &Domain, wanted: Option<&Guest>, ours: bool) -> GuestReport {
    let state = match domain.state {
        state if state.shutdown || state.crashed => GuestState::Died,
        state if state.dying => GuestState::Stopping,
        state if state.paused => GuestState::Paused,
        _ => GuestState::Running,
    };
    let died = state == GuestState::Died;
    GuestReport {
        name: shorten(&domain.name).to_owned(),
        ours: ours || wanted.is_some_and(|guest| guest.own),
        state,
        since: None,
        reason: domain.ended.filter(|_| died).map(|ending| format!("it {ending}")),
        last_lines: if died { guest::last_lines(&domain.name) } else { Vec::new() },
        domain: Some(domain.id),
        vcpus: domain.vcpus.iter().filter(|vcpu| vcpu.online).count() as u32,
        memory: domain.memory,
        usage: usage(domain),
    }
}

fn absent(guest: &Guest, host: &Host) -> GuestReport {
    let ended = host.ended.iter().find(|ended| ended.guest == guest.name);
    let saved = host.saved.contains(&guest.name);
    let (state, reason) = match (guest.state, ended) {
        (_, Some(ended)) => (GuestState::Died, Some(format!("it {}", ended.ending))),
        (Wanted::Running | Wanted::Paused, None) => {
            (GuestState::Failed, Some("it could not be made yet".to_owned()))
        }
        (Wanted::Saved, None) if saved => (GuestState::Saved, None),
        (Wanted::Saved | Wanted::Stopped, None) => (GuestState::Stopped, None),
    };
    let last_lines = match state {
        GuestState::Died => guest::last_lines(guest.name.as_str()),
        _ => Vec::new(),
    };
    GuestReport {
        name: guest.name.to_string(),
        ours: true,
        state,
        since: None,
        reason,
        last_lines,
        domain: None,
        vcpus: 0,
        memory: xen_config::Size::ZERO,
        usage: GuestUsage::default(),
    }
}

/// What dom0's ends of its devices counted. A vif's counters are seen from dom0: what it
/// received, the guest sent.
fn usage(domain: &Domain) -> GuestUsage {
    let sysfs = Sysfs::at("/");
    let nics: &[MadeNic] = domain.made.as_ref().map_or(&[], |made| &made.nics);
    let net = |counter: &str| {
        let of = |nic: &MadeNic| {
            let port = format!("vif{}.{}", domain.id, nic.number);
            sysfs.value::<u64>(format!("sys/class/net/{port}/statistics/{counter}"))
        };
        nics.iter().filter_map(of).sum()
    };
    // `vbd-<domain>-<device>` of blkback; counted in sectors of 512 bytes.
    let folder = "sys/bus/xen-backend/devices";
    let start = format!("vbd-{}-", domain.id);
    let disks = sysfs.list(folder);
    let disks: Vec<&String> = disks.iter().filter(|name| name.starts_with(&start)).collect();
    let sectors = |counter: &str| -> u64 {
        let of =
            |name: &&String| sysfs.value::<u64>(format!("{folder}/{name}/statistics/{counter}"));
        disks.iter().copied().filter_map(|name| of(&name)).sum::<u64>() * 512
    };
    GuestUsage {
        cpu_ms: domain.time,
        received: net("tx_bytes"),
        sent: net("rx_bytes"),
        read: sectors("rd_sect"),
        written: sectors("wr_sect"),
    }
}
