//! Memory that goes back to the kernel when it is dropped.

/// Blocks of so many bytes and more are mappings of their own. Frames of packs, which are smaller,
/// come and go too fast for that.
const OWN: i32 = 2 << 20;

/// Has large blocks given back at once. Else glibc, once it saw one of them go, takes the next ones
/// from a heap, whose holes stay (mallopt(3), `M_MMAP_THRESHOLD`): a writer's memory would be that
/// of a part of an image twice.
pub(crate) fn give_back() {
    #[expect(unsafe_code, reason = "std has no word with the allocator")]
    // SAFETY: nothing but an allocator's setting; no other thread is there yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN);
    }
}
