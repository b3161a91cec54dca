//! A server for one test, on a free port of loopback.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

use crate::tftp::{TftpConfig, serve_on};

/// What is served; `ipxe.efi` is the program under test.
pub const PROGRAMS: [&str; 3] = ["ipxe.efi", "snponly.efi", "undionly.kpxe"];

/// Tests share one process; those that measure it must be alone in it.
static PROCESS: RwLock<()> = RwLock::new(());

/// A running server. It must end well when it is dropped.
pub struct Serving {
    pub address: SocketAddr,
    pub boot: TempDir,
    fetched: Arc<Mutex<Vec<(IpAddr, String)>>>,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<anyhow::Result<()>>>,
    runtime: Runtime,
    _shared: Option<RwLockReadGuard<'static, ()>>,
    _alone: Option<RwLockWriteGuard<'static, ()>>,
}

impl Serving {
    /// Serves `program` as `ipxe.efi`.
    pub fn program(program: &[u8]) -> Self {
        Self::with(TftpConfig::default(), program)
    }

    pub fn with(config: TftpConfig, program: &[u8]) -> Self {
        Self::on(&[Ipv4Addr::LOCALHOST], config, program).0
    }

    /// Serves while no other server of this process does.
    pub fn alone(config: TftpConfig, program: &[u8]) -> Self {
        let alone = PROCESS.write().unwrap_or_else(PoisonError::into_inner);
        let (mut serving, _) = Self::start(&[Ipv4Addr::LOCALHOST], config, program);
        serving._alone = Some(alone);
        serving
    }

    /// Serves on several addresses, and gives them all.
    pub fn on(
        addresses: &[Ipv4Addr],
        config: TftpConfig,
        program: &[u8],
    ) -> (Self, Vec<SocketAddr>) {
        let shared = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
        let (mut serving, bound) = Self::start(addresses, config, program);
        serving._shared = Some(shared);
        (serving, bound)
    }

    fn start(
        addresses: &[Ipv4Addr],
        config: TftpConfig,
        program: &[u8],
    ) -> (Self, Vec<SocketAddr>) {
        let boot = tempfile::tempdir().unwrap();
        std::fs::write(boot.path().join("ipxe.efi"), program).unwrap();
        let sockets: Vec<_> =
            addresses.iter().map(|ip| UdpSocket::bind((*ip, 0)).unwrap()).collect();
        let bound: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let fetched = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&fetched);
        let tell = move |who, what: &str| told.lock().unwrap().push((who, what.to_string()));
        let (stop, stopped) = oneshot::channel();
        let dir = boot.path().to_path_buf();
        let runtime = Runtime::new().unwrap();
        let server = runtime.spawn(async move {
            let shutdown = async move { drop(stopped.await) };
            serve_on(sockets, &config, dir, &PROGRAMS, tell, shutdown).await
        });
        let serving = Serving {
            address: bound[0],
            boot,
            fetched,
            stop: Some(stop),
            server: Some(server),
            runtime,
            _shared: None,
            _alone: None,
        };
        (serving, bound)
    }

    /// Who fetched what so far. A client has its last block a moment before the server knows.
    pub fn fetched(&self) -> Vec<(IpAddr, String)> {
        std::thread::sleep(std::time::Duration::from_millis(100));
        self.fetched.lock().unwrap().clone()
    }

    pub fn replace(&self, name: &str, bytes: &[u8]) {
        std::fs::write(Path::new(self.boot.path()).join(name), bytes).unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        let server = self.server.take().unwrap();
        if !std::thread::panicking() {
            self.runtime.block_on(server).unwrap().unwrap();
        }
    }
}

/// Bytes that repeat nowhere near a block's size.
pub fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ len as u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// How many files this process has open.
pub fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Resident memory of this process in KiB.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
