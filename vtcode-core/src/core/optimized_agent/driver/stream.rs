//! An answer as it arrives: what the stream says is told as events, and what the state machine must
//! know becomes its input. Sends nothing.

use super::super::phase::{Failure, FailureKind, Input, Verdict};
use super::Run;
use crate::core::event::EventKind;
use crate::llm::message::{Attempt, Delta, Outcome, Part, Usage};
use crate::llm::optimized_client::{LlmError, ResponseStream, Silence, StreamEvent};

impl Run<'_> {
    pub(super) fn stream_event(&mut self, event: Option<Result<StreamEvent, LlmError>>) {
        match event {
            Some(Ok(StreamEvent::Retry { attempt, wait, cause })) => {
                self.tell(EventKind::Retry { attempt, wait, cause });
            }
            Some(Ok(StreamEvent::Waiting { wait })) => {
                let cause = "the rate limit".to_owned();
                self.tell(EventKind::Waiting { wait, cause });
            }
            Some(Ok(StreamEvent::Silent(Silence { clock, elapsed, limit }))) => {
                let clock = clock.to_string();
                self.tell(EventKind::ModelWaiting { clock, elapsed, limit });
            }
            Some(Ok(StreamEvent::Degraded { what })) => {
                self.tell(EventKind::Warning { message: what });
            }
            Some(Ok(StreamEvent::FailOver(onward))) => {
                self.stream = None;
                self.onward = Some(onward);
            }
            Some(Ok(StreamEvent::AttemptEnded(attempt))) => self.attempt_ended(attempt),
            Some(Ok(StreamEvent::FirstByte)) => {
                self.tell(EventKind::FirstByte);
            }
            Some(Ok(StreamEvent::Delta(delta))) => self.delta(delta),
            Some(Err(error)) => {
                self.stream = None;
                self.unfinished.clear();
                self.pending.push_back(Input::AnswerBroke(failure(&error, self.began)));
            }
            // The answer has ended and the connection is free for the next request.
            None => self.stream = None,
        }
    }

    pub(super) fn attempt_ended(&mut self, attempt: Attempt) {
        self.budget.ended(&attempt);
        self.meter.parsed(attempt.parse);
        if attempt.outcome != Outcome::Done && attempt.usage != Usage::default() {
            self.pending.push_back(Input::Spent(attempt.usage));
        }
        self.tell(EventKind::AttemptEnded(attempt));
    }

    fn delta(&mut self, delta: Delta) {
        self.began |= !matches!(delta, Delta::Usage(_));
        match delta {
            Delta::Text(text) if self.summing_up => self.budget.says(text.len()),
            Delta::Text(text) => {
                self.budget.says(text.len());
                self.charge_answer(text.len());
                self.unfinished.push_str(&text);
                self.tell(EventKind::TextDelta { text });
            }
            Delta::Reasoning(text) => {
                self.budget.says(text.len());
                self.charge_answer(text.len());
                self.tell(EventKind::ReasoningDelta { text });
            }
            // What a summary says stands in the view that follows it, and nowhere else.
            Delta::Part(part) if self.summing_up => self.pending.push_back(Input::Part(part)),
            Delta::Part(mut part) => {
                if let Part::ToolCall(call) = &mut part {
                    self.call_ids.claim(call);
                    self.budget.says(call.arguments.len());
                    self.charge_answer(call.arguments.len());
                }
                if let Part::Text { text } = &part {
                    self.unfinished.clear();
                    if self.engine.answer_schema.is_some() {
                        self.said.push_str(text);
                    }
                }
                self.part(part);
            }
            Delta::Usage(usage) => self.usage = usage,
            Delta::Finish(finish) => {
                self.attachments.answered(self.usage.output_tokens);
                self.tell(EventKind::ResponseEnded { finish, usage: self.usage });
                if let Some(miss) = self.prefixes.used(self.usage) {
                    self.tell(EventKind::CacheMissed(miss));
                }
                let schema = self.engine.answer_schema.as_ref();
                let verdict = schema.map_or(Verdict::Free, |schema| schema.judge(&self.said));
                self.pending.push_back(Input::AnswerEnded { finish, usage: self.usage, verdict });
            }
        }
    }

    pub(super) fn part(&mut self, part: Part) {
        if let EventKind::Part { part } = self.tell(EventKind::Part { part }) {
            self.pending.push_back(Input::Part(part));
        }
    }
}

pub(super) async fn next_event(
    stream: &mut Option<ResponseStream>,
) -> Option<Result<StreamEvent, LlmError>> {
    match stream {
        Some(stream) => stream.next().await,
        None => None,
    }
}

/// Says what kind of failure an error is. An error that passes is one of the stream only once the
/// answer `began`: before that, the client has asked again as often as it may.
pub(super) fn failure(error: &LlmError, began: bool) -> Failure {
    let stream = matches!(error, LlmError::Stream(_));
    let kind = if error.is_too_long() {
        FailureKind::TooLong
    } else if error.is_temporary() && began || stream && !error.is_temporary() {
        FailureKind::Stream
    } else if error.is_refusal() {
        FailureKind::Provider
    } else {
        FailureKind::Unavailable
    };
    Failure { message: error.to_string(), kind }
}
