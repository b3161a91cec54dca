//! Whole transfers of random bytes.

use std::{io::Cursor, net::SocketAddr, path::Path};

use rand::RngExt;

use super::external_client::external_tftp_recv;
use crate::{
    packet,
    server::{Handler, TftpServerBuilder},
};

struct RandomHandler(Vec<u8>);

impl Handler for RandomHandler {
    type Reader = Cursor<Vec<u8>>;

    async fn read_req_open(
        &self,
        _client: &SocketAddr,
        _path: &Path,
    ) -> Result<(Self::Reader, Option<u64>), packet::Error> {
        Ok((Cursor::new(self.0.clone()), None))
    }
}

fn transfer(
    file_size: usize,
    block_size: Option<u16>,
    server_window_size: Option<u16>,
    client_window_size: Option<u16>,
) {
    let mut data = vec![0; file_size];
    rand::rng().fill(&mut data[..]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tftpd = runtime.block_on(
        TftpServerBuilder::with_handler(RandomHandler(data.clone()))
            .bind("127.0.0.1:0".parse().unwrap())
            .window_size_limit(server_window_size.unwrap_or(1))
            .build(),
    );
    let tftpd = tftpd.unwrap();
    let addr = tftpd.listen_addr().unwrap();
    runtime.spawn(tftpd.serve());
    let received = external_tftp_recv("test", addr, block_size, client_window_size);
    assert!(received == data, "{} bytes received of {file_size}", received.len());
}

#[test]
fn transfer_0_bytes() {
    transfer(0, None, None, None);
    transfer(0, Some(1024), None, None);
    transfer(0, Some(1024), Some(8), Some(8));
}

#[test]
fn transfer_less_than_block() {
    transfer(1, None, None, None);
    transfer(123, None, None, None);
    transfer(511, None, None, None);
    transfer(1023, Some(1024), None, None);
    transfer(1, None, Some(8), Some(8));
    transfer(123, None, Some(8), Some(8));
    transfer(511, None, Some(8), Some(8));
    transfer(1023, Some(1024), Some(8), Some(8));
}

#[test]
fn transfer_block() {
    transfer(512, None, None, None);
    transfer(1024, Some(1024), None, None);
    transfer(1024, Some(1024), Some(8), Some(8));
}

#[test]
fn transfer_more_than_block() {
    transfer(512 + 1, None, None, None);
    transfer(512 + 123, None, None, None);
    transfer(512 + 511, None, None, None);
    transfer(1024 + 1, Some(1024), None, None);
    transfer(1024 + 123, Some(1024), None, None);
    transfer(1024 + 1023, Some(1024), None, None);
    transfer(1024 + 1023, Some(1024), Some(8), Some(4));
}

#[test]
fn transfer_1mb() {
    transfer(1024 * 1024, None, None, None);
    transfer(1024 * 1024, Some(1024), None, None);
    transfer(1024 * 1024, Some(1024), Some(16), Some(8));
}

#[test]
fn transfer_almost_32mb() {
    transfer(32 * 1024 * 1024 - 1, None, None, None);

    for window_size in [None, Some(1), Some(2), Some(3), Some(4), Some(5), Some(8), Some(16)] {
        transfer(32 * 1024 * 1024 - 1, None, window_size, window_size);
    }
}

#[test]
fn transfer_32mb() {
    transfer(32 * 1024 * 1024, None, None, None);
}

#[test]
fn transfer_more_than_32mb() {
    transfer(33 * 1024 * 1024 + 123, None, None, None);
}

#[test]
fn transfer_more_than_64mb() {
    transfer(65 * 1024 * 1024 + 123, None, None, None);
}
