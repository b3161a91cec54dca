//! Moving bytes about on the disk, in the order that was settled: a batch is read and every
//! chunk of it checked by its name, then it is written while the next one is read.

use std::{
    sync::{Mutex, PoisonError},
    thread,
};

use crossbeam_channel::{Sender, bounded};

use crate::{
    Extent,
    buffer::Buffer,
    moves::{BATCH, Move, Order},
    pipeline::Pipeline,
    window::{WINDOW, is_chunk},
    write::{Mark, WriteError},
};

/// A batch in memory: its moves' bytes back to back, in the order of their targets.
struct Batch {
    bytes: Buffer,
    /// Stretches whose bytes are what is wanted: where in memory, where on the disk, how long.
    good: Vec<Good>,
}

#[derive(Debug, Clone, Copy)]
struct Good {
    at: usize,
    target: u64,
    len: usize,
}

/// What a move's bytes turned out to be.
#[derive(Default)]
struct Found {
    good: Vec<Good>,
    /// Extents whose bytes were others.
    missed: Vec<u32>,
}

/// Does all moves. Returns the extents whose bytes did not stand where they were expected.
pub(crate) fn move_all(
    pipeline: &Pipeline<'_>,
    order: Order,
    marks: Sender<Mark>,
) -> Result<Vec<u32>, WriteError> {
    if order.batches.is_empty() {
        return Ok(Vec::new());
    }
    let (full, to_write) = bounded::<Batch>(0);
    let (give_back, pool) = bounded(2);
    for _ in 0..2 {
        let _ = give_back.send(Buffer::new(BATCH as usize));
    }
    let mut missed = Vec::new();
    thread::scope(|scope| {
        let writer = scope.spawn(move || {
            for batch in to_write {
                if pipeline.failure.is_set() {
                    break;
                }
                write_batch(pipeline, &batch, &marks)?;
                let _ = give_back.send(batch.bytes);
            }
            Ok(())
        });
        let read = read_all(
            pipeline,
            order,
            |batch: Batch, others: Vec<u32>| {
                missed.extend(others);
                full.send(batch).is_ok()
            },
            || pool.recv().ok(),
        );
        drop(full);
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(read)
    })?;
    Ok(missed)
}

/// Reads one batch after the other, until nobody takes them any more.
fn read_all(
    pipeline: &Pipeline<'_>,
    order: Order,
    mut take: impl FnMut(Batch, Vec<u32>) -> bool,
    room: impl Fn() -> Option<Buffer>,
) -> Result<(), WriteError> {
    for moves in order.batches {
        let Some(mut bytes) = room().filter(|_| !pipeline.failure.is_set()) else {
            break;
        };
        let Found { mut good, missed } = read_batch(pipeline, &moves, &mut bytes)?;
        good.sort_unstable_by_key(|one| one.at);
        let good = join(&good);
        if !take(Batch { bytes, good }, missed) {
            break;
        }
    }
    Ok(())
}

fn read_batch(
    pipeline: &Pipeline<'_>,
    moves: &[Move],
    bytes: &mut Buffer,
) -> Result<Found, WriteError> {
    let (mut rest, mut at, mut parts) = (&mut bytes.show(BATCH as usize)[..], 0, Vec::new());
    for one in moves {
        let (part, others) = rest.split_at_mut(one.len as usize);
        parts.push((one, at, part));
        (rest, at) = (others, at + one.len as usize);
    }
    let parts = Mutex::new(parts.into_iter());
    let found = Mutex::new(Found::default());
    in_parallel(pipeline, || {
        let next = parts.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((one, at, part)) = next else { return Ok(false) };
        pipeline.writer.disk.read_at(part, one.source)?;
        let checked = check(pipeline, one, at, part);
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.good.extend(checked.good);
        found.missed.extend(checked.missed);
        Ok(true)
    })?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Which chunks of a move are what they should be.
fn check(pipeline: &Pipeline<'_>, one: &Move, start: usize, bytes: &[u8]) -> Found {
    let (mut found, mut at) = (Found::default(), 0);
    for number in one.numbers() {
        let extent = pipeline.writer.part.extents.get(number as usize);
        let Some(Extent::Chunk { size, name }) = extent else { continue };
        let len = *size as usize;
        if is_chunk(&bytes[at..at + len], name) {
            found.good.push(Good { at: start + at, target: one.target + at as u64, len });
        } else {
            found.missed.push(number);
        }
        at += len;
    }
    found
}

/// Neighbours in memory and on the disk become one.
fn join(good: &[Good]) -> Vec<Good> {
    let mut joined: Vec<Good> = Vec::new();
    for one in good {
        if let Some(last) = joined.last_mut()
            && last.at + last.len == one.at
            && last.target + last.len as u64 == one.target
            && last.len + one.len <= WINDOW
        {
            last.len += one.len;
        } else {
            joined.push(*one);
        }
    }
    joined
}

fn write_batch(
    pipeline: &Pipeline<'_>,
    batch: &Batch,
    marks: &Sender<Mark>,
) -> Result<(), WriteError> {
    let good = Mutex::new(batch.good.iter());
    in_parallel(pipeline, || {
        let next = good.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(Good { at, target, len }) = next.copied() else { return Ok(false) };
        pipeline.write(target, &batch.bytes[at..at + len], marks)?;
        Ok(true)
    })
}

/// Has several threads do `step` until it says that there is none left.
fn in_parallel(
    pipeline: &Pipeline<'_>,
    step: impl Fn() -> Result<bool, WriteError> + Sync,
) -> Result<(), WriteError> {
    let work = || {
        while !pipeline.failure.is_set() && step()? {}
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..pipeline.writer.threads()).map(|_| scope.spawn(work)).collect();
        let results = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        results.fold(Ok(()), Result::and)
    })
}
