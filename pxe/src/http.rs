//! The HTTP doors: firmware, agents, bytes and the API on one port.
//!
//! Handlers parse at the door, ask the provisioner, and render; they decide nothing.

mod agent;
mod api_doc;
mod auth;
mod boot;
mod bytes;
mod configs;
mod deployments;
mod door;
mod events;
mod file;
mod listen;
mod metrics;
mod nodes;
mod problem;
mod range;
mod sendfile;
mod wire;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use images::Digest;
use protocol::{host_report::LONGEST as LONGEST_REPORT, path};
use tokio::time::timeout;

use crate::provisioner::Provisioner;

pub use api_doc::openapi_json;
use bytes::{Named, files};
pub use listen::serve;
pub use metrics::Metrics;
use problem::Fault;

/// The longest body of a request: an inventory of a large machine has some hundred KiB.
const LONGEST_BODY: usize = 4 << 20;
/// How long a request may take to be read and answered (not: to send the answer).
const PATIENCE: Duration = Duration::from_secs(60);

/// What every handler may use.
#[derive(Debug)]
pub struct Shared {
    /// Where the state is.
    pub provisioner: Arc<Provisioner>,
    /// Hash of the admin token.
    pub admin: Digest,
    /// Our own base URL, for who does not say under which name he reached us.
    pub advertised: String,
    /// What is counted.
    pub metrics: Metrics,
}

type Context = State<Arc<Shared>>;

/// Every door.
pub fn router(shared: Arc<Shared>) -> Router {
    let (api, _) = api_doc::api().split_for_parts();
    let api = api.layer(from_fn_with_state(shared.clone(), auth::admin_only));
    Router::new()
        .route("/boot/{file}", get(boot::boot))
        .route(path::HELLO, post(agent::hello))
        .route(path::PROGRESS, post(agent::progress))
        .route(path::REPORT, post(agent::report))
        .route(path::CONFIG, get(agent::config))
        .route(path::STATUS, post(agent::status).layer(DefaultBodyLimit::max(LONGEST_REPORT)))
        .route(Named::Manifest.door(), files(Named::Manifest))
        .route(Named::Minisig.door(), files(Named::Minisig))
        .route(Named::Index.door(), files(Named::Index))
        .route(Named::Pack.door(), files(Named::Pack))
        .route("/v1/chunks/{digest}", get(bytes::chunk))
        .route("/images/{name}", get(bytes::name))
        .route("/openapi.json", get(api_doc::openapi))
        .route("/metrics", get(metrics::scrape))
        .route("/healthz", get(healthz))
        .merge(api)
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(from_fn(in_time))
        .layer(from_fn_with_state(shared.clone(), count))
        .with_state(shared)
}

/// Well, as long as the database answers.
async fn healthz(State(shared): Context) -> Result<&'static str, Fault> {
    shared.provisioner.store.last_event().await.map_err(crate::provisioner::Undone::from)?;
    Ok("ok\n")
}

async fn nothing_here(request: Request) -> Fault {
    let shown: String = request.uri().path().chars().take(200).collect();
    Fault::new(StatusCode::NOT_FOUND, format!("nothing is at {shown}; /openapi.json says what is"))
}

async fn wrong_method(request: Request) -> Fault {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let text = format!("{path} does not take {method}; /openapi.json says what it takes");
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

/// Each request is a task of its own: one whose client goes away is not left off between the
/// database, which has its change, and DHCP, which must learn of it.
async fn in_time(request: Request, next: Next) -> Response {
    match timeout(PATIENCE, tokio::spawn(next.run(request))).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::error!("answering a request: {error}");
            let text = "the server could not do it; its log says why";
            Fault::new(StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
        Err(_) => {
            let text = format!("the request took more than {} s", PATIENCE.as_secs());
            Fault::new(StatusCode::REQUEST_TIMEOUT, text).into_response()
        }
    }
}

async fn count(State(shared): Context, request: Request, next: Next) -> Response {
    let door = request.extensions().get::<MatchedPath>().map_or("none", |path| path.as_str());
    let (door, method) = (door.to_owned(), request.method().clone());
    let shown = request.uri().path().to_owned();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    tracing::debug!("{method} {shown}: {status}");
    shared.metrics.answered(&door, status);
    response
}
