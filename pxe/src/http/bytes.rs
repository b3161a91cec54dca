//! Manifests, packs and chunks: bytes that name themselves, for anyone and any cache.

use std::{fmt::Display, sync::Arc};

use axum::{
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use images::{Digest, Store, shelf};

use super::{
    Context, Shared, door,
    file::{self, FOR_EVER, Kept, What},
    problem::Fault,
};

/// A kind of file that the store names by a digest.
#[derive(Debug, Clone, Copy)]
pub enum Named {
    /// A manifest.
    Manifest,
    /// The signature of a manifest.
    Minisig,
    /// The location index of a manifest, which repacking may change.
    Index,
    /// A pack, or a range of it.
    Pack,
}

impl Named {
    /// Every kind.
    pub const ALL: [Named; 4] = [Named::Manifest, Named::Minisig, Named::Index, Named::Pack];

    const fn noun(self) -> &'static str {
        match self {
            Named::Manifest => "manifest",
            Named::Minisig => "signature of manifest",
            Named::Index => "index of manifest",
            Named::Pack => "pack",
        }
    }

    fn file(self, digest: &Digest) -> String {
        match self {
            Named::Manifest => shelf::manifest(digest),
            Named::Minisig => shelf::minisig(digest),
            Named::Index => shelf::index(digest),
            Named::Pack => shelf::pack(digest),
        }
    }

    /// Where it is routed.
    pub const fn door(self) -> &'static str {
        match self {
            Named::Manifest => "/v1/manifests/{digest}",
            Named::Minisig => "/v1/manifests/{digest}/minisig",
            Named::Index => "/v1/manifests/{digest}/index",
            Named::Pack => "/v1/packs/{digest}",
        }
    }

    /// What a path asks for; nothing where it is another door's, or no digest.
    pub fn at(path: &str) -> Option<(Named, Digest)> {
        Named::ALL.into_iter().find_map(|kind| {
            let (before, behind) = kind.door().split_once("{digest}")?;
            let name = path.strip_prefix(before)?.strip_suffix(behind)?;
            Some((kind, name.parse().ok()?))
        })
    }

    /// Where it is in `store`.
    pub fn of(self, store: &Store, digest: &Digest) -> What {
        What::of_store(store, self.file(digest))
    }

    /// How long it stays what it is.
    pub const fn kept(self, name: &str) -> Kept<'_> {
        match self {
            Named::Manifest | Named::Pack => Kept::ForEver(name),
            Named::Minisig | Named::Index => Kept::Changing,
        }
    }
}

/// The door to all files of one kind.
pub fn files(kind: Named) -> MethodRouter<Arc<Shared>> {
    get(move |State(shared): Context, Path(name): Path<String>, method, headers| async move {
        send(kind, &shared, &name, method, headers).await
    })
}

async fn send(
    kind: Named,
    shared: &Shared,
    name: &str,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let digest = door::digest(name)?;
    let what = kind.of(shared.provisioner.library.store(), &digest);
    let sent = file::send(what, kind.kept(name), &method, &headers, &shared.metrics).await?;
    sent.ok_or_else(|| absent(kind.noun(), &digest))
}

/// What an image's name stands for now, for who writes it by hand.
pub async fn name(State(shared): Context, Path(name): Path<String>) -> Result<Response, Fault> {
    let found = shared.provisioner.library.name(name.clone()).await?;
    let shown = || name.escape_debug().take(80).collect::<String>();
    let found = found.ok_or_else(|| absent("image", &shown()))?;
    let changing = [(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    Ok((changing, axum::Json(found)).into_response())
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

fn absent(what: &str, name: &dyn Display) -> Fault {
    let text = format!("the store has no {what} {name}; GET /v1/images lists what it has");
    Fault::new(StatusCode::NOT_FOUND, text)
}
