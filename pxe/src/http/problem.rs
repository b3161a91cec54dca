//! Errors as RFC 9457 problem details.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{api::Problem, provisioner::Undone, refusal::Refusal, store::StoreError};

/// An answer that is a problem.
#[derive(Debug)]
pub struct Fault {
    status: StatusCode,
    detail: String,
}

impl Fault {
    /// A problem with this status; `detail` says what would have been accepted.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Fault {
        Fault { status, detail: detail.into() }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        let status = match refusal {
            Refusal::Unknown(_) => StatusCode::NOT_FOUND,
            Refusal::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::Stale(_) => StatusCode::PRECONDITION_FAILED,
            Refusal::Unproven(_) => StatusCode::UNAUTHORIZED,
            Refusal::Forbidden(_) => StatusCode::FORBIDDEN,
        };
        Fault::new(status, refusal.to_string())
    }
}

impl From<Undone> for Fault {
    fn from(undone: Undone) -> Fault {
        match undone {
            Undone::Refused(refusal) => refusal.into(),
            Undone::Store(error @ StoreError::Conflict(_)) => {
                Fault::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            Undone::Store(error) => broken(error.into()),
            Undone::Broken(error) => broken(error),
        }
    }
}

/// What broke is for the log; who asked learns only that it did.
fn broken(error: anyhow::Error) -> Fault {
    tracing::error!("{error:#}");
    let text = "the server could not do it; its log says why";
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, text)
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("Problem").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        let mut response = (self.status, axum::Json(problem)).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
