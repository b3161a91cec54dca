//! The door to xl and xenstore: child processes with exact arguments and a deadline.
//!
//! A node that was captured has what they printed in files below `xl/` instead.

use std::{
    fs,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::sysfs::Sysfs;

/// Longer than any list takes, even in an emulator that is starved of time.
const USUAL: Duration = Duration::from_secs(120);

/// What came of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum XlError {
    /// It could not be started, or its file of a captured node not be read.
    #[error("starting `{command}`")]
    Start {
        /// The command.
        command: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It said no.
    #[error("`{command}` failed: {said}")]
    Failed {
        /// The command.
        command: String,
        /// What it wrote to standard error, without empty lines.
        said: String,
    },
    /// It was not done in time, and was killed.
    #[error("`{command}` was killed after {} s", .after.as_secs())]
    Deadline {
        /// The command.
        command: String,
        /// How long it had.
        after: Duration,
    },
}

/// xl and its company, on this machine or as captured.
#[derive(Debug, Clone)]
pub(crate) struct Xl {
    captured: Option<PathBuf>,
}

impl Xl {
    /// Those of the tree at `root`; `/` is this machine.
    pub(crate) fn at(root: &Path) -> Self {
        Xl { captured: (root != Path::new("/")).then(|| root.join("xl")) }
    }

    /// Whether there is a hypervisor that we may talk to.
    pub(crate) fn is_there(&self, sysfs: &Sysfs) -> bool {
        match &self.captured {
            Some(folder) => folder.is_dir(),
            None => sysfs.text("sys/hypervisor/type").as_deref() == Some("xen"),
        }
    }

    /// What a question printed; `name` is its file below `xl/` of a captured node.
    pub(crate) fn ask(&self, name: &str, argv: &[&str]) -> Result<String, XlError> {
        let Some(folder) = &self.captured else { return run(argv, USUAL) };
        let path = folder.join(name);
        let failed = |source| XlError::Start { command: path.display().to_string(), source };
        fs::read_to_string(&path).map_err(failed)
    }

    /// Does something that takes no longer than a list.
    pub(crate) fn tell(&self, argv: &[&str]) -> Result<String, XlError> {
        run(argv, USUAL)
    }

    /// Does something that may take `patience`.
    pub(crate) fn tell_within(&self, argv: &[&str], patience: Duration) -> Result<String, XlError> {
        run(argv, patience)
    }
}

/// Runs it to its end or to the deadline, and gives what it printed.
fn run(argv: &[&str], patience: Duration) -> Result<String, XlError> {
    let command = argv.join(" ");
    let mut words = argv.iter();
    let started = Command::new(words.next().unwrap_or(&""))
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: what interrupts the agent leaves a half-made guest to xl's care.
        .process_group(0)
        .spawn();
    let mut child =
        started.map_err(|source| XlError::Start { command: command.clone(), source })?;
    let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let status = match wait(&mut child, patience) {
        Some(status) => status,
        None => return Err(XlError::Deadline { command, after: patience }),
    };
    let said = err.join().unwrap_or_default();
    if !status.success() {
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let said = lines.collect::<Vec<_>>().join("; ");
        let said = if said.is_empty() { status.to_string() } else { said };
        return Err(XlError::Failed { command, said });
    }
    Ok(out.join().unwrap_or_default())
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Its status, or `None` when it had to be killed with all that it started.
fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if begun.elapsed() > patience {
            let group = nix::unistd::Pid::from_raw(child.id() as i32);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            let _ = child.wait();
            return None;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_a_refusal_and_a_deadline() {
        assert_eq!(run(&["printf", "%s|", "a b", "\"c\""], USUAL).unwrap(), "a b|\"c\"|");
        let refused = run(&["sh", "-c", "echo no >&2; echo; exit 3"], USUAL).unwrap_err();
        assert!(refused.to_string().ends_with("failed: no"), "{refused}");
        let silent = run(&["false"], USUAL).unwrap_err().to_string();
        assert!(silent.contains("exit status: 1"), "{silent}");
        let late = run(&["sleep", "9"], Duration::from_millis(50)).unwrap_err();
        assert!(matches!(late, XlError::Deadline { .. }), "{late}");
        assert!(matches!(run(&["/no/such"], USUAL), Err(XlError::Start { .. })));
    }

    #[test]
    fn a_long_answer_does_not_block() {
        let long = run(&["head", "-c", "1000000", "/dev/zero"], USUAL).unwrap();
        assert_eq!(long.len(), 1_000_000);
    }
}
