//! Answers already given, for clients that repeat a request (`Idempotency-Key`).

use images::Digest;
use jiff::Timestamp;
use sqlx::Row as _;

use super::{Change, Result, damaged};

/// For how long an answer is kept, milliseconds.
const KEPT: i64 = 24 * 3600 * 1000;

/// The answer to a request that made something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Hash of the request.
    pub request: Digest,
    /// HTTP status.
    pub status: u16,
    /// JSON.
    pub body: String,
}

impl Change<'_> {
    /// The answer given to the request of this key.
    pub async fn answer(&mut self, key: &str) -> Result<Option<Answer>> {
        let query = sqlx::query("SELECT request, status, body FROM answers WHERE request_key = $1");
        let Some(row) = query.bind(key.to_owned()).fetch_optional(&mut *self.tx).await? else {
            return Ok(None);
        };
        let request: String = row.try_get("request")?;
        let status: i64 = row.try_get("status")?;
        Ok(Some(Answer {
            request: request.parse().map_err(|error: images::digest::NotADigest| {
                damaged(format!("the answer of key {key}"), error)
            })?,
            status: u16::try_from(status).unwrap_or(200),
            body: row.try_get("body")?,
        }))
    }

    /// Keeps an answer, and forgets those that are a day old.
    pub async fn keep_answer(&mut self, key: &str, answer: &Answer, now: Timestamp) -> Result<()> {
        let forget = sqlx::query("DELETE FROM answers WHERE given < $1");
        forget.bind(now.as_millisecond() - KEPT).execute(&mut *self.tx).await?;
        let query = sqlx::query(
            "INSERT INTO answers (request_key, request, status, body, given) \
             VALUES ($1, $2, $3, $4, $5)",
        );
        query
            .bind(key.to_owned())
            .bind(answer.request.to_string())
            .bind(i64::from(answer.status))
            .bind(&answer.body)
            .bind(now.as_millisecond())
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }
}
