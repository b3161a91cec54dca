//! `serve-cpu`: CPU seconds of the server for each GiB of packs that it serves over 32 connections:
//! `billet serve`, and nginx with sendfile on the same files.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use images::Digest;
use nix::unistd::{SysconfVar, sysconf};

use super::{
    engine_site::{self, Site},
    engine_work::{State, Work},
    rounds::{Contender, interleave},
    row::{Better, Row},
};
use crate::{Child, artefacts::Programs};

const ROUNDS: usize = 5;
const CONNECTIONS: usize = 32;
/// Packs that are fetched in one run: some 4 GiB.
const FETCHES: usize = 512;
/// Where billet listens, and nginx.
const BILLET: u16 = 8089;
const NGINX: u16 = 8088;
const PATIENCE: Duration = Duration::from_secs(60);
const GIB: f64 = (1 << 30) as f64;

/// `serve-cpu`
pub fn cpu(folder: &Path) -> Result<Vec<Row>> {
    let folder = &folder.join("serve-cpu");
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let work = Work::prepare()?;
    let packs = work.store.index(&work.manifest(State::Base)?)?.packs().to_vec();
    // Into the page cache, where both find them.
    for pack in &packs {
        fs::read(work.store.pack_path(pack)).with_context(|| format!("reading pack {pack}"))?;
    }
    let site = Site::start(&work, folder)?;
    let billet = serve(&work, folder)?;
    let run = |port: u16, pid: u32| {
        let packs = &packs;
        move || {
            let before = cpu_of(pid)?;
            let bytes = load(port, packs)?;
            Ok((cpu_of(pid)? - before) / (bytes as f64 / GIB))
        }
    };
    let mut contenders = [
        Contender::new("billet", run(BILLET, billet.pid())),
        Contender::new("nginx", run(NGINX, site.http_pid())),
    ];
    let medians = interleave(ROUNDS, &mut contenders)?;
    let nginx = [("nginx, sendfile", medians[1])];
    Ok(vec![Row::compare("serve-cpu", "s/GiB", Better::Less, medians[0], &nginx).with_bar(1.25)])
}

fn serve(work: &Work, folder: &Path) -> Result<Child> {
    let path = folder.join("billet.toml");
    let text = format!(
        "data = {:?}\nstore = {:?}\naddress = \"127.0.0.1\"\n[http]\nlisten = \"127.0.0.1:{BILLET}\"\n\
         [dhcp]\nmode = \"off\"\n[tftp]\nenabled = false\n[ra]\nenabled = false\n",
        folder.join("data").display().to_string(),
        work.store.root().display().to_string()
    );
    fs::write(&path, text).context("configuring billet")?;
    let mut command = Command::new(Programs::find()?.billet);
    command.args(["serve", "--config"]).arg(path).env_remove("BILLET_TOKEN");
    let mut child = Child::start("billet", command, &folder.join("billet.log"), Vec::new())?;
    engine_site::wait(&mut child, BILLET).with_context(|| format!("see {}", folder.display()))?;
    Ok(child)
}

/// CPU seconds that a process and its children, which are alive, have used.
fn cpu_of(pid: u32) -> Result<f64> {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").context("listing /proc")? {
        let path = entry.context("listing /proc")?.path().join("stat");
        // What is no process has none, and some end meanwhile.
        let Ok(stat) = fs::read_to_string(path) else { continue };
        let own = stat.split(' ').next().is_some_and(|id| id.parse() == Ok(pid));
        let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = fields.split(' ').collect();
        let number = |place: usize| fields.get(place).and_then(|text| text.parse::<u64>().ok());
        // proc_pid_stat(5): the fourth is the parent, 14 and 15 the time used.
        if own || number(1) == Some(pid.into()) {
            ticks += number(11).unwrap_or(0) + number(12).unwrap_or(0);
        }
    }
    let second = sysconf(SysconfVar::CLK_TCK).context("asking for the clock")?;
    Ok(ticks as f64 / second.context("asking for the clock")? as f64)
}

/// Fetches packs over all connections; bytes of them.
fn load(port: u16, packs: &[Digest]) -> Result<u64> {
    let next = AtomicUsize::new(0);
    let fetch = || {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect(address).context("connecting")?;
        stream.set_read_timeout(Some(PATIENCE)).context("setting a deadline")?;
        let (mut reader, mut bytes) = (BufReader::with_capacity(64 << 10, stream), 0);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= FETCHES {
                return anyhow::Ok(bytes);
            }
            bytes += fetch_one(&mut reader, &packs[number % packs.len()])?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(fetch)).collect();
        threads.into_iter().try_fold(0, |sum, thread| match thread.join() {
            Ok(bytes) => Ok(sum + bytes?),
            Err(_) => bail!("a connection panicked"),
        })
    })
}

fn fetch_one(reader: &mut BufReader<TcpStream>, pack: &Digest) -> Result<u64> {
    let request = format!("GET /v1/packs/{pack} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    reader.get_mut().write_all(request.as_bytes()).context("asking for a pack")?;
    let (mut line, mut status, mut length) = (String::new(), String::new(), 0);
    loop {
        line.clear();
        reader.read_line(&mut line).context("reading an answer")?;
        let text = line.trim_end().to_ascii_lowercase();
        if text.is_empty() {
            break;
        }
        if status.is_empty() {
            status.clone_from(&text);
        }
        if let Some(value) = text.strip_prefix("content-length:") {
            length = value.trim().parse().context("reading a length")?;
        }
    }
    ensure!(status.contains(" 200") && length > 0, "the answer is `{status}`, {length} bytes");
    let read = std::io::copy(&mut reader.take(length), &mut std::io::sink());
    ensure!(read.context("reading a pack")? == length, "a pack was cut short");
    Ok(length)
}
