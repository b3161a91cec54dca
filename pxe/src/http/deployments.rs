//! `/v1/deployments` and `/v1/images`.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;

use super::{
    Context,
    door::{Paging, Query, deployment_id, page_size},
    problem::Fault,
};
use crate::{
    api::{DeploymentView, ImageView, Page, Problem},
    provisioner::Undone,
    refusal::Refusal,
};

/// Which deployments are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Items at most: 1 to 1000, 100 when absent.
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<String>,
    /// Those of this node: name, identifier or MAC address.
    node: Option<String>,
}

/// Every deployment, the youngest first.
#[utoipa::path(get, path = "/v1/deployments", params(Which), tag = "deployments",
    responses((status = OK, body = Page<DeploymentView>)))]
pub async fn list(
    State(shared): Context,
    Query(which): Query<Which>,
) -> Result<Json<Page<DeploymentView>>, Fault> {
    let limit = page_size(which.limit)?;
    let provisioner = &shared.provisioner;
    let node = match &which.node {
        Some(key) => Some(provisioner.node(key).await?.id),
        None => None,
    };
    let after = which.after.as_deref().map(deployment_id).transpose()?;
    let found = provisioner.store.deployments(node, after, limit + 1).await;
    let found = found.map_err(Undone::from)?;
    let mut items = Vec::new();
    for deployment in found.iter().take(limit as usize) {
        items.push(provisioner.deployment_view(deployment).await?);
    }
    let more = found.len() > items.len();
    let next = items.last().filter(|_| more).map(|last| last.id.clone());
    Ok(Json(Page { items, next }))
}

/// A deployment.
#[utoipa::path(get, path = "/v1/deployments/{id}", tag = "deployments",
    params(("id" = String, Path, description = "identifier")),
    responses((status = OK, body = DeploymentView), (status = NOT_FOUND, body = Problem)))]
pub async fn show(
    State(shared): Context,
    Path(id): Path<String>,
) -> Result<Json<DeploymentView>, Fault> {
    let id = deployment_id(&id)?;
    let found = shared.provisioner.store.deployment(id).await.map_err(Undone::from)?;
    let unknown =
        || Refusal::Unknown(format!("no deployment {id}; GET /v1/deployments lists them"));
    let deployment = found.ok_or_else(unknown)?;
    Ok(Json(shared.provisioner.deployment_view(&deployment).await?))
}

/// Cancel a deployment that is open.
#[utoipa::path(delete, path = "/v1/deployments/{id}", tag = "deployments",
    params(("id" = String, Path, description = "identifier")),
    responses((status = OK, body = DeploymentView), (status = NOT_FOUND, body = Problem),
        (status = CONFLICT, body = Problem)))]
pub async fn cancel(
    State(shared): Context,
    Path(id): Path<String>,
) -> Result<Json<DeploymentView>, Fault> {
    Ok(Json(shared.provisioner.cancel(deployment_id(&id)?).await?))
}

/// Every named image.
#[utoipa::path(get, path = "/v1/images", params(Paging), tag = "images",
    responses((status = OK, body = Page<ImageView>)))]
pub async fn images(
    State(shared): Context,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<ImageView>>, Fault> {
    let limit = page_size(paging.limit)?;
    let after = paging.after.unwrap_or_default();
    let mut items = shared.provisioner.library.images().await?;
    items.retain(|image| image.name > after);
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next = items.last().filter(|_| more).map(|last| last.name.clone());
    Ok(Json(Page { items, next }))
}
