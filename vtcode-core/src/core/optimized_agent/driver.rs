//! The driver: performs the actions of the state machine and turns what happens into its inputs.
//! Sleeps until something happens; decides nothing that `phase` could.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::attachments::Attachments;
use super::budget::Budget;
use super::call_ids::CallIds;
use super::instructions::FolderInstructions;
use super::phase::{Action, End, Input, Limit, Phase, Stop};
use super::prefix::PrefixWatch;
use super::repeats::Repeats;
use super::{AgentOutcome, AnswerSchema, Begin, EngineError, OptimizedAgentEngine, sum_changes};
use crate::config::limits::AgentLimits;
use crate::core::conversation::Conversation;
use crate::core::event::EventKind;
use crate::core::journal::Journal;
use crate::core::memory_budget::Charge;
use crate::llm::message::{Message, Part, Prompt, Setup, ToolChoice, Usage};
use crate::llm::optimized_client::{Onward, ResponseStream};
use crate::llm::provider::Provider;
use crate::tools::async_pipeline::{BeforeEffect, ToolResult};
use crate::tools::tool::FileChange;

mod asking;
mod attaching;
mod calls;
mod checking;
mod compacting;
mod elsewhere;
mod history;
mod instructing;
mod journalling;
mod measuring;
mod memory;
mod oversize;
mod rendering;
mod stream;

use calls::{Open, Running};
use checking::Checking;
use elsewhere::setup_for;
use history::{Storing, rendering};
use journalling::{Out, before_effect};
use measuring::Meter;
use memory::Charges;
use oversize::Oversize;
use stream::next_event;

/// A run of the engine: what it works with and what stands open.
pub(super) struct Run<'a> {
    engine: &'a OptimizedAgentEngine,
    /// What the session may use, as it was last said.
    limits: AgentLimits,
    /// The endpoint that is asked, its translation, and what a request carries besides messages.
    route: usize,
    provider: &'a dyn Provider,
    setup: Setup,
    out: Arc<Out>,
    prompts: mpsc::Receiver<(Prompt, Charge)>,
    journal: Option<Journal>,
    before_effect: Option<BeforeEffect>,
    syncing: Option<JoinHandle<io::Result<()>>>,
    storing: Storing,
    /// Names how messages are rendered, as the file with the oldest of them does.
    wire: String,
    tool_names: Arc<[String]>,
    conversation: Conversation,
    /// The conversation's messages, where there is no journal to read them from.
    messages: Option<Vec<Message>>,
    /// Whether the model may call tools in the answer that is due, and in the one after.
    choice: ToolChoice,
    next_choice: ToolChoice,
    /// The answer that streams is a summary.
    summing_up: bool,
    /// Where requests go, for telling whether that changed.
    place: String,
    prefixes: PrefixWatch,
    budget: Budget,
    meter: Meter,
    repeats: Repeats,
    call_ids: CallIds,
    attachments: Box<Attachments>,
    instructions: FolderInstructions,
    checking: Box<Checking>,
    stream: Option<ResponseStream>,
    /// A request that leaves its endpoint.
    onward: Option<Onward>,
    /// The words of the answer's unfinished part, kept if the answer is interrupted.
    unfinished: String,
    /// The words of the answer's finished parts, where they must be of some kind.
    said: String,
    /// What the answer used, as far as it said.
    usage: Usage,
    /// Words or calls of the answer came: the client does not ask for it again.
    began: bool,
    charges: Charges,
    oversize: Oversize,
    calls: FuturesUnordered<Running>,
    /// Results that are cut, because they are too long.
    cutting: JoinSet<(Open, ToolResult)>,
    /// Inputs that follow from an action at once.
    pending: VecDeque<Input>,
    stop_calls: CancellationToken,
    /// Ends the calls of a run that is dropped before its end.
    _stop_dropped: DropGuard,
    wall: Option<Instant>,
    stopped: bool,
    changes: Vec<FileChange>,
    end: Option<End>,
    total: Usage,
    /// Requests that were sent.
    turns: u32,
}

impl<'a> Run<'a> {
    /// Takes over what the engine was given; fails when its client is not ready.
    pub(super) fn new(engine: &'a OptimizedAgentEngine, begin: Begin) -> Result<Self, EngineError> {
        let Begin { prompts, mut journal, system, messages, sent } = begin;
        let call_ids = CallIds::after(&messages);
        let first = engine.client.place(0)?;
        let (endpoint, client) = (first.endpoint, first.limits);
        let setup = Setup {
            system,
            tools: engine.pipeline.registry().specs(),
            // Without a name that is new each time, a later run can send the very same request.
            session_id: if client.keep_all_answers {
                String::new()
            } else {
                engine.session_id.clone()
            },
            answer_schema: engine.answer_schema.as_ref().map(AnswerSchema::schema),
            ..Setup::default()
        };
        let setup = setup_for(&setup, &first);
        let provider = first.provider;
        let wire = rendering(endpoint);
        let render = |message: &Message| self::rendering::rendered(provider, message);
        let past = journal.as_mut().map(|journal| journal.past(&wire, render)).transpose()?;
        let mut conversation = Conversation::after(provider.head(&setup), past.flatten());
        let mut prefixes = PrefixWatch::after(sent);
        let folder = journal.as_ref().map(Journal::dir);
        for message in &messages {
            if rendering::push(&mut conversation, provider, folder, message) > 0 {
                prefixes.image_lost();
            }
        }
        let steps = journal.as_ref().map_or(0, Journal::past_steps);
        let repeats = Repeats::after(steps, &messages);
        let attachments = Box::new(Attachments::after(&messages, &engine.limits));
        let instructions = FolderInstructions::after(&messages);
        let checking = Checking::new(engine.check.clone(), engine.limits.checks, &messages);
        let checking = Box::new(checking);
        let result_bytes = engine.pipeline.registry().limits().result_bytes;
        let oversize = Oversize::new(journal.as_ref().map(Journal::spool_dir), result_bytes);
        let journal_less = journal.is_none();
        let started = Instant::now();
        let stop_calls = CancellationToken::new();
        Ok(Self {
            engine,
            limits: engine.limits.clone(),
            route: 0,
            provider,
            out: Arc::new(Out::new(started, &engine.sinks)),
            prompts,
            before_effect: journal.as_ref().map(|journal| before_effect(journal.syncer())),
            journal,
            syncing: None,
            storing: Storing::default(),
            wire,
            tool_names: setup.tools.iter().map(|tool| tool.name.clone().into_owned()).collect(),
            setup,
            conversation,
            messages: journal_less.then_some(messages),
            choice: ToolChoice::Auto,
            next_choice: ToolChoice::Auto,
            summing_up: false,
            place: endpoint.to_string(),
            prefixes,
            budget: Budget::at(client.price.or(engine.limits.price)),
            meter: Meter::new(engine.limits.measured),
            repeats,
            call_ids,
            attachments,
            instructions,
            checking,
            stream: None,
            onward: None,
            unfinished: String::new(),
            said: String::new(),
            usage: Usage::default(),
            began: false,
            charges: Charges::new(&engine.memory, &engine.pipeline, &engine.client),
            oversize,
            calls: FuturesUnordered::new(),
            cutting: JoinSet::new(),
            pending: VecDeque::new(),
            _stop_dropped: stop_calls.clone().drop_guard(),
            stop_calls,
            wall: engine.limits.max_wall.and_then(|wall| started.checked_add(wall)),
            stopped: false,
            changes: Vec::new(),
            end: None,
            total: Usage::default(),
            turns: 0,
        })
    }

    /// Returns what the session may use.
    pub(super) fn limits(&self) -> &AgentLimits {
        &self.limits
    }

    /// Takes over what of the settings has changed, and tells of it.
    pub(super) fn reread(&mut self) {
        let Some(changed) = self.engine.reread.as_ref().and_then(|reread| reread()) else { return };
        if let Some(limits) = changed.limits {
            self.wall = limits.max_wall.and_then(|wall| self.out.started().checked_add(wall));
            self.limits = limits;
        }
        for message in changed.notes {
            self.tell(EventKind::SettingsChanged { message });
        }
        for message in changed.warnings {
            self.tell(EventKind::Warning { message });
        }
    }

    /// Sleeps until something happens that the state machine must know.
    pub(super) async fn next_input(&mut self, phase: &Phase) -> Input {
        loop {
            if let Some(input) = self.pending.pop_front() {
                return input;
            }
            let (idle, wall) = (*phase == Phase::Idle, self.wall);
            tokio::select! {
                biased;
                () = self.engine.cancel.cancelled(), if !self.stopped => {
                    if idle && self.end.is_some() && self.prompts.is_empty() {
                        // Every prompt has its end; none is left to be interrupted.
                        return Input::Closed;
                    }
                    self.stop(Stop::Interrupted);
                }
                () = sleep_until(wall), if !self.stopped && !idle => {
                    let limit = self.limits.max_wall.unwrap_or_default();
                    self.stop(Stop::Limit(Limit::Wall(limit)));
                }
                Some(ended) = self.calls.next() => {
                    if let Some(input) = self.call_ended(ended) {
                        return input;
                    }
                }
                Some(cut) = self.cutting.join_next() => {
                    let (open, result) = cut.expect("what cuts it does not panic");
                    return self.call_done(open, result);
                }
                checked = self.checking.ended(), if self.checking.is_running() => {
                    self.check_ended(checked);
                }
                event = next_event(&mut self.stream), if self.stream.is_some() => {
                    self.stream_event(event);
                    self.go_on_elsewhere().await;
                }
                prompt = self.prompts.recv(), if idle => {
                    return match prompt {
                        Some((Prompt { text, images }, _charge)) => {
                            self.budget.begin();
                            self.repeats.begin();
                            let text = self.asks_for_schema(text);
                            let begins = EventKind::PromptStarted { text, images };
                            match self.tell(begins) {
                                EventKind::PromptStarted { text, images } => {
                                    Input::Prompt(Prompt { text, images })
                                }
                                _ => unreachable!("what was told is given back"),
                            }
                        }
                        None => Input::Closed,
                    };
                }
            }
        }
    }

    /// Does what the state machine says; `phase` is where it stands by now.
    pub(super) async fn perform(&mut self, action: Action, phase: &Phase) {
        match action {
            Action::Append(message) => {
                let message = self.with_attachments(message).await;
                self.append(&message);
            }
            Action::SendBack(problems) => self.send_back(&problems),
            Action::Ask { turn } => self.ask(turn).await,
            Action::Again { attempt, cause } => self.ask_again(attempt, cause).await,
            Action::SumUp => self.sum_up().await,
            Action::Compact(summary) => self.compact(summary.as_deref()).await,
            Action::Shorten => self.shorten().await,
            Action::Start(index) => {
                let call = phase.call(index).expect("a call that starts is in the answer");
                self.start_call(index, call.clone());
            }
            Action::StopAll => {
                self.stream = None;
                self.stop_calls.cancel();
            }
            Action::Warn(message) => {
                self.tell(EventKind::Warning { message });
            }
            Action::Finish { end, usage } => self.finish(end, usage).await,
        }
    }

    /// Adds a message to the conversation.
    fn append(&mut self, message: &Message) {
        if matches!(message, Message::Assistant { .. }) {
            self.repeats.next_step();
        }
        let (provider, conversation) = (self.provider, &mut self.conversation);
        self.meter.time(
            |work| &mut work.render,
            || rendering::push(conversation, provider, None, message),
        );
        if let Some(messages) = &mut self.messages {
            messages.push(message.clone());
        }
    }

    /// Ends the prompt early; words that were streamed but not finished are kept.
    fn stop(&mut self, stop: Stop) {
        self.stopped = true;
        self.summing_up = false;
        let text = std::mem::take(&mut self.unfinished);
        if !text.trim().is_empty() {
            self.part(Part::Text { text });
        }
        if let Some(attempt) = self.stream.take().and_then(ResponseStream::cancel) {
            self.attempt_ended(attempt);
        }
        self.pending.push_back(Input::Stop(stop));
    }

    /// Ends the prompt: everything is told and on the disk before the next one begins.
    async fn finish(&mut self, end: End, usage: Usage) {
        self.drain().await;
        self.end_check().await;
        self.total += usage;
        let counts = self.engine.pipeline.get_metrics().await.counts();
        self.tell(EventKind::ToolCounts { counts });
        let counts = self.engine.client.get_metrics().await.counts();
        self.tell(EventKind::ClientCounts { counts });
        self.tell_own_work();
        self.tell(match &end {
            End::Done(_) => EventKind::PromptFinished { usage },
            other => {
                let (error, class) = (other.to_string(), other.class());
                EventKind::PromptFailed { error, class, usage }
            }
        });
        self.take_stored(true).await;
        self.sync().await;
        self.end = Some(end);
    }

    /// Returns what came of the run.
    pub(super) fn outcome(self) -> AgentOutcome {
        AgentOutcome {
            session_id: self.engine.session_id.clone(),
            end: self.end,
            usage: self.total,
            cost_usd: self.budget.cost_usd(),
            turns: self.turns,
            changes: sum_changes(self.changes),
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
