//! A session on disk: events go in, one line each; a later run gets the conversation back.
//! A record is written before its effect shows, and synced before an effect on the workspace.
//! Never rewrites a line; a torn last line is cut off when the session is opened again.
//!
//! Below the state folder: `sessions/<id>/journal.jsonl`, `sessions/<id>/spool/` with long outputs,
//! and `sessions/index.jsonl`, where the last line of an id counts. Folders are 0700, files 0600.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::core::event::{Event, EventKind, SessionHeader};

mod index;
mod replay;
mod usage;

pub use index::{SessionEntry, SessionStatus};
pub use replay::Replay;
pub(crate) use replay::is_silent;
pub use usage::DiskUsage;

/// The version of the records written by this build.
pub const FORMAT: u32 = 1;

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
}

impl Sessions {
    /// Returns the sessions below a state folder; nothing is made until one is created.
    pub fn below(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("sessions") }
    }

    /// Returns the folder in which the sessions of this user share their rate limits.
    pub fn rate_dir(&self) -> PathBuf {
        self.dir.with_file_name("rate")
    }

    /// Makes the folders of a session that is about to begin; returns the one for long outputs.
    pub fn reserve(&self, id: &str) -> Result<PathBuf, JournalError> {
        if !Path::new(id).components().eq([Component::Normal(id.as_ref())]) {
            return Err(JournalError::BadId { id: id.to_owned() });
        }
        let spool = self.dir.join(id).join("spool");
        make_private_dir(&spool)?;
        Ok(spool)
    }

    /// Creates a session and writes its header.
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

    /// Opens a session to go on with it.
    pub fn resume(&self, id: &str) -> Result<(Journal, Replay), JournalError> {
        let id = self.find(id)?;
        let mut journal = Journal::open_file(self.dir.join(&id), &id, false)?;
        let replay = journal.replay()?;
        Ok((journal, replay))
    }

    /// Returns the id that `id` is, or is the beginning of.
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

    /// Returns all sessions, the newest first, from the index alone.
    pub fn list(&self) -> Result<Vec<SessionEntry>, JournalError> {
        index::read(&self.index_path())
    }

    /// Appends what is now true of a session to the index.
    pub fn note(&self, entry: &SessionEntry) -> Result<(), JournalError> {
        index::append(&self.index_path(), entry)
    }

    /// Removes a session and everything kept of it.
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

    /// Returns what all sessions together use of the disk.
    pub fn disk_usage(&self) -> Result<DiskUsage, JournalError> {
        let failed = |cause| JournalError::Unwritable { path: self.dir.clone(), cause };
        usage::of(&self.dir, self.list()?.len()).map_err(failed)
    }

    fn index_path(&self) -> PathBuf {
        self.dir.join("index.jsonl")
    }
}

/// One session's journal, open for writing and locked against other processes.
#[derive(Debug)]
pub struct Journal {
    file: Arc<File>,
    dir: PathBuf,
    line: Vec<u8>,
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
        Ok(Self { file: Arc::new(file), dir, line: Vec::new() })
    }

    /// Returns a journal on an open file of whatever kind.
    #[cfg(test)]
    pub(in crate::core) fn on(file: File) -> Self {
        Self { file: Arc::new(file), dir: PathBuf::new(), line: Vec::new() }
    }

    /// Writes one event as one line, if it is of those that are kept.
    pub fn append(&mut self, event: &Event) -> Result<(), JournalError> {
        if !event.kind.is_durable() {
            return Ok(());
        }
        self.line.clear();
        serde_json::to_writer(&mut self.line, event)
            .map_err(|e| self.failed(io::Error::new(io::ErrorKind::InvalidData, e)))?;
        self.line.push(b'\n');
        (&*self.file).write_all(&self.line).map_err(|cause| self.failed(cause))
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

    /// Reads the journal from its beginning; cuts off a torn last line.
    fn replay(&mut self) -> Result<Replay, JournalError> {
        let mut replay = Replay::default();
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(0)).map_err(|cause| self.failed(cause))?;
        let mut reader = BufReader::with_capacity(256 * 1024, file);
        let mut whole_bytes = 0u64;
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(|cause| self.failed(cause))?;
            if read == 0 {
                break;
            }
            if line.last() != Some(&b'\n') {
                // The process died while it wrote this line; nothing after it can exist.
                self.file.set_len(whole_bytes).map_err(|cause| self.failed(cause))?;
                replay.torn = true;
                break;
            }
            whole_bytes += read as u64;
            let unreadable = |what| JournalError::Unreadable {
                path: self.dir.join("journal.jsonl"),
                line: number,
                what,
            };
            let event: Event =
                serde_json::from_slice(&line).map_err(|e| unreadable(e.to_string()))?;
            if let EventKind::SessionStarted(SessionHeader { format, .. }) = &event.kind
                && *format != FORMAT
            {
                return Err(unreadable(format!("its format is {format}, not {FORMAT}")));
            }
            replay.take(event);
        }
        replay.end();
        if replay.header.is_none() {
            return Err(JournalError::Unreadable {
                path: self.dir.join("journal.jsonl"),
                line: 1,
                what: "the session's header is missing".to_owned(),
            });
        }
        Ok(replay)
    }
}

/// Brings what a journal holds onto the disk.
#[derive(Debug, Clone)]
pub struct Syncer {
    file: Arc<File>,
}

impl Syncer {
    /// Waits until everything appended before the call is on the disk (`fdatasync`). Blocks.
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
