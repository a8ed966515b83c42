//! What became of all calls: counters that are only added to.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::Ending;
use crate::core::event::{ToolCount, ToolCounts};
use crate::tools::optimized_registry::{OptimizedToolRegistry, ToolMetrics};

/// Sizes of batches are counted one by one up to this; larger ones count as this.
const SIZES: usize = 16;

/// A pipeline's counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    waiting: AtomicUsize,
    submitted: AtomicU64,
    ended: AtomicU64,
    cache_hits: AtomicU64,
    shared: AtomicU64,
    stale: AtomicU64,
    checked_ns: AtomicU64,
    overloaded: AtomicU64,
    batch_sizes: [AtomicU64; SIZES],
}

/// What became of all calls of a pipeline so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineMetrics {
    /// Calls that were taken and do not run yet.
    pub waiting: usize,
    /// Calls that run.
    pub running: u64,
    /// Calls that ended, however they did.
    pub completed: u64,
    /// Calls answered with a kept result.
    pub cache_hits: u64,
    /// Calls that took their result from an identical one that ran already.
    pub shared: u64,
    /// Kept results that were found to be out of date, and not served.
    pub stale_rejected: u64,
    /// Calls refused because too many waited.
    pub overloaded: u64,
    /// How many batches of each size ran, from 1 to 16; the last counts all larger ones, too.
    pub batch_sizes: Vec<u64>,
    /// Tools that the catalog did not take.
    pub not_taken: u64,
    /// Each tool's calls.
    pub tools: Vec<ToolMetrics>,
}

/// Counts a call as waiting until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a>(&'a Counters);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts a call that was taken; it waits from now on.
    pub(super) fn submitted(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        add(&self.submitted);
    }

    /// Takes over a call that was counted as waiting.
    pub(super) fn waits(&self) -> Waiting<'_> {
        Waiting(self)
    }

    pub(super) fn overloaded(&self) {
        add(&self.overloaded);
    }

    pub(super) fn stale(&self) {
        add(&self.stale);
    }

    /// Adds the time of a look whether a kept result still holds.
    pub(super) fn checked(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.checked_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Returns the time of all such looks, where they are measured.
    pub(super) fn time_of_checks(&self) -> Duration {
        Duration::from_nanos(self.checked_ns.load(Ordering::Relaxed))
    }

    pub(super) fn batch(&self, size: usize) {
        add(&self.batch_sizes[size.clamp(1, SIZES) - 1]);
    }

    pub(super) fn ended(&self, ending: &Ending) {
        if ending.cache_hit {
            add(&self.cache_hits);
        }
        if ending.shared {
            add(&self.shared);
        }
    }

    /// Counts a call that is over, however it ended.
    pub(super) fn over(&self) {
        add(&self.ended);
    }

    pub(super) fn metrics(&self, registry: &OptimizedToolRegistry) -> PipelineMetrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Read in this order, so that no difference falls below zero.
        let (completed, waiting) = (read(&self.ended), self.waiting());
        let open = read(&self.submitted).saturating_sub(completed);
        PipelineMetrics {
            waiting,
            running: open.saturating_sub(waiting as u64),
            completed,
            cache_hits: read(&self.cache_hits),
            shared: read(&self.shared),
            stale_rejected: read(&self.stale),
            overloaded: read(&self.overloaded),
            batch_sizes: self.batch_sizes.iter().map(read).collect(),
            not_taken: registry.not_taken(),
            tools: registry.metrics(),
        }
    }
}

impl PipelineMetrics {
    /// Returns what is told of it in the event stream.
    pub(crate) fn counts(&self) -> ToolCounts {
        let tool = |tool: &ToolMetrics| ToolCount {
            name: tool.name.clone(),
            ran: tool.ran.count,
            failed: tool.failed,
            timed_out: tool.timed_out,
            cancelled: tool.cancelled,
            p50: tool.ran.p50,
            p95: tool.ran.p95,
            p99: tool.ran.p99,
        };
        let called = |tool: &&ToolMetrics| tool.ran.count > 0 || tool.failed > 0;
        ToolCounts {
            waiting: self.waiting as u64,
            running: self.running,
            cache_hits: self.cache_hits,
            shared: self.shared,
            stale_rejected: self.stale_rejected,
            overloaded: self.overloaded,
            not_taken: self.not_taken,
            batch_sizes: self.batch_sizes.clone(),
            tools: self.tools.iter().filter(called).map(tool).collect(),
        }
    }

    /// Returns how many calls were ended at a deadline.
    pub fn timed_out(&self) -> u64 {
        self.tools.iter().map(|tool| tool.timed_out).sum()
    }
}
