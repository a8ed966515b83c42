//! The one retry budget of a logical request, which only shrinks.
//! Takes an error and the time that is left, gives the wait before the next attempt, or none.
//! Never sends and never sleeps.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::error::LlmError;
use crate::config::limits::ClientLimits;

/// The longest wait that we choose ourselves; a provider may ask for more.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// A user without a server should not wait to be told, but one that is just starting may win.
const LOCAL_REFUSALS: u32 = 2;
const LOCAL_WAIT: Duration = Duration::from_millis(100);

/// What is left of a logical request's attempts.
#[derive(Debug)]
pub(super) struct Budget {
    /// The attempt that runs, from 1.
    attempt: u32,
    attempts: u32,
    /// The last attempt that this endpoint has while there is another one.
    last_here: u32,
    waits: ExponentialBackoff,
}

impl Budget {
    /// Begins with an attempt; `routes` are the endpoints that are left, this one included. Each of
    /// them has one at least.
    pub(super) fn new(limits: &ClientLimits, attempt: u32, routes: u32) -> Self {
        let waits = ExponentialBuilder::new()
            .with_min_delay(limits.backoff)
            .with_max_delay(MAX_BACKOFF.max(limits.backoff))
            .without_max_times()
            .build();
        let attempts = limits.attempts.max(attempt + routes - 1);
        let share = (attempts + 1 - attempt).div_ceil(routes);
        Self { attempt, attempts, last_here: attempt + share - 1, waits }
    }

    /// Returns whether this endpoint had its share of the attempts.
    pub(super) fn had_its_share(&self) -> bool {
        self.attempt >= self.last_here
    }

    /// Takes an attempt for another endpoint; returns its number, or none when none is left.
    pub(super) fn elsewhere(&self) -> Option<u32> {
        (self.attempt < self.attempts).then(|| self.attempt + 1)
    }

    /// Returns the number of the attempt that runs.
    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Takes an attempt from the budget and returns the wait before it. None when the error is
    /// not one that passes, no attempt is left, or the wait would outlast the request.
    pub(super) fn next(&mut self, error: &LlmError, left: Duration) -> Option<Duration> {
        if !error.is_temporary() || self.attempt >= self.attempts {
            return None;
        }
        let wait = match error {
            LlmError::Unreachable { refused_locally: true, .. } => {
                if self.attempt >= LOCAL_REFUSALS {
                    return None;
                }
                self.backoff()?.min(LOCAL_WAIT)
            }
            error => match error.retry_after() {
                Some(wait) => wait,
                None => self.backoff()?,
            },
        };
        if wait >= left {
            return None;
        }
        self.attempt += 1;
        Some(wait)
    }
}

impl Budget {
    /// Returns a wait of our own: anything from nothing to what the schedule has come to, so that a
    /// crowd that failed as one does not come back as one.
    fn backoff(&mut self) -> Option<Duration> {
        let most = self.waits.next()?;
        // Its seed is another one in every process and for every call.
        let dice = RandomState::new().hash_one(self.attempt) >> 11;
        Some(most.mul_f64(dice as f64 / (1_u64 << 53) as f64))
    }
}

/// Returns the wait that `Retry-After` asks for: seconds, or a date.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::Limits;

    const LONG: Duration = Duration::from_secs(1000);

    fn server(retry_after: Option<Duration>) -> LlmError {
        LlmError::Server { status: 503, retry_after, message: String::new() }
    }

    fn budget(attempts: u32) -> Budget {
        Budget::new(&ClientLimits { attempts, ..Limits::full().client }, 1, 1)
    }

    #[test]
    fn each_endpoint_has_a_share_of_the_attempts_and_one_at_least() {
        let shares = |attempts, routes| {
            let limits = ClientLimits { attempts, ..Limits::full().client };
            let (mut attempt, mut shares) = (1, Vec::new());
            for left in (1..=routes).rev() {
                let mut budget = Budget::new(&limits, attempt, left);
                let mut share = 1;
                while left > 1 && !budget.had_its_share() {
                    budget.next(&server(None), LONG).unwrap();
                    share += 1;
                }
                while left == 1 && budget.next(&server(None), LONG).is_some() {
                    share += 1;
                }
                shares.push(share);
                attempt = budget.elsewhere().unwrap_or(u32::MAX);
            }
            shares
        };
        assert_eq!(shares(5, 1), [5]);
        assert_eq!(shares(5, 2), [3, 2]);
        assert_eq!(shares(6, 3), [2, 2, 2]);
        assert_eq!(shares(1, 3), [1, 1, 1]);
    }

    #[test]
    fn waits_are_anything_up_to_what_grows_and_end_with_the_attempts() {
        let least = Limits::full().client.backoff;
        let mut longest = [Duration::ZERO; 3];
        for _ in 0..200 {
            let mut budget = budget(4);
            for nth in 0..3 {
                let wait = budget.next(&server(None), LONG).unwrap();
                assert!(wait <= least * 2u32.pow(nth), "wait {nth}: {wait:?}");
                longest[nth as usize] = longest[nth as usize].max(wait);
            }
            assert_eq!(budget.attempt(), 4);
            assert_eq!(budget.next(&server(None), LONG), None);
        }
        // A fair die of 200 throws stays below a half once in 2^200.
        for (nth, longest) in (0..).zip(longest) {
            assert!(longest > least * 2u32.pow(nth) / 2, "{nth}: {longest:?}");
        }
    }

    #[test]
    fn a_crowd_that_fails_together_does_not_come_back_together() {
        let first_wait = || budget(2).next(&server(None), LONG).unwrap();
        let one = first_wait();
        assert!((0..3).any(|_| first_wait() != one), "{one:?} each time");
    }

    #[test]
    fn the_provider_says_when_and_no_wait_outlasts_the_request() {
        let wait = Duration::from_secs(20);
        assert_eq!(budget(2).next(&server(Some(wait)), LONG), Some(wait));
        assert_eq!(budget(2).next(&server(Some(Duration::ZERO)), LONG), Some(Duration::ZERO));
        assert_eq!(budget(2).next(&server(Some(wait)), wait), None);
    }

    #[test]
    fn a_local_server_that_is_not_there_is_asked_twice_and_quickly() {
        let refused = LlmError::Unreachable {
            url: String::new(),
            cause: String::new(),
            refused_locally: true,
        };
        let mut budget = budget(5);
        assert!(budget.next(&refused, LONG).unwrap() <= LOCAL_WAIT);
        assert_eq!(budget.next(&refused, LONG), None);
    }

    #[test]
    fn what_does_not_pass_and_zero_attempts_never_retry() {
        let bad = LlmError::BadRequest { status: 400, message: String::new() };
        assert_eq!(budget(5).next(&bad, LONG), None);
        assert_eq!(budget(0).next(&server(None), LONG), None);
        assert_eq!(budget(1).next(&server(None), LONG), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let seconds = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds(" 120 "), Some(120));
        assert_eq!(seconds("1.5"), Some(1));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:47 GMT"), Some(10));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:27 GMT"), Some(0));
        for odd in ["", "-1", "soon", "NaN", "inf", "1e300"] {
            assert_eq!(seconds(odd), None, "{odd}");
        }
    }
}
