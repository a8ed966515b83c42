//! A session's profile for people and programs: its events come in, in order, from the journal or as
//! they happen; a table, JSON, a trace for Perfetto or one page of HTML come out.
//! What models, tools and repositories said is shown as text and never as markup.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::turns::{Stage, TurnProfile};
use super::{BenchmarkResults, Profile};
use crate::core::event::{CacheMiss, Event, EventKind};
use crate::core::resources::Resources;
use crate::llm::message::{Attempt, Outcome, Part, Usage};

mod html;
#[cfg(feature = "telemetry")]
mod telemetry;
mod trace;

/// How much of a prompt and of a call's arguments is shown.
const SHOWN_CHARS: usize = 160;
/// Lines of the ledger that are kept, the newest ones; the sums count all.
const ATTEMPTS: usize = 10_000;

/// What is known of a session.
#[derive(Debug, Clone, Default)]
pub struct SessionReport {
    /// The session's id.
    pub session_id: String,
    /// When it began, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// The provider's and the model's names, of the newest run.
    pub model: String,
    /// The first words of each prompt, at most 160 characters.
    pub prompts: Vec<String>,
    /// Where the time went.
    pub profile: Profile,
    /// What its requests used.
    pub ledger: Ledger,
    /// The first words of each call's arguments, by its id.
    arguments: HashMap<String, String>,
    /// Each run of a session has a clock of its own; they are laid end to end.
    offset: Duration,
    last: Duration,
}

/// What the requests of a session used.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// The newest attempts, at most 10,000, each with the moment of its end by the session's clock.
    pub attempts: Vec<(Duration, Attempt)>,
    /// All attempts.
    pub count: u64,
    /// Attempts that gave no answer.
    pub lost: u64,
    /// The tokens of all attempts.
    pub usage: Usage,
    /// What they cost, in US dollars, as far as prices are known.
    pub cost_usd: f64,
    /// Bytes of all request bodies.
    pub sent_bytes: u64,
    /// What the provider read anew although it should have had it.
    pub misses: Vec<CacheMiss>,
}

impl SessionReport {
    /// Takes the next event.
    pub fn take(&mut self, event: &Event) {
        let begins = matches!(
            event.kind,
            EventKind::SessionResumed { .. } | EventKind::PromptStarted { .. }
        );
        if begins && event.at + self.offset < self.last {
            self.offset = self.last;
        }
        let at = event.at + self.offset;
        self.last = self.last.max(at);
        if self.offset.is_zero() {
            self.profile.take(event);
        } else {
            self.profile.take(&Event { at, kind: event.kind.clone() });
        }
        match &event.kind {
            EventKind::SessionStarted(header) => {
                self.session_id.clone_from(&header.session_id);
                self.started_at_ms = header.started_at_ms;
                self.model = format!("{} {}", header.provider, header.model);
            }
            EventKind::SessionResumed { provider, model, .. } => {
                self.model = format!("{provider} {model}");
            }
            EventKind::PromptStarted { text, .. } => self.prompts.push(start_of(text)),
            EventKind::RequestSent { body_bytes, .. } => {
                self.ledger.sent_bytes += *body_bytes as u64;
            }
            EventKind::Part { part: Part::ToolCall(call) } => {
                self.arguments.insert(call.id.clone(), start_of(&call.arguments));
            }
            EventKind::AttemptEnded(attempt) => self.ledger.take(at, attempt),
            EventKind::CacheMissed(miss) => self.ledger.misses.push(*miss),
            _ => {}
        }
    }

    /// Returns the durations of each stage as measurements, in the shape that
    /// [`export_results`](super::PerformanceProfiler::export_results) writes, so that two sessions
    /// can be compared.
    pub fn benchmarks(&self) -> Vec<BenchmarkResults> {
        let turns = || self.profile.turns.iter();
        let mut rows: Vec<(String, Vec<Duration>)> = vec![
            ("turn".to_owned(), turns().map(TurnProfile::total).collect()),
            (
                "model wait".to_owned(),
                turns().filter_map(|t| Some(t.answered()?.saturating_sub(t.sent()))).collect(),
            ),
            (
                "first byte".to_owned(),
                turns()
                    .flat_map(|turn| &turn.attempts)
                    .filter_map(|a| Some(a.first_byte?.saturating_sub(a.sent)))
                    .collect(),
            ),
            ("vtcode itself".to_owned(), turns().map(own).collect()),
        ];
        let mut calls: Vec<(&str, Vec<Duration>)> = Vec::new();
        for call in turns().flat_map(|turn| &turn.calls) {
            let Some(finished) = call.finished else { continue };
            let took = finished.saturating_sub(call.began);
            match calls.iter_mut().find(|(tool, _)| *tool == call.tool) {
                Some((_, all)) => all.push(took),
                None => calls.push((&call.tool, vec![took])),
            }
        }
        rows.extend(calls.into_iter().map(|(tool, took)| (format!("tool {tool}"), took)));
        rows.retain(|(_, samples)| !samples.is_empty());
        rows.into_iter()
            .map(|(name, samples)| results(name, &samples, self.profile.total()))
            .collect()
    }

    /// Returns the report for programs.
    pub fn json(&self) -> Value {
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let profile = &self.profile;
        let stages: Vec<Value> = Stage::ALL
            .into_iter()
            .map(|stage| (stage, profile.turns.stage(stage)))
            .filter(|(_, found)| found.count > 0)
            .map(|(stage, found)| {
                json!({
                    "stage": stage, "count": found.count, "p50_us": us(found.p50),
                    "p95_us": us(found.p95), "p99_us": us(found.p99), "max_us": us(found.max),
                })
            })
            .collect();
        let turns: Vec<Value> = profile
            .turns
            .iter()
            .map(|turn| {
                let path = turn.critical_path();
                let savings: Vec<Value> = path
                    .savings
                    .iter()
                    .map(|saving| json!({"tool": saving.tool, "saves_us": us(saving.saves)}))
                    .collect();
                json!({
                    "turn": turn.number, "began_us": us(turn.began), "took_us": us(turn.total()),
                    "critical_path": path.to_string(), "savings": savings,
                    "attempts": turn.attempts.len(), "calls": turn.calls.len(),
                    "own_us": us(own(turn)),
                })
            })
            .collect();
        let Ledger { count, lost, usage, cost_usd, sent_bytes, misses, .. } = &self.ledger;
        let requests = self.ledger.attempts.iter().map(|(at, attempt)| {
            json!({
                "ended_us": us(*at), "attempt": attempt.attempt, "model": attempt.model,
                "outcome": attempt.outcome, "usage": attempt.usage, "cost_usd": attempt.cost_usd,
                "first_byte_us": attempt.first_byte.map(us),
                "per_token_us": attempt.per_token().map(us), "took_us": us(attempt.took),
            })
        });
        let requests: Vec<_> = requests.collect();
        let counts = &profile.counts;
        let (asked, attached) = (&profile.asked.counts, &profile.attached);
        json!({
            "session": {
                "id": self.session_id, "started_at_ms": self.started_at_ms, "model": self.model,
            },
            "totals_us": {
                "first_byte": us(profile.first_byte), "streaming": us(profile.streaming),
                "tools": us(profile.tools), "own": us(profile.own), "total": us(profile.total()),
            },
            "stages": stages,
            "turns": turns,
            "ledger": {
                "attempts": count, "lost": lost, "usage": usage, "cost_usd": cost_usd,
                "sent_bytes": sent_bytes, "requests": requests,
                "cache_misses": misses,
                "tool_results": {
                    "kept": counts.cache_hits, "shared": counts.shared,
                    "stale": counts.stale_rejected, "batch_sizes": counts.batch_sizes,
                },
                "answers": {"kept": asked.kept, "shared": asked.shared},
                "attached": {
                    "files": attached.files, "tokens": attached.tokens, "used": attached.used,
                    "asked": attached.asked, "wasted_tokens": attached.wasted_tokens,
                    "saved_us": us(attached.saved), "stopped": attached.stopped,
                },
            },
            "fallbacks": profile.fallbacks(),
            "benchmarks": self.benchmarks(),
        })
    }

    /// Returns a trace that Perfetto and Chrome open: a lane for each attempt, tool and stage.
    pub fn trace(&self) -> Value {
        trace::of(self)
    }

    /// Returns one page that needs nothing else: no script, no font, no picture from elsewhere.
    pub fn html(&self) -> String {
        html::page(self)
    }

    /// Returns the session's figures in Prometheus' text format.
    #[cfg(feature = "telemetry")]
    pub fn prometheus(&self) -> String {
        telemetry::prometheus(self)
    }

    /// Sends the session's figures and spans to an OpenTelemetry collector, such as
    /// `http://127.0.0.1:4318`. Blocks, up to 10 seconds for the connection and for each read and
    /// write. Fails when the address is not one of `http://`, nobody answers there in time, or the
    /// answer is not of the 200s; the figures go first and may have arrived.
    #[cfg(feature = "telemetry")]
    pub fn send_otlp(&self, base_url: &str) -> std::io::Result<()> {
        telemetry::send(self, base_url)
    }

    /// Returns the table that ends a profiled run.
    pub fn table(&self) -> String {
        self.profile.table()
    }

    fn arguments(&self, call_id: &str) -> &str {
        self.arguments.get(call_id).map_or("", String::as_str)
    }
}

impl Ledger {
    fn take(&mut self, at: Duration, attempt: &Attempt) {
        self.count += 1;
        self.lost += u64::from(attempt.outcome != Outcome::Done);
        self.usage += attempt.usage;
        if self.attempts.len() == ATTEMPTS {
            self.attempts.remove(0);
        }
        self.cost_usd += attempt.cost_usd.unwrap_or_default();
        self.attempts.push((at, attempt.clone()));
    }
}

/// What of a turn was waited for and was our own work.
fn own(turn: &TurnProfile) -> Duration {
    turn.critical_path().waited(|on| *on == super::turns::Waited::Us)
}

fn start_of(text: &str) -> String {
    let mut start: String = text.chars().take(SHOWN_CHARS).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

fn results(name: String, samples: &[Duration], wall: Duration) -> BenchmarkResults {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let at = |hundredths: usize| sorted[(sorted.len() * hundredths).div_ceil(100).max(1) - 1];
    let ns = |d: &Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    let seconds = wall.as_secs_f64();
    BenchmarkResults {
        name,
        operations: samples.len() as u64,
        wall,
        throughput_ops_per_sec: if seconds > 0.0 { samples.len() as f64 / seconds } else { 0.0 },
        p50: at(50),
        p90: at(90),
        p95: at(95),
        p99: at(99),
        max: at(100),
        resources: Resources::default(),
        samples_ns: samples.iter().map(ns).collect(),
    }
}

#[cfg(test)]
mod tests;
