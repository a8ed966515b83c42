//! Runs tool calls: takes [`ToolRequest`]s in, gives [`ToolResult`]s out.
//! Calls run together unless their effects conflict; conflicting ones run in the order submitted.
//! Each goes the way that `execution` knows; here it is owned, told of and ended.
//! Never talks to a model and never decides whether a call is allowed: the registry does, and a
//! question that it raised is awaited before the call takes a slot.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::limits::Limits;
use crate::safety::workspace::{Workspace, WorkspaceError};
use crate::tools::execution::{Ending, Job, Owner};
use crate::tools::optimized_registry::OptimizedToolRegistry;
use crate::tools::tool::{CallContext, Progress, ToolError, ToolOutput};

pub use crate::tools::execution::{BeforeEffect, PipelineMetrics};
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
    /// Awaited before a call that is not read-only runs; an error keeps it from running: the result
    /// is [`ToolError::Unrecorded`] then.
    pub before_effect: Option<BeforeEffect>,
}

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
    registry: Arc<OptimizedToolRegistry>,
    owner: Owner,
    results: Mutex<HashMap<String, Pending>>,
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
        Self { registry, owner: Owner::default(), results: Mutex::default() }
    }

    /// Makes a pipeline without tools ready with the built-in ones of the current folder; one that
    /// has tools is ready. Fails when the current folder cannot be opened.
    #[expect(clippy::unused_async, reason = "callers await it, so that it may come to wait")]
    pub async fn start(&mut self) -> Result<(), WorkspaceError> {
        if self.registry.specs().is_empty() {
            // Opened here, so that a folder that cannot be used is told at the start.
            Workspace::open(Path::new("."))?;
            self.registry.register_builtins()?;
        }
        Ok(())
    }

    /// Returns the tools.
    pub fn registry(&self) -> &Arc<OptimizedToolRegistry> {
        &self.registry
    }

    /// Returns the time of all looks whether a kept result still holds, where it is measured.
    pub(crate) fn time_of_cache_checks(&self) -> Duration {
        self.registry.core().time_of_cache_checks()
    }

    /// Returns what became of all calls of these tools so far.
    #[expect(clippy::unused_async, reason = "callers await it, so that it may come to wait")]
    pub async fn get_metrics(&self) -> PipelineMetrics {
        self.registry.core().metrics(&self.registry)
    }

    /// Takes a call and starts it as soon as no earlier, conflicting one runs and a slot is free.
    /// Returns the request's id; fails when too many calls wait already. All else that is wrong
    /// with a call, an unknown tool among it, is told by [`Self::wait_result`]. Dropping the future
    /// takes nothing; once it returned, the call runs whether or not its result is asked for.
    #[expect(clippy::unused_async, reason = "callers await it, so that it may come to wait")]
    pub async fn submit_request(&self, request: ToolRequest) -> Result<String, ToolError> {
        let id = request.id.clone();
        let pending = self.submit(request)?;
        self.results().insert(id.clone(), pending);
        Ok(id)
    }

    /// Does the same for whoever keeps what will become of the call.
    pub(crate) fn submit(&self, request: ToolRequest) -> Result<Pending, ToolError> {
        let ToolRequest { id, tool_name, args, priority, timeout, context } = request;
        let (registry, core) = (&self.registry, self.registry.core());
        core.admit()?;
        let submitted = Instant::now();
        let planned = registry.get(&tool_name).and_then(|tool| {
            let plan = registry.plan(&tool, &args)?;
            Ok((tool, plan))
        });
        let (tool, plan) = match planned {
            Ok(planned) => planned,
            Err(error) => {
                let result = given(Ending::early(error), id, tool_name, submitted);
                return Ok(Pending::Known(Some(result)));
            }
        };
        let read_only = plan.effect.is_read_only();
        let job = Job {
            args: Arc::new(args),
            batch: plan.batch,
            read_only,
            priority,
            // Entered here, in the order submitted.
            turn: registry.enter(plan.effect),
            call: CallContext {
                call_id: id.as_str().into(),
                cancel: context.cancel.child_token(),
                timeout: plan.timeout,
                progress: context.progress,
            },
            before_effect: context.before_effect,
            question: plan.question,
            submitted,
            deadline: submitted.checked_add(timeout),
            owner: self.owner.clone(),
            tool,
        };
        core.take();
        let core = Arc::clone(core);
        // Nobody may be waiting; the call is done all the same.
        let running = self.owner.tasks.spawn(async move {
            let ending = core.carry_out(job).await;
            given(ending, id, tool_name, submitted)
        });
        Ok(Pending::Running(running))
    }

    /// Waits for the result of a request. Each result is given once; an id that was never
    /// submitted, or whose result was given before, is an error in the result.
    pub async fn wait_result(&self, id: &str) -> ToolResult {
        let pending = self.results().remove(id);
        match pending {
            Some(pending) => pending.await,
            None => missing(id),
        }
    }

    /// Ends every call and what calls left running, and waits until all of it is gone. Later
    /// requests are ended at once.
    pub async fn shutdown(&self) {
        self.owner.shutdown.cancel();
        self.owner.tasks.close();
        self.owner.tasks.wait().await;
        self.registry.close().await;
    }

    fn results(&self) -> MutexGuard<'_, HashMap<String, Pending>> {
        // The map is whole after any panic: each use makes one change.
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AsyncToolPipeline {
    /// Ends every call: nobody is left to ask for a result.
    fn drop(&mut self) {
        self.owner.shutdown.cancel();
    }
}

/// A call that was taken; its result is what comes of waiting for it.
#[derive(Debug)]
pub(crate) enum Pending {
    Running(JoinHandle<ToolResult>),
    /// What became of it without being run; given out once.
    Known(Option<ToolResult>),
}

impl Future for Pending {
    type Output = ToolResult;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ToolResult> {
        match &mut *self {
            // Without a result the task that runs the call was ended from outside.
            Self::Running(task) => {
                Pin::new(task).poll(cx).map(|result| result.unwrap_or_else(|_| missing("")))
            }
            Self::Known(result) => Poll::Ready(result.take().unwrap_or_else(|| missing(""))),
        }
    }
}

fn missing(id: &str) -> ToolResult {
    let error = ToolError::Failed(format!("no result is waiting under the id `{id}`"));
    given(Ending::early(error), id.to_owned(), String::new(), Instant::now())
}

fn given(ending: Ending, request_id: String, tool_name: String, submitted: Instant) -> ToolResult {
    let now = Instant::now();
    let started = ending.started.unwrap_or(now);
    ToolResult {
        request_id,
        tool_name,
        result: ending.result,
        waited: started - submitted,
        execution_time: now - started,
        cache_hit: ending.cache_hit,
        shared: ending.shared,
    }
}

#[cfg(test)]
mod tests;
