//! A file as an answer, of this host or of a bucket: ranges, validators, and large reads off the
//! async threads.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Arc,
    time::UNIX_EPOCH,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, stream};
use images::Store;
use tokio::task::spawn_blocking;

use super::{
    metrics::Metrics,
    problem::Fault,
    range::{Wanted, wanted},
};

/// Bytes of one read: large, as each costs a trip to another thread; two are under way at once.
const READ: u64 = 512 * 1024;
/// The same of a bucket, where each is a request.
const READ_REMOTE: u64 = 4 << 20;
/// What a cache may think of bytes that are named by their content.
pub const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Where the bytes are.
#[derive(Debug)]
pub enum What {
    /// A file of this host.
    Path(PathBuf),
    /// A file of a store elsewhere.
    Remote(Store, String),
}

impl What {
    /// A file of a store.
    pub fn of_store(store: &Store, file: String) -> What {
        match store.shelf().path(&file) {
            Some(path) => What::Path(path),
            None => What::Remote(store.clone(), file),
        }
    }
}

/// What is open.
enum Content {
    File(File),
    Remote(Store, String),
}

impl Content {
    const fn step(&self) -> u64 {
        match self {
            Content::File(_) => READ,
            Content::Remote(..) => READ_REMOTE,
        }
    }

    fn read(&self, start: u64, len: u64) -> io::Result<Bytes> {
        let mut bytes = vec![0; len as usize];
        match self {
            Content::File(file) => file.read_exact_at(&mut bytes, start)?,
            Content::Remote(store, file) => {
                store.shelf().read(file, Some(start..start + len))?.read_exact(&mut bytes)?;
            }
        }
        Ok(Bytes::from(bytes))
    }
}

/// How long an answer stays true.
#[derive(Debug, Clone, Copy)]
pub enum Kept<'a> {
    /// Always: this is the name of its content.
    ForEver(&'a str),
    /// Until the file is replaced.
    Changing,
}

/// What is there, or nothing when there is none.
pub async fn send(
    what: What,
    kept: Kept<'_>,
    method: &Method,
    headers: &HeaderMap,
    metrics: &Metrics,
) -> Result<Option<Response>, Fault> {
    let opened = spawn_blocking(move || open(what)).await.map_err(|error| broken(&error))?;
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

/// The bytes, how many there are, and a number that changes with them.
type Opened = (Content, u64, u128);

fn open(what: What) -> io::Result<Option<Opened>> {
    let opened = match what {
        What::Path(path) => open_file(path),
        What::Remote(store, file) => store
            .shelf()
            .facts(&file)
            .map(|facts| Some((Content::Remote(store, file), facts.len, facts.version))),
    };
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened,
    }
}

fn open_file(path: PathBuf) -> io::Result<Option<Opened>> {
    let file = File::open(path)?;
    let facts = file.metadata()?;
    let changed = facts.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(facts.is_file().then_some((Content::File(file), facts.len(), changed.as_nanos())))
}

fn content(
    file: Content,
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
fn read(file: Content, part: std::ops::Range<u64>) -> Body {
    let (step, file, end) = (file.step(), Arc::new(file), part.end);
    let starts = (part.start..end).step_by(step as usize);
    let reads = stream::iter(starts).map(move |start| {
        let file = file.clone();
        async move {
            let read = spawn_blocking(move || file.read(start, (end - start).min(step)));
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
