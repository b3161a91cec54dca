//! Where the engine and its peers get everything: nginx on loopback, the same for all (a cache
//! may stand before our store, and here one does), and an rsync daemon.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::engine_work::Work;
use crate::{Child, tool};

/// Where it listens.
pub const ADDRESS: &str = "127.0.0.1:8088";
/// What the files are under.
pub const HTTP: &str = "http://127.0.0.1:8088";
/// What the raw disks are under.
pub const RSYNC: &str = "rsync://127.0.0.1:8730/disks";
const PATIENCE: Duration = Duration::from_secs(15);

/// Servers; gone when dropped.
pub struct Site {
    servers: [Child; 2],
}

impl Site {
    /// Starts them, their state and logs in `folder`.
    pub fn start(work: &Work, folder: &Path) -> Result<Self> {
        let nginx = folder.join("nginx.conf");
        fs::write(&nginx, http(work, folder)).context("configuring nginx")?;
        let mut command = Command::new(tool::program("nginx", "nginx-light")?);
        command.arg("-p").arg(folder).arg("-c").arg(nginx).args(["-e", "nginx.log"]);
        let nginx = Child::start("nginx", command, &folder.join("nginx.log"), Vec::new())?;
        let rsync = folder.join("rsyncd.conf");
        let disks = work.folder.display();
        let text = format!(
            "port = 8730\nuse chroot = no\nuid = 0\ngid = 0\n[disks]\npath = {disks}\nread only = yes\n"
        );
        fs::write(&rsync, text).context("configuring rsync")?;
        let mut command = Command::new(tool::program("rsync", "rsync")?);
        command.args(["--daemon", "--no-detach", "--address=127.0.0.1"]);
        command.arg(format!("--config={}", rsync.display()));
        let rsync = Child::start("rsync", command, &folder.join("rsync.log"), Vec::new())?;
        let mut servers = [nginx, rsync];
        for (server, port) in servers.iter_mut().zip([8088, 8730]) {
            wait(server, port).with_context(|| format!("see {}", folder.display()))?;
        }
        Ok(Site { servers })
    }

    /// nginx's first process, whose children do the work.
    pub fn http_pid(&self) -> u32 {
        self.servers[0].pid()
    }
}

/// Asked first: nginx's workers outlive a first process that is killed.
impl Drop for Site {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.stop(PATIENCE);
        }
    }
}

/// The doors of `billet serve` for packs and manifests, and everything else by its name.
fn http(work: &Work, folder: &Path) -> String {
    let (all, store, folder) =
        (work.folder.display(), work.store.root().display(), folder.display());
    format!(
        "daemon off;\nuser root;\nworker_processes 2;\npid {folder}/nginx.pid;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n access_log off;\n sendfile on;\n tcp_nopush on;\n keepalive_requests 100000;\n\
         client_body_temp_path {folder}/body;\n proxy_temp_path {folder}/proxy;\n\
         fastcgi_temp_path {folder}/fastcgi;\n uwsgi_temp_path {folder}/uwsgi;\n\
         scgi_temp_path {folder}/scgi;\n\
         server {{\n listen 127.0.0.1:8088;\n root {all};\n\
         location ~ \"^/v1/packs/(..)(.*)$\" {{ alias {store}/packs/$1/$1$2; }}\n\
         location ~ ^/v1/manifests/(.*)/minisig$ {{ alias {store}/manifests/$1.minisig; }}\n\
         location ~ ^/v1/manifests/(.*)/index$ {{ alias {store}/manifests/$1.index; }}\n\
         location ~ ^/v1/manifests/([^/]*)$ {{ alias {store}/manifests/$1; }}\n\
         }}\n}}\n"
    )
}

/// Waits until a server listens.
pub fn wait(server: &mut Child, port: u16) -> Result<()> {
    let (address, began) = (SocketAddr::from(([127, 0, 0, 1], port)), Instant::now());
    while TcpStream::connect(address).is_err() {
        let ended = server.ended();
        if ended.is_some() || began.elapsed() > PATIENCE {
            bail!("{} does not listen on port {port} ({ended:?})", server.name());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
