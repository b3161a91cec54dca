//! The real `atftp` as a client.

use std::{fs, net::SocketAddr, process::Command};

/// What `atftp` receives.
pub(super) fn external_tftp_recv(
    filename: &str,
    server: SocketAddr,
    block_size: Option<u16>,
    window_size: Option<u16>,
) -> Vec<u8> {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("data");
    let mut cmd = Command::new("atftp");
    if let Some(block_size) = block_size {
        cmd.arg("--option").arg(format!("blksize {block_size}"));
    }
    if let Some(window_size) = window_size {
        cmd.arg("--option").arg(format!("windowsize {window_size}"));
    }
    let out = cmd
        .arg("-g")
        .arg("-l")
        .arg(&path)
        .arg("-r")
        .arg(filename)
        .arg(server.ip().to_string())
        .arg(server.port().to_string())
        .output()
        .expect("atftp is missing: apt-get install atftp");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    fs::read(path).unwrap()
}
