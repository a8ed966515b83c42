//! The four clocks of a model request: connect, first byte, gap between chunks, total.
//! Takes what happened, gives the next deadline and the clock that it belongs to, and what to tell
//! of a silence that lasts. Never waits itself.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::limits::ClientLimits;
use crate::core::performance_profiler::Percentiles;

/// From how many answers on their times say something of the next one's.
const ENOUGH_ANSWERS: u64 = 20;

/// How much longer than nearly all before it an answer may take to begin.
const PATIENCE: u32 = 4;

/// A clock that can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Clock {
    /// Until the connection stands.
    Connect,
    /// From the request sent to the first byte of the answer's body. Once 20 answers of the
    /// endpoint have come, it runs for four times what 99 of 100 took, within the bounds of the
    /// limits.
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
    silence: Duration,
    /// Since when nothing came, and when that is told next.
    silent_since: Instant,
    told_at: Option<Instant>,
}

/// A wait that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// The clock that runs.
    pub clock: Clock,
    /// For how long nothing has come.
    pub elapsed: Duration,
    /// How long that may be, by the clock that runs.
    pub limit: Duration,
}

impl Clocks {
    /// Starts the total clock. `first_bytes` says how long the endpoint's answers took to begin.
    pub(super) fn start(limits: &ClientLimits, first_bytes: &Percentiles) -> Self {
        let total_at = after(limits.total);
        Self {
            connect: limits.connect,
            first_byte: first_byte(limits, first_bytes),
            gap: limits.gap,
            total: limits.total,
            total_at,
            attempt: (total_at, Clock::Total),
            silence: limits.silence,
            silent_since: Instant::now(),
            told_at: None,
        }
    }

    /// Goes on with the total clock of a request that began elsewhere.
    pub(super) fn going_on(self, total_at: Instant) -> Self {
        Self { total_at, attempt: (total_at, Clock::Total), ..self }
    }

    /// Returns when the total clock ends.
    pub(super) fn total_at(&self) -> Instant {
        self.total_at
    }

    /// An attempt begins. The connection's own clock runs below this one, in the connector; when
    /// it hands over cannot be seen from here, so the first byte has the time of both.
    pub(super) fn attempt(&mut self) {
        self.attempt = (after(self.connect.saturating_add(self.first_byte)), Clock::FirstByte);
        self.silent_from_now();
    }

    /// No answer began in time: the next attempt has twice as long, up to what the user allows.
    pub(super) fn was_impatient(&mut self, limits: &ClientLimits) {
        self.first_byte = self.first_byte.saturating_mul(2).min(limits.first_byte);
    }

    /// Bytes of the answer came.
    pub(super) fn byte(&mut self) {
        self.attempt = (after(self.gap), Clock::Gap);
        self.silent_from_now();
    }

    fn silent_from_now(&mut self) {
        self.silent_since = Instant::now();
        self.told_at = (!self.silence.is_zero()).then(|| after(self.silence));
    }

    /// Returns when to look up from waiting: at the deadline, or earlier to tell of the silence.
    pub(super) fn look_up(&self) -> Instant {
        let (deadline, _) = self.deadline();
        self.told_at.map_or(deadline, |told_at| told_at.min(deadline))
    }

    /// Returns what to tell of the silence, if it is time for that and no deadline has passed.
    /// `opening` says that the connection does not stand yet.
    pub(super) fn silence(&mut self, opening: bool) -> Option<Silence> {
        let (now, (deadline, clock)) = (Instant::now(), self.deadline());
        if now >= deadline || self.told_at.is_none_or(|told_at| now < told_at) {
            return None;
        }
        let elapsed = now - self.silent_since;
        self.told_at = Some(after(elapsed));
        let clock = match clock {
            Clock::FirstByte if opening => Clock::Connect,
            clock => clock,
        };
        Some(Silence { clock, elapsed, limit: self.limit(clock) })
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

/// Returns how long an answer may take to begin: as long as the user allows, or less when the
/// endpoint is known to be quick.
fn first_byte(limits: &ClientLimits, known: &Percentiles) -> Duration {
    if known.count < ENOUGH_ANSWERS {
        return limits.first_byte;
    }
    known.p99.saturating_mul(PATIENCE).max(limits.first_byte_floor).min(limits.first_byte)
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
        let unknown = Percentiles::default();
        let mut clocks = Clocks::start(&limits(), &unknown);
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

        let short = ClientLimits { total: Duration::from_secs(4), ..limits() };
        let mut clocks = Clocks::start(&short, &unknown);
        clocks.attempt();
        clocks.byte();
        is_after(clocks.deadline(), 4, Clock::Total);
        assert!(clocks.left() <= Duration::from_secs(4));
    }

    #[test]
    fn limits_beyond_what_time_can_hold_are_limits_still() {
        let endless = Duration::MAX;
        let limits = ClientLimits {
            connect: endless,
            first_byte: endless,
            gap: endless,
            total: endless,
            silence: endless,
            ..limits()
        };
        let mut clocks = Clocks::start(&limits, &Percentiles::default());
        clocks.attempt();
        clocks.byte();
        assert!(clocks.left() > Duration::from_secs(1));
    }

    #[test]
    fn a_quick_endpoint_has_less_time_to_begin_and_more_the_second_time() {
        let (s, ms) = (Duration::from_secs, Duration::from_millis);
        let limits = ClientLimits { first_byte_floor: s(2), ..limits() };
        let known = |count, p99| Percentiles { count, p99, ..Percentiles::default() };
        let allowed = |known: &Percentiles| Clocks::start(&limits, known).limit(Clock::FirstByte);
        assert_eq!(allowed(&known(19, ms(1))), s(10), "too few to know");
        assert_eq!(allowed(&known(20, ms(1))), s(2), "the floor");
        assert_eq!(allowed(&known(20, ms(900))), ms(3600));
        assert_eq!(allowed(&known(20, s(9))), s(10), "the user's limit is the most");
        let mut clocks = Clocks::start(&limits, &known(20, ms(900)));
        clocks.was_impatient(&limits);
        assert_eq!(clocks.limit(Clock::FirstByte), ms(7200));
        clocks.was_impatient(&limits);
        assert_eq!(clocks.limit(Clock::FirstByte), s(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_is_told_each_time_that_it_has_doubled() {
        let limits = ClientLimits { silence: Duration::from_secs(2), ..limits() };
        let mut clocks = Clocks::start(&limits, &Percentiles::default());
        let began = Instant::now();
        clocks.attempt();
        let mut told = Vec::new();
        while Instant::now() < clocks.deadline().0 {
            tokio::time::sleep_until(clocks.look_up()).await;
            told.extend(clocks.silence(began.elapsed() < Duration::from_secs(3)));
        }
        let told: Vec<_> = told.iter().map(|s| (s.clock, s.elapsed.as_secs())).collect();
        assert_eq!(told, [(Clock::Connect, 2), (Clock::FirstByte, 4), (Clock::FirstByte, 8)]);
        clocks.byte();
        assert_eq!(clocks.look_up() - Instant::now(), Duration::from_secs(2), "it begins anew");
        let never = ClientLimits { silence: Duration::ZERO, ..limits };
        let mut clocks = Clocks::start(&never, &Percentiles::default());
        clocks.attempt();
        assert_eq!(clocks.look_up(), clocks.deadline().0);
    }
}
