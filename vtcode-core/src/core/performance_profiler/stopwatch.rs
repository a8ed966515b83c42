//! A clock that is read only where something is measured.

use std::time::Duration;

use tokio::time::Instant;

/// Measures a piece of our own work, or does nothing at all.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Option<Instant>);

impl Stopwatch {
    /// Begins, if it is to measure; reads no clock otherwise. `cargo xtask gate` counts what that
    /// costs (`unmeasured`).
    #[inline]
    pub fn begin(measures: bool) -> Self {
        Self(measures.then(Instant::now))
    }

    /// Returns the time since it began; none where it does not measure.
    #[inline]
    pub fn read(self) -> Option<Duration> {
        self.0.map(|began| began.elapsed())
    }
}
