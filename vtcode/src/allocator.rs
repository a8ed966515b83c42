//! The program's allocator, which counts while `vtcode bench` asks it to: one test of a flag is all
//! that an allocation costs otherwise.

#![expect(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[cfg(feature = "mimalloc")]
type Inner = mimalloc::MiMalloc;
#[cfg(feature = "mimalloc")]
const INNER: Inner = mimalloc::MiMalloc;
#[cfg(not(feature = "mimalloc"))]
type Inner = System;
#[cfg(not(feature = "mimalloc"))]
const INNER: Inner = System;

struct Counting(Inner);

#[global_allocator]
static ALLOCATOR: Counting = Counting(INNER);

static COUNTING: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Counts what all threads ask for while `work` runs.
pub(crate) fn counted(work: &mut dyn FnMut()) -> u64 {
    let before = COUNT.load(Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    work();
    COUNTING.store(false, Ordering::Relaxed);
    COUNT.load(Ordering::Relaxed) - before
}

#[inline]
fn note() {
    if COUNTING.load(Ordering::Relaxed) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the inner allocator with what it came with; the count is beside it.
unsafe impl GlobalAlloc for Counting {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps what `GlobalAlloc` asks of it, here and below.
        unsafe { self.0.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note();
        // SAFETY: as above; the block came from the inner allocator, as all do.
        unsafe { self.0.realloc(block, layout, bytes) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.0.dealloc(block, layout) }
    }
}

/// Grows a buffer as `Vec` does, step by step, but with the C library's allocator: the other one
/// that a pool is held against.
pub(crate) fn grow_with_the_system(step: &[u8], times: usize) {
    let (mut block, mut room, mut length) = (ptr::null_mut::<u8>(), 0usize, 0usize);
    let layout = |room: usize| Layout::array::<u8>(room).expect("a kilobyte or so");
    for _ in 0..times {
        let needed = length + step.len();
        if needed > room {
            let larger = needed.max(2 * room);
            // SAFETY: no layout is empty, as a step is not; the block came from `System` with the
            // room that is told.
            let new = unsafe {
                if block.is_null() {
                    System.alloc(layout(larger))
                } else {
                    System.realloc(block, layout(room), larger)
                }
            };
            if new.is_null() {
                break;
            }
            (block, room) = (new, larger);
        }
        // SAFETY: there is room for the step behind `length`, and it lies elsewhere.
        unsafe { ptr::copy_nonoverlapping(step.as_ptr(), block.add(length), step.len()) };
        length = needed;
        black_box(block);
    }
    if !block.is_null() {
        // SAFETY: it came from `System` with this room.
        unsafe { System.dealloc(block, layout(room)) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    /// A byte in each of many large blocks must not cost what the blocks would hold.
    #[test]
    #[cfg(feature = "mimalloc")]
    fn no_memory_is_held_in_huge_pages() {
        const MODE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
        let mode = fs::read_to_string(MODE).unwrap_or_default();
        if !mode.contains("[madvise]") {
            eprintln!("SKIPPED: the kernel waits for nobody to ask: {}", mode.trim());
            return;
        }
        let mut large = vec![0u8; 64 << 20];
        large.iter_mut().step_by(1 << 20).for_each(|byte| *byte = 1);
        let held = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let huge = held.lines().find(|line| line.starts_with("AnonHugePages:")).unwrap();
        assert_eq!(huge.split_whitespace().nth(1), Some("0"), "{huge}, {} bytes", large.len());
    }
}
