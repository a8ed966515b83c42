//! How often which duration occurred: recording is one relaxed atomic add, reading gives
//! percentiles with an error of at most 1 %. Log-linear buckets: 64 to each doubling.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets to each doubling: a bucket is at most 1/64 of its value wide, so its middle is off by
/// less than 0.8 %.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Up to 2^41 ns, which is 36 minutes; what is longer counts as that.
const DOUBLINGS: u32 = 41;
const BUCKETS: usize = (STEPS as usize) * (DOUBLINGS - STEP_BITS + 1) as usize;

/// A histogram of durations that any number of threads record into. It counts in buckets, 64 to
/// each doubling; what is longer than 2^41 ns, some 36 minutes, counts as that.
#[derive(Debug)]
pub struct Histogram {
    /// As many as a number from [`bucket`] can name, so that nothing is checked.
    buckets: Box<[AtomicU64; BUCKETS]>,
    max_ns: AtomicU64,
}

/// The usual percentiles, each off by at most 1 %: the middle of a bucket that is at most 1/64
/// of its value wide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// How many were recorded.
    pub count: u64,
    /// Half took at most this.
    pub p50: Duration,
    /// 90 of 100 took at most this.
    pub p90: Duration,
    /// 95 of 100 took at most this.
    pub p95: Duration,
    /// 99 of 100 took at most this.
    pub p99: Duration,
    /// The longest, exactly.
    pub max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: buckets(|_| 0), max_ns: AtomicU64::new(0) }
    }
}

impl Clone for Histogram {
    fn clone(&self) -> Self {
        let at = |n: usize| self.buckets[n].load(Ordering::Relaxed);
        Self { buckets: buckets(at), max_ns: AtomicU64::new(self.max_ns.load(Ordering::Relaxed)) }
    }
}

impl Histogram {
    /// Records one duration.
    #[inline]
    pub fn record(&self, duration: Duration) {
        let ns = nanoseconds(duration);
        self.buckets[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        // Reading is much cheaper than `fetch_max`, and almost always enough.
        if ns > self.max_ns.load(Ordering::Relaxed) {
            self.max_ns.fetch_max(ns, Ordering::Relaxed);
        }
    }

    /// Records one duration where no other thread does: a plain load and store, no locked
    /// instruction. What two threads record at once this way may be lost.
    #[inline]
    pub(super) fn record_alone(&self, ns: u64) {
        let bucket = &self.buckets[bucket(ns)];
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        if ns > self.max_ns.load(Ordering::Relaxed) {
            self.max_ns.store(ns, Ordering::Relaxed);
        }
    }

    /// Adds what another one has recorded.
    pub(super) fn add(&mut self, other: &Self) {
        for (own, other) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *own.get_mut() += other.load(Ordering::Relaxed);
        }
        let max_ns = self.max_ns.get_mut();
        *max_ns = (*max_ns).max(other.max_ns.load(Ordering::Relaxed));
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for bucket in self.buckets.iter() {
            bucket.store(0, Ordering::Relaxed);
        }
        self.max_ns.store(0, Ordering::Relaxed);
    }

    /// Returns the percentiles of what was recorded so far.
    pub fn percentiles(&self) -> Percentiles {
        let counts = || self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let count: u64 = counts().sum();
        let max = self.max_ns.load(Ordering::Relaxed);
        // The smallest values that these shares of all are at most.
        let ranks = [50, 90, 95, 99].map(|part| (count * part).div_ceil(100).max(1));
        let (mut found, mut known, mut below) = ([Duration::ZERO; 4], 0, 0);
        // They are read where they lie and in one walk, for each request asks: what is recorded
        // meanwhile makes them more, so that each rank is found.
        for (bucket, n) in counts().enumerate().filter(|(_, n)| *n > 0) {
            below += n;
            while known < ranks.len() && below >= ranks[known] {
                found[known] = Duration::from_nanos(middle(bucket).min(max));
                known += 1;
            }
            if known == ranks.len() {
                break;
            }
        }
        let [p50, p90, p95, p99] = found;
        Percentiles { count, p50, p90, p95, p99, max: Duration::from_nanos(max) }
    }
}

/// Returns a duration in nanoseconds, at most as many as a number holds.
#[inline]
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(duration.subsec_nanos()))
}

#[inline]
fn bucket(ns: u64) -> usize {
    let ns = ns.min((1 << DOUBLINGS) - 1);
    // The first two rows of 64 are as fine as the numbers themselves.
    let doubling = (ns | STEPS).ilog2() - STEP_BITS;
    ((doubling << STEP_BITS) as usize) + (ns >> doubling) as usize
}

fn buckets(count: impl Fn(usize) -> u64) -> Box<[AtomicU64; BUCKETS]> {
    let all: Box<[AtomicU64]> = (0..BUCKETS).map(|n| AtomicU64::new(count(n))).collect();
    all.try_into().expect("there are as many")
}

fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let (doubling, step) = ((bucket - STEPS) / STEPS, bucket % STEPS);
    let (start, width) = ((STEPS + step) << doubling, 1 << doubling);
    start + width / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_recorded_is_all_zero() {
        assert_eq!(Histogram::default().percentiles(), Percentiles::default());
    }

    proptest! {
        /// Against the dullest model: the sorted list.
        #[test]
        fn percentiles_are_within_one_percent_of_the_sorted_list(
            mut all in proptest::collection::vec(0u64..(1 << 40), 1..200)
        ) {
            let histogram = Histogram::default();
            for ns in &all {
                histogram.record(Duration::from_nanos(*ns));
            }
            all.sort_unstable();
            let exact = |hundredths: usize| all[(all.len() * hundredths).div_ceil(100) - 1] as f64;
            let found = histogram.percentiles();
            for (found, exact) in
                [(found.p50, exact(50)), (found.p95, exact(95)), (found.p99, exact(99))]
            {
                let found = found.as_nanos() as f64;
                prop_assert!((found - exact).abs() <= exact * 0.01, "{found} for {exact}");
            }
            prop_assert_eq!(found.max.as_nanos(), u128::from(*all.last().unwrap()));
            prop_assert_eq!(found.count, all.len() as u64);
        }
    }

    proptest! {
        /// Against the crate that everybody uses.
        #[test]
        fn percentiles_are_within_one_percent_of_hdrhistograms(
            all in proptest::collection::vec(prop_oneof![1u64..5_000, 1_000u64..(1 << 40)], 1..300)
        ) {
            let histogram = Histogram::default();
            let mut other = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 1 << 41, 4).unwrap();
            for ns in &all {
                histogram.record(Duration::from_nanos(*ns));
                other.record(*ns).unwrap();
            }
            let found = histogram.percentiles();
            for (found, share) in
                [(found.p50, 0.5), (found.p90, 0.9), (found.p95, 0.95), (found.p99, 0.99)]
            {
                let (found, other) = (found.as_nanos() as f64, other.value_at_quantile(share) as f64);
                // Its own error is one in ten thousand.
                prop_assert!((found - other).abs() <= other * 0.01 + 1.0, "{found} for {other}");
            }
        }
    }

    #[test]
    fn one_that_a_thread_has_alone_counts_the_same_and_can_be_added() {
        let (shared, alone) = (Histogram::default(), Histogram::default());
        for ns in (0..40).map(|n| 3u64.pow(n)) {
            shared.record(Duration::from_nanos(ns));
            alone.record_alone(ns);
        }
        let found = shared.percentiles();
        assert_eq!(alone.percentiles(), found);
        let mut both = shared.clone();
        both.add(&alone);
        assert_eq!(both.percentiles(), Percentiles { count: 80, ..found });
    }

    #[test]
    fn the_longest_durations_do_not_leave_the_table() {
        let histogram = Histogram::default();
        histogram.record(Duration::MAX);
        assert_eq!(histogram.percentiles().count, 1);
    }
}
