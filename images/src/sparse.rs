//! Bytes into a sparse file: blocks of zeros stay holes.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
};

use crate::checksum;

/// Copies `from` to `disk` at `start`, where it holds zeros only; the bytes copied.
pub(crate) fn copy(mut from: impl Read, disk: &File, start: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut copied = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            return Ok(copied);
        }
        for (index, block) in buffer[..filled].chunks(4096).enumerate() {
            if !checksum::is_zero(block) {
                disk.write_all_at(block, start + copied + index as u64 * 4096)?;
            }
        }
        copied += filled as u64;
    }
}
