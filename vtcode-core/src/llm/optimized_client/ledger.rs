//! What became of every attempt: its facts come in as they happen, one [`Attempt`] goes out at its
//! end with what it cost, and the sums stay in [`ClientMetrics`]. Writes no file: the event stream
//! carries each attempt to who does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::limits::Price;
use crate::core::event::ClientCounts;
use crate::core::performance_profiler::{Histogram, Percentiles};
use crate::llm::message::{Attempt, Outcome, Usage};

use super::error::LlmError;

impl From<&LlmError> for Outcome {
    fn from(error: &LlmError) -> Self {
        match error {
            LlmError::Unreachable { .. } | LlmError::Untrusted { .. } | LlmError::NoTls { .. } => {
                Self::Unreachable
            }
            LlmError::TimedOut { .. } => Self::Stalled,
            LlmError::RateLimited { .. } => Self::RateLimited,
            LlmError::Server { .. } => Self::Failed,
            LlmError::Interrupted { .. } | LlmError::TooLong { .. } | LlmError::Stream(_) => {
                Self::Broken
            }
            _ => Self::Refused,
        }
    }
}

/// The attempt that runs.
#[derive(Debug)]
pub(super) struct Running {
    attempt: u32,
    model: String,
    price: Option<Price>,
    began: Instant,
    first_byte: Option<Duration>,
    usage: Usage,
    parse: Duration,
}

impl Running {
    pub(super) fn begin(attempt: u32, model: &str, price: Option<Price>) -> Self {
        let model = model.to_owned();
        let (began, first_byte, usage) = (Instant::now(), None, Usage::default());
        Self { attempt, model, price, began, first_byte, usage, parse: Duration::ZERO }
    }

    pub(super) fn parsed(&mut self, took: Duration) {
        self.parse += took;
    }

    pub(super) fn first_byte(&mut self) {
        self.first_byte = Some(self.began.elapsed());
    }

    pub(super) fn used(&mut self, usage: Usage) {
        self.usage = usage;
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    pub(super) fn end(self, outcome: Outcome) -> Attempt {
        Attempt {
            attempt: self.attempt,
            model: self.model,
            outcome,
            usage: self.usage,
            cost_usd: self.price.map(|price| price.of(self.usage)),
            first_byte: self.first_byte,
            took: self.began.elapsed(),
            parse: self.parse,
        }
    }
}

/// What the client did so far, all requests together.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct ClientMetrics {
    /// Logical requests; those that a kept answer or one on its way served are not among them.
    pub requests: u64,
    /// Attempts, by how they ended; those that never happened are left out.
    pub attempts: Vec<(Outcome, u64)>,
    /// Waits for a rate limit; each attempt of a request may have one.
    pub waits: u64,
    /// The time of those waits together, as it was set when each began.
    pub waited: Duration,
    /// Whole answers given again because they were kept.
    pub answers_kept: u64,
    /// Whole answers given again while they were on their way.
    pub answers_shared: u64,
    /// Requests that were sent a second time because the answer was late to begin.
    pub hedges: u64,
    /// Of these, the ones whose second request began first.
    pub hedges_won: u64,
    /// Requests that left an endpoint for another one.
    pub failovers: u64,
    /// Tokens that the provider reported, all attempts together.
    pub usage: Usage,
    /// What they cost, in US dollars, as far as prices are known.
    pub cost_usd: f64,
    /// Each endpoint that requests may go to, in order.
    pub endpoints: Vec<EndpointMetrics>,
    /// Connections that were opened.
    pub connections_opened: u64,
    /// Of these, the ones that stood before their request came.
    pub connections_opened_ahead: u64,
    /// Attempts that went over a connection that was there.
    pub connections_reused: u64,
    /// From a request sent to the first byte of its answer.
    pub first_byte: Percentiles,
    /// How often the answers on the disk could not be read or kept.
    pub disk_failures: u64,
    /// Requests whose place in the rate limits other runs could not see.
    pub limits_unshared: u64,
}

/// What one endpoint did so far.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct EndpointMetrics {
    /// Wire, address and model.
    pub endpoint: String,
    /// From a request sent to the first byte of its answer.
    pub first_byte: Percentiles,
    /// False while it is left alone because it failed.
    pub admits: bool,
}

impl ClientMetrics {
    /// Returns the counts as an event tells them.
    pub fn counts(&self) -> ClientCounts {
        ClientCounts {
            requests: self.requests,
            attempts: self.attempts.clone(),
            kept: self.answers_kept,
            shared: self.answers_shared,
            waits: self.waits,
            waited: self.waited,
            hedges: self.hedges,
            hedges_won: self.hedges_won,
            failovers: self.failovers,
            connections_opened: self.connections_opened,
            connections_opened_ahead: self.connections_opened_ahead,
            connections_reused: self.connections_reused,
            first_byte_p50: self.first_byte.p50,
            first_byte_p95: self.first_byte.p95,
            first_byte_p99: self.first_byte.p99,
            disk_failures: self.disk_failures,
            limits_unshared: self.limits_unshared,
        }
    }
}

/// The sums behind [`ClientMetrics`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    attempts: [AtomicU64; Outcome::ALL.len()],
    waits: AtomicU64,
    waited_us: AtomicU64,
    kept: AtomicU64,
    shared: AtomicU64,
    hedges: AtomicU64,
    hedges_won: AtomicU64,
    failovers: AtomicU64,
    /// In billionths of a dollar.
    cost_nanos: AtomicU64,
    input: AtomicU64,
    cached: AtomicU64,
    output: AtomicU64,
    first_byte: Histogram,
}

impl Counters {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn kept(&self) {
        self.kept.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn shared(&self) {
        self.shared.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn hedged(&self) {
        self.hedges.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn hedge_won(&self) {
        self.hedges_won.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed_over(&self) {
        self.failovers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn waits(&self, wait: Duration) {
        self.waits.fetch_add(1, Ordering::Relaxed);
        let wait = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        self.waited_us.fetch_add(wait, Ordering::Relaxed);
    }

    pub(super) fn attempt(&self, attempt: &Attempt) {
        let order = Ordering::Relaxed;
        self.attempts[attempt.outcome as usize].fetch_add(1, order);
        self.input.fetch_add(attempt.usage.input_tokens, order);
        self.cached.fetch_add(attempt.usage.cached_input_tokens, order);
        self.output.fetch_add(attempt.usage.output_tokens, order);
        // A second stands for a dollar: its nanoseconds are the billionth parts.
        let cost = attempt.cost_usd.and_then(|usd| Duration::try_from_secs_f64(usd).ok());
        let cost_nanos = cost.unwrap_or_default().as_nanos();
        self.cost_nanos.fetch_add(u64::try_from(cost_nanos).unwrap_or(u64::MAX), order);
        if let Some(first_byte) = attempt.first_byte {
            self.first_byte.record(first_byte);
        }
    }

    pub(super) fn metrics(&self) -> ClientMetrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let attempts = Outcome::ALL.into_iter().zip(self.attempts.iter().map(read));
        ClientMetrics {
            requests: read(&self.requests),
            attempts: attempts.filter(|(_, count)| *count > 0).collect(),
            answers_kept: read(&self.kept),
            answers_shared: read(&self.shared),
            hedges: read(&self.hedges),
            hedges_won: read(&self.hedges_won),
            failovers: read(&self.failovers),
            cost_usd: read(&self.cost_nanos) as f64 / 1e9,
            waits: read(&self.waits),
            waited: Duration::from_micros(read(&self.waited_us)),
            usage: Usage {
                input_tokens: read(&self.input),
                cached_input_tokens: read(&self.cached),
                output_tokens: read(&self.output),
            },
            first_byte: self.first_byte.percentiles(),
            ..ClientMetrics::default()
        }
    }
}
