//! The doors of the agent.

use std::net::SocketAddr;

use axum::{
    Json,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode},
};
use protocol::{Hello, Progress, Report, Welcome};

use super::{Context, auth::bearer, door::Body, problem::Fault};

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
    headers: HeaderMap,
    Body(progress): Body<Progress>,
) -> Result<StatusCode, Fault> {
    shared.provisioner.progress(identity(&headers)?, progress).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How it ended.
pub async fn report(
    State(shared): Context,
    headers: HeaderMap,
    Body(report): Body<Report>,
) -> Result<StatusCode, Fault> {
    shared.provisioner.report(identity(&headers)?, report).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn identity(headers: &HeaderMap) -> Result<&str, Fault> {
    bearer(headers).ok_or_else(|| {
        let text = "no bearer token; `Authorization: Bearer` with that of the welcome is needed";
        Fault::new(StatusCode::UNAUTHORIZED, text)
    })
}
