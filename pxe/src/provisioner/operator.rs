//! What an operator asks for.

use std::net::Ipv4Addr;

use images::Digest;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{Provisioner, Result, unknown_node};
use crate::{
    api::{DeployRequest, DeploymentView, NodeChange, NodeView},
    deployment::{Deployment, Input, Request},
    event::{Note, now},
    identity,
    mac::Mac,
    node::{Node, State},
    refusal::Refusal,
    store::{Answer, Change},
    subnet::Subnet,
    view,
};

/// A request that its client may repeat.
#[derive(Debug, Clone)]
pub struct Repeat {
    /// The client's name for it.
    pub key: String,
    /// Hash of what it asks.
    pub request: Digest,
}

impl Provisioner {
    /// Vouches for a machine, which may have been discovered before.
    pub async fn enroll(&self, wanted: NodeChange, repeat: Option<Repeat>) -> Result<Answer> {
        let now = now();
        let Some(macs) = wanted.macs.clone().filter(|macs| !macs.is_empty()) else {
            return Err(needed("macs", "a list of hardware addresses").into());
        };
        if wanted.name.is_none() {
            return Err(needed("name", "a host name").into());
        }
        let host_key = identity::new_host_key()?;
        let mut change = self.store.change().await?;
        if let Some(answer) = given(&mut change, repeat.as_ref()).await? {
            return Ok(answer);
        }
        let known = discovered_as_one(&mut change, &macs).await?;
        let is_new = known.is_none();
        let mut node = known.unwrap_or_else(|| Node::discovered(macs[0], host_key, now));
        node.change(wanted)?;
        self.check_unique(&mut change, &node).await?;
        let notes = node.enroll(now)?;
        match is_new {
            true => change.insert_node(&node).await?,
            false => change.update_node(&node).await?,
        }
        let view = view::node(&node, None, None, self.address_of(&node), None);
        let answer = keep(&mut change, repeat, 201, &view, now).await?;
        self.commit(change, &node, None, notes, now).await?;
        Ok(answer)
    }

    /// Changes what is known of a node.
    pub async fn change_node(&self, key: &str, wanted: NodeChange) -> Result<NodeView> {
        let now = now();
        let mut change = self.store.change().await?;
        let mut node = change.node(key).await?.ok_or_else(|| unknown_node(key))?;
        let old = node.clone();
        node.change(wanted)?;
        self.check_unique(&mut change, &node).await?;
        change.update_node(&node).await?;
        let open = change.open_deployment(node.id).await?;
        let gone: Vec<Mac> =
            old.macs.iter().copied().filter(|mac| !node.macs.contains(mac)).collect();
        let note = Note::new("node.changed", format!("{} was changed", node.name));
        self.commit(change, &node, open.as_ref(), vec![note], now).await?;
        self.unpublish(&gone);
        self.node_view(&node).await
    }

    /// Forgets a node.
    pub async fn delete_node(&self, key: &str) -> Result<()> {
        let mut change = self.store.change().await?;
        let node = change.node(key).await?.ok_or_else(|| unknown_node(key))?;
        if let Some(open) = change.open_deployment(node.id).await? {
            let (name, id) = (&node.name, open.id);
            return Err(Refusal::Conflict(format!(
                "node {name} has deployment {id} open; cancel it first: DELETE /v1/deployments/{id}"
            ))
            .into());
        }
        change.delete_node(node.id).await?;
        let note = Note::new("node.deleted", format!("{} was forgotten", node.name));
        self.commit(change, &node, None, vec![note], now()).await?;
        self.unpublish(&node.macs);
        Ok(())
    }

    /// Opens a deployment.
    pub async fn deploy(
        &self,
        key: &str,
        wanted: DeployRequest,
        repeat: Option<Repeat>,
    ) -> Result<Answer> {
        let now = now();
        let manifest = self.library.deployable(&wanted.image, wanted.unsigned).await?;
        let mut change = self.store.change().await?;
        if let Some(answer) = given(&mut change, repeat.as_ref()).await? {
            return Ok(answer);
        }
        let mut node = change.node(key).await?.ok_or_else(|| unknown_node(key))?;
        node.may_deploy()?;
        let request = Request {
            image: wanted.image,
            manifest,
            disk: wanted.disk.unwrap_or_else(|| node.disk.clone()),
            grow: wanted.grow.unwrap_or(true),
            unsigned: wanted.unsigned,
            restart: wanted.restart.unwrap_or(node.restart),
        };
        let text = format!("{} is to get {}", node.name, request.image);
        let (id, before) = (Uuid::now_v7(), node.state.clone());
        let deployment = Deployment::new(id, node.id, before, request, now, &self.limits);
        node.follow(&deployment, now);
        // Before the commit: what is promised is there until it ends.
        self.library.hold(id, manifest).await?;
        change.insert_deployment(&deployment).await?;
        change.update_node(&node).await?;
        let view = view::deployment(&deployment, node.name.clone(), None);
        let answer = keep(&mut change, repeat, 201, &view, now).await?;
        let notes = vec![Note::new("deployment.created", text)];
        self.commit(change, &node, Some(&deployment), notes, now).await?;
        Ok(answer)
    }

    /// Ends a deployment that nobody wants any more.
    pub async fn cancel(&self, id: Uuid) -> Result<DeploymentView> {
        let now = now();
        let mut change = self.store.change().await?;
        let unknown =
            || Refusal::Unknown(format!("no deployment {id}; GET /v1/deployments lists them"));
        let before = change.deployment(id).await?.ok_or_else(unknown)?;
        let mut node = change.node(&before.node.to_string()).await?.ok_or_else(unknown)?;
        let (after, mut notes) = before.advance(Input::Cancel, now, &self.limits)?;
        notes.extend(node.follow(&after, now));
        change.update_deployment(&after).await?;
        change.update_node(&node).await?;
        self.commit(change, &node, Some(&after), notes, now).await?;
        Ok(view::deployment(&after, node.name, None))
    }

    /// Refuses a name, a hardware address or a reservation that another node has.
    async fn check_unique(&self, change: &mut Change<'_>, node: &Node) -> Result<()> {
        let other = |found: Option<Node>| found.filter(|found| found.id != node.id);
        if let Some(found) = other(change.node(&node.name).await?) {
            let (name, mac) = (&node.name, found.id.0);
            return Err(taken(format!("the name {name} is taken by the node with MAC {mac}")));
        }
        for mac in &node.macs {
            if let Some(found) = other(change.node_of(*mac).await?) {
                return Err(taken(format!("MAC {mac} belongs to node {} already", found.name)));
            }
        }
        if let Some(address) = node.reserved
            && let Some(found) = other(change.keeper_of(address).await?)
        {
            return Err(taken(format!("address {address} is kept for node {}", found.name)));
        }
        if node.fixed {
            self.fixed_address(node)?;
        }
        Ok(())
    }

    /// The address that a node's system gets written down, and the subnet that says the rest.
    pub(super) fn fixed_address(
        &self,
        node: &Node,
    ) -> std::result::Result<(Ipv4Addr, &Subnet), Refusal> {
        let name = &node.name;
        let address = node.reserved.ok_or_else(|| {
            Refusal::Invalid(format!(
                "node {name} is to have a fixed address and none is kept for it; `reserved` \
                 (--address) says which"
            ))
        })?;
        let subnet = self.subnets.iter().find(|subnet| subnet.network.contains(address));
        let networks = || self.subnets.iter().map(|it| it.network.to_string()).collect::<Vec<_>>();
        let subnet = subnet.ok_or_else(|| {
            Refusal::Invalid(format!(
                "the fixed address {address} of node {name} is in no [[dhcp.subnets]], which say \
                 its prefix, router and name servers; there is {}",
                if networks().is_empty() { "none".to_owned() } else { networks().join(", ") }
            ))
        })?;
        Ok((address, subnet))
    }
}

/// The machine that was discovered by these addresses. One with several ports may have been
/// taken for several machines: the others are forgotten.
async fn discovered_as_one(change: &mut Change<'_>, macs: &[Mac]) -> Result<Option<Node>> {
    let mut first: Option<Node> = None;
    for mac in macs {
        let Some(found) = change.node_of(*mac).await? else { continue };
        if found.state != State::Discovered {
            return Err(taken(format!("MAC {mac} belongs to node {} already", found.name)));
        }
        match &first {
            None => first = Some(found),
            Some(node) if node.id == found.id => {}
            Some(_) => change.delete_node(found.id).await?,
        }
    }
    Ok(first)
}

fn needed(field: &str, what: &str) -> Refusal {
    Refusal::Invalid(format!("`{field}` is missing: {what} is needed to enroll a node"))
}

fn taken(text: String) -> super::Undone {
    Refusal::Conflict(format!("{text}; one that no node has is accepted")).into()
}

/// The answer that this request got when it was first made.
async fn given(change: &mut Change<'_>, repeat: Option<&Repeat>) -> Result<Option<Answer>> {
    let Some(repeat) = repeat else { return Ok(None) };
    let Some(answer) = change.answer(&repeat.key).await? else { return Ok(None) };
    if answer.request == repeat.request {
        return Ok(Some(answer));
    }
    Err(Refusal::Invalid(format!(
        "Idempotency-Key `{}` was used for another request; a new request needs a new key",
        repeat.key
    ))
    .into())
}

async fn keep(
    change: &mut Change<'_>,
    repeat: Option<Repeat>,
    status: u16,
    view: &impl Serialize,
    now: Timestamp,
) -> Result<Answer> {
    let body = serde_json::to_string(view).map_err(anyhow::Error::from)?;
    let request = repeat.as_ref().map_or(Digest::of(b""), |repeat| repeat.request);
    let answer = Answer { request, status, body };
    if let Some(repeat) = repeat {
        change.keep_answer(&repeat.key, &answer, now).await?;
    }
    Ok(answer)
}
