//! Loading the installed system's kernel, so that the machine need not go through its firmware.
//!
//! The kernel's own loader takes Linux alone. Xen is loaded piece by piece, with the service domain's
//! kernel and RAM disk as its modules.

mod elf;
mod memory;
mod multiboot;
mod purgatory;
mod xen;

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use images::manifest::{Boot, Hypervisor};
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
};

use self::{
    memory::Memory,
    xen::{Layout, Segment, Told},
};
use crate::{inventory, patience::Patience, sysfs::Sysfs};

const PLACE: &str = "/mnt/boot";
/// Kernel, initial RAM disk and nothing else are read: one file system is enough.
const KIND: &str = "ext4";
/// The least that a processor's memory management knows, bytes.
const PAGE: u32 = 4096;
/// A file is at most this part of the memory: there are three, and the kernel copies each.
const SHARE: u64 = 8;

/// Loads what `boot` says from partition `boot.partition` of the disk called `disk`; `xen` is what
/// the node's seed has in `billet/xen.cfg`.
pub(crate) fn load(disk: &str, boot: &Boot, xen: Option<&str>) -> Result<()> {
    let partition = partition_name(disk, boot.partition);
    wait_for(&partition)?;
    fs::create_dir_all(PLACE).with_context(|| format!("making {PLACE}"))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(partition.as_str()), PLACE, Some(KIND), flags, None::<&str>)
        .with_context(|| format!("mounting {partition} as {KIND}"))?;
    let loaded = load_from(Path::new(PLACE), boot, xen);
    // What is left mounted read-only does no harm to anybody.
    let _ = umount2(PLACE, MntFlags::MNT_DETACH);
    loaded
}

fn load_from(root: &Path, boot: &Boot, xen: Option<&str>) -> Result<()> {
    let root = File::open(root).context("opening the boot file system")?;
    if let Some(hypervisor) = &boot.hypervisor {
        return load_xen(&root, boot, hypervisor, xen).context("loading Xen");
    }
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

/// Xen, the service domain's kernel and its RAM disk.
fn load_xen(root: &File, boot: &Boot, hypervisor: &Hypervisor, own: Option<&str>) -> Result<()> {
    let sysfs = Sysfs::at("/");
    // A Xen that UEFI did not start itself looks for them where only a BIOS has them.
    let is_uefi = sysfs.path("sys/firmware/efi").exists();
    ensure!(!is_uefi, "UEFI started this machine, and Xen would not find its ACPI tables");
    let limit = inventory::memory(&sysfs) / SHARE;
    let read = |path: &str| read(root, path, limit).with_context(|| format!("reading {path}"));
    let memory = Memory::probe(&sysfs)?;
    let (xen_line, linux_line) = xen::lines(boot, hypervisor, own)?;
    let unpacked = xen::unpack(read(&hypervisor.xen)?, limit)
        .with_context(|| format!("unpacking {}", hypervisor.xen))?;
    let kernel = read(&boot.kernel)?;
    let ramdisk = boot.ramdisk.as_deref().map(|path| Ok::<_, anyhow::Error>((path, read(path)?)));
    let ramdisk = ramdisk.transpose()?;
    let mut files = vec![Told { bytes: &kernel, line: linux_line }];
    files.extend(ramdisk.iter().map(|(path, bytes)| Told { bytes, line: (*path).to_owned() }));
    let xen = Told { bytes: &unpacked, line: xen_line };
    let layout = Layout::of(&xen, &files, &memory)
        .with_context(|| format!("laying out {}", hypervisor.xen))?;
    load_layout(&layout).context("giving it to the kernel")
}

fn read(root: &File, path: &str, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::from(open_in(root, path)?);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= limit, "it has more than {limit} bytes");
    Ok(bytes)
}

/// `struct kexec_segment` of linux/kexec.h.
#[repr(C)]
struct KexecSegment {
    bytes: *const u8,
    length: usize,
    at: usize,
    size: usize,
}

fn load_layout(layout: &Layout<'_>) -> io::Result<()> {
    let as_the_kernels = |segment: &Segment<'_>| KexecSegment {
        bytes: segment.bytes.as_ptr(),
        length: segment.bytes.len(),
        at: segment.at as usize,
        size: segment.size as usize,
    };
    let segments: Vec<KexecSegment> = layout.segments.iter().map(as_the_kernels).collect();
    // SAFETY: kexec_load(2) reads `segments.len()` segments, and of each the bytes that `layout`
    // holds until the call is over; it writes nothing of ours, and nothing of the places that the
    // segments name before the machine is let go of.
    #[expect(unsafe_code, reason = "nix has no kexec_load")]
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            libc::c_ulong::from(layout.entry),
            segments.len(),
            segments.as_ptr(),
            libc::c_ulong::from(0_u32),
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
