//! The list of sessions: one line appended when a session begins and when it stops. The last line
//! of an id counts, so that two processes never have to rewrite what the other wrote.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{JournalError, make_private_dir};
use crate::core::event::SessionHeader;

/// What the index knows of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEntry {
    /// The session's id.
    pub id: String,
    /// When it began, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// When it was last written, in milliseconds since 1970.
    pub updated_at_ms: u64,
    /// Its workspace.
    pub cwd: PathBuf,
    /// The model's name.
    pub model: String,
    /// The first words of its first prompt.
    pub title: String,
    /// How it stands.
    pub status: SessionStatus,
}

/// How a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionStatus {
    /// It runs, or its process died.
    Open,
    /// Its last prompt was done.
    Done,
    /// Its last prompt failed or reached a limit.
    Failed,
    /// It was interrupted.
    Interrupted,
    /// It was removed.
    Deleted,
}

impl SessionEntry {
    /// Returns what is known of a session when it begins.
    pub fn from_header(header: &SessionHeader) -> Self {
        Self {
            id: header.session_id.clone(),
            started_at_ms: header.started_at_ms,
            updated_at_ms: header.started_at_ms,
            cwd: header.cwd.clone(),
            model: header.model.clone(),
            title: String::new(),
            status: SessionStatus::Open,
        }
    }
}

pub(super) fn append(path: &Path, entry: &SessionEntry) -> Result<(), JournalError> {
    let failed = |cause| JournalError::Unwritable { path: path.to_owned(), cause };
    if let Some(dir) = path.parent() {
        make_private_dir(dir)?;
    }
    let json = serde_json::to_vec(entry)
        .map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidData, e)))?;
    let _lock = lock(path)?;
    let mut index = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let mut line = Vec::with_capacity(json.len() + 2);
    if !ends_a_line(&index).map_err(failed)? {
        // A process died while it wrote its line; ours must not become the rest of it.
        line.push(b'\n');
    }
    line.extend_from_slice(&json);
    line.push(b'\n');
    index.write_all(&line).map_err(failed)
}

fn ends_a_line(file: &File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last == [b'\n'])
}

/// Waits for the lock that everybody takes who writes the index. Dropping the file frees it.
fn lock(path: &Path) -> Result<File, JournalError> {
    let path = path.with_extension("lock");
    let failed = |cause| JournalError::Unwritable { path: path.clone(), cause };
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| failed(e.into()))?;
    Ok(lock)
}

/// Appends a line that hides the session; its old lines say nothing once the folder is gone.
pub(super) fn remove(path: &Path, id: &str) -> Result<(), JournalError> {
    let Some(mut entry) = read(path)?.into_iter().find(|entry| entry.id == id) else {
        return Ok(());
    };
    entry.status = SessionStatus::Deleted;
    // The words and the place are the user's; a deleted session keeps neither in its new line.
    entry.title.clear();
    entry.cwd = PathBuf::new();
    append(path, &entry)?;
    rewrite_without(path, id)
}

/// Rewrites the index without the lines of one session, and without torn ones: they could be its.
fn rewrite_without(path: &Path, id: &str) -> Result<(), JournalError> {
    #[derive(Deserialize)]
    struct Line {
        id: String,
    }
    let failed = |cause| JournalError::Unwritable { path: path.to_owned(), cause };
    let _lock = lock(path)?;
    let text = std::fs::read(path).map_err(failed)?;
    let kept: Vec<u8> = text
        .split_inclusive(|b| *b == b'\n')
        .filter(|line| serde_json::from_slice::<Line>(line).is_ok_and(|line| line.id != id))
        .flatten()
        .copied()
        .collect();
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&kept)?;
        file.sync_data()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(failed)
}

pub(super) fn read(path: &Path) -> Result<Vec<SessionEntry>, JournalError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(JournalError::Unwritable { path: path.to_owned(), cause }),
    };
    let mut last: HashMap<String, SessionEntry> = HashMap::new();
    // A line that cannot be read is a torn one or another version's: the others still count.
    for entry in text.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()) {
        let entry: SessionEntry = entry;
        last.insert(entry.id.clone(), entry);
    }
    let mut entries: Vec<_> =
        last.into_values().filter(|e| e.status != SessionStatus::Deleted).collect();
    entries.sort_by(|a, b| (b.updated_at_ms, &b.id).cmp(&(a.updated_at_ms, &a.id)));
    Ok(entries)
}
