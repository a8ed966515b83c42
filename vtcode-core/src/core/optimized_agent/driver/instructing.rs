//! Instructions of folders, shown when a file below them is first touched: read through the
//! pipeline as any file is, so that no link leads out, and within a bound of bytes and time.

use serde_json::json;

use super::super::attachments::{READ, Wish};
use super::super::instructions::{block, file_of};
use super::super::predict::Span;
use super::Run;
use super::attaching::{PATIENCE, TOKEN_BYTES, read_all};
use crate::core::event::{AttachedFile, AttachedKind, EventKind};
use crate::llm::message::ToolAnswer;
use crate::tools::builtin::lines::first;

/// What is left of the bytes must be worth a header.
const LEAST_BYTES: usize = 256;

impl Run<'_> {
    /// Shows the instructions of folders that these results are the first to touch.
    pub(super) async fn instruct(&mut self, results: &mut [ToolAnswer]) {
        if self.engine.limits.instructions_bytes == 0 {
            return;
        }
        let folders = self.instructions.touched(self.engine.pipeline.registry(), results);
        if !folders.is_empty() {
            // On the heap: few steps come here, and every run would carry the room for it.
            Box::pin(self.show_instructions(folders, results)).await;
        }
    }

    async fn show_instructions(&mut self, folders: Vec<String>, results: &mut [ToolAnswer]) {
        let mut left = self.engine.limits.instructions_bytes;
        let Some(last) = results.last_mut() else { return };
        let Ok(tool) = self.engine.pipeline.registry().get(READ) else { return };
        let asked = folders.clone();
        let looks = tokio::task::spawn_blocking(move || {
            let there = |folder: &String| {
                tool.bytes(&json!({"path": file_of(folder)})).is_some_and(|bytes| bytes > 0)
            };
            asked.into_iter().filter(there).collect::<Vec<_>>()
        });
        let Ok(Ok(there)) = tokio::time::timeout(PATIENCE, looks).await else {
            for folder in &folders {
                self.instructions.forget(folder);
            }
            return;
        };
        if there.is_empty() {
            return;
        }
        let wish =
            |folder: &String| Wish { path: file_of(folder), span: Span::Whole, probability: 1.0 };
        let wishes = there.iter().map(wish).collect();
        let place = self.conversation.messages();
        let reads = read_all(&self.engine.pipeline, &self.stop_calls, place, wishes).await;
        let (mut shown, mut files) = (String::new(), Vec::new());
        for (folder, (wish, read)) in there.iter().zip(reads) {
            let Some(text) = read.filter(|_| left > LEAST_BYTES) else {
                // Perhaps it can be read, or has room, at the next touch.
                self.instructions.forget(folder);
                continue;
            };
            let plain = without_numbers(&text);
            let mut block = block(folder, &plain);
            if block.len() > left {
                block.truncate(first(&block, left).len());
                block.push_str("\n[… cut here; read_file has the rest]");
            } else {
                self.repeats.attached(&wish.path, &text);
            }
            left = left.saturating_sub(block.len());
            let tokens = (block.len() as u64).div_ceil(TOKEN_BYTES);
            shown.push_str(&block);
            files.push(AttachedFile { path: wish.path, lines: None, tokens, probability: 1.0 });
        }
        if files.is_empty() {
            return;
        }
        self.charge_result(shown.len());
        last.text.push_str(&shown);
        let (call_id, what) = (last.call_id.clone(), AttachedKind::Instructions);
        self.tell(EventKind::Attached { call_id, text: shown, files, what });
    }
}

/// Returns lines as they stand in their file.
fn without_numbers(text: &str) -> String {
    let plain = |line: &str| match line.split_once('\t') {
        Some((number, line)) if number.trim().bytes().all(|byte| byte.is_ascii_digit()) => {
            line.to_owned()
        }
        _ => line.to_owned(),
    };
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}
