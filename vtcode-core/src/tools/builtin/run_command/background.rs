//! The commands that outlive their call: started ones come in, what is new of them goes out.
//! A task for each reads what it prints, so that it never waits for somebody to look; a small part
//! is held here and all of it goes to the command's file.
//! Never outlives the session: dropping this kills every group, before the drop returns.

use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::group::{Group, REAP};
use super::output::Output;
use super::{DYING, End, Running, how_it_ended};
use crate::tools::builtin::lines;
use crate::tools::tool::{CallContext, Detail, ToolError, ToolOutput};

/// How many may run at once.
const MAX: usize = 8;

/// The long-lived commands of one session, shared by the tools that start, watch and stop them. At
/// most 8 run at once. Dropping it kills all that run, and blocks until they are dead, but for no
/// longer than a second each.
#[derive(Default)]
pub struct Background {
    /// In the order started: the first is `bg1`.
    jobs: Mutex<Vec<Entry>>,
}

struct Entry {
    job: Arc<Job>,
    _reader: AbortOnDropHandle<()>,
}

/// A command that was started, running or not.
pub(in crate::tools::builtin) struct Job {
    id: String,
    stop: CancellationToken,
    state: watch::Sender<State>,
}

enum State {
    Runs {
        output: Box<Output>,
        group: Arc<Group>,
    },
    /// Everything but the facts is gone, what nobody saw yet excepted.
    Ended {
        unseen: String,
        ended: Ended,
    },
}

/// How a command ended.
#[derive(Debug, Clone)]
pub(in crate::tools::builtin) struct Ended {
    /// In words, such as `ended: exit code 0`.
    how: String,
    /// What the model should know besides.
    note: Option<String>,
    pub(super) exit_code: Option<i32>,
    pub(super) output_bytes: u64,
    pub(super) spool: Option<PathBuf>,
}

/// A command that is ready to be watched.
pub(super) struct Started {
    pub(super) running: Running,
    pub(super) output: Output,
    /// How long it may run.
    pub(super) limit: Option<Duration>,
}

impl Background {
    /// Starts a command by calling `start` with its id, and returns it.
    pub(super) fn start(
        &self,
        start: impl FnOnce(&str) -> Result<Started, ToolError>,
    ) -> Result<Arc<Job>, ToolError> {
        let mut jobs = self.jobs();
        let running = running(&jobs);
        if running.len() >= MAX {
            return Err(ToolError::Refused {
                reason: format!(
                    "{MAX} background commands run already ({}); end one with command_stop",
                    running.join(", ")
                ),
            });
        }
        let id = format!("bg{}", jobs.len() + 1);
        let Started { running, output, limit } = start(&id)?;
        let group = Arc::clone(&running.group);
        let job = Arc::new(Job {
            id,
            stop: CancellationToken::new(),
            state: watch::Sender::new(State::Runs { output: Box::new(output), group }),
        });
        let reader = tokio::spawn(read(Arc::clone(&job), running, limit));
        let reader = AbortOnDropHandle::new(reader);
        jobs.push(Entry { job: Arc::clone(&job), _reader: reader });
        Ok(job)
    }

    /// Returns the command of this id.
    pub(in crate::tools::builtin) fn find(&self, id: &str) -> Result<Arc<Job>, ToolError> {
        let jobs = self.jobs();
        if let Some(entry) = jobs.iter().find(|entry| entry.job.id == id.trim()) {
            return Ok(Arc::clone(&entry.job));
        }
        let known = match jobs.len() {
            0 => "none was started in this session".to_owned(),
            1 => "there is bg1".to_owned(),
            n => format!("there are bg1 to bg{n}"),
        };
        let running = running(&jobs);
        let running = match running.len() {
            _ if jobs.is_empty() => String::new(),
            0 => "; none runs".to_owned(),
            _ => format!("; running: {}", running.join(", ")),
        };
        Err(ToolError::Failed(format!(
            "no background command `{}`: {known}{running}",
            lines::cut(id)
        )))
    }

    /// Kills all that run, and waits until they are dead.
    pub(super) async fn close(&self) {
        let jobs: Vec<_> = self.jobs().iter().map(|entry| Arc::clone(&entry.job)).collect();
        let groups: Vec<_> = jobs.iter().filter_map(|job| job.group()).collect();
        // All first: then they die together.
        for group in &groups {
            group.signal(Signal::KILL);
        }
        let reap = move || groups.iter().for_each(|group| group.kill(DYING));
        // It fails only when the runtime ends; then the drop kills them.
        let _ = tokio::task::spawn_blocking(reap).await;
        for job in jobs {
            // What made a session of its own may hold the pipe: its end is not awaited for ever.
            let _ = tokio::time::timeout(DYING, job.end()).await;
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Vec<Entry>> {
        // A panic can only come before the one change that is made.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").field("running", &running(&self.jobs())).finish()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let groups: Vec<_> = self.jobs().iter().filter_map(|entry| entry.job.group()).collect();
        // All first: then they die together, and reaping one leaves the others no time.
        for group in &groups {
            group.signal(Signal::KILL);
        }
        for group in &groups {
            group.kill(DYING);
        }
    }
}

fn running(jobs: &[Entry]) -> Vec<&str> {
    jobs.iter().filter(|entry| !entry.job.has_ended()).map(|entry| entry.job.id.as_str()).collect()
}

impl Job {
    /// Waits until there is something new to see: output, or its end.
    pub(in crate::tools::builtin) async fn news(&self) {
        self.wait_for(|state| match state {
            State::Runs { output, .. } => output.has_news(),
            State::Ended { .. } => true,
        })
        .await;
    }

    /// Waits until it has ended.
    pub(in crate::tools::builtin) async fn end(&self) {
        self.wait_for(|state| matches!(state, State::Ended { .. })).await;
    }

    /// Asks it to end; it is killed when it does not.
    pub(in crate::tools::builtin) fn stop(&self) {
        self.stop.cancel();
    }

    /// Tells what nobody saw yet and how it is with the command: how it ended, or `runs`.
    pub(in crate::tools::builtin) fn tell(
        &self,
        runs: &str,
        context: &CallContext,
    ) -> (ToolOutput, Option<Ended>) {
        let (mut text, ended) = self.look();
        if let Some(progress) = &context.progress
            && !text.is_empty()
        {
            progress(&text);
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let (how, note) =
            ended.as_ref().map_or((runs, None), |e| (e.how.as_str(), e.note.as_deref()));
        if let Some(note) = note {
            let _ = writeln!(text, "{note}");
        }
        let _ = write!(text, "[{} {how}]", self.id);
        let how = ended.as_ref().map_or("runs", |ended| ended.how.as_str());
        let detail = Detail::Summary { line: format!("{} {how}", self.id) };
        (ToolOutput { text, detail, ..ToolOutput::default() }, ended)
    }

    /// Takes what nobody saw yet.
    fn look(&self) -> (String, Option<Ended>) {
        let mut look = (String::new(), None);
        self.state.send_if_modified(|state| {
            look = match state {
                State::Runs { output, .. } => (output.look(), None),
                State::Ended { unseen, ended } => (std::mem::take(unseen), Some(ended.clone())),
            };
            false
        });
        look
    }

    /// Kills it at once; its end is seen a little later.
    pub(super) fn kill(&self) {
        if let Some(group) = self.group() {
            group.kill(REAP);
        }
    }

    /// Returns the file that takes what it prints, while it runs.
    pub(super) fn spool(&self) -> Option<PathBuf> {
        match &*self.state.borrow() {
            State::Runs { output, .. } => output.path(),
            State::Ended { ended, .. } => ended.spool.clone(),
        }
    }

    fn group(&self) -> Option<Arc<Group>> {
        match &*self.state.borrow() {
            State::Runs { group, .. } => Some(Arc::clone(group)),
            State::Ended { .. } => None,
        }
    }

    fn has_ended(&self) -> bool {
        matches!(*self.state.borrow(), State::Ended { .. })
    }

    async fn wait_for(&self, wanted: impl FnMut(&State) -> bool) {
        // It fails only when the sender is gone, which is ours.
        let _ = self.state.subscribe().wait_for(wanted).await;
    }

    fn take(&self, bytes: &[u8]) {
        self.state.send_modify(|state| {
            if let State::Runs { output, .. } = state {
                output.take(bytes);
            }
        });
    }
}

/// Reads what a command prints until it ends or is stopped.
async fn read(job: Arc<Job>, mut running: Running, limit: Option<Duration>) {
    let deadline = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let mut take = |bytes: &[u8]| job.take(bytes);
    let end = running.follow(&mut take, deadline, &job.stop).await;
    let (status, note) = running.end(end, &mut take).await;
    let note = running.undo().or(note);
    let how = match (end, limit) {
        (End::Deadline, Some(limit)) => {
            format!("ended at its deadline of {} ms", limit.as_millis())
        }
        (End::Interrupted, _) => format!("stopped: {}", how_it_ended(status)),
        _ => format!("ended: {}", how_it_ended(status)),
    };
    job.state.send_modify(|state| {
        if let State::Runs { output, .. } = state {
            let unseen = output.last_look();
            let ended = Ended {
                how,
                note,
                exit_code: status.and_then(|status| status.code()),
                output_bytes: output.total(),
                spool: output.path(),
            };
            *state = State::Ended { unseen, ended };
        }
    });
}

#[cfg(test)]
mod tests;
