//! PID 1 of the RAM system. It sets up what a process expects of a system, starts the imager
//! as its child and does as the child's ending says.
//!
//! The work is done by a child because a PID 1 that dies, whatever for, is a kernel panic,
//! and because the out-of-memory killer spares PID 1 alone. So however the child ends, there
//! is somebody left to say so and to restart the machine, which tries again.

use std::{fs, io, os::unix::process::ExitStatusExt, path::Path, process};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::wait::{WaitStatus, waitpid},
};

use crate::{
    console,
    restart::{self, Ending},
};

/// Lives until the machine is let go of.
pub(crate) fn run() -> ! {
    std::panic::set_hook(Box::new(|info| {
        console::say(format_args!("PID 1 broke: {info}"));
        restart::let_go(Ending::Broken);
    }));
    mount_all();
    console::open();
    console::say(format_args!("billet-agent {}", env!("CARGO_PKG_VERSION")));
    set_kernel_habits();
    let ending = start_imager().unwrap_or_else(|error| {
        console::say(format_args!("{error:#}"));
        Ending::Broken
    });
    restart::let_go(ending)
}

fn mount_all() {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        if let Err(error) = mount_one(kind, place, flags) {
            console::say(format_args!("mounting {place}: {error}"));
        }
    }
}

fn mount_one(kind: &str, place: &str, flags: MsFlags) -> io::Result<()> {
    fs::create_dir_all(place)?;
    match mount(Some(kind), place, Some(kind), flags, None::<&str>) {
        // Some kernels mount devtmpfs themselves.
        Ok(()) | Err(nix::Error::EBUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What the kernel does on its own: a panic restarts the machine, and modules that it asks
/// for in the middle of something (a checksum for ext4) are loaded by this program.
fn set_kernel_habits() {
    for (name, value) in [("panic", "30"), ("panic_on_oops", "1"), ("modprobe", "/init")] {
        if let Err(error) = fs::write(Path::new("/proc/sys/kernel").join(name), value) {
            console::say(format_args!("setting kernel.{name}: {error}"));
        }
    }
}

/// Mounts the EFI variables where the machine has them; the imager does without.
pub(crate) fn mount_efivars() {
    let place = "/sys/firmware/efi/efivars";
    if Path::new(place).exists() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        let _ = mount_one("efivarfs", place, flags);
    }
}

fn start_imager() -> Result<Ending> {
    let console = || fs::File::options().read(true).write(true).open("/dev/console");
    let mut command = process::Command::new("/proc/self/exe");
    command.arg("imager");
    if let (Ok(input), Ok(output), Ok(error)) = (console(), console(), console()) {
        command.stdin(input).stdout(output).stderr(error);
    }
    let child = command.spawn().context("starting the imager")?;
    reap_until(child.id() as i32)
}

/// Reaps whatever ends, as PID 1 must, until `child` does.
fn reap_until(child: i32) -> Result<Ending> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == child => {
                return Ok(Ending::of(process::ExitStatus::from_raw(code << 8)));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid.as_raw() == child => {
                console::say(format_args!("the imager was ended by {signal}"));
                return Ok(Ending::Broken);
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).context("waiting for the imager"),
        }
    }
}
