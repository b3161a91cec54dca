//! Where what happens meets the state: each verb loads, lets the pure parts decide, and saves
//! in one transaction; then DHCP's registry and the listeners learn of it.

mod agent;
mod clock;
mod configs;
mod fabrics;
mod network;
mod node_agents;
mod operator;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::Notify;

use crate::{
    api::{DeploymentView, NodeView},
    deployment::{Deployment, Ending, Limits, after},
    event::{Note, now},
    library::Library,
    live::{Live, Message},
    mac::Mac,
    node::Node,
    refusal::Refusal,
    registry::{Entry, Registry},
    shape_view,
    store::{Change, Store, StoreError},
    subnet::Subnet,
    view,
};

pub use clock::{keep_time, tidy, watch_starts};
pub use fabrics::keep_partitions;
pub use operator::Repeat;

/// Everything that serving shares.
#[derive(Debug)]
pub struct Provisioner {
    /// What is kept.
    pub store: Store,
    /// What DHCP knows.
    pub registry: Arc<Registry>,
    /// What is going on.
    pub live: Live,
    /// The images.
    pub library: Library,
    /// How long a deployment waits.
    pub limits: Limits,
    /// Where a started system's SSH server listens.
    pub ssh_port: u16,
    /// Machines that are recorded at most without anybody vouching for them.
    pub strangers: usize,
    /// Where fixed addresses may be.
    pub subnets: Vec<Subnet>,
    /// Keys that every deployed node lets in, beside its own.
    pub authorized_keys: Vec<String>,
    /// How long a node's agent may take to apply a desired state before that is told.
    pub apply: Duration,
    /// Rung when a deadline may have moved.
    pub alarm: Notify,
}

/// Why a verb did nothing.
#[derive(Debug, thiserror::Error)]
pub enum Undone {
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The state could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something broke.
    #[error(transparent)]
    Broken(#[from] anyhow::Error),
}

type Result<T> = std::result::Result<T, Undone>;

impl Provisioner {
    /// The node that `key` means.
    pub async fn node(&self, key: &str) -> Result<Node> {
        self.store.node(key).await?.ok_or_else(|| unknown_node(key).into())
    }

    /// A node as the API shows it.
    pub async fn node_view(&self, node: &Node) -> Result<NodeView> {
        let latest = self.store.latest_deployment(node.id).await?;
        let inventory = self.store.inventory(node.id).await?;
        let shape = self.store.shape(node.id).await?;
        let agent = self.store.agent(node.id).await?;
        let config = shape.as_ref().map(|shape| shape_view::status(shape, agent.as_ref()));
        let mut view = view::node(node, latest.as_ref(), inventory, self.address_of(node), config);
        let config_wait = shape.and_then(|shape| shape_view::wait(&shape, agent.as_ref(), now()));
        view.wait = view.wait.or(config_wait);
        Ok(view)
    }

    /// A deployment as the API shows it.
    pub async fn deployment_view(&self, deployment: &Deployment) -> Result<DeploymentView> {
        let node = self.store.node(&deployment.node.to_string()).await?;
        let name = node.map_or_else(|| deployment.node.to_string(), |node| node.name);
        Ok(view::deployment(deployment, name, self.live.progress(deployment.id)))
    }

    /// The address that a node was last known to have.
    pub fn address_of(&self, node: &Node) -> Option<Ipv4Addr> {
        let leased = node.macs.iter().find_map(|mac| self.live.sighting(*mac).address);
        leased.or(node.address).or(node.reserved)
    }

    /// Logs `notes`, makes the change durable, and only then tells everyone: the change's
    /// lock is held until all are told, so that they hear of changes in their order.
    async fn commit(
        &self,
        mut change: Change<'_>,
        node: &Node,
        deployment: Option<&Deployment>,
        notes: Vec<Note>,
        now: Timestamp,
    ) -> Result<()> {
        for note in notes {
            tracing::info!(node = node.name, "{}: {}", note.kind, note.text);
            change.log(now, Some(node.id), deployment.map(|one| one.id), note).await?;
        }
        let done = deployment.and_then(|one| one.ended.as_ref());
        if done.is_some_and(|ended| ended.ending == Ending::Done) {
            change.await_shape(node.id, Some(after(now, self.apply))).await?;
        }
        let committed = change.commit().await?;
        if let Some(deployment) = deployment.filter(|deployment| deployment.ended.is_some()) {
            self.live.set_progress(deployment.id, None);
            if let Err(error) = self.library.release(deployment.id).await {
                tracing::warn!("letting go of deployment {}'s image: {error:#}", deployment.id);
            }
        }
        self.publish(node, deployment.is_some_and(Deployment::boots_from_us));
        for event in &committed.events {
            self.live.tell(Message::Event(event.clone()));
        }
        self.alarm.notify_one();
        drop(committed);
        Ok(())
    }

    /// Tells DHCP of a node.
    fn publish(&self, node: &Node, boots: bool) {
        for mac in &node.macs {
            let entry = Entry { name: node.name.clone(), reserved: node.reserved, boots };
            self.registry.set(*mac, entry);
        }
    }

    /// Tells DHCP that it does not know these any more.
    fn unpublish(&self, macs: &[Mac]) {
        for mac in macs {
            self.registry.remove(*mac);
            self.live.forget(*mac);
        }
    }
}

fn unknown_node(key: &str) -> Refusal {
    let shown: String = key.escape_debug().take(80).collect();
    Refusal::Unknown(format!(
        "no node `{shown}`; a name, an identifier or a MAC address of GET /v1/nodes is one"
    ))
}
