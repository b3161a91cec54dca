//! Machines whose emulator has died: what is waited for of them never comes, so every wait asks here.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Result, bail};
use nix::{
    errno::Errno,
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
    unistd::Pid,
};

/// What has died in this process's rack.
static FALLEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Watches a QEMU until it ends. An end is the rack's own work once `Watch` is dropped.
pub(crate) struct Watch {
    ours: Arc<AtomicBool>,
}

impl Watch {
    /// Of the process `pid`, a child, that runs `node` and writes to `log`. It is left for its parent to reap.
    pub(crate) fn over(node: &str, pid: u32, log: PathBuf) -> Self {
        let ours = Arc::new(AtomicBool::new(false));
        let (node, expected) = (node.to_owned(), ours.clone());
        thread::spawn(move || {
            let Some(end) = end_of(pid) else { return };
            if !expected.load(Ordering::SeqCst) {
                let said = fs::read_to_string(&log).unwrap_or_default();
                let log = log.display();
                fallen().push(format!("QEMU of {node} {end}, see {log}: {}", said.trim()));
            }
        });
        Watch { ours }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ours.store(true, Ordering::SeqCst);
    }
}

/// How it ended, unless that was as a machine does that is switched off.
fn end_of(pid: u32) -> Option<String> {
    let (pid, flags) = (Pid::from_raw(pid.cast_signed()), WaitPidFlag::WEXITED);
    loop {
        match waitid(Id::Pid(pid), flags | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::Exited(_, 0)) => return None,
            Ok(WaitStatus::Exited(_, code)) => return Some(format!("ended with status {code}")),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Some(format!("died of {signal}")),
            Err(Errno::EINTR) => {}
            _ => return None,
        }
    }
}

/// # Errors
/// When an emulator has died that nobody switched off: with its log.
pub fn check() -> Result<()> {
    match fallen().first() {
        Some(what) => bail!("{what}"),
        None => Ok(()),
    }
}

/// A new rack has its own machines.
pub(crate) fn forget() {
    fallen().clear();
}

fn fallen() -> MutexGuard<'static, Vec<String>> {
    FALLEN.lock().unwrap_or_else(PoisonError::into_inner)
}
