//! From the events of a session back to its conversation.

use std::collections::{HashMap, HashSet};

use super::marks::{Mark, Totals};
use crate::core::event::{Event, EventKind, Prefix, SessionHeader};
use crate::llm::message::{Message, Part, ToolAnswer, ToolCall, Usage, tool_calls, words};

/// What a journal says.
#[derive(Debug, Default)]
pub struct Replay {
    /// The session's header, with the provider and model of its last run.
    pub header: Option<SessionHeader>,
    /// The newest messages of the conversation, as the model would see them in the next request.
    /// Those before them stay in the journal; see [`Replay::past_messages`].
    pub messages: Vec<Message>,
    /// True when the last line was torn, so that its event is lost.
    pub torn: bool,
    /// Calls that had started and have no result: they may have run.
    pub interrupted: Vec<ToolCall>,
    /// The bytes that were read to know this.
    pub read_bytes: u64,
    pub(super) totals: Totals,
    /// Where the messages begin, if not with the view.
    pub(super) past: Option<Mark>,
    pub(super) marks: Vec<Mark>,
    response: Response,
}

/// The answer that is being read.
#[derive(Debug, Default)]
struct Response {
    parts: Vec<Part>,
    started: HashSet<String>,
    answers: HashMap<String, ToolAnswer>,
}

impl Replay {
    /// Returns what a session's records add up to at a place, to go on from there.
    pub(super) fn after(header: SessionHeader, mark: Mark) -> Self {
        let totals = mark.totals.clone();
        let past = (mark.messages > 0).then_some(mark);
        Self { header: Some(header), totals, past, ..Self::default() }
    }

    /// Returns what all requests used.
    pub fn usage(&self) -> Usage {
        self.totals.usage
    }

    /// Returns how many model requests there were.
    pub fn turns(&self) -> u32 {
        self.totals.turns
    }

    /// Returns what the last request began with.
    pub fn sent(&self) -> Option<&Prefix> {
        self.totals.sent.as_ref()
    }

    /// Returns how many messages of the conversation come before [`Replay::messages`]. The journal
    /// knows them; an engine that is given both sends them all.
    pub fn past_messages(&self) -> usize {
        self.past.as_ref().map_or(0, |past| past.messages)
    }

    /// Takes the next event.
    pub(crate) fn take(&mut self, event: Event) {
        self.take_at(event, 0);
    }

    /// Takes the event of the record that begins at this byte.
    pub(super) fn take_at(&mut self, event: Event, at: u64) {
        self.totals.take(&event.kind, at);
        match event.kind {
            EventKind::SessionStarted(header) => self.header = Some(header),
            EventKind::PromptStarted { text, images } => {
                self.end_response();
                self.messages.push(Message::User { text, images });
            }
            EventKind::AnswerSentBack { text } => {
                self.end_response();
                self.messages.push(Message::user(text));
            }
            EventKind::RequestSent { .. } => self.end_response(),
            EventKind::ViewChanged { messages } => {
                self.end_response();
                self.messages = messages;
                self.past = None;
                self.marks.clear();
            }
            // An attempt that gave no call is asked again from scratch.
            EventKind::Retry { .. } if tool_calls(&self.response.parts).next().is_none() => {
                self.response = Response::default();
            }
            EventKind::Part { part } => self.response.parts.push(part),
            EventKind::ToolStarted { call_id, .. } => {
                self.response.started.insert(call_id);
            }
            EventKind::ToolFinished { call_id, name, text, is_error, .. } => {
                let answer = ToolAnswer { call_id: call_id.clone(), name, text, is_error };
                self.response.answers.insert(call_id, answer);
            }
            EventKind::Attached { call_id, text, .. } => {
                if let Some(answer) = self.response.answers.get_mut(&call_id) {
                    answer.text.push_str(&text);
                }
            }
            _ => {}
        }
    }

    /// Takes the end of the journal: what the last answer asked for and did not get was interrupted.
    pub(crate) fn end(&mut self) {
        self.end_response();
        if let (Some(header), Some(moved)) = (&mut self.header, &self.totals.moved) {
            (header.provider, header.base_url, header.model) = moved.clone();
        }
    }

    /// Turns the parts of an answer, and what its calls gave, into messages.
    pub(super) fn end_response(&mut self) {
        let Response { parts, started, mut answers } = std::mem::take(&mut self.response);
        if is_silent(&parts) {
            return;
        }
        let results: Vec<ToolAnswer> = tool_calls(&parts)
            .map(|call| {
                answers.remove(&call.id).unwrap_or_else(|| {
                    let may_have_run = started.contains(&call.id);
                    if may_have_run {
                        self.interrupted.push(call.clone());
                    }
                    ToolAnswer::interrupted(call, may_have_run)
                })
            })
            .collect();
        self.messages.push(Message::Assistant { parts });
        if !results.is_empty() {
            self.messages.push(Message::Tool { results });
        }
    }
}

/// Returns whether an answer holds neither words nor calls. It leaves no trace in a conversation:
/// providers refuse a message that is empty, or thinking that leads to nothing.
pub(crate) fn is_silent(parts: &[Part]) -> bool {
    tool_calls(parts).next().is_none() && words(parts).trim().is_empty()
}
