//! Manifests, packs, chunks and boot files.

use images::{Digest, Extent, Manifest, Store};

use crate::server::Server;

fn pack(server: &Server) -> (String, Vec<u8>) {
    let store = Store::open(server.folder.path().join("data/store")).unwrap();
    let name = store.packs().unwrap()[0];
    (format!("/v1/packs/{name}"), std::fs::read(store.pack_path(&name)).unwrap())
}

#[test]
fn packs_are_for_ever_and_come_in_ranges() {
    let server = Server::start();
    let (path, bytes) = pack(&server);
    let size = bytes.len();
    let whole = server.ask("GET", &path, &[], b"");
    assert!(whole.status == 200 && whole.body == bytes && size > 1 << 20, "{size}");
    assert_eq!(whole.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    let etag = whole.header("etag");
    assert_eq!(format!("/v1/packs/{}", etag.trim_matches('"')), path);
    let head = server.ask("HEAD", &path, &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, size.to_string().as_str()));
    for (range, part) in [
        ("bytes=0-0", 0..1),
        ("bytes=1000-1999", 1000..2000),
        ("bytes=600000-1500000", 600_000..1_500_001),
        ("bytes=-10", size - 10..size),
    ] {
        let answer = server.ask("GET", &path, &[("range", range)], b"");
        assert_eq!(answer.status, 206);
        assert!(answer.body == bytes[part.clone()], "{range}");
        let shown = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        assert_eq!(answer.header("content-range"), shown);
    }
    let beyond = server.ask("GET", &path, &[("range", "bytes=99999999-")], b"");
    assert_eq!(beyond.header("content-range"), format!("bytes */{size}"));
    beyond.problem(416);
    assert_eq!(server.ask("GET", &path, &[("if-none-match", etag)], b"").status, 304);
    let stale = [("range", "bytes=0-0"), ("if-range", "\"other\"")];
    assert_eq!(server.ask("GET", &path, &stale, b"").status, 200);
    let fresh = [("range", "bytes=0-0"), ("if-range", etag)];
    assert_eq!(server.ask("GET", &path, &fresh, b"").status, 206);
}

#[test]
fn a_manifest_comes_with_what_is_beside_it() {
    let server = Server::start();
    let path = format!("/v1/manifests/{}", server.manifest);
    let manifest = server.ask("GET", &path, &[], b"");
    assert_eq!(Digest::of(&manifest.body), server.manifest);
    assert!(manifest.header("cache-control").contains("immutable"));
    let minisig = server.ask("GET", &format!("{path}/minisig"), &[], b"");
    assert!(minisig.text().contains("untrusted comment"), "{}", minisig.text());
    let index = server.ask("GET", &format!("{path}/index"), &[], b"");
    assert_eq!((index.status, index.header("cache-control")), (200, "no-cache"));
    let manifest = Manifest::parse(&manifest.body).unwrap();
    let chunk = manifest.extents.iter().find_map(|extent| match extent {
        Extent::Chunk { name, .. } => Some(*name),
        Extent::Zero(_) => None,
    });
    let answer = server.ask("GET", &format!("/v1/chunks/{}", chunk.unwrap()), &[], b"");
    assert_eq!((answer.status, Digest::of(&answer.body)), (200, chunk.unwrap()));
}

#[test]
fn what_is_no_name_is_refused() {
    let server = Server::start();
    let absent = "a".repeat(64);
    for door in ["packs", "manifests", "chunks"] {
        server.ask("GET", &format!("/v1/{door}/{absent}"), &[], b"").problem(404);
        for name in
            ["nonsense", &"A".repeat(64), "..%2f..%2fkeys%2fbillet.key", "%00", &"a".repeat(63)]
        {
            let answer = server.ask("GET", &format!("/v1/{door}/{name}"), &[], b"");
            assert!(answer.problem(400).contains("64 hexadecimal digits"), "{name}");
        }
        for name in ["../../keys/billet.key", "..", "../../../../../etc/passwd"] {
            let answer = raw(&server, &format!("/v1/{door}/{name}"));
            assert!(answer.starts_with("HTTP/1.1 4"), "{name}: {answer}");
        }
    }
    for name in ["..%2fkeys%2fbillet.key", ".hidden", "a%20b", "%2e%2e"] {
        let answer = server.ask("GET", &format!("/boot/{name}"), &[], b"");
        answer.problem(400);
    }
    assert!(
        server.ask("GET", "/boot/nothing.efi", &[], b"").problem(404).contains("image build ram")
    );
    assert_eq!(server.ask("GET", "/boot/kernel", &[], b"").text(), "kernel");
    let part = server.ask("GET", "/boot/ramdisk", &[("range", "bytes=0-2")], b"");
    assert_eq!((part.status, part.text().as_str()), (206, "ram"));
}

/// A request line as it is, where a client would tidy the path up.
fn raw(server: &Server, path: &str) -> String {
    use std::io::{Read as _, Write as _};
    let address = server.base.trim_start_matches("http://");
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
