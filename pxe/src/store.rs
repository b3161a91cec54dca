//! The only place that speaks SQL: the provisioner's state in SQLite, or in PostgreSQL
//! when several servers share it.
//!
//! Every change is one transaction, durable when [`Change::commit`] returns. Rows of nodes
//! and deployments carry a version, so that two servers cannot overwrite each other.

mod agents;
mod answers;
mod configs;
mod deployments;
mod events;
mod leases;
mod nodes;

use std::path::Path;

use anyhow::Context as _;
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Any, AnyPool, Executor as _, SqlStr, Transaction};
use tokio::sync::{Mutex, MutexGuard};

use crate::event::Event;

pub(crate) use answers::Answer;
pub(crate) use events::{EventFilter, EventKind};

/// The tables, step by step. A list written out: sqlx's macro for it would compile both
/// databases' drivers a second time, for the build.
fn schema() -> Migrator {
    let step = |number, name: &'static str, sql| {
        Migration::new(number, name.into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    Migrator::with_migrations(vec![
        step(1, "first", include_str!("../migrations/0001_first.sql")),
        step(2, "config", include_str!("../migrations/0002_config.sql")),
    ])
}

/// The state, on disk.
#[derive(Debug)]
pub struct Store {
    pool: AnyPool,
    /// How a transaction that will write begins.
    begin: &'static str,
    /// SQLite has one writer; queueing here is fair and never times out.
    pen: Mutex<()>,
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another server changed the same row first.
    #[error("{0} was changed by another server at the same time; ask again")]
    Conflict(String),
    /// A row does not hold what this program writes.
    #[error("{what} is damaged in the database")]
    Damaged {
        /// Which row.
        what: String,
        /// What is wrong with it.
        #[source]
        source: anyhow::Error,
    },
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

type Result<T> = std::result::Result<T, StoreError>;

/// The URL of the SQLite file at `path`, made when it is not there.
pub fn sqlite_url(path: &Path) -> String {
    let path = path.display().to_string();
    let path = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    format!("sqlite://{path}?mode=rwc")
}

impl Store {
    /// Opens the database at `url` (`sqlite:` or `postgres:`) and brings its tables up to date.
    pub async fn open(url: &str) -> anyhow::Result<Store> {
        sqlx::any::install_default_drivers();
        let pool = AnyPoolOptions::new()
            .max_connections(4)
            // A file does not go away as a server may: asking costs a turn for every change.
            .test_before_acquire(!url.starts_with("sqlite:"))
            .after_connect(|connection, _| {
                Box::pin(async move {
                    if connection.backend_name() == "SQLite" {
                        // A commit is on the disk when it returns: nodes have been told of it.
                        connection
                            .execute(
                                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                                 PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 10000; \
                                 PRAGMA cache_size = -1024",
                            )
                            .await?;
                    }
                    Ok(())
                })
            })
            .connect(url)
            .await
            .context("opening the database")?;
        schema().run(&pool).await.context("bringing the database's tables up to date")?;
        // SQLite refuses to turn a reader into a writer when another process wrote meanwhile.
        let begin = if url.starts_with("sqlite:") { "BEGIN IMMEDIATE" } else { "BEGIN" };
        Ok(Store { pool, begin, pen: Mutex::new(()) })
    }

    /// Begins a change.
    pub async fn change(&self) -> Result<Change<'_>> {
        let pen = self.pen.lock().await;
        let tx = self.pool.begin_with(self.begin).await?;
        Ok(Change { tx, pen, events: Vec::new() })
    }

    /// Ends the use of the database, flushing what its log still holds into it.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A change under way; dropped without [`Change::commit`], it never was.
#[derive(Debug)]
pub struct Change<'s> {
    tx: Transaction<'static, Any>,
    pen: MutexGuard<'s, ()>,
    events: Vec<Event>,
}

impl<'s> Change<'s> {
    /// Makes it durable and gives back the events it logged, with their numbers.
    pub async fn commit(self) -> Result<Committed<'s>> {
        self.tx.commit().await?;
        Ok(Committed { events: self.events, _pen: self.pen })
    }
}

/// A change that is durable. No other one begins before this is dropped.
#[derive(Debug)]
pub struct Committed<'s> {
    /// What it logged.
    pub events: Vec<Event>,
    _pen: MutexGuard<'s, ()>,
}

fn damaged(what: impl Into<String>, source: impl Into<anyhow::Error>) -> StoreError {
    StoreError::Damaged { what: what.into(), source: source.into() }
}
