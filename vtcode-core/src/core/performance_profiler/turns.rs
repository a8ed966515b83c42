//! Turn by turn, what the user waited for: a session's events come in, a timeline of each turn and
//! a row of durations for each stage come out.
//! A turn is one model request with the calls of its answer. It ends with its answer or with its
//! last call, whichever is later; what comes after belongs to the next one, or closes the prompt.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::histogram::{Histogram, Percentiles};
use super::show;
use crate::core::event::{Event, EventKind, OwnWork};

mod path;

pub use path::{CriticalPath, Saving, Segment, Waited};

/// Turns whose timelines are kept, the newest ones; the stages count all.
const TURNS: usize = 4096;

/// What a moment of a session was spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// A turn's wait for the model: from the request to the end of its answer.
    ModelWait,
    /// From a request sent to the first byte of its answer, the making of its connection included
    /// where there was none; each attempt counts.
    FirstByte,
    /// From the first byte to the end of the answer.
    Stream,
    /// Taking an answer's bytes apart, in sum for each turn; where it is measured.
    Parse,
    /// A call's wait for its slot and for the calls before it.
    QueueWait,
    /// A call's run.
    ToolRun,
    /// Looking whether a kept result still holds, in sum for each turn.
    CacheCheck,
    /// Making a request's bytes, in sum for each turn.
    Render,
    /// Writing the journal, in sum for each turn.
    Journal,
    /// Between two prompts.
    Idle,
}

impl Stage {
    /// Every stage, in the order of a turn.
    pub const ALL: [Self; 10] = [
        Self::ModelWait,
        Self::FirstByte,
        Self::Stream,
        Self::Parse,
        Self::QueueWait,
        Self::ToolRun,
        Self::CacheCheck,
        Self::Render,
        Self::Journal,
        Self::Idle,
    ];

    /// Returns its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::ModelWait => "model wait",
            Self::FirstByte => "first byte",
            Self::Stream => "stream",
            Self::Parse => "parse",
            Self::QueueWait => "queue wait",
            Self::ToolRun => "tool run",
            Self::CacheCheck => "cache check",
            Self::Render => "render",
            Self::Journal => "journal",
            Self::Idle => "idle",
        }
    }
}

/// One attempt of a turn's request, by the session's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptTimes {
    /// When it was sent.
    pub sent: Duration,
    /// When the first byte came.
    pub first_byte: Option<Duration>,
    /// When its answer was complete, or it was given up; none while it is on its way.
    pub ended: Option<Duration>,
}

/// One call of a turn, by the session's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallTimes {
    /// Its id.
    pub call_id: String,
    /// The tool.
    pub tool: String,
    /// When it was handed to the pipeline.
    pub submitted: Duration,
    /// When it began to run.
    pub began: Duration,
    /// When its result was there; none while it runs.
    pub finished: Option<Duration>,
    /// Whether it failed.
    pub failed: bool,
}

/// One turn, by the session's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnProfile {
    /// Counts the turns of the session, from 1.
    pub number: u64,
    /// Counts the turns of its prompt, from 1.
    pub of_prompt: u32,
    /// When it began: with its prompt, or with the end of the turn before.
    pub began: Duration,
    /// When it ended; so far the latest of its events.
    pub ended: Duration,
    /// The attempts of its request, in order; at least one.
    pub attempts: Vec<AttemptTimes>,
    /// The calls of its answer, in the order in which they were handed out.
    pub calls: Vec<CallTimes>,
    /// The work of ours that was measured in it.
    pub own: OwnWork,
}

impl TurnProfile {
    /// Returns how long it took.
    pub fn total(&self) -> Duration {
        self.ended.saturating_sub(self.began)
    }

    /// Returns when its request was sent first.
    pub fn sent(&self) -> Duration {
        self.attempts.first().map_or(self.began, |attempt| attempt.sent)
    }

    /// Returns when its answer was complete; none before.
    pub fn answered(&self) -> Option<Duration> {
        self.attempts.last().and_then(|attempt| attempt.ended)
    }

    /// Returns what its end waited for.
    pub fn critical_path(&self) -> CriticalPath {
        CriticalPath::of(self)
    }
}

/// "turn 3: 4.1 s model, 0.3 s tools, 0.4 ms us; making grep_file free saves 0.2 s".
impl fmt::Display for TurnProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "turn {}: {}", self.number, self.critical_path())
    }
}

/// The turns of a session, and the durations of each stage.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    newest: VecDeque<TurnProfile>,
    count: u64,
    open: bool,
    /// When the work on the next turn began.
    next_began: Duration,
    /// When the last prompt ended; none while one is worked on, or before the first.
    idle_since: Option<Duration>,
    stages: Vec<Histogram>,
}

impl Turns {
    /// Takes the next event.
    pub fn take(&mut self, event: &Event) {
        let at = event.at;
        match &event.kind {
            EventKind::PromptStarted { .. } => {
                if let Some(since) = self.idle_since.take() {
                    self.note(Stage::Idle, at.saturating_sub(since));
                }
                self.next_began = at;
            }
            EventKind::RequestSent { turn, .. } => self.begin(*turn, at),
            EventKind::Retry { wait, .. } => {
                let sent = at + *wait;
                if let Some(turn) = self.open_turn() {
                    if let Some(attempt) = turn.attempts.last_mut() {
                        attempt.ended.get_or_insert(at);
                    }
                    turn.attempts.push(AttemptTimes { sent, first_byte: None, ended: None });
                }
            }
            EventKind::FirstByte => {
                let attempt = self.open_turn().and_then(|turn| turn.attempts.last_mut());
                if let Some(attempt) = attempt.filter(|attempt| attempt.first_byte.is_none()) {
                    attempt.first_byte = Some(at);
                    let took = at.saturating_sub(attempt.sent);
                    self.note(Stage::FirstByte, took);
                }
            }
            EventKind::ResponseEnded { .. } => self.answered(at),
            EventKind::ToolStarted { call_id, name, .. } => {
                let (call_id, tool) = (call_id.clone(), name.clone());
                if let Some(turn) = self.open_turn() {
                    let (finished, failed) = (None, false);
                    let (submitted, began) = (at, at);
                    turn.calls.push(CallTimes {
                        call_id,
                        tool,
                        submitted,
                        began,
                        finished,
                        failed,
                    });
                }
            }
            EventKind::ToolFinished { call_id, waited, ran, is_error, .. } => {
                self.note(Stage::QueueWait, *waited);
                self.note(Stage::ToolRun, *ran);
                if let Some(turn) = self.open_turn() {
                    let open = turn
                        .calls
                        .iter_mut()
                        .find(|c| c.finished.is_none() && c.call_id == *call_id);
                    if let Some(call) = open {
                        call.began = at.saturating_sub(*ran).max(call.submitted);
                        call.finished = Some(at);
                        call.failed = *is_error;
                    }
                }
                self.reach(at);
            }
            EventKind::OwnWork { work } => {
                self.note(Stage::Parse, work.parse);
                self.note(Stage::CacheCheck, work.cache_check);
                self.note(Stage::Render, work.render);
                self.note(Stage::Journal, work.journal);
                if let Some(turn) = self.open_turn() {
                    turn.own += *work;
                }
            }
            EventKind::PromptFinished { .. } | EventKind::PromptFailed { .. } => {
                if let Some(turn) = self.open_turn().filter(|turn| turn.answered().is_none()) {
                    // It was interrupted, or no attempt came through.
                    if let Some(attempt) = turn.attempts.last_mut() {
                        attempt.ended = Some(at);
                    }
                }
                self.reach(at);
                self.open = false;
                self.idle_since = Some(at);
            }
            _ => {}
        }
    }

    /// Returns the newest turns, at most 4,096, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &TurnProfile> {
        self.newest.iter()
    }

    /// Returns how many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the turn that took longest, of those that are kept.
    pub fn slowest(&self) -> Option<&TurnProfile> {
        self.newest.iter().max_by_key(|turn| turn.total())
    }

    /// Returns the durations of a stage; all zero where it never occurred or was not measured.
    pub fn stage(&self, stage: Stage) -> Percentiles {
        self.stages.get(stage as usize).map(Histogram::percentiles).unwrap_or_default()
    }

    fn begin(&mut self, of_prompt: u32, at: Duration) {
        self.count += 1;
        if self.newest.len() == TURNS {
            self.newest.pop_front();
        }
        self.newest.push_back(TurnProfile {
            number: self.count,
            of_prompt,
            began: self.next_began.min(at),
            ended: at,
            attempts: vec![AttemptTimes { sent: at, first_byte: None, ended: None }],
            calls: Vec::new(),
            own: OwnWork::default(),
        });
        self.open = true;
    }

    fn answered(&mut self, at: Duration) {
        let Some(turn) = self.open_turn() else { return };
        let sent = turn.sent();
        let first_byte = turn.attempts.last_mut().and_then(|attempt| {
            attempt.ended = Some(at);
            attempt.first_byte
        });
        self.note(Stage::ModelWait, at.saturating_sub(sent));
        if let Some(first_byte) = first_byte {
            self.note(Stage::Stream, at.saturating_sub(first_byte));
        }
        self.reach(at);
    }

    /// Returns the turn that is worked on.
    fn open_turn(&mut self) -> Option<&mut TurnProfile> {
        if self.open { self.newest.back_mut() } else { None }
    }

    fn reach(&mut self, at: Duration) {
        if let Some(turn) = self.open_turn() {
            turn.ended = turn.ended.max(at);
            self.next_began = turn.ended;
        }
    }

    fn note(&mut self, stage: Stage, took: Duration) {
        // What was not measured is zero: it would say that it took no time.
        let measured = !took.is_zero() || matches!(stage, Stage::QueueWait | Stage::ToolRun);
        if !measured {
            return;
        }
        if self.stages.is_empty() {
            self.stages = Stage::ALL.iter().map(|_| Histogram::default()).collect();
        }
        self.stages[stage as usize].record(took);
    }
}

#[cfg(test)]
mod tests;
