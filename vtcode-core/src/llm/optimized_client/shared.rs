//! One request and everybody who listens to its answer: each listener gets every event in order,
//! whoever comes late from the beginning. Whoever asks for an event that has not come yet brings the
//! request forward for all; there is no task behind it. The last one who leaves ends the request.
//! Its usage is told to one listener: a provider bills it once.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::answers::Kept;
use super::attempts::Attempts;
use super::error::LlmError;
use super::{Inner, StreamEvent};
use crate::core::cache::Key;
use crate::llm::message::{Attempt, Delta, FinishReason, Outcome, Part, Usage};

/// About what an event takes besides its words.
const EVENT_BYTES: usize = 64;

type Told = Result<StreamEvent, LlmError>;

/// A request that is on its way, or an answer that was kept.
pub(super) struct Shared {
    client: Arc<Inner>,
    key: Key,
    /// Of what is told, so much is kept for whoever comes later; beyond it nobody can join.
    most_bytes: usize,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    /// The request; away while a listener brings it forward, and none once it is over.
    source: Source,
    /// What was told and some listener, or one who may come, has not heard.
    log: VecDeque<Told>,
    /// The number of the first event in the log, counted from the request's beginning.
    first: usize,
    log_bytes: usize,
    joinable: bool,
    /// The answer so far, if it is to be kept.
    keeping: Option<Kept>,
    /// What each listener hears next, by the order in which they came.
    listeners: BTreeMap<u64, usize>,
    came: u64,
}

enum Source {
    Here(Box<Attempts>),
    Away,
    Over,
}

/// Somebody who listens.
pub(super) struct Listener {
    shared: Arc<Shared>,
    id: u64,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a listener can do next.
enum Next {
    Hear(Told),
    Bring(Bringing),
    Wait,
    End,
}

impl Shared {
    /// Begins to listen to a request that nobody listens to yet.
    pub(super) fn begin(
        client: &Arc<Inner>,
        key: Key,
        keeping: Option<Kept>,
        attempts: Attempts,
    ) -> Listener {
        let source = Source::Here(Box::new(attempts));
        let most_bytes = client.limits.shared_bytes;
        Self::listened(client, key, most_bytes, keeping, source, VecDeque::new())
    }

    /// Tells an answer again that was kept.
    pub(super) fn again(client: &Arc<Inner>, key: Key, events: Vec<StreamEvent>) -> Listener {
        let log = events.into_iter().map(Ok).collect();
        Self::listened(client, key, 0, None, Source::Over, log)
    }

    fn listened(
        client: &Arc<Inner>,
        key: Key,
        most_bytes: usize,
        keeping: Option<Kept>,
        source: Source,
        log: VecDeque<Told>,
    ) -> Listener {
        let state = State {
            source,
            log,
            first: 0,
            log_bytes: 0,
            joinable: most_bytes > 0,
            keeping,
            listeners: BTreeMap::from([(0, 0)]),
            came: 1,
        };
        let (state, changed) = (Mutex::new(state), Notify::new());
        let client = Arc::clone(client);
        Listener { shared: Arc::new(Self { client, key, most_bytes, state, changed }), id: 0 }
    }

    /// Begins to listen to a request that is on its way; none when it is too late for that.
    pub(super) fn join(self: &Arc<Self>) -> Option<Listener> {
        let mut state = self.state();
        // One whose last listener has just left is about to be cancelled.
        if !state.joinable || state.listeners.is_empty() {
            return None;
        }
        let id = state.came;
        state.came += 1;
        state.listeners.insert(id, 0);
        Some(Listener { shared: Arc::clone(self), id })
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each use leaves it whole: no step in it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self, id: u64, shared: &Arc<Shared>) -> Next {
        if !self.joinable && self.listeners.len() == 1 {
            // Nobody else will hear it.
            if let Some(told) = self.log.pop_front() {
                self.first += 1;
                self.listeners.insert(id, self.first);
                return Next::Hear(told);
            }
        }
        let Some(next) = self.listeners.get_mut(&id) else { return Next::End };
        if let Some(told) = self.log.get(*next - self.first) {
            *next += 1;
            let told = told.clone();
            let paid = self.listeners.first_key_value().is_some_and(|(first, _)| *first == id);
            self.forget();
            return Next::Hear(if paid { told } else { told.map(unpaid) });
        }
        match std::mem::replace(&mut self.source, Source::Away) {
            Source::Here(attempts) => {
                Next::Bring(Bringing { shared: Arc::clone(shared), attempts: Some(attempts) })
            }
            Source::Away => Next::Wait,
            Source::Over => {
                self.source = Source::Over;
                Next::End
            }
        }
    }

    /// Takes what the request told.
    fn tell(&mut self, told: Told, most_bytes: usize) {
        self.log_bytes += bytes(&told);
        let last = matches!(
            told,
            Err(_) | Ok(StreamEvent::FailOver(_) | StreamEvent::Delta(Delta::Finish(_)))
        );
        // One that has finished is not on its way any more.
        if last || self.log_bytes > most_bytes {
            self.joinable = false;
            self.forget();
        }
        self.log.push_back(told);
    }

    /// Adds to the answer that is to be kept; returns it when this is its end.
    fn whole(&mut self, told: &Told) -> Option<Kept> {
        match told {
            Ok(StreamEvent::Delta(Delta::Part(part))) => {
                self.keeping.as_mut()?.parts.push(part.clone());
                None
            }
            Ok(StreamEvent::Delta(Delta::Finish(finish))) => {
                let kept = self.keeping.take()?;
                // One that was refused or broke off may turn out otherwise the next time.
                matches!(finish, FinishReason::Stop | FinishReason::ToolCalls)
                    .then_some(Kept { finish: *finish, ..kept })
            }
            _ => None,
        }
    }

    /// Drops what everybody has heard, once nobody can come who has not.
    fn forget(&mut self) {
        if self.joinable {
            return;
        }
        let heard = self.listeners.values().min().copied().unwrap_or(self.first);
        while self.first < heard && self.log.pop_front().is_some() {
            self.first += 1;
        }
    }
}

/// What those who do not pay hear instead.
fn unpaid(event: StreamEvent) -> StreamEvent {
    match event {
        StreamEvent::AttemptEnded(attempt) => StreamEvent::AttemptEnded(Attempt {
            outcome: match attempt.outcome {
                Outcome::Done => Outcome::Shared,
                other => other,
            },
            usage: Usage::default(),
            cost_usd: None,
            parse: Duration::ZERO,
            ..attempt
        }),
        StreamEvent::Delta(Delta::Usage(_)) => StreamEvent::Delta(Delta::Usage(Usage::default())),
        other => other,
    }
}

fn bytes(told: &Told) -> usize {
    EVENT_BYTES
        + match told {
            Ok(StreamEvent::Delta(Delta::Text(text) | Delta::Reasoning(text))) => text.len(),
            Ok(StreamEvent::Delta(Delta::Part(part))) => Part::bytes(part),
            _ => 0,
        }
}

/// The request, while one listener brings it forward. Dropped, it is there for the next one.
struct Bringing {
    shared: Arc<Shared>,
    attempts: Option<Box<Attempts>>,
}

impl Bringing {
    async fn forward(mut self) {
        let Some(attempts) = &mut self.attempts else { return };
        let Some(told) = attempts.next().await else {
            self.attempts = None;
            return;
        };
        let shared = &self.shared;
        let kept = shared.state().whole(&told);
        // Told before the end, which is the last thing that everybody listens to.
        let warning = kept.and_then(|kept| shared.client.answers.keep(&shared.key, &kept));
        let mut state = shared.state();
        let was_joinable = state.joinable;
        if let Some(what) = warning {
            state.tell(Ok(StreamEvent::Degraded { what }), shared.most_bytes);
        }
        state.tell(told, shared.most_bytes);
        let left = was_joinable && !state.joinable;
        drop(state);
        if left {
            shared.client.not_in_flight(shared);
        }
    }
}

impl Drop for Bringing {
    fn drop(&mut self) {
        let attempts = self.attempts.take();
        let mut state = self.shared.state();
        // Who brought it may have been the last one: then it ends here.
        let ended = if state.listeners.is_empty() {
            attempts
        } else {
            state.source = attempts.map_or(Source::Over, Source::Here);
            None
        };
        drop(state);
        drop(ended);
        self.shared.changed.notify_waiters();
    }
}

impl Listener {
    /// Returns the next event; none after the answer or an error. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Told> {
        let shared = Arc::clone(&self.shared);
        loop {
            let next = shared.state().next(self.id, &shared);
            match next {
                Next::Hear(told) => return Some(told),
                Next::End => return None,
                Next::Bring(bringing) => bringing.forward().await,
                Next::Wait => {
                    let mut changed = pin!(shared.changed.notified());
                    // From here on no change is missed, so look again before waiting.
                    changed.as_mut().enable();
                    let next = shared.state().next(self.id, &shared);
                    match next {
                        Next::Hear(told) => return Some(told),
                        Next::End => return None,
                        Next::Bring(bringing) => bringing.forward().await,
                        Next::Wait => changed.await,
                    }
                }
            }
        }
    }

    /// Returns the request, for whoever comes later.
    pub(super) fn shared(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    /// Stops listening. The last one to do so ends the request, and gets what its attempt came to.
    pub(super) fn leave(self) -> Option<Attempt> {
        self.left().and_then(|attempts| attempts.cancel())
    }

    fn left(&self) -> Option<Box<Attempts>> {
        let mut state = self.shared.state();
        state.listeners.remove(&self.id)?;
        if !state.listeners.is_empty() {
            state.forget();
            return None;
        }
        state.joinable = false;
        let source = std::mem::replace(&mut state.source, Source::Over);
        drop(state);
        self.shared.client.not_in_flight(&self.shared);
        match source {
            Source::Here(attempts) => Some(attempts),
            Source::Away | Source::Over => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.left());
    }
}
