//! Connections: accepted, bounded in number, each with a time by which it has said what it wants.
//!
//! A client that connects and says nothing (a port scan, a node that lost its power) would keep
//! its descriptor for ever: axum's own `serve` sets no limit of time on the head of a request.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{Router, extract::ConnectInfo, response::Response};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::sleep,
};
use tower::ServiceExt as _;

use super::{
    Shared, router, sendfile,
    wire::{Told, Unread, Wire},
};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// After an accept that failed: the usual reason, too many open files, passes.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves every door until `end`, then lets every connection finish its request. A client has
/// `idle` from connecting, or from its last answer, to the end of the next request's head.
pub async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    idle: Duration,
    end: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(idle);
    let (graceful, places) = (GracefulShutdown::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    let (finish, finishing) = watch::channel(());
    let router = router(shared.clone());
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
        let (http, router, shared) = (http.clone(), router.clone(), shared.clone());
        let (watcher, finishing) = (graceful.watcher(), finishing.clone());
        tokio::spawn(async move {
            let ended = async {
                let left = sendfile::serve(stream, &shared, idle, finishing).await?;
                let Some((ahead, stream)) = left else { return Ok(()) };
                let wire = Wire::new(ahead, stream);
                let service = doors(router, peer, wire.unread());
                watcher.watch(http.serve_connection(TokioIo::new(wire), service)).await?;
                anyhow::Ok(())
            };
            if let Err(error) = ended.await {
                tracing::debug!("connection of {peer}: {error:#}");
            }
            drop(place);
        });
    }
    drop(finish);
    graceful.shutdown().await;
    Ok(())
}

/// What answers the requests of one connection.
fn doors(
    router: Router,
    peer: SocketAddr,
    unread: Unread,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> {
    service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(|body| Told::of(body, unread.clone()));
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    })
}

/// Small answers (scripts, welcomes) must not wait for a full segment.
fn at_once(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("setting TCP_NODELAY: {error}");
    }
}
