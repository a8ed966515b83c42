//! What commands change: a look at the workspace before, one after, and what differs is written
//! down as a change. Of what git holds nothing is kept before; the rest is, once a content.
//! Never looks at what the ignore files leave out, and says so when it did not look at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::git::{self, Index};
use super::record::{Change, Record, State};
use super::{Inner, Preimages, is_aside};
use crate::safety::workspace::Workspace;
use crate::tools::witness::Version;

/// How many files and folders are looked at.
const FILES: usize = 50_000;

/// How long the look before a command may take.
const LOOK: Duration = Duration::from_secs(2);

/// A file that changed so shortly before it was looked at may change again and look the same.
const TICK: Duration = Duration::from_millis(20);

/// Stands for a command that may be running. Dropping it says that the command has ended.
#[derive(Debug)]
pub struct Covered {
    preimages: Arc<Preimages>,
}

/// What is known of the workspace from the last look.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Held only while something is to be looked for: it holds us, too.
    workspace: Option<Arc<Workspace>>,
    /// Commands that run.
    live: usize,
    /// The turn that what they changed belongs to, while that was not looked for yet.
    pending: Option<u32>,
    seen: BTreeMap<PathBuf, Seen>,
    indexes: Vec<Index>,
    began_at: Option<SystemTime>,
    /// Not all was looked at.
    cut: bool,
}

/// A path as it was seen.
#[derive(Debug, Clone)]
struct Seen {
    /// None for what a tool wrote since, and for what may have changed within one tick.
    version: Option<Version>,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Known(State),
    /// The content is git's, by this id.
    InGit {
        id: String,
        index: usize,
        bytes: u64,
        mode: u32,
    },
}

impl Preimages {
    /// Looks at the workspace before a command that may do anything. Blocks. Looks at no more than
    /// 50,000 files and folders, and begins with no other one once two seconds are over; that some
    /// were left out is told by [`Preimages::take_notes`].
    pub fn before_command(self: &Arc<Self>, workspace: &Arc<Workspace>) -> Covered {
        let mut inner = self.lock();
        inner.settle(&self.dir);
        // What another command that still runs changed until now was just written down.
        inner.look(workspace);
        inner.watch.live += 1;
        inner.watch.pending = Some(inner.turn);
        let started = Record::CommandStarted { turn: inner.turn };
        if let Err(error) = inner.append(&self.dir, &started) {
            inner.notes.add("changes cannot be undone from here on", &error);
        }
        Covered { preimages: Arc::clone(self) }
    }

    /// Writes down what commands changed. Blocks.
    pub fn after_command(&self) {
        self.lock().settle(&self.dir);
    }
}

impl Drop for Covered {
    fn drop(&mut self) {
        self.preimages.lock().watch.live -= 1;
    }
}

impl Inner {
    /// Notes that a tool makes `after` of a path, so that no command is blamed for it.
    pub(super) fn tool_wrote(&mut self, path: &Path, after: &State) {
        if self.watch.pending.is_some() {
            let seen = Seen { version: None, what: What::Known(after.clone()) };
            self.watch.seen.insert(path.to_owned(), seen);
        } else {
            self.watch.seen.remove(path);
        }
    }

    /// Looks at everything that a command can reach, and keeps what nobody else holds.
    fn look(&mut self, workspace: &Arc<Workspace>) {
        let began = Instant::now();
        let began_at = SystemTime::now();
        let folders = workspace.writable_folders();
        let indexes: Vec<Index> = folders.iter().filter_map(|folder| Index::of(folder)).collect();
        let walk = walk(&folders, began);
        // Where a filter stands between git and the folder, git's content is another one.
        let filtered = walk.found.keys().any(|path| is_filtered(path));
        let mut old = std::mem::take(&mut self.watch.seen);
        let mut seen = BTreeMap::new();
        let mut late = 0;
        for (path, stat) in walk.found {
            let version = settled(&stat, began_at);
            let known = old.remove(&path).filter(|seen| {
                version.is_some() && seen.version == version && matches!(seen.what, What::Known(_))
            });
            if let Some(known) = known {
                seen.insert(path, known);
                continue;
            }
            let in_git = || {
                let find = |(index, git): (usize, &Index)| Some((index, git.holds(&path, &stat)?));
                indexes.iter().enumerate().find_map(find)
            };
            let what = match in_git().filter(|_| !filtered && version.is_some()) {
                Some((index, id)) => {
                    What::InGit { id, index, bytes: stat.len(), mode: stat.mode() & 0o777 }
                }
                None if began.elapsed() > LOOK => {
                    late += 1;
                    What::Known(State::Unknown { why: "it took too long to keep it".to_owned() })
                }
                None => What::Known(self.now(workspace, &path, true)),
            };
            if let What::Known(State::Unknown { why }) = &what {
                let path = path.display();
                self.notes.add(&format!("what commands change in `{path}` cannot be undone"), why);
            }
            seen.insert(path, Seen { version, what });
        }
        if walk.cut || late > 0 {
            let why = format!("there are too many files; {} were looked at", seen.len() - late);
            self.notes.add("not all that commands change can be undone", &why);
        }
        self.watch = Watch {
            workspace: Some(Arc::clone(workspace)),
            live: self.watch.live,
            pending: None,
            seen,
            indexes,
            began_at: Some(began_at),
            cut: walk.cut,
        };
    }

    /// Writes down what differs from the last look, if a command ran since.
    pub(super) fn settle(&mut self, dir: &Path) {
        let Some(turn) = self.watch.pending else { return };
        let (Some(workspace), Some(began_at)) = (self.watch.workspace.clone(), self.watch.began_at)
        else {
            return;
        };
        let now_at = SystemTime::now();
        let after = walk(&workspace.writable_folders(), Instant::now());
        let paths: BTreeSet<PathBuf> =
            self.watch.seen.keys().chain(after.found.keys()).cloned().collect();
        let mut changes = Vec::new();
        for path in paths {
            let stat = after.found.get(&path);
            let version = stat.and_then(|stat| settled(stat, now_at));
            match self.watch.seen.get(&path) {
                Some(seen) if seen.version.is_some() && seen.version == version => {}
                seen => {
                    let before = seen.map(|seen| seen.what.clone());
                    // What still runs may change it once more.
                    let now = self.now(&workspace, &path, self.watch.live > 0);
                    changes.push((path, before, now));
                }
            }
        }
        let rules_changed = changes.iter().any(|(path, ..)| {
            path.file_name().is_some_and(|name| name == ".gitignore" || name == ".ignore")
        });
        let mut git = BTreeMap::new();
        for (path, before, now) in changes {
            let is_new = || {
                let born = after.found.get(&path).and_then(|stat| stat.created().ok());
                born.is_some_and(|born| born + TICK >= began_at)
            };
            let before = match before {
                Some(What::Known(state)) => state,
                Some(What::InGit { id, index, bytes, mode }) => {
                    match self.take_from_git(&mut git, index, &id, bytes) {
                        Ok(kept) => State::File { hash: kept, bytes, mode },
                        Err(why) => State::Unknown { why },
                    }
                }
                None if self.watch.cut && !is_new() => continue,
                None if rules_changed && !is_new() => {
                    State::Unknown { why: "it was hidden by the ignore files before".to_owned() }
                }
                None => State::Absent,
            };
            if before != now {
                let id = self.next_id;
                self.next_id += 1;
                self.changed = true;
                if let State::Unknown { why } = &before {
                    let what = format!("`{}` cannot be restored by `vtcode undo`", path.display());
                    self.notes.add(&what, why);
                }
                let change = Change { id, turn, path: path.clone(), before, after: now.clone() };
                if let Err(error) = self.append(dir, &Record::Change(change)) {
                    self.notes.add("changes cannot be undone from here on", &error);
                }
            }
            if now == State::Absent {
                self.watch.seen.remove(&path);
            } else {
                // Its content is not kept: the next look does that.
                self.watch.seen.insert(path, Seen { version: None, what: What::Known(now) });
            }
        }
        self.watch.pending = (self.watch.live > 0).then_some(self.turn);
        if self.watch.pending.is_none() {
            self.watch.workspace = None;
            // That it is missing would only be told as a warning.
            let _ = self.append(dir, &Record::CommandsSettled);
        }
    }

    fn take_from_git(
        &mut self,
        asked: &mut BTreeMap<usize, super::git::Contents>,
        index: usize,
        id: &str,
        bytes: u64,
    ) -> Result<String, String> {
        if let std::collections::btree_map::Entry::Vacant(place) = asked.entry(index) {
            let contents = self.watch.indexes[index].contents();
            place.insert(contents.map_err(|e| format!("git cannot be asked: {e}"))?);
        }
        let contents = asked.get_mut(&index).expect("inserted above");
        let content = contents.get(id).map_err(|e| e.to_string())?;
        if content.len() as u64 != bytes {
            return Err("git holds it in another form".to_owned());
        }
        self.store.keep_bytes(&content).map(|kept| kept.hash).map_err(|e| e.to_string())
    }

    fn now(&mut self, workspace: &Workspace, path: &Path, keep: bool) -> State {
        let unknown = |why: String| State::Unknown { why };
        match workspace.at(path).map(|path| path.found()) {
            Ok(Ok(found)) => self.state(found, keep),
            Ok(Err(error)) => unknown(error.to_string()),
            Err(error) => unknown(error.to_string()),
        }
    }
}

/// Returns the version of what cannot have changed since in the same tick.
fn settled(stat: &Metadata, at: SystemTime) -> Option<Version> {
    let changed = SystemTime::UNIX_EPOCH
        + Duration::new(stat.ctime().try_into().ok()?, stat.ctime_nsec().try_into().ok()?);
    // A folder changes with what is in it, which is looked at for itself.
    (changed + TICK < at && !stat.is_dir()).then(|| Version::of(stat))
}

/// Returns whether this is a file that names filters.
fn is_filtered(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == ".gitattributes")
        // One that cannot be read may name any.
        && git::small(path)
            .is_none_or(|text| ["filter", "encoding", "ident"].iter().any(|w| text.contains(w)))
}

struct Walked {
    found: BTreeMap<PathBuf, Metadata>,
    cut: bool,
}

/// Lists what is in the folders, without what the ignore files leave out and without git's own.
fn walk(folders: &[PathBuf], began: Instant) -> Walked {
    let mut walked = Walked { found: BTreeMap::new(), cut: false };
    for folder in folders {
        let mut walk = ignore::WalkBuilder::new(folder);
        walk.hidden(false).git_global(false).require_git(false).follow_links(false);
        walk.filter_entry(|entry| {
            // Ours is there for a moment only.
            entry.file_name() != ".git" && !is_aside(entry.path())
        });
        for entry in walk.build() {
            if walked.found.len() == FILES || began.elapsed() > LOOK {
                walked.cut = true;
                return walked;
            }
            let Ok(entry) = entry else { continue };
            if entry.depth() == 0 {
                continue;
            }
            // Named once in whichever folder it lies.
            if let Ok(stat) = entry.metadata() {
                walked.found.insert(entry.into_path(), stat);
            }
        }
    }
    walked
}
