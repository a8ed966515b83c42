//! What the end of a turn waited for: the chain of waits that leads back from its end to its
//! beginning, and what it would have saved if one tool took no time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{CallTimes, TurnProfile, show};

/// A call that began this soon after another ended had waited for it.
const HANDED_OVER: Duration = Duration::from_millis(2);

/// What a piece of the path was spent on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waited {
    /// The model.
    Model,
    /// A tool, by name.
    Tool(String),
    /// A call's wait that no other call explains: a question to the user, the disk.
    Queue,
    /// Our own work.
    Us,
}

/// A piece of the path, by the session's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What was waited for.
    pub on: Waited,
    /// From when.
    pub from: Duration,
    /// Until when.
    pub until: Duration,
}

impl Segment {
    /// Returns how long it was.
    pub fn took(&self) -> Duration {
        self.until.saturating_sub(self.from)
    }
}

/// What a tool's time cost the turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saving {
    /// The tool.
    pub tool: String,
    /// How much earlier the turn would have ended, had all its calls of this tool taken no time.
    pub saves: Duration,
}

/// What a turn's end waited for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CriticalPath {
    /// Its pieces, in order and without gaps: together they are the whole turn.
    pub segments: Vec<Segment>,
    /// What each tool on the path cost, the dearest first; only what would have saved something.
    pub savings: Vec<Saving>,
}

impl CriticalPath {
    pub(super) fn of(turn: &TurnProfile) -> Self {
        let (began, ended) = (turn.began, turn.ended);
        let sent = turn.sent().clamp(began, ended);
        let answered = turn.answered().unwrap_or(ended).clamp(sent, ended);
        let mut back = Back { segments: Vec::new(), at: ended };
        let calls = Finished::of(turn);
        // Calls that were through before the answer was: the turn waited for the model alone.
        let mut next = calls.last().filter(|at| calls.0[*at].finished > answered);
        while let Some(at) = next {
            let call = &calls.0[at];
            back.to(call.finished, &Waited::Us);
            back.to(call.began, &Waited::Tool(call.tool.to_owned()));
            next = call.behind;
            if next.is_none() {
                back.to(call.submitted, &Waited::Queue);
            }
        }
        back.to(answered.min(back.at), &Waited::Us);
        back.to(sent, &Waited::Model);
        back.to(began, &Waited::Us);
        back.segments.reverse();
        Self { segments: back.segments, savings: calls.savings(answered, ended) }
    }

    /// Returns how long the path waited for something.
    pub fn waited(&self, on: impl Fn(&Waited) -> bool) -> Duration {
        let matching = self.segments.iter().filter(|segment| on(&segment.on));
        matching.map(Segment::took).sum()
    }
}

/// "4.1 s model, 0.3 s tools, 0.4 ms us; making grep_file free saves 0.2 s".
impl fmt::Display for CriticalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = self.waited(|on| *on == Waited::Model);
        let tools = self.waited(|on| matches!(on, Waited::Tool(_)));
        let queue = self.waited(|on| *on == Waited::Queue);
        let us = self.waited(|on| *on == Waited::Us);
        write!(f, "{} model, {} tools, {} us", show(model), show(tools), show(us))?;
        if queue >= Duration::from_millis(1) {
            write!(f, ", {} waiting for leave or a slot", show(queue))?;
        }
        if let Some(Saving { tool, saves }) = self.savings.first() {
            write!(f, "; making {tool} free saves {}", show(*saves))?;
        }
        Ok(())
    }
}

/// The path, from its end backwards.
struct Back {
    segments: Vec<Segment>,
    at: Duration,
}

impl Back {
    fn to(&mut self, from: Duration, on: &Waited) {
        if from < self.at {
            self.segments.push(Segment { on: on.clone(), from, until: self.at });
            self.at = from;
        }
    }
}

/// A call that is through.
struct Done<'a> {
    tool: &'a str,
    submitted: Duration,
    began: Duration,
    finished: Duration,
    /// The call whose end it waited for.
    behind: Option<usize>,
}

/// The calls that are through, by their beginnings: each stands behind the one that it waited for.
struct Finished<'a>(Vec<Done<'a>>);

impl<'a> Finished<'a> {
    fn of(turn: &'a TurnProfile) -> Self {
        let done = |call: &'a CallTimes| {
            let (submitted, began, finished) = (call.submitted, call.began, call.finished?);
            Some(Done { tool: &call.tool, submitted, began, finished, behind: None })
        };
        let mut calls: Vec<Done<'_>> = turn.calls.iter().filter_map(done).collect();
        calls.sort_by_key(|call| (call.began, call.finished));
        for at in 0..calls.len() {
            let call = &calls[at];
            let before = calls[..at].iter().enumerate().filter(|(_, other)| {
                // It ended while this one waited, and this one began at once.
                other.finished > call.submitted
                    && other.finished <= call.began + HANDED_OVER
                    && call.began <= other.finished + HANDED_OVER
            });
            calls[at].behind = before.max_by_key(|(_, other)| other.finished).map(|(n, _)| n);
        }
        Self(calls)
    }

    /// Returns the call that ended last.
    fn last(&self) -> Option<usize> {
        (0..self.0.len()).max_by_key(|at| self.0[*at].finished)
    }

    fn savings(&self, answered: Duration, ended: Duration) -> Vec<Saving> {
        let Some(last) = self.last().map(|at| self.0[at].finished.max(answered)) else {
            return Vec::new();
        };
        let mut saved = BTreeMap::new();
        for call in &self.0 {
            saved.entry(call.tool).or_insert_with(|| {
                let last_without = self.without(call.tool).max(answered);
                last.saturating_sub(last_without).min(ended)
            });
        }
        let savings = saved.into_iter().filter(|(_, saves)| !saves.is_zero());
        let mut savings: Vec<_> =
            savings.map(|(tool, saves)| Saving { tool: tool.to_owned(), saves }).collect();
        savings.sort_by_key(|saving| std::cmp::Reverse(saving.saves));
        savings
    }

    /// Returns when the last call would have ended, had those of one tool taken no time: each
    /// begins as long after the one it stands behind, or after it was handed out, as it did.
    fn without(&self, tool: &str) -> Duration {
        let mut ends: Vec<Duration> = Vec::with_capacity(self.0.len());
        for call in &self.0 {
            let ran = call.finished.saturating_sub(call.began);
            let began = match call.behind {
                Some(behind) => {
                    let lag = call.began.saturating_sub(self.0[behind].finished);
                    (ends[behind] + lag).max(call.submitted)
                }
                None => call.began,
            };
            ends.push(if call.tool == tool { began } else { began + ran });
        }
        ends.into_iter().max().unwrap_or_default()
    }
}
