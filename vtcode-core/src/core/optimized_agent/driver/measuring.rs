//! The engine's own work, measured while a turn goes on. Reads no clock unless it is asked to.

use std::time::Duration;

use crate::core::event::OwnWork;
use crate::core::performance_profiler::Stopwatch;

/// Adds up what a turn costs the engine itself.
#[derive(Debug)]
pub(super) struct Meter {
    on: bool,
    work: OwnWork,
    /// The time of all cache checks, when it was last told.
    checked: Duration,
}

impl Meter {
    pub(super) fn new(on: bool) -> Self {
        Self { on, work: OwnWork::default(), checked: Duration::ZERO }
    }

    /// Does some work, and adds its time to a part of the account.
    #[inline]
    pub(super) fn time<T>(
        &mut self,
        part: fn(&mut OwnWork) -> &mut Duration,
        work: impl FnOnce() -> T,
    ) -> T {
        let watch = Stopwatch::begin(self.on);
        let result = work();
        if let Some(took) = watch.read() {
            *part(&mut self.work) += took;
        }
        result
    }

    /// Adds what it took to take an answer's bytes apart.
    pub(super) fn parsed(&mut self, took: Duration) {
        self.work.parse += took;
    }

    /// Adds the cache checks since it was last told how long all of them took.
    pub(super) fn checked_so_far(&mut self, all: Duration) {
        self.work.cache_check += all.saturating_sub(self.checked);
        self.checked = all;
    }

    /// Returns the account and begins a new one; none where nothing is measured.
    pub(super) fn take(&mut self) -> Option<OwnWork> {
        self.on.then(|| std::mem::take(&mut self.work))
    }
}
