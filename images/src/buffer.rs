//! Memory that the kernel accepts for direct I/O: its address is a multiple of 4096.
//!
//! Where it is large it stands on huge pages. A request for a MiB is then one stretch of memory
//! instead of 256, which every layer under us, down to the device, would pin, map and gather one
//! by one: a virtual disk read 1.1 GB/s into small pages and 2.7 GB/s into huge ones.

use std::{
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use nix::sys::mman::{MmapAdvise, madvise};

/// What direct I/O asks of addresses, lengths and offsets at most (a 4Kn sector, a page).
pub const ALIGNMENT: usize = 4096;

/// A huge page of x86-64, and of arm64 with pages of 4096 bytes.
const HUGE: usize = 2 << 20;

/// A byte buffer of fixed capacity whose first byte stands at a page boundary.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
    len: usize,
}

impl Buffer {
    /// A buffer of `capacity` bytes, all of them in view and zero. From 2 MiB on its address is
    /// a multiple of that, and as many huge pages as fit are asked for.
    pub fn new(capacity: usize) -> Self {
        let alignment = if capacity < HUGE { ALIGNMENT } else { HUGE };
        let mut memory = vec![0; capacity + alignment];
        // The vector never grows, so its address and this offset hold for its life.
        let start = memory.as_ptr().align_offset(alignment).min(alignment);
        ask_for_huge_pages(&mut memory[start..start + capacity / HUGE * HUGE]);
        Buffer { memory, start, capacity, len: capacity }
    }

    /// The most bytes it can show.
    pub fn capacity(&self) -> usize {
        self.capacity
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

/// Advice: a kernel without huge pages, or with none to spare, gives small ones.
#[expect(unsafe_code, reason = "madvise takes an address")]
fn ask_for_huge_pages(memory: &mut [u8]) {
    let at = NonNull::from(&mut *memory).cast();
    // SAFETY: this changes by what the kernel backs these bytes, which we have to ourselves, and
    // none of the bytes.
    let _ = unsafe { madvise(at, memory.len(), MmapAdvise::MADV_HUGEPAGE) };
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

    #[test]
    fn a_large_one_begins_on_a_huge_page_and_is_zero() {
        for capacity in [HUGE, 3 * HUGE + 4096] {
            let buffer = Buffer::new(capacity);
            assert_eq!(buffer.as_ptr() as usize % HUGE, 0);
            assert_eq!((buffer.len(), buffer.capacity()), (capacity, capacity));
            assert!(buffer.iter().all(|byte| *byte == 0));
        }
    }
}
