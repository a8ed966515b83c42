//! Runs tool calls: takes [`ToolRequest`]s in, gives [`ToolResult`]s out.
//! Calls run together unless their effects conflict; conflicting ones run in the order submitted.
//! Similar calls that wait together run as one batch, identical reads share one run, and a kept
//! result is served only while everything it was read from is unchanged.
//! Never talks to a model and never decides whether a call is allowed: the registry refused or let
//! pass, and a question that it raised is awaited before the call takes a slot.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::limits::Limits;
use crate::safety::permissions::Question;
use crate::safety::workspace::{Workspace, WorkspaceError};
use crate::tools::optimized_registry::{Entry, OptimizedToolRegistry, Turn};
use crate::tools::tool::{CallContext, Progress, ToolError, ToolOutput};

mod batch;
mod metrics;
mod results;

use batch::Batches;
use metrics::Counters;
pub use metrics::PipelineMetrics;
use results::Results;

pub use crate::tools::optimized_registry::ExecutionPriority;

/// A call to run.
#[derive(Debug)]
pub struct ToolRequest {
    /// Unique among the requests that run; results are asked for by it.
    pub id: String,
    /// The tool.
    pub tool_name: String,
    /// Its arguments.
    pub args: Value,
    /// How urgent it is.
    pub priority: ExecutionPriority,
    /// Its deadline, waiting and running together; what runs at its end is ended. The tool's own
    /// limit on running holds within it.
    pub timeout: Duration,
    /// What else the call needs to know.
    pub context: ExecutionContext,
}

/// What a call needs to know of its session.
#[derive(Clone, Default)]
pub struct ExecutionContext {
    /// Cancelled when the call must end at once.
    pub cancel: CancellationToken,
    /// Takes output while it appears; for people only.
    pub progress: Option<Progress>,
    /// Awaited before a call that is not read-only runs; an error keeps it from running.
    pub before_effect: Option<BeforeEffect>,
}

/// Makes the future that must be done before an effect: a journal brought onto the disk.
pub type BeforeEffect =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<()>> + Send>> + Send + Sync>;

impl fmt::Debug for ExecutionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutionContext").finish_non_exhaustive()
    }
}

/// What a call gave.
#[derive(Debug)]
pub struct ToolResult {
    /// The request's id.
    pub request_id: String,
    /// The tool.
    pub tool_name: String,
    /// Its output, or why there is none.
    pub result: Result<ToolOutput, ToolError>,
    /// How long it waited for conflicting calls, for company and for a slot.
    pub waited: Duration,
    /// How long it ran.
    pub execution_time: Duration,
    /// True when a kept result was served: nothing it was read from has changed.
    pub cache_hit: bool,
    /// True when it took its result from an identical call that ran already.
    pub shared: bool,
}

/// Runs the calls of one session.
#[derive(Debug)]
pub struct AsyncToolPipeline {
    core: Arc<Core>,
    results: Mutex<HashMap<String, oneshot::Receiver<ToolResult>>>,
}

/// What the tasks of a pipeline share.
#[derive(Debug)]
struct Core {
    registry: Arc<OptimizedToolRegistry>,
    results: Results,
    batches: Batches,
    counters: Counters,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// A call on its way.
struct Job {
    tool: Arc<Entry>,
    args: Arc<Value>,
    batch: Option<String>,
    read_only: bool,
    priority: ExecutionPriority,
    turn: Turn,
    call: CallContext,
    before_effect: Option<BeforeEffect>,
    question: Option<Box<Question>>,
    submitted: Instant,
    /// None: so far away that it cannot be told.
    deadline: Option<Instant>,
}

/// How a call ended.
#[derive(Debug)]
struct Ending {
    result: Result<ToolOutput, ToolError>,
    /// None when it never ran.
    started: Option<Instant>,
    cache_hit: bool,
    shared: bool,
}

impl AsyncToolPipeline {
    /// Returns a pipeline for the built-in tools, which [`Self::start`] finds in the current
    /// folder: `max_concurrent` calls at a time, `cache_size` results kept, up to `batch_size`
    /// similar calls run as one, and `timeout` as the most that a call of low priority waits for
    /// company.
    pub fn new(
        max_concurrent: usize,
        cache_size: usize,
        batch_size: usize,
        timeout: Duration,
    ) -> Self {
        let mut limits = Limits::full().tools;
        limits.max_concurrent = max_concurrent;
        limits.cache.entries = cache_size;
        limits.max_batch = batch_size;
        limits.batch_timeout = timeout;
        Self::with_registry(Arc::new(OptimizedToolRegistry::with_tools(Vec::new(), limits)))
    }

    /// Returns a pipeline over these tools, their slots and limits.
    pub fn with_registry(registry: Arc<OptimizedToolRegistry>) -> Self {
        let core = Core {
            results: Results::new(registry.limits()),
            batches: Batches::new(registry.limits()),
            counters: Counters::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            registry,
        };
        Self { core: Arc::new(core), results: Mutex::default() }
    }

    /// Makes a pipeline without tools ready with the built-in ones of the current folder; one that
    /// has tools is ready.
    #[expect(clippy::unused_async, reason = "callers await it, so that it may come to wait")]
    pub async fn start(&mut self) -> Result<(), WorkspaceError> {
        if self.core.registry.specs().is_empty() {
            // Opened here, so that a folder that cannot be used is told at the start.
            Workspace::open(Path::new("."))?;
            self.core.registry.register_builtins()?;
        }
        Ok(())
    }

    /// Returns the tools.
    pub fn registry(&self) -> &Arc<OptimizedToolRegistry> {
        &self.core.registry
    }

    /// Returns what became of all calls so far.
    #[expect(clippy::unused_async, reason = "callers await it, so that it may come to wait")]
    pub async fn get_metrics(&self) -> PipelineMetrics {
        self.core.counters.metrics(&self.core.registry)
    }

    /// Takes a call and starts it as soon as no earlier, conflicting one runs and a slot is free.
    /// Returns the request's id; fails when too many calls wait already. Dropping the future takes
    /// nothing; once it returned, the call runs whether or not its result is asked for.
    #[expect(clippy::unused_async, reason = "callers await it, so that it may come to wait")]
    pub async fn submit_request(&self, request: ToolRequest) -> Result<String, ToolError> {
        let ToolRequest { id, tool_name, args, priority, timeout, context } = request;
        let core = &self.core;
        let waiting = core.counters.waiting();
        if waiting >= core.registry.limits().max_waiting {
            core.counters.overloaded();
            return Err(ToolError::Overloaded { waiting });
        }
        let (sender, receiver) = oneshot::channel();
        self.results().insert(id.clone(), receiver);
        let submitted = Instant::now();
        let planned = core.registry.get(&tool_name).and_then(|tool| {
            let plan = core.registry.plan(&tool, &args)?;
            Ok((tool, plan))
        });
        let (tool, plan) = match planned {
            Ok(planned) => planned,
            Err(error) => {
                let ending = Ending::early(error);
                // The receiver was stored above.
                let _ = sender.send(ending.into_result(id.clone(), tool_name, submitted));
                return Ok(id);
            }
        };
        let read_only = plan.effect.is_read_only();
        let job = Job {
            args: Arc::new(args),
            batch: plan.batch,
            read_only,
            priority,
            // Entered here, in the order submitted.
            turn: core.registry.enter(plan.effect),
            call: CallContext {
                call_id: id.clone(),
                cancel: context.cancel.child_token(),
                timeout: plan.timeout,
                progress: context.progress,
            },
            before_effect: context.before_effect,
            question: plan.question,
            submitted,
            deadline: submitted.checked_add(timeout),
            tool,
        };
        core.counters.submitted();
        let (core, request_id) = (Arc::clone(core), id.clone());
        self.core.tasks.spawn(async move {
            let ending = core.carry_out(job).await;
            // Nobody may be waiting; the call is done all the same.
            let _ = sender.send(ending.into_result(request_id, tool_name, submitted));
        });
        Ok(id)
    }

    /// Waits for the result of a request. Each result is given once; an id that was never
    /// submitted, or whose result was given before, is an error in the result.
    pub async fn wait_result(&self, id: &str) -> ToolResult {
        let receiver = self.results().remove(id);
        let missing = || {
            let error = ToolError::Failed(format!("no result is waiting under the id `{id}`"));
            Ending::early(error).into_result(id.to_owned(), String::new(), Instant::now())
        };
        match receiver {
            Some(receiver) => receiver.await.unwrap_or_else(|_| missing()),
            None => missing(),
        }
    }

    /// Ends every call and waits until all of them are gone. Later requests are ended at once.
    pub async fn shutdown(&self) {
        self.core.shutdown.cancel();
        self.core.tasks.close();
        self.core.tasks.wait().await;
    }

    fn results(&self) -> MutexGuard<'_, HashMap<String, oneshot::Receiver<ToolResult>>> {
        // The map is whole after any panic: each use makes one change.
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AsyncToolPipeline {
    /// Ends every call: nobody is left to ask for a result.
    fn drop(&mut self) {
        self.core.shutdown.cancel();
    }
}

impl Core {
    /// Carries out a call, to its end or to its cancellation.
    async fn carry_out(self: &Arc<Self>, mut job: Job) -> Ending {
        let waiting = self.counters.waits();
        let on_shutdown = job.call.cancel.clone();
        let tool = Arc::clone(&job.tool);
        let ending = {
            let run = async {
                let ready = job.waits_for(job.turn.ready()).await;
                let permitted = match ready {
                    Ok(()) => self.permitted(&mut job).await,
                    Err(error) => Err(error),
                };
                match permitted {
                    Ok(()) if job.read_only && job.tool.is_repeatable() => {
                        self.repeatable(&job, waiting).await
                    }
                    Ok(()) => self.run(&job, waiting).await,
                    Err(error) => Ending::early(error),
                }
            };
            tokio::pin!(run);
            tokio::select! {
                // Looked at first: the end of another call must not begin this one.
                biased;
                // A pipeline that shuts down ends its calls as an interruption does.
                () = self.shutdown.cancelled() => {
                    on_shutdown.cancel();
                    run.await
                }
                ending = &mut run => ending,
            }
        };
        // Freed before the result is told, so that who asks next finds the way clear.
        drop(job);
        self.counters.ended(&self.registry, &tool, &ending);
        ending
    }

    /// Waits for the answer to the question that a call raised, if any. The time that somebody
    /// takes to answer is not the call's.
    async fn permitted(&self, job: &mut Job) -> Result<(), ToolError> {
        let Some(question) = job.question.take() else { return Ok(()) };
        let asked = Instant::now();
        let answer = self.registry.ask(*question);
        let Some(answer) = job.call.cancel.run_until_cancelled(answer).await else {
            return Err(ToolError::Cancelled { name: job.tool.name() });
        };
        job.deadline = job.deadline.and_then(|deadline| deadline.checked_add(asked.elapsed()));
        answer
    }

    /// Runs a call: in a batch, if it belongs to one, or alone.
    async fn run(self: &Arc<Self>, job: &Job, waiting: metrics::Waiting<'_>) -> Ending {
        match &job.batch {
            Some(batch) if self.batches.takes(job) => self.in_company(job, batch, waiting).await,
            _ => self.alone(job, waiting).await,
        }
    }

    async fn alone(&self, job: &Job, waiting: metrics::Waiting<'_>) -> Ending {
        let permit = match job.waits_for(self.registry.permit(job.priority)).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(error)) | Err(error) => return Ending::early(error),
        };
        if let Some(before) = job.before_effect.as_ref().filter(|_| !job.read_only)
            && let Err(cause) = before().await
        {
            let why = format!("not run, because it could not be recorded: {cause}");
            return Ending::early(ToolError::Failed(why));
        }
        if job.call.cancel.is_cancelled() {
            return Ending::early(ToolError::Cancelled { name: job.tool.name() });
        }
        drop(waiting);
        let started = Instant::now();
        let mut call = job.call.clone();
        call.timeout = call.timeout.min(job.left());
        let waited = started - job.submitted;
        let result = self.registry.execute(&permit, &job.tool, &job.args, &call, waited).await;
        Ending { result, started: Some(started), cache_hit: false, shared: false }
    }
}

impl Job {
    /// Waits for something before the call runs, but not beyond its cancellation or its deadline.
    async fn waits_for<T>(&self, what: impl Future<Output = T>) -> Result<T, ToolError> {
        let deadline = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let name = || self.tool.name();
        tokio::select! {
            biased;
            () = self.call.cancel.cancelled() => Err(ToolError::Cancelled { name: name() }),
            done = what => Ok(done),
            () = deadline => {
                let limit = self.submitted.elapsed();
                Err(ToolError::TimedOut { name: name(), limit })
            }
        }
    }

    /// Returns how much of the time until its deadline is left.
    fn left(&self) -> Duration {
        self.deadline
            .map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

impl Ending {
    fn early(error: ToolError) -> Self {
        Self { result: Err(error), started: None, cache_hit: false, shared: false }
    }

    fn into_result(self, request_id: String, tool_name: String, submitted: Instant) -> ToolResult {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        ToolResult {
            request_id,
            tool_name,
            result: self.result,
            waited: started - submitted,
            execution_time: now - started,
            cache_hit: self.cache_hit,
            shared: self.shared,
        }
    }
}

#[cfg(test)]
mod tests;
