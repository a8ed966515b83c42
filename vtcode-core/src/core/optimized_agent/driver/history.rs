//! The conversation's oldest messages on their way to the disk: once twice the window is in memory,
//! what is beyond the window is written behind a request, and let go of before the next one.
//! What cannot be written stays in memory, and is told once.

use std::io;

use tokio::task::JoinHandle;

use super::Run;
use crate::config::dialect::Dialect;
use crate::config::endpoint::Endpoint;
use crate::core::conversation::Past;
use crate::core::event::EventKind;

/// What stands open with the disk.
#[derive(Debug, Default)]
pub(super) struct Storing {
    running: Option<JoinHandle<io::Result<Past>>>,
    /// The disk refused once: nothing more is tried, and the memory's ceiling holds.
    refused: bool,
}

/// Returns a name for how an endpoint's messages are rendered: the wire, and what its server does
/// otherwise.
pub(super) fn rendering(endpoint: &Endpoint) -> String {
    let Dialect { quirks, facts, .. } = &endpoint.dialect;
    let otherwise = blake3::hash(format!("{quirks:?} {facts:?}").as_bytes());
    format!("{}-{}", endpoint.wire, &otherwise.to_hex()[..8])
}

impl Run<'_> {
    /// Begins to write what is beyond the window. Called when a request is out.
    pub(super) fn store_behind(&mut self) {
        let window_bytes = self.engine.limits.history_window_bytes;
        let Some(journal) = &mut self.journal else { return };
        let beyond = self.conversation.window_bytes() > window_bytes.saturating_mul(2);
        if !beyond || self.storing.refused || self.storing.running.is_some() {
            return;
        }
        match journal.store(&self.wire, &self.conversation, window_bytes) {
            Ok(None) => {}
            Ok(Some(store)) => {
                self.storing.running = Some(tokio::task::spawn_blocking(move || store.run()));
            }
            Err(error) => self.cannot_store(&error),
        }
    }

    /// Lets go of what was written meanwhile; waits for it when told to.
    pub(super) async fn take_stored(&mut self, wait: bool) {
        let Some(running) = self.storing.running.take_if(|r| wait || r.is_finished()) else {
            return;
        };
        match running.await.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(past) => self.conversation.stored(past),
            Err(error) => self.cannot_store(&error),
        }
    }

    fn cannot_store(&mut self, error: &dyn std::fmt::Display) {
        self.storing.refused = true;
        let message = format!("the conversation stays in memory, the disk refused it: {error}");
        self.tell(EventKind::Warning { message });
    }
}
