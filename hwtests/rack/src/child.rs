//! A program that the rack started, and that dies with it.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child as Process, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

/// A running child; killed when dropped.
pub struct Child {
    name: String,
    process: Process,
}

impl Child {
    /// Starts `command` with its output appended to `log`; `inherited` stay open in it.
    pub fn start(
        name: &str,
        mut command: Command,
        log: &Path,
        inherited: Vec<OwnedFd>,
    ) -> Result<Self> {
        redirect(&mut command, log)?;
        let program = command.get_program().to_string_lossy().into_owned();
        let process = spawn(command, inherited);
        let process = process.with_context(|| format!("starting {program}"))?;
        Ok(Child { name: name.to_owned(), process })
    }

    /// The same from this very thread, in whose namespaces it runs and with which it dies.
    pub(crate) fn start_here(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        redirect(&mut command, log)?;
        let program = command.get_program().to_string_lossy().into_owned();
        let process = fork(command, &[]).with_context(|| format!("starting {program}"))?;
        Ok(Child { name: name.to_owned(), process })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its exit status, when it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Asks it to end (SIGTERM) and kills it when it has not within `patience`.
    pub fn stop(&mut self, patience: Duration) -> Option<ExitStatus> {
        let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        None
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

fn redirect(command: &mut Command, log: &Path) -> Result<()> {
    let output = File::options().create(true).append(true).open(log);
    let output = output.with_context(|| format!("opening {}", log.display()))?;
    let errors = output.try_clone().context("copying a descriptor")?;
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    Ok(())
}

type Order = (Command, Vec<OwnedFd>, mpsc::Sender<io::Result<Process>>);

/// Starts a program that the kernel kills when the rack's process ends.
///
/// The kernel ties the child to the *thread* that forked it, so one thread that lives as long
/// as the process does all the forking.
fn spawn(command: Command, inherited: Vec<OwnedFd>) -> io::Result<Process> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (command, inherited, answer) in orders {
                let _ = answer.send(fork(command, &inherited));
            }
        });
        sender
    });
    let (answer, result) = mpsc::channel();
    let gone = |_| io::Error::other("the thread that starts programs has ended");
    spawner.send((command, inherited, answer)).map_err(|_| gone(mpsc::RecvError))?;
    result.recv().map_err(gone)?
}

#[expect(unsafe_code, reason = "what must happen between fork and exec")]
fn fork(mut command: Command, inherited: &[OwnedFd]) -> io::Result<Process> {
    let numbers: Vec<_> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    let parent = std::process::id();
    // SAFETY: only system calls on numbers, which are allowed after fork.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if libc::getppid().cast_unsigned() != parent {
                return Err(io::Error::other("the rack ended meanwhile"));
            }
            for number in &numbers {
                let fd = std::os::fd::BorrowedFd::borrow_raw(*number);
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        })
    };
    command.spawn()
}
