//! What became of a tool's calls: counters and times, recorded without a lock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::core::performance_profiler::{Histogram, Percentiles};
use crate::tools::tool::{ToolError, ToolOutput};

/// One tool's counters.
#[derive(Debug, Default)]
pub(in crate::tools) struct Statistics {
    failed: AtomicU64,
    timed_out: AtomicU64,
    cancelled: AtomicU64,
    refused: AtomicU64,
    /// Made at the first call: most sessions use few of the tools.
    times: OnceLock<Times>,
}

#[derive(Debug, Default)]
struct Times {
    ran: Histogram,
    waited: Histogram,
}

/// What became of a tool's calls so far, without those that were answered with a kept or a shared
/// result. All numbers are zero when the limits turn `statistics` off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolMetrics {
    /// The tool.
    pub name: String,
    /// Calls whose result was an error, for whatever reason.
    pub failed: u64,
    /// Of these, calls that reached their deadline.
    pub timed_out: u64,
    /// Of these, calls that were interrupted.
    pub cancelled: u64,
    /// Of these, calls that never ran: bad arguments, or too many waiting.
    pub refused: u64,
    /// How long calls ran; the count is that of all that ran.
    pub ran: Percentiles,
    /// How long calls waited before they ran.
    pub waited: Percentiles,
}

impl Statistics {
    /// Records how a call ended.
    pub(in crate::tools) fn ended(&self, result: &Result<ToolOutput, ToolError>) {
        match result {
            Ok(output) if !output.is_error => {}
            Ok(_) => add(&self.failed),
            Err(error) => self.failed(error),
        }
    }

    /// Records a call that gave no result.
    pub(in crate::tools) fn failed(&self, error: &ToolError) {
        add(&self.failed);
        match error {
            ToolError::TimedOut { .. } => add(&self.timed_out),
            ToolError::Cancelled { .. } => add(&self.cancelled),
            ToolError::BadArguments { .. } | ToolError::Overloaded { .. } => add(&self.refused),
            _ => {}
        }
    }

    /// Records the times of a call that ran.
    pub(in crate::tools) fn took(&self, waited: Duration, ran: Duration) {
        let times = self.times.get_or_init(Times::default);
        times.waited.record(waited);
        times.ran.record(ran);
    }

    pub(in crate::tools) fn metrics(&self, name: &str) -> ToolMetrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let times = |of: fn(&Times) -> &Histogram| {
            self.times.get().map(|times| of(times).percentiles()).unwrap_or_default()
        };
        ToolMetrics {
            name: name.to_owned(),
            failed: read(&self.failed),
            timed_out: read(&self.timed_out),
            cancelled: read(&self.cancelled),
            refused: read(&self.refused),
            ran: times(|times| &times.ran),
            waited: times(|times| &times.waited),
        }
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
