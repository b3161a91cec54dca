//! The doors of the agent.

use std::net::SocketAddr;

use axum::{
    Json,
    extract::{ConnectInfo, State},
    http::StatusCode,
};
use protocol::{Hello, Progress, Report, Welcome};

use super::{Context, auth::AgentToken, door::Body, problem::Fault};

/// The first words of a node.
pub async fn hello(
    State(shared): Context,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(hello): Body<Hello>,
) -> Result<Json<Welcome>, Fault> {
    Ok(Json(shared.provisioner.hello(hello, peer.ip()).await?))
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
