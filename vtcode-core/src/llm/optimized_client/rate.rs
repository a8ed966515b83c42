//! How fast requests may go out: an estimate goes in, the time at which it may be sent comes out.
//! Three limits of one account at one endpoint (requests, input tokens, output tokens a minute):
//! reserved by estimate, settled by what was used, given back when nothing was. All sessions of
//! the machine share them. Never sends, and never refuses: who comes later waits longer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

mod bucket;
mod headers;
mod record;

use bucket::{Bucket, LONGEST_DEBT, Nanos, Rate};
pub(super) use headers::Told;
use record::Record;

use crate::config::limits::RateLimits;
use crate::core::cache;
use crate::llm::message::Usage;

/// Requests, input tokens, output tokens.
const KINDS: usize = 3;
const REQUESTS: usize = 0;
const INPUT: usize = 1;
const OUTPUT: usize = 2;

/// Bytes of a request that are about one token, until an answer tells.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens of an answer, until one tells.
const ANSWER_TOKENS: u64 = 500;

/// How long a burst stays smaller after the provider refused one.
const CAUTION: Nanos = 60_000_000_000;
const MOST_CAUTION: u64 = 6;

/// The state of an account's limits, as several processes share it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    buckets: [Bucket; KINDS],
    /// What the provider said that it allows in a minute; 0: nothing yet.
    told: [u64; KINDS],
    /// Nothing goes out before; the provider asked for it.
    blocked_until: Nanos,
    /// How often the burst was halved, and until when.
    caution: u64,
    caution_until: Nanos,
}

impl State {
    const WORDS: usize = 2 * KINDS + 3;

    fn words(&self) -> [u64; Self::WORDS] {
        let mut words = [0; Self::WORDS];
        let rest = [self.blocked_until, self.caution, self.caution_until];
        let buckets = self.buckets.iter().map(|bucket| bucket.full_at);
        for (word, value) in words.iter_mut().zip(buckets.chain(self.told).chain(rest)) {
            *word = value;
        }
        words
    }

    fn from_words(words: [u64; Self::WORDS]) -> Self {
        Self {
            buckets: std::array::from_fn(|kind| Bucket { full_at: words[kind] }),
            told: std::array::from_fn(|kind| words[KINDS + kind]),
            blocked_until: words[2 * KINDS],
            caution: words[2 * KINDS + 1],
            caution_until: words[2 * KINDS + 2],
        }
    }
}

/// The limits of one account at one endpoint. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Limiter {
    limits: RateLimits,
    record: Arc<Record>,
    learned: Arc<Learned>,
}

/// What answers taught of the sizes of requests; a guess that is wrong is settled afterwards.
#[derive(Debug)]
struct Learned {
    bytes_per_token: AtomicU64,
    answer_tokens: AtomicU64,
}

/// A place in the queue. Dropped without having been sent, it is given back.
#[derive(Debug)]
#[must_use = "dropping it gives it back"]
pub(super) struct Reservation {
    limiter: Limiter,
    units: [u64; KINDS],
    body_bytes: u64,
    /// How long to wait before the request may go out.
    pub(super) wait: Duration,
}

impl Limiter {
    /// Returns the limits of the account that `key` stands for; below `folder`, if there is one,
    /// they are shared with other processes.
    pub(super) fn new(limits: RateLimits, folder: Option<&Path>, account: &[&[u8]]) -> Self {
        let record = match folder {
            // A hash, so that no name tells a key.
            Some(folder) => {
                let name = blake3::Hash::from_bytes(cache::key(account.iter().copied())).to_hex();
                Record::shared(folder.join(&name[..32]))
            }
            None => Record::private(),
        };
        let learned = Learned {
            bytes_per_token: AtomicU64::new(BYTES_PER_TOKEN),
            answer_tokens: AtomicU64::new(ANSWER_TOKENS),
        };
        Self { limits, record: Arc::new(record), learned: Arc::new(learned) }
    }

    /// Takes a place for a request of this size. The error says why the place is known to this
    /// process alone.
    pub(super) async fn reserve(&self, body_bytes: usize) -> (Reservation, std::io::Result<()>) {
        let order = Ordering::Relaxed;
        let body_bytes = body_bytes as u64;
        let input = body_bytes / self.learned.bytes_per_token.load(order).max(1);
        let units = [1, input, self.learned.answer_tokens.load(order)];
        let (limits, now) = (self.limits, now());
        let take = move |state: &mut State| {
            let rates = state.rates(&limits, now);
            let mut wait = state.blocked_for(now);
            for ((bucket, rate), units) in state.buckets.iter_mut().zip(rates).zip(units) {
                if let Some(rate) = rate {
                    wait = wait.max(bucket.take(rate, now, units));
                }
            }
            wait
        };
        let (wait, shared) = self.record.change(take).await;
        let wait = Duration::from_nanos(wait);
        (Reservation { limiter: self.clone(), units, body_bytes, wait }, shared)
    }

    /// Learns what an answer's headers say of the limits.
    pub(super) fn told(&self, told: Told) {
        if told == Told::default() {
            return;
        }
        let (limits, now) = (self.limits, now());
        let learn = move |state: &mut State| {
            for (known, limit) in state.told.iter_mut().zip(told.limit) {
                *known = limit.unwrap_or(*known);
            }
            let rates = state.rates(&limits, now);
            for ((bucket, rate), left) in state.buckets.iter_mut().zip(rates).zip(told.remaining) {
                if let (Some(rate), Some(left)) = (rate, left) {
                    bucket.cap(rate, now, left);
                }
            }
        };
        self.record.change_now(learn);
    }

    /// Learns that the provider refused a request for its rate: nobody sends before `wait`, and
    /// bursts are smaller for a while.
    pub(super) fn refused(&self, wait: Option<Duration>) {
        let now = now();
        let wait = wait.map_or(0, |wait| u64::try_from(wait.as_nanos()).unwrap_or(Nanos::MAX));
        // The mark outlives this process: a provider that means years must not stop all of them.
        let wait = wait.min(LONGEST_DEBT);
        let learn = move |state: &mut State| {
            let blocked = state.blocked_for(now).max(wait);
            state.blocked_until = now.saturating_add(blocked);
            state.caution = (state.caution_now(now) + 1).min(MOST_CAUTION);
            state.caution_until = now.saturating_add(CAUTION);
        };
        self.record.change_now(learn);
    }
}

impl State {
    /// Returns how long nothing may go out. A mark beyond any that is set is one of a clock that was
    /// set back since.
    fn blocked_for(&self, now: Nanos) -> Nanos {
        let wait = self.blocked_until.saturating_sub(now);
        if wait > LONGEST_DEBT { 0 } else { wait }
    }

    fn caution_now(&self, now: Nanos) -> u64 {
        let left = self.caution_until.saturating_sub(now);
        if (1..=CAUTION).contains(&left) { self.caution } else { 0 }
    }

    /// Returns the limits that hold: the user's and the provider's, whichever is lower.
    fn rates(&self, limits: &RateLimits, now: Nanos) -> [Option<Rate>; KINDS] {
        let set = [
            limits.requests_per_minute,
            limits.input_tokens_per_minute,
            limits.output_tokens_per_minute,
        ];
        let caution = self.caution_now(now);
        let mut rates = [None; KINDS];
        for (kind, rate) in rates.iter_mut().enumerate() {
            let told = (self.told[kind] > 0).then_some(self.told[kind]);
            let Some(per_minute) = set[kind].into_iter().chain(told).min() else { continue };
            // Tokens come in thousands: their burst is what a minute gives.
            let burst =
                if kind == REQUESTS { limits.burst.unwrap_or(per_minute) } else { per_minute };
            *rate = Some(Rate { per_minute, burst: (burst >> caution).max(1) });
        }
        rates
    }
}

impl Reservation {
    /// The answer says what was used: what was guessed too high is given back, what was guessed
    /// too low is owed. Without a word of it the guess stands.
    pub(super) fn settle(mut self, used: Usage) {
        let units = std::mem::take(&mut self.units);
        if used == Usage::default() {
            return;
        }
        let order = Ordering::Relaxed;
        let learned = &self.limiter.learned;
        if let Some(ratio) = self.body_bytes.checked_div(used.input_tokens) {
            learned.bytes_per_token.store(ratio.clamp(1, 16), order);
        }
        if used.output_tokens > 0 {
            let before = learned.answer_tokens.load(order);
            learned.answer_tokens.store((3 * before + used.output_tokens).div_ceil(4), order);
        }
        // What came out of the provider's cache does not count against its limits.
        let fresh = used.input_tokens.saturating_sub(used.cached_input_tokens);
        let actual = [1, fresh, used.output_tokens];
        let (limits, now) = (self.limiter.limits, now());
        let settle = move |state: &mut State| {
            let rates = state.rates(&limits, now);
            for kind in [INPUT, OUTPUT] {
                let Some(rate) = rates[kind] else { continue };
                state.buckets[kind].give_back(rate, units[kind].saturating_sub(actual[kind]));
                state.buckets[kind].take(rate, now, actual[kind].saturating_sub(units[kind]));
            }
        };
        self.limiter.record.change_now(settle);
    }

    /// The request reached the provider and gave nothing: it counted as a request, its tokens
    /// were not used.
    pub(super) fn failed(mut self) {
        self.units[REQUESTS] = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.units == [0; KINDS] {
            return;
        }
        let (limits, now, units) = (self.limiter.limits, now(), self.units);
        self.limiter.record.change_now(move |state| {
            let rates = state.rates(&limits, now);
            for ((bucket, rate), units) in state.buckets.iter_mut().zip(rates).zip(units) {
                if let Some(rate) = rate {
                    bucket.give_back(rate, units);
                }
            }
        });
    }
}

/// Returns the time that all processes of the machine share.
fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(Nanos::MAX)
}
