//! The disk, cut by content as an image is: which wanted chunks are in place, and where
//! the others stand.
//!
//! It is read once, in segments that several threads take. Cuts do not depend on where reading
//! began but for the piece that was open there; so that one is left to the segment before,
//! which reads a little further than it has to.

use std::{
    iter::Peekable,
    ops::Range,
    sync::{Mutex, PoisonError},
    thread,
};

use crate::{
    Digest,
    buffer::Buffer,
    checksum::is_zero,
    chunk::{Cut, Cutter},
    failure::Failure,
    manifest::MAX_CHUNK,
    sources::Sources,
    window::{Fate, Span, Wanted, is_chunk, spans},
    write::{WriteError, Writer},
};

const SEGMENT: u64 = 4 << 20;
/// Where a chunk ends at the latest that began in a segment.
const BEYOND: u64 = MAX_CHUNK as u64;
/// Each thread holds a segment.
const MOST_THREADS: usize = 4;
/// A disk may be much larger than what an image has on it: so many times the bytes of its
/// chunks are read at most.
const MOST_READ: u64 = 8;

/// Where chunks begin in `bytes`, and how long they are; the one that is open at the end is none.
pub(crate) fn cut(bytes: &[u8]) -> Vec<(usize, u32)> {
    let (mut cutter, mut chunks) = (Cutter::default(), Vec::new());
    cutter.cut(bytes, |cut, end| {
        if let Cut::Chunk(size) = cut {
            chunks.push((end - size as usize, size));
        }
    });
    chunks
}

/// Part of the disk with the chunks that are wanted there.
struct Segment {
    range: Range<u64>,
    spans: Vec<Span>,
}

struct Segments<I: Iterator<Item = Span>> {
    left: Range<u64>,
    spans: Peekable<I>,
}

impl<I: Iterator<Item = Span>> Segments<I> {
    fn next(&mut self) -> Option<Segment> {
        let start = self.left.start;
        let end = self.left.end.min(start + SEGMENT);
        self.left.start = end;
        let here = || self.spans.next_if(|span| span.offset < end);
        let spans = std::iter::from_fn(here).collect();
        (start < end).then_some(Segment { range: start..end, spans })
    }
}

/// Notes the places of chunks, and what is in place.
pub(crate) fn scan(
    writer: &Writer<'_>,
    sources: &Sources<'_>,
    fates: &mut [Fate],
) -> Result<(), WriteError> {
    let all = || {
        let spans = spans(&writer.part, &writer.edges);
        spans.filter(|span| matches!(span.wanted, Wanted::Chunk { .. }))
    };
    let content: u64 = all().map(|span| span.len).sum();
    let (inner, reach) = (writer.edges.inner(), writer.part.reach());
    let start = inner.start.max(reach.start);
    let end = inner.end.min(reach.end).min(writer.image.header().disk_size).max(start);
    let left = start..end.min(start + content * MOST_READ);
    let (total, whole) = (left.end - left.start, start..end);
    let segments = Mutex::new(Segments { left, spans: all().peekable() });
    let (failure, kept) = (Failure::default(), Mutex::new(Vec::new()));
    let work = || {
        let mut bytes = Buffer::new((SEGMENT + BEYOND) as usize);
        while !failure.is_set() {
            let next = segments.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(segment) = next else { break };
            let found = look_at(writer, &segment, &whole, sources, &mut bytes);
            let found = failure.note(found).unwrap_or_default();
            kept.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
            writer.looked(segment.range.end - segment.range.start, total);
        }
    };
    let threads = writer.threads().min(MOST_THREADS);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    failure.into_result()?;
    fates.fill(Fate::Absent);
    for extent in kept.into_inner().unwrap_or_else(PoisonError::into_inner) {
        fates[extent as usize] = Fate::Kept;
    }
    Ok(())
}

/// Looks at a segment; returns the extents that are in place.
fn look_at(
    writer: &Writer<'_>,
    segment: &Segment,
    whole: &Range<u64>,
    sources: &Sources<'_>,
    bytes: &mut Buffer,
) -> Result<Vec<u32>, WriteError> {
    let Range { start, end } = segment.range.clone();
    let to = whole.end.min(end + BEYOND);
    if writer.disk.next_data(start).is_none_or(|data| data >= to) {
        return Ok(Vec::new());
    }
    let bytes = bytes.show((to - start) as usize);
    writer.disk.read_at(bytes, start)?;
    if is_zero(bytes) {
        return Ok(Vec::new());
    }
    let here = |span: &&Span| {
        let found = (span.offset - start) as usize;
        let found = &bytes[found..found + span.len as usize];
        matches!(span.wanted, Wanted::Chunk { name, .. } if is_chunk(found, &name))
    };
    let kept: Vec<&Span> = segment.spans.iter().filter(here).collect();
    let first = usize::from(start > whole.start);
    for (at, size) in cut(bytes).into_iter().skip(first) {
        let offset = start + at as u64;
        let known = kept.binary_search_by_key(&offset, |span| span.offset);
        if known.is_ok_and(|known| kept[known].len == u64::from(size)) {
            continue;
        }
        if offset <= end {
            sources.note(&Digest::of(&bytes[at..at + size as usize]), size, offset);
        }
    }
    for span in &kept {
        if let Wanted::Chunk { name, .. } = span.wanted {
            sources.note(&name, span.len as u32, span.offset);
        }
    }
    Ok(kept.iter().map(|span| span.extent).collect())
}
