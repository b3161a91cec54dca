//! Partitions of InfiniBand fabrics, and the slices of a node.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::broadcast::error::RecvError;
use xen_config::Desired;

use super::{Provisioner, Result, configs::read};
use crate::{
    api::SlicesView,
    event::{Note, now},
    live::Message,
    node::NodeId,
    partition::{self, Port},
    shape_view,
    subnet_manager::{self, FabricConfig},
};

/// How often subnet managers are told again although nothing was heard of: another server may
/// have changed something, or a subnet manager was away.
const AGAIN: Duration = Duration::from_secs(60);

impl Provisioner {
    /// The InfiniBand slices of all nodes but one.
    pub(super) async fn ports_but(&self, but: Option<NodeId>) -> Result<Vec<Port>> {
        let (mut name, mut ports) = (String::new(), Vec::new());
        loop {
            let nodes = self.store.nodes(&name, 500).await?;
            let Some(last) = nodes.last() else { return Ok(ports) };
            name.clone_from(&last.name);
            for node in nodes.iter().filter(|node| Some(node.id) != but) {
                let given = self.store.shape(node.id).await?.and_then(|shape| shape.given);
                if let Some(given) = given {
                    ports.extend(partition::ports(
                        &node.id.to_string(),
                        &node.name,
                        &read(node, &given)?,
                    ));
                }
            }
        }
    }

    /// The slices of a node.
    pub async fn slices(&self, key: &str) -> Result<SlicesView> {
        let node = self.node(key).await?;
        let given = self.store.shape(node.id).await?.and_then(|shape| shape.given);
        let desired = given.map(|given| read(&node, &given)).transpose()?;
        let host = self.store.host(node.id).await?.unwrap_or_default();
        let heard = self.store.agent(node.id).await?.and_then(|agent| agent.heard);
        Ok(SlicesView {
            items: shape_view::slices(&node.id.to_string(), &desired.unwrap_or_default(), &host),
            node: node.name,
            heard: heard.map(|heard| heard.at),
        })
    }

    /// Whether a node's desired slices can be beside those of the others.
    pub(super) async fn check_slices(&self, key: &str, desired: &Desired) -> Result<()> {
        if desired.fabrics.is_empty() {
            return Ok(());
        }
        let node = self.node(key).await?;
        let others = self.ports_but(Some(node.id)).await?;
        let asked = partition::ports(&node.id.to_string(), &node.name, desired);
        Ok(partition::check(&asked, &others)?)
    }

    async fn tell_fabrics(&self, fabrics: &[FabricConfig], memory: &Path) -> Result<()> {
        let ports = self.ports_but(None).await?;
        for config in fabrics {
            let members = partition::members(&config.name, &ports);
            let (config, count, memory) = (config.clone(), members.len(), memory.to_path_buf());
            let name = config.name.clone();
            let told = move || subnet_manager::tell(&config, &members, &memory);
            let told = tokio::task::spawn_blocking(told).await;
            let note = match told.map_err(anyhow::Error::from).flatten() {
                Ok(false) => continue,
                Ok(true) => {
                    let text = format!("fabric {name}: the subnet manager knows {count} members");
                    Note::new("fabric.told", text)
                }
                Err(error) => Note::new("fabric.failed", format!("fabric {name}: {error:#}")),
            };
            tracing::info!("{}: {}", note.kind, note.text);
            let mut change = self.store.change().await?;
            change.log(now(), None, None, note).await?;
            let committed = change.commit().await?;
            for event in &committed.events {
                self.live.tell(Message::Event(event.clone()));
            }
        }
        Ok(())
    }
}

/// Keeps the subnet managers of `fabrics` told, for ever; what they know is in `memory`.
pub async fn keep_partitions(
    provisioner: Arc<Provisioner>,
    fabrics: Vec<FabricConfig>,
    memory: PathBuf,
) {
    if fabrics.is_empty() {
        return;
    }
    let mut messages = provisioner.live.listen();
    loop {
        if let Err(error) = provisioner.tell_fabrics(&fabrics, &memory).await {
            tracing::error!("telling subnet managers: {error:#}");
        }
        let changed = async {
            loop {
                match messages.recv().await {
                    Ok(Message::Event(event)) if concerns(&event.kind) => return,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let _ = tokio::time::timeout(AGAIN, changed).await;
    }
}

/// Whether an event may have changed who is in which partition.
fn concerns(kind: &str) -> bool {
    matches!(kind, "config.changed" | "config.unset") || kind.starts_with("node.")
}
