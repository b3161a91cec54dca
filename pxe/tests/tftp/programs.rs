//! The clients that people and firmware builders use, each with what it can.

use std::{net::SocketAddr, path::Path, process::Command};

use crate::serving::{Serving, bytes};

/// Fetches `ipxe.efi` with a command line in which `HOST`, `PORT` and `TO` stand for themselves.
fn fetch(server: SocketAddr, package: &str, line: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("fetched");
    let fill = |word: &str| {
        word.replace("HOST", &server.ip().to_string())
            .replace("PORT", &server.port().to_string())
            .replace("TO", to.to_str().unwrap())
            .replace('_', " ")
    };
    let words: Vec<_> = line.split(' ').map(fill).collect();
    assert!(is_installed(&words[0]), "{} is missing: apt-get install {package}", words[0]);
    let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line}: {said}");
    std::fs::read(&to).unwrap_or_else(|e| panic!("{line}: {e}, {said}"))
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap();
    path.split(':').any(|dir| Path::new(dir).join(program).exists())
}

/// Fetches files of every size that is special to `block`, byte by byte the same.
fn fetch_all(package: &str, block: usize, line: &str) {
    for size in [0, 1, block - 1, block, block + 1, block * 7, block * 32, 1 << 20] {
        // curl 7.88 says "getpeername() failed" after an empty file, whichever server sent it.
        if size == 0 && line.starts_with("curl") {
            continue;
        }
        let program = bytes(size);
        let serving = Serving::program(&program);
        let fetched = fetch(serving.address, package, line);
        assert!(fetched == program, "{line}: {} of {size} bytes", fetched.len());
        assert_eq!(serving.fetched().len(), 1, "{line}");
    }
}

#[test]
fn tftp_hpa() {
    fetch_all("tftp-hpa", 512, "tftp -m octet HOST PORT -c get ipxe.efi TO");
}

#[test]
fn atftp() {
    let get = "-g -r ipxe.efi -l TO HOST PORT";
    fetch_all("atftp", 512, &format!("atftp {get}"));
    fetch_all("atftp", 1428, &format!("atftp --option blksize_1428 {get}"));
    for window in [2, 8, 16, 64] {
        let options = format!("--option blksize_1428 --option windowsize_{window}");
        fetch_all("atftp", 1428, &format!("atftp {options} {get}"));
    }
}

#[test]
fn curl() {
    let get = "-sS -o TO tftp://HOST:PORT/ipxe.efi";
    fetch_all("curl", 512, &format!("curl {get}"));
    fetch_all("curl", 512, &format!("curl --tftp-no-options {get}"));
    fetch_all("curl", 1428, &format!("curl --tftp-blksize 1428 {get}"));
    // More than is given: the server's answer counts.
    fetch_all("curl", 1468, &format!("curl --tftp-blksize 8192 {get}"));
}

#[test]
fn busybox() {
    let get = "-g -r ipxe.efi -l TO HOST PORT";
    fetch_all("busybox-static", 512, &format!("busybox tftp {get}"));
    fetch_all("busybox-static", 1428, &format!("busybox tftp -b 1428 {get}"));
}

/// Block numbers have 16 bits. No boot program has 65536 blocks, but a wrong step there would be
/// seen on nobody's desk.
#[test]
fn block_numbers_roll_over() {
    let serving = Serving::program(b"");
    serving.replace("ipxe.efi", &bytes(40 << 20));
    for (package, line) in [
        ("curl", "curl -sS --tftp-blksize 512 -o TO tftp://HOST:PORT/ipxe.efi"),
        ("tftp-hpa", "tftp -m octet HOST PORT -c get ipxe.efi TO"),
        ("busybox-static", "busybox tftp -g -b 512 -r ipxe.efi -l TO HOST PORT"),
        ("atftp", "atftp --option windowsize_16 -g -r ipxe.efi -l TO HOST PORT"),
    ] {
        assert!(fetch(serving.address, package, line) == bytes(40 << 20), "{line}");
    }
}
