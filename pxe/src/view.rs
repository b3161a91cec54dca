//! How the state looks from outside: what the API shows, made of what is kept. Pure.

use std::net::Ipv4Addr;

use protocol::{Inventory, Progress};

use crate::{
    api::{ConfigStatus, DeploymentView, EventView, NodeView, StepView},
    deployment::{Deployment, Ending},
    event::Event,
    identity,
    node::{Node, State},
};

/// A node, with its latest deployment.
pub fn node(
    node: &Node,
    latest: Option<&Deployment>,
    inventory: Option<Inventory>,
    address: Option<Ipv4Addr>,
    config: Option<ConfigStatus>,
) -> NodeView {
    let (heading, reason) = match &node.state {
        State::Failed { heading, reason } => (Some(heading.clone()), Some(reason.clone())),
        _ => (None, None),
    };
    NodeView {
        id: node.id.to_string(),
        name: node.name.clone(),
        macs: node.macs.clone(),
        uuid: node.uuid.clone(),
        state: node.state.word().to_owned(),
        heading,
        reason,
        wait: latest.and_then(|latest| latest.wait).map(|wait| wait.view()),
        address,
        reserved: node.reserved,
        disk: node.disk.clone(),
        authorized_keys: node.authorized_keys.clone(),
        restart: node.restart,
        fixed: node.fixed,
        labels: node.labels.clone(),
        host_key: identity::public_line(&node.host_key).ok(),
        inventory,
        config,
        deployment: latest.map(|latest| latest.id.to_string()),
        created: node.created,
        changed: node.changed,
    }
}

/// A deployment, with what its agent said last.
pub fn deployment(
    deployment: &Deployment,
    node: String,
    progress: Option<Progress>,
) -> DeploymentView {
    let (state, reason) = match deployment.ended.as_ref().map(|ended| &ended.ending) {
        None => ("open", None),
        Some(Ending::Done) => ("done", None),
        Some(Ending::Cancelled) => ("cancelled", None),
        Some(Ending::Failed(reason)) => ("failed", Some(reason.clone())),
    };
    let step = |run: &crate::deployment::StepRun| StepView {
        step: run.step,
        begun: run.begun,
        ended: run.ended,
        done: run.done,
        total: run.total,
    };
    DeploymentView {
        id: deployment.id.to_string(),
        node,
        image: deployment.image.clone(),
        manifest: deployment.manifest.to_string(),
        state: state.to_owned(),
        step: deployment.step,
        steps: deployment.steps.iter().map(step).collect(),
        wait: deployment.wait.map(|wait| wait.view()),
        progress,
        reason,
        written: deployment.written.clone(),
        created: deployment.created,
        ended: deployment.ended.as_ref().map(|ended| ended.at),
    }
}

/// An event, with the name of its node.
pub fn event(event: &Event, node: Option<String>) -> EventView {
    EventView {
        id: event.id,
        at: event.at,
        node: node.or_else(|| event.node.map(|id| id.to_string())),
        deployment: event.deployment.map(|id| id.to_string()),
        kind: event.kind.clone(),
        text: event.text.clone(),
    }
}
