//! Reading back what was written, past the page cache: a disk that loses or mixes up writes is
//! found out before it may boot.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::{
    buffer::Buffer,
    checksum::{checksum, is_zero},
    failure::Failure,
    plan::WINDOW,
    write::{Mark, Phase, WriteError, Writer},
};

/// Reads every mark and compares.
pub(crate) fn read_back(writer: &Writer<'_>, marks: &[Mark]) -> Result<(), WriteError> {
    let total = marks.iter().map(|mark| mark.len).sum();
    writer.advance(Phase::Verify, 0, total);
    writer.disk.forget_cached();
    let (next, failure) = (AtomicUsize::new(0), Failure::default());
    let work = || {
        let mut bytes = Buffer::new(WINDOW);
        while let Some(mark) = marks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if failure.is_set() || failure.note(check(writer, mark, total, &mut bytes)).is_none() {
                break;
            }
        }
    };
    thread::scope(|scope| (0..writer.threads()).for_each(|_| drop(scope.spawn(work))));
    failure.into_result()
}

fn check(
    writer: &Writer<'_>,
    mark: &Mark,
    total: u64,
    bytes: &mut Buffer,
) -> Result<(), WriteError> {
    // What has a checksum fits at once; zeros may be many.
    let end = mark.offset + mark.len;
    for offset in (mark.offset..end).step_by(WINDOW) {
        let bytes = bytes.show((end - offset).min(WINDOW as u64) as usize);
        let len = bytes.len() as u64;
        writer.disk.read_at(bytes, offset)?;
        let same = match mark.checksum {
            Some(written) => checksum(bytes) == written,
            None => is_zero(bytes),
        };
        if !same {
            return Err(WriteError::ReadBack { offset, len });
        }
        writer.advance(Phase::Verify, len, total);
    }
    Ok(())
}
