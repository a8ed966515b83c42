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
use tokio_util::task::TaskTracker;

use super::metrics::Waiting;
use super::{Core, Ending, ExecutionPriority, Job};
use crate::config::limits::ToolLimits;
use crate::tools::optimized_registry::{Entry, ToolId};
use crate::tools::tool::{CallContext, ToolError};

/// The groups that form.
#[derive(Debug)]
pub(super) struct Batches {
    groups: Mutex<HashMap<Group, Vec<Member>>>,
    /// Told when a group may have become full, or empty.
    changed: Notify,
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
    /// Told when the call begins to run, and when that was.
    starts: oneshot::Sender<Instant>,
    /// Closed when the call was cancelled.
    result: oneshot::Sender<Ending>,
}

impl Batches {
    pub(super) fn new(limits: &ToolLimits) -> Self {
        let (max, patience) = (limits.max_batch, limits.batch_timeout);
        Self { groups: Mutex::default(), changed: Notify::new(), max, patience }
    }

    /// Returns whether a call may run with others: not one that has no time to wait for them.
    pub(super) fn takes(&self, job: &Job) -> bool {
        let in_time = job.priority != ExecutionPriority::Low || job.left() > 2 * self.patience;
        self.max > 1 && job.read_only && job.priority != ExecutionPriority::Critical && in_time
    }

    /// Adds a member; returns whether it is the first of its group.
    fn join(&self, group: &Group, member: Member) -> bool {
        let mut groups = self.groups();
        let members = groups.entry(group.clone()).or_default();
        members.push(member);
        let first = members.len() == 1;
        drop(groups);
        self.changed.notify_waiters();
        first
    }

    /// Waits until a group is full, but no longer than low priority has patience.
    async fn company(&self, group: &Group) {
        let full = async {
            loop {
                let changed = self.changed.notified();
                if self.groups().get(group).is_none_or(|members| members.len() >= self.max) {
                    return;
                }
                changed.await;
            }
        };
        // Late is as good as full: it goes either way.
        let _ = tokio::time::timeout(self.patience, full).await;
    }

    /// Waits until every member of a group has given up, and takes the group away.
    async fn deserted(&self, group: &Group) {
        loop {
            let changed = self.changed.notified();
            if self.is_deserted(group) {
                return;
            }
            changed.await;
        }
    }

    fn is_deserted(&self, group: &Group) -> bool {
        let mut groups = self.groups();
        let stays = |member: &Member| !member.result.is_closed();
        if groups.get(group).is_some_and(|members| members.iter().any(stays)) {
            return false;
        }
        groups.remove(group);
        true
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

/// A member's place; told when it goes, after its receivers.
struct Place<'a>(&'a Batches);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.changed.notify_waiters();
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
        let _place = Place(&self.batches);
        let (starts, started) = oneshot::channel();
        let (result, receiver) = oneshot::channel();
        let group = Group {
            tool: job.tool.id(),
            priority: job.priority,
            limit: job.call.timeout,
            batch: batch.to_owned(),
        };
        let member = Member { args: Arc::clone(&job.args), starts, result };
        if self.batches.join(&group, member) {
            self.go_with(&job.owner.tasks, group, Arc::clone(&job.tool));
        }
        // An error says that it never starts; its result says why.
        let started = match job.waits_for(started).await {
            Ok(started) => started.ok(),
            Err(error) => return Ending::early(error),
        };
        drop(waiting);
        let cancelled = || ToolError::Cancelled { name: job.tool.name() };
        match job.waits_for(receiver).await {
            Ok(Ok(ending)) => ending,
            Ok(Err(_)) => Ending { started, ..Ending::early(cancelled()) },
            Err(error) => Ending { started, ..Ending::early(error) },
        }
    }

    /// Starts the task that takes a group to its end. It belongs to no single call, so that one
    /// that is cancelled takes no other with it.
    fn go_with(self: &Arc<Self>, tasks: &TaskTracker, group: Group, tool: Arc<Entry>) {
        let (core, own) = (Arc::clone(self), tasks.clone());
        tasks.spawn(async move { core.run_group(&own, group, tool).await });
    }

    async fn run_group(self: Arc<Self>, tasks: &TaskTracker, group: Group, tool: Arc<Entry>) {
        let slot = async {
            if group.priority == ExecutionPriority::Low {
                self.batches.company(&group).await;
            }
            self.slots.permit(group.priority).await
        };
        let permit = tokio::select! {
            biased;
            permit = slot => permit,
            // Nobody is left to wait for: a shutdown waits for no company.
            () = self.batches.deserted(&group) => return,
        };
        // Calls that were submitted in the same breath join before the group goes.
        tokio::task::yield_now().await;
        let (members, left) = self.batches.take(&group);
        if left {
            self.go_with(tasks, group.clone(), Arc::clone(&tool));
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
        let members = members.into_iter().map(|Member { args, starts, result, .. }| {
            // Who gave up does not listen.
            let _ = starts.send(started);
            (args, result)
        });
        let (args, mut members): (Vec<Arc<Value>>, Vec<_>) = members.unzip();
        let context = CallContext {
            call_id: "".into(),
            cancel: CancellationToken::new(),
            timeout: group.limit,
            progress: None,
        };
        // When all have given up, the run is dropped, and cancelled where it cannot be.
        let _cancel = context.cancel.clone().drop_guard();
        let args: Vec<&Value> = args.iter().map(AsRef::as_ref).collect();
        let results = {
            let all_left = join_all(members.iter_mut().map(oneshot::Sender::closed));
            tokio::select! {
                biased;
                results = async {
                    if let [only] = args.as_slice() {
                        vec![tool.execute(&permit, only, &context).await]
                    } else {
                        tool.execute_batch(&permit, &args, &context).await
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
