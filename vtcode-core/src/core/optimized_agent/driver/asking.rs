//! Requests: the conversation is rendered, held against the limits and sent. Reads no answer but
//! the end of the one before, whose connection the next request uses.

use std::time::Duration;

use super::super::phase::{Failure, FailureKind, Input, Stop};
use super::Run;
use super::rendering::framed;
use super::stream::next_event;
use crate::core::conversation::RequestBody;
use crate::core::event::EventKind;
use crate::llm::message::{Message, ToolChoice, Usage};
use crate::llm::optimized_client::StreamEvent;

impl Run<'_> {
    /// Asks the model, unless that would pass a limit or lead nowhere.
    pub(super) async fn ask(&mut self, turn: u32) {
        if self.goes_in_circles().await {
            return;
        }
        for message in self.engine.pipeline.registry().news() {
            self.tell(EventKind::Warning { message });
        }
        self.sync_behind();
        self.take_stored(false).await;
        self.drain().await;
        if turn > 1 {
            self.tell_own_work();
        }
        self.turn().await;
        if self.stopped || !self.make_room().await {
            return;
        }
        self.choice = std::mem::take(&mut self.next_choice);
        let Some(body_bytes) = self.send().await else { return };
        self.turns += 1;
        let prefix = self.tell_prefix();
        if let Some(journal) = &mut self.journal {
            journal.mark(self.conversation.messages());
        }
        self.attachments.asks();
        self.tell(EventKind::RequestSent { turn, body_bytes, prefix: Some(prefix) });
        self.store_behind();
        self.start_check();
    }

    /// Returns whether the model has asked only for what it knew, too often in a row, and nobody
    /// wants it to go on. The prompt then fails; the session can be gone on with.
    async fn goes_in_circles(&mut self) -> bool {
        let answers = self.repeats.in_circles();
        if answers < self.limits.max_repeats {
            return false;
        }
        let question = format!(
            "the last {answers} answers of the model only repeated calls whose results it had, \
             and nothing changed meanwhile"
        );
        if let Some(confirm) = &self.engine.confirm {
            let asked = self.engine.cancel.run_until_cancelled(confirm(question.clone()));
            if asked.await.unwrap_or(true) {
                // A cancelled session is ended by its cancellation.
                self.repeats.begin();
                return false;
            }
        }
        let message = format!("the model goes in circles: {question}; say what it should do");
        let failure = Failure { message, kind: FailureKind::Model };
        self.pending.push_back(Input::AnswerBroke(failure));
        true
    }

    /// Adds to a prompt of what kind its last answer must be, if it must be of one.
    pub(super) fn asks_for_schema(&self, prompt: String) -> String {
        match &self.engine.answer_schema {
            Some(schema) => format!("{prompt}\n\n{}", schema.instruction()),
            None => prompt,
        }
    }

    /// Tells the model what is wrong with its last answer.
    pub(super) fn send_back(&mut self, problems: &str) {
        let text = format!(
            "Your last message is not the answer that was asked for: {problems}. Send it again: \
             one JSON value that fits the schema, with nothing before or behind it."
        );
        if let EventKind::AnswerSentBack { text } = self.tell(EventKind::AnswerSentBack { text }) {
            self.append(&Message::user(text));
            // Not where that would cost more than a needless call: the conversation read anew.
            if self.provider.choice_keeps_cache() {
                self.next_choice = ToolChoice::None;
            }
        }
    }

    /// Sends the last request once more.
    pub(super) async fn ask_again(&mut self, attempt: u32, cause: String) {
        self.tell(EventKind::Retry { attempt, wait: Duration::ZERO, cause });
        self.drain().await;
        let route = self.route;
        self.turn().await;
        if !self.stopped && self.send().await.is_some() && self.route != route {
            self.tell_prefix();
        }
    }

    /// Sends the conversation once the answer before is over, and returns the size of its body. A
    /// request that would pass a limit ends the prompt instead.
    async fn send(&mut self) -> Option<usize> {
        self.drain().await;
        let (provider, conversation) = (self.provider, &self.conversation);
        let (engine, choice) = (self.engine, &self.choice);
        let body = self
            .meter
            .time(|work| &mut work.render, || framed(provider, conversation, choice, engine));
        self.send_body(body)
    }

    /// Sends a request once the answer before is over.
    pub(super) fn send_body(&mut self, body: RequestBody) -> Option<usize> {
        let (body_bytes, weight) = (body.len(), self.admit(&body)?);
        self.expect_answer(weight);
        self.stream = Some(self.engine.client.send_to(self.route, body, &self.tool_names));
        Some(body_bytes)
    }

    /// Returns the weight of a request, unless it would pass a limit, which ends the prompt.
    pub(super) fn admit(&mut self, body: &RequestBody) -> Option<usize> {
        if !self.room_for_answer() {
            return None;
        }
        let weight = body.weight();
        if let Some(limit) = self.budget.passed_by(weight, &self.limits) {
            self.stop(Stop::Limit(limit));
            return None;
        }
        Some(weight)
    }

    /// A request goes out: its answer has said nothing yet.
    pub(super) fn expect_answer(&mut self, weight: usize) {
        self.budget.sends(weight);
        self.unfinished.clear();
        self.said.clear();
        self.usage = Usage::default();
        self.began = false;
    }

    /// Reads the end of an answer's stream, so that its connection can be used again.
    pub(super) async fn drain(&mut self) {
        while let Some(Ok(event)) = next_event(&mut self.stream).await {
            if let StreamEvent::AttemptEnded(attempt) = event {
                self.attempt_ended(attempt);
            }
        }
        self.stream = None;
    }
}
