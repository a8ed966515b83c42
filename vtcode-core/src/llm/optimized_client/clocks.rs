//! The four clocks of a model request: connect, first byte, gap between chunks, total.
//! Takes what happened, gives the next deadline and the clock that it belongs to.
//! Never waits itself.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::limits::ClientLimits;

/// A clock that can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Clock {
    /// Until the connection stands.
    Connect,
    /// From the request sent to the first byte of the answer's body.
    FirstByte,
    /// Between two chunks of the answer.
    Gap,
    /// The whole logical request, retries included.
    Total,
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "no connection",
            Self::FirstByte => "no first byte of the answer",
            Self::Gap => "the answer stopped in its middle",
            Self::Total => "the whole request, retries included",
        })
    }
}

/// The clocks of one logical request.
#[derive(Debug)]
pub(super) struct Clocks {
    connect: Duration,
    first_byte: Duration,
    gap: Duration,
    total: Duration,
    total_at: Instant,
    /// The deadline of the attempt that runs, and its clock.
    attempt: (Instant, Clock),
}

impl Clocks {
    /// Starts the total clock.
    pub(super) fn start(limits: &ClientLimits) -> Self {
        let total_at = after(limits.total);
        Self {
            connect: limits.connect,
            first_byte: limits.first_byte,
            gap: limits.gap,
            total: limits.total,
            total_at,
            attempt: (total_at, Clock::Total),
        }
    }

    /// An attempt begins. The connection's own clock runs below this one, in the connector; when
    /// it hands over cannot be seen from here, so the first byte has the time of both.
    pub(super) fn attempt(&mut self) {
        self.attempt = (after(self.connect.saturating_add(self.first_byte)), Clock::FirstByte);
    }

    /// Bytes of the answer came.
    pub(super) fn byte(&mut self) {
        self.attempt = (after(self.gap), Clock::Gap);
    }

    /// Returns the next deadline and whose it is.
    pub(super) fn deadline(&self) -> (Instant, Clock) {
        if self.total_at <= self.attempt.0 { (self.total_at, Clock::Total) } else { self.attempt }
    }

    /// Returns what the total clock has left.
    pub(super) fn left(&self) -> Duration {
        self.total_at.saturating_duration_since(Instant::now())
    }

    /// Returns a clock's limit, for telling the user.
    pub(super) fn limit(&self, clock: Clock) -> Duration {
        match clock {
            Clock::Connect => self.connect,
            Clock::FirstByte => self.first_byte,
            Clock::Gap => self.gap,
            Clock::Total => self.total,
        }
    }
}

/// Returns the time after a wait; a wait beyond what time can hold is as good as a year.
fn after(wait: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + wait.min(YEAR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::Limits;

    fn limits() -> ClientLimits {
        ClientLimits {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(10),
            gap: Duration::from_secs(5),
            total: Duration::from_secs(30),
            ..Limits::full().client
        }
    }

    #[test]
    fn the_clock_that_ends_first_counts() {
        let start = Instant::now();
        let mut clocks = Clocks::start(&limits());
        let is_after = |(deadline, clock): (Instant, Clock), seconds, expected| {
            let wait = Duration::from_secs(seconds);
            assert_eq!(clock, expected);
            assert!((start + wait..=Instant::now() + wait).contains(&deadline), "{expected}");
        };
        is_after(clocks.deadline(), 30, Clock::Total);
        clocks.attempt();
        is_after(clocks.deadline(), 11, Clock::FirstByte);
        clocks.byte();
        is_after(clocks.deadline(), 5, Clock::Gap);

        let mut clocks = Clocks::start(&ClientLimits { total: Duration::from_secs(4), ..limits() });
        clocks.attempt();
        clocks.byte();
        is_after(clocks.deadline(), 4, Clock::Total);
        assert!(clocks.left() <= Duration::from_secs(4));
    }

    #[test]
    fn limits_beyond_what_time_can_hold_are_limits_still() {
        let endless = Duration::MAX;
        let mut clocks = Clocks::start(&ClientLimits {
            connect: endless,
            first_byte: endless,
            gap: endless,
            total: endless,
            ..limits()
        });
        clocks.attempt();
        clocks.byte();
        assert!(clocks.left() > Duration::from_secs(1));
    }
}
