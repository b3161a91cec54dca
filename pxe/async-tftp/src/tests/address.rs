//! Which address answers.

use std::{io::Cursor, net::SocketAddr, path::Path};

use tokio::net::UdpSocket;

use crate::{
    packet,
    server::{Handler, TftpServerBuilder},
};

struct OneName;

impl Handler for OneName {
    type Reader = Cursor<&'static [u8]>;

    async fn read_req_open(
        &self,
        _client: &SocketAddr,
        path: &Path,
    ) -> Result<(Self::Reader, Option<u64>), packet::Error> {
        match path.to_str() {
            Some("here") => Ok((Cursor::new(b"bytes"), None)),
            _ => Err(packet::Error::FileNotFound),
        }
    }
}

#[tokio::test]
async fn the_address_that_was_asked_answers() {
    let server = TftpServerBuilder::with_handler(OneName).bind("0.0.0.0:0".parse().unwrap());
    let server = server.build().await.unwrap();
    let port = server.listen_addr().unwrap().port();
    tokio::spawn(server.serve());
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for address in ["127.0.0.1", "127.0.0.2", "127.9.8.7"] {
        for name in ["here", "not-here"] {
            let request = format!("\0\x01{name}\0octet\0");
            client.send_to(request.as_bytes(), format!("{address}:{port}")).await.unwrap();
            let mut buf = [0; 600];
            let (_, from) = client.recv_from(&mut buf).await.unwrap();
            assert_eq!(from.ip().to_string(), address, "{name}");
        }
    }
}
