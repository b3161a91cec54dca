//! The process that holds a rack: it lives in the rack's network namespace, and everything
//! of the rack ends with it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use rack::{Firmware, Node, NodeSpec, Rack, RackSpec};

use crate::control::{Answer, ConsoleLine, NodeLine, Power, Request, SOCKET};

/// How long a system may take to switch its machine off.
const POWER_OFF: Duration = Duration::from_secs(90);

/// Puts the rack up and answers until it is told to take it down.
pub(crate) fn hold(folder: &Path, spec: Option<&Path>) -> Result<()> {
    let spec = read(spec)?;
    rack::enter()?;
    let mut rack = Rack::new(folder)?;
    for node in spec.node {
        rack.add(node)?;
    }
    let socket = folder.join(SOCKET);
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)
        .with_context(|| format!("listening on {}", socket.display()))?;
    for stream in listener.incoming() {
        let stream = stream.context("accepting a connection")?;
        match answer(&rack, stream, &socket) {
            Ok(Next::Wait) => {}
            Ok(Next::Down) => break,
            // Whoever asked went away: the next one may stay.
            Err(_) => {}
        }
    }
    Ok(())
}

fn read(spec: Option<&Path>) -> Result<RackSpec> {
    let Some(path) = spec else {
        let node = vec![NodeSpec::new("n1", Firmware::Bios), NodeSpec::new("n2", Firmware::Uefi)];
        return Ok(RackSpec { node });
    };
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("understanding {}", path.display()))
}

enum Next {
    Wait,
    Down,
}

fn answer(rack: &Rack, mut stream: UnixStream, socket: &Path) -> Result<Next> {
    let mut line = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let request = serde_json::from_str(&line)?;
    let down = matches!(request, Request::Down);
    let answer =
        obey(rack, request).unwrap_or_else(|error| Answer::Failed { reason: format!("{error:#}") });
    if down {
        // Once it is said to be down, nobody is to find it any more.
        let _ = fs::remove_file(socket);
    }
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    stream.write_all(text.as_bytes())?;
    Ok(if down { Next::Down } else { Next::Wait })
}

fn obey(rack: &Rack, request: Request) -> Result<Answer> {
    match request {
        Request::Ls => {
            let nodes = rack.nodes().iter().map(|node| describe(node)).collect();
            Ok(Answer::Nodes { holder: std::process::id(), nodes })
        }
        Request::Power { node, to } => {
            switch(rack.node(&node)?, to)?;
            Ok(Answer::Done)
        }
        Request::Console { node, from } => {
            let lines = rack.node(&node)?.console().lines(from).into_iter();
            let line = |line: rack::console::Line| ConsoleLine {
                at: line.at.as_secs_f64(),
                text: line.text,
            };
            Ok(Answer::Console { lines: lines.map(line).collect() })
        }
        Request::Down => {
            rack.nodes().iter().for_each(|node| node.cut());
            Ok(Answer::Done)
        }
    }
}

fn describe(node: &Node) -> NodeLine {
    let spec = node.spec();
    let disk = |disk: &rack::DiskSpec| {
        let bus = format!("{:?}", disk.bus).to_lowercase();
        format!("{} {bus}", disk.size)
    };
    NodeLine {
        on: node.is_on(),
        firmware: spec.firmware,
        nic: spec.nic,
        mac: node.mac().to_owned(),
        memory: spec.memory,
        disks: spec.disks.iter().map(disk).collect(),
        name: spec.name,
    }
}

fn switch(node: &Node, to: Power) -> Result<()> {
    match to {
        Power::On => node.power_on(),
        Power::Off => node.power_off(POWER_OFF),
        Power::Cut => {
            node.cut();
            Ok(())
        }
        Power::Reset => node.reset(),
    }
}
