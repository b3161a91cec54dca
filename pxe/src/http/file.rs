//! A file as an answer: ranges, validators, and large reads off the async threads.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path, sync::Arc, time::UNIX_EPOCH};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, stream};
use tokio::task::spawn_blocking;

use super::{
    metrics::Metrics,
    problem::Fault,
    range::{Wanted, wanted},
};

/// Bytes of one read: large, as each costs a trip to another thread; two are under way at once.
const READ: u64 = 512 * 1024;
/// What a cache may think of bytes that are named by their content.
pub const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// How long an answer stays true.
#[derive(Debug, Clone, Copy)]
pub enum Kept<'a> {
    /// Always: this is the name of its content.
    ForEver(&'a str),
    /// Until the file is replaced.
    Changing,
}

/// The file at `path`, or nothing when there is none.
pub async fn send(
    path: &Path,
    kept: Kept<'_>,
    method: &Method,
    headers: &HeaderMap,
    metrics: &Metrics,
) -> Result<Option<Response>, Fault> {
    let path = path.to_owned();
    let opened = spawn_blocking(move || open(&path)).await.map_err(|error| broken(&error))?;
    let Some((file, size, changed)) = opened.map_err(|error| broken(&error))? else {
        return Ok(None);
    };
    let etag = match kept {
        Kept::ForEver(name) => format!("\"{name}\""),
        Kept::Changing => format!("\"{changed:x}-{size:x}\""),
    };
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let same = |list: &str| list.split(',').any(|one| one.trim() == etag || one.trim() == "*");
    let range = match text(header::IF_RANGE) {
        Some(condition) if condition.trim() != etag => Wanted::Whole,
        _ => wanted(text(header::RANGE), size),
    };
    let unchanged = text(header::IF_NONE_MATCH).is_some_and(same);
    let mut response = match range {
        _ if unchanged => StatusCode::NOT_MODIFIED.into_response(),
        Wanted::Beyond => {
            let text = format!("the range is beyond the {size} bytes there are");
            let mut response = Fault::new(StatusCode::RANGE_NOT_SATISFIABLE, text).into_response();
            set(&mut response, header::CONTENT_RANGE, &format!("bytes */{size}"));
            return Ok(Some(response));
        }
        Wanted::Whole => content(file, 0..size, method, StatusCode::OK, metrics),
        Wanted::Part(part) => {
            let shown = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            let status = StatusCode::PARTIAL_CONTENT;
            let mut response = content(file, part, method, status, metrics);
            set(&mut response, header::CONTENT_RANGE, &shown);
            response
        }
    };
    let caching = match kept {
        Kept::ForEver(_) => FOR_EVER,
        Kept::Changing => "no-cache",
    };
    set(&mut response, header::ETAG, &etag);
    set(&mut response, header::CACHE_CONTROL, caching);
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    Ok(Some(response))
}

type Opened = (File, u64, u128);

fn open(path: &Path) -> io::Result<Option<Opened>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let facts = file.metadata()?;
    let changed = facts.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(facts.is_file().then_some((file, facts.len(), changed.as_nanos())))
}

fn content(
    file: File,
    part: std::ops::Range<u64>,
    method: &Method,
    status: StatusCode,
    metrics: &Metrics,
) -> Response {
    let length = part.end - part.start;
    let body = match *method == Method::HEAD {
        true => Body::empty(),
        false => {
            metrics.sent(length);
            read(file, part)
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_LENGTH, &length.to_string());
    set(&mut response, header::CONTENT_TYPE, "application/octet-stream");
    response
}

/// The bytes of `part`, one read ahead of what is being sent.
fn read(file: File, part: std::ops::Range<u64>) -> Body {
    let file = Arc::new(file);
    let end = part.end;
    let starts = (part.start..end).step_by(READ as usize);
    let reads = stream::iter(starts).map(move |start| {
        let file = file.clone();
        async move {
            let read = spawn_blocking(move || {
                let mut bytes = vec![0; (end - start).min(READ) as usize];
                file.read_exact_at(&mut bytes, start)?;
                Ok(Bytes::from(bytes))
            });
            read.await.map_err(io::Error::other)?
        }
    });
    Body::from_stream(reads.buffered(2).map(|bytes: io::Result<Bytes>| bytes))
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn broken(error: &dyn std::error::Error) -> Fault {
    tracing::error!("reading a file: {error}");
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read; the log says why")
}
