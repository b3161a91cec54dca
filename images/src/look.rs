//! What is worth looking at on a disk, and what of its bytes can be moved instead of fetched.
//!
//! Reading costs as much as writing. So a disk that holds nothing of the image is not read at
//! all, and a chunk's place only where it is likely or possible that it is right:
//! - What was deployed before, where that is known, tells both what is in place and what stands
//!   elsewhere. It is a hint: every chunk is checked by its name before it is written.
//! - Otherwise samples tell. Where they find chunks of the image in other places, the whole
//!   disk is read and cut by content.
//! - A disk whose first sector is zero may be one on which a writing was broken off. Whatever
//!   can be in place there is looked at: nothing that was written is fetched again.

use std::{
    sync::{Mutex, PoisonError},
    thread,
};

use crate::{
    Digest, Disk, Extent,
    buffer::Buffer,
    checksum::is_zero,
    disk::DiskError,
    image::Part,
    manifest::MAX_CHUNK,
    moves::{MOVE, Move},
    pipeline::{Room, join},
    previous::Previous,
    scan::{cut, scan},
    sources::Sources,
    window::{Fate, Span, Wanted, is_chunk, spans},
    write::{WriteError, Writer},
};

/// Places that a sample looks at, and those that it looks at first: when nothing of the image is at any of
/// these, it has not enough of the disk to be worth the time of the others.
const SAMPLES: usize = 64;
const FIRST: usize = 16;
/// Bytes that are read at each.
const SAMPLE: usize = 2 * MAX_CHUNK as usize;
/// Places that are read at the same time: a single one waits for the disk, and a core for it.
const AT_ONCE: usize = 8;
/// One in so many that is found is worth to look for the others.
const WORTH: u64 = 20;
/// Moves at most, so that memory is bounded; what is beyond is fetched.
const MOST_MOVES: usize = 1 << 17;

/// What was found.
pub(crate) struct Look {
    /// Of each extent of the part.
    pub(crate) fates: Vec<Fate>,
    /// In the order of their targets.
    pub(crate) moves: Vec<Move>,
}

impl Look {
    /// Looks at the disk as far as it has to be known before anything of the part changes.
    pub(crate) fn new(writer: &Writer<'_>, room: &mut Room) -> Result<Self, WriteError> {
        let part = &*writer.part;
        let sources = Sources::new(&part.extents);
        let mut fates = vec![Fate::Absent; part.extents.len()];
        if let Some(previous) = writer.options.previous {
            expect(part, previous, &sources, &mut fates);
        }
        let sample = Sample::take(writer, &sources, &fates, room.lend(AT_ONCE * SAMPLE))?;
        let unsure = writer.is_broken_off || sample.in_place();
        if unsure {
            fates.fill(Fate::Look);
        }
        if writer.options.previous.is_none() && sample.elsewhere() {
            scan(writer, &sources, &mut fates)?;
        }
        let moves = settle(writer, &sources, &mut fates, unsure)?;
        Ok(Look { fates, moves })
    }
}

/// Whether a writing may have been broken off here, when the disk has sectors of so many bytes.
pub(crate) fn is_broken_off(disk: &Disk, sector: u32) -> Result<bool, DiskError> {
    let mut first = Buffer::new(sector as usize);
    disk.read_at(&mut first, 0)?;
    Ok(is_zero(&first))
}

/// What a manifest that was deployed before lets expect: in place what it has in the same
/// place, and elsewhere what it has elsewhere.
fn expect(part: &Part, previous: &Previous<'_>, sources: &Sources<'_>, fates: &mut [Fate]) {
    let mut wanted = part.placed().zip(fates).peekable();
    let told = previous.extents(&part.reach(), part.range.end, |offset, extent| {
        let Extent::Chunk { size, name } = extent else { return };
        if !sources.note(&name, size, offset) {
            return;
        }
        while wanted.next_if(|((at, _), _)| *at < offset).is_some() {}
        if let Some((placed, fate)) = wanted.peek_mut()
            && *placed == (offset, extent)
        {
            **fate = Fate::Look;
        }
    });
    if let Err(error) = told {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(error, "what was deployed before is not known to its end");
    }
}

/// Settles which chunks are moved: those that stand elsewhere and are not in place. Where
/// nobody is sure of the latter, it is looked at now, before anything is written over.
fn settle(
    writer: &Writer<'_>,
    sources: &Sources<'_>,
    fates: &mut [Fate],
    unsure: bool,
) -> Result<Vec<Move>, DiskError> {
    let (inner, mut bytes) = (writer.edges.inner(), Buffer::new(MAX_CHUNK as usize));
    let mut moves: Vec<Move> = Vec::new();
    for span in spans(&writer.part, &writer.edges) {
        let Wanted::Chunk { name, .. } = span.wanted else { continue };
        let fate = &mut fates[span.extent as usize];
        let settled = *fate == Fate::Kept || *fate == Fate::Look && !unsure;
        let Some(source) = sources.place(&name, span.len as u32).filter(|_| !settled) else {
            continue;
        };
        let whole = inner.start <= source && source + span.len <= inner.end;
        if source == span.offset || !whole {
            continue;
        }
        if *fate == Fate::Look {
            let bytes = bytes.show(span.len as usize);
            writer.disk.read_at(bytes, span.offset)?;
            if is_chunk(bytes, &name) {
                *fate = Fate::Kept;
                continue;
            }
        }
        if add(&mut moves, &span, source) {
            *fate = Fate::Moved;
        }
    }
    Ok(moves)
}

/// Adds a chunk to the last move or as a move of its own, unless there are too many.
fn add(moves: &mut Vec<Move>, span: &Span, source: u64) -> bool {
    let (target, len) = (span.offset, span.len as u32);
    if let Some(last) = moves.last_mut() {
        let end = u64::from(last.len);
        let follows = last.source + end == source
            && last.target + end == target
            && last.extent + last.extents == span.extent;
        if follows && end + span.len <= MOVE {
            last.len += len;
            last.extents += 1;
            return true;
        }
    }
    let room = moves.len() < MOST_MOVES;
    if room {
        moves.push(Move { source, target, len, extent: span.extent, extents: 1 });
    }
    room
}

/// What a few places of the disk have.
#[derive(Debug, Default)]
struct Sample {
    places: u64,
    in_place: u64,
    /// Bytes that are not in place, and those of them that are wanted elsewhere.
    others: u64,
    elsewhere: u64,
}

impl Sample {
    /// Looks where the image has chunks of which nothing is expected: where images have
    /// something, disks are used.
    fn take(
        writer: &Writer<'_>,
        sources: &Sources<'_>,
        fates: &[Fate],
        room: &mut [u8],
    ) -> Result<Self, DiskError> {
        let unknown = || {
            let spans = spans(&writer.part, &writer.edges);
            let unknown = |span: &Span| fates.get(span.extent as usize) == Some(&Fate::Absent);
            spans.filter(move |span| matches!(span.wanted, Wanted::Chunk { .. }) && unknown(span))
        };
        let step = unknown().count().div_ceil(SAMPLES).max(1);
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for (number, span) in unknown().step_by(step).enumerate() {
            if number % (SAMPLES / FIRST) == 0 { first.push(span) } else { others.push(span) }
        }
        let sample = Sample::at(writer, sources, first, room)?;
        let has_nothing = sample.in_place == 0 && sample.elsewhere == 0;
        if has_nothing {
            Ok(sample)
        } else {
            Ok(sample.with(&Sample::at(writer, sources, others, room)?))
        }
    }

    fn at(
        writer: &Writer<'_>,
        sources: &Sources<'_>,
        places: Vec<Span>,
        room: &mut [u8],
    ) -> Result<Self, DiskError> {
        let places = Mutex::new(places.into_iter());
        let end = writer.edges.inner().end;
        let look = |room: &mut [u8]| {
            let mut sample = Sample::default();
            loop {
                let next = places.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(span) = next else { return Ok(sample) };
                let bytes = &mut room[..(end - span.offset).min(SAMPLE as u64) as usize];
                writer.disk.read_at(bytes, span.offset)?;
                sample.look(&span, bytes, sources);
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> =
                room.chunks_exact_mut(SAMPLE).map(|room| scope.spawn(|| look(room))).collect();
            let add = |sum: Sample, thread| Ok(sum.with(&join(thread)?));
            threads.into_iter().try_fold(Sample::default(), add)
        })
    }

    fn with(self, other: &Self) -> Self {
        Sample {
            places: self.places + other.places,
            in_place: self.in_place + other.in_place,
            others: self.others + other.others,
            elsewhere: self.elsewhere + other.elsewhere,
        }
    }

    fn look(&mut self, span: &Span, bytes: &[u8], sources: &Sources<'_>) {
        self.places += 1;
        let own = &bytes[..span.len as usize];
        if matches!(span.wanted, Wanted::Chunk { name, .. } if is_chunk(own, &name)) {
            self.in_place += 1;
            return;
        }
        // The first piece may have begun before.
        for (at, size) in cut(bytes).into_iter().skip(1) {
            let name = Digest::of(&bytes[at..at + size as usize]);
            self.others += u64::from(size);
            self.elsewhere += if sources.wants(&name, size) { u64::from(size) } else { 0 };
        }
    }

    fn in_place(&self) -> bool {
        self.in_place > 0 && self.in_place * WORTH >= self.places
    }

    fn elsewhere(&self) -> bool {
        self.elsewhere > 0 && self.elsewhere * WORTH >= self.others
    }
}
