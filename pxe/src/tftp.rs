//! TFTP: hands out the few boot programs that firmware asks for first, and nothing else.
//!
//! The programs come from the store's `boot/` folder and are kept in memory. `pxe/async-tftp` is
//! the protocol; this file decides what is given to whom. Everything runs on one thread of its
//! own: a transfer is a question and an answer for each block, so what counts is how soon the
//! thread that waits on the socket answers, and no other work of the program may stand before it.

use std::{
    collections::HashMap,
    future::Future,
    io::{self, Cursor},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use async_tftp::{
    packet::Error as Told,
    server::{Handler, Outcome, TftpServer, TftpServerBuilder},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use tokio::sync::{Mutex, oneshot};
use tracing::{debug, info, warn};

/// More than any boot program has, and how much of memory one of them may take.
const LARGEST_PROGRAM: u64 = 64 << 20;

/// Who fetched which program, told once for each whole transfer.
pub type Fetched = dyn Fn(IpAddr, &str) + Send + Sync;

/// How boot programs are handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TftpConfig {
    /// Whether boot programs are handed out by TFTP at all (the default).
    pub enabled: bool,
    /// UDP port. Firmware knows no other than 69.
    pub port: u16,
    /// The largest block that is agreed to, in bytes, 512 to 1468. 1468 fills an Ethernet frame;
    /// a network with smaller frames (a tunnel) wants less.
    #[serde(deserialize_with = "within::<_, 512, 1468>")]
    pub block_size: u16,
    /// How many blocks may be under way at once, 1 to 16, to a client that asks for windows.
    #[serde(deserialize_with = "within::<_, 1, 16>")]
    pub window: u16,
    /// After how many seconds without an answer the same is sent again, 1 to 10. A client's own
    /// wish is not heard: the longer it is, the longer a lost packet holds up the boot.
    #[serde(deserialize_with = "within::<_, 1, 10>")]
    pub timeout: u16,
    /// How often it is sent again before the client is given up, 5 to 8.
    #[serde(deserialize_with = "within::<_, 5, 8>")]
    pub retries: u16,
    /// How many transfers may run at once, 1 to 4096; each takes a socket and at most 24 KiB.
    #[serde(deserialize_with = "within::<_, 1, 4096>")]
    pub transfers: u16,
    /// How many of them one client address may have, 1 to 4096.
    #[serde(deserialize_with = "within::<_, 1, 4096>")]
    pub per_client: u16,
}

impl Default for TftpConfig {
    fn default() -> Self {
        TftpConfig {
            enabled: true,
            port: 69,
            block_size: 1468,
            window: 16,
            timeout: 1,
            retries: 6,
            transfers: 512,
            per_client: 128,
        }
    }
}

fn within<'de, D: Deserializer<'de>, const LOW: u16, const HIGH: u16>(
    deserializer: D,
) -> Result<u16, D::Error> {
    let value = i64::deserialize(deserializer)?;
    u16::try_from(value)
        .ok()
        .filter(|value| (LOW..=HIGH).contains(value))
        .ok_or_else(|| D::Error::custom(format!("{value} given, {LOW} to {HIGH} is possible")))
}

/// Serves the files of `boot_dir` that are named in `programs`, on each of `addresses`, until
/// `shutdown`.
///
/// Every address has a server of its own, so that answers come from where the question went.
/// An address that cannot be bound is an error at once. `fetched` is called from the serving
/// thread and must not wait.
pub async fn serve(
    config: TftpConfig,
    boot_dir: PathBuf,
    programs: &'static [&'static str],
    addresses: Vec<Ipv4Addr>,
    fetched: impl Fn(IpAddr, &str) + Send + Sync + 'static,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let sockets = bind(config.port, &addresses)?;
    serve_on(sockets, &config, boot_dir, programs, fetched, shutdown).await
}

fn bind(port: u16, addresses: &[Ipv4Addr]) -> anyhow::Result<Vec<UdpSocket>> {
    let bind = |address: &Ipv4Addr| {
        let address = SocketAddr::from((*address, port));
        UdpSocket::bind(address).with_context(|| format!("binding {address} for TFTP"))
    };
    addresses.iter().map(bind).collect()
}

/// As [`serve`], on sockets that are bound already.
pub async fn serve_on(
    sockets: Vec<UdpSocket>,
    config: &TftpConfig,
    boot_dir: PathBuf,
    programs: &'static [&'static str],
    fetched: impl Fn(IpAddr, &str) + Send + Sync + 'static,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let programs = Programs::new(boot_dir, programs, Arc::new(fetched));
    let config = config.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let (end, ended) = oneshot::channel();
    let run = move || {
        // The receiver is gone only when nobody waits for the end any more.
        let _ = end.send(run(sockets, &config, &programs, stopped));
    };
    std::thread::Builder::new()
        .name("tftp".to_string())
        .spawn(run)
        .context("starting the TFTP thread")?;
    tokio::pin!(ended);
    tokio::select! {
        result = &mut ended => return result.context("serving TFTP")?,
        () = shutdown => drop(stop),
    }
    ended.await.context("stopping TFTP")?
}

/// The serving thread.
fn run(
    sockets: Vec<UdpSocket>,
    config: &TftpConfig,
    programs: &Programs,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the TFTP runtime")?;
    runtime.block_on(async {
        let mut servers = tokio::task::JoinSet::new();
        for socket in sockets {
            let server = build(socket, config, programs).await?;
            info!("TFTP on {}", server.listen_addr()?);
            servers.spawn(server.serve());
        }
        tokio::select! {
            Some(ended) = servers.join_next() => ended.context("serving TFTP")?.context("serving TFTP"),
            _ = stopped => Ok(()),
        }
    })
}

async fn build(
    socket: UdpSocket,
    config: &TftpConfig,
    programs: &Programs,
) -> anyhow::Result<TftpServer<Programs>> {
    TftpServerBuilder::with_handler(programs.clone())
        .std_socket(socket)
        .block_size_limit(config.block_size)
        .window_size_limit(config.window)
        .timeout(Duration::from_secs(config.timeout.into()))
        .ignore_client_timeout()
        .max_send_retries(config.retries.into())
        .transfer_limit(config.transfers.into())
        .client_limit(config.per_client.into())
        .build()
        .await
        .context("starting a TFTP server")
}

/// The boot programs, each read when first asked for and again when its file has changed.
#[derive(Clone)]
struct Programs {
    dir: PathBuf,
    names: &'static [&'static str],
    loaded: Arc<HashMap<&'static str, Mutex<Option<Program>>>>,
    fetched: Arc<Fetched>,
}

/// A program in memory.
struct Program {
    /// The file's time and size when it was read.
    stamp: (SystemTime, u64),
    bytes: Arc<[u8]>,
}

impl Programs {
    fn new(dir: PathBuf, names: &'static [&'static str], fetched: Arc<Fetched>) -> Self {
        let loaded = names.iter().map(|name| (*name, Mutex::new(None))).collect();
        Programs { dir, names, loaded: Arc::new(loaded), fetched }
    }

    async fn get(&self, name: &str) -> Result<Arc<[u8]>, Told> {
        let (name, slot) = self.loaded.get_key_value(name).ok_or_else(|| self.unknown(name))?;
        let path = self.dir.join(name);
        // Only those who want the same program wait while it is read.
        let mut slot = slot.lock().await;
        let stamp = stamp(&path).map_err(|e| unreadable(&path, &e))?;
        if let Some(known) = slot.as_ref().filter(|known| known.stamp == stamp) {
            return Ok(Arc::clone(&known.bytes));
        }
        let read = tokio::fs::read(&path).await;
        let bytes: Arc<[u8]> = read.map_err(|e| unreadable(&path, &e))?.into();
        info!("{} is served by TFTP, {} bytes", path.display(), bytes.len());
        *slot = Some(Program { stamp, bytes: Arc::clone(&bytes) });
        Ok(bytes)
    }

    /// What somebody is told who asks for anything else. iPXE tries `autoexec.ipxe` at each
    /// start and goes on when it hears "file not found", so that is the code for every
    /// unknown name.
    fn unknown(&self, name: &str) -> Told {
        if Path::new(name).components().any(|part| part.as_os_str() == "..") {
            return Told::PermissionDenied;
        }
        Told::NotHere(format!("no such boot program, there are {}", self.names.join(" ")))
    }
}

fn stamp(path: &Path) -> io::Result<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > LARGEST_PROGRAM {
        let wanted = format!("no regular file of at most {LARGEST_PROGRAM} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, wanted));
    }
    Ok((metadata.modified()?, metadata.len()))
}

fn unreadable(path: &Path, error: &io::Error) -> Told {
    warn!("reading {}: {error}", path.display());
    Told::NotHere("this boot program is not in the boot folder".to_string())
}

impl Handler for Programs {
    type Reader = Cursor<Arc<[u8]>>;

    async fn read_req_open(
        &self,
        client: &SocketAddr,
        path: &Path,
    ) -> Result<(Self::Reader, Option<u64>), Told> {
        // Some firmware sends the name as a path from the root.
        let name = path.to_str().unwrap_or_default().trim_start_matches('/');
        let bytes = self.get(name).await.inspect_err(|told| {
            debug!("{client} asked for {name:?} by TFTP and was told {told:?}");
        })?;
        let size = bytes.len() as u64;
        Ok((Cursor::new(bytes), Some(size)))
    }

    fn ended(&self, client: &SocketAddr, path: &Path, outcome: Outcome) {
        let name = path.to_str().unwrap_or_default().trim_start_matches('/');
        match outcome {
            Outcome::Complete => {
                info!("{client} fetched {name}");
                (self.fetched)(client.ip(), name);
            }
            Outcome::Silent => warn!("{client} went silent while fetching {name}"),
            _ => debug!("{client} did not fetch {name}: {outcome:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_and_wild_values_are_refused() {
        let config: TftpConfig = toml::from_str("window = 4").unwrap();
        assert_eq!(config, TftpConfig { window: 4, ..TftpConfig::default() });
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<TftpConfig>(&text).unwrap(), config);
        for (wrong, says) in [
            ("window = 65535", "1 to 16 is possible"),
            ("window = 0", "1 to 16 is possible"),
            ("block_size = 65464", "512 to 1468 is possible"),
            ("retries = -1", "5 to 8 is possible"),
            ("windows = 4", "unknown field `windows`"),
        ] {
            let error = toml::from_str::<TftpConfig>(wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    #[tokio::test]
    async fn only_the_known_names_are_given_and_changes_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let boot = dir.path().join("boot");
        std::fs::create_dir(&boot).unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        std::fs::write(boot.join("kernel"), "kernel").unwrap();
        std::fs::write(boot.join("ipxe.efi"), "one").unwrap();
        std::fs::create_dir(boot.join("snponly.efi")).unwrap();
        let programs = Programs::new(
            boot.clone(),
            &["ipxe.efi", "snponly.efi", "undionly.kpxe"],
            Arc::new(|_, _: &str| {}),
        );
        assert_eq!(&*programs.get("ipxe.efi").await.unwrap(), b"one");
        std::fs::write(boot.join("ipxe.efi"), "another").unwrap();
        assert_eq!(&*programs.get("ipxe.efi").await.unwrap(), b"another");
        for name in ["../secret", "..", "ipxe.efi/../../secret"] {
            assert!(matches!(programs.get(name).await, Err(Told::PermissionDenied)), "{name}");
        }
        for name in ["", "kernel", "undionly.kpxe", "snponly.efi", "ipxe.efi/", "IPXE.EFI"] {
            assert!(matches!(programs.get(name).await, Err(Told::NotHere(_))), "{name}");
        }
    }
}
