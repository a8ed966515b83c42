//! An allocator that counts: each thread sees the allocations it made itself, so that tests which
//! run beside each other do not count each other's.
#![expect(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

thread_local! {
    // Neither needs to be made nor to be dropped, so it can be used from within an allocator.
    static COUNTED: Cell<Allocations> = const { Cell::new(Allocations { count: 0, bytes: 0 }) };
}

/// What a thread asked an allocator for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allocations {
    /// How often: a growing buffer counts each time that it grows.
    pub count: u64,
    /// The bytes asked for; what a buffer grows by counts, not what it has.
    pub bytes: u64,
}

impl Allocations {
    /// Returns what this thread asked for since it started; all zero without [`Counting`].
    pub fn of_this_thread() -> Self {
        COUNTED.get()
    }

    /// Runs `work` and returns what this thread asked for meanwhile.
    pub fn during<T>(work: impl FnOnce() -> T) -> (T, Self) {
        let before = Self::of_this_thread();
        let result = work();
        let after = Self::of_this_thread();
        (result, Self { count: after.count - before.count, bytes: after.bytes - before.bytes })
    }
}

/// Another allocator, counted. A test's or a bench's own program makes it the global one:
///
/// ```
/// use vtcode_testkit::{Allocations, Counting};
///
/// #[global_allocator]
/// static ALLOCATOR: Counting<std::alloc::System> = Counting(std::alloc::System);
///
/// let (text, asked) = Allocations::during(|| "text".to_owned());
/// assert_eq!((asked.count, asked.bytes), (1, 4));
/// # drop(text);
/// ```
#[derive(Debug)]
pub struct Counting<A>(pub A);

fn count(bytes: usize) {
    let Allocations { count, bytes: before } = COUNTED.get();
    COUNTED.set(Allocations { count: count + 1, bytes: before + bytes as u64 });
}

// SAFETY: every call goes to the other allocator as it came; counting neither allocates nor panics.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps to the same contract.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the same contract.
        unsafe { self.0.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps to the same contract.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size.saturating_sub(layout.size()));
        // SAFETY: the caller keeps to the same contract.
        unsafe { self.0.realloc(block, layout, new_size) }
    }
}
