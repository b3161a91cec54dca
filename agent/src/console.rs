//! The console: short lines for the person who stands before the machine.
//!
//! As `/init` they go to every console the kernel has (`/dev/console` is only the last of
//! them, and a rack is watched on a serial port as often as on a screen), elsewhere to
//! standard error.

use std::{
    fmt::Display,
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    sync::{Mutex, PoisonError},
};

static CONSOLES: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Sends what is said from now on to all consoles of the kernel.
pub(crate) fn open() {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut opened: Vec<File> = active.split_ascii_whitespace().filter_map(open_tty).collect();
    if opened.is_empty() {
        opened.extend(open_tty("console"));
    }
    *CONSOLES.lock().unwrap_or_else(PoisonError::into_inner) = opened;
}

/// Without blocking: a serial port whose other end holds up its hand must not stop the imager.
fn open_tty(name: &str) -> Option<File> {
    let flags = nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK;
    OpenOptions::new().write(true).custom_flags(flags).open(format!("/dev/{name}")).ok()
}

/// Says one line. What cannot be said is lost: nobody is left to tell.
pub(crate) fn say(text: impl Display) {
    let line = format!("billet: {text}\n");
    let consoles = CONSOLES.lock().unwrap_or_else(PoisonError::into_inner);
    if consoles.is_empty() {
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    for mut console in consoles.iter() {
        let _ = console.write_all(line.as_bytes());
    }
}

/// Milliseconds since the kernel started, 0 where `/proc` does not say.
pub(crate) fn uptime_ms() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: Option<f64> = text.split(' ').next().and_then(|first| first.parse().ok());
    seconds.map_or(0, |seconds| (seconds * 1000.0) as u64)
}
