//! The log of what happened.

use jiff::Timestamp;
use sqlx::{Row as _, any::AnyRow};
use uuid::Uuid;

use super::{Change, Result, Store, damaged};
use crate::{
    event::{Event, Note},
    node::NodeId,
};

/// Which events are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventFilter {
    /// Those after this number.
    pub since: i64,
    /// Those of this node.
    pub node: Option<NodeId>,
    /// Those of this deployment.
    pub deployment: Option<Uuid>,
}

impl Store {
    /// Up to `limit` events, oldest first.
    pub async fn events(&self, filter: EventFilter, limit: i64) -> Result<Vec<Event>> {
        let query = sqlx::query(
            "SELECT id, happened, kind, node, deployment, text FROM events WHERE id > $1 \
             AND ($2 = '' OR node = $2) AND ($3 = '' OR deployment = $3) \
             ORDER BY id LIMIT $4",
        );
        let rows = query
            .bind(filter.since)
            .bind(filter.node.map(|node| node.to_string()).unwrap_or_default())
            .bind(filter.deployment.map(|id| id.to_string()).unwrap_or_default())
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(read).collect()
    }

    /// Forgets what happened before `moment`, and says how many events that were.
    pub async fn forget_events(&self, moment: Timestamp) -> Result<u64> {
        let mut change = self.change().await?;
        let query = sqlx::query("DELETE FROM events WHERE happened < $1");
        let gone = query.bind(moment.as_millisecond()).execute(&mut *change.tx).await?;
        change.commit().await?;
        Ok(gone.rows_affected())
    }

    /// The number of the last event.
    pub async fn last_event(&self) -> Result<i64> {
        let query = sqlx::query("SELECT value FROM counters WHERE name = 'event'");
        Ok(query.fetch_one(&self.pool).await?.try_get("value")?)
    }
}

impl Change<'_> {
    /// Adds a line to the log.
    pub async fn log(
        &mut self,
        at: Timestamp,
        node: Option<NodeId>,
        deployment: Option<Uuid>,
        note: Note,
    ) -> Result<()> {
        // The counter's row stays locked until the commit: numbers come in the order of commits,
        // so that who has seen number n never misses a smaller one.
        let next = "UPDATE counters SET value = value + 1 WHERE name = 'event' RETURNING value";
        let id: i64 = sqlx::query(next).fetch_one(&mut *self.tx).await?.try_get("value")?;
        let query = sqlx::query(
            "INSERT INTO events (id, happened, kind, node, deployment, text) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        );
        query
            .bind(id)
            .bind(at.as_millisecond())
            .bind(note.kind)
            .bind(node.map(|node| node.to_string()))
            .bind(deployment.map(|id| id.to_string()))
            .bind(&note.text)
            .execute(&mut *self.tx)
            .await?;
        let kind = note.kind.to_owned();
        self.events.push(Event { id, at, kind, node, deployment, text: note.text });
        Ok(())
    }
}

fn read(row: &AnyRow) -> Result<Event> {
    let id: i64 = row.try_get("id")?;
    let what = || format!("event {id}");
    let node: Option<String> = row.try_get("node")?;
    let node = node.map(|node| node.parse()).transpose();
    let deployment: Option<String> = row.try_get("deployment")?;
    let deployment = deployment.map(|id| id.parse()).transpose();
    let at = Timestamp::from_millisecond(row.try_get("happened")?);
    Ok(Event {
        id,
        at: at.map_err(|error| damaged(what(), error))?,
        kind: row.try_get("kind")?,
        node: node.map_err(|error: crate::mac::NotAMac| damaged(what(), error))?,
        deployment: deployment.map_err(|error: uuid::Error| damaged(what(), error))?,
        text: row.try_get("text")?,
    })
}
