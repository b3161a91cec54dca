//! The threads between a source and a disk.
//!
//! A disk is gone over in passes. In each, comparers read windows of the disk; the planner takes
//! them in order and makes steps; fetchers stream runs; writers decompress, check and write;
//! checkers read back. During the first pass movers copy what stands elsewhere on the disk. The
//! queues between them are short, so memory is bounded by the threads: each holds a window or a
//! piece, some MiB in all. What the disk reads and writes stands side by side in one buffer, so
//! that huge pages are shared.

use std::{
    collections::BTreeMap,
    slice::ChunksExactMut,
    sync::{Mutex, PoisonError},
    thread,
};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    buffer::Buffer,
    checksum::checksum,
    failure::Failure,
    fetch::{Fetched, Spare, decode, fetch},
    look::Look,
    mover::move_all,
    moves::{Move, Order, Readers, order},
    pack::Decoder,
    plan::{Plan, Planner, Run, Step},
    readback::check_all,
    window::{Fate, Pass, WINDOW, Window, Windows, compare, held, spans, split},
    write::{Mark, WriteError, Writer},
};

/// Windows that are compared, or being so, before an earlier one is: as long as that one waits for
/// the disk, all others are kept.
const AHEAD: usize = 64;
/// Marks that wait for their check at most.
const MARKS: usize = 256;
/// Threads beyond one for each CPU: while some wait for the disk, others hash or decompress. With
/// fewer writers CPUs stand still whenever all of them have a MiB on its way.
const COMPARERS: usize = 4;
const CHECKERS: usize = 2;
const WRITERS: usize = 8;

/// Of an image of more bytes zeros are unmapped: a disk that has as much room as is written to it may not have room
/// for all of them. Of others they take room, as zeros that were written would: to take it away from a loop device
/// took as long as to write as much to it (0.18 ms for a MiB), and to leave it next to nothing.
const ROOMY: u64 = 64 << 30;

/// Work for a writer.
enum Job {
    Zero { offset: u64, len: u64 },
    Put { offset: u64, len: u64, chunk: u64 },
    Piece(Fetched),
}

pub(crate) struct Pipeline<'a> {
    pub(crate) writer: &'a Writer<'a>,
    pub(crate) failure: Failure,
    /// Whether the disk is changed, or only looked at.
    change: bool,
    spare: Spare,
}

/// What a pass found out for those after it.
#[derive(Default)]
struct Passed {
    /// Extents that are to be fetched when all is moved.
    later: Vec<u32>,
    /// Extents whose bytes did not stand where they were expected.
    missed: Vec<u32>,
}

/// Room for a window in the hands of each comparer, each checker and each writer.
pub(crate) struct Room {
    windows: Buffer,
    cpus: usize,
}

impl Room {
    pub(crate) fn new(cpus: usize) -> Self {
        let windows = Buffer::new((3 * cpus + COMPARERS + CHECKERS + WRITERS) * WINDOW);
        Room { windows, cpus }
    }

    /// So many bytes of it, as long as nobody has it: of the writers', who touch theirs anyway.
    pub(crate) fn lend(&mut self, len: usize) -> &mut [u8] {
        let start = self.windows.len().saturating_sub(len);
        &mut self.windows[start..]
    }

    /// That of each kind, a window for each thread.
    fn split(&mut self) -> [ChunksExactMut<'_, u8>; 3] {
        let (comparers, others) = self.windows.split_at_mut((self.cpus + COMPARERS) * WINDOW);
        let (checkers, writers) = others.split_at_mut((self.cpus + CHECKERS) * WINDOW);
        [comparers, checkers, writers].map(|kind| kind.chunks_exact_mut(WINDOW))
    }
}

/// What happens beside a pass.
#[derive(Default)]
struct Beside {
    order: Order,
    /// Where nothing may be written yet.
    readers: Option<Readers>,
}

impl<'a> Pipeline<'a> {
    pub(crate) fn new(writer: &'a Writer<'a>, change: bool) -> Self {
        let spare = Spare::new(4 * writer.threads());
        Pipeline { writer, failure: Failure::default(), change, spare }
    }

    /// Makes the part what it should be, or adds up what that would take; `plan` is what was done
    /// before.
    pub(crate) fn run(self, look: Look, plan: Plan, mut room: Room) -> Result<Plan, WriteError> {
        self.advance(0);
        let Look { mut fates, moves } = look;
        let order = order(moves);
        let mut planner = Planner::new(plan);
        planner.plan.copied += lengths(&order);
        let readers = Readers::new(order.batches.iter().flatten());
        set(&mut fates, order.given_up.iter().flat_map(Move::numbers), Fate::AbsentLater);
        self.put_off(&mut fates, &readers);
        let beside = Beside { order, readers: Some(readers) };
        let passed = self.pass(Pass::Chunks, &fates, &mut planner, beside, &mut room);
        set(&mut fates, passed.later.into_iter(), Fate::AbsentLater);
        planner.plan.copied -= self.lengths(&passed.missed);
        set(&mut fates, passed.missed.into_iter(), Fate::LookLater);
        self.pass(Pass::Later, &fates, &mut planner, Beside::default(), &mut room);
        let look = self.looks_for_zeros(&planner.plan);
        self.pass(Pass::Zeros { look }, &fates, &mut planner, Beside::default(), &mut room);
        self.failure.into_result()?;
        Ok(planner.plan)
    }

    /// What is absent where others still read has to wait.
    fn put_off(&self, fates: &mut [Fate], readers: &Readers) {
        for span in spans(&self.writer.part, &self.writer.edges) {
            if let Some(fate @ Fate::Absent) = fates.get_mut(span.extent as usize)
                && readers.overlap(&span.range())
            {
                *fate = Fate::AbsentLater;
            }
        }
    }

    fn lengths(&self, extents: &[u32]) -> u64 {
        let extent = |number: &u32| self.writer.part.extents.get(*number as usize);
        extents.iter().filter_map(extent).map(crate::Extent::size).sum()
    }

    /// Reading zeros costs more than making them where the device has a command for that. But
    /// a disk that is right stays untouched: while no difference is known, it is read.
    fn looks_for_zeros(&self, plan: &Plan) -> bool {
        let differs = plan.copied > 0 || plan.fetched > 0;
        !(differs && self.writer.disk.zeroes_by_command())
    }

    fn advance(&self, by: u64) {
        self.writer.wrote(by);
    }

    fn pass(
        &self,
        pass: Pass,
        fates: &[Fate],
        planner: &mut Planner,
        beside: Beside,
        room: &mut Room,
    ) -> Passed {
        let Beside { order, readers } = beside;
        let threads = self.writer.threads();
        let [comparers, checkers, writers] = room.split();
        let mut passed = Passed::default();
        if self.failure.is_set() {
            return passed;
        }
        thread::scope(|scope| {
            let (jobs, to_do) = bounded(threads);
            let (runs, to_fetch) = bounded(1);
            let (marks, to_check) = bounded(MARKS);
            let compared = self.compare(scope, pass, fates, comparers);
            let mut mover = None;
            if self.change {
                for _ in 0..self.writer.options.connections.max(1) {
                    let (to_fetch, jobs) = (to_fetch.clone(), jobs.clone());
                    scope.spawn(|| self.fetch(to_fetch, jobs));
                }
                for room in checkers {
                    let to_check = to_check.clone();
                    scope.spawn(|| self.failure.note(check_all(self.writer, to_check, room)));
                }
                for room in writers {
                    let (to_do, marks) = (to_do.clone(), marks.clone());
                    scope.spawn(|| self.failure.note(self.work(to_do, marks, room)));
                }
                let marks = marks.clone();
                mover = Some(scope.spawn(|| move_all(self, order, marks)));
            }
            drop((to_fetch, to_do, marks, to_check));
            passed.later = self.direct(planner, compared, readers, &runs, &jobs);
            drop((runs, jobs));
            let missed = mover.and_then(|mover| self.failure.note(join(mover)));
            passed.missed = missed.unwrap_or_default();
        });
        passed
    }

    /// Starts the threads that compare the disk with the image.
    fn compare<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        pass: Pass,
        fates: &'scope [Fate],
        rooms: ChunksExactMut<'scope, u8>,
    ) -> InOrder {
        let spans = spans(&self.writer.part, &self.writer.edges);
        let spans = spans.filter_map(move |span| pass.take(span, fates)).flat_map(split);
        let windows = std::sync::Arc::new(Mutex::new(Windows::new(spans)));
        let (compared, receiver) = bounded(self.writer.threads());
        let (leave, leaves) = bounded(AHEAD);
        (0..AHEAD).try_for_each(|_| leave.send(())).unwrap_or_default();
        for room in rooms {
            let (windows, compared, leaves) = (windows.clone(), compared.clone(), leaves.clone());
            let next = move || {
                leaves.recv().ok()?;
                windows.lock().unwrap_or_else(PoisonError::into_inner).next()
            };
            scope.spawn(move || self.failure.note(self.compare_windows(next, &compared, room)));
        }
        InOrder { compared: receiver, leave, early: BTreeMap::new(), next: 0 }
    }

    fn compare_windows(
        &self,
        next: impl Fn() -> Option<Window>,
        compared: &Sender<Window>,
        room: &mut [u8],
    ) -> Result<(), WriteError> {
        while !self.failure.is_set() {
            let Some(mut window) = next() else {
                break;
            };
            compare(&mut window, self.writer.disk, &self.writer.edges, room)?;
            if compared.send(window).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Plans in the disk's order and hands the steps out. Returns what has to wait because
    /// others still read where it would be written.
    fn direct(
        &self,
        planner: &mut Planner,
        compared: InOrder,
        readers: Option<Readers>,
        runs: &Sender<Run>,
        jobs: &Sender<Job>,
    ) -> Vec<u32> {
        let mut later = Vec::new();
        let hand_out = |step| match step {
            _ if !self.change => {
                self.advance(step.len());
                true
            }
            Step::Zero { offset, len } => jobs.send(Job::Zero { offset, len }).is_ok(),
            Step::Put { offset, len, chunk } => jobs.send(Job::Put { offset, len, chunk }).is_ok(),
            Step::Fetch(run) => runs.send(run).is_ok(),
        };
        for mut window in compared {
            if let Some(readers) = &readers {
                window.spans.retain(|span| {
                    let wait = span.in_place == Some(false) && readers.overlap(&span.range());
                    later.extend(wait.then_some(span.extent));
                    !wait
                });
            }
            let kept = window.spans.iter().filter(|span| span.in_place == Some(true));
            self.advance(kept.map(|span| span.len).sum());
            if self.failure.is_set() || !planner.push(&window).into_iter().all(hand_out) {
                return later;
            }
        }
        planner.finish().into_iter().all(hand_out);
        later
    }

    fn fetch(&self, runs: Receiver<Run>, jobs: Sender<Job>) {
        for run in runs {
            let take = |fetched| !self.failure.is_set() && jobs.send(Job::Piece(fetched)).is_ok();
            if self.failure.is_set()
                || self.failure.note(fetch(self.writer.source, run, &self.spare, take)).is_none()
            {
                break;
            }
        }
    }

    fn work(
        &self,
        jobs: Receiver<Job>,
        marks: Sender<Mark>,
        room: &mut [u8],
    ) -> Result<(), WriteError> {
        let mut decoder = Decoder::new().map_err(WriteError::Memory)?;
        for job in jobs {
            if self.failure.is_set() {
                break;
            }
            match job {
                Job::Zero { offset, len } => {
                    self.writer.begin()?;
                    let unmap = self.writer.image.header().disk_size > ROOMY;
                    self.writer.disk.zero(offset, len, unmap)?;
                    self.done(Mark { offset, len, checksum: None }, &marks);
                }
                Job::Put { offset, len, chunk } => {
                    let known = held(&self.writer.edges, chunk, offset, len).unwrap_or_default();
                    let bytes = &mut room[..known.len()];
                    bytes.copy_from_slice(known);
                    self.write(offset, bytes, &marks)?;
                }
                Job::Piece(fetched) => {
                    let bytes = &mut room[..fetched.piece.len as usize];
                    decode(self.writer.source, &mut decoder, &fetched, bytes)?;
                    self.spare.give(fetched.frames);
                    self.write(fetched.piece.offset, bytes, &marks)?;
                }
            }
        }
        Ok(())
    }

    /// Writes checked bytes and has them read back.
    pub(crate) fn write(
        &self,
        offset: u64,
        bytes: &[u8],
        marks: &Sender<Mark>,
    ) -> Result<(), WriteError> {
        self.writer.begin()?;
        // Of what is checked, before anything under us has it in hands.
        let mark = Mark { offset, len: bytes.len() as u64, checksum: Some(checksum(bytes)) };
        self.writer.disk.write_at(bytes, offset)?;
        self.done(mark, marks);
        Ok(())
    }

    fn done(&self, mark: Mark, marks: &Sender<Mark>) {
        self.advance(mark.len);
        // A checker that is gone has failed, and all stop.
        let _ = marks.send(mark);
    }
}

fn set(fates: &mut [Fate], extents: impl Iterator<Item = u32>, to: Fate) {
    extents.for_each(|extent| fates[extent as usize] = to);
}

/// Bytes of all moves.
fn lengths(order: &Order) -> u64 {
    order.batches.iter().flatten().map(|one| u64::from(one.len)).sum()
}

/// What a thread came to.
pub(crate) fn join<T, E>(thread: thread::ScopedJoinHandle<'_, Result<T, E>>) -> Result<T, E> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Gives windows in their order, whichever is compared first.
struct InOrder {
    compared: Receiver<Window>,
    /// For each window that is given, another one may be begun.
    leave: Sender<()>,
    early: BTreeMap<u64, Window>,
    next: u64,
}

impl Iterator for InOrder {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        loop {
            if let Some(found) = self.early.remove(&self.next) {
                self.next += 1;
                let _ = self.leave.send(());
                return Some(found);
            }
            let window = self.compared.recv().ok()?;
            self.early.insert(window.number, window);
        }
    }
}
