//! The index of one journal: places between two requests, and what is true there, so that a later
//! run reads only what comes after. One line a place, with a checksum; the last one that fits the
//! journal counts. The journal wins: without a line that fits, all of it is read.
//!
//! It lies beside the journal, in `journal.index`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::core::event::{EventKind, Prefix, ShortHash};
use crate::llm::message::{Images, Message, Outcome, Part, Usage};

/// What is read of the index: its last lines.
const INDEX_TAIL_BYTES: u64 = 16 * 1024;
/// What must stand before a place for it to be the place that was meant.
const CONTEXT_BYTES: u64 = 4096;

/// What a journal's records add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    pub(super) usage: Usage,
    pub(super) turns: u32,
    /// Answers of the model, from the view's beginning.
    pub(super) steps: u32,
    pub(super) sent: Option<Prefix>,
    /// The bytes of the last request.
    #[serde(default)]
    pub(super) asked_bytes: usize,
    /// The bytes of the last request that was answered, and what it used.
    #[serde(default)]
    pub(super) answered: Option<(usize, Usage)>,
    /// Which answer of the view that was, from 1; 0: of another view.
    #[serde(default)]
    pub(super) answered_step: u32,
    /// Provider, address and model of the last run, where they are not the header's.
    pub(super) moved: Option<(String, String, String)>,
    /// Where the record stands from which the conversation is read; 0: at the beginning.
    pub(super) view_at: u64,
    /// What the answer that is being told holds; nothing between two requests.
    #[serde(skip)]
    calls: bool,
    #[serde(skip)]
    words: bool,
}

impl Totals {
    /// Counts the answer that was told, if it says anything.
    pub(super) fn close(&mut self) {
        self.steps += u32::from(self.calls || self.words);
        (self.calls, self.words) = (false, false);
    }

    /// Takes a record that begins at this byte.
    pub(super) fn take(&mut self, kind: &EventKind, at: u64) {
        match kind {
            EventKind::SessionResumed { provider, base_url, model } => {
                self.moved = Some((provider.clone(), base_url.clone(), model.clone()));
            }
            EventKind::PromptStarted { .. } | EventKind::AnswerSentBack { .. } => self.close(),
            EventKind::Part { part: Part::ToolCall(_) } => self.calls = true,
            EventKind::Part { part: Part::Text { text } } => self.words |= !text.trim().is_empty(),
            EventKind::Retry { .. } if !self.calls => self.words = false,
            EventKind::RequestSent { prefix, body_bytes, .. } => {
                self.close();
                self.asked_bytes = *body_bytes;
                self.turns += 1;
                self.sent = *prefix;
            }
            EventKind::ResponseEnded { usage, .. } => {
                self.usage += *usage;
                self.answered = Some((self.asked_bytes, *usage));
                self.answered_step = self.steps + 1;
            }
            // The tokens of a complete answer are those of its end.
            EventKind::AttemptEnded(attempt) if attempt.outcome != Outcome::Done => {
                self.usage += attempt.usage;
            }
            EventKind::ViewChanged { messages } => {
                self.close();
                self.view_at = at;
                // Steps are counted from the view's beginning, as by who reads nothing before it.
                let answers = messages.iter().filter(|m| matches!(m, Message::Assistant { .. }));
                self.steps = u32::try_from(answers.count()).unwrap_or(u32::MAX);
                // No request has begun with it yet.
                (self.sent, self.answered_step) = (None, 0);
            }
            _ => {}
        }
    }
}

/// A place between two requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The bytes of the journal before it.
    pub(super) at: u64,
    /// The lines before it.
    pub(super) lines: u64,
    /// The messages before it, from the view's beginning.
    pub(super) messages: usize,
    pub(super) totals: Totals,
}

/// A line of the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Indexed {
    pub(super) mark: Mark,
    /// A hash of what stands in the journal before the place.
    context: String,
    /// The messages before it, if there are some in the view.
    pub(super) rendered: Option<Rendered>,
}

/// The messages before a place, as one wire sends them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rendered {
    pub(super) wire: String,
    /// Where they begin in the wire's file.
    pub(super) from: u64,
    pub(super) bytes: u64,
    /// The hash of their chain, in hexadecimal.
    pub(super) chain: String,
    /// A hash of their last bytes.
    pub(super) context: String,
    /// The images that they hold.
    #[serde(default)]
    pub(super) images: Images,
}

impl Indexed {
    pub(super) fn new(journal: &File, mark: Mark, rendered: Option<Rendered>) -> io::Result<Self> {
        Ok(Self { context: context(journal, 0, mark.at)?, mark, rendered })
    }

    /// Appends it as a line of its own.
    pub(super) fn append(&self, path: &Path) -> io::Result<()> {
        let json = serde_json::to_string(self)?;
        let mut index = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        // The empty line ends one that a dying process may have left.
        index.write_all(format!("\n{} {json}\n", sum(json.as_bytes())).as_bytes())
    }
}

/// Returns the last place in the index that is one of this journal, and the bytes read for it.
pub(super) fn last(path: &Path, journal: &File) -> (Option<Indexed>, u64) {
    let mut read = 0;
    let Ok(index) = File::open(path) else { return (None, read) };
    let (Ok(index_stat), Ok(stat)) = (index.metadata(), journal.metadata()) else {
        return (None, read);
    };
    let from = index_stat.len().saturating_sub(INDEX_TAIL_BYTES);
    let mut tail = vec![0; (index_stat.len() - from) as usize];
    if index.read_exact_at(&mut tail, from).is_err() {
        return (None, read);
    }
    read += tail.len() as u64;
    let lines = tail.rsplit(|byte| *byte == b'\n');
    let found = lines.filter_map(parse).find(|indexed| {
        let at = indexed.mark.at;
        read += at.min(CONTEXT_BYTES);
        at <= stat.len() && context(journal, 0, at).is_ok_and(|is| is == indexed.context)
    });
    (found, read)
}

fn parse(line: &[u8]) -> Option<Indexed> {
    let (said, json) = line.split_at_checked(16)?;
    let json = json.strip_prefix(b" ")?;
    (sum(json).as_bytes() == said).then(|| serde_json::from_slice(json).ok())?
}

fn sum(bytes: &[u8]) -> String {
    ShortHash::from(blake3::hash(bytes)).to_string()
}

/// Returns a hash of what stands in a file just before `end`, at most back to `from`.
pub(super) fn context(file: &File, from: u64, end: u64) -> io::Result<String> {
    let from = end.saturating_sub(CONTEXT_BYTES).max(from);
    let mut bytes = vec![0; end.saturating_sub(from) as usize];
    file.read_exact_at(&mut bytes, from)?;
    Ok(sum(&bytes))
}
