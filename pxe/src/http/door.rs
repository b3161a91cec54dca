//! What comes in, parsed: bodies, queries and path segments, with problems for what is not one.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, request::Parts},
};
use images::Digest;
use serde::{Deserialize, de::DeserializeOwned};
use uuid::Uuid;

use super::problem::Fault;
use crate::provisioner::Repeat;

/// Items of a page, when nobody says.
const PAGE: i64 = 100;
/// Items of the longest page.
const LONGEST_PAGE: i64 = 1000;

/// A body of JSON.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let bytes = Bytes::from_request(request, state).await.map_err(unreadable)?;
        parse(&bytes).map(Body)
    }
}

/// A body of JSON with its idempotency key, if it has one.
pub struct Repeatable<T>(pub T, pub Option<Repeat>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Repeatable<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let key = idempotency_key(request.headers())?;
        let door = format!("{} {}\n", request.method(), request.uri().path());
        let bytes = Bytes::from_request(request, state).await.map_err(unreadable)?;
        let repeat = key.map(|key| {
            let request = Digest::of(&[door.as_bytes(), &bytes].concat());
            Repeat { key, request }
        });
        Ok(Repeatable(parse(&bytes)?, repeat))
    }
}

/// A body that did not come whole, or is too long.
pub fn unreadable(rejection: BytesRejection) -> Fault {
    Fault::new(rejection.status(), rejection.body_text())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|error| {
        let status = match error.classify() {
            serde_json::error::Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::BAD_REQUEST,
        };
        Fault::new(status, format!("the body is not the JSON of this request: {error}"))
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=128).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let text = "Idempotency-Key is not 1 to 128 printable ASCII characters";
            Err(Fault::new(StatusCode::BAD_REQUEST, text))
        }
    }
}

/// The part of a URL after `?`.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let parsed = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        let wrong = |rejection: axum::extract::rejection::QueryRejection| {
            Fault::new(StatusCode::BAD_REQUEST, rejection.body_text())
        };
        parsed.map(|query| Query(query.0)).map_err(wrong)
    }
}

/// Which part of a list is wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// Items at most: 1 to 1000, 100 when absent.
    pub limit: Option<i64>,
    /// The `next` of the page before.
    pub after: Option<String>,
}

/// How many items a page may have.
pub fn page_size(limit: Option<i64>) -> Result<i64, Fault> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=LONGEST_PAGE => Ok(limit),
        limit => {
            let text = format!("limit is {limit}; 1 to {LONGEST_PAGE} is accepted");
            Err(Fault::new(StatusCode::BAD_REQUEST, text))
        }
    }
}

/// A digest in a path.
pub fn digest(text: &str) -> Result<Digest, Fault> {
    text.parse().map_err(|error: images::digest::NotADigest| {
        Fault::new(StatusCode::BAD_REQUEST, error.to_string().escape_debug().to_string())
    })
}

/// A deployment's identifier in a path or query.
pub fn deployment_id(text: &str) -> Result<Uuid, Fault> {
    text.parse().map_err(|_| {
        let shown: String = text.escape_debug().take(80).collect();
        let text = format!("`{shown}` is no deployment; GET /v1/deployments lists them");
        Fault::new(StatusCode::NOT_FOUND, text)
    })
}
