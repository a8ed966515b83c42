//! Whole answers that are given again to the very same request: in memory, and on the disk for later
//! runs. Knows nothing that is only similar: the key is made of everything that was sent, to whom
//! and by whom.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::StreamEvent;
use crate::config::limits::ClientLimits;
use crate::core::cache::disk::{DiskCache, Found};
use crate::core::cache::{Cache, Key};
use crate::llm::message::{Attempt, Delta, FinishReason, Outcome, Part, Usage};

/// An answer as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) parts: Vec<Part>,
    pub(super) finish: FinishReason,
}

impl Default for Kept {
    fn default() -> Self {
        Self { parts: Vec::new(), finish: FinishReason::Other }
    }
}

/// The answers that are kept.
#[derive(Debug)]
pub(super) struct Answers {
    memory: Cache<Arc<Kept>>,
    disk: Option<DiskCache>,
    /// How often the disk failed; the first time is told.
    disk_failures: AtomicU64,
}

impl Answers {
    pub(super) fn new(limits: &ClientLimits, folder: Option<PathBuf>) -> Self {
        let disk = folder.filter(|_| limits.answers.entries > 0);
        Self {
            memory: Cache::new(limits.answers),
            disk: disk.map(|folder| DiskCache::new(folder, limits.answers_on_disk)),
            disk_failures: AtomicU64::new(0),
        }
    }

    /// Returns the answer that is kept for a key, or what to say of a disk that cannot tell.
    pub(super) fn get(&self, key: &Key) -> (Option<Arc<Kept>>, Option<String>) {
        if let Some(kept) = self.memory.get(key) {
            return (Some(kept), None);
        }
        let Some(disk) = &self.disk else { return (None, None) };
        let kept = match disk.get(key) {
            Ok(Found::Nothing) => return (None, None),
            Ok(Found::Value(bytes)) => serde_json::from_slice(&bytes).map_err(|e| e.to_string()),
            Ok(Found::Spoilt) => Err("one was not what had been written, and was removed".into()),
            Err(error) => Err(error.to_string()),
        };
        match kept {
            Ok(kept) => {
                let kept = Arc::new(kept);
                self.remember(key, &kept);
                (Some(kept), None)
            }
            Err(why) => (None, self.warning(&why)),
        }
    }

    /// Keeps an answer; returns what to say of a disk that does not.
    pub(super) fn keep(&self, key: &Key, kept: &Kept) -> Option<String> {
        self.remember(key, &Arc::new(kept.clone()));
        let disk = self.disk.as_ref()?;
        let bytes = serde_json::to_vec(kept).expect("strings always render");
        let error = disk.put(key, &bytes).err()?;
        self.warning(&error.to_string())
    }

    /// Returns how often the disk could not be read or written as it should.
    pub(super) fn disk_failures(&self) -> u64 {
        self.disk_failures.load(Ordering::Relaxed)
    }

    /// Returns the bytes of the answers in memory.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.memory.kept_bytes()
    }

    /// Drops the answers in memory.
    pub(super) fn clear(&self) {
        self.memory.clear();
    }

    fn remember(&self, key: &Key, kept: &Arc<Kept>) {
        let bytes = kept.parts.iter().map(Part::bytes).sum();
        self.memory.insert(*key, Arc::clone(kept), bytes);
    }

    fn warning(&self, why: &str) -> Option<String> {
        let news = self.disk_failures.fetch_add(1, Ordering::Relaxed) == 0;
        news.then(|| format!("kept answers cannot be used as they should: {why}"))
    }
}

impl Kept {
    /// Tells the answer as a stream. It used no tokens.
    pub(super) fn events(&self) -> Vec<StreamEvent> {
        let mut events = vec![StreamEvent::FirstByte];
        for part in &self.parts {
            match part {
                Part::Text { text } => {
                    events.push(StreamEvent::Delta(Delta::Text(text.as_str().into())));
                }
                Part::Reasoning { text, .. } if !text.is_empty() => {
                    events.push(StreamEvent::Delta(Delta::Reasoning(text.as_str().into())));
                }
                Part::Reasoning { .. } | Part::ToolCall(_) => {}
            }
            events.push(StreamEvent::Delta(Delta::Part(part.clone())));
        }
        events.push(StreamEvent::Delta(Delta::Finish(self.finish)));
        events.push(StreamEvent::AttemptEnded(Attempt {
            attempt: 1,
            model: String::new(),
            outcome: Outcome::Kept,
            usage: Usage::default(),
            cost_usd: None,
            first_byte: None,
            took: Duration::ZERO,
            parse: Duration::ZERO,
        }));
        events
    }
}
