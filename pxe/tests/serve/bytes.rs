//! Manifests, packs, chunks and boot files.

use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    net::TcpStream,
    thread::sleep,
    time::Duration,
};

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

/// One answer off a connection: its head, and the body that its length announces.
fn answer(reader: &mut impl BufRead, has_body: bool) -> (String, Vec<u8>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "cut short: {head}");
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; if has_body { length } else { 0 }];
    reader.read_exact(&mut body).unwrap();
    (head, body)
}

#[test]
fn one_connection_serves_packs_and_all_else_in_any_order() {
    let server = Server::start();
    let (path, bytes) = pack(&server);
    let address = server.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let ask = |method: &str, path: &str, more: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{more}\r\n")
    };
    // Byte by byte; three at once; what is no file; and packs after it, to the end.
    for byte in ask("GET", &path, "Range: bytes=7-9\r\n").bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    let (head, body) = answer(&mut reader, true);
    assert!(head.starts_with("http/1.1 206 partial content\r\n"), "{head}");
    assert!(head.contains("\r\ndate: ") && body == bytes[7..10], "{head}");
    let head = ask("HEAD", &path, "");
    let three = [ask("GET", &path, ""), head, ask("GET", "/healthz", "")].concat();
    stream.write_all(three.as_bytes()).unwrap();
    assert!(answer(&mut reader, true).1 == bytes);
    let (head, _) = answer(&mut reader, false);
    assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", bytes.len())), "{head}");
    assert_eq!(answer(&mut reader, true).1, b"ok\n");
    stream.write_all(ask("GET", &path, "Connection: close\r\n").as_bytes()).unwrap();
    assert!(answer(&mut reader, true).1 == bytes);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    let metrics = server.ask("GET", "/metrics", &[], b"");
    let counted = "door=\"/v1/packs/{digest}\",status=\"200\"} 3";
    assert!(metrics.text().contains(counted), "{}", metrics.text());
}

#[test]
fn a_client_that_goes_away_in_a_pack_harms_nobody() {
    let server = Server::start();
    let (path, bytes) = pack(&server);
    let address = server.base.strip_prefix("http://").unwrap();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 100]).unwrap();
    }
    assert!(server.ask("GET", &path, &[], b"").body == bytes);
}

/// A close with bytes unread would reset the connection, and the answer with it.
#[test]
fn a_refusal_is_heard_by_who_is_still_sending() {
    let server = Server::start();
    let address = server.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let length = 8 << 20;
    write!(stream, "POST /v1/agent/hello HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
        .unwrap();
    for _ in 0..length >> 20 {
        stream.write_all(&vec![b' '; 1 << 20]).unwrap();
        sleep(Duration::from_millis(50));
    }
    let (head, body) = answer(&mut BufReader::new(&stream), true);
    assert!(head.starts_with("http/1.1 413"), "{head}");
    assert!(!body.is_empty());
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
fn a_name_says_which_manifest_it_stands_for() {
    let server = Server::start();
    let answer = server.ask("GET", "/images/bare", &[], b"");
    assert_eq!(answer.header("cache-control"), "no-cache");
    assert_eq!(answer.expect(200)["manifest"], server.manifest.to_string());
    for name in ["absent", "%2e%2e", "..%2fkeys%2fbillet.key", "TINY", "%00", &"a".repeat(4096)] {
        let said = server.ask("GET", &format!("/images/{name}"), &[], b"").problem(404);
        assert!(said.contains("the store has no image"), "{name}: {said}");
    }
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
