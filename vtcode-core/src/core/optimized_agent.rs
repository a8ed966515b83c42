//! The engine: a prompt goes in, a changed workspace and an [`AgentOutcome`] come out.
//! Alternates between the model and the tools as `phase` says, and tells every step as an event.
//! Never polls: it sleeps until the stream, a call, the user or the clock has something to say.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::limits::AgentLimits;
use crate::core::conversation::Conversation;
use crate::core::event::{Event, EventKind, Prefix, PrefixChange};
use crate::core::journal::{Journal, Syncer};
use crate::llm::message::{
    Attempt, Delta, Message, Outcome, Part, Setup, ToolAnswer, ToolCall, Usage,
};
use crate::llm::optimized_client::{LlmError, OptimizedLLMClient, ResponseStream, StreamEvent};
use crate::llm::provider::Provider;
use crate::tools::async_pipeline::{
    AsyncToolPipeline, BeforeEffect, ExecutionContext, ExecutionPriority, ToolRequest, ToolResult,
};
use crate::tools::tool::{ChangeKind, Detail, FileChange};

mod budget;
mod phase;
mod prefix;
pub mod prompt;
mod repeats;

use budget::Budget;
use phase::{Action, Input, Phase, Stop, step};
pub use phase::{End, Failure, FailureKind, Limit};
use prefix::PrefixWatch;
use repeats::Repeats;

/// Prompts that may wait while another is worked on.
const PROMPTS_WAITING: usize = 16;

/// One session's engine.
pub struct OptimizedAgentEngine {
    session_id: String,
    pipeline: Arc<AsyncToolPipeline>,
    client: Arc<OptimizedLLMClient>,
    limits: AgentLimits,
    cancel: CancellationToken,
    sinks: Vec<Sink>,
    prompts: Mutex<Option<mpsc::Sender<String>>>,
    begin: Mutex<Option<Begin>>,
}

/// Takes every event, in order, as it happens. Called on the engine's own task: a sink that blocks
/// holds the engine up.
type Sink = Arc<dyn Fn(&Event) + Send + Sync>;

/// What a run takes over when it starts.
struct Begin {
    prompts: mpsc::Receiver<String>,
    journal: Option<Journal>,
    system: String,
    messages: Vec<Message>,
    sent: Option<Prefix>,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentOutcome {
    /// The session's id.
    pub session_id: String,
    /// How the last prompt ended; none when there was no prompt.
    pub end: Option<End>,
    /// What all requests of the run used.
    pub usage: Usage,
    /// Requests made.
    pub turns: u32,
    /// The files changed by the file tools, each once, with the sums of its lines. What commands
    /// changed is not among them.
    pub changes: Vec<FileChange>,
}

/// Why an engine cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// `start` was called before.
    #[error("the engine was started before")]
    StartedTwice,
    /// The client is not ready.
    #[error(transparent)]
    Client(#[from] LlmError),
    /// `submit` came after `close_input`.
    #[error("the engine's input is closed")]
    InputClosed,
}

impl OptimizedAgentEngine {
    /// Returns an engine that has not started, with the default limits and without a journal.
    pub fn new(
        session_id: impl Into<String>,
        pipeline: Arc<AsyncToolPipeline>,
        client: Arc<OptimizedLLMClient>,
    ) -> Self {
        let (sender, prompts) = mpsc::channel(PROMPTS_WAITING);
        let begin = Begin {
            prompts,
            journal: None,
            system: String::new(),
            messages: Vec::new(),
            sent: None,
        };
        Self {
            session_id: session_id.into(),
            pipeline,
            client,
            limits: crate::config::limits::Limits::full().agent,
            cancel: CancellationToken::new(),
            sinks: Vec::new(),
            prompts: Mutex::new(Some(sender)),
            begin: Mutex::new(Some(begin)),
        }
    }

    /// Sets what the session may use.
    #[must_use]
    pub fn with_limits(mut self, limits: AgentLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the system prompt.
    #[must_use]
    pub fn with_system(self, system: impl Into<String>) -> Self {
        let system = system.into();
        self.with_begin(|begin| begin.system = system)
    }

    /// Keeps the session in this journal.
    #[must_use]
    pub fn with_journal(self, journal: Journal) -> Self {
        self.with_begin(|begin| begin.journal = Some(journal))
    }

    /// Goes on with an earlier conversation.
    #[must_use]
    pub fn with_messages(self, messages: Vec<Message>) -> Self {
        self.with_begin(|begin| begin.messages = messages)
    }

    /// Tells what the last request of that conversation began with, so that one that begins
    /// otherwise is told with its cause.
    #[must_use]
    pub fn with_sent(self, sent: Option<Prefix>) -> Self {
        self.with_begin(|begin| begin.sent = sent)
    }

    /// Tells every event to `sink`, in order.
    #[must_use]
    pub fn on_event(mut self, sink: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.sinks.push(Arc::new(sink));
        self
    }

    fn with_begin(self, set: impl FnOnce(&mut Begin)) -> Self {
        if let Some(begin) = lock(&self.begin).as_mut() {
            set(begin);
        }
        self
    }

    /// Returns the token that, cancelled, ends the prompt and the run: the stream and running
    /// commands end at once, and what was done is kept.
    pub fn cancel_token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Hands in a prompt; prompts are worked on one after the other. Waits while too many wait.
    pub async fn submit(&self, prompt: impl Into<String>) -> Result<(), EngineError> {
        let sender = lock(&self.prompts).clone().ok_or(EngineError::InputClosed)?;
        sender.send(prompt.into()).await.map_err(|_| EngineError::InputClosed)
    }

    /// Says that no further prompt will come.
    pub fn close_input(&self) {
        lock(&self.prompts).take();
    }

    /// Works on prompts until the input is closed and all are done, a prompt is interrupted, or a
    /// limit of the run is reached. Dropping the future ends everything it started.
    pub async fn start(&self) -> Result<AgentOutcome, EngineError> {
        let begin = lock(&self.begin).take().ok_or(EngineError::StartedTwice)?;
        let mut run = Run::new(self, begin)?;
        let mut phase = Phase::Idle;
        while phase != Phase::Closed {
            let input = run.next_input(&phase).await;
            let (next, actions) = step(phase, input, &self.limits);
            phase = next;
            for action in actions {
                run.perform(action).await;
            }
        }
        Ok(run.outcome())
    }
}

impl fmt::Debug for OptimizedAgentEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OptimizedAgentEngine")
            .field("session_id", &self.session_id)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Each use replaces the whole value: it is sound after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way out for events; tool calls hold it too, for their progress.
struct Out {
    started: Instant,
    sinks: Vec<Sink>,
}

impl Out {
    fn tell(&self, event: &Event) {
        for sink in &self.sinks {
            sink(event);
        }
    }

    fn event(&self, kind: EventKind) -> Event {
        Event { at: self.started.elapsed(), kind }
    }
}

/// The driver: performs the actions of the state machine and turns what happens into its inputs.
struct Run<'a> {
    engine: &'a OptimizedAgentEngine,
    provider: &'static dyn Provider,
    out: Arc<Out>,
    prompts: mpsc::Receiver<String>,
    journal: Option<Journal>,
    before_effect: Option<BeforeEffect>,
    syncing: Option<JoinHandle<io::Result<()>>>,
    tool_names: Vec<String>,
    conversation: Conversation,
    /// Where requests go, for telling whether that changed.
    place: String,
    prefixes: PrefixWatch,
    budget: Budget,
    repeats: Repeats,
    stream: Option<ResponseStream>,
    /// The words of the answer's unfinished part, kept if the answer is interrupted.
    unfinished: String,
    /// What the answer used, as far as it said.
    usage: Usage,
    /// Words or calls of the answer came: the client does not ask for it again.
    began: bool,
    calls: JoinSet<(usize, ToolCall, ToolResult)>,
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
    turns: u32,
}

impl<'a> Run<'a> {
    fn new(engine: &'a OptimizedAgentEngine, begin: Begin) -> Result<Self, EngineError> {
        let Begin { prompts, journal, system, messages, sent } = begin;
        let (endpoint, client) = (engine.client.endpoint()?, engine.client.limits()?);
        let setup = Setup {
            model: endpoint.model.clone(),
            system,
            tools: engine.pipeline.registry().specs(),
            max_output_tokens: client.max_output_tokens,
            session_id: engine.session_id.clone(),
            temperature: client.temperature,
        };
        let provider = engine.client.provider()?;
        let mut conversation = Conversation::new(provider.head(&setup));
        for message in &messages {
            conversation.push(provider.segment(message));
        }
        let repeats = Repeats::after(&messages, |name| is_repeatable(&engine.pipeline, name));
        let started = Instant::now();
        let stop_calls = CancellationToken::new();
        Ok(Self {
            engine,
            provider,
            out: Arc::new(Out { started, sinks: engine.sinks.clone() }),
            prompts,
            before_effect: journal.as_ref().map(|journal| before_effect(journal.syncer())),
            journal,
            syncing: None,
            tool_names: setup.tools.into_iter().map(|tool| tool.name.into_owned()).collect(),
            conversation,
            place: endpoint.to_string(),
            prefixes: PrefixWatch::after(sent),
            budget: Budget::default(),
            repeats,
            stream: None,
            unfinished: String::new(),
            usage: Usage::default(),
            began: false,
            calls: JoinSet::new(),
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

    /// Sleeps until something happens that the state machine must know.
    async fn next_input(&mut self, phase: &Phase) -> Input {
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
                    let limit = self.engine.limits.max_wall.unwrap_or_default();
                    self.stop(Stop::Limit(Limit::Wall(limit)));
                }
                Some(joined) = self.calls.join_next() => {
                    let (index, call, result) =
                        joined.expect("the task only waits; the pipeline catches a tool's panic");
                    let answer = self.call_done(&call, result);
                    return Input::CallDone(index, answer);
                }
                event = next_event(&mut self.stream), if self.stream.is_some() => {
                    self.stream_event(event);
                }
                prompt = self.prompts.recv(), if idle => {
                    return match prompt {
                        Some(text) => {
                            self.budget.begin();
                            self.tell(EventKind::PromptStarted { text: text.clone() });
                            Input::Prompt(text)
                        }
                        None => Input::Closed,
                    };
                }
            }
        }
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Append(message) => {
                if matches!(message, Message::Assistant { .. }) {
                    self.repeats.next_step();
                }
                let segment = self.provider.segment(&message);
                self.conversation.push(segment);
            }
            Action::Ask { turn } => {
                self.sync_behind();
                let body = self.next_body().await;
                if let Some(limit) = self.budget.passed_by(body.len(), &self.engine.limits) {
                    self.stop(Stop::Limit(limit));
                    return;
                }
                let body_bytes = self.send(body);
                let (prefix, change) = self.prefixes.sends(&self.conversation, &self.place);
                if let Some(change) = change {
                    self.tell(EventKind::PrefixChanged { change });
                    if change == PrefixChange::Unexplained {
                        let message = "this request does not begin as the one before it did; \
                                       that is a fault of VT Code";
                        self.tell(EventKind::Warning { message: message.to_owned() });
                    }
                }
                self.tell(EventKind::RequestSent { turn, body_bytes, prefix: Some(prefix) });
            }
            Action::Again { attempt, cause } => {
                self.tell(EventKind::Retry { attempt, wait: Duration::ZERO, cause });
                let body = self.next_body().await;
                if let Some(limit) = self.budget.passed_by(body.len(), &self.engine.limits) {
                    self.stop(Stop::Limit(limit));
                    return;
                }
                self.send(body);
            }
            Action::Start(index, call) => self.start_call(index, call).await,
            Action::StopAll => {
                self.stream = None;
                self.stop_calls.cancel();
            }
            Action::Warn(message) => self.tell(EventKind::Warning { message }),
            Action::Finish { end, usage, turns } => self.finish(end, usage, turns).await,
        }
    }

    /// Ends the prompt early; words that were streamed but not finished are kept.
    fn stop(&mut self, stop: Stop) {
        self.stopped = true;
        let text = std::mem::take(&mut self.unfinished);
        if !text.trim().is_empty() {
            self.part(Part::Text { text });
        }
        if let Some(attempt) = self.stream.take().and_then(ResponseStream::cancel) {
            self.attempt_ended(attempt);
        }
        self.pending.push_back(Input::Stop(stop));
    }

    /// Renders the next request, once the one before is over.
    async fn next_body(&mut self) -> Vec<u8> {
        self.drain().await;
        self.provider.body(self.conversation.head(), self.conversation.segments())
    }

    /// Sends a request; returns the size of its body.
    fn send(&mut self, body: Vec<u8>) -> usize {
        let body_bytes = body.len();
        self.budget.sends(body_bytes);
        self.unfinished.clear();
        self.usage = Usage::default();
        self.began = false;
        self.stream = Some(self.engine.client.send(body, &self.tool_names));
        body_bytes
    }

    /// Reads the end of an answer's stream, so that its connection can be used again.
    async fn drain(&mut self) {
        while let Some(Ok(event)) = next_event(&mut self.stream).await {
            if let StreamEvent::AttemptEnded(attempt) = event {
                self.attempt_ended(attempt);
            }
        }
        self.stream = None;
    }

    fn stream_event(&mut self, event: Option<Result<StreamEvent, LlmError>>) {
        match event {
            Some(Ok(StreamEvent::Retry { attempt, wait, cause })) => {
                self.tell(EventKind::Retry { attempt, wait, cause });
            }
            Some(Ok(StreamEvent::Waiting { wait })) => {
                let cause = "the rate limit".to_owned();
                self.tell(EventKind::Waiting { wait, cause });
            }
            Some(Ok(StreamEvent::Degraded { what })) => {
                self.tell(EventKind::Warning { message: what });
            }
            Some(Ok(StreamEvent::AttemptEnded(attempt))) => self.attempt_ended(attempt),
            Some(Ok(StreamEvent::FirstByte)) => self.tell(EventKind::FirstByte),
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

    fn attempt_ended(&mut self, attempt: Attempt) {
        self.budget.ended(&attempt);
        if attempt.outcome != Outcome::Done && attempt.usage != Usage::default() {
            self.pending.push_back(Input::Spent(attempt.usage));
        }
        self.tell(EventKind::AttemptEnded(attempt));
    }

    fn delta(&mut self, delta: Delta) {
        self.began |= !matches!(delta, Delta::Usage(_));
        match delta {
            Delta::Text(text) => {
                self.budget.says(text.len());
                self.unfinished.push_str(&text);
                self.tell(EventKind::TextDelta { text });
            }
            Delta::Reasoning(text) => {
                self.budget.says(text.len());
                self.tell(EventKind::ReasoningDelta { text });
            }
            Delta::Part(part) => {
                if let Part::ToolCall(call) = &part {
                    self.budget.says(call.arguments.len());
                }
                if matches!(part, Part::Text { .. }) {
                    self.unfinished.clear();
                }
                self.part(part);
            }
            Delta::Usage(usage) => self.usage = usage,
            Delta::Finish(finish) => {
                self.tell(EventKind::ResponseEnded { finish, usage: self.usage });
                if let Some(miss) = self.prefixes.used(self.usage) {
                    self.tell(EventKind::CacheMissed(miss));
                }
                self.pending.push_back(Input::AnswerEnded { finish, usage: self.usage });
            }
        }
    }

    fn part(&mut self, part: Part) {
        self.tell(EventKind::Part { part: part.clone() });
        self.pending.push_back(Input::Part(part));
    }

    async fn start_call(&mut self, index: usize, call: ToolCall) {
        self.tell(EventKind::ToolStarted {
            call_id: call.id.clone(),
            name: call.name.clone(),
            arguments: call.arguments.clone(),
        });
        if self.stopped {
            // It could not be recorded, so it must not run.
            let answer = ToolAnswer::interrupted(&call, false);
            self.pending.push_back(Input::CallDone(index, answer));
            return;
        }
        let args = match arguments(&call) {
            Ok(args) => args,
            Err(answer) => {
                self.tell_answer(&answer, Detail::Plain, Duration::ZERO, Duration::ZERO);
                self.pending.push_back(Input::CallDone(index, answer));
                return;
            }
        };
        let (out, call_id) = (Arc::clone(&self.out), call.id.clone());
        let progress = move |text: &str| {
            let kind = EventKind::ToolProgress { call_id: call_id.clone(), text: text.to_owned() };
            out.tell(&out.event(kind));
        };
        let request = ToolRequest {
            // The provider's ids may repeat; the place in the conversation does not, also after a
            // resume. Outputs too long for a result are kept under this name.
            id: format!("{}-{index}", self.conversation.segments().len()),
            tool_name: call.name.clone(),
            args,
            priority: ExecutionPriority::Normal,
            // The tools' own limits hold; how long a call waits for others is theirs to decide.
            timeout: Duration::MAX,
            context: ExecutionContext {
                cancel: self.stop_calls.clone(),
                progress: Some(Arc::new(progress)),
                before_effect: self.before_effect.clone(),
            },
        };
        let pipeline = Arc::clone(&self.engine.pipeline);
        // Submitted here, in the order asked; only the result is waited for elsewhere.
        match pipeline.submit_request(request).await {
            Ok(id) => {
                self.calls.spawn(async move {
                    let result = pipeline.wait_result(&id).await;
                    (index, call, result)
                });
            }
            Err(error) => {
                let answer = ToolAnswer {
                    call_id: call.id,
                    name: call.name,
                    text: error.to_string(),
                    is_error: true,
                };
                self.tell_answer(&answer, Detail::Plain, Duration::ZERO, Duration::ZERO);
                self.pending.push_back(Input::CallDone(index, answer));
            }
        }
    }

    fn call_done(&mut self, call: &ToolCall, result: ToolResult) -> ToolAnswer {
        let (mut text, is_error, detail) = match result.result {
            Ok(output) => (output.text, output.is_error, output.detail),
            Err(error) => (error.to_string(), true, Detail::Plain),
        };
        if !is_error && is_repeatable(&self.engine.pipeline, &call.name) {
            // It parsed when the call was started.
            let args = serde_json::from_str(&call.arguments).unwrap_or(Value::Null);
            text = self.repeats.noted(&call.name, &args, text);
        }
        if let Detail::Files { changes } = &detail {
            self.changes.extend(changes.iter().cloned());
        }
        let answer =
            ToolAnswer { call_id: call.id.clone(), name: call.name.clone(), text, is_error };
        self.tell_answer(&answer, detail, result.waited, result.execution_time);
        answer
    }

    fn tell_answer(
        &mut self,
        answer: &ToolAnswer,
        detail: Detail,
        waited: Duration,
        ran: Duration,
    ) {
        let ToolAnswer { call_id, name, text, is_error } = answer.clone();
        self.tell(EventKind::ToolFinished { call_id, name, text, is_error, detail, waited, ran });
    }

    async fn finish(&mut self, end: End, usage: Usage, turns: u32) {
        self.drain().await;
        self.total += usage;
        self.turns += turns;
        let counts = self.engine.pipeline.get_metrics().await.counts();
        self.tell(EventKind::ToolCounts { counts });
        self.tell(match &end {
            End::Done(_) => EventKind::PromptFinished { usage },
            other => EventKind::PromptFailed { error: other.to_string(), usage },
        });
        self.sync().await;
        self.end = Some(end);
    }

    /// Journals an event, then tells it. A journal that cannot be written ends the prompt: what
    /// follows could not be undone or resumed.
    fn tell(&mut self, kind: EventKind) {
        let event = self.out.event(kind);
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.append(&event)
        {
            self.journal = None;
            let failure = Failure { message: error.to_string(), kind: FailureKind::Journal };
            self.stop(Stop::Failed(failure));
        }
        self.out.tell(&event);
    }

    /// Brings the journal onto the disk while the model thinks.
    fn sync_behind(&mut self) {
        let Some(journal) = &self.journal else { return };
        if self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            let syncer = journal.syncer();
            self.syncing = Some(tokio::task::spawn_blocking(move || syncer.sync()));
        }
    }

    async fn sync(&mut self) {
        if let Some(syncing) = self.syncing.take() {
            // Its result is that of the sync that follows.
            let _ = syncing.await;
        }
        let Some(journal) = &self.journal else { return };
        let syncer = journal.syncer();
        let synced = tokio::task::spawn_blocking(move || syncer.sync()).await;
        if let Ok(Err(error)) = synced {
            let message = format!("the session's journal may not be on the disk: {error}");
            self.tell(EventKind::Warning { message });
        }
    }

    fn outcome(self) -> AgentOutcome {
        AgentOutcome {
            session_id: self.engine.session_id.clone(),
            end: self.end,
            usage: self.total,
            turns: self.turns,
            changes: sum_changes(self.changes),
        }
    }
}

fn is_repeatable(pipeline: &AsyncToolPipeline, name: &str) -> bool {
    pipeline.registry().get(name).is_ok_and(|tool| tool.is_repeatable())
}

async fn next_event(stream: &mut Option<ResponseStream>) -> Option<Result<StreamEvent, LlmError>> {
    match stream {
        Some(stream) => stream.next().await,
        None => None,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn before_effect(syncer: Syncer) -> BeforeEffect {
    Arc::new(move || {
        let syncer = syncer.clone();
        Box::pin(async move {
            tokio::task::spawn_blocking(move || syncer.sync())
                .await
                .unwrap_or_else(|e| Err(io::Error::other(e)))
        })
    })
}

/// Reads a call's arguments; what is no JSON object is answered in words to repair it from.
fn arguments(call: &ToolCall) -> Result<Value, ToolAnswer> {
    let text = call.arguments.trim();
    let problem = match serde_json::from_str(if text.is_empty() { "{}" } else { text }) {
        Ok(args @ Value::Object(_)) => return Ok(args),
        Ok(_) => "they are not an object".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(ToolAnswer {
        call_id: call.id.clone(),
        name: call.name.clone(),
        text: format!(
            "the arguments of this call are not valid JSON, so it was not run: {problem}; send \
             the call again with one JSON object"
        ),
        is_error: true,
    })
}

/// Sums the changes to each file; a file that was added and removed again is not among them.
pub fn sum_changes(changes: impl IntoIterator<Item = FileChange>) -> Vec<FileChange> {
    let mut sums: BTreeMap<String, FileChange> = BTreeMap::new();
    for change in changes {
        match sums.get_mut(&change.path) {
            None => {
                sums.insert(change.path.clone(), change);
            }
            Some(sum) if sum.kind == ChangeKind::Add && change.kind == ChangeKind::Delete => {
                sums.remove(&change.path);
            }
            Some(sum) => {
                sum.added = sum.added.saturating_add(change.added);
                sum.removed = sum.removed.saturating_add(change.removed);
                sum.kind = match (sum.kind, change.kind) {
                    (ChangeKind::Add, _) => ChangeKind::Add,
                    (ChangeKind::Delete, ChangeKind::Add) => ChangeKind::Update,
                    (_, kind) => kind,
                };
            }
        }
    }
    sums.into_values().collect()
}

/// Says what kind of failure an error is. An error that passes is one of the stream only once the
/// answer `began`: before that, the client has asked again as often as it may.
fn failure(error: &LlmError, began: bool) -> Failure {
    let stream = matches!(error, LlmError::Stream(_));
    let kind = if error.is_temporary() && began || stream && !error.is_temporary() {
        FailureKind::Stream
    } else if error.is_refusal() {
        FailureKind::Provider
    } else {
        FailureKind::Unavailable
    };
    Failure { message: error.to_string(), kind }
}

#[cfg(test)]
mod tests;
