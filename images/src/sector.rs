//! Which part of a transfer the disk refused: a MiB that fails does so for a sector, and a
//! person who replaces the disk, or reads its own log, asks for that one.

use std::io;

/// The first part of `len` bytes at `offset` that fails when they are transferred in parts of
/// `grain` bytes; all of it where none does, because then the disk has thought better of it.
/// Stops at the first: a disk that dies takes seconds for each.
pub(crate) fn first_failing(
    offset: u64,
    len: u64,
    grain: u64,
    mut transfer: impl FnMut(u64, u64) -> io::Result<()>,
) -> (u64, u64) {
    let parts = (0..len).step_by(grain.max(1) as usize);
    let mut parts = parts.map(|at| (offset + at, (len - at).min(grain)));
    parts.find(|(offset, len)| transfer(*offset, *len).is_err()).unwrap_or((offset, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sector_that_fails_is_found_and_none_after_it_is_tried() {
        let mut tried = Vec::new();
        let bad = 4096 * 3 + 512;
        let found = first_failing(4096, 4096 * 4 + 100, 512, |offset, len| {
            tried.push((offset, len));
            if (offset..offset + len).contains(&bad) {
                Err(io::ErrorKind::Other.into())
            } else {
                Ok(())
            }
        });
        assert_eq!(found, (bad, 512));
        assert_eq!(tried.last(), Some(&(bad, 512)));
        let last = first_failing(0, 700, 512, |offset, _| {
            if offset == 512 { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        });
        assert_eq!(last, (512, 188));
        assert_eq!(first_failing(10, 700, 512, |_, _| Ok(())), (10, 700));
    }
}
