//! The real `billet serve` on the rack's network, with a configuration and a data folder of its
//! own; it can be killed at any moment and started again.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    api::{Api, Enroll, NodeView},
    artefacts::{Programs, last_lines},
    child::Child,
    node::Node,
    rack::{ADDRESS, BRIDGE},
    ssh::{Key, Target},
};

/// How long a server may take to answer after its start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where HTTP is served.
const PORT: u16 = 8080;

/// Whose addresses the nodes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dhcp {
    /// The server's: it is the only DHCP server of the rack.
    Server,
    /// Another server's: billet adds what to boot.
    Proxy,
}

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The store of images.
    pub store: PathBuf,
    /// Whose addresses the nodes have.
    pub dhcp: Dhcp,
    /// Whether a deployment ends when the new system answers, or already when it was started.
    pub check_start: bool,
    /// Failures of an agent after which it is not tried again.
    pub failures: u32,
    /// Where it listens for HTTP; the rack's address unless something else stands there.
    pub listen: Ipv4Addr,
    /// How long an address is given for, in seconds; the server's default when absent.
    pub lease: Option<u32>,
    /// More of its configuration, as TOML.
    pub more: String,
}

impl Options {
    /// A server that gives addresses, for this store.
    pub fn new(store: &Path) -> Self {
        Options {
            store: store.to_owned(),
            dhcp: Dhcp::Server,
            check_start: true,
            failures: 5,
            listen: ADDRESS,
            lease: None,
            more: String::new(),
        }
    }
}

/// A running `billet serve`.
pub struct Server {
    billet: PathBuf,
    configuration: PathBuf,
    listen: Ipv4Addr,
    folder: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    key: Key,
    api: Api,
}

impl Server {
    /// Starts it with its files in `folder`.
    pub fn start(programs: &Programs, folder: &Path, options: &Options) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let folder = folder.canonicalize().context("resolving the server's folder")?;
        let configuration = folder.join("billet.toml");
        fs::write(&configuration, configure(&folder, options)).context("configuring")?;
        let mut server = Server {
            billet: programs.billet.clone(),
            configuration,
            listen: options.listen,
            log: folder.join("serve.log"),
            key: Key::make(&folder)?,
            child: None,
            api: Api::new(&base(options.listen), ""),
            folder,
        };
        server.restart()?;
        Ok(server)
    }

    /// Starts it again after [`Server::kill9`] or [`Server::stop`], and waits until it answers.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = Command::new(&self.billet);
        command.args(["serve", "--config"]).arg(&self.configuration);
        command.env("RUST_BACKTRACE", "1").env_remove("BILLET_TOKEN");
        let mut child = Child::start("billet serve", command, &self.log, Vec::new())?;
        let began = Instant::now();
        while self.api.bytes("/healthz").is_err() {
            let ended = child.ended();
            if ended.is_some() || began.elapsed() > PATIENCE {
                let how = ended.map_or("does not answer".to_owned(), |status| status.to_string());
                bail!("billet serve: {how}; its log ends:\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child = Some(child);
        let token = self.folder.join("data/admin.token");
        let token = fs::read_to_string(token).context("reading the admin token")?;
        self.api = Api::new(&self.base(), token.trim());
        Ok(())
    }

    /// `kill -9`.
    pub fn kill9(&mut self) {
        self.child = None;
    }

    /// Asks it to end.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.stop(Duration::from_secs(10));
        }
    }

    /// Its process id, when it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::pid)
    }

    /// Its API, as administrator.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// `http://10.77.0.1:8080`
    pub fn base(&self) -> String {
        base(self.listen)
    }

    /// The administrator's token.
    pub fn token(&self) -> Result<String> {
        let token = fs::read_to_string(self.folder.join("data/admin.token"));
        Ok(token.context("reading the admin token")?.trim().to_owned())
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The end of its log, for a failure's message.
    pub fn log_tail(&self) -> String {
        last_lines(&self.log, 30)
    }

    /// Enrolls a machine of the rack under its own name, with the rack's key.
    pub fn enroll(&self, node: &Node) -> Result<NodeView> {
        self.api.enroll(&Enroll {
            name: node.name(),
            macs: vec![node.mac().to_owned()],
            authorized_keys: vec![self.key.public.clone()],
            ..Enroll::default()
        })
    }

    /// The key that enrolled nodes let in.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Runs `script` as root on a deployed node, trying until `patience` ends.
    pub fn ssh(&self, node: &str, script: &str, patience: Duration) -> Result<String> {
        self.key.run_when_up(&self.target(node)?, script, patience)
    }

    /// Keeps connections to nodes open ([`Key::keep_connections`]).
    pub fn keep_connections(&mut self) {
        self.key.keep_connections();
    }

    /// Where a node is and which host key it has, as the API says.
    pub fn target(&self, node: &str) -> Result<Target> {
        let view = self.api.node(node)?;
        let address = view.address.with_context(|| format!("{node} has no address yet"))?;
        let host_key = view.host_key.with_context(|| format!("{node} has no host key yet"))?;
        Ok(Target { address, host_key })
    }
}

fn base(listen: Ipv4Addr) -> String {
    format!("http://{listen}:{PORT}")
}

fn configure(folder: &Path, options: &Options) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let (data, store) = (quoted(&folder.join("data")), quoted(&options.store));
    let mode = match options.dhcp {
        Dhcp::Server => "server",
        Dhcp::Proxy => "proxy",
    };
    let Options { listen, failures, .. } = options;
    let check = if options.check_start { "ssh" } else { "none" };
    let mut text = format!("data = {data}\nstore = {store}\naddress = \"{ADDRESS}\"\n");
    text += &format!("\n[http]\nlisten = \"{listen}:{PORT}\"\n");
    text += &format!("\n[deploy]\nstart_check = \"{check}\"\nfailures = {failures}\n");
    text += &format!("\n[dhcp]\nmode = \"{mode}\"\ninterfaces = [\"{BRIDGE}\"]\n");
    text += &options.lease.map(|lease| format!("lease_seconds = {lease}\n")).unwrap_or_default();
    if options.dhcp == Dhcp::Server {
        text += &format!(
            "\n[[dhcp.subnets]]\nnetwork = \"10.77.0.0/24\"\n\
             pools = [\"10.77.0.100-10.77.0.199\"]\nrouter = \"{ADDRESS}\"\n"
        );
    }
    text + &options.more
}
