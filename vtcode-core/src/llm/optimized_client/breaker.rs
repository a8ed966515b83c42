//! Whether an endpoint is worth being asked: how its attempts end comes in, yes or no goes out.
//! Closed, it is asked. Too many failures open it, and nobody asks; after a while it is half open,
//! and one request may find out. Counts nothing while nothing happens, and never refuses the last
//! endpoint that there is: who asks decides that.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::limits::BreakerLimits;

/// Ends of attempts that are remembered.
const ENDS: usize = 32;

/// The longest that an endpoint is left alone, whatever it asked for itself.
const MOST_OPEN: Duration = Duration::from_secs(600);

/// How often in a row the time doubles for which a failing endpoint is left alone.
const MOST_DOUBLINGS: u32 = 4;

/// One endpoint's breaker. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Breaker {
    limits: BreakerLimits,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// How the newest attempts ended: when, and whether badly.
    ends: VecDeque<(Instant, bool)>,
    /// Until when nobody asks; none: it is closed.
    open_until: Option<Instant>,
    /// Somebody finds out whether it answers again.
    probing: bool,
    /// How often in a row it was opened.
    opened: u32,
}

/// An attempt on its way past a breaker. Dropped without a word of its end, it says nothing.
#[derive(Debug)]
pub(super) struct Pass {
    breaker: Breaker,
    probe: bool,
}

impl Breaker {
    pub(super) fn new(limits: BreakerLimits) -> Self {
        Self { limits, state: Arc::default() }
    }

    /// Returns whether an attempt may go out now.
    pub(super) fn admits(&self) -> bool {
        let state = self.state();
        state.open_until.is_none_or(|until| Instant::now() >= until && !state.probing)
    }

    /// An attempt goes out, admitted or not.
    pub(super) fn enter(&self) -> Pass {
        let mut state = self.state();
        let half_open = state.open_until.is_some_and(|until| Instant::now() >= until);
        let probe = half_open && !state.probing;
        state.probing |= probe;
        Pass { breaker: self.clone(), probe }
    }

    /// Opens it: a request left the endpoint for another one. It stays so for at least the time
    /// that the endpoint asked for.
    pub(super) fn trip(&self, asked_for: Option<Duration>) {
        let least = asked_for.unwrap_or_default();
        self.state().open(&self.limits, least);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No step of a change can panic: it is whole after any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(&mut self, limits: &BreakerLimits, least: Duration) {
        if limits.failures == 0 {
            return;
        }
        let now = Instant::now();
        let is_open = self.open_until.is_some_and(|until| now < until);
        let doubled = 1 << self.opened.min(MOST_DOUBLINGS);
        // What ends while it is open began before, and is no further reason.
        let own = if is_open { Duration::ZERO } else { limits.open.saturating_mul(doubled) };
        let until = now + own.max(least).min(MOST_OPEN);
        self.open_until = Some(self.open_until.map_or(until, |other| other.max(until)));
        self.opened += u32::from(!is_open);
        self.ends.clear();
    }

    fn failed(&mut self, limits: &BreakerLimits) {
        let now = Instant::now();
        let recent = |(at, failed): &&(Instant, bool)| now - *at <= limits.window && *failed;
        let failed = self.ends.iter().filter(recent).count();
        let all = self.ends.iter().filter(|(at, _)| now - *at <= limits.window).count();
        if failed >= limits.failures as usize && 2 * failed >= all {
            self.open(limits, Duration::ZERO);
        }
    }
}

impl Pass {
    /// Tells how the attempt ended.
    pub(super) fn ended(self, well: bool) {
        let mut state = self.breaker.state();
        if state.ends.len() == ENDS {
            state.ends.pop_front();
        }
        state.ends.push_back((Instant::now(), !well));
        match (well, self.probe) {
            (true, _)
                if state.open_until.is_none_or(|until| self.probe || Instant::now() >= until) =>
            {
                (state.open_until, state.opened) = (None, 0);
            }
            (true, _) => {}
            (false, true) => state.open(&self.breaker.limits, Duration::ZERO),
            (false, false) => state.failed(&self.breaker.limits),
        }
    }

    /// Returns whether it finds out whether the endpoint answers again.
    pub(super) fn is_probe(&self) -> bool {
        self.probe
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.state().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Duration = Duration::from_secs(30);
    const LIMITS: BreakerLimits =
        BreakerLimits { failures: 3, window: Duration::from_secs(60), open: OPEN };

    fn end(breaker: &Breaker, ends: impl IntoIterator<Item = bool>) {
        ends.into_iter().for_each(|well| breaker.enter().ended(well));
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_when_most_of_what_was_lately_asked_failed() {
        let breaker = Breaker::new(LIMITS);
        end(&breaker, [false, false]);
        assert!(breaker.admits(), "two are too few");
        tokio::time::advance(LIMITS.window * 2).await;
        end(&breaker, [false, false]);
        assert!(breaker.admits(), "the others are long ago");
        end(&breaker, [false]);
        assert!(!breaker.admits());

        let busy = Breaker::new(LIMITS);
        end(&busy, [true, true, true, true, false, false, false]);
        assert!(busy.admits(), "less than half");
        end(&busy, [false]);
        assert!(!busy.admits());

        let off = Breaker::new(BreakerLimits { failures: 0, ..LIMITS });
        end(&off, [false; 40]);
        off.trip(Some(OPEN));
        assert!(off.admits());
    }

    #[tokio::test(start_paused = true)]
    async fn one_finds_out_whether_it_answers_again_and_the_others_wait_for_its_word() {
        let breaker = Breaker::new(LIMITS);
        breaker.trip(None);
        tokio::time::advance(OPEN).await;
        assert!(breaker.admits());
        let probe = breaker.enter();
        assert!(probe.is_probe() && !breaker.admits(), "one is enough");
        assert!(!breaker.enter().is_probe());
        drop(probe);
        assert!(breaker.admits(), "it was cancelled: the next one finds out");
        breaker.enter().ended(false);
        tokio::time::advance(OPEN).await;
        assert!(!breaker.admits(), "it is left alone for longer each time");
        tokio::time::advance(OPEN).await;
        breaker.enter().ended(true);
        assert!(breaker.admits() && !breaker.enter().is_probe(), "it is closed");
        breaker.trip(None);
        tokio::time::advance(OPEN).await;
        assert!(breaker.admits(), "as short as at first");
    }

    #[tokio::test(start_paused = true)]
    async fn it_stays_open_for_as_long_as_the_endpoint_asked_but_not_for_ever() {
        let breaker = Breaker::new(LIMITS);
        breaker.trip(Some(OPEN * 3));
        tokio::time::advance(OPEN * 2).await;
        assert!(!breaker.admits());
        tokio::time::advance(OPEN).await;
        assert!(breaker.admits());
        breaker.trip(Some(Duration::MAX));
        tokio::time::advance(MOST_OPEN).await;
        assert!(breaker.admits());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_on_its_way_when_it_opened_neither_closes_it_nor_keeps_it_open() {
        let breaker = Breaker::new(LIMITS);
        let (late, later) = (breaker.enter(), breaker.enter());
        breaker.trip(None);
        late.ended(true);
        assert!(!breaker.admits());
        later.ended(false);
        end(&breaker, [false; 5]);
        tokio::time::advance(OPEN).await;
        assert!(breaker.admits());
    }
}
