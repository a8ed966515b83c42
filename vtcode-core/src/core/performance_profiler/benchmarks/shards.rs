//! What the operations of one measurement are counted in. Each thread has a shard that it alone
//! writes, with plain loads and stores: a locked instruction alone takes longer than all that a
//! record does. A reader adds the shards up. Of threads that live at the same time 64 have shards of
//! their own; further ones share the last, one after the other.

use std::cell::Cell;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Mutex, OnceLock};

use super::super::histogram::{Histogram, Percentiles};
use super::{SAMPLES, lock};

/// Threads that have shards of their own.
const THREADS: usize = 64;
/// The number of a thread that has none: no shard has it.
const NONE: usize = usize::MAX;

static TAKEN: [AtomicBool; THREADS] = [const { AtomicBool::new(false) }; THREADS];

thread_local! {
    /// Which shards are this thread's, in all measurements. Apart from what gives it back, because
    /// what has nothing to drop is read without a look whether it is still there.
    static NUMBER: Cell<usize> = const { Cell::new(NONE) };
    static GIVES_BACK: GivesBack = const { GivesBack };
}

struct GivesBack;

impl Drop for GivesBack {
    fn drop(&mut self) {
        if let Some(taken) = TAKEN.get(NUMBER.replace(NONE)) {
            // Release: who has the number next sees what lies in its shards.
            taken.store(false, Release);
        }
    }
}

/// Takes a number for this thread until it ends; none where all are taken, or it ends just now.
#[cold]
fn take_number() -> Option<usize> {
    GIVES_BACK.try_with(|_| ()).ok()?;
    let free = |taken: &AtomicBool| taken.compare_exchange(false, true, Acquire, Relaxed).is_ok();
    let number = TAKEN.iter().position(free)?;
    NUMBER.set(number);
    Some(number)
}

/// The shards of a measurement.
pub(super) struct Shards {
    /// Counts the runs. A shard of another run is cleared by who writes it next.
    run: AtomicU64,
    /// The last one is for those without a number.
    by_number: [OnceLock<Box<Shard>>; THREADS + 1],
    turn: Mutex<()>,
}

/// What a run has recorded.
pub(super) struct Recorded {
    pub(super) operations: u64,
    pub(super) percentiles: Percentiles,
    /// All, in the order of each thread; of too many, an even choice.
    pub(super) samples_ns: Vec<u64>,
}

impl Default for Shards {
    fn default() -> Self {
        let by_number = [const { OnceLock::new() }; THREADS + 1];
        Self { run: AtomicU64::new(0), by_number, turn: Mutex::new(()) }
    }
}

impl Shards {
    /// Begins another run: what was recorded before no longer counts.
    pub(super) fn begin(&self) {
        self.run.fetch_add(1, Release);
    }

    #[inline]
    pub(super) fn record(&self, ns: u64) {
        match self.by_number.get(NUMBER.get()).and_then(OnceLock::get) {
            Some(shard) if shard.run.load(Relaxed) == self.run.load(Relaxed) => shard.add(ns),
            _ => self.record_otherwise(ns),
        }
    }

    /// Records the first operation of a thread in a run, and all of a thread without a number.
    #[cold]
    #[inline(never)]
    fn record_otherwise(&self, ns: u64) {
        let own = TAKEN.get(NUMBER.get()).map(|_| NUMBER.get()).or_else(take_number);
        let _turn = own.is_none().then(|| lock(&self.turn));
        let shard = self.by_number[own.unwrap_or(THREADS)].get_or_init(Box::default);
        shard.clear_for(self.run.load(Acquire));
        shard.add(ns);
    }

    /// Returns what the run has recorded so far. No other one begins meanwhile.
    pub(super) fn read(&self) -> Recorded {
        let run = self.run.load(Relaxed);
        let shards = self.by_number.iter().filter_map(OnceLock::get);
        let shards: Vec<&Shard> =
            shards.map(Box::as_ref).filter(|shard| shard.run.load(Acquire) == run).collect();
        let mut all = Histogram::default();
        for shard in &shards {
            all.add(&shard.histogram);
        }
        let counts: Vec<u64> = shards.iter().map(|shard| shard.recorded.load(Acquire)).collect();
        Recorded {
            operations: counts.iter().sum(),
            percentiles: all.percentiles(),
            samples_ns: samples(&shards, &counts),
        }
    }
}

/// What one thread has recorded. Two cache lines, as the processor fetches them in pairs.
#[repr(align(128))]
struct Shard {
    /// Of which run.
    run: AtomicU64,
    recorded: AtomicU64,
    histogram: Histogram,
    samples: Box<[AtomicU64]>,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            run: AtomicU64::new(0),
            recorded: AtomicU64::new(0),
            histogram: Histogram::default(),
            samples: (0..SAMPLES).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Shard {
    fn clear_for(&self, run: u64) {
        if self.run.load(Relaxed) != run {
            self.histogram.clear();
            self.recorded.store(0, Relaxed);
            // Release: who sees the run sees that the former one is gone.
            self.run.store(run, Release);
        }
    }

    #[inline]
    fn add(&self, ns: u64) {
        self.histogram.record_alone(ns);
        let n = self.recorded.load(Relaxed);
        let place = if n < SAMPLES as u64 {
            n as usize
        } else {
            // Each of the first n samples stays with the same chance; a hash is the lot.
            let lot = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((u128::from(lot) * (u128::from(n) + 1)) >> 64) as usize
        };
        if let Some(sample) = self.samples.get(place) {
            sample.store(ns, Relaxed);
        }
        // Release: a sample that counts is there.
        self.recorded.store(n + 1, Release);
    }
}

/// Puts the samples of all shards into one row, each thread's spread over all of it, as they were
/// taken side by side. Of more than are kept, each thread gives its share.
fn samples(shards: &[&Shard], counts: &[u64]) -> Vec<u64> {
    let all: u64 = counts.iter().sum();
    let share = |before: u64| {
        if all <= SAMPLES as u64 {
            before
        } else {
            (u128::from(before) * SAMPLES as u128 / u128::from(all)) as u64
        }
    };
    let mut row: Vec<(f64, u64)> = Vec::with_capacity(SAMPLES.min(all as usize));
    let mut before = 0;
    for (shard, count) in shards.iter().zip(counts) {
        let wanted = (share(before + count) - share(before)) as usize;
        before += count;
        let kept = SAMPLES.min(*count as usize);
        row.extend((0..wanted).map(|n| {
            let sample = shard.samples[n * kept / wanted].load(Relaxed);
            ((n as f64 + 0.5) / wanted as f64, sample)
        }));
    }
    row.sort_by(|a, b| a.0.total_cmp(&b.0));
    row.into_iter().map(|(_, sample)| sample).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// One test at a time: the numbers are the process's.
    static ALONE: Mutex<()> = Mutex::new(());

    fn threads(count: u64, work: impl Fn(u64) + Sync) {
        std::thread::scope(|scope| {
            let work = &work;
            let all: Vec<_> = (0..count).map(|n| scope.spawn(move || work(n))).collect();
            // A scope does not wait until the threads' own things are dropped; `join` does.
            for thread in all {
                thread.join().unwrap();
            }
        });
    }

    #[test]
    fn more_threads_than_shards_lose_nothing() {
        let _alone = lock(&ALONE);
        let (shards, all) = (Shards::default(), THREADS as u64 + 20);
        shards.begin();
        let barrier = Barrier::new(all as usize);
        threads(all, |thread| {
            shards.record(1);
            // Nobody ends, and gives his number to another, before all are there.
            barrier.wait();
            (1..500).for_each(|n| shards.record(n + thread));
        });
        let found = shards.read();
        assert_eq!((found.operations, found.percentiles.count), (500 * all, 500 * all));
        assert_eq!(found.percentiles.max.as_nanos() as u64, 499 + all - 1);
        assert_eq!(found.samples_ns.len(), SAMPLES);
    }

    #[test]
    fn a_run_holds_nothing_of_the_one_before_whoever_recorded_it() {
        let _alone = lock(&ALONE);
        let shards = Shards::default();
        for run in 1..=20 {
            shards.begin();
            // Ever shorter, so that the longest is this run's own.
            let ns = 1_000_000 / run;
            threads(5, |_| (0..run).for_each(|_| shards.record(ns)));
            let found = shards.read();
            assert_eq!((found.operations, found.percentiles.count), (5 * run, 5 * run));
            assert_eq!(found.samples_ns, vec![ns; 5 * run as usize]);
            assert_eq!(found.percentiles.max.as_nanos(), u128::from(ns));
        }
        shards.begin();
        assert_eq!(shards.read().operations, 0);
    }

    #[test]
    fn numbers_come_back_when_threads_end() {
        let _alone = lock(&ALONE);
        let shards = Shards::default();
        shards.begin();
        for _ in 0..=THREADS {
            threads(1, |_| shards.record(1));
        }
        assert_eq!(shards.read().operations, THREADS as u64 + 1);
        // Other tests hold some of them, but not most.
        let used = shards.by_number.iter().filter(|shard| shard.get().is_some()).count();
        assert!(used <= THREADS / 2, "{used} shards for one thread after the other");
    }

    #[test]
    fn each_thread_gives_its_share_of_the_samples_spread_over_all_of_the_time() {
        let _alone = lock(&ALONE);
        let shards = Shards::default();
        shards.begin();
        let barrier = Barrier::new(2);
        threads(2, |thread| {
            barrier.wait();
            (0..3000 * (1 + 2 * thread)).for_each(|_| shards.record(1 + thread));
            barrier.wait();
        });
        let found = shards.read().samples_ns;
        let of_second = |part: &[u64]| part.iter().filter(|ns| **ns == 2).count();
        assert_eq!((found.len(), of_second(&found)), (SAMPLES, SAMPLES * 3 / 4));
        assert_eq!(of_second(&found[..SAMPLES / 2]), SAMPLES * 3 / 8);
    }
}
