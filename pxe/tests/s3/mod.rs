//! A real server of buckets, s3s-fs, on loopback.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "only tests call it")]

use std::path::Path;

use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};

/// The bucket that there is.
pub const BUCKET: &str = "images";
/// Who may ask.
pub const KEY: [&str; 2] = ["key", "secret"];

/// Serves buckets that are folders below `root`, in a thread that ends with the process; tells the
/// address.
pub fn serve(root: &Path) -> String {
    std::fs::create_dir_all(root.join(BUCKET)).unwrap();
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    service.set_auth(SimpleAuth::from_single(KEY[0], KEY[1]));
    let (service, (to, address)) = (service.build(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            to.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let service = service.clone();
                tokio::spawn(async move {
                    let socket = hyper_util::rt::TokioIo::new(socket);
                    let http = hyper::server::conn::http1::Builder::new();
                    // A client that goes away is no failure.
                    let _ = http.serve_connection(socket, service).await;
                });
            }
        });
    });
    format!("http://{}", address.recv().unwrap())
}
