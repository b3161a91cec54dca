//! Loading the installed system's kernel, so that the machine need not go through its firmware.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use images::manifest::Boot;
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
};

use crate::patience::Patience;

const PLACE: &str = "/mnt/boot";
/// Kernel, initial RAM disk and nothing else are read: one file system is enough.
const KIND: &str = "ext4";

/// Loads what `boot` says from partition `boot.partition` of the disk called `disk`.
pub(crate) fn load(disk: &str, boot: &Boot) -> Result<()> {
    let partition = partition_name(disk, boot.partition);
    wait_for(&partition)?;
    fs::create_dir_all(PLACE).with_context(|| format!("making {PLACE}"))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(partition.as_str()), PLACE, Some(KIND), flags, None::<&str>)
        .with_context(|| format!("mounting {partition} as {KIND}"))?;
    let loaded = load_from(Path::new(PLACE), boot);
    // What is left mounted read-only does no harm to anybody.
    let _ = umount2(PLACE, MntFlags::MNT_DETACH);
    loaded
}

fn load_from(root: &Path, boot: &Boot) -> Result<()> {
    let root = File::open(root).context("opening the boot file system")?;
    let open = |path: &str| open_in(&root, path).with_context(|| format!("opening {path}"));
    let kernel = open(&boot.kernel)?;
    let ramdisk = boot.ramdisk.as_deref().map(open).transpose()?;
    let line = CString::new(boot.command_line.as_str()).context("reading the command line")?;
    load_files(&kernel, ramdisk.as_ref(), &line).context("loading the kernel")
}

/// As the installed system would open it, where `/` is its own root and links may be absolute.
fn open_in(root: &File, path: &str) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    Ok(openat2(root, path, how)?)
}

fn load_files(kernel: &OwnedFd, ramdisk: Option<&OwnedFd>, line: &CString) -> io::Result<()> {
    let flags = if ramdisk.is_some() { 0 } else { libc::KEXEC_FILE_NO_INITRAMFS };
    let line = line.as_bytes_with_nul();
    // SAFETY: kexec_file_load(2) reads the open files and `line.len()` bytes from `line`, which
    // all outlive the call, and writes nothing of ours.
    #[expect(unsafe_code, reason = "nix has no kexec_file_load")]
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            ramdisk.map_or(-1, AsRawFd::as_raw_fd),
            line.len(),
            line.as_ptr(),
            libc::c_ulong::from(flags.unsigned_abs()),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `sda` and 1 are `/dev/sda1`, `nvme0n1` and 1 are `/dev/nvme0n1p1`.
fn partition_name(disk: &str, number: u32) -> String {
    let between = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    format!("/dev/{disk}{between}{number}")
}

fn wait_for(partition: &str) -> Result<()> {
    let patience = Patience::new(partition, Duration::from_secs(10));
    while !Path::new(partition).exists() {
        if patience.is_over() {
            anyhow::bail!("{partition} did not appear in 10 s");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_as_the_kernel_does() {
        assert_eq!(partition_name("sda", 1), "/dev/sda1");
        assert_eq!(partition_name("nvme0n1", 14), "/dev/nvme0n1p14");
    }

    #[test]
    fn an_absolute_link_stays_in_its_root() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("boot")).unwrap();
        fs::write(root.path().join("boot/vmlinuz-1"), "kernel").unwrap();
        std::os::unix::fs::symlink("/boot/vmlinuz-1", root.path().join("vmlinuz")).unwrap();
        let folder = File::open(root.path()).unwrap();
        assert!(open_in(&folder, "/vmlinuz").is_ok());
        assert!(open_in(&folder, "/../../../../../../etc/passwd").is_err());
    }
}
