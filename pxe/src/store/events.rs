//! The log of what happened.

use std::str::FromStr;

use jiff::Timestamp;
use sqlx::{Row as _, any::AnyRow};
use uuid::Uuid;

use super::{Change, Result, Store, damaged};
use crate::{
    event::{Event, Note},
    node::NodeId,
};

/// Which events are wanted.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Those after this number.
    pub since: i64,
    /// Those of this node.
    pub node: Option<NodeId>,
    /// Those of this deployment.
    pub deployment: Option<Uuid>,
    /// Those of this kind, and of those below it: `slice` has `slice.ready`.
    pub kind: Option<EventKind>,
}

impl EventFilter {
    /// Whether an event passes, whatever its number.
    pub fn takes(&self, event: &Event) -> bool {
        self.node.is_none_or(|wanted| Some(wanted) == event.node)
            && self.deployment.is_none_or(|wanted| Some(wanted) == event.deployment)
            && self.kind.as_ref().is_none_or(|wanted| wanted.has(&event.kind))
    }
}

/// A kind of event, or the first words of some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventKind(String);

impl EventKind {
    fn has(&self, kind: &str) -> bool {
        kind.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl FromStr for EventKind {
    type Err = NotAKind;

    fn from_str(text: &str) -> std::result::Result<Self, NotAKind> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte == b'.';
        let is_kind = !text.is_empty() && text.len() <= 64 && text.bytes().all(fits);
        is_kind.then(|| EventKind(text.to_owned())).ok_or_else(|| NotAKind(text.to_owned()))
    }
}

/// No kind of event.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no kind of event: like `slice.ready`, or `slice` for all that begin so")]
pub struct NotAKind(String);

impl Store {
    /// Up to `limit` events, oldest first.
    pub async fn events(&self, filter: EventFilter, limit: i64) -> Result<Vec<Event>> {
        let query = sqlx::query(
            "SELECT id, happened, kind, node, deployment, text FROM events WHERE id > $1 \
             AND ($2 = '' OR node = $2) AND ($3 = '' OR deployment = $3) \
             AND (kind = $4 OR kind LIKE $5) ORDER BY id LIMIT $6",
        );
        let kind = filter.kind.map(|kind| kind.0);
        let below = kind.as_ref().map_or_else(|| "%".to_owned(), |kind| format!("{kind}.%"));
        let rows = query
            .bind(filter.since)
            .bind(filter.node.map(|node| node.to_string()).unwrap_or_default())
            .bind(filter.deployment.map(|id| id.to_string()).unwrap_or_default())
            .bind(kind.unwrap_or_default())
            .bind(below)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_those_below_it() {
        let slice: EventKind = "slice".parse().unwrap();
        assert!(slice.has("slice.ready") && slice.has("slice"));
        assert!(!slice.has("slices.ready") && !slice.has("node.slice"));
        assert!("slice.ready".parse::<EventKind>().unwrap().has("slice.ready"));
        for wrong in ["", "Slice", "slice%", "slice_ready", &"s".repeat(65)] {
            assert!(wrong.parse::<EventKind>().is_err(), "{wrong}");
        }
    }
}
