//! The verbs that speak to a rack which stands in the background.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use nix::sched::{CloneFlags, setns};

use crate::{
    control::{Answer, NodeLine, Power, Request, SOCKET},
    out::line,
};

/// How long a rack may take to stand.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a followed console is asked for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Starts the holder and waits until it answers.
pub(crate) fn up(folder: &Path, spec: Option<&Path>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    if ask(folder, &Request::Ls).is_ok() {
        bail!("a rack stands in {} already; `rack down` takes it down", folder.display());
    }
    let log = folder.join("rack.log");
    let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg("hold").arg("--state").arg(folder);
    if let Some(spec) = spec {
        command.arg("--spec").arg(spec);
    }
    // A process group of its own: an interrupt at the terminal is not for it.
    command.process_group(0).stdin(Stdio::null());
    command.stdout(output.try_clone().context("copying a descriptor")?).stderr(output);
    let mut holder = command.spawn().context("starting the holder")?;
    let began = Instant::now();
    while ask(folder, &Request::Ls).is_err() {
        let ended = holder.try_wait().context("looking after the holder")?.is_some();
        if ended || began.elapsed() > PATIENCE {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!("the rack does not stand: {}", said.trim());
        }
        thread::sleep(Duration::from_millis(50));
    }
    ls(folder, false)
}

/// Lists the nodes.
pub(crate) fn ls(folder: &Path, json: bool) -> Result<()> {
    let Answer::Nodes { nodes, .. } = ask(folder, &Request::Ls)? else {
        bail!("the holder answered something else");
    };
    if json {
        line(serde_json::to_string_pretty(&nodes)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["name", "power", "firmware", "nic", "mac", "memory", "disks"]);
    for node in nodes {
        table.add_row(row(&node));
    }
    line(table);
    Ok(())
}

fn row(node: &NodeLine) -> [String; 7] {
    [
        node.name.clone(),
        (if node.on { "on" } else { "off" }).to_owned(),
        node.firmware.to_string(),
        node.nic.device().to_owned(),
        node.mac.clone(),
        format!("{} MiB", node.memory),
        node.disks.join(", "),
    ]
}

/// Switches a node.
pub(crate) fn power(folder: &Path, node: String, to: Power) -> Result<()> {
    ask(folder, &Request::Power { node, to }).map(drop)
}

/// Prints a console.
pub(crate) fn console(folder: &Path, node: String, follow: bool) -> Result<()> {
    let mut from = 0;
    loop {
        let request = Request::Console { node: node.clone(), from };
        let Answer::Console { lines } = ask(folder, &request)? else {
            bail!("the holder answered something else");
        };
        // The last line may still grow: while following it is held back until it is whole.
        let whole = if follow { lines.len().saturating_sub(1) } else { lines.len() };
        for shown in lines.iter().take(whole) {
            line(format_args!("{:9.2}  {}", shown.at, shown.text));
        }
        if !follow {
            return Ok(());
        }
        from += whole;
        thread::sleep(LOOK_EVERY);
    }
}

/// Takes the rack down and removes what it kept.
pub(crate) fn down(folder: &Path) -> Result<()> {
    let names = match ask(folder, &Request::Ls)? {
        Answer::Nodes { nodes, .. } => nodes.into_iter().map(|node| node.name),
        _ => bail!("the holder answered something else"),
    };
    ask(folder, &Request::Down)?;
    for name in names {
        let _ = fs::remove_dir_all(folder.join(name));
    }
    let _ = fs::remove_file(folder.join("rack.log"));
    let _ = fs::remove_dir(folder);
    Ok(())
}

/// Runs a program in the namespaces of the holder.
pub(crate) fn exec(folder: &Path, command: &[String]) -> Result<ExitCode> {
    let Answer::Nodes { holder, .. } = ask(folder, &Request::Ls)? else {
        bail!("the holder answered something else");
    };
    let open = |kind: &str| {
        let path = format!("/proc/{holder}/ns/{kind}");
        File::open(&path).with_context(|| format!("opening {path}"))
    };
    if !nix::unistd::geteuid().is_root() {
        setns(open("user")?, CloneFlags::CLONE_NEWUSER).context("entering the user namespace")?;
    }
    setns(open("net")?, CloneFlags::CLONE_NEWNET).context("entering the network namespace")?;
    let (program, arguments) = command.split_first().context("no program was named")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("running {program}"))
}

fn ask(folder: &Path, request: &Request) -> Result<Answer> {
    let socket = folder.join(SOCKET);
    let mut stream = UnixStream::connect(&socket).with_context(|| {
        format!("no rack stands in {} (`rack up` puts one up)", folder.display())
    })?;
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).context("asking the holder")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("hearing the holder")?;
    match serde_json::from_str(&answer).context("understanding the holder")? {
        Answer::Failed { reason } => bail!("{reason}"),
        answer => Ok(answer),
    }
}
