//! Takes turns back: the log comes in, each touched path is what it was before them.
//! All paths of the turns are restored or none, and only those that still are what the turns left.
//! Every step goes through the workspace's walls and is itself a change that can be taken back.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::PathBuf;

use similar::{ChangeTag, TextDiff};

use super::record::{self, Change, Record, State};
use super::{Inner, Preimages};
use crate::safety::workspace::{Workspace, WorkspaceError, WorkspacePath};
use crate::tools::tool::{ChangeKind, FileChange};

/// Which turns are taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The newest one that changed something and was not taken back yet.
    Newest,
    /// The one of this number, from 1.
    Turn(u32),
    /// All, as if the session had never been.
    All,
    /// The newest undo: what it took back comes again.
    LastUndo,
}

/// A turn that changed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Its number in the session, from 1.
    pub number: u32,
    /// What it touched, in the order of the paths.
    pub paths: Vec<PathBuf>,
    /// Whether it was taken back.
    pub undone: bool,
}

/// What taking turns back means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The numbers of the turns, the oldest first.
    pub turns: Vec<u32>,
    steps: Vec<Step>,
    /// Paths that cannot be restored, and why.
    pub lost: Vec<(PathBuf, String)>,
}

/// One path: what the turns left there and what was there before them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    path: PathBuf,
    before: State,
    after: State,
}

/// A path that is not what the session left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The path as people see it.
    pub path: String,
    /// What is different.
    pub why: String,
    /// What undo would change in it, as the first 40 lines of a unified difference; empty where
    /// that says nothing, as of a file of more than 1 MiB or one that is not UTF-8.
    pub difference: String,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Each file and link.
    pub changes: Vec<FileChange>,
    /// Folders that stay because something else is in them.
    pub folders_kept: Vec<String>,
}

/// Why nothing was taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UndoError {
    /// There is nothing.
    #[error("nothing to {0}: the session changed nothing, or all of it was taken back")]
    Nothing(&'static str),
    /// No such turn.
    #[error("turn {0} changed nothing, or was taken back already; `vtcode undo --list` shows them")]
    NoSuchTurn(u32),
    /// Somebody else changed what the session left.
    #[error("nothing was restored: {} since", match .0.len() {
        1 => "a path was changed".to_owned(),
        n => format!("{n} paths were changed"),
    })]
    Changed(Vec<Conflict>),
    /// What was kept is not there any more.
    #[error("nothing was restored: what was kept of `{path}` cannot be read: {cause}")]
    Content {
        /// The path.
        path: String,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
    /// The log cannot be read.
    #[error("the log of changes cannot be read: {0}")]
    Log(#[source] io::Error),
    /// The path is not in the folders of the session.
    #[error("nothing was restored: {0}")]
    Outside(#[from] WorkspaceError),
    /// A step failed.
    #[error("cannot restore `{path}`: {cause}; {}", if *.put_back {
        "everything is as it was"
    } else {
        "what was restored before it stays"
    })]
    Step {
        /// The path.
        path: String,
        /// The system's answer.
        #[source]
        cause: io::Error,
        /// Whether the steps before it were taken back.
        put_back: bool,
    },
}

/// The longest difference that is shown of one file, in lines.
const SHOWN_LINES: usize = 40;

/// The largest file whose lines are compared.
const COMPARED_BYTES: u64 = 1 << 20;

/// The log, read: which turns there are and how they stand.
#[derive(Debug, Default)]
struct History {
    changes: BTreeMap<u32, Vec<Change>>,
    undone: HashSet<u32>,
    /// The turns that each undo took back.
    undos: BTreeMap<u32, Vec<u32>>,
}

impl History {
    fn of(records: Vec<Record>) -> Self {
        let mut history = Self::default();
        let cancelled: HashSet<u64> = records
            .iter()
            .filter_map(|record| match record {
                Record::Cancelled { id } => Some(*id),
                _ => None,
            })
            .collect();
        for record in records {
            match record {
                Record::Change(change) if !cancelled.contains(&change.id) => {
                    history.changes.entry(change.turn).or_default().push(change);
                }
                Record::Change(_)
                | Record::Cancelled { .. }
                | Record::Aside { .. }
                | Record::Swept
                | Record::CommandStarted { .. }
                | Record::CommandsSettled => {}
                Record::Undone { turns, by } => {
                    for turn in &turns {
                        // To take back an undo brings again what it took back.
                        for again in history.undos.get(turn).into_iter().flatten() {
                            history.undone.remove(again);
                        }
                        history.undone.insert(*turn);
                    }
                    history.undos.insert(by, turns);
                }
            }
        }
        history
    }

    /// Returns the turns that stand, the oldest first, but no undo.
    fn standing(&self) -> impl DoubleEndedIterator<Item = u32> {
        self.changes
            .keys()
            .copied()
            .filter(|turn| !self.undone.contains(turn) && !self.undos.contains_key(turn))
            .filter(|turn| !self.net(&[*turn]).is_empty())
    }

    /// Returns what the turns did together, path by path, where it is more than nothing.
    fn net(&self, turns: &[u32]) -> BTreeMap<PathBuf, Net> {
        let mut all: BTreeMap<PathBuf, Net> = BTreeMap::new();
        for change in turns.iter().filter_map(|turn| self.changes.get(turn)).flatten() {
            let Change { path, before, after, .. } = change.clone();
            match all.get_mut(&path) {
                Some(net) => {
                    net.torn |= !left(&before, &net.after);
                    net.after = after;
                }
                None => {
                    all.insert(path, Net { before, after, torn: false });
                }
            }
        }
        all.retain(|_, net| net.torn || net.before != net.after);
        all
    }
}

/// What became of a path.
struct Net {
    before: State,
    after: State,
    /// Somebody else changed it in between.
    torn: bool,
}

impl Preimages {
    /// Returns the turns that changed something, the oldest first. Fails when the log of changes
    /// cannot be read.
    pub fn turns(&self) -> Result<Vec<Turn>, UndoError> {
        let history = self.history()?;
        let turns = history.changes.keys().filter(|turn| !history.undos.contains_key(turn));
        let turns = turns.map(|turn| Turn {
            number: *turn,
            paths: history.net(&[*turn]).into_keys().collect(),
            undone: history.undone.contains(turn),
        });
        Ok(turns.filter(|turn| !turn.paths.is_empty()).collect())
    }

    /// Returns what taking these turns back would do. Fails when the log of changes cannot be read,
    /// when there is nothing to take back or no such turn, and when somebody else changed a path
    /// between two changes of the session.
    pub fn plan(&self, which: Which) -> Result<Plan, UndoError> {
        let history = self.history()?;
        let turns: Vec<u32> = match which {
            Which::All => history.standing().collect(),
            Which::Newest => history.standing().next_back().into_iter().collect(),
            Which::Turn(turn) => {
                if !history.standing().any(|standing| standing == turn) {
                    return Err(UndoError::NoSuchTurn(turn));
                }
                vec![turn]
            }
            Which::LastUndo => {
                let undos = history.undos.iter().rev();
                let mut standing = undos.filter(|(undo, of)| {
                    !history.undone.contains(undo)
                        && of.iter().all(|turn| !history.undos.contains_key(turn))
                });
                standing.next().map(|(undo, _)| *undo).into_iter().collect()
            }
        };
        if turns.is_empty() {
            return Err(UndoError::Nothing(if which == Which::LastUndo { "redo" } else { "undo" }));
        }
        let mut plan = Plan { turns, steps: Vec::new(), lost: Vec::new() };
        let mut conflicts = Vec::new();
        for (path, Net { before, after, torn }) in history.net(&plan.turns) {
            if torn {
                conflicts.push(Conflict {
                    path: path.display().to_string(),
                    why: "somebody else changed it between two changes of the session".to_owned(),
                    difference: String::new(),
                });
                continue;
            }
            match (&before, &after) {
                (State::Unknown { why }, _) | (_, State::Unknown { why }) => {
                    plan.lost.push((path, why.clone()));
                }
                (State::File { hash, bytes, .. }, _) if !self.lock().store.has(hash, *bytes) => {
                    plan.lost.push((path, "its content was not kept".to_owned()));
                }
                _ => plan.steps.push(Step { path, before, after }),
            }
        }
        if conflicts.is_empty() { Ok(plan) } else { Err(UndoError::Changed(conflicts)) }
    }

    /// Returns what taking back would change now. Fails where a path is not what the session left,
    /// where what is needed is not there, and where a path lies outside the workspace.
    pub fn preview(&self, workspace: &Workspace, plan: &Plan) -> Result<Restored, UndoError> {
        let work = self.lock().prepare(workspace, plan)?;
        Ok(Restored {
            changes: work.iter().filter_map(Work::change).collect(),
            folders_kept: Vec::new(),
        })
    }

    /// Takes the turns back. The workspace is one that announces its changes here, so that this
    /// can be taken back, too. Fails as [`Preimages::preview`] does, before anything is touched;
    /// when a step fails, and then the error says whether those before it were taken back; and when
    /// all is restored but the log cannot be written.
    pub fn undo(&self, workspace: &Workspace, plan: &Plan) -> Result<Restored, UndoError> {
        self.begin_turn();
        let work = self.lock().prepare(workspace, plan)?;
        let mut restored = Restored::default();
        if let Err((path, cause)) = run(&work, &mut restored) {
            return Err(UndoError::Step { path, cause, put_back: self.put_back(workspace) });
        }
        restored.changes = work.iter().filter_map(Work::change).collect();
        let mut inner = self.lock();
        let undone = Record::Undone { turns: plan.turns.clone(), by: inner.turn };
        inner.append(&self.dir, &undone).map_err(UndoError::Log)?;
        Ok(restored)
    }

    /// Takes back what a failed undo did so far.
    fn put_back(&self, workspace: &Workspace) -> bool {
        let turn = self.lock().turn;
        let Ok(history) = self.history() else { return false };
        let steps = history.net(&[turn]).into_iter();
        let steps = steps.map(|(path, Net { before, after, .. })| Step { path, before, after });
        let plan = Plan { turns: vec![turn], steps: steps.collect(), lost: Vec::new() };
        let work = self.lock().prepare(workspace, &plan);
        work.is_ok_and(|work| run(&work, &mut Restored::default()).is_ok())
    }

    fn history(&self) -> Result<History, UndoError> {
        record::read(&self.dir.join("log.jsonl")).map(History::of).map_err(UndoError::Log)
    }
}

/// A step that was checked and has all it needs.
struct Work {
    path: WorkspacePath,
    now: State,
    wanted: State,
    /// Of the file that is wanted.
    content: Vec<u8>,
    /// Lines added and removed.
    lines: (u32, u32),
}

impl Inner {
    fn prepare(&mut self, workspace: &Workspace, plan: &Plan) -> Result<Vec<Work>, UndoError> {
        let mut work = Vec::new();
        let mut conflicts = Vec::new();
        for Step { path, before, after } in &plan.steps {
            let path = workspace.at(path)?;
            let now = match path.found() {
                Ok(found) => self.state(found, false),
                Err(error) => State::Unknown { why: error.to_string() },
            };
            if now == *before {
                continue;
            }
            let content = match before {
                State::File { hash, .. } => self
                    .store
                    .content(hash)
                    .map_err(|cause| UndoError::Content { path: path.display(), cause })?,
                _ => Vec::new(),
            };
            let (difference, lines) = difference(&path, &now, before, &content);
            if !left(&now, after) {
                let why = changed(&now, after);
                conflicts.push(Conflict { path: path.display(), why, difference });
                continue;
            }
            work.push(Work { path, now, wanted: before.clone(), content, lines });
        }
        if conflicts.is_empty() { Ok(work) } else { Err(UndoError::Changed(conflicts)) }
    }
}

/// Returns whether what is there is what was left. A folder only has to be there.
fn left(now: &State, after: &State) -> bool {
    now == after || matches!((now, after), (State::Folder { .. }, State::Folder { .. }))
}

fn changed(now: &State, after: &State) -> String {
    match (now, after) {
        (State::Unknown { why }, _) => format!("cannot be looked at: {why}"),
        (State::Absent, _) => "is gone".to_owned(),
        (_, State::Absent) => "is there again".to_owned(),
        (State::File { hash: a, .. }, State::File { hash: b, .. }) if a == b => {
            "has other permissions than the session left".to_owned()
        }
        _ => "is not what the session left".to_owned(),
    }
}

/// Restores everything: what is in the way goes first, then folders from the top down, then what
/// is in them; permissions of folders last, as they may forbid to write there.
fn run(work: &[Work], restored: &mut Restored) -> Result<(), (String, io::Error)> {
    let failed = |work: &Work, cause| (work.path.display(), cause);
    let folder = |state: &State| matches!(state, State::Folder { .. });
    for work in work.iter().filter(|w| !folder(&w.now) && kind(&w.now) != kind(&w.wanted)) {
        if work.now != State::Absent {
            work.path.take_away().map_err(|e| failed(work, e))?;
        }
    }
    // The paths are sorted: what lies in a folder comes after it.
    for work in work.iter().rev().filter(|w| folder(&w.now) && !folder(&w.wanted)) {
        match work.path.remove_folder() {
            Err(e)
                if e.kind() == io::ErrorKind::DirectoryNotEmpty && work.wanted == State::Absent =>
            {
                restored.folders_kept.push(work.path.display());
            }
            other => other.map_err(|e| failed(work, e))?,
        }
    }
    for work in work.iter().filter(|w| folder(&w.wanted) && !folder(&w.now)) {
        work.path.make_folder().map_err(|e| failed(work, e))?;
    }
    for work in work {
        match &work.wanted {
            State::File { hash, mode, .. } => {
                let done = match &work.now {
                    State::File { hash: now, .. } if now == hash => work.path.set_mode(*mode),
                    _ => work.path.put_file(&work.content, *mode),
                };
                done.map_err(|e| failed(work, e))?;
            }
            State::Link { target } => {
                work.path.put_link(target).map_err(|e| failed(work, e))?;
            }
            _ => {}
        }
    }
    for work in work.iter().rev() {
        if let State::Folder { mode } = work.wanted {
            work.path.set_mode(mode).map_err(|e| failed(work, e))?;
        }
    }
    Ok(())
}

fn kind(state: &State) -> u8 {
    match state {
        State::Absent => 0,
        State::File { .. } => 1,
        State::Link { .. } => 2,
        State::Folder { .. } => 3,
        State::Unknown { .. } => 4,
    }
}

impl Work {
    fn change(&self) -> Option<FileChange> {
        let kind = match (&self.now, &self.wanted) {
            (State::Folder { .. } | State::Absent, State::Folder { .. } | State::Absent) => {
                return None;
            }
            (State::Absent | State::Folder { .. }, _) => ChangeKind::Add,
            (_, State::Absent | State::Folder { .. }) => ChangeKind::Delete,
            _ => ChangeKind::Update,
        };
        let (added, removed) = self.lines;
        Some(FileChange { path: self.path.display(), kind, added, removed })
    }
}

/// Returns how a file would change, in words and in lines.
fn difference(
    path: &WorkspacePath,
    now: &State,
    wanted: &State,
    content: &[u8],
) -> (String, (u32, u32)) {
    let small =
        |state: &State| !matches!(state, State::File { bytes, .. } if *bytes > COMPARED_BYTES);
    if !small(now) || !small(wanted) {
        return (String::new(), (0, 0));
    }
    let old = match now {
        State::File { .. } => path.read().map(|(bytes, _)| bytes).unwrap_or_default(),
        _ => Vec::new(),
    };
    let (Ok(old), Ok(new)) = (std::str::from_utf8(&old), std::str::from_utf8(content)) else {
        return (String::new(), (0, 0));
    };
    let diff = TextDiff::from_lines(old, new);
    let mut lines = (0, 0);
    for change in diff.iter_all_changes() {
        match change.tag() {
            ChangeTag::Insert => lines.0 += 1,
            ChangeTag::Delete => lines.1 += 1,
            ChangeTag::Equal => {}
        }
    }
    let unified = diff.unified_diff().header("now", "after undo").to_string();
    let mut shown: Vec<&str> = unified.lines().take(SHOWN_LINES).collect();
    if unified.lines().nth(SHOWN_LINES).is_some() {
        shown.push("…");
    }
    (shown.join("\n"), lines)
}
