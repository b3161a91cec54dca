//! A file as an answer, of this host or of a bucket: ranges, validators, and large reads off the
//! async threads.

use std::{
    fs::File,
    io::{self, Read as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Arc,
    time::UNIX_EPOCH,
};

use axum::{
    body::{Body, Bytes},
    http::{self, HeaderMap, HeaderValue, Method, StatusCode, header},
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

/// Bytes that can be read.
pub enum Content {
    /// Of a file of this host.
    File(File),
    /// Of a file of a store elsewhere.
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
    let Some(found) = Found::open(what).await.map_err(|error| broken(&error))? else {
        return Ok(None);
    };
    let size = found.size;
    let Some(Answer { head, body }) = found.answer(kept, method, headers) else {
        let text = format!("the range is beyond the {size} bytes there are");
        let mut response = Fault::new(StatusCode::RANGE_NOT_SATISFIABLE, text).into_response();
        set(response.headers_mut(), header::CONTENT_RANGE, &format!("bytes */{size}"));
        set(response.headers_mut(), header::ACCEPT_RANGES, "bytes");
        return Ok(Some(response));
    };
    let body = body.map_or_else(Body::empty, |(content, part)| {
        metrics.sent(part.end - part.start);
        read(content, part)
    });
    Ok(Some(head.map(|()| body)))
}

/// A file that is open.
pub struct Found {
    content: Content,
    size: u64,
    /// A number that changes with the content.
    version: u128,
}

/// What a request gets of a file.
pub struct Answer {
    /// Status and headers.
    pub head: http::Response<()>,
    /// Where its bytes are; nothing where none are wanted.
    pub body: Option<(Content, Range<u64>)>,
}

impl Found {
    /// Opens a file, off the async threads; `None` when there is none.
    pub async fn open(what: What) -> io::Result<Option<Found>> {
        spawn_blocking(move || open(what)).await?
    }

    /// What `headers` ask of it (RFC 9110, sections 13 and 14); `None` when that is beyond its end.
    pub fn answer(self, kept: Kept<'_>, method: &Method, headers: &HeaderMap) -> Option<Answer> {
        let Found { content, size, version } = self;
        let etag = match kept {
            Kept::ForEver(name) => format!("\"{name}\""),
            Kept::Changing => format!("\"{version:x}-{size:x}\""),
        };
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let same = |list: &str| list.split(',').any(|one| one.trim() == etag || one.trim() == "*");
        let range = match text(header::IF_RANGE) {
            Some(condition) if condition.trim() != etag => Wanted::Whole,
            _ => wanted(text(header::RANGE), size),
        };
        let mut head = http::Response::new(());
        let part = match range {
            _ if text(header::IF_NONE_MATCH).is_some_and(same) => {
                *head.status_mut() = StatusCode::NOT_MODIFIED;
                None
            }
            Wanted::Beyond => return None,
            Wanted::Whole => Some(0..size),
            Wanted::Part(part) => {
                *head.status_mut() = StatusCode::PARTIAL_CONTENT;
                let shown = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                set(head.headers_mut(), header::CONTENT_RANGE, &shown);
                Some(part)
            }
        };
        let headers = head.headers_mut();
        if let Some(part) = &part {
            set(headers, header::CONTENT_LENGTH, &(part.end - part.start).to_string());
            set(headers, header::CONTENT_TYPE, "application/octet-stream");
        }
        let caching = match kept {
            Kept::ForEver(_) => FOR_EVER,
            Kept::Changing => "no-cache",
        };
        set(headers, header::ETAG, &etag);
        set(headers, header::CACHE_CONTROL, caching);
        set(headers, header::ACCEPT_RANGES, "bytes");
        let body = part.filter(|_| *method != Method::HEAD).map(|part| (content, part));
        Some(Answer { head, body })
    }
}

fn open(what: What) -> io::Result<Option<Found>> {
    let opened = match what {
        What::Path(path) => open_file(path),
        What::Remote(store, file) => store.shelf().facts(&file).map(|facts| {
            let content = Content::Remote(store, file);
            Some(Found { content, size: facts.len, version: facts.version })
        }),
    };
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened,
    }
}

fn open_file(path: PathBuf) -> io::Result<Option<Found>> {
    let file = File::open(path)?;
    let facts = file.metadata()?;
    let changed = facts.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (content, size) = (Content::File(file), facts.len());
    Ok(facts.is_file().then_some(Found { content, size, version: changed.as_nanos() }))
}

/// The bytes of `part`, one read ahead of what is being sent.
fn read(file: Content, part: Range<u64>) -> Body {
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

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn broken(error: &dyn std::error::Error) -> Fault {
    tracing::error!("reading a file: {error}");
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read; the log says why")
}
