//! `billet-agent network guard`: a process in a session of its own that outlives the agent and
//! takes a change back which nobody confirmed by its deadline.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::unistd::setsid;

use super::confirm::{State, Why};
use crate::console;

/// How soon a confirmation is seen.
const GLANCE: Duration = Duration::from_millis(100);
/// What the guard says once nothing can keep it from its work.
const READY: &[u8] = b"ready\n";

/// Starts it, and waits until it stands.
pub(crate) fn start(state: &State) -> Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["network", "guard", "--state"]).arg(state.folder());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("starting the guard")?;
    let mut said = vec![0; READY.len()];
    let mut pipe = child.stdout.take().context("taking the guard's output")?;
    let heard = pipe.read_exact(&mut said);
    ensure!(heard.is_ok() && said == READY, "the guard of the network's change did not start");
    Ok(child)
}

/// Lets go of a guard that has nothing left to watch.
pub(crate) fn dismiss(mut child: Child) {
    // It would see so itself a moment later; a child must be waited for.
    let _ = child.kill();
    let _ = child.wait();
}

/// Is the guard.
pub(crate) fn watch(folder: &Path) -> Result<()> {
    let state = State::at(folder)?;
    // What is sent to the agent's session or terminal is not for the guard.
    setsid().context("making a session for the guard")?;
    let mut output = std::io::stdout();
    output
        .write_all(READY)
        .and_then(|()| output.flush())
        .context("saying that the guard stands")?;
    while let Some(pending) = state.pending()? {
        if !pending.is_of_this_boot()? {
            break;
        }
        let left = pending.left()?;
        if left.is_zero() {
            let seconds = pending.network.confirm.seconds;
            let reason = format!("nobody confirmed it within {seconds} s");
            if let Some(undone) = state.take_back(Why::Silence, &reason)? {
                console::say(undone);
            }
            break;
        }
        thread::sleep(left.min(GLANCE));
    }
    Ok(())
}
