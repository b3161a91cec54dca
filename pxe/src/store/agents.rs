//! Rows of the agents of deployed systems, with what they said last.

use images::Digest;
use jiff::Timestamp;
use protocol::GuestReport;
use serde::de::DeserializeOwned;
use sqlx::{Any, Executor, Row as _, any::AnyRow};
use xen_config::Host;

use super::{Change, Result, Store, configs::number, damaged};
use crate::{
    node::NodeId,
    node_agent::{Facts, Heard, NodeAgent},
};

/// All but facts and guests, which may be long.
const COLUMNS: &str = "SELECT node, next_token, events, heard, said FROM agents";

impl Store {
    /// The agent of a node, once it had one.
    pub async fn agent(&self, node: NodeId) -> Result<Option<NodeAgent>> {
        by_node(&self.pool, node).await
    }

    /// The agent that bears the token of this hash.
    pub async fn agent_of_token(&self, hash: Digest) -> Result<Option<NodeAgent>> {
        by_token(&self.pool, hash).await
    }

    /// The machine as its agent saw it last.
    pub async fn host(&self, node: NodeId) -> Result<Option<Host>> {
        self.said(node, "host").await
    }

    /// The guests as their node's agent saw them last.
    pub async fn guests(&self, node: NodeId) -> Result<Option<Vec<GuestReport>>> {
        self.said(node, "guests").await
    }

    async fn said<T: DeserializeOwned>(&self, node: NodeId, what: &str) -> Result<Option<T>> {
        let sql = format!("SELECT {what} AS said FROM agents WHERE node = $1");
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(node.to_string());
        let Some(row) = query.fetch_optional(&self.pool).await? else { return Ok(None) };
        let text: Option<String> = row.try_get("said")?;
        let parsed = text.map(|text| serde_json::from_str(&text)).transpose();
        parsed.map_err(|error| damaged(format!("what the agent of node {node} said"), error))
    }
}

impl Change<'_> {
    /// As [`Store::agent_of_token`], within the change.
    pub async fn agent_of_token(&mut self, hash: Digest) -> Result<Option<NodeAgent>> {
        by_token(&mut *self.tx, hash).await
    }

    /// Keeps the token of a system that is being deployed; it is heard from its first word on.
    pub async fn offer_token(&mut self, node: NodeId, hash: Digest) -> Result<()> {
        let query = sqlx::query(
            "INSERT INTO agents (node, next_token, events) VALUES ($1, $2, 0) \
             ON CONFLICT (node) DO UPDATE SET next_token = $2",
        );
        let query = query.bind(node.to_string()).bind(hash.to_string());
        query.execute(&mut *self.tx).await?;
        Ok(())
    }

    /// The system that was deployed has taken over, or will: its agent's token is the only one,
    /// and what another one said is forgotten.
    pub async fn succeed_agent(&mut self, node: NodeId) -> Result<()> {
        let query = sqlx::query(
            "UPDATE agents SET token = next_token, next_token = NULL, events = 0, heard = NULL, \
             said = NULL, host = NULL, guests = NULL \
             WHERE node = $1 AND next_token IS NOT NULL",
        );
        query.bind(node.to_string()).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Keeps what an agent said.
    pub async fn keep_said(&mut self, agent: &NodeAgent, facts: &Facts) -> Result<()> {
        let Some(heard) = &agent.heard else { return Ok(()) };
        let render = |text: serde_json::Result<String>| {
            text.map_err(|error| damaged(what(agent.node), error))
        };
        let query = sqlx::query(
            "UPDATE agents SET events = $1, heard = $2, said = $3, host = $4, guests = $5 \
             WHERE node = $6",
        );
        query
            .bind(number(agent.events))
            .bind(heard.at.as_millisecond())
            .bind(render(serde_json::to_string(heard))?)
            .bind(render(serde_json::to_string(&facts.host))?)
            .bind(render(serde_json::to_string(&facts.guests))?)
            .bind(agent.node.to_string())
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }
}

fn what(node: NodeId) -> String {
    format!("the agent of node {node}")
}

async fn by_node<'e>(
    executor: impl Executor<'e, Database = Any>,
    node: NodeId,
) -> Result<Option<NodeAgent>> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE node = $1"));
    let row = sqlx::query(sql).bind(node.to_string()).fetch_optional(executor).await?;
    row.as_ref().map(read).transpose()
}

async fn by_token<'e>(
    executor: impl Executor<'e, Database = Any>,
    hash: Digest,
) -> Result<Option<NodeAgent>> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE token = $1 OR next_token = $1"));
    let row = sqlx::query(sql).bind(hash.to_string()).fetch_optional(executor).await?;
    row.as_ref().map(read).transpose()
}

fn read(row: &AnyRow) -> Result<NodeAgent> {
    let id: String = row.try_get("node")?;
    let what = || format!("the agent of node {id}");
    let next: Option<String> = row.try_get("next_token")?;
    let next = next.map(|text| text.parse::<Digest>()).transpose();
    let events: i64 = row.try_get("events")?;
    let (at, said): (Option<i64>, Option<String>) = (row.try_get("heard")?, row.try_get("said")?);
    let heard = match (at, said) {
        (Some(at), Some(said)) => {
            let heard: Heard =
                serde_json::from_str(&said).map_err(|error| damaged(what(), error))?;
            let at = Timestamp::from_millisecond(at).map_err(|error| damaged(what(), error))?;
            Some(Heard { at, ..heard })
        }
        _ => None,
    };
    Ok(NodeAgent {
        node: id.parse().map_err(|error: crate::mac::NotAMac| damaged(what(), error))?,
        next: next.map_err(|error| damaged(what(), error))?,
        events: u64::try_from(events).unwrap_or_default(),
        heard,
    })
}
