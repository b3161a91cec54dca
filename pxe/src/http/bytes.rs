//! Manifests, packs and chunks: bytes that name themselves, for anyone and any cache.

use axum::{
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use images::Digest;

use super::{
    Context, door,
    file::{self, FOR_EVER, Kept},
    problem::Fault,
};

/// A manifest.
pub async fn manifest(
    State(shared): Context,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let digest = door::digest(&name)?;
    let path = shared.provisioner.library.manifest(&digest);
    let sent = file::send(&path, Kept::ForEver(&name), &method, &headers, &shared.metrics).await?;
    sent.ok_or_else(|| absent("manifest", &digest))
}

/// The signature of a manifest.
pub async fn minisig(
    State(shared): Context,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let digest = door::digest(&name)?;
    let path = shared.provisioner.library.minisig(&digest);
    let sent = file::send(&path, Kept::Changing, &method, &headers, &shared.metrics).await?;
    sent.ok_or_else(|| absent("signature of manifest", &digest))
}

/// The location index of a manifest, which repacking may change.
pub async fn index(
    State(shared): Context,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let digest = door::digest(&name)?;
    let path = shared.provisioner.library.index(&digest);
    let sent = file::send(&path, Kept::Changing, &method, &headers, &shared.metrics).await?;
    sent.ok_or_else(|| absent("index of manifest", &digest))
}

/// A pack, or a range of it.
pub async fn pack(
    State(shared): Context,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let digest = door::digest(&name)?;
    let path = shared.provisioner.library.pack(&digest);
    let sent = file::send(&path, Kept::ForEver(&name), &method, &headers, &shared.metrics).await?;
    sent.ok_or_else(|| absent("pack", &digest))
}

/// One chunk, plain.
pub async fn chunk(State(shared): Context, Path(name): Path<String>) -> Result<Response, Fault> {
    let digest = door::digest(&name)?;
    let chunk = shared.provisioner.library.chunk(digest).await?;
    let chunk = chunk.ok_or_else(|| absent("chunk", &digest))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static(FOR_EVER)),
    ];
    Ok((headers, chunk).into_response())
}

fn absent(what: &str, digest: &Digest) -> Fault {
    let text = format!("the store has no {what} {digest}; GET /v1/images lists what it has");
    Fault::new(StatusCode::NOT_FOUND, text)
}
