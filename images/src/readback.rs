//! Reading back what was written, past the page cache: a disk that loses or mixes up writes is
//! found out before it may boot.
//!
//! Where reads go to the device itself, that happens while other bytes are still written; else
//! when all is flushed and the page cache is dropped.

use std::{
    ops::Range,
    sync::{
        PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crossbeam_channel::Receiver;

use crate::{
    Digest,
    buffer::Buffer,
    checksum::{checksum, is_zero},
    failure::Failure,
    fetch::fetch_chunk,
    index::Location,
    pack::Decoder,
    window::{WINDOW, Wanted, held, spans},
    write::{Mark, WriteError, Writer},
};

/// Of zeros that the device made by its own command, this much is read back in each stretch of
/// [`STRIDE`] bytes, and at the end.
const PROBE: u64 = 4096;
const STRIDE: u64 = 16 << 20;

/// Checks what comes, or puts it by where a read would be answered by the page cache. `room` is
/// for [`WINDOW`] bytes.
pub(crate) fn check_all(
    writer: &Writer<'_>,
    marks: Receiver<Mark>,
    room: &mut [u8],
) -> Result<(), WriteError> {
    for mark in marks {
        if writer.disk.is_direct() {
            check(writer, &mark, room, |_| {})?;
        } else {
            writer.written.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
        }
    }
    Ok(())
}

/// Checks what was put by, once it is flushed; `told` how many bytes of how many are right.
pub(crate) fn read_back(
    writer: &Writer<'_>,
    marks: &[Mark],
    told: impl Fn(u64, u64) + Sync,
) -> Result<(), WriteError> {
    let total = marks.iter().map(|mark| mark.len).sum();
    told(0, total);
    writer.disk.forget_cached();
    let (next, failure) = (AtomicUsize::new(0), Failure::default());
    let work = || {
        let mut room = Buffer::new(WINDOW);
        while let Some(mark) = marks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let checked = check(writer, mark, &mut room, |len| told(len, total));
            if failure.is_set() || failure.note(checked).is_none() {
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
    room: &mut [u8],
    told: impl Fn(u64),
) -> Result<(), WriteError> {
    let end = mark.offset + mark.len;
    let by_command = mark.checksum.is_none() && writer.disk.zeroes_by_command();
    let (stride, most) = if by_command { (STRIDE, PROBE) } else { (WINDOW as u64, WINDOW as u64) };
    // What has a checksum fits at once; zeros may be many.
    let last = by_command.then(|| end - PROBE.min(mark.len));
    for offset in (mark.offset..end).step_by(stride as usize).chain(last) {
        let bytes = &mut room[..(end - offset).min(most) as usize];
        let len = bytes.len() as u64;
        writer.disk.read_at(bytes, offset)?;
        let same = match mark.checksum {
            Some(written) => checksum(bytes) == written,
            None => is_zero(bytes),
        };
        if !same {
            let wrong = wrong(writer, offset, bytes).unwrap_or(offset..offset + len);
            return Err(WriteError::read_back(writer.disk, wrong));
        }
        told(len);
    }
    Ok(())
}

/// The sectors, from the first to the last, in which a stretch that the disk gave back is not what it
/// should be. What that is, is fetched once more: a checksum does not tell where it differs.
fn wrong(writer: &Writer<'_>, start: u64, bytes: &[u8]) -> Option<Range<u64>> {
    let end = start + bytes.len() as u64;
    let mut wrong: Option<Range<u64>> = None;
    for span in spans(&writer.part, &writer.edges) {
        let (from, to) = (start.max(span.offset), end.min(span.offset + span.len));
        if from >= to {
            continue;
        }
        let found = &bytes[(from - start) as usize..(to - start) as usize];
        let here = match span.wanted {
            Wanted::Zero => differ(found, |_| 0),
            Wanted::Held { chunk } => held(&writer.edges, chunk, from, to - from)
                .and_then(|wanted| differ(found, |at| wanted[at])),
            Wanted::Chunk { name, at } => differs_from_chunk(writer, found, &name, at),
        };
        if let Some(Range { start, end }) = here {
            let first = wrong.map_or(from + start as u64, |wrong| wrong.start);
            wrong = Some(first..from + end as u64);
        }
    }
    let sector = writer.disk.grain();
    wrong.map(|Range { start, end }| start / sector * sector..end.div_ceil(sector) * sector)
}

/// Where bytes are not those of a chunk; everywhere, where the source does not give it any more.
fn differs_from_chunk(
    writer: &Writer<'_>,
    found: &[u8],
    name: &Digest,
    at: Location,
) -> Option<Range<usize>> {
    if Digest::of(found) == *name {
        return None;
    }
    let mut wanted = vec![0; found.len()];
    let fetched = Decoder::new()
        .map_err(WriteError::Memory)
        .and_then(|mut decoder| fetch_chunk(writer.source, &mut decoder, at, name, &mut wanted));
    match fetched {
        Ok(()) => differ(found, |at| wanted[at]),
        Err(_) => Some(0..found.len()),
    }
}

/// From the first byte that is another one than is wanted to the last.
fn differ(found: &[u8], wanted: impl Fn(usize) -> u8) -> Option<Range<usize>> {
    let is_other = |at: &usize| found[*at] != wanted(*at);
    let first = (0..found.len()).find(is_other)?;
    let last = (0..found.len()).rev().find(is_other)?;
    Some(first..last + 1)
}
