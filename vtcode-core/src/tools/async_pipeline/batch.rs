//! Similar calls that wait at the same time run as one: a group forms while its first call waits
//! for a slot, and goes when the slot comes. Nobody waits for company, but a call of low priority,
//! and that not for long; a critical call runs alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::Waiting;
use super::{Core, Ending, ExecutionPriority, Job};
use crate::config::limits::ToolLimits;
use crate::tools::optimized_registry::{Entry, ToolId};
use crate::tools::tool::{CallContext, ToolError};

/// The groups that form.
#[derive(Debug)]
pub(super) struct Batches {
    groups: Mutex<HashMap<Group, Vec<Member>>>,
    /// Told when a group may have become full.
    joined: Notify,
    max: usize,
    patience: Duration,
}

/// What calls must have in common to run as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Group {
    tool: ToolId,
    priority: ExecutionPriority,
    /// The tool's own limit on running, so that it holds for each member as if it ran alone.
    limit: Duration,
    batch: String,
}

#[derive(Debug)]
struct Member {
    args: Arc<Value>,
    submitted: Instant,
    /// Told when the call begins to run.
    starts: oneshot::Sender<()>,
    /// Closed when the call was cancelled.
    result: oneshot::Sender<Ending>,
}

impl Batches {
    pub(super) fn new(limits: &ToolLimits) -> Self {
        let (max, patience) = (limits.max_batch, limits.batch_timeout);
        Self { groups: Mutex::default(), joined: Notify::new(), max, patience }
    }

    /// Returns whether a call may run with others.
    pub(super) fn takes(&self, job: &Job) -> bool {
        self.max > 1 && job.read_only && job.priority != ExecutionPriority::Critical
    }

    /// Adds a member; returns whether it is the first of its group.
    fn join(&self, group: &Group, member: Member) -> bool {
        let mut groups = self.groups();
        let members = groups.entry(group.clone()).or_default();
        members.push(member);
        let first = members.len() == 1;
        drop(groups);
        self.joined.notify_waiters();
        first
    }

    /// Waits until a group is full, but no longer than low priority has patience.
    async fn company(&self, group: &Group) {
        let full = async {
            loop {
                let joined = self.joined.notified();
                if self.groups().get(group).is_none_or(|members| members.len() >= self.max) {
                    return;
                }
                joined.await;
            }
        };
        // Late is as good as full: it goes either way.
        let _ = tokio::time::timeout(self.patience, full).await;
    }

    /// Takes as many members as may run together; returns whether others are left.
    fn take(&self, group: &Group) -> (Vec<Member>, bool) {
        let mut groups = self.groups();
        let Some(members) = groups.get_mut(group) else { return (Vec::new(), false) };
        members.retain(|member| !member.result.is_closed());
        let taken: Vec<_> = members.drain(..members.len().min(self.max)).collect();
        let left = !members.is_empty();
        if !left {
            groups.remove(group);
        }
        (taken, left)
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<Group, Vec<Member>>> {
        // The map is whole after any panic: each use makes one change.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Runs a call together with those of its group.
    pub(super) async fn in_company(
        self: &Arc<Self>,
        job: &Job,
        batch: &str,
        waiting: Waiting<'_>,
    ) -> Ending {
        let (starts, started) = oneshot::channel();
        let (result, receiver) = oneshot::channel();
        let group = Group {
            tool: job.tool.id(),
            priority: job.priority,
            limit: job.call.timeout,
            batch: batch.to_owned(),
        };
        let (args, submitted) = (Arc::clone(&job.args), job.submitted);
        let member = Member { args, submitted, starts, result };
        if self.batches.join(&group, member) {
            self.go_with(group, Arc::clone(&job.tool));
        }
        let ended_early = || Ending::early(ToolError::Cancelled { name: job.tool.name() });
        // An error says that it never starts; its result says why.
        if let Err(error) = job.waits_for(started).await {
            return Ending::early(error);
        }
        drop(waiting);
        match job.waits_for(receiver).await {
            Ok(ending) => ending.unwrap_or_else(|_| ended_early()),
            Err(error) => Ending::early(error),
        }
    }

    /// Starts the task that takes a group to its end. It belongs to no single call, so that one
    /// that is cancelled takes no other with it.
    fn go_with(self: &Arc<Self>, group: Group, tool: Arc<Entry>) {
        let core = Arc::clone(self);
        self.tasks.spawn(async move { core.run_group(group, tool).await });
    }

    async fn run_group(self: Arc<Self>, group: Group, tool: Arc<Entry>) {
        let slot = async {
            if group.priority == ExecutionPriority::Low {
                self.batches.company(&group).await;
            }
            self.registry.permit(group.priority).await
        };
        let permit = tokio::select! {
            permit = slot => permit,
            // Its members are being cancelled; a shutdown waits for no company.
            () = self.shutdown.cancelled() => {
                self.batches.groups().remove(&group);
                return;
            }
        };
        // Calls that were submitted in the same breath join before the group goes.
        tokio::task::yield_now().await;
        let (members, left) = self.batches.take(&group);
        if left {
            self.go_with(group.clone(), Arc::clone(&tool));
        }
        if members.is_empty() {
            return;
        }
        let permit = match permit {
            Ok(permit) => permit,
            Err(error) => {
                let waiting = match error {
                    ToolError::Overloaded { waiting } => waiting,
                    _ => 0,
                };
                for member in members {
                    // Who gave up does not listen.
                    let _ = member.result.send(Ending::early(ToolError::Overloaded { waiting }));
                }
                return;
            }
        };
        self.counters.batch(members.len());
        let started = Instant::now();
        let first = members.iter().map(|member| member.submitted).min().unwrap_or(started);
        let members = members.into_iter().map(|Member { args, starts, result, .. }| {
            // Who gave up does not listen.
            let _ = starts.send(());
            (args, result)
        });
        let (args, mut members): (Vec<Arc<Value>>, Vec<_>) = members.unzip();
        let context = CallContext {
            call_id: String::new(),
            cancel: CancellationToken::new(),
            timeout: group.limit,
            progress: None,
        };
        // When all have given up, the run is dropped, and cancelled where it cannot be.
        let _cancel = context.cancel.clone().drop_guard();
        let args: Vec<&Value> = args.iter().map(AsRef::as_ref).collect();
        let waited = started - first;
        let results = {
            let all_left = join_all(members.iter_mut().map(oneshot::Sender::closed));
            tokio::select! {
                biased;
                results = async {
                    if let [only] = args.as_slice() {
                        vec![self.registry.execute(&permit, &tool, only, &context, waited).await]
                    } else {
                        self.registry.execute_batch(&permit, &tool, &args, &context, waited).await
                    }
                } => results,
                _ = all_left => return,
            }
        };
        for (member, result) in members.into_iter().zip(results) {
            let ending = Ending { result, started: Some(started), cache_hit: false, shared: false };
            // Who gave up does not listen.
            let _ = member.send(ending);
        }
    }
}
