//! Rows of desired states.

use jiff::Timestamp;
use sqlx::{Any, Executor, Row as _, any::AnyRow};

use super::{Change, Result, Store, StoreError, damaged};
use crate::{
    node::NodeId,
    shape::{Given, NotAFormat, Shape},
};

impl Store {
    /// What a node should be.
    pub async fn shape(&self, node: NodeId) -> Result<Option<Shape>> {
        by_node(&self.pool, node).await
    }

    /// Nodes whose agents should have reached their desired state by `moment` and did not say so.
    pub async fn overdue_shapes(&self, moment: Timestamp) -> Result<Vec<NodeId>> {
        let query = sqlx::query("SELECT node FROM configs WHERE wait_until <= $1 ORDER BY node");
        let rows = query.bind(moment.as_millisecond()).fetch_all(&self.pool).await?;
        let parse = |row: &AnyRow| {
            let id: String = row.try_get("node")?;
            id.parse().map_err(|error: crate::mac::NotAMac| damaged("a desired state", error))
        };
        rows.iter().map(parse).collect()
    }

    /// The first moment by which an agent should have reached its desired state.
    pub async fn next_overdue_shape(&self) -> Result<Option<Timestamp>> {
        let row = sqlx::query("SELECT MIN(wait_until) AS next FROM configs");
        let next: Option<i64> = row.fetch_one(&self.pool).await?.try_get("next")?;
        next.map(|next| moment("a desired state's deadline", next)).transpose()
    }

    /// Gives every agent time until `fair` at least.
    pub async fn put_off_shapes(&self, fair: Timestamp) -> Result<()> {
        let mut change = self.change().await?;
        let query = sqlx::query("UPDATE configs SET wait_until = $1 WHERE wait_until < $1");
        query.bind(fair.as_millisecond()).execute(&mut *change.tx).await?;
        change.commit().await?;
        Ok(())
    }
}

impl Change<'_> {
    /// As [`Store::shape`], within the change.
    pub async fn shape(&mut self, node: NodeId) -> Result<Option<Shape>> {
        by_node(&mut *self.tx, node).await
    }

    /// Writes what a node should be, over generation `old` (0 for none).
    pub async fn set_shape(&mut self, node: NodeId, old: u64, shape: &Shape) -> Result<()> {
        // A new row is written empty first: then there is one way to fill it.
        let made = sqlx::query(
            "INSERT INTO configs (node, generation, since, set_by) VALUES ($1, 0, 0, '') \
             ON CONFLICT (node) DO NOTHING",
        );
        made.bind(node.to_string()).execute(&mut *self.tx).await?;
        let query = sqlx::query(
            "UPDATE configs SET generation = $1, format = $2, desired = $3, since = $4, \
             set_by = $5, wait_until = $6 WHERE node = $7 AND generation = $8",
        );
        let given = shape.given.as_ref();
        let done = query
            .bind(number(shape.generation))
            .bind(given.map(|given| given.format.to_string()))
            .bind(given.map(|given| given.text.clone()))
            .bind(shape.since.as_millisecond())
            .bind(&shape.by)
            .bind(shape.until.map(Timestamp::as_millisecond))
            .bind(node.to_string())
            .bind(number(old))
            .execute(&mut *self.tx)
            .await?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(StoreError::Conflict(format!("the desired state of node {node}"))),
        }
    }

    /// Sets until when an agent should have reached what its node should be.
    pub async fn await_shape(&mut self, node: NodeId, until: Option<Timestamp>) -> Result<()> {
        let query = sqlx::query(
            "UPDATE configs SET wait_until = $1 WHERE node = $2 AND desired IS NOT NULL",
        );
        let query = query.bind(until.map(Timestamp::as_millisecond)).bind(node.to_string());
        query.execute(&mut *self.tx).await?;
        Ok(())
    }
}

async fn by_node<'e>(
    executor: impl Executor<'e, Database = Any>,
    node: NodeId,
) -> Result<Option<Shape>> {
    let query = sqlx::query(
        "SELECT generation, format, desired, since, set_by, wait_until FROM configs \
         WHERE node = $1",
    );
    let row = query.bind(node.to_string()).fetch_optional(executor).await?;
    row.map(|row| read(&row, node)).transpose()
}

fn read(row: &AnyRow, node: NodeId) -> Result<Shape> {
    let what = || format!("the desired state of node {node}");
    let format: Option<String> = row.try_get("format")?;
    let text: Option<String> = row.try_get("desired")?;
    let given = match (format, text) {
        (Some(format), Some(text)) => {
            let format = format.parse().map_err(|error: NotAFormat| damaged(what(), error))?;
            Some(Given { format, text })
        }
        _ => None,
    };
    let until: Option<i64> = row.try_get("wait_until")?;
    let generation: i64 = row.try_get("generation")?;
    Ok(Shape {
        generation: u64::try_from(generation).map_err(|error| damaged(what(), error))?,
        given,
        since: moment(&what(), row.try_get("since")?)?,
        by: row.try_get("set_by")?,
        until: until.map(|until| moment(&what(), until)).transpose()?,
    })
}

fn moment(what: &str, milliseconds: i64) -> Result<Timestamp> {
    Timestamp::from_millisecond(milliseconds).map_err(|error| damaged(what, error))
}

/// As the database counts.
pub(super) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
