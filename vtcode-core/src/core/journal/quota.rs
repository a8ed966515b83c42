//! The bound on what all sessions together take of the disk: a number comes in, what was removed to
//! keep it goes out. What can be made again and long outputs go first, then what undo keeps, then
//! whole sessions, each time the oldest first. Never touches a session that a process works on, and
//! never removes a thing that the caller is not told of.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Journal, JournalError, Sessions, index};

/// A folder without a journal is a session that is about to begin, or one whose process died in
/// that moment; after this long it is the latter.
const BEGINS: Duration = Duration::from_secs(24 * 3600);

/// Something that was removed to make room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The session.
    pub session: String,
    /// What of it.
    pub what: Kept,
    /// Its bytes.
    pub bytes: u64,
}

/// What a session keeps, in the order in which it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// Long outputs, and what can be made again from the journal.
    Outputs,
    /// The earlier contents of files, for undo.
    Preimages,
    /// All of it.
    Session,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            Kept::Outputs => "the long outputs",
            Kept::Preimages => "what undo kept",
            Kept::Session => "all",
        };
        let (id, mib) = (&self.session, self.bytes.div_ceil(1 << 20));
        write!(
            f,
            "{what} of session {id} ({mib} MiB) went, to keep the sessions below state.max_mb"
        )
    }
}

/// A session's folder, and what it takes.
#[derive(Debug)]
struct Folder {
    id: String,
    updated_at_ms: u64,
    outputs: u64,
    preimages: u64,
    rest: u64,
}

impl Sessions {
    /// Removes what is oldest until all sessions together take at most nine tenths of `max_bytes`,
    /// if they take more than that now. `running` is the caller's own session. Does nothing while
    /// another process does it. Blocks. Tells each thing once it is gone, in order. Fails when the
    /// folder of all sessions is not there or cannot be written, the index cannot be read, or a
    /// thing cannot be removed.
    pub fn keep_below(
        &self,
        max_bytes: u64,
        running: &str,
        mut tell: impl FnMut(Removed),
    ) -> Result<(), JournalError> {
        let failed = |cause| JournalError::Unwritable { path: self.dir.clone(), cause };
        let Some(_lock) = self.quota_lock().map_err(failed)? else { return Ok(()) };
        let mut folders = self.folders()?;
        let mut total: u64 = folders.iter().map(|f| f.outputs + f.preimages + f.rest).sum();
        if total <= max_bytes {
            return Ok(());
        }
        let enough = max_bytes - max_bytes / 10;
        folders.sort_by(|a, b| (a.updated_at_ms, &a.id).cmp(&(b.updated_at_ms, &b.id)));
        folders.retain(|folder| folder.id != running);
        for what in [Kept::Outputs, Kept::Preimages, Kept::Session] {
            for folder in &mut folders {
                if total <= enough {
                    return Ok(());
                }
                let bytes = match what {
                    Kept::Outputs => std::mem::take(&mut folder.outputs),
                    Kept::Preimages => std::mem::take(&mut folder.preimages),
                    Kept::Session => std::mem::take(&mut folder.rest),
                };
                if bytes > 0 && self.remove(folder, what)? {
                    total = total.saturating_sub(bytes);
                    tell(Removed { session: folder.id.clone(), what, bytes });
                }
            }
        }
        Ok(())
    }

    /// Returns whether it was removed; a session that is in use is not.
    fn remove(&self, folder: &Folder, what: Kept) -> Result<bool, JournalError> {
        let dir = self.dir.join(&folder.id);
        // Holding the lock proves that nobody works on it.
        let lock = match Journal::open_file(dir.clone(), &folder.id, false) {
            Ok(journal) => Some(journal),
            Err(JournalError::InUse { .. }) => return Ok(false),
            Err(JournalError::Unwritable { cause, .. })
                if cause.kind() == io::ErrorKind::NotFound =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        let gone = |path: PathBuf, done: io::Result<()>| match done {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(JournalError::Unwritable { path, cause: e })
            }
            _ => Ok(()),
        };
        match what {
            Kept::Outputs => {
                for path in remade(&dir) {
                    gone(path.clone(), std::fs::remove_file(&path))?;
                }
                // The folder stays: the session goes on with it.
                for path in entries(&dir.join("spool")) {
                    gone(path.clone(), std::fs::remove_file(&path))?;
                }
            }
            Kept::Preimages => {
                let path = dir.join("undo/contents");
                gone(path.clone(), std::fs::remove_dir_all(&path))?;
            }
            Kept::Session => {
                index::remove(&self.index_path(), &folder.id)?;
                gone(dir.clone(), std::fs::remove_dir_all(&dir))?;
            }
        }
        drop(lock);
        Ok(true)
    }

    fn folders(&self) -> Result<Vec<Folder>, JournalError> {
        let updated: HashMap<String, u64> =
            self.list()?.into_iter().map(|entry| (entry.id, entry.updated_at_ms)).collect();
        let dirs = entries(&self.dir).into_iter().filter(|path| path.is_dir());
        let folders = dirs.filter_map(|dir| {
            let id = dir.file_name()?.to_str()?.to_owned();
            let modified = dir.metadata().and_then(|stat| stat.modified()).ok()?;
            if !dir.join("journal.jsonl").exists()
                && SystemTime::now().duration_since(modified).is_ok_and(|age| age < BEGINS)
            {
                return None;
            }
            let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
            let outputs = bytes(&dir.join("spool"))
                + remade(&dir).iter().map(|path| bytes(path)).sum::<u64>();
            let preimages = bytes(&dir.join("undo/contents"));
            let rest = bytes(&dir).saturating_sub(outputs + preimages);
            let updated_at_ms = updated.get(&id).copied().unwrap_or(since.as_millis() as u64);
            Some(Folder { id, updated_at_ms, outputs, preimages, rest })
        });
        Ok(folders.collect())
    }

    /// Takes the lock of whoever makes room, unless somebody has it.
    fn quota_lock(&self) -> io::Result<Option<File>> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(self.dir.join("quota.lock"))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// The files of a session that are made again from its journal.
fn remade(dir: &Path) -> Vec<PathBuf> {
    let is_remade = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == "journal.index" || name.starts_with("past.")
    };
    entries(dir).into_iter().filter(is_remade).collect()
}

/// Returns the bytes below a path; what goes meanwhile counts nothing.
fn bytes(path: &Path) -> u64 {
    match path.symlink_metadata() {
        Ok(stat) if stat.is_dir() => entries(path).iter().map(|path| bytes(path)).sum(),
        Ok(stat) => stat.len(),
        Err(_) => 0,
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
