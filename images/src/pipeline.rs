//! The threads between a source and a disk.
//!
//! Comparers read windows of the disk; the planner takes them in order and makes steps;
//! fetchers stream runs; writers decompress, check and write. The queues between them are
//! short, so memory is bounded by the threads: each holds a window or a piece, some MiB in all.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    thread,
};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    buffer::Buffer,
    checksum::checksum,
    failure::Failure,
    fetch::{Fetched, decode, fetch},
    pack::Decoder,
    plan::{Plan, Planner, Run, Span, Step, WINDOW, Window, Windows, compare, held, spans},
    write::{Mark, Phase, WriteError, Writer},
};

/// Work for a writer.
enum Job {
    Zero { offset: u64, len: u64 },
    Put { offset: u64, len: u64, chunk: u64 },
    Piece(Fetched),
}

/// A window that was compared.
type Compared = (Window, Vec<bool>);

pub(crate) struct Pipeline<'a> {
    writer: &'a Writer<'a>,
    failure: Failure,
    total: u64,
}

impl<'a> Pipeline<'a> {
    pub(crate) fn new(writer: &'a Writer<'a>) -> Self {
        let total = spans(writer.manifest, writer.index, &writer.edges).map(|span| span.len).sum();
        Pipeline { writer, failure: Failure::default(), total }
    }

    /// Compares and adds up.
    pub(crate) fn plan(self) -> Result<Plan, WriteError> {
        self.advance(0);
        let mut planner = Planner::default();
        thread::scope(|scope| {
            let compared = self.compare(scope);
            for (window, in_place) in InOrder::new(compared) {
                self.advance(window.spans.iter().map(|span| span.len).sum());
                planner.push(&window, &in_place);
            }
            planner.finish();
        });
        self.failure.into_result()?;
        Ok(planner.plan)
    }

    /// Compares, and makes the disk what it should be.
    pub(crate) fn run(self) -> Result<Plan, WriteError> {
        self.advance(0);
        let mut planner = Planner::default();
        let threads = self.writer.threads();
        thread::scope(|scope| {
            let (jobs, to_do) = bounded(threads);
            let (runs, to_fetch) = bounded(1);
            let compared = self.compare(scope);
            for _ in 0..self.writer.options.connections.max(1) {
                let (to_fetch, jobs) = (to_fetch.clone(), jobs.clone());
                scope.spawn(|| self.fetch(to_fetch, jobs));
            }
            for _ in 0..threads {
                let to_do = to_do.clone();
                scope.spawn(|| self.failure.note(self.work(to_do)));
            }
            drop((to_fetch, to_do));
            self.direct(&mut planner, compared, &runs, &jobs);
        });
        self.failure.into_result()?;
        Ok(planner.plan)
    }

    fn advance(&self, by: u64) {
        self.writer.advance(Phase::Write, by, self.total);
    }

    /// Starts the threads that compare the disk with the image.
    fn compare<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
    ) -> Receiver<Compared> {
        let Writer { manifest, index, edges, .. } = self.writer;
        let windows = Windows::new(spans(manifest, index, edges));
        let windows = std::sync::Arc::new(Mutex::new(windows));
        let (compared, receiver) = bounded(self.writer.threads());
        for _ in 0..self.writer.threads() {
            let (windows, compared) = (windows.clone(), compared.clone());
            scope.spawn(move || self.failure.note(self.compare_windows(&windows, &compared)));
        }
        receiver
    }

    fn compare_windows<I: Iterator<Item = Span>>(
        &self,
        windows: &Mutex<Windows<I>>,
        compared: &Sender<Compared>,
    ) -> Result<(), WriteError> {
        let mut bytes = Buffer::new(WINDOW);
        while !self.failure.is_set() {
            let next = windows.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(window) = next else {
                break;
            };
            let in_place = compare(&window, self.writer.disk, &self.writer.edges, &mut bytes)?;
            if compared.send((window, in_place)).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Plans in the disk's order and hands the steps out.
    fn direct(
        &self,
        planner: &mut Planner,
        compared: Receiver<Compared>,
        runs: &Sender<Run>,
        jobs: &Sender<Job>,
    ) {
        let hand_out = |step| match step {
            Step::Zero { offset, len } => jobs.send(Job::Zero { offset, len }).is_ok(),
            Step::Put { offset, len, chunk } => jobs.send(Job::Put { offset, len, chunk }).is_ok(),
            Step::Fetch(run) => runs.send(run).is_ok(),
        };
        for (window, in_place) in InOrder::new(compared) {
            let kept = window.spans.iter().zip(&in_place).filter(|(_, in_place)| **in_place);
            self.advance(kept.map(|(span, _)| span.len).sum());
            if self.failure.is_set() || !planner.push(&window, &in_place).into_iter().all(hand_out)
            {
                return;
            }
        }
        planner.finish().into_iter().all(hand_out);
    }

    fn fetch(&self, runs: Receiver<Run>, jobs: Sender<Job>) {
        for run in runs {
            let take = |fetched| !self.failure.is_set() && jobs.send(Job::Piece(fetched)).is_ok();
            if self.failure.is_set()
                || self.failure.note(fetch(self.writer.source, run, take)).is_none()
            {
                break;
            }
        }
    }

    fn work(&self, jobs: Receiver<Job>) -> Result<(), WriteError> {
        let mut decoder = Decoder::new().map_err(WriteError::Memory)?;
        let mut bytes = Buffer::new(WINDOW);
        for job in jobs {
            if self.failure.is_set() {
                break;
            }
            let mark = match job {
                Job::Zero { offset, len } => {
                    self.writer.begin()?;
                    self.writer.disk.zero(offset, len)?;
                    Mark { offset, len, checksum: None }
                }
                Job::Put { offset, len, chunk } => {
                    let known = held(&self.writer.edges, chunk, offset, len).unwrap_or_default();
                    bytes.show(known.len()).copy_from_slice(known);
                    self.write(offset, &bytes)?
                }
                Job::Piece(fetched) => {
                    let shown = bytes.show(fetched.piece.len as usize);
                    decode(self.writer.source, &mut decoder, &fetched, shown)?;
                    self.write(fetched.piece.offset, &bytes)?
                }
            };
            self.writer.written.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
            self.advance(mark.len);
        }
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<Mark, WriteError> {
        self.writer.begin()?;
        self.writer.disk.write_at(bytes, offset)?;
        Ok(Mark { offset, len: bytes.len() as u64, checksum: Some(checksum(bytes)) })
    }
}

/// Gives windows in their order, whichever is compared first.
struct InOrder {
    compared: Receiver<Compared>,
    early: BTreeMap<u64, Compared>,
    next: u64,
}

impl InOrder {
    fn new(compared: Receiver<Compared>) -> Self {
        InOrder { compared, early: BTreeMap::new(), next: 0 }
    }
}

impl Iterator for InOrder {
    type Item = Compared;

    fn next(&mut self) -> Option<Compared> {
        loop {
            if let Some(found) = self.early.remove(&self.next) {
                self.next += 1;
                return Some(found);
            }
            let compared = self.compared.recv().ok()?;
            self.early.insert(compared.0.number, compared);
        }
    }
}
