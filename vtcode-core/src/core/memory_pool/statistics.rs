//! What became of the buffers: each thread counts in a slot of its own, and a reader adds them up.

use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// Threads that are counted at the same time; tokio's blocking threads are at most as many. What
/// further ones do is done all the same, and counted nowhere.
const THREADS: usize = 512;

/// What became of buffers, counted one by one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatistics {
    /// Given out with the room that a former user gave it.
    pub reused: u64,
    /// Given out without any: there was none.
    pub fresh: u64,
    /// Taken back and kept.
    pub kept: u64,
    /// Taken back and dropped, because enough is kept.
    pub full: u64,
    /// Taken back and dropped, because it alone is too large.
    pub oversize: u64,
    /// Lies on the shelves now.
    pub held: usize,
    /// The bytes that these have room for.
    pub held_bytes: usize,
}

/// A number that one thread alone writes, so that adding is a plain load and store.
#[derive(Debug)]
pub(super) struct Count(AtomicU64);

impl Count {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(super) fn add_one(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One thread's counts. Two cache lines: the processor fetches lines in pairs, and neighbours
/// must not slow each other down.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Slot {
    taken: AtomicBool,
    pub(super) reused: Count,
    pub(super) fresh: Count,
    pub(super) kept: Count,
    pub(super) full: Count,
    pub(super) oversize: Count,
    /// Kept, and dropped again without a user: so what lies there need not be told each time.
    shed: Count,
    held_bytes: AtomicUsize,
}

impl Slot {
    const fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            reused: Count::new(),
            fresh: Count::new(),
            kept: Count::new(),
            full: Count::new(),
            oversize: Count::new(),
            shed: Count::new(),
            held_bytes: AtomicUsize::new(0),
        }
    }

    #[inline]
    pub(super) fn holds_bytes(&self, bytes: usize) {
        self.held_bytes.store(bytes, Relaxed);
    }

    pub(super) fn shed(&self, buffers: usize) {
        self.shed.0.store(self.shed.read() + buffers as u64, Relaxed);
        self.holds_bytes(0);
    }

    pub(super) fn read(&self) -> PoolStatistics {
        let (reused, kept) = (self.reused.read(), self.kept.read());
        // Another thread may be between two of them.
        let held = kept.saturating_sub(reused + self.shed.read()) as usize;
        PoolStatistics {
            reused,
            fresh: self.fresh.read(),
            kept,
            full: self.full.read(),
            oversize: self.oversize.read(),
            held,
            held_bytes: self.held_bytes.load(Relaxed),
        }
    }
}

/// A slot for each thread that came here and has not ended.
#[derive(Debug)]
pub(super) struct Slots {
    slots: [Slot; THREADS],
    pub(super) uncounted: Slot,
}

impl Slots {
    #[expect(clippy::large_stack_arrays, reason = "made when it is compiled, for a static")]
    pub(super) const fn new() -> Self {
        Self { slots: [const { Slot::new() }; THREADS], uncounted: Slot::new() }
    }

    /// Returns a slot that nobody else writes; once all are taken, the one that is not counted.
    pub(super) fn claim(&'static self) -> &'static Slot {
        let free =
            |slot: &&Slot| slot.taken.compare_exchange(false, true, Acquire, Relaxed).is_ok();
        self.slots.iter().find(free).unwrap_or(&self.uncounted)
    }

    /// Gives a slot to whoever comes next. Its counts stay: they are part of the sum.
    pub(super) fn leave(&self, slot: &Slot) {
        if !std::ptr::eq(slot, &raw const self.uncounted) {
            slot.taken.store(false, Release);
        }
    }

    pub(super) fn sum(&self) -> PoolStatistics {
        let mut sum = PoolStatistics::default();
        for slot in &self.slots {
            let PoolStatistics { reused, fresh, kept, full, oversize, held, held_bytes } =
                slot.read();
            sum.reused += reused;
            sum.fresh += fresh;
            sum.kept += kept;
            sum.full += full;
            sum.oversize += oversize;
            sum.held += held;
            sum.held_bytes += held_bytes;
        }
        sum
    }
}
