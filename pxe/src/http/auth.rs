//! Who may pass: the admin token before the API.

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Context, problem::Fault};
use crate::token;

/// Lets pass who bears the admin token.
pub async fn admin_only(State(shared): Context, request: Request, next: Next) -> Response {
    match bearer(request.headers()) {
        Some(shown) if token::hash(shown) == shared.admin => next.run(request).await,
        Some(_) => {
            let text = "the bearer token is not the admin token; it is in the file that \
                        `billet serve` named when it started";
            Fault::new(StatusCode::UNAUTHORIZED, text).into_response()
        }
        None => {
            let text = "no bearer token; `Authorization: Bearer <admin token>` is needed";
            Fault::new(StatusCode::UNAUTHORIZED, text).into_response()
        }
    }
}

/// The token of an agent; asked for before its message is looked at.
pub struct AgentToken(pub String);

impl<S: Send + Sync> FromRequestParts<S> for AgentToken {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        bearer(&parts.headers).map(|token| AgentToken(token.to_owned())).ok_or_else(|| {
            let text =
                "no bearer token; `Authorization: Bearer` with that of the welcome is needed";
            Fault::new(StatusCode::UNAUTHORIZED, text)
        })
    }
}

/// The token that a request bears.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
