//! Logging in to a node: the host's own SSH client, with a key made for the rack and the host
//! key that the server says the node has.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{fallen, tool};

/// A key pair that the rack's nodes let in.
pub struct Key {
    private: PathBuf,
    /// Whether a script's connection stays open for the next ones.
    keeps: bool,
    /// The line for `authorized_keys`.
    pub public: String,
}

/// What sockets of connections that are kept are called, before the address.
const KEPT: &str = "to-";
/// Bytes that such a socket's path may have (`sun_path` of unix(7), less what ssh adds while it makes one).
const SOCKET: usize = 108 - 20;

/// How to reach one node, and how to know that it is the one.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its public host key, one line.
    pub host_key: String,
}

impl Key {
    /// Makes a key pair in `folder`, or takes the one that is there.
    pub fn make(folder: &Path) -> Result<Self> {
        let private = folder.join("id_ed25519");
        if !private.exists() {
            let mut command = Command::new(tool::program("ssh-keygen", "openssh-client")?);
            command.args(["-q", "-t", "ed25519", "-N", "", "-C", "rack", "-f"]).arg(&private);
            let output = command.output().context("running ssh-keygen")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let public = fs::read_to_string(private.with_extension("pub"));
        let public = public.context("reading the rack's public key")?.trim().to_owned();
        Ok(Key { private, keeps: false, public })
    }

    /// Runs `script` on the node as root and gives what it printed.
    ///
    /// # Errors
    /// When nothing answers, the host key is another, or the script fails.
    pub fn run(&self, target: &Target, script: &str) -> Result<String> {
        self.run_with(target, script, Stdio::null())
    }

    /// The same with a file of this host on the script's standard input.
    pub fn run_with(
        &self,
        target: &Target,
        script: &str,
        input: impl Into<Stdio>,
    ) -> Result<String> {
        let known = self.private.with_file_name(format!("known_hosts-{}", target.address));
        fs::write(&known, format!("{} {}\n", target.address, target.host_key.trim()))
            .context("writing known_hosts")?;
        let output = Command::new(tool::program("ssh", "openssh-client")?)
            .args(["-F", "/dev/null", "-T", "-i"])
            .arg(&self.private)
            .args(["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"])
            .args(["-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=/dev/null"])
            .args(["-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR"])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", known.display()))
            .args(self.kept(target))
            .arg(format!("root@{}", target.address))
            .arg(script)
            .stdin(input)
            .output()
            .context("running ssh")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("ssh to {}: {} ({})", target.address, said.trim(), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// From now on the first script's connection to a node stays open for the next ones: to log in takes an
    /// emulated machine many seconds.
    pub fn keep_connections(&mut self) {
        self.keeps = true;
    }

    /// The words that keep a connection: it ends when it was idle for a minute, or its node says nothing for as
    /// long.
    fn kept(&self, target: &Target) -> Vec<String> {
        let socket = self.private.with_file_name(format!("{KEPT}{}", target.address));
        if !self.keeps || socket.as_os_str().len() > SOCKET {
            return Vec::new();
        }
        let path = format!("ControlPath={}", socket.display());
        let rest = ["ControlMaster=auto", "ControlPersist=60"];
        let alive = ["ServerAliveInterval=10", "ServerAliveCountMax=6"];
        let words = [path].into_iter().chain(rest.into_iter().chain(alive).map(str::to_owned));
        words.flat_map(|word| ["-o".to_owned(), word]).collect()
    }

    /// Ends the connections that are kept.
    pub fn end_connections(&self) {
        let Some(entries) = self.private.parent().and_then(|folder| fs::read_dir(folder).ok())
        else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(address) = name.strip_prefix(KEPT) else { continue };
            let mut ssh = Command::new("ssh");
            ssh.args(["-F", "/dev/null", "-O", "exit", "-S"]).arg(entry.path()).arg(address);
            // Nothing is lost when it has ended by itself.
            let _ = ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }

    /// The same, again and again until it succeeds or `patience` ends.
    pub fn run_when_up(&self, target: &Target, script: &str, patience: Duration) -> Result<String> {
        let began = Instant::now();
        loop {
            match self.run(target, script) {
                Ok(said) => return Ok(said),
                Err(error) if began.elapsed() > patience => {
                    return Err(error.context(format!("trying for {patience:?}")));
                }
                Err(_) => {
                    fallen::check()?;
                    std::thread::sleep(Duration::from_millis(500));
                }
            }
        }
    }
}
