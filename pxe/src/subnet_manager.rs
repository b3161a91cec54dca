//! The door to subnet managers: OpenSM reads a file, UFM is asked over HTTP.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use xen_config::fabric::FabricName;

use crate::partition::{self, Member, UfmRequest};

/// `[[fabric]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FabricConfig {
    /// As desired states of nodes call it.
    pub name: FabricName,
    /// `[fabric.opensm]`
    #[serde(default)]
    pub opensm: Option<OpenSm>,
    /// `[fabric.ufm]`
    #[serde(default)]
    pub ufm: Option<Ufm>,
}

/// OpenSM on this host, or on one that shares a folder with it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenSm {
    /// The fragment, which its partitions.conf is put together from.
    pub file: PathBuf,
    /// What makes OpenSM read it, run without a shell.
    #[serde(default)]
    pub reload: Vec<String>,
}

/// UFM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ufm {
    /// `https://ufm.example`
    pub url: String,
    /// A file with `user:password`.
    pub login_file: PathBuf,
    /// Certificates that it is known by; the host's when absent.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

/// Tells the subnet managers of a fabric who is in which partition, unless they know: whether
/// anything was told. What they know is in `memory`.
///
/// # Errors
/// What could not be written, run or asked. It is told again by the next call.
pub fn tell(config: &FabricConfig, wanted: &BTreeSet<Member>, memory: &Path) -> Result<bool> {
    let mut told = false;
    if let Some(opensm) = &config.opensm {
        told |= write_fragment(opensm, &partition::opensm(&config.name, wanted))?;
    }
    if let Some(ufm) = &config.ufm {
        let place = memory.join(format!("{}.json", config.name));
        let known = known(&place)?;
        let requests = partition::ufm(&known, wanted);
        for request in &requests {
            ask(ufm, request)?;
        }
        if known != *wanted {
            replace(&place, &serde_json::to_vec(wanted).context("rendering members")?)?;
        }
        told |= !requests.is_empty();
    }
    Ok(told)
}

/// The reload is done before the fragment is called current: a run that was broken off repeats it.
fn write_fragment(opensm: &OpenSm, text: &str) -> Result<bool> {
    let mark = opensm.file.with_extension("unread");
    let there = match fs::read_to_string(&opensm.file) {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => Err(error).with_context(|| format!("reading {}", opensm.file.display()))?,
    };
    if there == text && !mark.exists() {
        return Ok(false);
    }
    replace(&mark, b"")?;
    replace(&opensm.file, text.as_bytes())?;
    if let Some((program, words)) = opensm.reload.split_first() {
        let output = Command::new(program).args(words).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("starting {program}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{}`: {}", opensm.reload.join(" "), said.trim());
    }
    fs::remove_file(&mark).with_context(|| format!("removing {}", mark.display()))?;
    Ok(true)
}

fn known(place: &Path) -> Result<BTreeSet<Member>> {
    let reading = || format!("reading {}", place.display());
    match fs::read(place) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(reading),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).with_context(reading),
    }
}

/// Whole or not at all, and durable.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let fresh = path.with_extension("new");
    let written = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(folder)?.sync_all()
    };
    written().with_context(|| format!("writing {}", path.display()))
}

/// By curl, which has TLS and the host's certificates; the login goes through its standard input,
/// where nobody else reads it.
fn ask(ufm: &Ufm, request: &UfmRequest) -> Result<()> {
    let login = fs::read_to_string(&ufm.login_file)
        .with_context(|| format!("reading {}", ufm.login_file.display()))?;
    let url = format!("{}{}", ufm.url.trim_end_matches('/'), request.path);
    let mut lines = vec![
        format!("url = {}", quoted(&url)),
        format!("request = {}", quoted(request.method)),
        format!("user = {}", quoted(login.trim())),
        "fail-with-body".to_owned(),
        "silent".to_owned(),
        "show-error".to_owned(),
        "max-time = 30".to_owned(),
    ];
    if let Some(ca) = &ufm.ca {
        lines.push(format!("cacert = {}", quoted(&ca.display().to_string())));
    }
    if !request.body.is_empty() {
        lines.push("header = \"Content-Type: application/json\"".to_owned());
        lines.push(format!("data-binary = {}", quoted(&request.body)));
    }
    let mut command = Command::new("curl");
    command.args(["--disable", "--config", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting curl")?;
    let mut pipe = child.stdin.take().context("taking curl's input")?;
    pipe.write_all(lines.join("\n").as_bytes()).context("writing to curl")?;
    drop(pipe);
    let output = child.wait_with_output().context("waiting for curl")?;
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said).trim().chars().take(500).collect::<String>();
    ensure!(output.status.success(), "{} {url}: {said}", request.method);
    Ok(())
}

/// A string of curl's configuration files.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{TcpListener, TcpStream},
        sync::mpsc,
        thread,
    };

    use super::*;

    fn members(guids: &[&str]) -> BTreeSet<Member> {
        let member = |guid: &&str| Member {
            key: "0x8001:full".parse().unwrap(),
            node: "n1".into(),
            slice: "a".into(),
            guid: guid.parse().unwrap(),
        };
        guids.iter().map(member).collect()
    }

    const ONE: &str = "02:00:00:00:00:00:00:01";

    #[test]
    fn a_fragment_is_replaced_and_read_once() {
        let at = tempfile::tempdir().unwrap();
        let (file, log) = (at.path().join("ib0.conf"), at.path().join("log"));
        let reload = ["sh", "-c", &format!("echo x >> {}", log.display())].map(str::to_owned);
        let opensm = OpenSm { file: file.clone(), reload: reload.to_vec() };
        let name: FabricName = "ib0".parse().unwrap();
        let config = FabricConfig { name, opensm: Some(opensm), ufm: None };
        let one = members(&[ONE]);
        assert!(tell(&config, &one, at.path()).unwrap());
        assert!(!tell(&config, &one, at.path()).unwrap());
        assert!(fs::read_to_string(&file).unwrap().contains("0x0200000000000001=full"));
        assert_eq!(fs::read_to_string(&log).unwrap(), "x\n");
        // A reload that failed is made up for, although the fragment is there.
        let mut broken = config.clone();
        broken.opensm.as_mut().unwrap().reload = vec!["false".into()];
        assert!(tell(&broken, &members(&[]), at.path()).is_err());
        assert!(tell(&config, &members(&[]), at.path()).unwrap());
        assert_eq!(fs::read_to_string(&log).unwrap(), "x\nx\n");
        assert!(!fs::read_to_string(&file).unwrap().contains("0x02"));
    }

    /// A server that answers as UFM does, **written from documentation**: what is shown is what it
    /// is asked, by the real curl.
    fn server(statuses: &'static [&'static str]) -> (String, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for status in statuses {
                let (mut stream, _) = listener.accept().unwrap();
                sender.send(request(&mut stream)).unwrap();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nsaid"
                );
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        (url, receiver)
    }

    fn request(stream: &mut TcpStream) -> String {
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        loop {
            let length = stream.read(&mut buffer).unwrap();
            text += &String::from_utf8_lossy(&buffer[..length]);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let head = head.to_lowercase();
            let wanted = head.split_once("content-length: ").map_or(0, |(_, rest)| {
                rest.lines().next().unwrap_or_default().trim().parse().unwrap()
            });
            if body.len() >= wanted {
                return text;
            }
        }
    }

    #[test]
    fn ufm_is_asked_by_curl() {
        let at = tempfile::tempdir().unwrap();
        let login_file = at.path().join("login");
        fs::write(&login_file, "ad\"min:se cret\n").unwrap();
        let (url, asked) = server(&["200 OK", "500 Oh", "200 OK", "200 OK"]);
        let ufm = Ufm { url, login_file, ca: None };
        let name: FabricName = "ib0".parse().unwrap();
        let config = FabricConfig { name, opensm: None, ufm: Some(ufm) };
        assert!(tell(&config, &members(&[ONE]), at.path()).unwrap());
        let said = asked.recv().unwrap();
        assert!(said.starts_with("POST /ufmRest/resources/pkeys HTTP/1.1"), "{said}");
        // ad"min:se cret
        assert!(said.contains("Authorization: Basic YWQibWluOnNlIGNyZXQ="), "{said}");
        assert!(said.contains("\"guids\":[\"0200000000000001\"]"), "{said}");
        assert!(!tell(&config, &members(&[ONE]), at.path()).unwrap());
        // A server that fails is asked again.
        let error = tell(&config, &members(&[]), at.path()).unwrap_err().to_string();
        assert!(error.contains("500") && error.contains("said"), "{error}");
        assert!(asked.recv().unwrap().starts_with("DELETE /ufmRest/resources/pkeys/0x1/guids/02"));
        assert!(tell(&config, &members(&[]), at.path()).unwrap());
        assert!(asked.recv().unwrap().starts_with("DELETE "));
    }
}
