//! How a node's desired state looks from outside, and how far its agent is with it. Pure.

use jiff::Timestamp;
use protocol::{GuestReport, HostState};
use xen_config::{
    Desired, Host,
    slice::{Held, Identity, SliceId},
};

use crate::{
    api::{ConfigStatus, ConfigView, GuestView, SliceView, WaitView},
    node_agent::{Heard, NodeAgent, printable},
    shape::{Given, Shape},
};

/// How far `agent` is with `shape`.
pub fn status(shape: &Shape, agent: Option<&NodeAgent>) -> ConfigStatus {
    let heard = agent.and_then(|agent| agent.heard.as_ref());
    let (state, text) = match heard {
        _ if shape.given.is_none() => ("unset", None),
        None => ("unheard", None),
        Some(heard) => stand(shape, heard),
    };
    let reboot = heard.map(|heard| heard.said.reboot.clone()).unwrap_or_default();
    ConfigStatus {
        generation: shape.generation,
        applied: agent.map_or(0, NodeAgent::applied),
        state: state.to_owned(),
        text,
        reboot_needed: !reboot.is_empty(),
        reboot,
        heard: heard.map(|heard| heard.at),
    }
}

fn stand(shape: &Shape, heard: &Heard) -> (&'static str, Option<String>) {
    let said = &heard.said;
    if said.generation != shape.generation {
        return ("pending", Some(format!("its agent has generation {}", said.generation)));
    }
    match &said.state {
        HostState::Settled if said.applied == shape.generation => ("applied", None),
        HostState::Settled => ("pending", None),
        HostState::Applying { step, done, of } => {
            ("applying", Some(format!("{step} ({done} of {of} steps done)")))
        }
        HostState::Waiting { what, seconds, then } => {
            ("waiting", Some(format!("for {what}, {seconds}s more at most, then {then}")))
        }
        HostState::Refused { reasons } => ("refused", Some(printable(&reasons.to_string()))),
        HostState::Failed { reason, again: None } => ("failed", Some(reason.clone())),
        HostState::Failed { reason, again: Some(seconds) } => {
            ("retrying", Some(format!("{reason}; again in {seconds}s")))
        }
    }
}

/// That its agent is awaited, while it is.
pub fn wait(shape: &Shape, agent: Option<&NodeAgent>, now: Timestamp) -> Option<WaitView> {
    let until = shape.until?;
    let heard = agent.and_then(|agent| agent.heard.as_ref()).map(|heard| heard.at);
    let heard = match heard {
        Some(at) => format!("last heard {}s ago", now.duration_since(at).as_secs().max(0)),
        None => "not heard yet".to_owned(),
    };
    Some(WaitView {
        what: format!("the agent to apply generation {} ({heard})", shape.generation),
        since: shape.since,
        until,
        then: "an event says that it is overdue".to_owned(),
    })
}

/// What the node `name` should be.
pub fn config(
    name: &str,
    shape: &Shape,
    given: &Given,
    desired: Desired,
    agent: Option<&NodeAgent>,
) -> ConfigView {
    let said = agent.and_then(|agent| agent.heard.as_ref()).map(|heard| &heard.said);
    let said = said.filter(|said| said.generation == shape.generation);
    ConfigView {
        node: name.to_owned(),
        generation: shape.generation,
        since: shape.since,
        by: shape.by.clone(),
        format: given.format.to_string(),
        text: given.text.clone(),
        desired,
        status: status(shape, agent),
        left: said.map(|said| said.left.clone()).unwrap_or_default(),
        notes: said.map(|said| said.notes.clone()).unwrap_or_default(),
        warnings: Vec::new(),
    }
}

/// The guests that were reported and those that should be, by name.
pub fn guests(reported: Vec<GuestReport>, desired: &Desired) -> Vec<GuestView> {
    let names = |name: &str| desired.guests.iter().any(|guest| guest.name.as_str() == name);
    let mut views: Vec<GuestView> = Vec::new();
    for guest in &desired.guests {
        if !reported.iter().any(|it| it.name == guest.name.as_str()) {
            views.push(awaited(guest));
        }
    }
    views.extend(reported.into_iter().map(|guest| {
        let desired = names(&guest.name);
        seen(guest, desired)
    }));
    views.sort_by(|one, other| one.name.cmp(&other.name));
    views
}

fn awaited(guest: &xen_config::Guest) -> GuestView {
    GuestView {
        name: guest.name.as_str().to_owned(),
        desired: true,
        state: "awaited".to_owned(),
        since: None,
        reason: None,
        last_lines: Vec::new(),
        domain: None,
        vcpus: guest.vcpus,
        memory: guest.memory.bytes(),
        cpu_ms: 0,
        received: 0,
        sent: 0,
        read: 0,
        written: 0,
    }
}

fn seen(guest: GuestReport, desired: bool) -> GuestView {
    let usage = guest.usage;
    GuestView {
        name: guest.name,
        desired,
        state: guest.state.name().to_owned(),
        since: guest.since,
        reason: guest.reason,
        last_lines: guest.last_lines,
        domain: guest.domain,
        vcpus: guest.vcpus,
        memory: guest.memory.bytes(),
        cpu_ms: usage.cpu_ms,
        received: usage.received,
        sent: usage.sent,
        read: usage.read,
        written: usage.written,
    }
}

/// The slices that are desired of the node with the identifier `id`, and those that its agent still remembers.
pub fn slices(id: &str, desired: &Desired, host: &Host) -> Vec<SliceView> {
    let wanted = xen_config::slice::slices(desired, id);
    let mut views = Vec::new();
    for slice in &wanted {
        let held = host.held.iter().find(|held| held.slice == slice.id);
        // The agent's word counts: a guest that runs keeps the identity that it was given.
        let identity = held.map_or(&slice.identity, |held| &held.identity);
        let mut view = slice_view(&slice.id, identity, held, host);
        view.fabric = Some(slice.wish.fabric.to_string());
        view.pkeys = slice.wish.pkeys.iter().map(ToString::to_string).collect();
        views.push(view);
    }
    let left = host.held.iter().filter(|held| wanted.iter().all(|it| it.id != held.slice));
    views.extend(left.map(|held| SliceView {
        state: "returning".to_owned(),
        ..slice_view(&held.slice, &held.identity, Some(held), host)
    }));
    views
}

fn slice_view(id: &SliceId, identity: &Identity, held: Option<&Held>, host: &Host) -> SliceView {
    let pf = held.and_then(|held| host.sriov.pf(&held.pf));
    let vf = held.zip(pf).and_then(|(held, pf)| pf.vf(held.vf));
    let given = vf.is_some_and(|vf| {
        let domains = host.xen.iter().flat_map(|xen| &xen.domains);
        let mut made = domains.flat_map(|domain| &domain.made);
        made.any(|made| made.pci.contains(&vf.address))
    });
    let state = match (held, vf.and_then(|vf| vf.driver.as_deref())) {
        (None, _) => "announced",
        _ if given => "given",
        (_, Some("pciback" | "vfio-pci")) => "ready",
        _ => "held",
    };
    let (guid, node_guid, mac) = match identity {
        Identity::InfiniBand { node, port } => (Some(*port), Some(*node), None),
        Identity::Ethernet { mac } => (None, None, Some(mac.to_string())),
    };
    SliceView {
        slice: id.to_string(),
        fabric: None,
        state: state.to_owned(),
        guid: guid.map(|guid| guid.to_string()),
        node_guid: node_guid.map(|guid| guid.to_string()),
        mac,
        pkeys: Vec::new(),
        pf: held.map(|held| held.pf.to_string()),
        vf: held.map(|held| held.vf),
        address: vf.map(|vf| vf.address.to_string()),
    }
}
