//! `billet serve`: opens the state, starts every service, and ends them cleanly.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

use crate::{
    boot_program::PROGRAMS,
    config::Config,
    dhcp::{self, Neighbours},
    http::{self, Metrics, Shared},
    interface::Interfaces,
    library::Library,
    live::{Live, Message},
    place::Place,
    provisioner::{Provisioner, keep_partitions, keep_time, tidy, watch_starts},
    ra,
    registry::{Heard, Registry, Seen},
    store::{Store, sqlite_url},
    tftp,
    token::Token,
};

/// How long connections may take to end after the signal.
const GRACE: Duration = Duration::from_secs(5);
/// Words of DHCP that may wait to be recorded.
const UNHEARD: usize = 4096;

/// Serves until SIGTERM or SIGINT.
pub fn run(config: Config) -> anyhow::Result<()> {
    log();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("starting the runtime")?;
    let done = runtime.block_on(serve(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// Under systemd the journal has the time, and colours are for terminals.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BILLET_LOG");
    let filter = filter.unwrap_or_else(|_| "info,sqlx=warn".into());
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let builder = builder.with_writer(std::io::stderr).with_ansi(ansi);
    let set = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => builder.without_time().try_init(),
        None => builder.try_init(),
    };
    if set.is_err() {
        tracing::debug!("the log was set up before");
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Heard before anything starts: a signal during the start ends it cleanly, too.
    let mut terminate = signal(SignalKind::terminate()).context("listening to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening to SIGINT")?;
    let (shared, listener) = open(&config).await?;
    let provisioner = shared.provisioner.clone();
    let (stop, stopped) = watch::channel(());
    let mut services = JoinSet::new();
    start_network(&config, &provisioner, listener.local_addr()?.port(), &stopped, &mut services);
    services.spawn(answer(listener, shared, config.http.idle, wait_for(&stopped)));
    let clock = [
        tokio::spawn(keep_time(provisioner.clone())),
        tokio::spawn(watch_starts(provisioner.clone())),
        tokio::spawn(tidy(provisioner.clone(), config.events.keep)),
        tokio::spawn(keep_partitions(
            provisioner.clone(),
            config.fabrics.clone(),
            config.fabrics_folder(),
        )),
    ];
    ready();
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = services.join_next() => ended.context("a service panicked").flatten(),
    };
    tracing::info!("stopping");
    drop(stop);
    provisioner.live.tell(Message::Ending);
    for task in clock {
        task.abort();
    }
    if timeout(GRACE, async { while services.join_next().await.is_some() {} }).await.is_err() {
        tracing::debug!("connections were still open");
    }
    services.shutdown().await;
    provisioner.store.close().await;
    ended
}

/// Opens what is kept, and says what there is and what is missing.
async fn open(config: &Config) -> anyhow::Result<(Arc<Shared>, TcpListener)> {
    let data = &config.data;
    let mut folder = std::fs::DirBuilder::new();
    folder
        .recursive(true)
        .mode(0o700)
        .create(data)
        .context(format!("making {}", data.display()))?;
    let url = config.database.clone().unwrap_or_else(|| sqlite_url(&data.join("billet.db")));
    let store = Store::open(&url).await?;
    let (place, folder) = (Place::parse(config.store().as_os_str())?, data.clone());
    let library = spawn_blocking(move || Library::open(&place, &folder)).await??;
    let token_file = config.token_file();
    let (admin, made) = Token::load_or_create(&token_file)?;
    let listen = config.http.listen;
    let context = || format!("listening on {listen} (`listen` of [http] says where)");
    let listener = TcpListener::bind(listen).await.with_context(context)?;
    let address = config.address.map_or_else(detect_address, Ok)?;
    let advertised =
        format!("http://{}", SocketAddr::from((address, listener.local_addr()?.port())));
    let what = if made { "made" } else { "kept" };
    tracing::info!("http: {advertised} (bound to {listen})");
    tracing::info!("state: {}, images: {}", data.display(), config.store().display());
    tracing::info!("admin token: {what} in {}", token_file.display());
    let looking = library.clone();
    for missing in spawn_blocking(move || looking.missing()).await? {
        tracing::warn!("{missing}");
    }
    let provisioner = Provisioner {
        store,
        registry: Arc::new(Registry::default()),
        live: Live::new(),
        library,
        limits: config.limits(),
        ssh_port: config.deploy.ssh_port,
        strangers: config.nodes.discovered,
        subnets: config.dhcp.subnets.clone(),
        authorized_keys: config.deploy.authorized_keys.clone(),
        apply: config.deploy.apply,
        alarm: Notify::new(),
    };
    provisioner.resume().await.context("going on where the last run ended")?;
    let provisioner = Arc::new(provisioner);
    let metrics = Metrics::default();
    Ok((Arc::new(Shared { provisioner, admin: admin.hash(), advertised, metrics }), listener))
}

/// The first address of this host that others may reach.
fn detect_address() -> anyhow::Result<Ipv4Addr> {
    let interfaces = Interfaces::probe()?;
    let mut addresses: Vec<_> = interfaces.addresses().iter().copied().collect();
    addresses.retain(|address| !address.is_loopback() && !address.is_link_local());
    Ok(addresses.into_iter().min().unwrap_or_else(|| {
        tracing::warn!("no network interface has an IPv4 address; `address` can say which");
        Ipv4Addr::LOCALHOST
    }))
}

/// Starts what speaks to firmware.
fn start_network(
    config: &Config,
    provisioner: &Arc<Provisioner>,
    http_port: u16,
    stopped: &watch::Receiver<()>,
    services: &mut JoinSet<anyhow::Result<()>>,
) {
    let (seen, heard) = mpsc::channel(UNHEARD);
    tokio::spawn(record(provisioner.clone(), heard));
    let registry = provisioner.registry.clone();
    start_tftp(config, provisioner, seen.clone(), stopped, services);
    let neighbours = Neighbours { registry, seen, http_port };
    let (dhcp, keeper) = (config.dhcp.clone(), provisioner.clone());
    tracing::info!("dhcp: {}", format!("{:?}", dhcp.mode).to_lowercase());
    let end = wait_for(stopped);
    services.spawn(async move {
        let stored = keeper.store.load_leases().await.context("loading the leases")?;
        let save = move |leases: Vec<_>, expired: Vec<_>| {
            let keeper = keeper.clone();
            async move { Ok(keeper.store.save_leases(&leases, &expired).await?) }
        };
        dhcp::serve(dhcp, neighbours, stored, save, end).await.context("serving DHCP")
    });
    let (ra, end) = (config.ra.clone(), wait_for(stopped));
    services.spawn(async move {
        ra::serve(ra, end).await;
        Ok(())
    });
}

fn start_tftp(
    config: &Config,
    provisioner: &Arc<Provisioner>,
    seen: mpsc::Sender<Seen>,
    stopped: &watch::Receiver<()>,
    services: &mut JoinSet<anyhow::Result<()>>,
) {
    let (tftp, boot, end) =
        (config.tftp.clone(), provisioner.library.boot_folder(), wait_for(stopped));
    if !tftp.enabled {
        return;
    }
    let provisioner = provisioner.clone();
    let fetched = move |peer: IpAddr, file: &str| {
        let IpAddr::V4(address) = peer.to_canonical() else { return };
        let Some(mac) = provisioner.live.machine_at(address) else { return };
        let what = Heard::Fetched(file.to_owned());
        // A full channel costs a line of the log, nothing else.
        let _ = seen.try_send(Seen { mac, uuid: None, firmware: None, what });
    };
    services.spawn(async move {
        let addresses: Vec<Ipv4Addr> = Interfaces::probe()?.addresses().iter().copied().collect();
        let served = tftp::serve(tftp, boot, &PROGRAMS, addresses, fetched, end).await;
        served.context("serving TFTP (`enabled = false` of [tftp] leaves it to another)")
    });
}

async fn record(provisioner: Arc<Provisioner>, mut heard: mpsc::Receiver<Seen>) {
    while let Some(seen) = heard.recv().await {
        if let Err(error) = provisioner.heard(seen).await {
            tracing::error!("recording what was heard on the network: {error:#}");
        }
    }
}

async fn answer(
    listener: TcpListener,
    shared: Arc<Shared>,
    idle: Duration,
    end: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    http::serve(listener, shared, idle, end).await.context("serving HTTP")
}

/// Ready when the other end of the channel is gone.
fn wait_for(stopped: &watch::Receiver<()>) -> impl Future<Output = ()> + Send + 'static {
    let mut stopped = stopped.clone();
    async move { while stopped.changed().await.is_ok() {} }
}

/// Tells systemd, when it asks to be told (`Type=notify`).
fn ready() {
    tracing::info!("ready");
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|datagram| datagram.send_to(b"READY=1", socket));
    if let Err(error) = told {
        tracing::warn!("telling systemd: {error}");
    }
}
