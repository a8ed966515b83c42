//! One limit as a GCRA (generic cell rate algorithm): a cost and the time come in, the wait before
//! it conforms goes out. The whole state is one number, the time at which the bucket is full again
//! (its theoretical arrival time). Reads no clock.

/// Nanoseconds since 1970: several processes share it.
pub(super) type Nanos = u64;

const MINUTE: u128 = 60_000_000_000;

/// Debts that reach further than this are those of a clock that was set back.
pub(super) const LONGEST_DEBT: Nanos = 86_400_000_000_000;

/// How fast a bucket fills and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// Units a minute; at least 1.
    pub(super) per_minute: u64,
    /// Units that may go at once after a pause; at least 1.
    pub(super) burst: u64,
}

/// What is left of a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    /// When it is full again. In the past: it is full.
    pub(super) full_at: Nanos,
}

impl Rate {
    /// Returns how long it takes until this many units have come.
    fn time_for(self, units: u64) -> Nanos {
        let nanos = u128::from(units) * MINUTE / u128::from(self.per_minute.max(1));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    fn depth(self) -> Nanos {
        self.time_for(self.burst.max(1))
    }
}

impl Bucket {
    /// Takes `units` and returns how long to wait before they may go. They are owed at once, so
    /// that who comes later waits behind. More units than the burst wait until they have come.
    pub(super) fn take(&mut self, rate: Rate, now: Nanos, units: u64) -> Nanos {
        if units == 0 {
            return 0;
        }
        let latest = now.saturating_add(rate.depth()).saturating_add(LONGEST_DEBT);
        let from = self.full_at.clamp(now, latest);
        self.full_at = from.saturating_add(rate.time_for(units));
        self.full_at.saturating_sub(rate.depth()).saturating_sub(now)
    }

    /// Gives `units` back that were taken and not used.
    pub(super) fn give_back(&mut self, rate: Rate, units: u64) {
        self.full_at = self.full_at.saturating_sub(rate.time_for(units));
    }

    /// Learns that at most `remaining` units are left, whoever used the others.
    pub(super) fn cap(&mut self, rate: Rate, now: Nanos, remaining: u64) {
        let missing = rate.burst.saturating_sub(remaining);
        self.full_at = self.full_at.max(now.saturating_add(rate.time_for(missing)));
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;
    use governor::{Quota, RateLimiter};
    use proptest::prelude::*;

    use super::*;

    const START: Nanos = 1_000_000_000_000;

    proptest! {
        /// A call that need not wait here is one that the oracle lets through, and the other way
        /// round, whatever came before.
        #[test]
        fn what_goes_at_once_is_what_an_independent_limiter_lets_through(
            per_minute in 1_u32..5000,
            burst in 1_u32..50,
            pauses_ms in prop::collection::vec(0_u64..3000, 1..200),
        ) {
            let clock = FakeRelativeClock::default();
            let of = |n| NonZeroU32::new(n).unwrap();
            // The oracle's own arithmetic is in whole nanoseconds, as ours is.
            let quota = Quota::per_minute(of(per_minute)).allow_burst(of(burst));
            let oracle = RateLimiter::direct_with_clock(quota, clock.clone());
            let rate = Rate { per_minute: per_minute.into(), burst: burst.into() };
            let (mut bucket, mut now) = (Bucket::default(), START);
            for pause in pauses_ms {
                clock.advance(Duration::from_millis(pause));
                now += pause * 1_000_000;
                let mut tried = bucket;
                let wait = tried.take(rate, now, 1);
                let let_through = oracle.check().is_ok();
                // They may round the last nanosecond of an interval differently.
                if wait > u64::from(burst) + 1 || wait == 0 {
                    prop_assert_eq!(wait == 0, let_through, "wait {} ns", wait);
                }
                if let_through {
                    bucket = tried;
                }
            }
        }

        /// However calls come and wait their turn, no minute sees more than a minute's worth and
        /// the burst.
        #[test]
        fn no_window_holds_more_than_the_rate_and_the_burst(
            per_minute in 10_u64..2000,
            burst in 1_u64..50,
            calls in prop::collection::vec((0_u64..2_000, 1_u64..20), 1..200),
        ) {
            let rate = Rate { per_minute, burst };
            let (mut bucket, mut now, mut sent) = (Bucket::default(), START, Vec::new());
            for (pause_ms, units) in calls {
                now += pause_ms * 1_000_000;
                sent.push((now + bucket.take(rate, now, units), units));
            }
            for (first, &(from, largest)) in sent.iter().enumerate() {
                let mut units = 0;
                for &(at, more) in &sent[first..] {
                    units += more;
                    let allowed = u128::from(at - from) * u128::from(per_minute) / MINUTE;
                    // One that is larger than the burst goes when it is paid off.
                    let most = u128::from(burst.max(largest)) + allowed + 1;
                    prop_assert!(u128::from(units) <= most, "{units} of {most}");
                }
            }
        }

        #[test]
        fn what_is_given_back_was_never_taken(
            before in 0_u64..100, units in 1_u64..100, per_minute in 1_u64..1000,
        ) {
            let rate = Rate { per_minute, burst: 10 };
            let mut bucket = Bucket::default();
            bucket.take(rate, START, before);
            let mut other = Bucket { full_at: bucket.full_at.max(START) };
            other.take(rate, START, units);
            other.give_back(rate, units);
            prop_assert_eq!(other.full_at, bucket.full_at.max(START));
        }
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_everyone() {
        let rate = Rate { per_minute: 60, burst: 1 };
        let mut bucket = Bucket { full_at: START + 100 * LONGEST_DEBT };
        assert!(bucket.take(rate, START, 1) <= LONGEST_DEBT + 2_000_000_000);
    }

    #[test]
    fn what_a_provider_says_is_left_is_all_that_is_left() {
        let rate = Rate { per_minute: 60, burst: 10 };
        let mut bucket = Bucket::default();
        bucket.cap(rate, START, 2);
        assert_eq!([(); 3].map(|()| bucket.take(rate, START, 1)), [0, 0, 1_000_000_000]);
        // One that says that more is left may not know yet what is on its way.
        bucket.cap(rate, START, 10);
        assert_eq!(bucket.take(rate, START, 1), 2_000_000_000);
    }
}
