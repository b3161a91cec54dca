//! Memory that the kernel accepts for direct I/O: its address is a multiple of 4096.
//!
//! Safe code only: a vector with room to spare, and the offset in it where a page begins.

use std::ops::{Deref, DerefMut};

/// What direct I/O asks of addresses, lengths and offsets at most (a 4Kn sector, a page).
pub const ALIGNMENT: usize = 4096;

/// A byte buffer of fixed capacity whose first byte stands at a page boundary.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// A buffer of `capacity` bytes, all of them in view and zero.
    pub fn new(capacity: usize) -> Self {
        let memory = vec![0; capacity + ALIGNMENT];
        // The vector never grows, so its address and this offset hold for its life.
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Buffer { memory, start, len: capacity }
    }

    /// The most bytes it can show.
    pub fn capacity(&self) -> usize {
        self.memory.len() - ALIGNMENT
    }

    /// Shows the first `len` bytes, at most [`Buffer::capacity`]; what they hold is left over
    /// from earlier use.
    pub fn show(&mut self, len: usize) -> &mut [u8] {
        self.len = len.min(self.capacity());
        self
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_on_a_page_and_shows_what_is_asked() {
        for capacity in [1, 4096, 100_000] {
            let mut buffer = Buffer::new(capacity);
            assert_eq!(buffer.as_ptr() as usize % ALIGNMENT, 0);
            assert_eq!(buffer.show(capacity + 1).len(), capacity);
            assert_eq!(buffer.show(1).len(), 1);
        }
    }
}
