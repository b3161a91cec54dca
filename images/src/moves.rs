//! The order in which bytes may be moved about on one disk.
//!
//! A move reads at one place and writes at another, and what it writes over may be what another
//! move still has to read. So a move comes after all that read where it writes. Moves that wait
//! for one another in a circle go into one batch, because a batch is read whole before the first
//! of it is written; a circle too large for that is broken by giving one move up, whose bytes
//! are fetched. The order is settled before anything happens: a pure function.

use std::{collections::BTreeMap, ops::Range};

/// Bytes of a batch at most: they are in memory together.
pub(crate) const BATCH: u64 = 8 << 20;
/// Bytes of a move at most.
pub(crate) const MOVE: u64 = 1 << 20;

/// Bytes that stand at `source` and are wanted at `target`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) source: u64,
    pub(crate) target: u64,
    /// At most [`MOVE`].
    pub(crate) len: u32,
    /// The part's first extent of these bytes, and how many they are.
    pub(crate) extent: u32,
    pub(crate) extents: u32,
}

impl Move {
    /// Numbers of its extents.
    pub(crate) fn numbers(&self) -> Range<u32> {
        self.extent..self.extent + self.extents
    }

    fn len(&self) -> u64 {
        u64::from(self.len)
    }

    fn sources(&self) -> Range<u64> {
        self.source..self.source + self.len()
    }

    fn targets(&self) -> Range<u64> {
        self.target..self.target + self.len()
    }
}

/// Moves in batches, and those that could not be kept.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Each is read before it is written, and written before the next but one is read; moves in
    /// it stand in the order of their targets.
    pub(crate) batches: Vec<Vec<Move>>,
    pub(crate) given_up: Vec<Move>,
}

/// Orders moves whose targets do not overlap.
pub(crate) fn order(mut moves: Vec<Move>) -> Order {
    moves.sort_unstable_by_key(|one| one.target);
    let mut ordering = Ordering::new(&moves);
    (0..moves.len() as u32).for_each(|first| ordering.visit(first));
    ordering.finish()
}

/// Whether a stretch of the disk is read by a move.
pub(crate) struct Readers(Vec<(u64, u64)>);

impl Readers {
    /// The stretches that `moves` read.
    pub(crate) fn new<'a>(moves: impl Iterator<Item = &'a Move>) -> Self {
        let mut ranges: Vec<_> = moves.map(|one| (one.source, one.source + one.len())).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, open| {
            let joins = next.0 <= open.1;
            if joins {
                open.1 = open.1.max(next.1);
            }
            joins
        });
        Readers(ranges)
    }

    /// Whether one of `range` is.
    pub(crate) fn overlap(&self, range: &Range<u64>) -> bool {
        let next = self.0.partition_point(|(_, end)| *end <= range.start);
        self.0.get(next).is_some_and(|(start, _)| *start < range.end)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Unseen,
    /// On the stack.
    Open,
    /// Has its place in the order.
    Placed(u32),
    GivenUp,
}

/// A depth-first walk: who must read before a move is placed before it.
struct Ordering<'a> {
    moves: &'a [Move],
    /// Numbers of the moves by their source.
    by_source: Vec<u32>,
    marks: Vec<Mark>,
    /// Moves that are being visited, each with where to go on in `by_source`.
    stack: Vec<(u32, usize)>,
    /// Of moves that are open, those that write where they read and are placed before them.
    backward: BTreeMap<u32, Vec<u32>>,
    placed: Vec<u32>,
    /// Bytes placed before each, and in all.
    before: Vec<u64>,
    /// Stretches of `placed` that belong into one batch, in order, apart from each other.
    circles: Vec<Range<u32>>,
    given_up: Vec<u32>,
}

impl<'a> Ordering<'a> {
    fn new(moves: &'a [Move]) -> Self {
        let mut by_source: Vec<_> = (0..moves.len() as u32).collect();
        by_source.sort_unstable_by_key(|number| moves[*number as usize].source);
        Ordering {
            moves,
            by_source,
            marks: vec![Mark::Unseen; moves.len()],
            stack: Vec::new(),
            backward: BTreeMap::new(),
            placed: Vec::with_capacity(moves.len()),
            before: Vec::with_capacity(moves.len() + 1),
            circles: Vec::new(),
            given_up: Vec::new(),
        }
    }

    fn of(&self, number: u32) -> &'a Move {
        &self.moves[number as usize]
    }

    /// Where the first reader of a move's target may be in `by_source`.
    fn first_reader(&self, number: u32) -> usize {
        let start = self.of(number).target.saturating_sub(MOVE);
        self.by_source.partition_point(|reader| self.of(*reader).source < start)
    }

    fn visit(&mut self, first: u32) {
        if self.marks[first as usize] != Mark::Unseen {
            return;
        }
        self.open(first);
        while let Some((number, at)) = self.stack.pop() {
            match self.next_reader(number, at) {
                Some((reader, next)) => {
                    self.stack.push((number, next));
                    match self.marks[reader as usize] {
                        Mark::Unseen => self.open(reader),
                        Mark::Open => self.backward.entry(reader).or_default().push(number),
                        Mark::Placed(_) | Mark::GivenUp => {}
                    }
                }
                None => self.place(number),
            }
        }
    }

    fn open(&mut self, number: u32) {
        self.marks[number as usize] = Mark::Open;
        self.stack.push((number, self.first_reader(number)));
    }

    /// The next move from `at` that reads where `number` writes, and where to go on.
    fn next_reader(&self, number: u32, mut at: usize) -> Option<(u32, usize)> {
        let target = self.of(number).targets();
        loop {
            let reader = *self.by_source.get(at)?;
            let source = self.of(reader).sources();
            if source.start >= target.end {
                return None;
            }
            at += 1;
            if reader != number && source.end > target.start {
                return Some((reader, at));
            }
        }
    }

    fn place(&mut self, number: u32) {
        let place = self.placed.len() as u32;
        let bytes = self.bytes();
        self.before.push(bytes);
        self.placed.push(number);
        self.marks[number as usize] = Mark::Placed(place);
        for early in self.backward.remove(&number).into_iter().flatten() {
            self.close_circle(early, place);
        }
    }

    fn bytes(&self) -> u64 {
        match (self.before.last(), self.placed.last()) {
            (Some(before), Some(last)) => before + self.of(*last).len(),
            _ => 0,
        }
    }

    /// Puts all from `early` to the one at `place` into one batch, or gives `early` up.
    fn close_circle(&mut self, early: u32, place: u32) {
        let Mark::Placed(start) = self.marks[early as usize] else {
            return;
        };
        let mut circle = start..place + 1;
        let joined = self.circles.partition_point(|before| before.end <= circle.start);
        for other in &self.circles[joined..] {
            circle = circle.start.min(other.start)..circle.end.max(other.end);
        }
        if self.bytes() - self.before[circle.start as usize] <= BATCH {
            self.circles.truncate(joined);
            self.circles.push(circle);
        } else {
            self.marks[early as usize] = Mark::GivenUp;
            self.given_up.push(early);
        }
    }

    fn finish(self) -> Order {
        let given_up = |number: &u32| self.marks[*number as usize] == Mark::GivenUp;
        let mut order = Order::default();
        let (mut batch, mut bytes, mut circles) = (Vec::new(), 0, self.circles.iter().peekable());
        let mut at = 0;
        while at < self.placed.len() as u32 {
            let end = circles.next_if(|circle| circle.start == at).map_or(at + 1, |one| one.end);
            let group = &self.placed[at as usize..end as usize];
            let group = group.iter().filter(|number| !given_up(number)).map(|one| *self.of(*one));
            let more: u64 = group.clone().map(|one| one.len()).sum();
            if bytes + more > BATCH {
                order.batches.push(std::mem::take(&mut batch));
                bytes = 0;
            }
            batch.extend(group);
            (bytes, at) = (bytes + more, end);
        }
        order.batches.extend((!batch.is_empty()).then_some(batch));
        for batch in &mut order.batches {
            batch.sort_unstable_by_key(|one| one.target);
        }
        order.given_up = self.given_up.iter().map(|number| *self.of(*number)).collect();
        order
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::*;

    const BLOCK: usize = 4096;

    fn a_move(source: usize, target: usize, blocks: usize) -> Move {
        let [source, target] = [source, target].map(|block| (block * BLOCK) as u64);
        Move { source, target, len: (blocks * BLOCK) as u32, extent: 0, extents: 1 }
    }

    /// Does what an order says on a disk of numbered blocks, with two batches on the way: the
    /// next one is read before the last one is written.
    fn play(order: &Order, disk: &mut [usize]) {
        let blocks = |at: u64, len: u32| {
            let start = at as usize / BLOCK;
            start..start + len as usize / BLOCK
        };
        let mut read: Option<Vec<(Move, Vec<usize>)>> = None;
        for batch in &order.batches {
            let next = batch.iter().map(|one| (*one, disk[blocks(one.source, one.len)].to_vec()));
            let next = next.collect();
            for (one, bytes) in read.replace(next).into_iter().flatten() {
                disk[blocks(one.target, one.len)].copy_from_slice(&bytes);
            }
        }
        for (one, bytes) in read.into_iter().flatten() {
            disk[blocks(one.target, one.len)].copy_from_slice(&bytes);
        }
    }

    fn check(moves: &[Move], blocks: usize) -> Order {
        let order = order(moves.to_vec());
        let mut disk: Vec<_> = (0..blocks).collect();
        play(&order, &mut disk);
        for one in moves.iter().filter(|one| !order.given_up.contains(one)) {
            for n in 0..one.len as usize / BLOCK {
                let found = disk[one.target as usize / BLOCK + n];
                assert_eq!(found, one.source as usize / BLOCK + n, "{one:?}");
            }
        }
        for batch in &order.batches {
            assert!(batch.iter().map(Move::len).sum::<u64>() <= BATCH);
            assert!(batch.is_sorted_by_key(|one| one.target) && !batch.is_empty());
        }
        let kept: usize = order.batches.iter().map(Vec::len).sum();
        assert_eq!(kept + order.given_up.len(), moves.len());
        order
    }

    proptest! {
        #[test]
        fn no_source_is_written_over_before_it_is_read(
            lens in vec((1_usize..=256, any::<bool>()), 1..150),
            sources in vec(any::<u16>(), 150),
        ) {
            let total: usize = lens.iter().map(|(len, _)| len).sum();
            let (mut at, mut moves) = (0, Vec::new());
            for ((len, wanted), source) in lens.iter().zip(&sources) {
                if *wanted {
                    moves.push(a_move(*source as usize % (total - len + 1), at, *len));
                }
                at += len;
            }
            check(&moves, total);
        }
    }

    #[test]
    fn what_moves_up_is_moved_from_its_end() {
        let moves: Vec<_> = (0..100).map(|n| a_move(n * 256, n * 256 + 1, 256)).collect();
        let order = check(&moves, 100 * 256 + 1);
        assert!(order.given_up.is_empty());
        assert!(order.batches[0][0].target > order.batches[1][0].target);
    }

    #[test]
    fn what_moves_down_keeps_the_order_of_the_disk() {
        let moves: Vec<_> = (0..100).map(|n| a_move(n * 256 + 9, n * 256, 256)).collect();
        let order = check(&moves, 101 * 256);
        assert!(order.given_up.is_empty());
        let targets: Vec<_> = order.batches.iter().flatten().map(|one| one.target).collect();
        assert!(targets.is_sorted());
    }

    #[test]
    fn two_large_halves_change_places() {
        let half = 64;
        let moves: Vec<_> =
            (0..2 * half).map(|n| a_move((n + half) % (2 * half) * 256, n * 256, 256)).collect();
        assert!(check(&moves, 2 * half * 256).given_up.is_empty());
    }

    #[test]
    fn a_circle_that_no_memory_holds_costs_one_move() {
        let moves: Vec<_> = (0..100).map(|n| a_move((n + 1) % 100 * 256, n * 256, 256)).collect();
        assert_eq!(check(&moves, 100 * 256).given_up.len(), 1);
    }

    #[test]
    fn readers_are_found_where_they_read() {
        let moves = [a_move(10, 0, 2), a_move(11, 90, 4), a_move(40, 80, 1)];
        let readers = Readers::new(moves.iter());
        let overlap =
            |from: usize, to: usize| readers.overlap(&((from * BLOCK) as u64..(to * BLOCK) as u64));
        assert!(overlap(10, 11) && overlap(14, 15) && overlap(0, 41) && overlap(40, 90));
        assert!(!overlap(0, 10) && !overlap(15, 40) && !overlap(41, 99));
    }
}
