//! The API's routes with their description, so that neither can be without the other.

use std::sync::Arc;

use anyhow::Context as _;
use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Shared, configs, deployments, events, nodes, problem::Fault};
use crate::provisioner::Undone;

#[derive(OpenApi)]
#[openapi(
    info(title = "billet", description = "The provisioner's API. Errors are RFC 9457 problem \
        details that say what would have been accepted."),
    modifiers(&Bearer),
    security(("admin" = []))
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("admin", SecurityScheme::Http(scheme));
    }
}

/// The routes below `/v1` that are an operator's.
pub fn api() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(nodes::list, nodes::enroll))
        .routes(routes!(nodes::show, nodes::change, nodes::forget))
        .routes(routes!(nodes::deploy))
        .routes(routes!(configs::show, configs::set, configs::unset))
        .routes(routes!(configs::guests))
        .routes(routes!(configs::slices))
        .routes(routes!(deployments::list))
        .routes(routes!(deployments::show, deployments::cancel))
        .routes(routes!(deployments::images))
        .routes(routes!(events::events))
}

/// The OpenAPI document, as text.
pub fn openapi_json() -> anyhow::Result<String> {
    api().into_openapi().to_pretty_json().context("rendering the API's description")
}

/// `/openapi.json`
pub async fn openapi() -> Result<Response, Fault> {
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], openapi_json().map_err(Undone::from)?).into_response())
}
