//! `billet.toml`: every key has a default that works on a laptop, and a key that is none is an
//! error that names the nearest one.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::Deserialize;

use crate::{
    deployment::Limits, dhcp_config::DhcpConfig, ra::RaConfig, subnet_manager::FabricConfig,
    tftp::TftpConfig,
};

/// Folder of the state of a server that runs as root.
pub const DATA: &str = "/var/lib/billet";

/// The whole configuration of `billet serve`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder of the state: database, admin token.
    pub data: PathBuf,
    /// Folder of the images and of the RAM system, or `s3://bucket/prefix` for the images; `store`
    /// below `data` when absent.
    pub store: Option<PathBuf>,
    /// URL of the database (`postgres://...`); a file in `data` when absent.
    pub database: Option<String>,
    /// The address under which nodes reach this host; found out when absent.
    pub address: Option<Ipv4Addr>,
    /// `[http]`
    pub http: HttpConfig,
    /// `[dhcp]`
    pub dhcp: DhcpConfig,
    /// `[tftp]`
    pub tftp: TftpConfig,
    /// `[ra]`
    pub ra: RaConfig,
    /// `[deploy]`
    pub deploy: DeployConfig,
    /// `[nodes]`
    pub nodes: NodesConfig,
    /// `[events]`
    pub events: EventsConfig,
    /// `[[fabric]]`: InfiniBand fabrics whose subnet managers are told of slices.
    #[serde(rename = "fabric")]
    pub fabrics: Vec<FabricConfig>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data: default_data(),
            store: None,
            database: None,
            address: None,
            http: HttpConfig::default(),
            dhcp: DhcpConfig::default(),
            tftp: TftpConfig::default(),
            ra: RaConfig::default(),
            deploy: DeployConfig::default(),
            nodes: NodesConfig::default(),
            events: EventsConfig::default(),
            fabrics: Vec::new(),
        }
    }
}

/// Where HTTP is served.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port.
    pub listen: SocketAddr,
    /// How long a client may take from connecting, or from its last answer, to its next request.
    #[serde(with = "friendly")]
    pub idle: Duration,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
            idle: Duration::from_secs(75),
        }
    }
}

/// How long a deployment waits, and what every deployed node gets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeployConfig {
    /// For the node to boot from the network.
    #[serde(with = "friendly")]
    pub boot: Duration,
    /// From the boot script to the RAM system's hello.
    #[serde(with = "friendly")]
    pub inventory: Duration,
    /// For the agent's next word; then a new boot is awaited.
    #[serde(with = "friendly")]
    pub silence: Duration,
    /// From the written disk to an answer of the new system.
    #[serde(with = "friendly")]
    pub start: Duration,
    /// From a new desired state, or the start of the system, until the node's agent has applied
    /// it; then an event says that it has not.
    #[serde(with = "friendly")]
    pub apply: Duration,
    /// What counts as started.
    pub start_check: StartCheck,
    /// Where a started system's SSH server listens.
    pub ssh_port: u16,
    /// How often the agent may fail before the deployment does.
    pub failures: u32,
    /// How often the node may boot before the deployment fails.
    pub boots: u32,
    /// Lines of root's `authorized_keys` on every node, beside the node's own.
    pub authorized_keys: Vec<String>,
}

/// What counts as a started system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartCheck {
    /// The SSH port of its address says `SSH-`.
    #[default]
    Ssh,
    /// The disk was written.
    None,
}

impl Default for DeployConfig {
    fn default() -> DeployConfig {
        const MINUTE: Duration = Duration::from_secs(60);
        DeployConfig {
            boot: 10 * MINUTE,
            inventory: 10 * MINUTE,
            silence: 2 * MINUTE,
            start: 15 * MINUTE,
            apply: 10 * MINUTE,
            start_check: StartCheck::Ssh,
            ssh_port: 22,
            failures: 5,
            boots: 20,
            authorized_keys: Vec::new(),
        }
    }
}

/// What is recorded of machines.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodesConfig {
    /// How many machines are recorded at most that nobody has enrolled.
    pub discovered: usize,
}

impl Default for NodesConfig {
    fn default() -> NodesConfig {
        NodesConfig { discovered: 10_000 }
    }
}

/// What is kept of what happened.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventsConfig {
    /// How long an event is kept.
    #[serde(with = "friendly")]
    pub keep: Duration,
}

impl Default for EventsConfig {
    fn default() -> EventsConfig {
        EventsConfig { keep: Duration::from_secs(90 * 24 * 3600) }
    }
}

/// Where the state is when nobody says.
pub fn default_data() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return DATA.into();
    }
    let home = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let share = home("XDG_DATA_HOME").or_else(|| Some(home("HOME")?.join(".local/share")));
    share.unwrap_or_else(|| ".".into()).join("billet")
}

impl Config {
    /// The configuration in the file at `path`; without one, that of `/etc/billet/billet.toml`
    /// where it exists, else the defaults.
    pub fn load(path: Option<&Path>) -> anyhow::Result<Config> {
        let usual = Path::new("/etc/billet/billet.toml");
        let path = match path {
            Some(path) => path,
            None if usual.exists() => usual,
            None => return Ok(Config::default()),
        };
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Config::parse(&text).with_context(|| format!("understanding {}", path.display()))
    }

    /// The configuration of this text.
    pub fn parse(text: &str) -> anyhow::Result<Config> {
        match toml::from_str(text) {
            Ok(config) => Ok(config),
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(text, span.start));
                let message = error.message();
                match nearest(message) {
                    Some(advice) => bail!("line {line}: {advice}"),
                    None => bail!("line {line}: {message}"),
                }
            }
        }
    }

    /// The folder of the images.
    pub fn store(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| self.data.join("store"))
    }

    /// The file of the admin token.
    pub fn token_file(&self) -> PathBuf {
        self.data.join("admin.token")
    }

    /// Where it is kept what subnet managers know.
    pub fn fabrics_folder(&self) -> PathBuf {
        self.data.join("fabrics")
    }

    /// How long a deployment waits.
    pub fn limits(&self) -> Limits {
        let deploy = &self.deploy;
        Limits {
            boot: deploy.boot,
            inventory: deploy.inventory,
            silence: deploy.silence,
            start: deploy.start,
            check_start: deploy.start_check == StartCheck::Ssh,
            failures: deploy.failures,
            boots: deploy.boots,
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// serde says "unknown field `prot`, expected one of `listen`, `port`": what was meant is the
/// nearest of the latter.
fn nearest(message: &str) -> Option<String> {
    let list = message.strip_prefix("unknown field ")?;
    let mut words = list.split('`').skip(1).step_by(2);
    let typed = words.next()?;
    let keys: Vec<&str> = words.collect();
    let distance = |key: &&&str| strsim::damerau_levenshtein(typed, key);
    let near = keys.iter().min_by_key(distance)?;
    let all = keys.join(", ");
    let close = strsim::damerau_levenshtein(typed, near) <= 1 + typed.len() / 3;
    let hint = if close { format!("; `{near}` is the nearest") } else { String::new() };
    Some(format!("there is no key `{typed}`{hint} (there are {all})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_a_configuration() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn spans_are_written_as_people_do() {
        let config = Config::parse("[deploy]\nboot = \"90s\"\nsilence = \"1h 30m\"\n").unwrap();
        assert_eq!(config.deploy.boot, Duration::from_secs(90));
        assert_eq!(config.deploy.silence, Duration::from_secs(5400));
        assert!(Config::parse("[deploy]\nboot = \"soon\"\n").is_err());
        assert!(Config::parse("[deploy]\nboot = \"-1m\"\n").is_err());
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        for (text, line, near) in [
            ("dta = \"x\"", 1, "data"),
            ("[http]\n\nlisen = \"0.0.0.0:1\"", 3, "listen"),
            ("[htp]\nlisten = \"0.0.0.0:1\"", 1, "http"),
            ("[deploy]\nstart_chek = \"ssh\"", 2, "start_check"),
            ("[dhcp]\nmod = \"off\"", 2, "mode"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("line {line}: there is no key")), "{error}");
            assert!(error.contains(&format!("`{near}` is the nearest")), "{error}");
        }
        let error = Config::parse("zzzzzzzz = 1").unwrap_err().to_string();
        assert!(!error.contains("nearest") && error.contains("there are data"), "{error}");
    }

    #[test]
    fn a_wrong_value_says_what_is_accepted() {
        let error = Config::parse("[deploy]\nstart_check = \"ping\"").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`ssh`"), "{error}");
    }
}
