//! Which calls may overlap: each waits for the earlier ones whose effects conflict with its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::tools::tool::Effect;

/// The calls that wait or run, in the order submitted.
#[derive(Debug, Default)]
pub(in crate::tools) struct Schedule {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    effect: Effect,
    /// Closes when the call is over.
    over: watch::Receiver<()>,
}

/// A call's place in the schedule; dropping it lets the ones behind it go.
#[derive(Debug)]
pub(in crate::tools) struct Turn {
    schedule: Arc<Schedule>,
    number: u64,
    before: Vec<watch::Receiver<()>>,
    _over: watch::Sender<()>,
}

impl Schedule {
    /// Enters a call behind all that were entered before.
    pub(in crate::tools) fn enter(self: &Arc<Self>, effect: Effect) -> Turn {
        let (sender, over) = watch::channel(());
        let mut entries = self.lock();
        let before = entries
            .iter()
            .filter(|entry| entry.effect.conflicts(&effect))
            .map(|entry| entry.over.clone())
            .collect();
        let number = entries.last().map_or(0, |last| last.number + 1);
        entries.push(Entry { number, effect, over });
        drop(entries);
        Turn { schedule: Arc::clone(self), number, before, _over: sender }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        // The list is whole after any panic: each use makes one change.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Waits until every earlier conflicting call is over.
    pub(in crate::tools) async fn ready(&self) {
        for before in &self.before {
            // The sender never sends; an error means that the call is over.
            let _ = before.clone().changed().await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.schedule.lock().retain(|entry| entry.number != self.number);
    }
}
