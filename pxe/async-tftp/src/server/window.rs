//! Which blocks are under way: a pure machine that reads no clock and sends nothing.
//!
//! Blocks are counted from 1 without end and named on the wire by their lower 16 bits. An
//! acknowledgement of the block *before* the window is what RFC 7440 has a receiver send whose
//! first block was lost, and it is also what a repeated or late acknowledgement looks like.
//! It is believed once after a first sending; after a repetition only when a round trip has gone
//! by, as what comes before that answers the first sending; and only a few times without
//! progress. With a window of one it is never believed: answering it is the sorcerer's
//! apprentice of RFC 1123, 4.2.3.1, and the timer repairs that loss.
//!
//! A loss halves how many blocks leave back to back, and windows without loss double it again:
//! the receive ring of a boot ROM can be smaller than the window that it asked for, and a
//! window cannot simply be made smaller, as the receiver answers only where the agreed one ends.

use std::{collections::VecDeque, io, time::Duration, time::Instant};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Opcode and block number before the data.
const HEADER: usize = 4;
const OPCODE_DATA: [u8; 2] = [0, 3];
/// So many windows without loss, and twice as many blocks leave back to back.
const CLEAN_WINDOWS: u32 = 8;

/// What an acknowledgement meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// The window moved.
    Progress,
    /// The window is to be sent again, now.
    Again,
    /// Nothing new.
    Nothing,
}

/// The blocks that are not acknowledged yet.
#[derive(Debug)]
pub(crate) struct Window {
    block_size: usize,
    size: usize,
    /// Blocks from `base` on, as DATA packets.
    packets: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    /// The first block that is not acknowledged.
    base: u64,
    /// The last block that was ever sent.
    reached: u64,
    /// How many of `packets` were sent in this round.
    sent: usize,
    /// Whether the reader is at its end.
    ended: bool,
    /// How many blocks may leave back to back.
    burst: usize,
    clean: u32,
    /// Whether this round repeats blocks that were sent before.
    repeated: bool,
    /// When this round began, and the shortest answer to a round so far.
    began: Option<Instant>,
    round_trip: Option<Duration>,
    /// How often this window may still be repeated because of an acknowledgement.
    early: u32,
    early_limit: u32,
}

impl Window {
    pub(crate) fn new(block_size: usize, size: usize, early_limit: u32) -> Self {
        Window {
            block_size,
            size,
            packets: VecDeque::with_capacity(size),
            spare: Vec::new(),
            base: 1,
            reached: 0,
            sent: 0,
            ended: false,
            burst: size,
            clean: 0,
            repeated: false,
            began: None,
            round_trip: None,
            early: early_limit,
            early_limit,
        }
    }

    /// Reads until the window is full or the file at its end.
    pub(crate) async fn fill<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> io::Result<()> {
        while !self.ended && self.packets.len() < self.size {
            let block = self.base + self.packets.len() as u64;
            let mut packet = self.spare.pop().unwrap_or_default();
            packet.resize(HEADER + self.block_size, 0);
            packet[..2].copy_from_slice(&OPCODE_DATA);
            packet[2..HEADER].copy_from_slice(&(block as u16).to_be_bytes());
            let mut len = HEADER;
            while len < packet.len() {
                match reader.read(&mut packet[len..]).await? {
                    0 => break,
                    read => len += read,
                }
            }
            self.ended = len < packet.len();
            packet.truncate(len);
            self.packets.push_back(packet);
        }
        Ok(())
    }

    /// Whether the last block was acknowledged.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended && self.packets.is_empty()
    }

    /// The packets that are to leave now, back to back; empty when the round is over.
    pub(crate) fn due(&self) -> impl ExactSizeIterator<Item = &Vec<u8>> {
        let end = (self.sent + self.burst).min(self.packets.len());
        self.packets.range(self.sent..end)
    }

    /// Whether each block waits for its own acknowledgement.
    pub(crate) fn is_lock_step(&self) -> bool {
        self.size == 1
    }

    /// Whether all of this round was sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.sent == self.packets.len()
    }

    /// Notes that what was [due](Self::due) left at `now`.
    pub(crate) fn left(&mut self, now: Instant) {
        if self.sent == 0 {
            self.repeated = self.reached >= self.base;
            self.began = Some(now);
        }
        let due = self.due().len();
        self.sent += due;
        self.reached = self.reached.max(self.base + self.sent as u64 - 1);
    }

    /// Takes an acknowledgement that came at `now`.
    pub(crate) fn acknowledge(&mut self, id: u16, now: Instant) -> Ack {
        let ahead = u64::from(id.wrapping_sub(self.base as u16));
        if self.base + ahead <= self.reached {
            self.advance(ahead as usize + 1, now);
            return Ack::Progress;
        }
        if ahead == u64::from(u16::MAX) && self.is_first_lost(now) {
            self.early -= 1;
            self.repeat();
            return Ack::Again;
        }
        Ack::Nothing
    }

    /// Has the window sent again from its first block.
    pub(crate) fn repeat(&mut self) {
        self.sent = 0;
        self.clean = 0;
        self.burst = (self.burst / 2).max(1);
    }

    /// The shortest time in which this client answered so far.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Notes how long a client took to answer.
    pub(crate) fn answered_in(&mut self, time: Duration) {
        self.round_trip = Some(self.round_trip.map_or(time, |known| known.min(time)));
    }

    fn advance(&mut self, blocks: usize, now: Instant) {
        let whole = self.base + blocks as u64 > self.reached;
        if let (true, false, Some(began)) = (whole, self.repeated, self.began) {
            self.answered_in(now.saturating_duration_since(began));
        }
        self.spare.extend(self.packets.drain(..blocks.min(self.packets.len())));
        self.base += blocks as u64;
        self.early = self.early_limit;
        self.sent = 0;
        if !whole {
            self.repeat();
        } else if self.burst < self.size {
            self.clean += 1;
            if self.clean == CLEAN_WINDOWS {
                self.clean = 0;
                self.burst = (self.burst * 2).min(self.size);
            }
        }
    }

    fn is_first_lost(&self, now: Instant) -> bool {
        let (Some(began), true) = (self.began, self.size > 1 && self.early > 0) else {
            return false;
        };
        if self.reached < self.base || self.sent == 0 {
            return false;
        }
        let answers_this =
            now.saturating_duration_since(began) >= self.round_trip.unwrap_or_default();
        answers_this || !self.repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    async fn window(size: usize, bytes: usize) -> (Window, io::Cursor<Vec<u8>>) {
        let mut reader = io::Cursor::new((0..bytes).map(|at| at as u8).collect::<Vec<_>>());
        let mut window = Window::new(8, size, 3);
        window.fill(&mut reader).await.unwrap();
        (window, reader)
    }

    fn ids(window: &Window) -> Vec<u16> {
        window.due().map(|packet| u16::from_be_bytes([packet[2], packet[3]])).collect()
    }

    #[tokio::test]
    async fn a_file_of_whole_blocks_ends_with_an_empty_one() {
        for (bytes, blocks) in [(0, 1), (1, 1), (7, 1), (8, 2), (9, 2), (16, 3)] {
            let (mut window, mut reader) = window(1, bytes).await;
            for block in 1..=blocks {
                assert_eq!(ids(&window), [block]);
                assert!(!window.is_complete());
                window.left(Instant::now());
                assert_eq!(window.acknowledge(block, Instant::now()), Ack::Progress);
                window.fill(&mut reader).await.unwrap();
            }
            assert!(window.is_complete(), "{bytes} bytes");
        }
    }

    #[tokio::test]
    async fn a_repeated_acknowledgement_sends_nothing_again_in_lock_step() {
        let (mut window, mut reader) = window(1, 100).await;
        let now = Instant::now();
        window.left(now);
        assert_eq!(window.acknowledge(1, now), Ack::Progress);
        window.fill(&mut reader).await.unwrap();
        window.left(now);
        for after in [0, 1, 500, 999] {
            assert_eq!(window.acknowledge(1, now + MS * after), Ack::Nothing);
            assert!(window.is_sent());
        }
    }

    #[tokio::test]
    async fn a_lost_first_block_is_sent_again_at_once_but_not_for_ever() {
        let (mut window, _) = window(4, 100).await;
        let mut now = Instant::now();
        window.answered_in(MS);
        window.left(now);
        now += MS;
        assert_eq!(window.acknowledge(0, now), Ack::Again);
        while !window.is_sent() {
            window.left(now);
        }
        // The other blocks of the first sending have it acknowledge twice more, at once.
        assert_eq!(window.acknowledge(0, now), Ack::Nothing);
        assert_eq!(window.acknowledge(0, now + MS / 2), Ack::Nothing);
        let mut again = 1;
        for _ in 0..100 {
            now += MS * 2;
            if window.acknowledge(0, now) == Ack::Again {
                again += 1;
                while !window.is_sent() {
                    window.left(now);
                }
            }
        }
        assert_eq!(again, 3);
    }

    #[tokio::test]
    async fn a_hole_moves_the_window_to_it_and_bursts_shrink_and_grow() {
        let (mut window, mut reader) = window(4, 4000).await;
        let now = Instant::now();
        assert_eq!(ids(&window), [1, 2, 3, 4]);
        window.left(now);
        assert_eq!(window.acknowledge(2, now), Ack::Progress);
        window.fill(&mut reader).await.unwrap();
        assert_eq!(ids(&window), [3, 4]);
        window.left(now);
        assert_eq!(ids(&window), [5, 6]);
        window.left(now);
        let mut last = 6;
        for _ in 0..CLEAN_WINDOWS {
            assert_eq!(window.acknowledge(last, now), Ack::Progress);
            window.fill(&mut reader).await.unwrap();
            while !window.is_sent() {
                window.left(now);
            }
            last += 4;
        }
        assert_eq!(window.burst, 4);
    }

    #[tokio::test]
    async fn blocks_never_sent_cannot_be_acknowledged() {
        let (mut window, _) = window(4, 4000).await;
        let now = Instant::now();
        for id in [0, 1, 4, u16::MAX] {
            assert_eq!(window.acknowledge(id, now), Ack::Nothing);
        }
        window.left(now);
        for id in [5, 6, 0x8000, 0xfffe] {
            assert_eq!(window.acknowledge(id, now), Ack::Nothing);
        }
    }

    #[tokio::test]
    async fn block_numbers_roll_over_to_zero() {
        let (mut window, mut reader) = window(16, 8 * 70_000).await;
        let now = Instant::now();
        let mut expected = 0u16;
        while !window.is_complete() {
            for id in ids(&window) {
                expected = expected.wrapping_add(1);
                assert_eq!(id, expected);
            }
            window.left(now);
            assert_eq!(window.acknowledge(expected, now), Ack::Progress);
            window.fill(&mut reader).await.unwrap();
        }
        assert_eq!(expected, 70_001u32 as u16);
    }
}
