//! The disk in stretches: what each is to be, and whether it has to be read to know if it is.
//!
//! A disk is gone over in passes, each of which takes its kind of stretches in the disk's order.

use std::{iter::Peekable, ops::Range};

use crate::{
    Digest, Disk, Extent, checksum::is_zero, disk::DiskError, edge::Edges, image::Part,
    index::Location,
};

/// Bytes of a window, and of a piece, at most.
pub(crate) const WINDOW: usize = 1 << 20;
/// Bytes that one step makes zero at most, so that several can be under way.
pub(crate) const ZEROS: u64 = 64 << 20;
/// Bytes between two spans that are read rather than asked around.
const GAP: u64 = 64 << 10;

/// What a span of the disk is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    Zero,
    Chunk {
        name: Digest,
        at: Location,
    },
    /// Known bytes: part of the held chunk that begins at this offset.
    Held {
        chunk: u64,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// Number of the part's extent it is of.
    pub(crate) extent: u32,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) wanted: Wanted,
    /// Whether it is in place; nobody knows before it is read.
    pub(crate) in_place: Option<bool>,
}

impl Span {
    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
    }
}

/// What is known of a chunk's place, and so which pass it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It may be in place: look.
    Look,
    /// It is in place.
    Kept,
    /// It is not in place, or hardly.
    Absent,
    /// Somebody moves it hither.
    Moved,
    /// As `Absent`, but others read here until all is moved.
    AbsentLater,
    /// As `Look`, once all is moved.
    LookLater,
}

/// One way over the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// The chunks that are kept or fetched while others are moved.
    Chunks,
    /// The chunks that may be written only when all is moved.
    Later,
    /// The zeros.
    Zeros { look: bool },
}

impl Pass {
    /// The span as this pass treats it, if it does.
    pub(crate) fn take(self, span: Span, fates: &[Fate]) -> Option<Span> {
        let fate = fates.get(span.extent as usize).copied().unwrap_or(Fate::Look);
        let in_place = match (self, span.wanted, fate) {
            (Pass::Zeros { look }, Wanted::Zero, _) => (!look).then_some(false),
            (Pass::Later, Wanted::Held { .. }, _) => None,
            (Pass::Chunks, Wanted::Chunk { .. }, Fate::Look)
            | (Pass::Later, Wanted::Chunk { .. }, Fate::LookLater) => None,
            (Pass::Chunks, Wanted::Chunk { .. }, Fate::Absent)
            | (Pass::Later, Wanted::Chunk { .. }, Fate::AbsentLater) => Some(false),
            (Pass::Chunks, Wanted::Chunk { .. }, Fate::Kept) => Some(true),
            _ => return None,
        };
        Some(Span { in_place, ..span })
    }
}

/// The spans of a part between the disk's edges, in order; those of the last part with what is
/// behind the image.
pub(crate) fn spans<'a>(part: &'a Part, edges: &'a Edges) -> impl Iterator<Item = Span> + 'a {
    let inner = edges.inner();
    let mut locations = part.index.locations();
    let image = part.placed().zip(0..).filter_map(move |((offset, extent), number)| {
        let wanted = match extent {
            Extent::Zero(_) => Wanted::Zero,
            Extent::Chunk { name, .. } => {
                let at = locations.next()?;
                let held = edges.held.contains_key(&offset);
                if held { Wanted::Held { chunk: offset } } else { Wanted::Chunk { name, at } }
            }
        };
        let (from, to) = (inner.start.max(offset), inner.end.min(offset + extent.size()));
        let span = Span {
            extent: number,
            offset: from,
            len: to.saturating_sub(from),
            wanted,
            in_place: None,
        };
        (from < to).then_some(span)
    });
    let Range { start, end } = edges.stale.clone();
    let (len, wanted) = (end.saturating_sub(start), Wanted::Zero);
    let stale = Span { extent: u32::MAX, offset: start, len, wanted, in_place: None };
    image.chain(Some(stale).filter(|span| span.len > 0 && part.is_last))
}

/// Long runs of zeros in parts: such as fit a window where they are read. Chunks fit anyway.
pub(crate) fn split(span: Span) -> impl Iterator<Item = Span> {
    let end = span.offset + span.len;
    let most = if span.in_place.is_none() { WINDOW as u64 } else { ZEROS };
    (span.offset..end).step_by(most as usize).map(move |offset| {
        let len = (end - offset).min(most);
        Span { offset, len, ..span }
    })
}

/// Neighbouring spans of which either all or none are to be looked at.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) number: u64,
    pub(crate) spans: Vec<Span>,
}

/// Gathers spans into windows.
pub(crate) struct Windows<I: Iterator<Item = Span>> {
    spans: Peekable<I>,
    number: u64,
}

impl<I: Iterator<Item = Span>> Windows<I> {
    pub(crate) fn new(spans: I) -> Self {
        Windows { spans: spans.peekable(), number: 0 }
    }
}

impl<I: Iterator<Item = Span>> Iterator for Windows<I> {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        let first = self.spans.next()?;
        let (start, mut end, mut spans) = (first.offset, first.offset + first.len, vec![first]);
        let look = first.in_place.is_none();
        let fits = |span: &Span, end| {
            span.in_place.is_none() == look
                && span.offset - end <= GAP
                && span.offset + span.len - start <= WINDOW as u64
        };
        while let Some(span) = self.spans.next_if(|span| fits(span, end)) {
            end = span.offset + span.len;
            spans.push(span);
        }
        self.number += 1;
        Some(Window { number: self.number - 1, spans })
    }
}

/// Finds out which spans of a window the disk has in place. `room` is for [`WINDOW`] bytes.
pub(crate) fn compare(
    window: &mut Window,
    disk: &Disk,
    edges: &Edges,
    room: &mut [u8],
) -> Result<(), DiskError> {
    let (first, last) = (window.spans.first(), window.spans.last());
    let (Some(first), Some(last)) = (first.filter(|span| span.in_place.is_none()), last) else {
        return Ok(());
    };
    let (start, end) = (first.offset, last.offset + last.len);
    let spans = window.spans.iter_mut();
    if disk.next_data(start).is_none_or(|data| data >= end) {
        // A hole of a sparse file.
        spans.for_each(|span| span.in_place = Some(matches!(span.wanted, Wanted::Zero)));
        return Ok(());
    }
    let bytes = &mut room[..(end - start) as usize];
    disk.read_at(bytes, start)?;
    for span in spans {
        let found = &bytes[(span.offset - start) as usize..][..span.len as usize];
        span.in_place = Some(is_in_place(span, found, edges));
    }
    Ok(())
}

fn is_in_place(span: &Span, found: &[u8], edges: &Edges) -> bool {
    match span.wanted {
        Wanted::Zero => is_zero(found),
        Wanted::Chunk { name, .. } => is_chunk(found, &name),
        Wanted::Held { chunk } => held(edges, chunk, span.offset, span.len) == Some(found),
    }
}

/// Whether these bytes are a chunk, and which one.
pub(crate) fn is_chunk(bytes: &[u8], name: &Digest) -> bool {
    // Chunks begin with a block that is not zero: a blank disk need not be hashed.
    !is_zero(&bytes[..bytes.len().min(4096)]) && Digest::of(bytes) == *name
}

/// Bytes of a held chunk.
pub(crate) fn held(edges: &Edges, chunk: u64, offset: u64, len: u64) -> Option<&[u8]> {
    let start = (offset - chunk) as usize;
    edges.held.get(&chunk)?.get(start..start + len as usize)
}
