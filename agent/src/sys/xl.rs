//! The door to xl and xenstore: child processes with exact arguments and a deadline.
//!
//! A node that was captured has what they printed in files below `xl/` instead.

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::memfd::{MFdFlags, memfd_create};

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
    let start = || -> io::Result<(Child, Output, Output)> {
        let (out, err) = (Output::new()?, Output::new()?);
        let child = Command::new(words.next().unwrap_or(&""))
            .args(words)
            .stdin(Stdio::null())
            .stdout(out.end()?)
            .stderr(err.end()?)
            // A group of its own: what interrupts the agent leaves a half-made guest to xl's care.
            .process_group(0)
            .spawn()?;
        Ok((child, out, err))
    };
    let (mut child, out, err) =
        start().map_err(|source| XlError::Start { command: command.clone(), source })?;
    let status = match wait(&mut child, patience) {
        Some(status) => status,
        None => return Err(XlError::Deadline { command, after: patience }),
    };
    if !status.success() {
        let said = err.text();
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let said = lines.collect::<Vec<_>>().join("; ");
        let said = if said.is_empty() { status.to_string() } else { said };
        return Err(XlError::Failed { command, said });
    }
    Ok(out.text())
}

/// What a program prints, in memory that is its own as much as ours: a pipe's end would go with the agent,
/// and a word on it would kill the xl that saves a guest.
struct Output(File);

impl Output {
    fn new() -> io::Result<Self> {
        Ok(Output(File::from(memfd_create(c"output", MFdFlags::MFD_CLOEXEC)?)))
    }

    /// The program's end.
    fn end(&self) -> io::Result<Stdio> {
        self.0.try_clone().map(Stdio::from)
    }

    fn text(mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.0.rewind().and_then(|()| self.0.read_to_end(&mut bytes));
        read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
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
    fn what_it_prints_goes_where_no_agent_need_be() {
        let ends = run(&["readlink", "/proc/self/fd/1", "/proc/self/fd/2"], USUAL).unwrap();
        assert!(ends.lines().all(|end| end.starts_with("/memfd:")), "{ends}");
        assert_eq!(ends.lines().count(), 2);
    }

    #[test]
    fn a_long_answer_does_not_block() {
        let long = run(&["head", "-c", "1000000", "/dev/zero"], USUAL).unwrap();
        assert_eq!(long.len(), 1_000_000);
    }
}
