//! A session on disk: events go in, one line each; a later run gets the conversation back.
//! A record is written before its effect shows, and synced before an effect on the workspace.
//! Never rewrites a line; a torn last line is cut off when the session is opened again.
//!
//! Below the state folder: `sessions/<id>/journal.jsonl`, `sessions/<id>/spool/` with long outputs,
//! `sessions/<id>/images/` with what prompts showed, each image once and named by its hash, and `sessions/index.jsonl`, where the last line of an id counts. Folders are 0700, files 0600.
//! What lies beside a long journal so that a later run need not read it (`journal.index`,
//! `past.<wire>`) can be made again from it.
//!
//! The view is what the next request holds: the messages of the last [`EventKind::ViewChanged`], or
//! none, and all that was said since. What was said before is history: it stays in the journal and
//! is not read to go on.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::core::event::{Event, EventKind, SessionHeader};
use crate::llm::message::{Message, Usage};

mod images;
mod index;
mod marks;
mod past;
mod quota;
mod read;
mod replay;
mod usage;

use marks::{Mark, Rendered, Totals};

pub(crate) use images::load as load_images;
pub use index::{SessionEntry, SessionStatus};
pub use quota::{Kept, Removed};
pub use read::look_at;
pub use replay::Replay;
pub(crate) use replay::is_silent;
pub use usage::DiskUsage;

/// The version of the records written by this build.
pub const FORMAT: u32 = 1;

/// The newest part of a journal's view that is read when the session is gone on with: at least this
/// much, and about twice that at most. More than most models take; what is beyond lies rendered in
/// a file.
const WINDOW_BYTES: u64 = 2 * 1024 * 1024;

/// Why a session cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The state folder cannot be used.
    #[error("cannot write the session's journal in `{path}`: {cause}")]
    Unwritable {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// A journal that is kept cannot be opened or read.
    #[error("cannot read the session's journal in `{path}`: {cause}")]
    Lost {
        /// The journal.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// No such session.
    #[error("no session `{id}`; `vtcode sessions` lists them")]
    Unknown {
        /// The id, or the beginning of one, as asked for.
        id: String,
    },
    /// Several sessions begin with these letters.
    #[error("`{id}` could be {count} sessions; give more of the id")]
    Ambiguous {
        /// The letters.
        id: String,
        /// How many it could be.
        count: usize,
    },
    /// No folder can have this name.
    #[error("`{id}` cannot be the id of a session: use letters, digits and dashes")]
    BadId {
        /// The id.
        id: String,
    },
    /// Another process works on it.
    #[error("session `{id}` is in use by another process; end that one first")]
    InUse {
        /// The session.
        id: String,
    },
    /// A record in the middle is not what this build writes.
    #[error("`{path}` line {line} is not a record of this version: {what}")]
    Unreadable {
        /// The journal.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

/// The folder that holds all sessions.
#[derive(Debug, Clone)]
pub struct Sessions {
    dir: PathBuf,
    window_bytes: u64,
}

impl Sessions {
    /// Returns the sessions below a state folder; nothing is made until one is created.
    pub fn below(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("sessions"), window_bytes: WINDOW_BYTES }
    }

    /// Sets how much of a journal's view is read when its session is gone on with, in bytes: at
    /// least so many, and about twice that at most. 2 MiB unless it is set.
    #[must_use]
    pub fn with_window(mut self, bytes: u64) -> Self {
        self.window_bytes = bytes;
        self
    }

    /// Returns the folder in which the sessions of this user share their rate limits.
    pub fn rate_dir(&self) -> PathBuf {
        self.dir.with_file_name("rate")
    }

    /// Returns the folder in which answers are kept for later runs.
    pub fn answers_dir(&self) -> PathBuf {
        self.dir.with_file_name("answers")
    }

    /// Makes the folders of a session that is about to begin; returns the one for long outputs.
    /// Fails when no folder can have the id as its name, or one cannot be made.
    pub fn reserve(&self, id: &str) -> Result<PathBuf, JournalError> {
        if !Path::new(id).components().eq([Component::Normal(id.as_ref())]) {
            return Err(JournalError::BadId { id: id.to_owned() });
        }
        let spool = self.dir.join(id).join("spool");
        make_private_dir(&spool)?;
        Ok(spool)
    }

    /// Creates a session and writes its header. Fails as [`reserve`](Self::reserve) does, when the
    /// session has a journal already, or when that or the index cannot be written.
    pub fn create(&self, header: SessionHeader) -> Result<Journal, JournalError> {
        self.reserve(&header.session_id)?;
        let dir = self.dir.join(&header.session_id);
        let mut journal = Journal::open_file(dir, &header.session_id, true)?;
        self.note(&SessionEntry::from_header(&header))?;
        journal.append(&Event {
            at: std::time::Duration::ZERO,
            kind: EventKind::SessionStarted(header),
        })?;
        Ok(journal)
    }

    /// Opens a session to go on with it, by its id or the beginning of one. Fails as
    /// [`find`](Self::find) does, when another process works on the session, when its journal
    /// cannot be opened or read, or when that holds no header or a record that is not of this
    /// version.
    pub fn resume(&self, id: &str) -> Result<(Journal, Replay), JournalError> {
        let id = self.find(id)?;
        let mut journal = Journal::open_file(self.dir.join(&id), &id, false)?;
        let replay = journal.replay(self.window_bytes)?;
        Ok((journal, replay))
    }

    /// Returns what the next request of a session would hold, also of one that is being worked on:
    /// nothing is locked and nothing is written. Fails as [`resume`](Self::resume) does, but for
    /// the other process.
    pub fn look(&self, id: &str) -> Result<View, JournalError> {
        let id = self.find(id)?;
        let dir = self.dir.join(&id);
        let path = dir.join("journal.jsonl");
        let file = File::open(&path).map_err(|cause| JournalError::Lost { path, cause })?;
        let mut journal = Journal::of(file, dir);
        let mut replay = journal.read(self.window_bytes)?;
        let header = replay.header.take().ok_or_else(|| journal.headless())?;
        let (messages, totals) = (journal.view()?, replay.totals);
        let last_answer = usize::try_from(totals.answered_step).ok().filter(|step| *step > 0);
        Ok(View { header, messages, last: totals.answered, last_answer })
    }

    /// Returns the id that `id` is, or is the beginning of. Fails when there is no such session,
    /// several begin so, or the index cannot be read.
    pub fn find(&self, id: &str) -> Result<String, JournalError> {
        let entries = self.list()?;
        if let Some(exactly) = entries.iter().find(|e| !id.is_empty() && e.id == id) {
            return Ok(exactly.id.clone());
        }
        let mut matches = entries.iter().filter(|e| !id.is_empty() && e.id.starts_with(id));
        match (matches.next(), matches.count()) {
            (Some(only), 0) => Ok(only.id.clone()),
            (Some(_), more) => Err(JournalError::Ambiguous { id: id.to_owned(), count: more + 1 }),
            (None, _) => Err(JournalError::Unknown { id: id.to_owned() }),
        }
    }

    /// Returns all sessions, the newest first, from the index alone: none where there is no index,
    /// and without the lines that cannot be understood. Fails when the index cannot be read.
    pub fn list(&self) -> Result<Vec<SessionEntry>, JournalError> {
        index::read(&self.index_path())
    }

    /// Appends what is now true of a session to the index. Waits while another process writes it,
    /// and fails when it cannot be written.
    pub fn note(&self, entry: &SessionEntry) -> Result<(), JournalError> {
        index::append(&self.index_path(), entry)
    }

    /// Removes a session and everything kept of it; returns its whole id. Fails as
    /// [`find`](Self::find) does, when a process works on the session, or when the index cannot be
    /// written or the folder not removed.
    pub fn delete(&self, id: &str) -> Result<String, JournalError> {
        let id = self.find(id)?;
        let dir = self.dir.join(&id);
        let failed = |cause| JournalError::Unwritable { path: dir.clone(), cause };
        // Holding the lock proves that nobody is writing what is removed here.
        let lock = match Journal::open_file(dir.clone(), &id, false) {
            Ok(journal) => Some(journal),
            Err(JournalError::Unwritable { cause, .. })
                if cause.kind() == io::ErrorKind::NotFound =>
            {
                None
            }
            Err(other) => return Err(other),
        };
        index::remove(&self.index_path(), &id)?;
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
            _ => {
                drop(lock);
                Ok(id)
            }
        }
    }

    /// Returns what all sessions together use of the disk. Fails when the index or a folder that is
    /// there cannot be read.
    pub fn disk_usage(&self) -> Result<DiskUsage, JournalError> {
        let failed = |cause| JournalError::Unwritable { path: self.dir.clone(), cause };
        usage::of(&self.dir, self.list()?.len()).map_err(failed)
    }

    fn index_path(&self) -> PathBuf {
        self.dir.join("index.jsonl")
    }
}

/// What the next request of a session would hold.
#[derive(Debug, Clone)]
pub struct View {
    /// The session's header, with the provider and model of its last run.
    pub header: SessionHeader,
    /// The messages.
    pub messages: Vec<Message>,
    /// The bytes of the last request that was answered, and what it used.
    pub last: Option<(usize, Usage)>,
    /// Which of the answers among the messages came to that request, from 1; none when it was a
    /// request with other messages, before older ones left the window.
    pub last_answer: Option<usize>,
}

/// One session's journal, open for writing and locked against other processes.
#[derive(Debug)]
pub struct Journal {
    file: Arc<File>,
    dir: PathBuf,
    line: Vec<u8>,
    bytes: u64,
    lines: u64,
    totals: Totals,
    /// Places between two requests after which the conversation is in memory.
    marks: Vec<Mark>,
    /// Where the messages that were read begin, and the place of the index that they were read
    /// from: it is not always the same, and tells of the file with those before.
    unread: Option<(Mark, Option<(Mark, Rendered)>)>,
    past_steps: u32,
}

impl Journal {
    fn open_file(dir: PathBuf, id: &str, create: bool) -> Result<Self, JournalError> {
        let path = dir.join("journal.jsonl");
        let failed = |cause| JournalError::Unwritable { path: path.clone(), cause };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(create)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(JournalError::InUse { id: id.to_owned() });
            }
            Err(e) => return Err(failed(e.into())),
        }
        Ok(Self::of(file, dir))
    }

    fn of(file: File, dir: PathBuf) -> Self {
        Self {
            file: Arc::new(file),
            dir,
            line: Vec::new(),
            bytes: 0,
            lines: 0,
            totals: Totals::default(),
            marks: Vec::new(),
            unread: None,
            past_steps: 0,
        }
    }

    /// Returns a journal on an open file of whatever kind.
    #[cfg(test)]
    pub(in crate::core) fn on(file: File) -> Self {
        Self::of(file, PathBuf::new())
    }

    /// Writes one event as one line, if it is of those that are kept. Images of a prompt are
    /// written before it. Fails when one of them or the line cannot be written.
    pub fn append(&mut self, event: &Event) -> Result<(), JournalError> {
        if !event.kind.is_durable() {
            return Ok(());
        }
        if let EventKind::PromptStarted { images, .. } = &event.kind {
            images::keep(&self.dir, images)?;
        }
        self.line.clear();
        serde_json::to_writer(&mut self.line, event)
            .map_err(|e| self.failed(io::Error::new(io::ErrorKind::InvalidData, e)))?;
        self.line.push(b'\n');
        (&*self.file).write_all(&self.line).map_err(|cause| self.failed(cause))?;
        if matches!(event.kind, EventKind::ViewChanged { .. }) {
            self.mark_view();
        }
        self.totals.take(&event.kind, self.bytes);
        (self.bytes, self.lines) = (self.bytes + self.line.len() as u64, self.lines + 1);
        Ok(())
    }

    /// Returns a handle that syncs what was appended so far, also from another thread.
    pub fn syncer(&self) -> Syncer {
        Syncer { file: Arc::clone(&self.file) }
    }

    /// Returns the folder for outputs too long to be given whole.
    pub fn spool_dir(&self) -> PathBuf {
        self.dir.join("spool")
    }

    /// Returns the session's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn failed(&self, cause: io::Error) -> JournalError {
        JournalError::Unwritable { path: self.dir.join("journal.jsonl"), cause }
    }

    /// Reads what a run must know to go on: the header, and from the last place of the index on.
    /// Cuts off a torn last line.
    fn replay(&mut self, window_bytes: u64) -> Result<Replay, JournalError> {
        let replay = self.read(window_bytes)?;
        if replay.torn {
            // The process died while it wrote this line; nothing after it can exist.
            self.file.set_len(self.bytes).map_err(|cause| self.failed(cause))?;
        }
        Ok(replay)
    }

    /// Does the same, and writes nothing.
    fn read(&mut self, window_bytes: u64) -> Result<Replay, JournalError> {
        let (indexed, mut read) = marks::last(&self.index_path(), &self.file);
        let (mut replay, rendered, from, skipped) = match indexed {
            None => (Replay::default(), None, 0, 0),
            Some(indexed) => {
                let mut first = Lines::from(self, 0, 0);
                let Some(Event { kind: EventKind::SessionStarted(header), .. }) = first.next()?
                else {
                    return Err(self.headless());
                };
                read += first.at;
                let (at, lines, mark) = (indexed.mark.at, indexed.mark.lines, indexed.mark);
                let rendered = indexed.rendered.map(|rendered| (mark.clone(), rendered));
                (Replay::after(header, mark), rendered, at, lines)
            }
        };
        let mut lines = Lines::from(self, from, skipped);
        let mut at = from;
        while let Some(event) = lines.next()? {
            if past::is_request(&event.kind) {
                replay.pass(at, lines.number - 1, window_bytes);
            }
            replay.take_at(event, at);
            at = lines.at;
        }
        replay.torn = lines.torn;
        replay.read_bytes = read + lines.at - from;
        let (bytes, number) = (lines.at, lines.number);
        replay.end();
        if replay.header.is_none() {
            return Err(self.headless());
        }
        (self.bytes, self.lines, self.totals) = (bytes, number, replay.totals.clone());
        self.marks = std::mem::take(&mut replay.marks);
        self.past_steps = replay.past.as_ref().map_or(0, |past| past.totals.steps);
        self.unread = replay.past.clone().map(|past| (past, rendered));
        Ok(replay)
    }

    /// Returns every message that the next request would hold. Read between two requests.
    pub(crate) fn view(&self) -> Result<Vec<Message>, JournalError> {
        let mut replay = Replay::default();
        let mut lines = Lines::from(self, self.totals.view_at, 0);
        while let Some(event) = lines.next()? {
            replay.take(event);
        }
        replay.end();
        Ok(replay.messages)
    }

    fn headless(&self) -> JournalError {
        JournalError::Unreadable {
            path: self.dir.join("journal.jsonl"),
            line: 1,
            what: "the session's header is missing".to_owned(),
        }
    }
}

/// Reads a journal's records, line by line.
struct Lines<'a> {
    journal: &'a Journal,
    reader: BufReader<FileFrom<'a>>,
    line: Vec<u8>,
    /// Where the next line begins.
    at: u64,
    /// The lines before it.
    number: u64,
    /// The last line has no end.
    torn: bool,
}

/// Reads a file from a place of its own: another reader of the same file moves nothing.
struct FileFrom<'a>(&'a File, u64);

impl Read for FileFrom<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(into, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

impl<'a> Lines<'a> {
    /// Reads from the line that begins at a byte; `number` lines are before it.
    fn from(journal: &'a Journal, at: u64, number: u64) -> Self {
        let reader = BufReader::with_capacity(256 * 1024, FileFrom(&journal.file, at));
        Self { journal, reader, line: Vec::new(), at, number, torn: false }
    }

    /// Returns the next record; none after the last whole one.
    fn next(&mut self) -> Result<Option<Event>, JournalError> {
        self.line.clear();
        let read = self.reader.read_until(b'\n', &mut self.line);
        let read = read.map_err(|cause| self.journal.failed(cause))?;
        self.torn = read > 0 && self.line.last() != Some(&b'\n');
        if read == 0 || self.torn {
            return Ok(None);
        }
        self.number += 1;
        let event = read::record(&self.line).map_err(|what| self.unreadable(what))?;
        self.at += read as u64;
        Ok(Some(event))
    }

    fn unreadable(&self, what: String) -> JournalError {
        let path = self.journal.dir.join("journal.jsonl");
        JournalError::Unreadable { path, line: self.number as usize, what }
    }
}

/// Brings what a journal holds onto the disk.
#[derive(Debug, Clone)]
pub struct Syncer {
    file: Arc<File>,
}

impl Syncer {
    /// Waits until everything appended before the call is on the disk (`fdatasync`). Blocks. Fails
    /// when the system says that it could not be brought there.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn make_private_dir(path: &Path) -> Result<(), JournalError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|cause| JournalError::Unwritable { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests;
