//! What the agents of deployed systems ask and tell.

use protocol::{Heard, HostReport, HostState, NodeConfig, config::HELD};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Duration, Instant, timeout_at},
};

use super::{Provisioner, Result, configs};
use crate::{
    event::now,
    live::Message,
    node::{Node, NodeId},
    node_agent::NodeAgent,
    refusal::Refusal,
    token,
};

/// How long a held question waits before it looks for a change by another server.
const LOOK: Duration = Duration::from_secs(5);

impl Provisioner {
    /// What the bearer's node should be, as soon as that is not generation `held`; nothing when
    /// that lasts too long.
    pub async fn config_for(&self, bearer: &str, held: u64) -> Result<Option<NodeConfig>> {
        // Listen first, then look: nothing falls between the two.
        let mut messages = self.live.listen();
        let until = Instant::now() + HELD;
        let question = self.live.ask(self.agent_of(bearer).await?.node);
        loop {
            // Again each time: the token may have ended meanwhile.
            let node = self.agent_of(bearer).await?.node;
            if let Some(config) = self.config_unlike(node, held).await? {
                return Ok(Some(config));
            }
            let changed = may_have_changed(&mut messages, node, until).await;
            if !changed || !self.live.is_last(node, question) {
                return Ok(None);
            }
        }
    }

    /// What a node should be, when that is not generation `held`.
    async fn config_unlike(&self, node: NodeId, held: u64) -> Result<Option<NodeConfig>> {
        let shape = self.store.shape(node).await?;
        let generation = shape.as_ref().map_or(0, |shape| shape.generation);
        if generation == held {
            return Ok(None);
        }
        let node = self.node(&node.to_string()).await?;
        let given = shape.and_then(|shape| shape.given);
        let desired = given.map(|given| configs::read(&node, &given)).transpose()?;
        Ok(Some(NodeConfig { generation, desired }))
    }

    /// The agent that bears this token. That of a system which was just deployed takes the place
    /// of the one before by its first word.
    pub async fn agent_of(&self, bearer: &str) -> Result<NodeAgent> {
        let hash = token::hash(bearer);
        let agent = self.store.agent_of_token(hash).await?.ok_or_else(stranger)?;
        if agent.next != Some(hash) {
            return Ok(agent);
        }
        let mut change = self.store.change().await?;
        change.succeed_agent(agent.node).await?;
        let agent = change.agent_of_token(hash).await?.ok_or_else(stranger)?;
        change.commit().await?;
        Ok(agent)
    }

    /// An agent says what its node is.
    pub async fn status(&self, bearer: &str, report: HostReport) -> Result<Heard> {
        let now = now();
        let mut change = self.store.change().await?;
        let agent = change.agent_of_token(token::hash(bearer)).await?.ok_or_else(stranger)?;
        let id = agent.node.to_string();
        let node = change.node(&id).await?;
        let node: Node = node.ok_or_else(|| anyhow::anyhow!("an agent has no node {id}"))?;
        let shape = change.shape(node.id).await?;
        let generation = shape.as_ref().map_or(0, |shape| shape.generation);
        let answered = report.generation == generation
            && (report.applied == generation || matches!(report.state, HostState::Refused { .. }));
        let (after, notes, facts) = agent.hear(&node.name, report, shape.as_ref(), now);
        change.keep_said(&after, &facts).await?;
        if answered && shape.is_some_and(|shape| shape.until.is_some()) {
            change.await_shape(node.id, None).await?;
        }
        let heard = Heard { events: after.events, generation };
        if notes.is_empty() {
            change.commit().await.map(drop)?;
        } else {
            self.commit_config(change, &node, notes, now).await?;
        }
        Ok(heard)
    }
}

fn stranger() -> Refusal {
    Refusal::Unproven(
        "the bearer token is of no node's agent, or its node was deployed again since; the seed \
         of a deployment has one"
            .into(),
    )
}

/// Waits until what `node` should be may have changed; says no when it is `until`, or the end.
async fn may_have_changed(messages: &mut Receiver<Message>, node: NodeId, until: Instant) -> bool {
    let look = until.min(Instant::now() + LOOK);
    loop {
        match timeout_at(look, messages.recv()).await {
            Ok(Ok(Message::Event(event))) => {
                if event.node == Some(node) && event.kind.starts_with("config.") {
                    return true;
                }
            }
            Ok(Ok(Message::Progress(..))) => {}
            Ok(Ok(Message::Ending) | Err(RecvError::Closed)) => return false,
            Ok(Err(RecvError::Lagged(_))) => return true,
            Err(_) => return Instant::now() < until,
        }
    }
}
