//! `/v1/nodes/{node}/config` and `/v1/nodes/{node}/guests`.

use std::net::SocketAddr;

use axum::{
    Json,
    body::Bytes,
    extract::{ConnectInfo, FromRequest, Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;

use super::{
    Context,
    door::{Query, unreadable},
    problem::Fault,
};
use crate::{
    api::{ConfigView, GuestsView, PlanView, Problem, SlicesView},
    shape::{Format, Given, LONGEST, Over},
};

/// How a change is meant.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Meant {
    /// Change nothing and answer with the plan.
    #[serde(default)]
    dry_run: bool,
}

/// What a node should be, and how far it is with that.
#[utoipa::path(get, path = "/v1/nodes/{node}/config", tag = "config",
    params(("node" = String, Path, description = "name, identifier or MAC address")),
    responses((status = OK, body = ConfigView, headers(("ETag" = String))),
        (status = NOT_FOUND, body = Problem)))]
pub async fn show(State(shared): Context, Path(key): Path<String>) -> Result<Response, Fault> {
    Ok(tagged(shared.provisioner.config(&key).await?))
}

/// Say what a node should be: all of it, in TOML or JSON.
#[utoipa::path(put, path = "/v1/nodes/{node}/config", tag = "config",
    request_body(content((String = "application/toml"), (Object = "application/json"))),
    params(Meant, ("node" = String, Path, description = "name, identifier or MAC address"),
        ("If-Match" = Option<String>, Header, description = "the ETag of what is to be replaced"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only where there is none")),
    responses(
        (status = OK, body = ConfigView, headers(("ETag" = String)),
            description = "it is kept; with `dry_run`, a PlanView: the steps there would be"),
        (status = NOT_FOUND, body = Problem),
        (status = PRECONDITION_FAILED, body = Problem, description = "somebody else changed it"),
        (status = UNPROCESSABLE_ENTITY, body = Problem,
            description = "it cannot be read; with `dry_run`, also: it cannot be")))]
pub async fn set(
    State(shared): Context,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(key): Path<String>,
    Query(meant): Query<Meant>,
    headers: HeaderMap,
    Text(given): Text,
) -> Result<Response, Fault> {
    let over = over(&headers)?;
    if meant.dry_run {
        let plan: PlanView = shared.provisioner.try_config(&key, &given, &over).await?;
        return Ok(Json(plan).into_response());
    }
    Ok(tagged(shared.provisioner.set_config(&key, given, over, by(peer)).await?))
}

/// Want nothing of a node any more; what stands is left as it is.
#[utoipa::path(delete, path = "/v1/nodes/{node}/config", tag = "config",
    params(("node" = String, Path, description = "name, identifier or MAC address"),
        ("If-Match" = Option<String>, Header, description = "the ETag of what is to be removed")),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = Problem),
        (status = PRECONDITION_FAILED, body = Problem, description = "somebody else changed it")))]
pub async fn unset(
    State(shared): Context,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Fault> {
    shared.provisioner.unset_config(&key, over(&headers)?, by(peer)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The guests of a node.
#[utoipa::path(get, path = "/v1/nodes/{node}/guests", tag = "config",
    params(("node" = String, Path, description = "name, identifier or MAC address")),
    responses((status = OK, body = GuestsView), (status = NOT_FOUND, body = Problem)))]
pub async fn guests(
    State(shared): Context,
    Path(key): Path<String>,
) -> Result<Json<GuestsView>, Fault> {
    Ok(Json(shared.provisioner.guests(&key).await?))
}

/// The slices of a node: who each will be or is, and which VF it has.
#[utoipa::path(get, path = "/v1/nodes/{node}/slices", tag = "config",
    params(("node" = String, Path, description = "name, identifier or MAC address")),
    responses((status = OK, body = SlicesView), (status = NOT_FOUND, body = Problem)))]
pub async fn slices(
    State(shared): Context,
    Path(key): Path<String>,
) -> Result<Json<SlicesView>, Fault> {
    Ok(Json(shared.provisioner.slices(&key).await?))
}

/// There is one operator's token, so where it was used is what tells two people apart.
fn by(peer: SocketAddr) -> String {
    format!("the admin at {}", peer.ip().to_canonical())
}

fn tagged(view: ConfigView) -> Response {
    let tag = HeaderValue::from_str(&format!("\"{}\"", view.generation));
    let mut response = Json(view).into_response();
    if let Ok(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// A desired state as a body.
pub struct Text(Given);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let format = format(request.headers())?;
        let bytes = Bytes::from_request(request, state).await.map_err(unreadable)?;
        if bytes.len() > LONGEST {
            let text =
                format!("the desired state has {} bytes, {LONGEST} is the most", bytes.len());
            return Err(Fault::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        let text = String::from_utf8(bytes.to_vec()).map_err(|error| {
            let text = format!("the desired state is not UTF-8: {}", error.utf8_error());
            Fault::new(StatusCode::UNPROCESSABLE_ENTITY, text)
        })?;
        Ok(Text(Given { format, text }))
    }
}

fn format(headers: &HeaderMap) -> Result<Format, Fault> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    match kind.to_ascii_lowercase().as_str() {
        "application/toml" | "text/toml" => Ok(Format::Toml),
        "application/json" => Ok(Format::Json),
        _ => {
            let text = format!(
                "Content-Type is `{}`; application/toml and application/json are accepted",
                kind.escape_debug()
            );
            Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
        }
    }
}

/// What the change is made for (RFC 9110, 13.1).
fn over(headers: &HeaderMap) -> Result<Over, Fault> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(Over::Anything),
        (Some("*"), None) => Ok(Over::Something),
        (None, Some("*")) => Ok(Over::Nothing),
        (Some(tags), None) => {
            let number = |tag: &str| tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok();
            // A tag that is none of ours fits nothing that there is.
            Ok(Over::Generations(tags.split(',').filter_map(number).collect()))
        }
        _ => {
            let text = "If-Match with the ETag of what is to be replaced, or If-None-Match: *, is \
                        accepted";
            Err(Fault::new(StatusCode::BAD_REQUEST, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn conditions_are_read() {
        let read = |pairs: &[(&'static str, &'static str)]| over(&headers(pairs)).ok();
        assert_eq!(read(&[]), Some(Over::Anything));
        assert_eq!(read(&[("if-match", "*")]), Some(Over::Something));
        assert_eq!(read(&[("if-none-match", "*")]), Some(Over::Nothing));
        let some = Over::Generations(vec![7, 8]);
        assert_eq!(read(&[("if-match", "\"7\", W/\"9\", \"8\"")]), Some(some));
        assert_eq!(read(&[("if-match", "x")]), Some(Over::Generations(Vec::new())));
        assert_eq!(read(&[("if-none-match", "\"7\"")]), None);
        assert_eq!(read(&[("if-match", "*"), ("if-none-match", "*")]), None);
    }

    #[test]
    fn a_language_is_named() {
        let read = |kind| format(&headers(&[("content-type", kind)])).ok();
        assert_eq!(read("application/toml; charset=utf-8"), Some(Format::Toml));
        assert_eq!(read("Application/JSON"), Some(Format::Json));
        assert_eq!(read("text/plain"), None);
        assert!(format(&HeaderMap::new()).is_err());
    }
}
