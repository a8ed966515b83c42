//! What the process uses while a session works: readings are taken when events come, at most one
//! an interval. No timer: while nothing happens, nothing is read.

use std::time::Duration;

use super::show;
use crate::core::memory_pool::{PoolStatistics, global_pool};
use crate::core::resources::Resources;

/// Readings of one session.
#[derive(Debug, Clone)]
pub struct Monitor {
    interval: Duration,
    next: Duration,
    before: Resources,
    last: Resources,
    /// The most descriptors that were open at a reading.
    most_open_files: u64,
    /// The most memory that was resident at a reading, in bytes.
    most_resident_bytes: u64,
    /// How many readings were taken.
    readings: u64,
    /// The pool is the process's: what it had done before is not the session's.
    pool_before: PoolStatistics,
}

impl Monitor {
    /// Takes the first reading. Those of [`look`](Self::look) are at least an interval apart; no
    /// timer runs.
    pub fn new(interval: Duration) -> Self {
        let now = Resources::read();
        let mut monitor = Self {
            interval,
            next: Duration::ZERO,
            before: now,
            last: now,
            most_open_files: 0,
            most_resident_bytes: 0,
            readings: 0,
            pool_before: global_pool().statistics(),
        };
        monitor.take(now);
        monitor
    }

    /// Takes a reading if the interval has passed, by the session's clock.
    pub fn look(&mut self, at: Duration) {
        if at >= self.next {
            self.next = at + self.interval;
            self.take(Resources::read());
        }
    }

    /// Returns how many readings were taken.
    pub fn readings(&self) -> u64 {
        self.readings
    }

    /// Returns what was used between the first reading and the newest.
    pub fn used(&self) -> Resources {
        self.last.since(&self.before)
    }

    fn take(&mut self, now: Resources) {
        self.last = now;
        self.readings += 1;
        self.most_open_files = self.most_open_files.max(now.open_files.unwrap_or(0));
        self.most_resident_bytes = self.most_resident_bytes.max(now.resident_bytes);
    }

    pub(super) fn line(&self, sent_bytes: usize) -> String {
        let used = self.used();
        let (pool, before) = (global_pool().statistics(), self.pool_before);
        let mb = |bytes: u64| bytes as f64 / 1e6;
        format!(
            "used: {} of processor ({} in the kernel), {} by commands; {:.1} MB resident at most; \
             {} files open at most; {} waits, {} preemptions; {:.2} MB read, {:.2} MB written, \
             {:.2} MB of requests sent; {} readings\n\
             pooled buffers: {} used again, {} from the allocator, {} dropped\n",
            show(used.cpu()),
            show(used.cpu_system),
            show(used.children_cpu),
            mb(self.most_resident_bytes),
            self.most_open_files,
            used.waits,
            used.preemptions,
            mb(used.bytes_read),
            mb(used.bytes_written),
            mb(sent_bytes as u64),
            self.readings,
            pool.reused - before.reused,
            pool.fresh - before.fresh,
            pool.full + pool.oversize - before.full - before.oversize,
        )
    }
}
