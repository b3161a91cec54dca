//! The few questions and orders that only `ioctl` carries to a block device (`linux/fs.h`).

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

mod raw {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), nix::libc::c_int);
    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), nix::libc::c_int);
    nix::ioctl_none!(blkrrpart, 0x12, 95);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
}

/// Length of a block device in bytes.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn size(device: BorrowedFd<'_>) -> io::Result<u64> {
    let mut size = 0;
    // SAFETY: BLKGETSIZE64 stores one 64-bit number where the pointer says.
    unsafe { raw::blkgetsize64(device.as_raw_fd(), &mut size) }?;
    Ok(size as u64)
}

/// Logical sector of a block device in bytes.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn sector_size(device: BorrowedFd<'_>) -> io::Result<u32> {
    let mut size = 0;
    // SAFETY: BLKSSZGET stores one int where the pointer says.
    unsafe { raw::blksszget(device.as_raw_fd(), &mut size) }?;
    u32::try_from(size).map_err(io::Error::other)
}

/// Whether a block device refuses writes.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn read_only(device: BorrowedFd<'_>) -> io::Result<bool> {
    let mut flag = 0;
    // SAFETY: BLKROGET stores one int where the pointer says.
    unsafe { raw::blkroget(device.as_raw_fd(), &mut flag) }?;
    Ok(flag != 0)
}

/// Has the kernel read the partition table anew.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn reread_partitions(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    unsafe { raw::blkrrpart(device.as_raw_fd()) }?;
    Ok(())
}

/// Makes a range zero, by a command of the device or by writing.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn zero_out(device: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: BLKZEROOUT reads two 64-bit numbers, start and length, where the pointer says.
    unsafe { raw::blkzeroout(device.as_raw_fd(), &[offset, len]) }?;
    Ok(())
}
