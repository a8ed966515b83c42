//! The engine: a prompt goes in, a changed workspace and an [`AgentOutcome`] come out.
//! Alternates between the model and the tools as `phase` says, and tells every step as an event.
//! Never polls: it sleeps until the stream, a call, the user or the clock has something to say.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::limits::AgentLimits;
use crate::core::event::{Event, Prefix};
use crate::core::journal::{Journal, JournalError};
use crate::core::memory_budget::{Account, Charge, MemoryBudget, OutOfMemory};
use crate::core::resources::resident_bytes;
use crate::llm::message::{Image, ImageError, Message, Prompt, Usage};
use crate::llm::optimized_client::{LlmError, OptimizedLLMClient};
use crate::tools::async_pipeline::AsyncToolPipeline;
use crate::tools::builtin::run_command::Check;
use crate::tools::tool::FileChange;

mod answer;
mod attachments;
mod budget;
mod call_ids;
mod changes;
mod checks;
mod compact;
pub mod contents;
mod driver;
mod instructions;
mod phase;
pub mod predict;
mod prefix;
pub mod prompt;
mod rehearsal;
mod repeats;

pub use answer::{AnswerSchema, SchemaError};
pub use changes::sum_changes;
use driver::Run;
pub use phase::{End, Failure, FailureKind, Limit};
use phase::{Phase, step};
pub use rehearsal::{Orders, Rehearsal};

/// Prompts that may wait while another is worked on.
const PROMPTS_WAITING: usize = 16;

/// One session's engine. It does nothing until [`start`](Self::start) is called, and ends all that
/// it started when that future ends or is dropped.
///
/// ```
/// use std::sync::Arc;
///
/// use vtcode_core::config::endpoint::{Endpoint, Wire};
/// use vtcode_core::config::limits::Limits;
/// use vtcode_core::core::optimized_agent::{End, OptimizedAgentEngine};
/// use vtcode_core::llm::optimized_client::OptimizedLLMClient;
/// use vtcode_core::tools::async_pipeline::AsyncToolPipeline;
/// use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
/// # use vtcode_testkit::{ScriptedModel, say};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let model = ScriptedModel::start(vec![say("Hello.")]).await;
/// # let url = model.openai_url();
/// // A model behind a known address; `OptimizedLLMClient::new` finds one as the program does.
/// let endpoint = Endpoint::new(Wire::OpenAiChat, url, "some-model");
/// let client = OptimizedLLMClient::with_endpoint(endpoint, Limits::full().client)?;
/// let tools = OptimizedToolRegistry::with_tools(Vec::new(), Limits::full().tools);
/// let pipeline = Arc::new(AsyncToolPipeline::with_registry(Arc::new(tools)));
///
/// let engine = OptimizedAgentEngine::new("a-session", Arc::clone(&pipeline), Arc::new(client));
/// engine.submit("Say hello.").await?;
/// engine.close_input(); // Without it, `start` waits for the next prompt.
/// let outcome = engine.start().await?;
/// pipeline.shutdown().await;
/// // A session of one task is shorter: `engine.run("Say hello.").await?`.
/// assert_eq!(outcome.end, Some(End::Done("Hello.".to_owned())));
/// # Ok(())
/// # }
/// ```
pub struct OptimizedAgentEngine {
    session_id: String,
    pipeline: Arc<AsyncToolPipeline>,
    client: Arc<OptimizedLLMClient>,
    limits: AgentLimits,
    cancel: CancellationToken,
    sinks: Vec<Sink>,
    confirm: Option<Confirm>,
    reread: Option<Reread>,
    memory: MemoryBudget,
    answer_schema: Option<AnswerSchema>,
    check: Option<Arc<Check>>,
    prompts: Mutex<Option<mpsc::Sender<(Prompt, Charge)>>>,
    begin: Mutex<Option<Begin>>,
}

/// Takes every event, in order, as it happens. Called on the engine's own task: a sink that blocks
/// holds the engine up.
type Sink = Arc<dyn Fn(&Event) + Send + Sync>;

/// Asks somebody whether a session that gets nowhere should go on; the text says why it is asked.
/// Who drops the future withdraws the question.
pub type Confirm = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// Says, before a turn begins, what of the session's settings has changed since it last did; none
/// when nothing did. Called on the engine's own task: it is to be quick.
pub type Reread = Arc<dyn Fn() -> Option<Changed> + Send + Sync>;

/// Settings that changed while a session runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changed {
    /// What the session may use from now on, if that is different.
    pub limits: Option<AgentLimits>,
    /// What is different, in words.
    pub notes: Vec<String>,
    /// What could not be taken over, in words.
    pub warnings: Vec<String>,
}

/// What a run takes over when it starts.
struct Begin {
    prompts: mpsc::Receiver<(Prompt, Charge)>,
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
    /// What all requests of the run used. A session that goes on has used more: its journal tells of
    /// its earlier runs, too.
    pub usage: Usage,
    /// What they cost, in US dollars; none where a price is not known.
    pub cost_usd: Option<f64>,
    /// Requests made in the run.
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
    /// The session's earlier messages cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The session may not keep any more; nothing was submitted.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// The images of a prompt cannot be sent; nothing was submitted.
    #[error(transparent)]
    Images(#[from] ImageError),
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
        let limits = crate::config::limits::Limits::full().agent;
        Self {
            session_id: session_id.into(),
            pipeline,
            client,
            memory: MemoryBudget::new(limits.max_memory_bytes, resident_bytes),
            limits,
            cancel: CancellationToken::new(),
            sinks: Vec::new(),
            confirm: None,
            reread: None,
            answer_schema: None,
            check: None,
            prompts: Mutex::new(Some(sender)),
            begin: Mutex::new(Some(begin)),
        }
    }

    /// Sets what the session may use.
    #[must_use]
    pub fn with_limits(mut self, limits: AgentLimits) -> Self {
        self.memory = MemoryBudget::new(limits.max_memory_bytes, resident_bytes);
        self.limits = limits;
        self
    }

    /// Charges this budget instead of one of the session's own.
    #[must_use]
    pub fn with_memory(mut self, memory: MemoryBudget) -> Self {
        self.memory = memory;
        self
    }

    /// Returns the budget that everything is charged to which the session keeps.
    pub fn memory(&self) -> &MemoryBudget {
        &self.memory
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

    /// Makes the last answer of each prompt one JSON value of this kind: the model is told, what it
    /// says is checked and sent back once, and the prompt fails when that does not help.
    #[must_use]
    pub fn with_answer_schema(mut self, schema: AnswerSchema) -> Self {
        self.answer_schema = Some(schema);
        self
    }

    /// Runs this check after edits while the model thinks, as far as the limits allow; what is new
    /// in its outcome is attached to the next result.
    #[must_use]
    pub fn with_check(mut self, check: Check) -> Self {
        self.check = Some(Arc::new(check));
        self
    }

    /// Lets somebody say whether to go on when the model goes in circles; without, its prompt then
    /// fails.
    #[must_use]
    pub fn with_confirm(mut self, confirm: Confirm) -> Self {
        self.confirm = Some(confirm);
        self
    }

    /// Asks before each turn whether settings have changed.
    #[must_use]
    pub fn with_reread(mut self, reread: Reread) -> Self {
        self.reread = Some(reread);
        self
    }

    /// Tells every event to `sink`, in order. One that panics hears nothing more, and a warning
    /// tells the others; the session goes on.
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

    /// Hands in a prompt; prompts are worked on one after the other. Waits while 16 wait already.
    /// Fails when there is no memory left to keep it in, when it holds images that the model does
    /// not take or the client is not ready to say so, and after
    /// [`close_input`](Self::close_input) or the end of the run.
    pub async fn submit(&self, prompt: impl Into<Prompt>) -> Result<(), EngineError> {
        let prompt = prompt.into();
        if !prompt.images.is_empty() {
            self.client.provider()?.images().check(&prompt.images)?;
        }
        let images: usize = prompt.images.iter().map(Image::len).sum();
        let charge = self.memory.charge(Account::Prompts, (prompt.text.len() + images) as u64)?;
        let sender = lock(&self.prompts).clone().ok_or(EngineError::InputClosed)?;
        sender.send((prompt, charge)).await.map_err(|_| EngineError::InputClosed)
    }

    /// Says that no further prompt will come.
    pub fn close_input(&self) {
        lock(&self.prompts).take();
    }

    /// Works on one prompt to its end, and ends what its calls left running: all that a session of
    /// one task needs. The pipeline takes no call afterwards. Fails as [`submit`](Self::submit) and
    /// [`start`](Self::start) do; how the work itself ended is told by the outcome.
    pub async fn run(&self, prompt: impl Into<Prompt>) -> Result<AgentOutcome, EngineError> {
        let outcome = match self.submit(prompt).await {
            Ok(()) => {
                self.close_input();
                self.start().await
            }
            Err(error) => Err(error),
        };
        self.pipeline.shutdown().await;
        outcome
    }

    /// Works on prompts until the input is closed and all are done, a prompt is interrupted, or a
    /// limit of the run is reached. Dropping the future ends everything it started. Fails when it
    /// was called before, the client is not ready, or the session's earlier messages cannot be
    /// read; how the work itself ended is told by the outcome.
    pub async fn start(&self) -> Result<AgentOutcome, EngineError> {
        let begin = lock(&self.begin).take().ok_or(EngineError::StartedTwice)?;
        let mut run = Run::new(self, begin)?;
        let (mut phase, mut actions) = (Phase::Idle, Vec::new());
        while phase != Phase::Closed {
            let input = run.next_input(&phase).await;
            if input.may_begin_turn() {
                run.reread();
            }
            step(&mut phase, input, run.limits(), &mut actions);
            for action in actions.drain(..) {
                run.perform(action, &phase).await;
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
