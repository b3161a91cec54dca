//! What firmware fetches: a node's script, the RAM system, boot programs.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{Context, Shared, file, problem::Fault};
use crate::mac::Mac;

/// `/boot/<mac>` is a script, anything else a file of the boot folder.
pub async fn boot(
    State(shared): Context,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    match name.parse::<Mac>() {
        Ok(mac) => script(&shared, mac, &headers, &method).await,
        Err(_) => boot_file(&shared, &name, &method, &headers).await,
    }
}

async fn script(
    shared: &Arc<Shared>,
    mac: Mac,
    headers: &HeaderMap,
    method: &Method,
) -> Result<Response, Fault> {
    if method == Method::HEAD {
        let text = "a boot script is made when it is fetched; GET is accepted";
        return Err(Fault::new(StatusCode::METHOD_NOT_ALLOWED, text));
    }
    let server = reached_at(headers).unwrap_or_else(|| shared.advertised.clone());
    let script = shared.provisioner.boot_script(mac, &server).await?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, script).into_response())
}

/// The URL under which the node reached us: it is certain to work for it, whatever our own
/// idea of our address. Only what an iPXE script can hold unquoted is taken over.
pub(super) fn reached_at(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    (!host.is_empty() && host.len() < 256 && host.bytes().all(fits))
        .then(|| format!("http://{host}"))
}

async fn boot_file(
    shared: &Arc<Shared>,
    name: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Fault> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if name.starts_with('.') || name.len() > 64 || !name.bytes().all(fits) {
        let shown: String = name.escape_debug().take(80).collect();
        let text =
            format!("`{shown}` is no boot file; a MAC address or a file of boot/ is accepted");
        return Err(Fault::new(StatusCode::BAD_REQUEST, text));
    }
    let what = file::What::Path(shared.provisioner.library.boot_folder().join(name));
    let kept = file::Kept::Changing;
    file::send(what, kept, method, headers, &shared.metrics).await?.ok_or_else(|| {
        let text =
            format!("no boot file {name}; `billet image build ram` makes kernel and ramdisk");
        Fault::new(StatusCode::NOT_FOUND, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_host_is_believed() {
        let with = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
            reached_at(&headers)
        };
        assert_eq!(with("10.0.0.1:8080").as_deref(), Some("http://10.0.0.1:8080"));
        assert_eq!(with("[fe80::1]:8080").as_deref(), Some("http://[fe80::1]:8080"));
        for host in ["", "a b", "a/b", "a${ip}", "user@host"] {
            assert_eq!(with(host), None, "{host}");
        }
    }
}
