//! The doors of the agent.

use std::net::SocketAddr;

use axum::{
    Json,
    extract::{ConnectInfo, FromRequest as _, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use protocol::{Heard, Hello, HostReport, Progress, Report, Welcome};
use serde::Deserialize;

use super::{
    Context,
    auth::AgentToken,
    boot,
    door::{Body, Query},
    problem::Fault,
};

/// The first words of a node.
pub async fn hello(
    State(shared): Context,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Body(hello): Body<Hello>,
) -> Result<Json<Welcome>, Fault> {
    let server = boot::reached_at(&headers).unwrap_or_else(|| shared.advertised.clone());
    Ok(Json(shared.provisioner.hello(hello, peer.ip(), &server).await?))
}

/// How far it is.
pub async fn progress(
    State(shared): Context,
    AgentToken(bearer): AgentToken,
    Body(progress): Body<Progress>,
) -> Result<StatusCode, Fault> {
    shared.provisioner.progress(&bearer, progress).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How it ended.
pub async fn report(
    State(shared): Context,
    AgentToken(bearer): AgentToken,
    Body(report): Body<Report>,
) -> Result<StatusCode, Fault> {
    shared.provisioner.report(&bearer, report).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What an agent asks when it asks for what its node should be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The generation that it has.
    #[serde(default)]
    generation: u64,
}

/// What a node should be, as soon as that is another than its agent holds.
pub async fn config(
    State(shared): Context,
    AgentToken(bearer): AgentToken,
    Query(held): Query<Held>,
) -> Result<Response, Fault> {
    Ok(match shared.provisioner.config_for(&bearer, held.generation).await? {
        Some(config) => Json(config).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// What a node is. Reports may be long: whose it is, is looked at before one is read.
pub async fn status(
    State(shared): Context,
    AgentToken(bearer): AgentToken,
    request: Request,
) -> Result<Json<Heard>, Fault> {
    shared.provisioner.agent_of(&bearer).await?;
    let Body(report) = Body::<HostReport>::from_request(request, &()).await?;
    let limits = report.check();
    limits.map_err(|error| Fault::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))?;
    Ok(Json(shared.provisioner.status(&bearer, report).await?))
}
