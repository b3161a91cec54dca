//! What has to happen to a disk, so that it becomes what its image says.
//!
//! The disk is gone over in windows, in its order. Of every span of a window it is known
//! whether it is in place already; what is not becomes steps: zero, put, fetch. Steps are
//! values. A writer does them while later windows are still read; a dry run adds them up.
//! What is moved on the disk itself is settled before (`moves`).

use std::{fmt, ops::Range};

use serde::Serialize;

use crate::{
    Digest,
    index::Location,
    pack,
    window::{Span, WINDOW, Wanted, Window, ZEROS},
};

/// Compressed bytes of a run, beyond which a new one begins: a whole pack is one request.
const RUN: u64 = pack::LONGEST as u64;
/// Bytes between two wanted frames that are received rather than asked around.
const GAP: u64 = 8 << 10;
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

impl Step {
    /// Bytes of the disk that it changes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Step::Zero { len, .. } | Step::Put { len, .. } => *len,
            Step::Fetch(run) => run.pieces.iter().map(|piece| piece.len).sum(),
        }
    }
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
    /// Bytes that stand elsewhere on the disk, to be copied.
    pub copied: u64,
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
        let Plan { kept, copied, fetched, received, requests, zeroed } = self;
        write!(
            f,
            "{kept} bytes kept, {copied} copied, {fetched} fetched ({received} received in {requests} "
        )?;
        write!(f, "requests), {zeroed} zeroed")
    }
}

/// Makes steps of windows that come in order, and adds them up.
#[derive(Debug, Default)]
pub(crate) struct Planner {
    pub(crate) plan: Plan,
    zeros: Option<(u64, u64)>,
    run: Option<Run>,
}

impl Planner {
    /// Adds up to what was done before.
    pub(crate) fn new(plan: Plan) -> Self {
        Planner { plan, ..Planner::default() }
    }

    /// The steps that are complete once `window` is known.
    pub(crate) fn push(&mut self, window: &Window) -> Vec<Step> {
        let mut steps = Vec::new();
        for span in &window.spans {
            let Span { offset, len, wanted, .. } = *span;
            match wanted {
                _ if span.in_place == Some(true) => self.plan.kept += len,
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
