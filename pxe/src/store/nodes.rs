//! Rows of nodes and of their hardware addresses.

use protocol::Inventory;
use sqlx::{Any, Executor, Row as _, any::AnyRow};

use super::{Change, Result, Store, StoreError, damaged};
use crate::{
    mac::Mac,
    node::{Node, NodeId, State},
};

const COLUMNS: &str = "SELECT id, name, state, heading, reason, reserved, host_key, body, version \
                       FROM nodes";

impl Store {
    /// The node that `key` means: a name, an identifier or one of its hardware addresses.
    pub async fn node(&self, key: &str) -> Result<Option<Node>> {
        find(&self.pool, key).await
    }

    /// Up to `limit` nodes whose name comes after `after`, in the order of their names.
    pub async fn nodes(&self, after: &str, limit: i64) -> Result<Vec<Node>> {
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE name > $1 ORDER BY name LIMIT $2"));
        let rows = sqlx::query(sql).bind(after).bind(limit).fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// How many nodes there are of each state.
    pub async fn count_nodes(&self) -> Result<Vec<(String, i64)>> {
        let query = sqlx::query("SELECT state, COUNT(*) AS many FROM nodes GROUP BY state");
        let rows = query.fetch_all(&self.pool).await?;
        let pair = |row: &AnyRow| Ok((row.try_get("state")?, row.try_get("many")?));
        rows.iter().map(pair).collect()
    }

    /// What a node said of itself, last time it was in the RAM system.
    pub async fn inventory(&self, id: NodeId) -> Result<Option<Inventory>> {
        let query = sqlx::query("SELECT inventory FROM nodes WHERE id = $1").bind(id.to_string());
        let Some(row) = query.fetch_optional(&self.pool).await? else {
            return Ok(None);
        };
        let text: Option<String> = row.try_get("inventory")?;
        let parse = |text: String| serde_json::from_str(&text);
        let parsed = text.map(parse).transpose();
        parsed.map_err(|error| damaged(format!("the inventory of node {id}"), error))
    }
}

impl Change<'_> {
    /// As [`Store::node`], within the change.
    pub async fn node(&mut self, key: &str) -> Result<Option<Node>> {
        find(&mut *self.tx, key).await
    }

    /// The node that has this hardware address.
    pub async fn node_of(&mut self, mac: Mac) -> Result<Option<Node>> {
        by_mac(&mut *self.tx, mac).await
    }

    /// Writes a node that is new.
    pub async fn insert_node(&mut self, node: &Node) -> Result<()> {
        let (heading, reason) = failure(&node.state);
        let query = sqlx::query(
            "INSERT INTO nodes (id, name, state, heading, reason, reserved, host_key, body, \
             version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1)",
        );
        query
            .bind(node.id.to_string())
            .bind(&node.name)
            .bind(node.state.word())
            .bind(heading)
            .bind(reason)
            .bind(node.reserved.map(|address| address.to_string()))
            .bind(&node.host_key)
            .bind(body(node)?)
            .execute(&mut *self.tx)
            .await?;
        self.insert_macs(node).await
    }

    /// Writes a node over its old self.
    pub async fn update_node(&mut self, node: &Node) -> Result<()> {
        let (heading, reason) = failure(&node.state);
        let query = sqlx::query(
            "UPDATE nodes SET name = $1, state = $2, heading = $3, reason = $4, reserved = $5, \
             body = $6, version = version + 1 WHERE id = $7 AND version = $8",
        );
        let done = query
            .bind(&node.name)
            .bind(node.state.word())
            .bind(heading)
            .bind(reason)
            .bind(node.reserved.map(|address| address.to_string()))
            .bind(body(node)?)
            .bind(node.id.to_string())
            .bind(node.version)
            .execute(&mut *self.tx)
            .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Conflict(format!("node {}", node.name)));
        }
        let forget = sqlx::query("DELETE FROM macs WHERE node = $1").bind(node.id.to_string());
        forget.execute(&mut *self.tx).await?;
        self.insert_macs(node).await
    }

    /// Keeps what a node says of itself.
    pub async fn set_inventory(&mut self, id: NodeId, inventory: &Inventory) -> Result<()> {
        let text = serde_json::to_string(inventory)
            .map_err(|error| damaged(format!("the inventory of node {id}"), error))?;
        let query = sqlx::query("UPDATE nodes SET inventory = $1 WHERE id = $2");
        query.bind(text).bind(id.to_string()).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Forgets a node; what happened to it stays in the log.
    pub async fn delete_node(&mut self, id: NodeId) -> Result<()> {
        for sql in [
            "DELETE FROM macs WHERE node = $1",
            "DELETE FROM deployments WHERE node = $1",
            "DELETE FROM configs WHERE node = $1",
            "DELETE FROM agents WHERE node = $1",
            "DELETE FROM nodes WHERE id = $1",
        ] {
            sqlx::query(sql).bind(id.to_string()).execute(&mut *self.tx).await?;
        }
        Ok(())
    }

    /// The name of the node that `address` is kept for.
    pub async fn keeper_of(&mut self, address: std::net::Ipv4Addr) -> Result<Option<Node>> {
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE reserved = $1"));
        let query = sqlx::query(sql).bind(address.to_string());
        let row = query.fetch_optional(&mut *self.tx).await?;
        row.as_ref().map(read).transpose()
    }

    async fn insert_macs(&mut self, node: &Node) -> Result<()> {
        for mac in &node.macs {
            let query = sqlx::query("INSERT INTO macs (mac, node) VALUES ($1, $2)");
            let query = query.bind(mac.to_string()).bind(node.id.to_string());
            query.execute(&mut *self.tx).await?;
        }
        Ok(())
    }
}

async fn find<'e>(executor: impl Executor<'e, Database = Any>, key: &str) -> Result<Option<Node>> {
    if let Ok(mac) = key.parse::<Mac>() {
        return by_mac(executor, mac).await;
    }
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE name = $1"));
    let row = sqlx::query(sql).bind(key.to_owned()).fetch_optional(executor).await?;
    row.as_ref().map(read).transpose()
}

async fn by_mac<'e>(executor: impl Executor<'e, Database = Any>, mac: Mac) -> Result<Option<Node>> {
    let sql = format!(
        "{COLUMNS} WHERE id = $1 OR id = (SELECT node FROM macs WHERE mac = $2) ORDER BY id <> $1"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(sql));
    let query = query.bind(NodeId(mac).to_string()).bind(mac.to_string());
    let row = query.fetch_optional(executor).await?;
    row.as_ref().map(read).transpose()
}

fn failure(state: &State) -> (Option<&str>, Option<&str>) {
    match state {
        State::Failed { heading, reason } => (Some(heading), Some(reason)),
        _ => (None, None),
    }
}

fn body(node: &Node) -> Result<String> {
    serde_json::to_string(node).map_err(|error| damaged(format!("node {}", node.id), error))
}

fn read(row: &AnyRow) -> Result<Node> {
    let id: String = row.try_get("id")?;
    let what = || format!("node {id}");
    let body: String = row.try_get("body")?;
    let mut node: Node = serde_json::from_str(&body).map_err(|error| damaged(what(), error))?;
    node.id = id.parse().map_err(|error: crate::mac::NotAMac| damaged(what(), error))?;
    node.name = row.try_get("name")?;
    node.host_key = row.try_get("host_key")?;
    node.version = row.try_get("version")?;
    let word: String = row.try_get("state")?;
    let state = State::from_words(&word, row.try_get("heading")?, row.try_get("reason")?);
    node.state =
        state.ok_or_else(|| damaged(what(), anyhow::anyhow!("`{word}` names no state")))?;
    let reserved: Option<String> = row.try_get("reserved")?;
    node.reserved = reserved
        .map(|address| address.parse())
        .transpose()
        .map_err(|error: std::net::AddrParseError| damaged(what(), error))?;
    Ok(node)
}
