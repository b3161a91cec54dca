//! What has to happen to a disk, so that it becomes what its image says.
//!
//! The disk is looked at in windows, in its order. Of every span of a window it is known
//! whether it is in place already; what is not becomes steps: zero, put, fetch. Steps are
//! values. A writer does them while later windows are still read; a dry run adds them up.

use std::{fmt, ops::Range};

use serde::Serialize;

use crate::{
    Digest, Disk, Extent, Index, Manifest, checksum::is_zero, disk::DiskError, edge::Edges,
    index::Location,
};

/// Bytes of a window, and of a piece, at most.
pub(crate) const WINDOW: usize = 1 << 20;
/// Compressed bytes of a run, beyond which a new one begins.
const RUN: u64 = 4 << 20;
/// Bytes between two wanted frames that are received rather than asked around.
const GAP: u64 = 8 << 10;
/// Bytes that one step makes zero at most, so that several can be under way.
const ZEROS: u64 = 64 << 20;

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
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) wanted: Wanted,
}

/// Adjacent spans that are read together.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) number: u64,
    pub(crate) spans: Vec<Span>,
}

/// What is to be done to the disk.
#[derive(Debug)]
pub(crate) enum Step {
    /// Make zero.
    Zero { offset: u64, len: u64 },
    /// Write bytes that are here.
    Put { offset: u64, len: u64, chunk: u64 },
    /// Fetch and write.
    Fetch(Run),
}

/// Adjacent bytes of a pack, for one request.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) pack: Digest,
    pub(crate) range: Range<u64>,
    pub(crate) pieces: Vec<Piece>,
}

/// Adjacent chunks of the disk, written at once.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) chunks: Vec<Wish>,
}

/// A chunk that is wanted.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) size: u32,
    pub(crate) name: Digest,
    pub(crate) at: Location,
    /// The same as the one before it.
    pub(crate) repeats: bool,
}

impl Piece {
    /// Length of its frames together.
    pub(crate) fn packed(&self) -> usize {
        self.chunks.iter().filter(|wish| !wish.repeats).map(|wish| wish.at.len as usize).sum()
    }
}

/// Sums of what is to be done, or was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Bytes in place already.
    pub kept: u64,
    /// Bytes of chunks to be fetched, decompressed.
    pub fetched: u64,
    /// Bytes to be received for them.
    pub received: u64,
    /// Requests to be made for them.
    pub requests: u64,
    /// Bytes to be made zero.
    pub zeroed: u64,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { kept, fetched, received, requests, zeroed } = self;
        write!(
            f,
            "{kept} bytes kept, {fetched} fetched ({received} received in {requests} requests), "
        )?;
        write!(f, "{zeroed} zeroed")
    }
}

/// The spans of a disk between its edges, in order.
pub(crate) fn spans<'a>(
    manifest: &'a Manifest,
    index: &'a Index,
    edges: &'a Edges,
) -> impl Iterator<Item = Span> + 'a {
    let inner = edges.head.len() as u64..edges.tail_offset;
    let mut locations = index.locations();
    let image = manifest.placed().filter_map(move |(offset, extent)| {
        let wanted = match extent {
            Extent::Zero(_) => Wanted::Zero,
            Extent::Chunk { name, .. } => {
                let at = locations.next()?;
                let held = edges.held.contains_key(&offset);
                if held { Wanted::Held { chunk: offset } } else { Wanted::Chunk { name, at } }
            }
        };
        let (from, to) = (inner.start.max(offset), inner.end.min(offset + extent.size()));
        (from < to).then(|| Span { offset: from, len: to - from, wanted })
    });
    let Range { start, end } = edges.stale.clone();
    let stale = Span { offset: start, len: end.saturating_sub(start), wanted: Wanted::Zero };
    image.chain(Some(stale).filter(|span| span.len > 0)).flat_map(split)
}

/// Long runs of zeros in parts that fit a window; chunks fit anyway.
fn split(span: Span) -> impl Iterator<Item = Span> {
    let end = span.offset + span.len;
    (span.offset..end).step_by(WINDOW).map(move |offset| {
        let len = (end - offset).min(WINDOW as u64);
        Span { offset, len, ..span }
    })
}

/// Gathers spans into windows.
pub(crate) struct Windows<I: Iterator<Item = Span>> {
    spans: std::iter::Peekable<I>,
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
        let fits = |span: &Span, end| {
            span.offset == end && span.offset + span.len - start <= WINDOW as u64
        };
        while let Some(span) = self.spans.next_if(|span| fits(span, end)) {
            end += span.len;
            spans.push(span);
        }
        self.number += 1;
        Some(Window { number: self.number - 1, spans })
    }
}

/// Which spans of a window the disk has in place. `bytes` is room for it.
pub(crate) fn compare(
    window: &Window,
    disk: &Disk,
    edges: &Edges,
    bytes: &mut crate::buffer::Buffer,
) -> Result<Vec<bool>, DiskError> {
    let (Some(first), Some(last)) = (window.spans.first(), window.spans.last()) else {
        return Ok(Vec::new());
    };
    let (start, end) = (first.offset, last.offset + last.len);
    if disk.next_data(start).is_none_or(|data| data >= end) {
        // A hole of a sparse file.
        return Ok(window.spans.iter().map(|span| matches!(span.wanted, Wanted::Zero)).collect());
    }
    let bytes = bytes.show((end - start) as usize);
    disk.read_at(bytes, start)?;
    let here = |span: &Span| {
        let found =
            &bytes[(span.offset - start) as usize..(span.offset + span.len - start) as usize];
        match span.wanted {
            Wanted::Zero => is_zero(found),
            // Chunks begin with a block that is not zero: a blank disk need not be hashed.
            Wanted::Chunk { name, .. } => {
                !is_zero(&found[..found.len().min(4096)]) && Digest::of(found) == name
            }
            Wanted::Held { chunk } => held(edges, chunk, span.offset, span.len) == Some(found),
        }
    };
    Ok(window.spans.iter().map(here).collect())
}

/// Bytes of a held chunk.
pub(crate) fn held(edges: &Edges, chunk: u64, offset: u64, len: u64) -> Option<&[u8]> {
    let start = (offset - chunk) as usize;
    edges.held.get(&chunk)?.get(start..start + len as usize)
}

/// Makes steps of windows that come in order, and adds them up.
#[derive(Debug, Default)]
pub(crate) struct Planner {
    pub(crate) plan: Plan,
    zeros: Option<(u64, u64)>,
    run: Option<Run>,
}

impl Planner {
    /// The steps that are complete once `window` is known.
    pub(crate) fn push(&mut self, window: &Window, in_place: &[bool]) -> Vec<Step> {
        let mut steps = Vec::new();
        for (span, in_place) in window.spans.iter().zip(in_place) {
            let Span { offset, len, wanted } = *span;
            match wanted {
                _ if *in_place => self.plan.kept += len,
                Wanted::Zero => steps.extend(self.zero(offset, len)),
                Wanted::Held { chunk } => {
                    self.plan.fetched += len;
                    steps.push(Step::Put { offset, len, chunk });
                }
                Wanted::Chunk { name, at } => {
                    self.plan.fetched += len;
                    steps.extend(
                        self.fetch(offset, Wish { size: len as u32, name, at, repeats: false }),
                    );
                }
            }
        }
        steps
    }

    /// The steps that were still open.
    pub(crate) fn finish(&mut self) -> Vec<Step> {
        let zeros = self.zeros.take().map(|(offset, len)| Step::Zero { offset, len });
        zeros.into_iter().chain(self.close_run()).collect()
    }

    fn zero(&mut self, offset: u64, len: u64) -> Option<Step> {
        self.plan.zeroed += len;
        match &mut self.zeros {
            Some((start, open)) if *start + *open == offset && *open + len <= ZEROS => {
                *open += len;
                None
            }
            zeros => zeros.replace((offset, len)).map(|(offset, len)| Step::Zero { offset, len }),
        }
    }

    fn fetch(&mut self, offset: u64, wish: Wish) -> Option<Step> {
        let Some(run) = &mut self.run else {
            self.run = Some(Run::new(offset, wish));
            return None;
        };
        match run.extend(offset, wish) {
            None => None,
            Some(wish) => {
                let done = self.close_run();
                self.run = Some(Run::new(offset, wish));
                done
            }
        }
    }

    fn close_run(&mut self) -> Option<Step> {
        let run = self.run.take()?;
        self.plan.requests += 1;
        self.plan.received += run.range.end - run.range.start;
        Some(Step::Fetch(run))
    }
}

impl Run {
    fn new(offset: u64, wish: Wish) -> Self {
        let (pack, range) = (wish.at.pack, wish.at.range());
        let piece = Piece { offset, len: u64::from(wish.size), chunks: vec![wish] };
        Run { pack, range, pieces: vec![piece] }
    }

    /// Takes one more chunk, or gives it back where it does not belong to this run.
    fn extend(&mut self, offset: u64, mut wish: Wish) -> Option<Wish> {
        let Some(piece) = self.pieces.last_mut() else {
            return Some(wish);
        };
        let size = u64::from(wish.size);
        let fits = piece.offset + piece.len == offset && piece.len + size <= WINDOW as u64;
        let last = piece.chunks.last().map(|last| (last.name, last.size));
        if fits && last == Some((wish.name, wish.size)) {
            wish.repeats = true;
            piece.len += size;
            piece.chunks.push(wish);
            return None;
        }
        let range = wish.at.range();
        let follows = range.start >= self.range.end && range.start - self.range.end <= GAP;
        if wish.at.pack != self.pack || !follows || range.end - self.range.start > RUN {
            return Some(wish);
        }
        self.range.end = range.end;
        if fits {
            piece.len += size;
            piece.chunks.push(wish);
        } else {
            self.pieces.push(Piece { offset, len: size, chunks: vec![wish] });
        }
        None
    }
}
