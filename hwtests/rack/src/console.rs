//! A node's serial console: kept as text with the moment each line began, and as a log file.

use std::{
    fmt::Write as _,
    fs::File,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::fallen;

/// How many lines a failure shows.
const SHOWN: usize = 40;
/// How often a wait looks whether the machine is still there.
const GLANCE: Duration = Duration::from_secs(1);

/// The console of one node over all its power cycles. Copies share it.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
}

struct Shared {
    node: String,
    start: Instant,
    text: Mutex<Text>,
    grown: Condvar,
}

struct Text {
    lines: Vec<Line>,
    /// Where the next `wait_for` begins to look: line and byte in it.
    cursor: (usize, usize),
    escape: Escape,
    log: File,
    input: Option<UnixStream>,
}

/// A line and when its first byte came, counted from the rack's start.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it began.
    pub at: Duration,
    /// Its text, without terminal control sequences.
    pub text: String,
}

/// Where in a terminal control sequence the stream is. OVMF draws its menus with them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Started,
    Sequence,
}

impl Console {
    /// An empty console whose bytes are also written to `log`.
    pub fn new(node: &str, start: Instant, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log);
        let log = log.context("opening a console log")?;
        let text =
            Text { lines: Vec::new(), cursor: (0, 0), escape: Escape::None, log, input: None };
        let shared =
            Shared { node: node.to_owned(), start, text: Mutex::new(text), grown: Condvar::new() };
        Ok(Console { shared: Arc::new(shared) })
    }

    /// Reads a machine's serial line until it is switched off. What was printed before is no
    /// longer waited for.
    pub fn attach(&self, serial: UnixStream) -> Result<()> {
        let mut text = self.text();
        text.input = Some(serial.try_clone().context("copying a socket")?);
        let moment = self.shared.start.elapsed();
        text.lines.push(Line { at: moment, text: String::new() });
        text.cursor = (text.lines.len() - 1, 0);
        drop(text);
        let console = self.clone();
        thread::spawn(move || console.read(serial));
        Ok(())
    }

    /// Types `keys`.
    pub fn send(&self, keys: &str) -> Result<()> {
        let node = &self.shared.node;
        let mut text = self.text();
        let input = text.input.as_mut().with_context(|| format!("{node} has never been on"))?;
        input.write_all(keys.as_bytes()).with_context(|| format!("typing on {node}'s console"))
    }

    /// Waits until `wanted` is printed after what an earlier wait found.
    ///
    /// # Errors
    /// When `patience` ends first: with the last lines of the console.
    pub fn wait_for(&self, wanted: &str, patience: Duration) -> Result<Line> {
        self.wait_for_any(&[wanted], patience).map(|(_, line)| line)
    }

    /// As [`Console::wait_for`], for whichever comes first; says which it was.
    pub fn wait_for_any(&self, wanted: &[&str], patience: Duration) -> Result<(usize, Line)> {
        let began = Instant::now();
        let mut text = self.text();
        loop {
            if let Some(found) = text.find(wanted) {
                return Ok(found);
            }
            let Some(left) = patience.checked_sub(began.elapsed()) else {
                let (node, tail) = (&self.shared.node, text.tail(SHOWN));
                drop(text);
                bail!(
                    "waited {patience:?} for {wanted:?} on {node}'s console, which says:\n{tail}"
                );
            };
            fallen::check()?;
            let woken = self.shared.grown.wait_timeout(text, left.min(GLANCE));
            text = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether `wanted` was ever printed.
    pub fn has_said(&self, wanted: &str) -> bool {
        self.text().lines.iter().any(|line| line.text.contains(wanted))
    }

    /// Every line from number `first` on.
    pub fn lines(&self, first: usize) -> Vec<Line> {
        self.text().lines.get(first..).unwrap_or_default().to_vec()
    }

    /// The last lines, for a failure's message.
    pub fn tail(&self) -> String {
        self.text().tail(SHOWN)
    }

    fn text(&self) -> MutexGuard<'_, Text> {
        self.shared.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, mut serial: UnixStream) {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = serial.read(&mut bytes) {
            let at = self.shared.start.elapsed();
            let mut text = self.text();
            let _ = text.log.write_all(&bytes[..length]);
            for byte in &bytes[..length] {
                text.push(*byte, at);
            }
            drop(text);
            self.shared.grown.notify_all();
        }
    }
}

impl Text {
    fn push(&mut self, byte: u8, at: Duration) {
        self.escape = match (self.escape, byte) {
            (Escape::None, 0x1b) => Escape::Started,
            (Escape::None, _) => {
                self.print(byte, at);
                Escape::None
            }
            (Escape::Started, b'[') => Escape::Sequence,
            (Escape::Sequence, b'@'..=b'~') => {
                // Cursor movements are how OVMF goes to a new line.
                if byte == b'H' {
                    self.print(b'\n', at);
                }
                Escape::None
            }
            (Escape::Sequence, _) => Escape::Sequence,
            (Escape::Started, _) => Escape::None,
        };
    }

    fn print(&mut self, byte: u8, at: Duration) {
        let line = self.lines.last_mut();
        match (byte, line) {
            (b'\n', Some(line)) if line.text.is_empty() => {}
            (b'\n', _) => self.lines.push(Line { at, text: String::new() }),
            (b' '..=b'~', Some(line)) => {
                if line.text.is_empty() {
                    line.at = at;
                }
                line.text.push(char::from(byte));
            }
            _ => {}
        }
    }

    fn find(&mut self, wanted: &[&str]) -> Option<(usize, Line)> {
        let (first, mut skip) = self.cursor;
        for number in first..self.lines.len() {
            let line = &self.lines[number];
            let rest = line.text.get(skip..).unwrap_or_default();
            for (which, wanted) in wanted.iter().enumerate() {
                if let Some(position) = rest.find(wanted) {
                    self.cursor = (number, skip + position + wanted.len());
                    return Some((which, line.clone()));
                }
            }
            skip = 0;
        }
        None
    }

    fn tail(&self, count: usize) -> String {
        let mut tail = String::new();
        for line in self.lines.iter().skip(self.lines.len().saturating_sub(count)) {
            let _ = writeln!(tail, "  {:8.2} {}", line.at.as_secs_f64(), line.text);
        }
        tail
    }
}
