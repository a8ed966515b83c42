//! From the events of a session back to its conversation.

use std::collections::{HashMap, HashSet};

use crate::core::event::{Event, EventKind, Prefix, SessionHeader};
use crate::llm::message::{Message, Outcome, Part, ToolAnswer, ToolCall, Usage, tool_calls, words};
use crate::tools::tool::{Detail, FileChange};

/// What a journal says.
#[derive(Debug, Default)]
pub struct Replay {
    /// The session's header, with the provider and model of its last run.
    pub header: Option<SessionHeader>,
    /// The conversation, as the model would see it in the next request.
    pub messages: Vec<Message>,
    /// What all its requests used.
    pub usage: Usage,
    /// Every change to a file, in order.
    pub changes: Vec<FileChange>,
    /// Model requests so far.
    pub turns: u32,
    /// True when the last line was torn, so that its event is lost.
    pub torn: bool,
    /// Calls that had started and have no result: they may have run.
    pub interrupted: Vec<ToolCall>,
    /// What the last request began with.
    pub sent: Option<Prefix>,
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
    /// Takes the next event.
    pub(crate) fn take(&mut self, event: Event) {
        match event.kind {
            EventKind::SessionStarted(header) => self.header = Some(header),
            EventKind::SessionResumed { provider, base_url, model } => {
                if let Some(header) = &mut self.header {
                    (header.provider, header.base_url, header.model) = (provider, base_url, model);
                }
            }
            EventKind::PromptStarted { text } => {
                self.end_response();
                self.messages.push(Message::User { text });
            }
            EventKind::RequestSent { prefix, .. } => {
                self.turns += 1;
                self.end_response();
                self.sent = prefix;
            }
            // An attempt that gave no call is asked again from scratch.
            EventKind::Retry { .. } if tool_calls(&self.response.parts).next().is_none() => {
                self.response = Response::default();
            }
            EventKind::Part { part } => self.response.parts.push(part),
            EventKind::ToolStarted { call_id, .. } => {
                self.response.started.insert(call_id);
            }
            EventKind::ToolFinished { call_id, name, text, is_error, detail, .. } => {
                if let Detail::Files { changes } = detail {
                    self.changes.extend(changes);
                }
                let answer = ToolAnswer { call_id: call_id.clone(), name, text, is_error };
                self.response.answers.insert(call_id, answer);
            }
            EventKind::ResponseEnded { usage, .. } => self.usage += usage,
            // The tokens of a complete answer are those of its end.
            EventKind::AttemptEnded(attempt) if attempt.outcome != Outcome::Done => {
                self.usage += attempt.usage;
            }
            _ => {}
        }
    }

    /// Takes the end of the journal: what the last answer asked for and did not get was interrupted.
    pub(crate) fn end(&mut self) {
        self.end_response();
    }

    /// Turns the parts of an answer, and what its calls gave, into messages.
    fn end_response(&mut self) {
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
