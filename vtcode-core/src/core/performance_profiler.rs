//! Where the time went: events go in, a report comes out.
//! Nothing depends on its answers.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::core::event::{AttachedKind, AttachmentEnd, CheckEnd, Event, EventKind, ToolCounts};
use crate::tools::tool::Detail;

pub mod baseline;
mod benchmarks;
mod histogram;
pub mod history;
mod monitor;
mod report;
pub mod requests;
#[cfg(test)]
mod scenes;
mod stopwatch;
pub mod turns;

pub use benchmarks::{
    BenchmarkResults, BenchmarkUtils, PerformanceProfiler, ProfilerError, Recorder,
};
pub use histogram::{Histogram, Percentiles};
pub use monitor::Monitor;
pub use report::{Ledger, SessionReport};
pub use stopwatch::Stopwatch;

use requests::Requests;
use turns::Turns;

/// Adds up, from a session's events, what the session was waiting for at each moment.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    last: Duration,
    state: Waiting,
    running: u32,
    /// Waiting for the model's first byte.
    pub first_byte: Duration,
    /// Reading the model's answer; tools may run meanwhile.
    pub streaming: Duration,
    /// Waiting for tools, with no request out.
    pub tools: Duration,
    /// Everything else: our own work.
    pub own: Duration,
    /// Model requests.
    pub requests: u32,
    /// Attempts beyond the first.
    pub retries: u32,
    /// Tool calls.
    pub calls: u32,
    /// The time all calls ran, one after the other; overlapping ones count each.
    pub calls_ran: Duration,
    /// Commands that a signal ended: their deadline, an interruption, or somebody else.
    pub killed: u32,
    /// What became of the calls, as it was last told.
    pub counts: ToolCounts,
    /// What became of the model requests.
    pub asked: Requests,
    /// What each turn waited for.
    pub turns: Turns,
    /// Bytes of all requests' bodies.
    pub sent_bytes: usize,
    /// What the process used meanwhile, if that is read.
    pub monitor: Option<Monitor>,
    /// What was attached, and what became of it.
    pub attached: Attached,
    /// What the user was warned of.
    pub warnings: u32,
    /// The checks after edits.
    pub checks: Checks,
}

/// The ledger of checks after edits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    /// Checks that ran to a verdict, or were ended by a bound.
    pub runs: u32,
    /// Of these, the ones that failed.
    pub failed: u32,
    /// Checks that a newer edit or a command made pointless.
    pub superseded: u32,
    /// Checks that said nothing: interrupted, over a bound, or not usable.
    pub silent: u32,
    /// The processor time of all of them.
    pub cpu: Duration,
    /// Outcomes that the model was told.
    pub told: u32,
    /// The tokens of these, about: their text at 4 bytes each.
    pub tokens: u64,
}

/// The ledger of attached files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attached {
    /// Files that were attached.
    pub files: u32,
    /// The tokens of all of them.
    pub tokens: u64,
    /// Files that the model worked with and did not have to ask for.
    pub used: u32,
    /// Files that it asked for all the same.
    pub asked: u32,
    /// The tokens of files that saved nothing.
    pub wasted_tokens: u64,
    /// The time of the steps that were not needed, by the session's own mean.
    pub saved: Duration,
    /// Whether it ended because too few were of use.
    pub stopped: bool,
    /// Folders whose instructions were shown.
    pub instructions: u32,
    /// The tokens of all of them.
    pub instruction_tokens: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Waiting {
    /// Before the first prompt and after the last.
    #[default]
    Nobody,
    FirstByte,
    Stream,
    Us,
}

impl Profile {
    /// Returns a profile that reads what the process uses, at most once an interval.
    pub fn monitored(interval: Duration) -> Self {
        Self { monitor: Some(Monitor::new(interval)), ..Self::default() }
    }

    /// Takes the next event.
    pub fn take(&mut self, event: &Event) {
        self.turns.take(event);
        self.asked.take(&event.kind);
        if let Some(monitor) = &mut self.monitor {
            monitor.look(event.at);
        }
        let passed = event.at.saturating_sub(self.last);
        // What a running call printed is told by its own task, perhaps a little late.
        self.last = self.last.max(event.at);
        match self.state {
            Waiting::Nobody => {}
            Waiting::FirstByte => self.first_byte += passed,
            Waiting::Stream => self.streaming += passed,
            Waiting::Us if self.running > 0 => self.tools += passed,
            Waiting::Us => self.own += passed,
        }
        match &event.kind {
            EventKind::PromptStarted { .. } | EventKind::ResponseEnded { .. } => {
                self.state = Waiting::Us;
            }
            EventKind::RequestSent { body_bytes, .. } => {
                self.requests += 1;
                self.sent_bytes += body_bytes;
                self.state = Waiting::FirstByte;
            }
            EventKind::Retry { .. } => {
                self.retries += 1;
                self.state = Waiting::FirstByte;
            }
            EventKind::FirstByte => self.state = Waiting::Stream,
            EventKind::ToolStarted { .. } => {
                self.calls += 1;
                self.running += 1;
            }
            EventKind::ToolCounts { counts } => self.counts = counts.clone(),
            EventKind::Attached { what: AttachedKind::Check, text, .. } => {
                self.checks.told += 1;
                self.checks.tokens += (text.len() as u64).div_ceil(4);
            }
            EventKind::Attached { what: AttachedKind::Instructions, files, .. } => {
                self.attached.instructions += files.len() as u32;
                self.attached.instruction_tokens +=
                    files.iter().map(|file| file.tokens).sum::<u64>();
            }
            EventKind::CheckEnded { end, cpu, .. } => self.checks.take(*end, *cpu),
            EventKind::Attached { files, .. } => {
                self.attached.files += files.len() as u32;
                self.attached.tokens += files.iter().map(|file| file.tokens).sum::<u64>();
            }
            EventKind::AttachmentSettled { tokens, end, saved, .. } => {
                self.attached.used += u32::from(*end == AttachmentEnd::Used);
                self.attached.asked += u32::from(*end == AttachmentEnd::Asked);
                if *end != AttachmentEnd::Used {
                    self.attached.wasted_tokens += tokens;
                }
                self.attached.saved += *saved;
            }
            EventKind::PredictionStopped { .. } => self.attached.stopped = true,
            EventKind::Warning { .. } => self.warnings += 1,
            EventKind::ToolFinished { ran, detail, .. } => {
                self.killed += u32::from(matches!(detail, Detail::Command { exit_code: None, .. }));
                self.running = self.running.saturating_sub(1);
                self.calls_ran += *ran;
            }
            EventKind::PromptFinished { .. } | EventKind::PromptFailed { .. } => {
                self.state = Waiting::Nobody;
            }
            _ => {}
        }
    }

    /// Returns the time that prompts were worked on.
    pub fn total(&self) -> Duration {
        self.first_byte + self.streaming + self.tools + self.own
    }

    /// Writes the table that ends a profiled run.
    pub fn table(&self) -> String {
        let total = self.total().as_secs_f64();
        let share = |d: Duration| if total > 0.0 { 100.0 * d.as_secs_f64() / total } else { 0.0 };
        let row = |name: &str, d: Duration, note: String| {
            let line = format!("  {name:<28}{:>9}  {:>5.1} %  {note}", show(d), share(d));
            format!("{}\n", line.trim_end())
        };
        let calls = format!("{} calls, {} in sum", self.calls, show(self.calls_ran));
        let requests = match self.retries {
            0 => format!("{} requests", self.requests),
            1 => format!("{} requests, 1 retry", self.requests),
            n => format!("{} requests, {n} retries", self.requests),
        };
        [
            "where the time went:\n".to_owned(),
            row("model, until it answers", self.first_byte, requests),
            row("model, while it answers", self.streaming, String::new()),
            row("tools, with no answer due", self.tools, calls),
            row("vtcode itself", self.own, String::new()),
            row("total", self.total(), String::new()),
            self.slowest_turn(),
            self.asked.lines(),
            self.monitor.as_ref().map_or_else(String::new, |m| m.line(self.sent_bytes)),
            self.attached.line(),
            self.checks.line(),
            self.fallbacks().line(),
            self.tool_table(),
        ]
        .concat()
    }

    /// Returns what the session went on without.
    pub fn fallbacks(&self) -> Fallbacks {
        Fallbacks {
            answers_on_disk: self.asked.counts.disk_failures,
            shared_limits: self.asked.counts.limits_unshared,
            tools: self.counts.not_taken,
            warnings: self.warnings,
        }
    }

    /// Writes what the slowest turn waited for; nothing when there was none.
    fn slowest_turn(&self) -> String {
        self.turns
            .slowest()
            .map_or_else(String::new, |turn| format!("slowest of {}: {turn}\n", self.turns.count()))
    }

    /// Writes what became of the tool calls; nothing when there were none.
    fn tool_table(&self) -> String {
        let counts = &self.counts;
        if self.calls == 0 {
            return String::new();
        }
        let timed_out: u64 = counts.tools.iter().map(|tool| tool.timed_out).sum();
        let sizes = (1..).zip(&counts.batch_sizes).filter(|(_, n)| **n > 0);
        let mut batches: Vec<_> = sizes.map(|(size, n)| format!("{n} of {size}")).collect();
        if batches.is_empty() {
            batches.push("none".to_owned());
        }
        let mut text = format!(
            "tool calls: {} kept, {} shared, {} found stale; {} waiting, {} running; {} refused, \
             {timed_out} timed out, {} killed; batches: {}\n",
            counts.cache_hits,
            counts.shared,
            counts.stale_rejected,
            counts.waiting,
            counts.running,
            counts.overloaded,
            self.killed,
            batches.join(", "),
        );
        if !counts.tools.is_empty() {
            let head = ["ran", "failed", "p50", "p95", "p99"];
            let [ran, failed, p50, p95, p99] = head;
            let _ =
                writeln!(text, "  {:<20}{ran:>6}{failed:>8}{p50:>11}{p95:>11}{p99:>11}", "tool");
        }
        for tool in &counts.tools {
            let [p50, p95, p99] = [tool.p50, tool.p95, tool.p99].map(show);
            let _ = writeln!(
                text,
                "  {:<20}{:>6}{:>8}{p50:>11}{p95:>11}{p99:>11}",
                tool.name, tool.ran, tool.failed
            );
        }
        text
    }
}

/// What a session went on without, and how often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Fallbacks {
    /// Times that an answer on the disk could not be read or kept.
    pub answers_on_disk: u64,
    /// Requests whose place in the rate limits other runs could not see.
    pub shared_limits: u64,
    /// Tools that the catalog did not take.
    pub tools: u64,
    /// What the user was warned of: these parts, each once, and whatever else.
    pub warnings: u32,
}

impl Fallbacks {
    /// Writes the counts; nothing when all went well.
    fn line(self) -> String {
        if self == Self::default() {
            return String::new();
        }
        format!(
            "went on without: the disk for answers {} times, shared rate limits {} times, {} tools; \
             {} warnings\n",
            self.answers_on_disk, self.shared_limits, self.tools, self.warnings
        )
    }
}

impl Attached {
    /// Writes the ledger's sum; nothing when nothing was attached.
    fn line(&self) -> String {
        let instructions = match self.instructions {
            0 => String::new(),
            n => format!("instructions of {n} folders: {} tokens\n", self.instruction_tokens),
        };
        if self.files == 0 {
            return instructions;
        }
        instructions
            + &format!(
                "attached unasked: {} files, {} tokens; {} used, {} asked for all the same; {} tokens \
             wasted, about {} saved{}\n",
                self.files,
                self.tokens,
                self.used,
                self.asked,
                self.wasted_tokens,
                show(self.saved),
                if self.stopped { "; stopped, as too few were of use" } else { "" },
            )
    }
}

impl Checks {
    fn take(&mut self, end: CheckEnd, cpu: Duration) {
        self.cpu += cpu;
        match end {
            CheckEnd::Superseded => self.superseded += 1,
            CheckEnd::Interrupted => self.silent += 1,
            CheckEnd::Passed | CheckEnd::Failed => {
                self.runs += 1;
                self.failed += u32::from(end == CheckEnd::Failed);
            }
            CheckEnd::Unusable | CheckEnd::OutOfTime | CheckEnd::OverBudget => {
                self.runs += 1;
                self.silent += 1;
            }
        }
    }

    /// Writes the ledger's sum; nothing when none ran.
    fn line(&self) -> String {
        if *self == Self::default() {
            return String::new();
        }
        format!(
            "checks after edits: {} ran, {} failed, {} superseded, {} without a word; {} of the \
             processor; told {} times, {} tokens\n",
            self.runs,
            self.failed,
            self.superseded,
            self.silent,
            show(self.cpu),
            self.told,
            self.tokens,
        )
    }
}

/// Writes a duration with three digits and a fitting unit.
fn show(d: Duration) -> String {
    match d.as_secs_f64() {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::scenes::{ended, finished, prompt, sent, started};
    use super::*;

    fn profile(events: impl IntoIterator<Item = (u64, EventKind)>) -> Profile {
        let mut profile = Profile::default();
        for (ms, kind) in events {
            profile.take(&Event { at: Duration::from_millis(ms), kind });
        }
        profile
    }

    fn done(id: &str, ran_ms: u64) -> EventKind {
        scenes::done(id, 0, ran_ms)
    }

    #[test]
    fn every_moment_is_counted_once() {
        let profile = profile([
            (100, prompt()),
            (101, sent(1)),
            (151, FIRST_BYTE),
            (160, started("a")),
            (170, started("b")),
            (181, ended()),
            (191, done("b", 21)),
            (201, done("a", 41)),
            (203, sent(2)),
            (243, FIRST_BYTE),
            (253, ended()),
            (254, finished()),
            (900, prompt()),
            (901, finished()),
        ]);
        let ms = Duration::from_millis;
        assert_eq!(profile.first_byte, ms(50 + 40));
        assert_eq!(profile.streaming, ms(30 + 10));
        assert_eq!(profile.tools, ms(20));
        assert_eq!(profile.own, ms(1 + 2 + 1 + 1));
        assert_eq!(profile.total(), ms(154 + 1), "the time between two prompts is nobody's");
        assert_eq!((profile.requests, profile.retries, profile.calls), (2, 0, 2));
        assert_eq!(profile.calls_ran, ms(62));
    }

    const FIRST_BYTE: EventKind = EventKind::FirstByte;

    #[test]
    fn an_attempt_that_failed_is_waiting_for_the_model() {
        let retry =
            EventKind::Retry { attempt: 2, wait: Duration::from_millis(5), cause: String::new() };
        let events = [(0, prompt()), (0, sent(1)), (10, FIRST_BYTE), (20, retry), (50, finished())];
        let profile = profile(events);
        assert_eq!(profile.first_byte, Duration::from_millis(40));
        assert_eq!(profile.streaming, Duration::from_millis(10));
        assert_eq!((profile.requests, profile.retries), (1, 1));
    }

    #[test]
    fn an_event_that_comes_late_does_not_count_a_moment_twice() {
        let late = EventKind::ToolProgress { call_id: String::new(), text: String::new() };
        let events = [(0, prompt()), (10, ended()), (4, late), (12, finished())];
        assert_eq!(profile(events).total(), Duration::from_millis(12));
    }

    #[test]
    fn the_table_of_nothing_divides_by_nothing() {
        let table = Profile::default().table();
        assert!(table.contains("0.0 %") && !table.contains("NaN"), "{table}");
    }
}
