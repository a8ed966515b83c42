//! Compaction, performed: before a request goes out, its size is held against the model's window;
//! what has to leave it is read from the journal, made smaller and told as another view of it.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::super::compact::{self, Fit, Size};
use super::super::instructions::FolderInstructions;
use super::super::phase::{Failure, FailureKind, Input, Stop};
use super::super::repeats::Repeats;
use super::super::sum_changes;
use super::{Run, rendering};
use crate::core::conversation::RequestBody;
use crate::core::event::{CompactionCause, EventKind};
use crate::core::journal::Journal;
use crate::llm::message::{Message, Usage};

impl Run<'_> {
    /// Makes room for the next request where it needs some. False when a summary must be made
    /// first, and the request follows it. A summary leaves fewer messages each time, so what does
    /// not fit after one is summed up again until it does or nothing is left to leave out.
    pub(super) async fn make_room(&mut self) -> bool {
        let limits = self.context_limits();
        let Some(most) = limits.most_tokens() else { return true };
        let size = self.size();
        if size.input_tokens <= most {
            return true;
        }
        let Some(messages) = self.view() else { return true };
        match compact::fit(&messages, size, &limits) {
            Fit::AsItIs => true,
            Fit::PutAside(which) => {
                self.put_aside(messages, &which, CompactionCause::Window).await;
                true
            }
            Fit::SumUp { .. } => {
                self.tell(EventKind::Compacting { input_tokens: size.input_tokens });
                self.pending.push_back(Input::Overfull);
                false
            }
        }
    }

    /// Asks the model for a summary: the same conversation with one more message at its end, so
    /// that the provider has all the rest in its cache.
    pub(super) async fn sum_up(&mut self) {
        self.drain().await;
        let body = self.summary_body();
        if let Some(body_bytes) = self.send_body(body) {
            self.summing_up = true;
            self.turns += 1;
            let prefix = self.tell_prefix();
            self.tell(EventKind::RequestSent { turn: 0, body_bytes, prefix: Some(prefix) });
        }
    }

    /// Returns the request that asks for a summary.
    pub(super) fn summary_body(&self) -> RequestBody {
        let ask = self.provider.segment(&Message::user(compact::ASK));
        let mut asking = self.conversation.clone();
        asking.push(&ask);
        self.provider.frame(&asking)
    }

    /// Puts a summary in the place of everything but the newest messages.
    pub(super) async fn compact(&mut self, summary: Option<&str>) {
        self.drain().await;
        self.summing_up = false;
        let Some(messages) = self.view() else { return };
        let Some(before) = compact::recent(&messages) else { return };
        let view = compact::summed_up(&messages, before, summary, &self.changed_paths());
        self.change_view(view, CompactionCause::Window, 0, before).await;
    }

    /// Makes a conversation that the model finds too long as short as can be done without it.
    pub(super) async fn shorten(&mut self) {
        self.drain().await;
        let Some(messages) = self.view() else { return };
        let size = |messages: &[Message]| -> usize { messages.iter().map(compact::bytes).sum() };
        let which = compact::all_but_the_newest(&messages);
        let saved = which.iter().map(|at| compact::bytes(&messages[*at])).sum::<usize>();
        if saved >= size(&messages) / 4 {
            self.put_aside(messages, &which, CompactionCause::TooLong).await;
        } else if let Some(before) = compact::recent(&messages) {
            let view = compact::summed_up(&messages, before, None, &self.changed_paths());
            self.change_view(view, CompactionCause::TooLong, 0, before).await;
        }
    }

    async fn put_aside(
        &mut self,
        mut messages: Vec<Message>,
        which: &[usize],
        cause: CompactionCause,
    ) {
        let spool = self.journal.as_ref().map(Journal::spool_dir);
        let keep = |text: &str| keep(spool.as_deref()?, text).ok();
        let count = compact::put_aside(&mut messages, which, keep);
        self.change_view(messages, cause, count, 0).await;
    }

    /// From here on, requests hold these messages.
    async fn change_view(
        &mut self,
        view: Vec<Message>,
        cause: CompactionCause,
        put_aside: usize,
        summed_up: usize,
    ) {
        let before = self.size().input_tokens;
        // What is on its way to the disk is of the conversation as it was.
        self.take_stored(true).await;
        let mut conversation = self.conversation.anew();
        let folder = self.journal.as_ref().map(Journal::dir);
        for message in &view {
            rendering::push(&mut conversation, self.provider, folder, message);
        }
        self.conversation = conversation;
        let bytes = self.frame().weight();
        self.budget.resized(bytes);
        self.prefixes.compacted();
        // As a later run would know it, which begins to read here.
        self.repeats = Repeats::after(0, &view);
        let after = self.size().input_tokens;
        if let Some(messages) = &mut self.messages {
            messages.clone_from(&view);
        }
        self.tell(EventKind::Compacted { cause, put_aside, summed_up, before, after });
        self.attachments.forget();
        self.instructions = FolderInstructions::after(&view);
        self.checking.remember(&view);
        self.repeats.forget_attached();
        self.tell(EventKind::ViewChanged { messages: view });
    }

    /// Returns every message that the next request would hold. Without a journal they are kept in
    /// memory; one that cannot be read ends the prompt.
    pub(super) fn view(&mut self) -> Option<Vec<Message>> {
        let Some(journal) = &self.journal else { return self.messages.clone() };
        match journal.view() {
            Ok(messages) => Some(messages),
            Err(error) => {
                self.stop(Stop::Failed(Failure {
                    message: error.to_string(),
                    kind: FailureKind::Journal,
                }));
                None
            }
        }
    }

    /// Returns how large the next request would be.
    fn size(&self) -> Size {
        let bytes = self.frame().weight();
        let Usage { input_tokens, .. } = self.budget.guess(bytes as u64);
        Size { bytes, input_tokens }
    }

    pub(super) fn frame(&self) -> RequestBody {
        rendering::framed(self.provider, &self.conversation, &self.choice, self.engine)
    }

    fn changed_paths(&self) -> Vec<String> {
        let changes = sum_changes(self.changes.iter().cloned());
        changes.into_iter().map(|change| change.path).collect()
    }
}

/// Writes a text where the model's tools can read it; the same text lies there once.
fn keep(spool: &Path, text: &str) -> std::io::Result<PathBuf> {
    let name = &blake3::hash(text.as_bytes()).to_hex()[..16];
    let path = spool.join(format!("aside-{name}.txt"));
    let part = spool.join(format!("aside-{name}.part"));
    if !path.exists() {
        std::fs::create_dir_all(spool)?;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&part, &path)?;
    }
    Ok(path)
}
