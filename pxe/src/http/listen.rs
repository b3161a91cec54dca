//! Connections: accepted, bounded in number, each with a time by which it has said what it wants.
//!
//! A client that connects and says nothing (a port scan, a node that lost its power) would keep
//! its descriptor for ever: axum's own `serve` sets no limit of time on the head of a request.

use std::{convert::Infallible, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{Router, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tower::ServiceExt as _;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// After an accept that failed: the usual reason, too many open files, passes.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `end`, then lets every connection finish its request. A client has
/// `idle` from connecting, or from its last answer, to the end of the next request's head.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    idle: Duration,
    end: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(idle);
    let (graceful, places) = (GracefulShutdown::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    let mut end = std::pin::pin!(end);
    loop {
        let place = places.clone().acquire_owned().await.context("counting connections")?;
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("accepting a connection: {error}");
                    sleep(PAUSE).await;
                    continue;
                }
            },
            () = &mut end => break,
        };
        at_once(&stream);
        let router = router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            answer(router.clone(), request)
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("connection of {peer}: {error}");
            }
            drop(place);
        });
    }
    graceful.shutdown().await;
    Ok(())
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
) -> Result<axum::response::Response, Infallible> {
    router.oneshot(request).await
}

/// Small answers (scripts, welcomes) must not wait for a full segment.
fn at_once(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("setting TCP_NODELAY: {error}");
    }
}
