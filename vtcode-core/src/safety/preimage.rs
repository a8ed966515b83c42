//! What undo needs: a path and what will be there come in before each change, and what was there
//! is kept in the session's folder; later the changes of a turn are taken back from it.
//! A change goes on when it cannot be kept, and the user is told that it cannot be undone: a full
//! disk must not end a task that would have gone well.
//! Never resets a repository, and never touches a path that the session did not change.
//!
//! Below the session's folder: `undo/log.jsonl`, one line a change, and `undo/contents/`, each file
//! named by the hash of what is in it. A line is written before the change it tells of, so a
//! process that dies in between leaves a line of a file that is as it was, which harms nothing.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

mod commands;
mod git;
mod record;
mod restore;
mod store;

pub use commands::Covered;
pub use record::State;
pub use restore::{Conflict, Plan, Restored, Turn, UndoError, Which};

use commands::Watch;
use record::{Change, Record};
use store::{Kept, Store};

/// How the name of a file begins and ends that is to take another's place.
const ASIDE_START: &str = ".vtcode-";
const ASIDE_END: &str = ".tmp";

/// The pre-images of one session.
#[derive(Debug)]
pub struct Preimages {
    dir: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    turn: u32,
    next_id: u64,
    /// None until the first line is written.
    log: Option<File>,
    store: Store,
    /// The paths of this turn whose content from before it is kept.
    kept: HashSet<PathBuf>,
    notes: Notes,
    changed: bool,
    watch: Watch,
}

/// What the user should know, each kind of it once.
#[derive(Debug, Default)]
struct Notes {
    new: Vec<String>,
    told: HashSet<String>,
}

/// What is at a path that is about to change.
#[derive(Debug)]
pub(in crate::safety) enum Found {
    /// Nothing.
    Absent,
    /// A file, or why it cannot be read.
    File { file: io::Result<File>, bytes: u64, mode: u32 },
    /// A link and its text.
    Link { target: PathBuf },
    /// A folder.
    Folder { mode: u32 },
    /// A pipe, socket or device.
    Other,
}

/// Stands for a change that was announced.
#[derive(Debug)]
#[must_use]
pub(in crate::safety) struct Announced(Option<u64>);

/// Returns a name, which no other file has, for one that will take another's place.
pub(in crate::safety) fn aside_name() -> String {
    format!("{ASIDE_START}{}{ASIDE_END}", uuid::Uuid::now_v7().simple())
}

/// Returns whether a name is one of those.
fn is_aside(path: &Path) -> bool {
    let name = path.file_name().map(std::ffi::OsStr::to_string_lossy);
    name.is_some_and(|name| name.starts_with(ASIDE_START) && name.ends_with(ASIDE_END))
}

impl State {
    /// Returns the state of a file with this content.
    pub(in crate::safety) fn of_content(content: &[u8], mode: u32) -> Self {
        let Kept { hash, bytes } = Kept::of(content);
        Self::File { hash, bytes, mode: mode & 0o777 }
    }
}

impl Preimages {
    /// Returns the pre-images in the folder of a session that has had so many turns, with at most
    /// `quota_bytes` bytes of files kept. Nothing is made there until something changes. A log that
    /// cannot be read is told by [`Preimages::take_notes`].
    pub fn open(session_dir: &Path, quota_bytes: u64, turns: u32) -> Self {
        let dir = session_dir.join("undo");
        let mut notes = Notes::default();
        let records = record::read(&dir.join("log.jsonl")).unwrap_or_else(|error| {
            notes.add("what earlier turns changed cannot be undone", &error);
            Vec::new()
        });
        let (mut turn, mut next_id, mut cut_off) = (turns, 0, None);
        for record in &records {
            match record {
                Record::Change(change) => {
                    turn = turn.max(change.turn);
                    next_id = next_id.max(change.id + 1);
                }
                Record::Cancelled { .. } | Record::Aside { .. } | Record::Swept => {}
                Record::CommandStarted { turn } => cut_off = Some(*turn),
                Record::CommandsSettled => cut_off = None,
                Record::Undone { by, .. } => turn = turn.max(*by),
            }
        }
        if let Some(turn) = cut_off {
            let what = format!("what a command of turn {turn} changed cannot be undone");
            notes.add(&what, &"the process died while it ran");
        }
        let inner = Inner {
            turn,
            next_id,
            log: None,
            store: Store::new(dir.join("contents"), quota_bytes),
            kept: HashSet::new(),
            notes,
            changed: false,
            watch: Watch::default(),
        };
        Self { dir, inner: Mutex::new(inner) }
    }

    /// Counts the next turn: what changes from here on belongs to it.
    pub fn begin_turn(&self) {
        let mut inner = self.lock();
        inner.turn += 1;
        inner.kept.clear();
    }

    /// Writes down that a file is about to be made aside, so that a later run can remove it should
    /// this one die before it took another's place.
    pub(in crate::safety) fn sets_aside(&self, path: PathBuf) {
        // The change itself, announced next, tells when the log cannot be written.
        let _ = self.lock().append(&self.dir, &Record::Aside { path });
    }

    /// Removes what earlier runs of this session made aside and left when they died; returns how
    /// many files that were. To be called by whoever holds the session's journal, before its first
    /// change: no process then writes a file that this log names. Files of other sessions have other
    /// names and stay.
    pub fn sweep(&self) -> usize {
        let records = record::read(&self.dir.join("log.jsonl")).unwrap_or_default();
        let since = records.iter().rposition(|record| matches!(record, Record::Swept));
        let mut aside = records[since.map_or(0, |at| at + 1)..]
            .iter()
            .filter_map(|record| match record {
                Record::Aside { path } => Some(path),
                _ => None,
            })
            .peekable();
        if aside.peek().is_none() {
            return 0;
        }
        let removed = aside.filter(|path| is_aside(path) && std::fs::remove_file(path).is_ok());
        let removed = removed.count();
        // Not written down, they are looked for once more.
        let _ = self.lock().append(&self.dir, &Record::Swept);
        removed
    }

    /// Returns what the user should know and was not told yet, one line each.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().notes.new)
    }

    /// Returns whether something changed since this was opened.
    pub fn has_changes(&self) -> bool {
        self.lock().changed
    }

    /// Returns the bytes that are kept of the session's files.
    pub fn used_bytes(&self) -> u64 {
        self.lock().store.used_bytes()
    }

    /// Announces that `found` at `path` is about to become `after`, and keeps it.
    pub(in crate::safety) fn announce(
        &self,
        path: PathBuf,
        found: Found,
        after: State,
    ) -> Announced {
        self.write_down(path, found, |_| after)
    }

    /// Announces that the permissions of what is at `path` are about to change.
    pub(in crate::safety) fn announce_mode(
        &self,
        path: PathBuf,
        found: Found,
        mode: u32,
    ) -> Announced {
        self.write_down(path, found, |before| match before.clone() {
            State::File { hash, bytes, .. } => State::File { hash, bytes, mode },
            State::Folder { .. } => State::Folder { mode },
            other => other,
        })
    }

    fn write_down(
        &self,
        path: PathBuf,
        found: Found,
        after: impl FnOnce(&State) -> State,
    ) -> Announced {
        let mut inner = self.lock();
        inner.settle(&self.dir);
        // What was there before the turn counts; of what the turn itself wrote the hash is enough.
        let first = !inner.kept.contains(&path);
        let before = inner.state(found, first);
        if let State::Unknown { why } = &before {
            let what = format!("`{}` cannot be restored by `vtcode undo`", path.display());
            inner.notes.add(&what, why);
        }
        let id = inner.next_id;
        inner.next_id += 1;
        let after = after(&before);
        inner.tool_wrote(&path, &after);
        let change = Change { id, turn: inner.turn, path: path.clone(), before, after };
        match inner.append(&self.dir, &Record::Change(change)) {
            Ok(()) => {
                inner.changed = true;
                inner.kept.insert(path);
                Announced(Some(id))
            }
            Err(error) => {
                inner.notes.add("changes cannot be undone from here on", &error);
                Announced(None)
            }
        }
    }

    /// Takes back what was announced: it did not happen.
    pub(in crate::safety) fn cancel(&self, announced: &Announced) {
        let Some(id) = announced.0 else { return };
        let mut inner = self.lock();
        if let Err(error) = inner.append(&self.dir, &Record::Cancelled { id }) {
            inner.notes.add("the log of changes cannot be written", &error);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each method leaves it whole: a line is written by one call.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns the state of what was found, its content kept if asked.
    fn state(&mut self, found: Found, keep: bool) -> State {
        let unknown = |why: &dyn std::fmt::Display| State::Unknown { why: why.to_string() };
        match found {
            Found::Absent => State::Absent,
            Found::Link { target } => State::Link { target },
            Found::Folder { mode } => State::Folder { mode: mode & 0o777 },
            Found::Other => unknown(&"it is neither file, folder nor link"),
            Found::File { file: Err(error), .. } => unknown(&error),
            Found::File { file: Ok(mut file), bytes, mode } => {
                let kept = if keep {
                    self.store.keep(&mut file, bytes).map_err(|e| e.to_string())
                } else {
                    Store::hash(&mut file).map_err(|e| e.to_string())
                };
                match kept {
                    Ok(Kept { hash, bytes }) => State::File { hash, bytes, mode: mode & 0o777 },
                    Err(why) => unknown(&why),
                }
            }
        }
    }

    fn append(&mut self, dir: &Path, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.log.is_none() {
            store::private_dir(dir)?;
            let path = dir.join("log.jsonl");
            let log = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
            if log.metadata()?.len() > 0 {
                // A process may have died within its last line; ours must not become its rest.
                line.insert(0, b'\n');
            }
            self.log = Some(log);
        }
        self.log.as_ref().expect("opened above").write_all(&line)
    }
}

impl Notes {
    /// Adds a line unless its cause was told before.
    fn add(&mut self, what: &str, why: &dyn std::fmt::Display) {
        let why = why.to_string();
        if self.told.insert(why.clone()) {
            self.new.push(format!("{what}: {why}"));
        }
    }
}
