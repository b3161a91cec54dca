//! Chunks from a source: whole runs of a pack as one stream, single ones when one is bad.

use std::{io::Read, ops::Range};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    Digest,
    index::Location,
    pack::{BadChunk, Decoder, Source},
    plan::{Piece, Run},
    window::WINDOW,
    write::WriteError,
};

/// A piece with the frames of its chunks, back to back, not yet decompressed.
pub(crate) struct Fetched {
    pub(crate) piece: Piece,
    /// With whatever an earlier piece left behind them.
    pub(crate) frames: Vec<u8>,
}

/// Room for a piece's frames, whatever it is: memory that is asked for and not touched costs nothing, and what grows is
/// copied.
const PIECE: usize = WINDOW + (64 << 10);

/// Memory for frames that was used before. Fresh memory costs a page fault for every 4 KiB, and
/// zeros that nobody reads.
pub(crate) struct Spare {
    give: Sender<Vec<u8>>,
    take: Receiver<Vec<u8>>,
}

impl Spare {
    /// Keeps so many at most.
    pub(crate) fn new(most: usize) -> Self {
        let (give, take) = bounded(most);
        Spare { give, take }
    }

    /// Room for `len` bytes at least.
    fn take(&self, len: usize) -> Vec<u8> {
        let mut room = self.take.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        if room.len() < len {
            room.resize(len, 0);
        }
        room
    }

    /// Takes room back.
    pub(crate) fn give(&self, room: Vec<u8>) {
        let _ = self.give.try_send(room);
    }
}

/// Streams a run; each piece is given on as soon as it is here. Returns the bytes received, or
/// stops early when nobody takes pieces any more.
pub(crate) fn fetch(
    source: &dyn Source,
    run: Run,
    spare: &Spare,
    mut take: impl FnMut(Fetched) -> bool,
) -> Result<u64, WriteError> {
    let Run { pack, range, pieces } = run;
    let (received, mut position) = (range.end - range.start, range.start);
    let failed = |source| WriteError::Source { pack, source };
    let mut stream = source.read(&pack, range).map_err(failed)?;
    for piece in pieces {
        let mut frames = spare.take(piece.packed());
        let mut room = &mut frames[..];
        for range in stretches(&piece) {
            skip(&mut stream, range.start - position).map_err(failed)?;
            let (stretch, rest) = room.split_at_mut((range.end - range.start) as usize);
            stream.read_exact(stretch).map_err(failed)?;
            (room, position) = (rest, range.end);
        }
        if !take(Fetched { piece, frames }) {
            break;
        }
    }
    Ok(received)
}

/// The stretches of a pack that a piece's frames fill without a gap.
fn stretches(piece: &Piece) -> Vec<Range<u64>> {
    let mut stretches: Vec<Range<u64>> = Vec::new();
    for range in piece.chunks.iter().filter(|chunk| !chunk.repeats).map(|chunk| chunk.at.range()) {
        match stretches.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => stretches.push(range),
        }
    }
    stretches
}

fn skip(stream: &mut dyn Read, len: u64) -> std::io::Result<()> {
    match std::io::copy(&mut stream.take(len), &mut std::io::sink())? {
        skipped if skipped == len => Ok(()),
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Decompresses a piece into `bytes`, checking every chunk by its name; one that is bad is
/// fetched again, once.
pub(crate) fn decode(
    source: &dyn Source,
    decoder: &mut Decoder,
    fetched: &Fetched,
    bytes: &mut [u8],
) -> Result<(), WriteError> {
    let (mut frames, mut filled) = (&fetched.frames[..], 0);
    for chunk in &fetched.piece.chunks {
        let end = filled + chunk.size as usize;
        if chunk.repeats {
            bytes.copy_within(filled - chunk.size as usize..filled, filled);
        } else {
            let (frame, rest) = frames.split_at(chunk.at.len as usize);
            frames = rest;
            // The device had these bytes in its hands last. One stroke takes them back; else zstd's many short
            // stores wait for a cache line each, for up to as long as it decompresses.
            bytes[filled..end].fill(0);
            if let Err(why) = decoder.decode(frame, &chunk.name, &mut bytes[filled..end]) {
                let (name, pack) = (&chunk.name, chunk.at.pack);
                tracing::warn!("chunk {name} of pack {pack} is fetched again: {why}");
                fetch_chunk(source, decoder, chunk.at, name, &mut bytes[filled..end])?;
            }
        }
        filled = end;
    }
    Ok(())
}

/// Fetches one chunk into `bytes`.
pub(crate) fn fetch_chunk(
    source: &dyn Source,
    decoder: &mut Decoder,
    at: Location,
    name: &Digest,
    bytes: &mut [u8],
) -> Result<(), WriteError> {
    let failed = |source| WriteError::Source { pack: at.pack, source };
    let mut frame = vec![0; at.len as usize];
    source
        .read(&at.pack, at.range())
        .and_then(|mut stream| stream.read_exact(&mut frame))
        .map_err(failed)?;
    let corrupt = |why: BadChunk| WriteError::Corrupt { chunk: *name, pack: at.pack, why };
    decoder.decode(&frame, name, bytes).map_err(corrupt)
}
