//! The oldest messages of a session, rendered, in a file for each wire: `past.<wire>` beside the
//! journal. Segments go in, once; a [`Past`] comes out, also in a later run. What is there can be
//! made again from the journal, and is whenever it is not what the index says.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::images;
use super::marks::{self, Indexed, Mark, Rendered};
use super::replay::Replay;
use super::{Journal, JournalError, Lines};
use crate::core::conversation::{Conversation, Past, Segment, linked};
use crate::core::event::EventKind;
use crate::llm::message::{Images, Message};

/// What is written at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Messages on their way into their wire's file.
#[derive(Debug)]
pub(crate) struct Store {
    journal: Arc<File>,
    index: PathBuf,
    mark: Mark,
    wire: String,
    rendered: Joined,
    segments: Vec<Segment>,
    chain: blake3::Hash,
    images: Images,
}

impl Store {
    /// Writes them, and then the line of the index that tells of them. Blocks.
    pub(crate) fn run(mut self) -> io::Result<Past> {
        for segment in &self.segments {
            self.rendered.push(&segment.load()?)?;
        }
        let told = (self.chain, self.images);
        self.rendered.end(self.wire, self.mark, told, &self.journal, &self.index)
    }
}

/// Segments with commas between them, in a file.
#[derive(Debug)]
struct Joined {
    file: Arc<File>,
    from: u64,
    bytes: u64,
    piece: Vec<u8>,
}

impl Joined {
    /// Goes on behind what is there.
    fn after(past: &Past) -> Self {
        let Past { from, bytes, .. } = *past;
        Self { file: Arc::clone(&past.file), from, bytes, piece: Vec::new() }
    }

    /// An empty segment leaves no trace, as in a request. The comma that it may have is that of its
    /// place there.
    fn push(&mut self, segment: &[u8]) -> io::Result<()> {
        let segment = segment.strip_prefix(b",").unwrap_or(segment);
        if segment.is_empty() {
            return Ok(());
        }
        if self.bytes + self.piece.len() as u64 > 0 {
            self.piece.push(b',');
        }
        self.piece.extend_from_slice(segment);
        if self.piece.len() >= PIECE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.piece, self.from + self.bytes)?;
        self.bytes += self.piece.len() as u64;
        self.piece.clear();
        Ok(())
    }

    /// On the disk before the index tells of it: a machine that dies may write in any order.
    fn end(
        mut self,
        wire: String,
        mark: Mark,
        (chain, images): (blake3::Hash, Images),
        journal: &File,
        index: &std::path::Path,
    ) -> io::Result<Past> {
        self.flush()?;
        self.file.sync_data()?;
        let Self { file, from, bytes, .. } = self;
        let messages = mark.messages;
        let context = marks::context(&file, from, from + bytes)?;
        let hex = chain.to_hex().to_string();
        let rendered = Rendered { wire, from, bytes, chain: hex, context, images };
        Indexed::new(journal, mark, Some(rendered))?.append(index)?;
        Ok(Past { file, from, bytes, messages, chain, images })
    }
}

impl Journal {
    /// Returns how many answers of the model come before the messages that were read.
    pub(crate) fn past_steps(&self) -> u32 {
        self.past_steps
    }

    /// Notes that a request goes out next: all before it is told.
    pub(crate) fn mark(&mut self, messages: usize) {
        self.totals.close();
        let (at, lines, totals) = (self.bytes, self.lines, self.totals.clone());
        push_mark(&mut self.marks, Mark { at, lines, messages, totals });
    }

    /// Notes where a view begins, so that a later run reads nothing before it. Failing that, it
    /// reads more.
    pub(super) fn mark_view(&mut self) {
        self.marks.clear();
        self.totals.close();
        let mut totals = self.totals.clone();
        totals.view_at = self.bytes;
        let mark = Mark { at: self.bytes, lines: self.lines, messages: 0, totals };
        let indexed = Indexed::new(&self.file, mark, None);
        let _ = indexed.and_then(|indexed| indexed.append(&self.index_path()));
    }

    /// Returns the oldest messages of a conversation for their file, such that `keep_bytes` stay in
    /// memory; none when there is no place to part it.
    pub(crate) fn store(
        &mut self,
        wire: &str,
        conversation: &Conversation,
        keep_bytes: usize,
    ) -> Result<Option<Store>, JournalError> {
        let mut kept = 0;
        let mut newest = conversation.messages();
        for segment in conversation.segments().iter().rev() {
            if kept >= keep_bytes {
                break;
            }
            (kept, newest) = (kept + segment.len(), newest - 1);
        }
        let before = conversation.messages() - conversation.segments().len();
        let fits = |mark: &Mark| mark.messages > before && mark.messages <= newest;
        let Some(place) = self.marks.iter().rposition(fits) else { return Ok(None) };
        let mark = self.marks[place].clone();
        self.marks.drain(..=place);
        let (segments, chain) = conversation.oldest(mark.messages);
        let images = conversation.oldest_images(mark.messages);
        let rendered = match conversation.past() {
            Some(past) => Joined::after(past),
            None => self.joined(wire)?,
        };
        Ok(Some(Store {
            journal: Arc::clone(&self.file),
            index: self.index_path(),
            mark,
            wire: wire.to_owned(),
            rendered,
            segments: segments.to_vec(),
            chain,
            images,
        }))
    }

    /// Returns the messages that were not read when the session was opened, as a wire sends them:
    /// from the wire's file, or rendered anew.
    pub(crate) fn past(
        &mut self,
        wire: &str,
        render: impl Fn(&Message) -> (Bytes, Images),
    ) -> Result<Option<Past>, JournalError> {
        let Some((mark, rendered)) = self.unread.take() else { return Ok(None) };
        // What the index tells of is still so as long as the view is the same one.
        let kept = rendered
            .filter(|(kept, _)| kept.totals.view_at == mark.totals.view_at)
            .and_then(|(kept, rendered)| Some((self.kept(wire, &kept, &rendered)?, kept)));
        let (mut chain, mut messages, mut held) = (blake3::hash(&[]), 0, Images::default());
        let (mut rendered, from, lines) = match kept {
            Some((past, kept)) if kept.at == mark.at => return Ok(Some(past)),
            Some((past, kept)) => {
                (chain, messages, held) = (past.chain, past.messages, past.images);
                (Joined::after(&past), kept.at, kept.lines)
            }
            None => (self.joined(wire)?, mark.totals.view_at, 0),
        };
        let mut replay = Replay::default();
        let mut take = |replay: &mut Replay| -> io::Result<()> {
            for mut message in replay.messages.drain(..) {
                images::load(&self.dir, &mut message);
                let (segment, images) = render(&message);
                held += images;
                chain = linked(chain, &segment);
                messages += 1;
                rendered.push(&segment)?;
            }
            Ok(())
        };
        let failed = |cause| JournalError::Unwritable { path: self.past_path(wire), cause };
        let mut lines = Lines::from(self, from, lines);
        while lines.at < mark.at
            && let Some(event) = lines.next()?
        {
            replay.take(event);
            take(&mut replay).map_err(failed)?;
        }
        replay.end();
        take(&mut replay).map_err(failed)?;
        if messages != mark.messages {
            return Err(
                lines.unreadable(format!("{messages} messages end here, not {}", mark.messages))
            );
        }
        let (wire_name, index) = (wire.to_owned(), self.index_path());
        let told = (chain, held);
        rendered.end(wire_name, mark, told, &self.file, &index).map(Some).map_err(failed)
    }

    /// Returns what lies in the wire's file, if it is what the index says.
    fn kept(&self, wire: &str, mark: &Mark, rendered: &Rendered) -> Option<Past> {
        let Rendered { from, bytes, images, .. } = *rendered;
        if rendered.wire != wire {
            return None;
        }
        let file = OpenOptions::new().read(true).write(true).open(self.past_path(wire)).ok()?;
        let is = marks::context(&file, from, from.checked_add(bytes)?).ok()?;
        let chain = blake3::Hash::from_hex(&rendered.chain).ok()?;
        let messages = mark.messages;
        let past = Past { file: Arc::new(file), from, bytes, messages, chain, images };
        (is == rendered.context).then_some(past)
    }

    /// Returns an empty place in the wire's file. What an earlier view put there stays: a request
    /// may still be reading it.
    fn joined(&self, wire: &str) -> Result<Joined, JournalError> {
        let path = self.past_path(wire);
        let open = || -> io::Result<Joined> {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = options.open(&path)?;
            let from = file.metadata()?.len();
            Ok(Joined { file: Arc::new(file), from, bytes: 0, piece: Vec::new() })
        };
        open().map_err(|cause| JournalError::Unwritable { path: path.clone(), cause })
    }

    fn past_path(&self, wire: &str) -> PathBuf {
        self.dir.join(format!("past.{wire}"))
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.dir.join("journal.index")
    }
}

/// Places that are remembered; beyond that, every second one is enough.
const MARKS: usize = 512;

pub(super) fn push_mark(marks: &mut Vec<Mark>, mark: Mark) {
    if marks.len() == MARKS {
        let mut nth = 0;
        marks.retain(|_| {
            nth += 1;
            nth % 2 == 0
        });
    }
    marks.push(mark);
}

impl Replay {
    /// Notes the place before a request, and forgets the messages before the newest place that
    /// leaves `window_bytes` of the journal behind it, once there is twice that.
    pub(super) fn pass(&mut self, at: u64, lines: u64, window_bytes: u64) {
        self.end_response();
        self.totals.close();
        let messages = self.before() + self.messages.len();
        let mark = Mark { at, lines, messages, totals: self.totals.clone() };
        push_mark(&mut self.marks, mark);
        let read_from = self.past.as_ref().map_or(self.totals.view_at, |past| past.at);
        if at - read_from <= window_bytes.saturating_mul(2) {
            return;
        }
        let fits = |mark: &Mark| mark.at <= at - window_bytes && mark.messages > self.before();
        let Some(place) = self.marks.iter().rposition(fits) else { return };
        let past = self.marks[place].clone();
        self.messages.drain(..past.messages - self.before());
        self.marks.drain(..=place);
        self.past = Some(past);
    }

    fn before(&self) -> usize {
        self.past.as_ref().map_or(0, |past| past.messages)
    }
}

/// Returns whether a request goes out with this event.
pub(super) fn is_request(kind: &EventKind) -> bool {
    matches!(kind, EventKind::RequestSent { .. })
}
