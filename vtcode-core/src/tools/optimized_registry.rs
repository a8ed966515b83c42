//! Which tools there are: a name goes in, the tool, the check of its arguments and a permit to run
//! it come out. A catalog that only grows; reading it takes no lock.
//! Knows which calls may overlap and who goes first, and lets none pass that the permissions
//! refuse; how a call runs is for `execution` to know.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::env::Env;
use crate::config::limits::{Limits, ToolLimits};
use crate::config::safety::SandboxSettings;
use crate::core::memory_budget::Sheds;
use crate::safety::permissions::{Asked, Decision, Permissions, Question};
use crate::safety::sandbox::{Sandbox, SandboxPlan};
use crate::safety::workspace::{Workspace, WorkspaceError};
use crate::tools::builtin;
use crate::tools::execution::{Core, Job, Owner};
use crate::tools::tool::{CallContext, Effect, Tool, ToolError, ToolOutput, ToolSpec};

#[cfg(test)]
mod alignment;
mod arguments;
mod catalog;
mod schedule;
mod slots;
mod statistics;

use arguments::Shape;
use catalog::Catalog;
use schedule::Schedule;
pub(in crate::tools) use schedule::Turn;
pub(in crate::tools) use slots::Slots;
pub use slots::{ExecutionPriority, Permit};
use statistics::Statistics;
pub use statistics::ToolMetrics;

/// The tools of a session, in a fixed order, and the slots in which they run.
pub struct OptimizedToolRegistry {
    catalog: Catalog,
    core: Arc<Core>,
    /// Who owns the calls that a program makes directly.
    owner: Owner,
    schedule: Arc<Schedule>,
    validators_kept: AtomicUsize,
    limits: ToolLimits,
    permissions: Arc<Permissions>,
}

/// A tool's place in the catalog; it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ToolId(u32);

/// A tool and what the registry knows of it.
pub struct Entry {
    id: ToolId,
    tool: Arc<dyn Tool>,
    /// The compiled schema, if it is one of those that are kept.
    shape: OnceLock<Shape>,
    statistics: Statistics,
}

/// What a call would do, asked before it runs.
#[derive(Debug, Clone)]
pub(in crate::tools) struct Plan {
    pub(in crate::tools) effect: Effect,
    pub(in crate::tools) timeout: Duration,
    pub(in crate::tools) batch: Option<String>,
    /// Somebody has to answer before it runs.
    pub(in crate::tools) question: Option<(Arc<Permissions>, Box<Question>)>,
}

/// The results that are kept.
impl Sheds for OptimizedToolRegistry {
    fn kept_bytes(&self) -> u64 {
        self.core.kept_bytes()
    }

    fn shed(&self) {
        self.core.shed();
    }
}

impl OptimizedToolRegistry {
    /// Returns the built-in tools for the current folder, with slots for `max_concurrent_tools`
    /// calls at the same time; no tools when that folder cannot be opened. Long outputs of commands
    /// are kept in the state folder.
    pub fn new(max_concurrent_tools: usize) -> Self {
        let mut limits = Limits::full().tools;
        limits.max_concurrent = max_concurrent_tools;
        let registry = Self::with_tools(Vec::new(), limits);
        // Every call then says that there is no such tool.
        let _ = registry.register_builtins();
        registry
    }

    /// Returns a registry of these tools; a later one of the same name hides none, it is ignored.
    pub fn with_tools(tools: Vec<Arc<dyn Tool>>, limits: ToolLimits) -> Self {
        let registry = Self {
            catalog: Catalog::default(),
            core: Core::new(&limits),
            owner: Owner::default(),
            schedule: Arc::default(),
            validators_kept: AtomicUsize::new(0),
            limits,
            permissions: Arc::default(),
        };
        registry.catalog.append(tools);
        registry
    }

    /// Lets these permissions decide over every call. Without, it is those of the current folder
    /// with everything at its default: nobody is asked, and paths lie in that folder.
    #[must_use]
    pub fn with_permissions(mut self, permissions: Arc<Permissions>) -> Self {
        self.permissions = permissions;
        self
    }

    /// Returns what decides over every call.
    pub fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// Appends the built-in tools for the current folder.
    pub(in crate::tools) fn register_builtins(&self) -> Result<(), WorkspaceError> {
        let env = Env::of_process();
        let workspace = Arc::new(Workspace::open(std::path::Path::new("."))?);
        let spool = env.state_dir().unwrap_or_else(std::env::temp_dir);
        let spool = spool.join("library").join(uuid::Uuid::now_v7().to_string());
        let variables: Vec<_> =
            env.vars().map(|(name, value)| (name.clone(), value.clone())).collect();
        let plan = SandboxPlan {
            settings: &SandboxSettings::default(),
            workspace: &workspace,
            build: None,
            private: env.state_dir().into_iter().chain(env.config_dir()).collect(),
            env: &variables,
        };
        let sandbox = Sandbox::new(&plan).unwrap_or_else(|error| Sandbox::refusing(&error));
        self.catalog.append(builtin::all(
            &workspace,
            spool,
            variables,
            Arc::new(sandbox),
            &self.limits,
        ));
        Ok(())
    }

    /// Appends a tool, so that what was rendered before stays a prefix of what is rendered now.
    /// Returns false, and changes nothing, when the name is taken or the tool panics when it is asked
    /// for it; a session that uses the registry goes on, warns once and counts it.
    pub fn register(&self, tool: Arc<dyn Tool>) -> bool {
        self.catalog.append([tool]) == 1
    }

    /// Returns the id of the tool of this name.
    pub fn id(&self, name: &str) -> Option<ToolId> {
        self.catalog.id(name)
    }

    /// Returns the tool of this name. Fails with [`ToolError::Unknown`] when there is none; the
    /// error names the tool whose name is most like it, if one is.
    pub fn get(&self, name: &str) -> Result<Arc<Entry>, ToolError> {
        if let Some(tool) = self.catalog.id(name).and_then(|id| self.catalog.get(id)) {
            return Ok(Arc::clone(tool));
        }
        let nearest = self
            .catalog
            .tools()
            .map(|tool| (strsim::jaro(&tool.spec().name, name), &tool.spec().name))
            // A name that is like none of ours means none of them.
            .filter(|(likeness, _)| *likeness > 0.7)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, name)| name.clone().into_owned());
        Err(ToolError::Unknown { name: name.to_owned(), nearest })
    }

    /// Returns the tool with this id.
    pub fn by_id(&self, id: ToolId) -> Option<Arc<Entry>> {
        self.catalog.get(id).cloned()
    }

    /// Returns the tool of this name as the model sees it.
    pub fn get_tool_metadata(&self, name: &str) -> Option<ToolSpec> {
        self.get(name).ok().map(|tool| tool.spec().clone())
    }

    /// Returns every tool as the model sees it, in the order in which they are offered. The
    /// schemas sent to a model, the prompt's list of tools and the check of arguments all come
    /// from here.
    pub fn specs(&self) -> Vec<ToolSpec> {
        self.catalog.tools().map(|tool| tool.spec().clone()).collect()
    }

    /// Returns the limits that the tools run under.
    pub fn limits(&self) -> &ToolLimits {
        &self.limits
    }

    /// Returns what became of each tool's calls, in the catalog's order.
    pub fn metrics(&self) -> Vec<ToolMetrics> {
        let tools = self.catalog.tools();
        tools.map(|tool| tool.statistics.metrics(&tool.spec().name)).collect()
    }

    /// Returns how many tools were not taken, because of a taken name or a panic.
    pub fn not_taken(&self) -> u64 {
        self.catalog.left_out()
    }

    /// Takes what is to be told of tools that were not taken: each reason once.
    pub(crate) fn news(&self) -> Vec<String> {
        self.catalog.news()
    }

    /// Returns how many calls wait for a slot.
    pub fn waiting(&self) -> usize {
        self.core.slots().waiting()
    }

    /// Checks the arguments of a call against the schema that the model was shown. Fails with
    /// [`ToolError::BadArguments`] when they do not fit it.
    pub fn check(&self, tool: &Entry, args: &Value) -> Result<(), ToolError> {
        let checked = if let Some(shape) = tool.shape.get() {
            shape.check(args)
        } else {
            let shape = Shape::compile(&tool.spec().parameters);
            let checked = shape.check(args);
            let more = |kept: usize| (kept < self.limits.validators_kept).then_some(kept + 1);
            let order = Ordering::Relaxed;
            if self.validators_kept.fetch_update(order, order, more).is_ok() {
                // Another thread may have kept the same; one of the two is enough.
                let _ = tool.shape.set(shape);
            }
            checked
        };
        checked.map_err(|problem| ToolError::BadArguments { name: tool.name(), problem })
    }

    /// Checks a call and asks its tool what it would do; refuses what is not permitted. Every call
    /// of every tool comes through here.
    pub(in crate::tools) fn plan(&self, tool: &Entry, args: &Value) -> Result<Plan, ToolError> {
        let plan = || {
            self.check(tool, args)?;
            let wanted = tool.tool.timeout(args).unwrap_or(self.limits.timeout);
            let effect = tool.tool.effect(args);
            let command = tool.tool.command(args);
            let name = &tool.spec().name;
            let asked = Asked { tool: name, effect: &effect, command };
            let question = match self.permissions.decide(&asked)? {
                Decision::Run => None,
                Decision::Ask(question) => Some((Arc::clone(&self.permissions), question)),
            };
            Ok(Plan {
                effect,
                question,
                timeout: wanted.min(self.limits.max_timeout),
                batch: tool.tool.batch(args),
            })
        };
        let planned = catch_unwind(AssertUnwindSafe(plan)).unwrap_or_else(|e| Err(crashed(e)));
        planned.inspect_err(|error| self.ended_early(tool, error))
    }

    /// Records a call that ended before it was taken.
    fn ended_early(&self, tool: &Entry, error: &ToolError) {
        if self.limits.statistics {
            tool.statistics.failed(error);
        }
    }

    /// Enters a call behind all earlier ones that its effect conflicts with.
    pub(in crate::tools) fn enter(&self, effect: Effect) -> Turn {
        self.schedule.enter(effect)
    }

    /// Waits for a slot; fails at once when too many wait already.
    pub async fn permit(&self, priority: ExecutionPriority) -> Result<Permit, ToolError> {
        self.core.slots().permit(priority).await
    }

    /// Returns what calls run in.
    pub(in crate::tools) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Runs one call as the agent's own calls run: its arguments checked, behind the calls that it
    /// conflicts with, from what is kept or shared where that still holds, in a slot. The tool's
    /// deadline bounds the waiting and the running together. Dropping the future ends the call.
    /// Fails when no tool has the name, the arguments do not fit, the call is not permitted, too
    /// many calls wait already, the deadline passes, or the tool fails or panics.
    pub async fn execute_tool_optimized(
        &self,
        name: &str,
        args: Value,
    ) -> Result<ToolOutput, ToolError> {
        let submitted = Instant::now();
        let tool = self.get(name)?;
        self.core.admit()?;
        let plan = self.plan(&tool, &args)?;
        let cancel = CancellationToken::new();
        let job = Job {
            args: Arc::new(args),
            batch: plan.batch,
            read_only: plan.effect.is_read_only(),
            priority: ExecutionPriority::default(),
            turn: self.enter(plan.effect),
            call: CallContext {
                call_id: uuid::Uuid::now_v7().to_string().into(),
                cancel: cancel.clone(),
                timeout: plan.timeout,
                progress: None,
            },
            before_effect: None,
            question: plan.question,
            submitted,
            deadline: submitted.checked_add(plan.timeout),
            owner: self.owner.clone(),
            tool,
        };
        // Who drops the future ends the call.
        let _cancel = cancel.drop_guard();
        self.core.take();
        self.core.carry_out(job).await.result
    }

    /// Ends what the calls of all tools left running. No call may run any more.
    pub(in crate::tools) async fn close(&self) {
        join_all(self.catalog.tools().map(|entry| entry.tool.close())).await;
    }
}

impl Entry {
    fn new(id: ToolId, tool: Arc<dyn Tool>) -> Self {
        Self { id, tool, shape: OnceLock::new(), statistics: Statistics::default() }
    }

    /// Returns the tool's id.
    pub fn id(&self) -> ToolId {
        self.id
    }

    /// Returns the tool as the model sees it.
    pub fn spec(&self) -> &ToolSpec {
        self.tool.spec()
    }

    /// Returns whether the same call gives the same result while no file changes.
    pub fn is_repeatable(&self) -> bool {
        self.tool.is_repeatable()
    }

    /// Returns how many bytes a call would read, as far as a look at the disk tells; blocks. Panics
    /// when the tool does.
    pub fn bytes(&self, args: &Value) -> Option<u64> {
        self.tool.bytes(args)
    }

    /// Returns whether what a call would read is shown only to those who ask for it; blocks. Panics
    /// when the tool does.
    pub fn on_request_only(&self, args: &Value) -> bool {
        self.tool.on_request_only(args)
    }

    /// Tells the tool that what a call gave was shown to nobody. Panics when the tool does.
    pub fn unshown(&self, args: &Value) {
        self.tool.unshown(args);
    }

    /// Returns what a call would do, as far as its arguments tell. Panics when the tool does.
    pub fn effect(&self, args: &Value) -> Effect {
        self.tool.effect(args)
    }

    /// Returns whether a call with these arguments runs a command. Panics when the tool does.
    pub fn runs_a_command(&self, args: &Value) -> bool {
        self.tool.command(args).is_some()
    }

    pub(in crate::tools) fn name(&self) -> String {
        self.spec().name.clone().into_owned()
    }

    /// Runs a call for which there is a permit, within its deadline. A tool is asked to end at its
    /// deadline and when it is cancelled, and is dropped when it did not within two seconds. A tool
    /// that panics gives a result like any other.
    pub(in crate::tools) async fn execute(
        &self,
        _permit: &Permit,
        args: &Value,
        context: &CallContext,
    ) -> Result<ToolOutput, ToolError> {
        let call = async { self.tool.call(args, context).await };
        let call = AssertUnwindSafe(call).catch_unwind();
        let result =
            within(self, context, async { call.await.unwrap_or_else(|panic| Err(crashed(panic))) });
        result.await.unwrap_or_else(Err)
    }

    /// Runs several calls of one batch as [`Self::execute`] runs one.
    pub(in crate::tools) async fn execute_batch(
        &self,
        _permit: &Permit,
        calls: &[&Value],
        context: &CallContext,
    ) -> Vec<Result<ToolOutput, ToolError>> {
        let batch = async { self.tool.call_batch(calls, context).await };
        let batch = AssertUnwindSafe(batch).catch_unwind();
        let all = |error: &dyn Fn() -> ToolError| calls.iter().map(|_| Err(error())).collect();
        match within(self, context, batch).await {
            Ok(Ok(results)) if results.len() == calls.len() => results,
            Ok(Ok(_)) => all(&|| ToolError::Failed("the batch lost a result".to_owned())),
            Ok(Err(panic)) => {
                let what = last_words(panic);
                all(&|| ToolError::Crashed { what: what.clone() })
            }
            Err(ToolError::TimedOut { name, limit }) => {
                all(&|| ToolError::TimedOut { name: name.clone(), limit })
            }
            Err(_) => all(&|| ToolError::Cancelled { name: self.name() }),
        }
    }

    /// Records the times of a call that ran.
    pub(in crate::tools) fn took(&self, waited: Duration, ran: Duration) {
        self.statistics.took(waited, ran);
    }

    /// Records how a call ended.
    pub(in crate::tools) fn ended(&self, result: &Result<ToolOutput, ToolError>) {
        self.statistics.ended(result);
    }
}

/// Waits for a call's end, but not for long after its deadline or its cancellation.
async fn within<T>(
    tool: &Entry,
    context: &CallContext,
    work: impl Future<Output = T>,
) -> Result<T, ToolError> {
    let overdue = async {
        let cancelled = context.cancel.cancelled();
        let in_time = tokio::time::timeout(context.timeout, cancelled).await.is_ok();
        tokio::time::sleep(ENDING).await;
        in_time
    };
    tokio::select! {
        biased;
        result = work => Ok(result),
        cancelled = overdue => Err(if cancelled {
            ToolError::Cancelled { name: tool.name() }
        } else {
            ToolError::TimedOut { name: tool.name(), limit: context.timeout }
        }),
    }
}

fn crashed(panic: Box<dyn Any + Send>) -> ToolError {
    ToolError::Crashed { what: last_words(panic) }
}

fn last_words(panic: Box<dyn Any + Send>) -> String {
    panic
        .downcast::<String>()
        .map(|text| *text)
        .or_else(|panic| panic.downcast::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|_| "no message".to_owned())
}

/// How long a tool that ends in order (a command that is killed and its output read) has to give
/// what it has.
const ENDING: Duration = Duration::from_secs(2);

impl std::fmt::Debug for OptimizedToolRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.specs().into_iter().map(|spec| spec.name).collect();
        f.debug_struct("OptimizedToolRegistry").field("tools", &names).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("name", &self.spec().name).finish_non_exhaustive()
    }
}
