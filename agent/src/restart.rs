//! How the machine is let go of: what the imager leaves behind as its exit code, and the
//! system call that PID 1 makes of it.

use std::{fmt, process::ExitStatus, thread, time::Duration};

use nix::sys::reboot::{RebootMode, reboot};

use crate::console;

/// How the imager ended, and so what PID 1 does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Through the firmware, at once.
    Reset,
    /// Into the kernel that was loaded by `kexec`.
    Kexec,
    /// It failed; trying the same again may help.
    Retry,
    /// It failed and will again: a person should have time to read why.
    Refused,
    /// It broke: a panic, a signal, an unknown exit code.
    Broken,
}

impl Ending {
    /// The exit code that says it.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Ending::Reset => 0,
            Ending::Refused => 1,
            Ending::Broken => 2,
            Ending::Retry => 3,
            Ending::Kexec => 4,
        }
    }

    /// What an exit status of the imager says.
    pub(crate) fn of(status: ExitStatus) -> Self {
        let endings = [Ending::Reset, Ending::Refused, Ending::Retry, Ending::Kexec];
        let said = endings.into_iter().find(|end| status.code() == Some(i32::from(end.code())));
        said.unwrap_or(Ending::Broken)
    }

    /// How long the machine stays as it is before it restarts.
    const fn wait(self) -> Duration {
        match self {
            Ending::Reset | Ending::Kexec => Duration::ZERO,
            Ending::Retry => Duration::from_secs(5),
            Ending::Broken => Duration::from_secs(30),
            Ending::Refused => Duration::from_secs(60),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ending::Reset => "done",
            Ending::Kexec => "done, the new kernel is loaded",
            Ending::Retry => "failed, the next start tries again",
            Ending::Refused => "failed for a reason that stays",
            Ending::Broken => "the imager broke",
        })
    }
}

/// Lets go of the machine. Only PID 1 calls it, and it does not come back.
pub(crate) fn let_go(ending: Ending) -> ! {
    let wait = ending.wait();
    match wait.as_secs() {
        0 => console::say(format_args!("{ending}; restarting")),
        seconds => console::say(format_args!("{ending}; restarting in {seconds} s")),
    }
    thread::sleep(wait);
    nix::unistd::sync();
    if ending == Ending::Kexec {
        let Err(error) = reboot(RebootMode::RB_KEXEC);
        console::say(format_args!("kexec failed ({error}); restarting through the firmware"));
    }
    loop {
        let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
        console::say(format_args!("restarting failed: {error}; trying again in 10 s"));
        thread::sleep(Duration::from_secs(10));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn exit_codes_and_endings_are_inverses() {
        for end in [Ending::Reset, Ending::Refused, Ending::Broken, Ending::Retry, Ending::Kexec] {
            assert_eq!(Ending::of(ExitStatus::from_raw(i32::from(end.code()) << 8)), end);
        }
    }

    #[test]
    fn a_signal_or_a_foreign_code_is_broken() {
        for raw in [9, 6, 77 << 8] {
            assert_eq!(Ending::of(ExitStatus::from_raw(raw)), Ending::Broken);
        }
    }
}
