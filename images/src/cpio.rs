//! A cpio archive in the form that the kernel unpacks as its initial RAM file system
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst; `newc`).
//!
//! The same entries always give the same bytes: no times, no owners but root.

/// An archive that grows entry by entry.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

/// File types in a mode (POSIX `sys/stat.h`).
const FOLDER: u32 = 0o040_000;
const CHARACTERS: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

impl Cpio {
    /// Adds a folder; the folders above it must have been added before.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER | 0o755, (0, 0), &[]);
    }

    /// Adds a file with these permissions (as `0o755`).
    pub fn file(&mut self, path: &str, permissions: u32, bytes: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), bytes);
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) {
        self.entry(path, CHARACTERS | permissions, (major, minor), &[]);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
        self.entries += 1;
        let path = path.trim_start_matches('/');
        let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
        let (major, minor) = device;
        let sizes = [bytes.len() as u32, 0, 0, major, minor, path.len() as u32 + 1, 0];
        let head = [self.entries, mode, 0, 0, links, 0];
        self.bytes.extend(b"070701");
        for field in head.iter().chain(&sizes) {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(bytes);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    fn archive() -> Vec<u8> {
        let mut cpio = Cpio::default();
        cpio.folder("/etc");
        cpio.file("/etc/odd", 0o644, b"abc");
        cpio.device("/console", 0o600, 5, 1);
        cpio.file("init", 0o755, b"#!\n");
        cpio.finish()
    }

    #[test]
    fn busybox_reads_it_as_it_was_meant() {
        let mut list = Command::new("busybox")
            .args(["cpio", "-tv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("busybox, of package busybox-static");
        list.stdin.take().unwrap().write_all(&archive()).unwrap();
        let output = list.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let modes: Vec<&str> = text.lines().map(|line| &line[..10]).collect();
        assert_eq!(modes, ["drwxr-xr-x", "-rw-r--r--", "crw-------", "-rwxr-xr-x"], "{text}");
        assert!(text.lines().nth(1).unwrap().ends_with("etc/odd"), "{text}");
        assert!(output.status.success());
    }

    #[test]
    fn the_same_entries_give_the_same_bytes() {
        assert_eq!(archive(), archive());
        assert_eq!(archive().len() % 4, 0);
    }
}
