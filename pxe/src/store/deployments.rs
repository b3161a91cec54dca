//! Rows of deployments, with their waits as columns.

use images::Digest;
use jiff::Timestamp;
use sqlx::{Any, Executor, Row as _, any::AnyRow};
use uuid::Uuid;

use super::{Change, Result, Store, StoreError, damaged};
use crate::{
    deployment::{Deployment, Ended, Ending},
    node::NodeId,
    wait::Wait,
};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, node, image, manifest, step, wait_what, wait_since, wait_until, ",
            "wait_then, outcome, reason, ended, boot_token, bearer, body, version ",
            "FROM deployments ",
            $rest
        )
    };
}

impl Store {
    /// The deployment of this identifier.
    pub async fn deployment(&self, id: Uuid) -> Result<Option<Deployment>> {
        by_id(&self.pool, id).await
    }

    /// As [`Change::deployment_of_bearer`], outside of any change.
    pub async fn deployment_of_bearer(&self, hash: Digest) -> Result<Option<Deployment>> {
        by_bearer(&self.pool, hash).await
    }

    /// Every deployment that has not ended.
    pub async fn open_deployments(&self) -> Result<Vec<Deployment>> {
        let query = sqlx::query(select!("WHERE outcome IS NULL ORDER BY id"));
        query.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// Up to `limit` deployments older than `before`, youngest first; of one node, if named.
    pub async fn deployments(
        &self,
        node: Option<NodeId>,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Deployment>> {
        let before = before.unwrap_or(Uuid::max()).to_string();
        let rows = match node {
            Some(node) => {
                let sql = select!("WHERE node = $1 AND id < $2 ORDER BY id DESC LIMIT $3");
                let query = sqlx::query(sql).bind(node.to_string()).bind(before).bind(limit);
                query.fetch_all(&self.pool).await?
            }
            None => {
                let sql = select!("WHERE id < $1 ORDER BY id DESC LIMIT $2");
                sqlx::query(sql).bind(before).bind(limit).fetch_all(&self.pool).await?
            }
        };
        rows.iter().map(read).collect()
    }

    /// The youngest deployment of a node.
    pub async fn latest_deployment(&self, node: NodeId) -> Result<Option<Deployment>> {
        Ok(self.deployments(Some(node), None, 1).await?.pop())
    }

    /// The first deadline there is.
    pub async fn next_deadline(&self) -> Result<Option<Timestamp>> {
        let sql = "SELECT MIN(wait_until) AS next FROM deployments WHERE outcome IS NULL";
        let row = sqlx::query(sql).fetch_one(&self.pool).await?;
        let next: Option<i64> = row.try_get("next")?;
        next.map(|next| moment("a deadline", next)).transpose()
    }
}

impl Change<'_> {
    /// As [`Store::deployment`], within the change.
    pub async fn deployment(&mut self, id: Uuid) -> Result<Option<Deployment>> {
        by_id(&mut *self.tx, id).await
    }

    /// The deployment of a node that has not ended.
    pub async fn open_deployment(&mut self, node: NodeId) -> Result<Option<Deployment>> {
        let query = sqlx::query(select!("WHERE node = $1 AND outcome IS NULL"));
        let row = query.bind(node.to_string()).fetch_optional(&mut *self.tx).await?;
        row.as_ref().map(read).transpose()
    }

    /// The deployment whose boot script has the token of this hash.
    pub async fn deployment_of_boot_token(&mut self, hash: Digest) -> Result<Option<Deployment>> {
        let query = sqlx::query(select!("WHERE boot_token = $1"));
        let row = query.bind(hash.to_string()).fetch_optional(&mut *self.tx).await?;
        row.as_ref().map(read).transpose()
    }

    /// The deployment whose agent bears the token of this hash.
    pub async fn deployment_of_bearer(&mut self, hash: Digest) -> Result<Option<Deployment>> {
        by_bearer(&mut *self.tx, hash).await
    }

    /// The manifest that was written to the node of `deployment` before it. Of the last few that
    /// were tried: what is older is hardly on its disk any more.
    pub async fn written_before(&mut self, deployment: &Deployment) -> Result<Option<Digest>> {
        let sql = select!("WHERE node = $1 AND id < $2 ORDER BY id DESC LIMIT 8");
        let query = sqlx::query(sql).bind(deployment.node.to_string());
        let rows = query.bind(deployment.id.to_string()).fetch_all(&mut *self.tx).await?;
        for row in &rows {
            let before = read(row)?;
            if before.written.is_some() {
                return Ok(Some(before.manifest));
            }
        }
        Ok(None)
    }

    /// Writes a deployment that is new.
    pub async fn insert_deployment(&mut self, deployment: &Deployment) -> Result<()> {
        let query = sqlx::query(
            "INSERT INTO deployments (id, node, image, manifest, step, body, version) \
             VALUES ($1, $2, $3, $4, $5, '{}', 0)",
        );
        query
            .bind(deployment.id.to_string())
            .bind(deployment.node.to_string())
            .bind(&deployment.image)
            .bind(deployment.manifest.to_string())
            .bind(deployment.step.name())
            .execute(&mut *self.tx)
            .await?;
        self.update_deployment(deployment).await
    }

    /// Writes a deployment over its old self.
    pub async fn update_deployment(&mut self, deployment: &Deployment) -> Result<()> {
        let wait = deployment.wait;
        let (outcome, reason) = match deployment.ended.as_ref().map(|ended| &ended.ending) {
            None => (None, None),
            Some(Ending::Done) => (Some("done"), None),
            Some(Ending::Cancelled) => (Some("cancelled"), None),
            Some(Ending::Failed(reason)) => (Some("failed"), Some(reason.as_str())),
        };
        let body = serde_json::to_string(deployment)
            .map_err(|error| damaged(format!("deployment {}", deployment.id), error))?;
        let query = sqlx::query(
            "UPDATE deployments SET step = $1, wait_what = $2, wait_since = $3, \
             wait_until = $4, wait_then = $5, outcome = $6, reason = $7, ended = $8, \
             boot_token = $9, bearer = $10, body = $11, version = version + 1 \
             WHERE id = $12 AND version = $13",
        );
        let done = query
            .bind(deployment.step.name())
            .bind(wait.map(|wait| wait.what.word()))
            .bind(wait.map(|wait| wait.since.as_millisecond()))
            .bind(wait.map(|wait| wait.until.as_millisecond()))
            .bind(wait.map(|wait| wait.then.word()))
            .bind(outcome)
            .bind(reason)
            .bind(deployment.ended.as_ref().map(|ended| ended.at.as_millisecond()))
            .bind(deployment.boot_token.map(|hash| hash.to_string()))
            .bind(deployment.bearer.map(|hash| hash.to_string()))
            .bind(body)
            .bind(deployment.id.to_string())
            .bind(deployment.version)
            .execute(&mut *self.tx)
            .await?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(StoreError::Conflict(format!("deployment {}", deployment.id))),
        }
    }
}

async fn by_id<'e>(
    executor: impl Executor<'e, Database = Any>,
    id: Uuid,
) -> Result<Option<Deployment>> {
    let query = sqlx::query(select!("WHERE id = $1")).bind(id.to_string());
    query.fetch_optional(executor).await?.as_ref().map(read).transpose()
}

async fn by_bearer<'e>(
    executor: impl Executor<'e, Database = Any>,
    hash: Digest,
) -> Result<Option<Deployment>> {
    let query = sqlx::query(select!("WHERE bearer = $1")).bind(hash.to_string());
    query.fetch_optional(executor).await?.as_ref().map(read).transpose()
}

fn moment(what: &str, milliseconds: i64) -> Result<Timestamp> {
    Timestamp::from_millisecond(milliseconds).map_err(|error| damaged(what, error))
}

fn read(row: &AnyRow) -> Result<Deployment> {
    let id: String = row.try_get("id")?;
    parse(row, &id).map_err(|error| match error.downcast::<sqlx::Error>() {
        Ok(error) => StoreError::Database(error),
        Err(error) => damaged(format!("deployment {id}"), error),
    })
}

fn parse(row: &AnyRow, id: &str) -> anyhow::Result<Deployment> {
    let text = |column: &str| row.try_get::<String, _>(column);
    let maybe = |column: &str| row.try_get::<Option<String>, _>(column);
    let time = |column: &str| row.try_get::<Option<i64>, _>(column);
    let mut deployment: Deployment = serde_json::from_str(&text("body")?)?;
    deployment.id = id.parse()?;
    deployment.node = text("node")?.parse()?;
    deployment.image = text("image")?;
    deployment.manifest = text("manifest")?.parse()?;
    deployment.step = text("step")?.parse()?;
    deployment.version = row.try_get("version")?;
    deployment.boot_token = maybe("boot_token")?.map(|hash| hash.parse()).transpose()?;
    deployment.bearer = maybe("bearer")?.map(|hash| hash.parse()).transpose()?;
    let wait = (maybe("wait_what")?, time("wait_since")?, time("wait_until")?, maybe("wait_then")?);
    if let (Some(what), Some(since), Some(until), Some(then)) = wait {
        deployment.wait = Some(Wait {
            what: what.parse()?,
            since: Timestamp::from_millisecond(since)?,
            until: Timestamp::from_millisecond(until)?,
            then: then.parse()?,
        });
    }
    let ending = match maybe("outcome")?.as_deref() {
        None => None,
        Some("done") => Some(Ending::Done),
        Some("cancelled") => Some(Ending::Cancelled),
        Some("failed") => Some(Ending::Failed(maybe("reason")?.unwrap_or_default())),
        Some(word) => anyhow::bail!("`{word}` names no ending"),
    };
    if let (Some(ending), Some(at)) = (ending, time("ended")?) {
        deployment.ended = Some(Ended { at: Timestamp::from_millisecond(at)?, ending });
    }
    Ok(deployment)
}
