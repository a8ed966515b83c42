//! A buffer that grows as `Vec<u8>` does, from an allocator that is named: so one process can hold
//! the pool against two allocators in turns.
#![expect(unsafe_code, reason = "it calls allocators by name")]

use std::alloc::{GlobalAlloc, Layout};

/// Bytes from the allocator `A`.
pub(crate) struct Grown<'a, A: GlobalAlloc> {
    allocator: &'a A,
    start: *mut u8,
    room: usize,
    len: usize,
}

impl<'a, A: GlobalAlloc> Grown<'a, A> {
    pub(crate) fn new(allocator: &'a A) -> Self {
        Self { allocator, start: std::ptr::null_mut(), room: 0, len: 0 }
    }

    #[inline]
    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        if self.room - self.len < bytes.len() {
            self.grow(self.len + bytes.len());
        }
        // SAFETY: `grow` made room for them behind `len`, and nobody else has the block.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(self.len), bytes.len());
        }
        self.len += bytes.len();
    }

    #[inline(never)]
    fn grow(&mut self, needed: usize) {
        // As `Vec` does: double, and at least 8.
        let room = needed.max(self.room * 2).max(8);
        let layout = |bytes| Layout::array::<u8>(bytes).expect("the bench asks for little");
        self.start = if self.room == 0 {
            // SAFETY: `room` is not zero.
            unsafe { self.allocator.alloc(layout(room)) }
        } else {
            // SAFETY: the block is from this allocator, with this layout; `room` is not zero.
            unsafe { self.allocator.realloc(self.start, layout(self.room), room) }
        };
        assert!(!self.start.is_null(), "there is memory");
        self.room = room;
    }
}

impl<A: GlobalAlloc> AsRef<[u8]> for Grown<'_, A> {
    fn as_ref(&self) -> &[u8] {
        if self.room == 0 {
            return &[];
        }
        // SAFETY: the first `len` bytes were written.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<A: GlobalAlloc> Drop for Grown<'_, A> {
    fn drop(&mut self) {
        if self.room > 0 {
            let layout = Layout::array::<u8>(self.room).expect("it was allocated");
            // SAFETY: the block is from this allocator, with this layout.
            unsafe { self.allocator.dealloc(self.start, layout) }
        }
    }
}
