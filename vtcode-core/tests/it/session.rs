//! A session for tests: a script of the model's replies goes in, the real engine works on it with
//! the real tools, client and journal, and its transcript comes out as text.
//! After every run it checks what must hold whatever the script was; see [`Session::check`].

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::Limits;
use vtcode_core::config::safety::SafetySettings;
use vtcode_core::core::conversation::Conversation;
use vtcode_core::core::event::{Event, EventKind, PrefixChange, SessionHeader};
use vtcode_core::core::journal::{
    self, Journal, JournalError, Replay, SessionEntry, SessionStatus, Sessions,
};
use vtcode_core::core::memory_budget::MemoryBudget;
use vtcode_core::core::optimized_agent::{AgentOutcome, Confirm, OptimizedAgentEngine};
use vtcode_core::llm::message::{Message, Part, Setup, tool_calls};
use vtcode_core::llm::optimized_client::{Folders, OptimizedLLMClient, Route};
use vtcode_core::llm::provider;
use vtcode_core::safety::permissions::Permissions;
use vtcode_core::safety::sandbox::Sandbox;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::async_pipeline::{AsyncToolPipeline, PipelineMetrics};
use vtcode_core::tools::builtin;
use vtcode_core::tools::builtin::run_command::{Check, CheckPlan};
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_core::tools::tool::{
    CallContext, Effect, Tool, ToolError, ToolFuture, ToolOutput, ToolSpec,
};
use vtcode_testkit::{Reply, ScriptedModel, TempWorkspace};

pub(crate) const ALL: [Wire; 4] = Wire::ALL;
pub(crate) const ID: &str = "test";
/// Held by who sets the memory pool's limits: they are the process's.
pub(crate) static POOL: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const SYSTEM: &str = "Work.";

/// Limits for a wire test: as shipped, but no test waits half a second before it tries again.
pub(crate) fn full() -> Limits {
    quick(Limits::full())
}

/// All but the newest messages on the disk.
pub(crate) fn small() -> Limits {
    let mut limits = full();
    limits.agent.history_window_bytes = 600;
    limits
}

/// Every optimization off.
pub(crate) fn plain() -> Limits {
    quick(Limits::plain())
}

fn quick(mut limits: Limits) -> Limits {
    // What is attached is no content of the script; `attachments` tests it.
    limits.agent.attached_tokens = 0;
    limits.client.backoff = Duration::from_millis(1);
    limits
}

/// Fails a test that hangs instead of holding up all others.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("this hangs")
}

type CancelWhen = Box<dyn Fn(&EventKind) -> bool + Send + Sync>;
type OnEvent = Arc<dyn Fn(&Event) + Send + Sync>;

/// A session, its model, its folder and its state on disk.
pub(crate) struct Session {
    pub(crate) model: ScriptedModel,
    pub(crate) workspace: TempWorkspace,
    pub(crate) sessions: Sessions,
    pub(crate) state: TempDir,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
    /// The folder as the last run opened it.
    opened: Mutex<Option<Arc<Workspace>>>,
    /// Of the last run's pipeline.
    pub(crate) metrics: Mutex<Option<PipelineMetrics>>,
    wire: Wire,
    limits: Limits,
    tools: Vec<Arc<dyn Tool>>,
    cancel_when: Option<Arc<CancelWhen>>,
    on_event: Option<OnEvent>,
    confirm: Option<Confirm>,
    memory: Option<MemoryBudget>,
    fallback: Option<Endpoint>,
    /// Whether the workspace is checked after edits, and with which command if not as it calls for.
    checked: bool,
    check: Option<String>,
}

impl Session {
    pub(crate) async fn new(wire: Wire, limits: Limits, replies: Vec<Reply>) -> Self {
        let state = tempfile::tempdir().unwrap();
        Self {
            model: ScriptedModel::start(replies).await,
            workspace: TempWorkspace::with([("a.txt", "alpha\n"), ("b.txt", "beta\n")]),
            sessions: Sessions::below(state.path())
                .with_window(limits.agent.history_window_bytes as u64),
            state,
            events: Arc::default(),
            opened: Mutex::default(),
            metrics: Mutex::default(),
            wire,
            limits,
            tools: Vec::new(),
            cancel_when: None,
            on_event: None,
            confirm: None,
            memory: None,
            fallback: None,
            checked: false,
            check: None,
        }
    }

    /// Goes on with other limits.
    pub(crate) fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Checks the workspace after edits: with this command, or as its files call for.
    pub(crate) fn checked(mut self, command: Option<&str>) -> Self {
        (self.checked, self.check) = (true, command.map(str::to_owned));
        self
    }

    /// Offers one more tool.
    pub(crate) fn tool(mut self, tool: impl Tool) -> Self {
        self.tools.push(Arc::new(tool));
        self
    }

    /// Interrupts the run at the first event of this kind.
    pub(crate) fn cancel_when(
        mut self,
        when: impl Fn(&EventKind) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.cancel_when = Some(Arc::new(Box::new(when)));
        self
    }

    /// Goes on at another endpoint when the model fails.
    pub(crate) fn fallback(mut self, endpoint: Endpoint) -> Self {
        self.fallback = Some(endpoint);
        self
    }

    /// Charges this budget.
    pub(crate) fn memory(mut self, budget: MemoryBudget) -> Self {
        self.memory = Some(budget);
        self
    }

    pub(crate) fn on_event(mut self, sink: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(sink));
        self
    }

    pub(crate) fn confirm(mut self, confirm: Confirm) -> Self {
        self.confirm = Some(confirm);
        self
    }

    pub(crate) fn header(&self) -> SessionHeader {
        SessionHeader {
            format: journal::FORMAT,
            session_id: ID.to_owned(),
            started_at_ms: 1,
            cwd: self.workspace.path().to_owned(),
            add_dirs: Vec::new(),
            provider: self.wire.to_string(),
            base_url: self.base_url(),
            model: "scripted".to_owned(),
            system: SYSTEM.to_owned(),
        }
    }

    fn base_url(&self) -> String {
        match self.wire {
            Wire::Anthropic => self.model.anthropic_url(),
            Wire::Gemini => self.model.gemini_url(),
            _ => self.model.openai_url(),
        }
    }

    pub(crate) fn journal_path(&self) -> PathBuf {
        self.state.path().join("sessions").join(ID).join("journal.jsonl")
    }

    fn seen_path(&self) -> PathBuf {
        self.journal_path().with_file_name("seen.json")
    }

    pub(crate) fn registry(&self) -> Arc<OptimizedToolRegistry> {
        let workspace = Arc::new(Workspace::open(self.workspace.path()).unwrap());
        workspace.versions().load(&self.seen_path());
        *self.opened.lock().unwrap() = Some(Arc::clone(&workspace));
        let spool_dir = self.state.path().join("sessions").join(ID).join("spool");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut tools = builtin::all(
            &workspace,
            spool_dir,
            [("PATH".into(), path)],
            Arc::new(Sandbox::off()),
            &self.limits.tools,
        );
        tools.extend(self.tools.iter().cloned());
        let permissions = Arc::new(Permissions::for_workspace(workspace));
        let registry = OptimizedToolRegistry::with_tools(tools, self.limits.tools.clone());
        Arc::new(registry.with_permissions(permissions))
    }

    /// Builds an engine that goes on with a conversation.
    pub(crate) fn engine(
        &self,
        journal: Journal,
        messages: Vec<Message>,
    ) -> (Arc<OptimizedAgentEngine>, Arc<AsyncToolPipeline>) {
        let endpoint = Endpoint::new(self.wire, self.base_url(), "scripted");
        let endpoints = std::iter::once(endpoint).chain(self.fallback.clone());
        let limits = &self.limits.client;
        let routes = endpoints.map(|endpoint| Route { endpoint, limits: limits.clone() });
        let client = OptimizedLLMClient::with_routes(routes.collect(), Folders::default());
        let pipeline = Arc::new(AsyncToolPipeline::with_registry(self.registry()));
        let events = Arc::clone(&self.events);
        let mut engine =
            OptimizedAgentEngine::new(ID, Arc::clone(&pipeline), Arc::new(client.unwrap()))
                .with_limits(self.limits.agent.clone())
                .with_system(SYSTEM)
                .with_messages(messages)
                .with_journal(journal)
                .on_event(move |event| events.lock().unwrap().push(event.clone()));
        if let Some(confirm) = self.confirm.clone() {
            engine = engine.with_confirm(confirm);
        }
        if let Some(memory) = self.memory.clone() {
            engine = engine.with_memory(memory);
        }
        if let Some(check) = self.make_check(pipeline.registry()) {
            engine = engine.with_check(check);
        }
        if let Some(sink) = self.on_event.clone() {
            engine = engine.on_event(move |event| sink(event));
        }
        if let Some(when) = self.cancel_when.clone() {
            let cancel = engine.cancel_token();
            engine = engine.on_event(move |event| {
                if when(&event.kind) {
                    cancel.cancel();
                }
            });
        }
        (Arc::new(engine), pipeline)
    }

    fn make_check(&self, registry: &OptimizedToolRegistry) -> Option<Check> {
        if !self.checked {
            return None;
        }
        let names = ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME"];
        let env = names.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
        let check = Check::new(CheckPlan {
            command: self.check.as_deref(),
            detect: true,
            safety: &SafetySettings::default(),
            permissions: registry.permissions(),
            workspace: &Workspace::open(self.workspace.path()).unwrap(),
            private: vec![self.state.path().to_owned()],
            env: env.collect(),
            result_bytes: self.limits.agent.checks.result_bytes,
        });
        check.unwrap()
    }

    /// Creates the session, or goes on with it.
    pub(crate) fn open(&self) -> (Journal, Vec<Message>) {
        if !self.journal_path().exists() {
            return (self.sessions.create(self.header()).unwrap(), Vec::new());
        }
        loop {
            match self.sessions.resume(ID) {
                Ok((journal, replay)) => return (journal, replay.messages),
                // A command of another test that is just being started holds all our files until
                // its program is loaded.
                Err(JournalError::InUse { .. }) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Works on prompts, one after the other, in one run.
    pub(crate) async fn run(&self, prompts: &[&str]) -> AgentOutcome {
        let (journal, messages) = self.open();
        let (engine, pipeline) = self.engine(journal, messages);
        for prompt in prompts {
            engine.submit(*prompt).await.unwrap();
        }
        engine.close_input();
        let outcome = within(engine.start()).await.unwrap();
        within(pipeline.shutdown()).await;
        if let Some(workspace) = &*self.opened.lock().unwrap() {
            workspace.versions().save(&self.seen_path()).unwrap();
        }
        *self.metrics.lock().unwrap() = Some(pipeline.get_metrics().await);
        self.check();
        outcome
    }

    /// Returns the bodies of all requests.
    pub(crate) fn bodies(&self) -> Vec<String> {
        self.model.requests().iter().map(|request| self.shown(&request.body)).collect()
    }

    /// A body without the marks that say what to cache (where they stand is no content), and with
    /// the same name for every temporary folder.
    fn shown(&self, body: &[u8]) -> String {
        let text = std::str::from_utf8(body).unwrap();
        text.replace(r#","cache_control":{"type":"ephemeral"}"#, "")
            .replace(self.workspace.path().to_str().unwrap(), "<workspace>")
    }

    /// Reads the journal as a later run would, from a copy: this one may still be open.
    pub(crate) fn replay(&self) -> Replay {
        replay(&std::fs::read(self.journal_path()).unwrap())
    }

    /// What a request with these messages would hold, without the end of its list.
    pub(crate) fn rendered(&self, messages: &[Message]) -> String {
        let provider = provider::for_wire(self.wire);
        let head = provider.head(&Setup {
            model: "scripted".to_owned(),
            system: SYSTEM.to_owned(),
            tools: self.registry().specs(),
            max_output_tokens: self.limits.client.max_output_tokens,
            session_id: ID.to_owned(),
            ..Setup::default()
        });
        let mut conversation = Conversation::new(head);
        for message in messages {
            conversation.push(&provider.segment(message));
        }
        open(&self.shown(&provider.frame(&conversation).to_vec().unwrap())).to_owned()
    }

    /// Each request begins with the bytes of the one before. What the journal gives back begins
    /// with the bytes of the last request. Every call is answered once, in the order asked.
    pub(crate) fn check(&self) {
        let bodies = self.bodies();
        // Only where older messages left the window does a request begin otherwise.
        let mut compacted = self.compactions();
        for (before, after) in bodies.iter().zip(bodies.iter().skip(1)) {
            if !after.starts_with(open(before)) {
                assert!(compacted > 0, "changed prefix:\n{before}\n{after}");
                compacted -= 1;
            }
        }
        let messages = self.replay().messages;
        let rendered = self.rendered(&messages);
        if let Some(last) = bodies.last() {
            assert!(rendered.starts_with(open(last)), "lost in the journal:\n{last}\n{rendered}");
        }
        for (at, message) in messages.iter().enumerate() {
            if let Message::Assistant { parts } = message {
                let asked: Vec<_> = tool_calls(parts).map(|call| &call.id).collect();
                let answered: Vec<_> = match messages.get(at + 1) {
                    Some(Message::Tool { results }) => results.iter().map(|a| &a.call_id).collect(),
                    _ => Vec::new(),
                };
                assert_eq!(asked, answered);
            }
        }
        assert!(self.model.requests().iter().all(|request| request.error.is_none()));
    }

    /// Returns how often older messages left the window, by the causes of changed prefixes.
    pub(crate) fn compactions(&self) -> usize {
        let change = PrefixChange::Compaction;
        self.count(|kind| *kind == EventKind::PrefixChanged { change })
    }

    /// Writes down the conversation as the journal has it.
    pub(crate) fn transcript(&self) -> String {
        let mut text = String::new();
        let mut line = |words: &str| {
            let root = self.workspace.path().to_str().unwrap();
            let words = words.trim_end().replace(root, "<workspace>").replace('\n', "\n    ");
            writeln!(text, "{words}").unwrap();
        };
        for message in self.replay().messages {
            match message {
                Message::User { text, .. } => line(&format!("user: {text}")),
                Message::Assistant { parts } => {
                    for part in parts {
                        match part {
                            Part::Text { text } => line(&format!("assistant: {text}")),
                            // A seal over what comes next says nothing.
                            Part::Reasoning { text, .. } if text.is_empty() => {}
                            Part::Reasoning { text, .. } => line(&format!("thinks: {text}")),
                            Part::ToolCall(call) => {
                                line(&format!("calls {} {}", call.name, call.arguments));
                            }
                        }
                    }
                }
                Message::Tool { results } => {
                    for result in results {
                        let mark = if result.is_error { "fails" } else { "gives" };
                        line(&format!("{mark} {}: {}", result.name, result.text));
                    }
                }
            }
        }
        text
    }

    pub(crate) fn metrics(&self) -> PipelineMetrics {
        self.metrics.lock().unwrap().clone().expect("a run has ended")
    }

    pub(crate) fn kinds(&self) -> Vec<EventKind> {
        self.events.lock().unwrap().iter().map(|event| event.kind.clone()).collect()
    }

    pub(crate) fn count(&self, wanted: impl Fn(&EventKind) -> bool) -> usize {
        self.kinds().iter().filter(|kind| wanted(kind)).count()
    }
}

/// Reads a journal of these bytes.
pub(crate) fn replay(journal: &[u8]) -> Replay {
    let state = tempfile::tempdir().unwrap();
    let sessions = Sessions::below(state.path());
    let entry = SessionEntry {
        id: ID.to_owned(),
        started_at_ms: 1,
        updated_at_ms: 1,
        cwd: PathBuf::new(),
        model: String::new(),
        title: String::new(),
        status: SessionStatus::Open,
    };
    sessions.note(&entry).unwrap();
    sessions.reserve(ID).unwrap();
    std::fs::write(state.path().join("sessions").join(ID).join("journal.jsonl"), journal).unwrap();
    sessions.resume(ID).unwrap().1
}

/// A body without the end of its list of messages.
fn open(body: &str) -> &str {
    body.strip_suffix("]}").unwrap()
}

/// A tool made of a closure, without effect.
pub(crate) struct Probe<F> {
    spec: ToolSpec,
    call: F,
}

impl<F, Fut> Probe<F>
where
    F: Fn(CallContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<ToolOutput, ToolError>> + Send + 'static,
{
    pub(crate) fn new(name: &'static str, call: F) -> Self {
        let parameters = serde_json::json!({"type": "object", "properties": {}});
        Self {
            spec: ToolSpec { name: name.into(), description: "A test.".into(), parameters },
            call,
        }
    }
}

impl<F, Fut> Tool for Probe<F>
where
    F: Fn(CallContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<ToolOutput, ToolError>> + Send + 'static,
{
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _args: &serde_json::Value) -> Effect {
        Effect::default()
    }

    fn call<'a>(
        &'a self,
        _args: &'a serde_json::Value,
        context: &'a CallContext,
    ) -> ToolFuture<'a> {
        Box::pin((self.call)(context.clone()))
    }
}
