//! Files attached to results before they are asked for: the wishes of `attachments` are read through
//! the pipeline, as any call is, and shown after the last result of a step. Never holds a step up
//! for longer than its bound, and never asks anybody for a permission.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::attachments::{Candidate, READ, Settled, Wish, block};
use super::super::predict::Span;
use super::Run;
use crate::core::conversation::Segment;
use crate::core::event::{AttachedFile, AttachedKind, EventKind};
use crate::llm::message::{Message, ToolAnswer};
use crate::tools::async_pipeline::{
    AsyncToolPipeline, ExecutionContext, ExecutionPriority, ToolRequest,
};
use crate::tools::optimized_registry::OptimizedToolRegistry;
use crate::tools::tool::{Detail, ToolOutput};

/// How long results may be held up for what is attached to them.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// Bytes of a token, about.
pub(super) const TOKEN_BYTES: u64 = 4;

impl Run<'_> {
    /// Takes a message that joins the conversation, and attaches to it what is worth it.
    pub(super) async fn with_attachments(&mut self, mut message: Message) -> Message {
        let settled = self.attachments.take(&message);
        self.tell_settled(settled);
        self.instructions.take(&message);
        if let Message::Tool { results } = &mut message
            && !self.stopped
        {
            self.instruct(results).await;
            self.attach_check(results);
            if self.engine.limits.attached_tokens > 0 {
                // On the heap: without it, every run would carry the room for it.
                Box::pin(self.attach(results)).await;
            }
        }
        message
    }

    fn tell_settled(&mut self, settled: Vec<Settled>) {
        if settled.is_empty() {
            return;
        }
        for Settled { path, tokens, end, saved } in settled {
            self.tell(EventKind::AttachmentSettled { path, tokens, end, saved });
        }
        let context_tokens = self.context_tokens();
        if let Some((precision, needed)) = self.attachments.gives_up(context_tokens) {
            self.tell(EventKind::PredictionStopped { precision, needed });
        }
    }

    async fn attach(&mut self, results: &mut [ToolAnswer]) {
        let Some(last) = results.last_mut() else { return };
        let context_tokens = self.context_tokens();
        let candidates = self.attachments.candidates(context_tokens);
        if candidates.is_empty() {
            return;
        }
        let sized = sizes(self.engine.pipeline.registry(), candidates).await;
        let wishes = self.attachments.wishes(sized, context_tokens);
        let (mut shown, mut files) = (String::new(), Vec::new());
        let mut left = self.engine.limits.attached_tokens;
        let place = self.conversation.messages();
        let reads = read_all(&self.engine.pipeline, &self.stop_calls, place, wishes).await;
        for (mut wish, read) in reads {
            let args = arguments(&wish);
            let fits = read.as_deref().and_then(|text| fitted(&mut wish, text, left));
            let Some(text) = fits else {
                // It was read, but nobody sees it: a file that counts as seen may be written over.
                if let Ok(tool) = self.engine.pipeline.registry().get(READ) {
                    tool.unshown(&args);
                }
                if read.is_none_or(|text| is_key(&text)) {
                    self.attachments.refuse(wish.path);
                }
                continue;
            };
            let block = block(&wish, text);
            let tokens = (block.len() as u64).div_ceil(TOKEN_BYTES);
            left = left.saturating_sub(tokens);
            self.attachments.attached(&wish, tokens);
            self.repeats.attached(&wish.path, text);
            shown.push_str(&block);
            let lines = match wish.span {
                Span::Whole => None,
                Span::Lines { first, last } => Some((first, last)),
            };
            let (path, probability) = (wish.path, wish.probability);
            files.push(AttachedFile { path, lines, tokens, probability });
        }
        if files.is_empty() {
            return;
        }
        self.charge_result(shown.len());
        last.text.push_str(&shown);
        let (call_id, what) = (last.call_id.clone(), AttachedKind::Guess);
        self.tell(EventKind::Attached { call_id, text: shown, files, what });
    }

    /// Returns about how many tokens the next request has.
    fn context_tokens(&self) -> u64 {
        let bytes: usize = self.conversation.segments().iter().map(Segment::len).sum();
        bytes as u64 / TOKEN_BYTES
    }
}

/// Finds out how large files are; those that do not tell in time have no size.
async fn sizes(
    registry: &Arc<OptimizedToolRegistry>,
    candidates: Vec<Candidate>,
) -> Vec<(Candidate, Option<u64>)> {
    let Ok(tool) = registry.get(READ) else { return Vec::new() };
    let looks = tokio::task::spawn_blocking(move || {
        let sized = candidates.into_iter().map(|candidate| {
            let args = json!({"path": candidate.path});
            let bytes = tool.bytes(&args).filter(|_| !tool.on_request_only(&args));
            (candidate, bytes)
        });
        sized.collect()
    });
    match tokio::time::timeout(PATIENCE, looks).await {
        Ok(Ok(sized)) => sized,
        _ => Vec::new(),
    }
}

/// Reads what is wished for, together; none where it could not be read in time.
pub(super) async fn read_all(
    pipeline: &AsyncToolPipeline,
    stop: &CancellationToken,
    place: usize,
    wishes: Vec<Wish>,
) -> Vec<(Wish, Option<String>)> {
    let reads = wishes.into_iter().enumerate().map(|(nth, wish)| async move {
        let request = ToolRequest {
            id: format!("{place}-attached-{nth}"),
            tool_name: READ.to_owned(),
            args: arguments(&wish),
            priority: ExecutionPriority::Low,
            timeout: PATIENCE,
            context: ExecutionContext { cancel: stop.child_token(), ..ExecutionContext::default() },
        };
        let read = match pipeline.submit_request(request).await {
            Ok(id) => pipeline.wait_result(&id).await.result.ok().and_then(lines),
            Err(_) => None,
        };
        (wish, read)
    });
    join_all(reads).await
}

/// Returns the call that reads what is wished for.
fn arguments(wish: &Wish) -> Value {
    match wish.span {
        Span::Whole => json!({"path": wish.path}),
        Span::Lines { first, last } => json!({"path": wish.path, "start": first, "end": last}),
    }
}

/// Returns the lines that a read gave; none when it gave other words.
fn lines(output: ToolOutput) -> Option<String> {
    let has_lines = match &output.detail {
        Detail::Summary { line } => !line.starts_with("0 "),
        _ => true,
    };
    (has_lines && !output.is_error).then_some(output.text)
}

/// Returns what of the lines fits into so many tokens and may be shown, if any does; the wish is
/// then for these.
fn fitted<'t>(wish: &mut Wish, text: &'t str, tokens: u64) -> Option<&'t str> {
    if is_key(text) {
        return None;
    }
    let bytes = usize::try_from(tokens * TOKEN_BYTES).unwrap_or(usize::MAX);
    let is_cut = text.lines().next_back().is_some_and(|note| note.contains(CUT));
    if block(wish, text).len() <= bytes && !is_cut {
        return Some(text);
    }
    let start = match wish.span {
        Span::Whole => 1,
        Span::Lines { first, .. } => first,
    };
    wish.span = Span::Lines { first: start, last: u32::MAX };
    let room = bytes.saturating_sub(block(wish, "").len());
    // Numbered, so that these are lines of the file, and no note behind them.
    let numbered = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
    let (mut end, mut count) = (0, 0_u32);
    for line in text.split_inclusive('\n').take_while(numbered) {
        if end + line.len() > room {
            break;
        }
        (end, count) = (end + line.len(), count + 1);
    }
    let last = start.saturating_add(count.checked_sub(1)?);
    wish.span = Span::Lines { first: start, last };
    Some(&text[..end])
}

/// What `read_file` says where it leaves lines out that were asked for.
const CUT: &str = "cut here; go on with start: ";

/// Returns whether a text holds a private key, whatever its file is called.
fn is_key(text: &str) -> bool {
    text.contains("PRIVATE KEY-----")
}
