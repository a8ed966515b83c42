//! How a call runs: a checked call goes in, how it ended comes out.
//! Similar calls that wait together run as one batch, identical reads share one run, and a kept
//! result is served only while everything it was read from is unchanged. Every call goes this one
//! way: those of the pipeline, and those that a program makes directly.
//! Never knows which tools there are.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::limits::ToolLimits;
use crate::safety::permissions::{Permissions, Question};
use crate::tools::optimized_registry::{
    Entry, ExecutionPriority, OptimizedToolRegistry, Slots, Turn,
};
use crate::tools::tool::{CallContext, ToolError, ToolOutput};

mod batch;
mod metrics;
mod results;

use batch::Batches;
use metrics::Counters;
pub use metrics::PipelineMetrics;
use results::Results;

/// Makes the future that must be done before an effect: a journal brought onto the disk. It fails
/// when that could not be done, and the call does not run then.
pub type BeforeEffect =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<()>> + Send>> + Send + Sync>;

/// What all calls of a registry's tools share.
#[derive(Debug)]
pub(in crate::tools) struct Core {
    slots: Arc<Slots>,
    results: Results,
    batches: Batches,
    counters: Counters,
    limits: ToolLimits,
}

/// Who ends a call, and waits for what runs for it.
#[derive(Debug, Clone, Default)]
pub(in crate::tools) struct Owner {
    pub(in crate::tools) tasks: TaskTracker,
    pub(in crate::tools) shutdown: CancellationToken,
}

/// A call on its way.
pub(in crate::tools) struct Job {
    pub(in crate::tools) tool: Arc<Entry>,
    pub(in crate::tools) args: Arc<Value>,
    pub(in crate::tools) batch: Option<String>,
    pub(in crate::tools) read_only: bool,
    pub(in crate::tools) priority: ExecutionPriority,
    pub(in crate::tools) turn: Turn,
    pub(in crate::tools) call: CallContext,
    pub(in crate::tools) before_effect: Option<BeforeEffect>,
    /// What somebody has to allow first, and who knows whom to ask.
    pub(in crate::tools) question: Option<(Arc<Permissions>, Box<Question>)>,
    pub(in crate::tools) submitted: Instant,
    /// None: so far away that it cannot be told.
    pub(in crate::tools) deadline: Option<Instant>,
    pub(in crate::tools) owner: Owner,
}

/// How a call ended.
#[derive(Debug)]
pub(in crate::tools) struct Ending {
    pub(in crate::tools) result: Result<ToolOutput, ToolError>,
    /// None when it never ran.
    pub(in crate::tools) started: Option<Instant>,
    pub(in crate::tools) cache_hit: bool,
    pub(in crate::tools) shared: bool,
}

/// A call that is not over.
struct Open<'a> {
    core: &'a Core,
    tool: Arc<Entry>,
    told: bool,
}

impl Core {
    /// Returns what calls run in for tools under these limits.
    pub(in crate::tools) fn new(limits: &ToolLimits) -> Arc<Self> {
        Arc::new(Self {
            slots: Slots::new(limits.max_concurrent, limits.max_waiting, limits.aging),
            results: Results::new(limits),
            batches: Batches::new(limits),
            counters: Counters::default(),
            limits: limits.clone(),
        })
    }

    pub(in crate::tools) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// Fails when too many calls wait already.
    pub(in crate::tools) fn admit(&self) -> Result<(), ToolError> {
        let waiting = self.counters.waiting();
        if waiting < self.limits.max_waiting {
            return Ok(());
        }
        self.counters.overloaded();
        Err(ToolError::Overloaded { waiting })
    }

    /// Counts a call as waiting; [`Self::carry_out`] follows.
    pub(in crate::tools) fn take(&self) {
        self.counters.submitted();
    }

    /// Returns the time of all looks whether a kept result still holds, where it is measured.
    pub(in crate::tools) fn time_of_cache_checks(&self) -> Duration {
        self.counters.time_of_checks()
    }

    /// Returns what became of all calls so far.
    pub(in crate::tools) fn metrics(&self, registry: &OptimizedToolRegistry) -> PipelineMetrics {
        self.counters.metrics(registry)
    }

    /// Carries out a call, to its end or to its cancellation. Dropping the future ends the call.
    pub(in crate::tools) async fn carry_out(self: &Arc<Self>, mut job: Job) -> Ending {
        let waiting = self.counters.waits();
        let mut open = Open { core: self, tool: Arc::clone(&job.tool), told: false };
        let submitted = job.submitted;
        let (on_shutdown, shutdown) = (job.call.cancel.clone(), job.owner.shutdown.clone());
        let ending = {
            let run = async {
                let ready = job.waits_for(job.turn.ready()).await;
                let permitted = match ready {
                    Ok(()) => job.permitted().await,
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
                () = shutdown.cancelled() => {
                    on_shutdown.cancel();
                    run.await
                }
                ending = &mut run => ending,
            }
        };
        // Freed before the result is told, so that who asks next finds the way clear.
        drop(job);
        open.ended(&ending, submitted);
        ending
    }

    /// Runs a call: in a batch, if it belongs to one, or alone.
    async fn run(self: &Arc<Self>, job: &Job, waiting: metrics::Waiting<'_>) -> Ending {
        match &job.batch {
            Some(batch) if self.batches.takes(job) => self.in_company(job, batch, waiting).await,
            _ => self.alone(job, waiting).await,
        }
    }

    async fn alone(&self, job: &Job, waiting: metrics::Waiting<'_>) -> Ending {
        let permit = match job.waits_for(self.slots.permit(job.priority)).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(error)) | Err(error) => return Ending::early(error),
        };
        if let Some(before) = job.before_effect.as_ref().filter(|_| !job.read_only)
            && let Err(cause) = before().await
        {
            return Ending::early(ToolError::Unrecorded { cause });
        }
        if job.call.cancel.is_cancelled() {
            return Ending::early(ToolError::Cancelled { name: job.tool.name() });
        }
        drop(waiting);
        let started = Instant::now();
        let mut call = job.call.clone();
        call.timeout = call.timeout.min(job.left());
        let result = job.tool.execute(&permit, &job.args, &call).await;
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

    /// Waits for the answer to the question that the call raised, if any. The time that somebody
    /// takes to answer is not the call's.
    async fn permitted(&mut self) -> Result<(), ToolError> {
        let Some((permissions, question)) = self.question.take() else { return Ok(()) };
        let asked = Instant::now();
        let answer = self.call.cancel.run_until_cancelled(permissions.ask(*question)).await;
        let Some(answer) = answer else {
            return Err(ToolError::Cancelled { name: self.tool.name() });
        };
        self.deadline = self.deadline.and_then(|deadline| deadline.checked_add(asked.elapsed()));
        answer
    }

    /// Returns how much of the time until its deadline is left.
    fn left(&self) -> Duration {
        self.deadline
            .map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

impl Open<'_> {
    /// Records how the call ended: here alone, so that none is counted twice.
    fn ended(&mut self, ending: &Ending, submitted: Instant) {
        self.told = true;
        self.core.counters.ended(ending);
        if !self.core.limits.statistics || ending.cache_hit || ending.shared {
            return;
        }
        if let Some(started) = ending.started {
            self.tool.took(started - submitted, started.elapsed());
        }
        self.tool.ended(&ending.result);
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.told && self.core.limits.statistics {
            self.tool.ended(&Err(ToolError::Cancelled { name: self.tool.name() }));
        }
        self.core.counters.over();
    }
}

impl Ending {
    pub(in crate::tools) fn early(error: ToolError) -> Self {
        Self { result: Err(error), started: None, cache_hit: false, shared: false }
    }
}
