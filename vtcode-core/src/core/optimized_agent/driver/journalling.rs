//! What happened, on its way out: into the journal first, then to everyone who listens; and the
//! journal on its way to the disk.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::Sink;
use super::super::phase::{Failure, FailureKind, Stop};
use super::Run;
use crate::core::event::{Event, EventKind};
use crate::core::journal::Syncer;
use crate::tools::async_pipeline::BeforeEffect;

/// The way out for events; tool calls hold it too, for their progress.
pub(super) struct Out {
    started: Instant,
    listeners: Vec<Listener>,
}

struct Listener {
    sink: Sink,
    /// How it failed, until that is told.
    failed: OnceLock<String>,
    told: AtomicBool,
}

impl Out {
    pub(super) fn new(started: Instant, sinks: &[Sink]) -> Self {
        let listener = |sink: &Sink| Listener {
            sink: Arc::clone(sink),
            failed: OnceLock::new(),
            told: AtomicBool::new(false),
        };
        Self { started, listeners: sinks.iter().map(listener).collect() }
    }

    /// Tells everyone who listens. Who panics at it hears nothing more; the session goes on.
    pub(super) fn tell(&self, event: &Event) {
        for Listener { sink, failed, .. } in &self.listeners {
            if failed.get().is_none()
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| sink(event)))
            {
                let text = panic.downcast::<String>().map(|text| *text);
                let text = text
                    .or_else(|panic| panic.downcast().map(|text: Box<&str>| (*text).to_owned()));
                // Set once: who failed is not told of anything again.
                let _ = failed.set(text.unwrap_or_else(|_| "no message".to_owned()));
            }
        }
    }

    /// Returns how listeners failed whose failure was not told yet.
    fn failures(&self) -> Vec<String> {
        let untold = self.listeners.iter().filter(|listener| {
            listener.failed.get().is_some() && !listener.told.swap(true, Ordering::Relaxed)
        });
        untold.filter_map(|listener| listener.failed.get().cloned()).collect()
    }

    /// Returns when the run began.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn event(&self, kind: EventKind) -> Event {
        Event { at: self.started.elapsed(), kind }
    }
}

impl Run<'_> {
    /// Journals an event, then tells it. A journal that cannot be written ends the prompt: what
    /// follows could not be undone or resumed.
    ///
    /// Returns what was told, for whoever goes on with what is in it.
    pub(super) fn tell(&mut self, kind: EventKind) -> EventKind {
        let event = self.out.event(kind);
        if let Some(journal) = &mut self.journal
            && let Err(error) = self.meter.time(|work| &mut work.journal, || journal.append(&event))
        {
            self.journal = None;
            let failure = Failure { message: error.to_string(), kind: FailureKind::Journal };
            self.stop(Stop::Failed(failure));
        }
        self.out.tell(&event);
        for failure in self.out.failures() {
            let message = format!("a listener to this session failed and hears no more: {failure}");
            self.tell(EventKind::Warning { message });
        }
        event.kind
    }

    /// Tells what the turn cost us, where it is measured.
    pub(super) fn tell_own_work(&mut self) {
        self.meter.checked_so_far(self.engine.pipeline.time_of_cache_checks());
        if let Some(work) = self.meter.take() {
            self.tell(EventKind::OwnWork { work });
        }
    }

    /// Brings the journal onto the disk while the model thinks.
    pub(super) fn sync_behind(&mut self) {
        let Some(journal) = &self.journal else { return };
        if self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            let syncer = journal.syncer();
            self.syncing = Some(tokio::task::spawn_blocking(move || syncer.sync()));
        }
    }

    pub(super) async fn sync(&mut self) {
        if let Some(syncing) = self.syncing.take() {
            // Its result is that of the sync that follows.
            let _ = syncing.await;
        }
        let Some(journal) = &self.journal else { return };
        let syncer = journal.syncer();
        let synced = tokio::task::spawn_blocking(move || syncer.sync()).await;
        if let Ok(Err(error)) = synced {
            let message = format!("the session's journal may not be on the disk: {error}");
            self.tell(EventKind::Warning { message });
        }
    }
}

/// Returns what a call does before its effect: it brings the journal onto the disk.
pub(super) fn before_effect(syncer: Syncer) -> BeforeEffect {
    Arc::new(move || {
        let syncer = syncer.clone();
        Box::pin(async move {
            tokio::task::spawn_blocking(move || syncer.sync())
                .await
                .unwrap_or_else(|e| Err(io::Error::other(e)))
        })
    })
}
