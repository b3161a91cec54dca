//! `/v1/nodes`.

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    Context,
    door::{Body, Paging, Query, Repeatable, page_size},
    problem::Fault,
};
use crate::{
    api::{DeployRequest, DeploymentView, NodeChange, NodeView, Page, Problem},
    provisioner::Undone,
    store::Answer,
};

/// Every node, by name.
#[utoipa::path(get, path = "/v1/nodes", params(Paging), tag = "nodes",
    responses((status = OK, body = Page<NodeView>)))]
pub async fn list(
    State(shared): Context,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<NodeView>>, Fault> {
    let limit = page_size(paging.limit)?;
    let after = paging.after.unwrap_or_default();
    let provisioner = &shared.provisioner;
    let nodes = provisioner.store.nodes(&after, limit + 1).await.map_err(Undone::from)?;
    let mut items = Vec::new();
    for node in nodes.iter().take(limit as usize) {
        let mut view = provisioner.node_view(node).await?;
        // A list of many machines is for an overview: their parts are shown one by one.
        view.inventory = None;
        items.push(view);
    }
    let more = nodes.len() > items.len();
    let next = items.last().filter(|_| more).map(|last| last.name.clone());
    Ok(Json(Page { items, next }))
}

/// Enroll a node: vouch for a machine, discovered before or not.
#[utoipa::path(post, path = "/v1/nodes", request_body = NodeChange, tag = "nodes",
    params(("Idempotency-Key" = Option<String>, Header, description = "repeats get the first answer")),
    responses((status = CREATED, body = NodeView), (status = CONFLICT, body = Problem)))]
pub async fn enroll(
    State(shared): Context,
    Repeatable(wanted, repeat): Repeatable<NodeChange>,
) -> Result<Response, Fault> {
    Ok(answer(shared.provisioner.enroll(wanted, repeat).await?))
}

/// A node by name, identifier or MAC address.
#[utoipa::path(get, path = "/v1/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "name, identifier or MAC address")),
    responses((status = OK, body = NodeView), (status = NOT_FOUND, body = Problem)))]
pub async fn show(
    State(shared): Context,
    Path(key): Path<String>,
) -> Result<Json<NodeView>, Fault> {
    let node = shared.provisioner.node(&key).await?;
    Ok(Json(shared.provisioner.node_view(&node).await?))
}

/// Change what is known of a node; absent fields stay.
#[utoipa::path(patch, path = "/v1/nodes/{node}", request_body = NodeChange, tag = "nodes",
    params(("node" = String, Path, description = "name, identifier or MAC address")),
    responses((status = OK, body = NodeView), (status = NOT_FOUND, body = Problem),
        (status = CONFLICT, body = Problem)))]
pub async fn change(
    State(shared): Context,
    Path(key): Path<String>,
    Body(wanted): Body<NodeChange>,
) -> Result<Json<NodeView>, Fault> {
    Ok(Json(shared.provisioner.change_node(&key, wanted).await?))
}

/// Forget a node.
#[utoipa::path(delete, path = "/v1/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "name, identifier or MAC address")),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = Problem),
        (status = CONFLICT, body = Problem)))]
pub async fn forget(State(shared): Context, Path(key): Path<String>) -> Result<StatusCode, Fault> {
    shared.provisioner.delete_node(&key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Write an image to a node.
#[utoipa::path(post, path = "/v1/nodes/{node}/deployments", request_body = DeployRequest,
    tag = "deployments",
    params(("node" = String, Path, description = "name, identifier or MAC address"),
        ("Idempotency-Key" = Option<String>, Header, description = "repeats get the first answer")),
    responses((status = CREATED, body = DeploymentView), (status = NOT_FOUND, body = Problem),
        (status = CONFLICT, body = Problem), (status = UNPROCESSABLE_ENTITY, body = Problem)))]
pub async fn deploy(
    State(shared): Context,
    Path(key): Path<String>,
    Repeatable(wanted, repeat): Repeatable<DeployRequest>,
) -> Result<Response, Fault> {
    Ok(answer(shared.provisioner.deploy(&key, wanted, repeat).await?))
}

fn answer(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], answer.body).into_response()
}
