//! QEMU's machine protocol: one command at a time, events kept with their moment.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    sync::{Arc, mpsc::Sender},
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

/// How long QEMU may take for a command. Emulated machines on a busy host are slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// The connection to one running machine.
pub struct Qmp {
    commands: Mutex<(UnixStream, Receiver<Value>)>,
    events: Arc<Mutex<Vec<Event>>>,
}

/// Something QEMU said of its own accord.
#[derive(Debug, Clone)]
pub struct Event {
    /// When it was heard.
    pub at: Instant,
    /// `RESET`, `SHUTDOWN`, `POWERDOWN`, ...
    pub name: String,
}

impl Qmp {
    /// Takes a fresh connection through its greeting.
    pub fn connect(socket: UnixStream) -> Result<Self> {
        let reader = BufReader::new(socket.try_clone().context("copying a socket")?);
        let (sender, answers) = channel();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = events.clone();
        thread::spawn(move || read(reader, &sender, &heard));
        let qmp = Qmp { commands: Mutex::new((socket, answers)), events };
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and gives what it returned.
    pub fn execute(&self, command: &str, arguments: &Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let (socket, answers) = &mut *commands;
        let write = socket.write_all(line.as_bytes());
        write.with_context(|| format!("sending {command} to QEMU"))?;
        let answer = answers
            .recv_timeout(PATIENCE)
            .map_err(|error| anyhow!("waiting for QEMU's answer to {command}: {error}"))?;
        match (answer.get("return"), answer.get("error")) {
            (Some(value), _) => Ok(value.clone()),
            (_, Some(error)) => bail!("QEMU refused {command}: {}", error["desc"]),
            _ => bail!("QEMU answered {command} with {answer}"),
        }
    }

    /// Every event so far.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(reader: BufReader<UnixStream>, answers: &Sender<Value>, events: &Mutex<Vec<Event>>) {
    for line in reader.lines() {
        let Ok(line) = line else { return };
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(name) = message["event"].as_str() {
            let event = Event { at: Instant::now(), name: name.to_owned() };
            events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        } else if message.get("QMP").is_none() && answers.send(message).is_err() {
            return;
        }
    }
}
