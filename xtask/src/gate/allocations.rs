//! An allocator that counts how often it was asked for memory, and whose own cost does not depend
//! on what was asked before: with the C library's, the search of its lists was all the noise in a
//! turn's count (± 0.6 %). Only xtask has it. What is freed is used again by whoever freed it, and
//! never given back: xtask does not run for long.

#![expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
#![expect(clippy::cast_ptr_alignment, reason = "every block is aligned to its size, 16 at least")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

static ASKED: AtomicU64 = AtomicU64::new(0);

/// Returns how often memory was asked for so far: new, or more of it.
pub(super) fn so_far() -> u64 {
    ASKED.load(Ordering::Relaxed)
}

/// The sizes that are handed out are powers of two, from 16 bytes.
const SMALLEST_BITS: u32 = 4;
/// What is larger than 64 KiB is left to the system.
const SIZES: usize = 13;
const LARGEST: usize = 1 << (SMALLEST_BITS as usize + SIZES - 1);
/// What is taken from the system at a time.
const CHUNK: usize = 1 << 20;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A thread's free blocks, as lists through the blocks themselves, and its chunk.
struct Shelf {
    free: [Cell<*mut u8>; SIZES],
    next: Cell<*mut u8>,
    left: Cell<usize>,
}

thread_local! {
    /// Has no destructor, so that it can be used until a thread's very end.
    static SHELF: Shelf = const {
        Shelf {
            free: [const { Cell::new(ptr::null_mut()) }; SIZES],
            next: Cell::new(ptr::null_mut()),
            left: Cell::new(0),
        }
    };
}

/// Returns the list for blocks of this layout, if it is not left to the system.
fn size_of(layout: Layout) -> Option<usize> {
    let bytes = layout.size().max(layout.align()).max(1 << SMALLEST_BITS);
    (bytes <= LARGEST)
        .then(|| (bytes.next_power_of_two().trailing_zeros() - SMALLEST_BITS) as usize)
}

impl Shelf {
    fn take(&self, size: usize) -> *mut u8 {
        let block = self.free[size].get();
        if !block.is_null() {
            // SAFETY: a block on the list is free, at least 16 bytes large and aligned to its size,
            // and begins with the pointer to the next one, which `put` wrote there.
            self.free[size].set(unsafe { block.cast::<*mut u8>().read() });
            return block;
        }
        let bytes = 1 << (size + SMALLEST_BITS as usize);
        // Blocks lie at multiples of their size.
        let skip = self.next.get().align_offset(bytes);
        if self.left.get() < skip.saturating_add(bytes) {
            let layout = Layout::from_size_align(CHUNK, LARGEST).expect("both are powers of two");
            // SAFETY: the layout is not empty.
            let chunk = unsafe { System.alloc(layout) };
            if chunk.is_null() {
                return chunk;
            }
            self.next.set(chunk);
            self.left.set(CHUNK);
            return self.cut(0, bytes);
        }
        self.cut(skip, bytes)
    }

    /// Cuts a block off the chunk, which is large enough.
    fn cut(&self, skip: usize, bytes: usize) -> *mut u8 {
        // SAFETY: `skip + bytes` are left of the chunk, as the caller has seen.
        let (block, next) = unsafe {
            let block = self.next.get().add(skip);
            (block, block.add(bytes))
        };
        self.next.set(next);
        self.left.set(self.left.get() - skip - bytes);
        block
    }

    fn put(&self, size: usize, block: *mut u8) {
        // SAFETY: the block is at least 16 bytes large, aligned to its size, and nobody's any more.
        unsafe { block.cast::<*mut u8>().write(self.free[size].get()) };
        self.free[size].set(block);
    }
}

// SAFETY: blocks of a list's size come from `Shelf`, which hands out each block once until it comes
// back, aligned to its size and so to any alignment that is not larger; all others are the system's.
// Which of both a block is follows from its layout, which `dealloc` and `realloc` are given again.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        match size_of(layout) {
            Some(size) => SHELF.with(|shelf| shelf.take(size)),
            // SAFETY: the caller keeps what `GlobalAlloc::alloc` asks of it.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match size_of(layout) {
            Some(size) => SHELF.with(|shelf| shelf.put(size, block)),
            // SAFETY: a block of this layout came from the system.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller promises that `bytes`, rounded up to the alignment, is a valid size.
        let new = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        match (size_of(layout), size_of(new)) {
            (None, None) => {
                ASKED.fetch_add(1, Ordering::Relaxed);
                // SAFETY: the block is the system's, and so is the new size's.
                unsafe { System.realloc(block, layout, bytes) }
            }
            (before, after) if before == after => {
                ASKED.fetch_add(1, Ordering::Relaxed);
                block
            }
            _ => {
                // SAFETY: the new layout is not empty; both blocks are at least as large as what is
                // copied, and do not overlap; the old one is the caller's to give back.
                unsafe {
                    let moved = self.alloc(new);
                    if !moved.is_null() {
                        ptr::copy_nonoverlapping(block, moved, layout.size().min(bytes));
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_keep_their_bytes_and_are_used_again() {
        for align in [1, 8, 64, 4096] {
            for bytes in [1, 16, 17, 1000, 4096, 65_536, 65_537, 300_000] {
                let layout = Layout::from_size_align(bytes, align).unwrap();
                // SAFETY: each block is written within its size, grown and given back once.
                unsafe {
                    let block = ALLOCATOR.alloc(layout);
                    assert_eq!(block.align_offset(align), 0, "{layout:?}");
                    block.write_bytes(7, bytes);
                    let grown = ALLOCATOR.realloc(block, layout, bytes * 3);
                    assert_eq!(grown.align_offset(align), 0, "{layout:?}");
                    assert!((0..bytes).all(|at| grown.add(at).read() == 7), "{layout:?}");
                    let layout = Layout::from_size_align(bytes * 3, align).unwrap();
                    ALLOCATOR.dealloc(grown, layout);
                    if bytes * 3 <= LARGEST {
                        let again = ALLOCATOR.alloc(layout);
                        assert_eq!(again, grown, "{layout:?}");
                        ALLOCATOR.dealloc(again, layout);
                    }
                }
            }
        }
    }

    #[test]
    fn two_blocks_never_share_a_byte() {
        let mut blocks: Vec<Vec<u8>> = (0..500usize).map(|n| vec![n as u8; n * 7 % 1500]).collect();
        blocks.retain(|block| block.len() % 3 > 0);
        blocks.extend((0..500usize).map(|n| vec![n as u8; n * 11 % 1500]));
        assert!(blocks.iter().all(|block| block.iter().all(|byte| *byte == block[0])));
    }
}
