//! Walks folders as people see them: takes a folder of the workspace, gives its entries in order,
//! without `.git` and without what the ignore files leave out.
//! Never follows a link, and holds no more names than it is asked to keep.

use std::collections::BinaryHeap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use tokio_util::sync::CancellationToken;

use crate::safety::workspace::{EntryKind, Folder, WorkspacePath};
use crate::tools::builtin::blocking::check;
use crate::tools::witness::{Evidence, Version};

/// The most of an ignore file that is read.
const IGNORE_FILE_BYTES: u64 = 1024 * 1024;

/// How many ignored names are remembered for a folder.
const IGNORED_NAMES: usize = 8;

/// The ignore rules that hold in a folder: those of its own files and those from above.
///
/// This is not `ignore::Walk`, because that opens folders by name, where a link swapped in leads
/// out, and sorts a folder only by holding all of it.
#[derive(Debug, Default)]
pub(super) struct Ignores {
    own: Option<Gitignore>,
    above: Option<Arc<Ignores>>,
}

impl Ignores {
    /// Returns the rules that hold in the folder `at`, its own included. Of that folder the
    /// evidence names only what is there: its [`entries`] tell what is not.
    pub(super) fn of(at: &WorkspacePath, evidence: &mut Evidence) -> Arc<Self> {
        let mut rules = Arc::new(Self::default());
        let top = at.folders_above().next().unwrap_or_else(|| at.clone()).absolute();
        // A workspace inside a repository obeys the repository. These files lie outside, but it is
        // we who read them, and nothing of them is shown.
        for dir in outer(&top, evidence).into_iter().rev() {
            rules = rules.below(dir, evidence, |name, evidence| {
                let path = dir.join(name);
                evidence.look(&path);
                if path.is_file() { File::open(path).ok() } else { None }
            });
        }
        for folder in at.folders_above() {
            match folder.open_folder() {
                Ok(open) => rules = rules.read(&open, &folder.absolute(), false, evidence),
                Err(error) => evidence.add_unopened(folder.absolute(), &error),
            }
        }
        match at.open_folder() {
            Ok(open) => rules.enter(&open, &at.absolute(), evidence),
            Err(error) => {
                evidence.add_unopened(at.absolute(), &error);
                rules
            }
        }
    }

    /// Returns the rules that hold in `folder`, which lies directly below and whose [`entries`]
    /// are read as well.
    pub(super) fn enter(
        self: &Arc<Self>,
        folder: &Folder,
        absolute: &Path,
        evidence: &mut Evidence,
    ) -> Arc<Self> {
        self.read(folder, absolute, true, evidence)
    }

    fn read(
        self: &Arc<Self>,
        folder: &Folder,
        absolute: &Path,
        listed: bool,
        evidence: &mut Evidence,
    ) -> Arc<Self> {
        self.below(absolute, evidence, |name, evidence| {
            let mut inner = None::<Folder>;
            let mut open = || {
                let mut parts = name.split('/').map(OsStr::new);
                let file = parts.next_back().unwrap_or_default();
                for part in parts {
                    inner = Some(inner.as_ref().unwrap_or(folder).open_folder(part)?);
                }
                inner.as_ref().unwrap_or(folder).open_file(file)
            };
            match open() {
                Ok((file, stat)) => {
                    evidence.add(absolute.join(name), Some(Version::of(&stat)));
                    Some(file)
                }
                // The folder's own version tells.
                Err(error)
                    if listed && inner.is_none() && error.kind() == io::ErrorKind::NotFound =>
                {
                    None
                }
                Err(error) => {
                    evidence.add_unopened(absolute.join(name), &error);
                    None
                }
            }
        })
    }

    fn below(
        self: &Arc<Self>,
        dir: &Path,
        evidence: &mut Evidence,
        open: impl Fn(&str, &mut Evidence) -> Option<File>,
    ) -> Arc<Self> {
        let mut rules = GitignoreBuilder::new(dir);
        let mut any = false;
        // A later rule wins over an earlier one.
        for name in [".git/info/exclude", ".gitignore", ".ignore"] {
            let Some(file) = open(name, evidence) else { continue };
            let mut content = Vec::new();
            if file.take(IGNORE_FILE_BYTES).read_to_end(&mut content).is_err() {
                evidence.give_up();
                continue;
            }
            for line in String::from_utf8_lossy(&content).lines() {
                // A rule that cannot be read hides nothing, as in git.
                any |= rules.add_line(None, line).is_ok();
            }
        }
        match rules.build() {
            Ok(own) if any && !own.is_empty() => {
                Arc::new(Self { own: Some(own), above: Some(Arc::clone(self)) })
            }
            _ => Arc::clone(self),
        }
    }

    /// Returns whether the rules leave out a file, or a folder on the way to it. What cannot be
    /// read leaves nothing out.
    pub(super) fn hide(path: &WorkspacePath) -> bool {
        // What was looked at decides nothing later.
        let evidence = &mut Evidence::begin();
        let mut rules = None::<Arc<Self>>;
        for folder in path.folders_above() {
            rules = Some(match rules {
                None => Self::of(&folder, evidence),
                Some(rules) if rules.ignores(&folder.absolute(), true) => return true,
                Some(rules) => match folder.open_folder() {
                    Ok(open) => rules.enter(&open, &folder.absolute(), evidence),
                    Err(_) => rules,
                },
            });
        }
        rules.is_some_and(|rules| rules.ignores(&path.absolute(), false))
    }

    fn ignores(&self, path: &Path, is_folder: bool) -> bool {
        let mut level = Some(self);
        while let Some(rules) = level {
            match rules.own.as_ref().map_or(Match::None, |own| own.matched(path, is_folder)) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => level = rules.above.as_deref(),
            }
        }
        false
    }
}

/// Returns the folders above `top` that belong to its repository, the nearest first.
fn outer<'a>(top: &'a Path, evidence: &mut Evidence) -> Vec<&'a Path> {
    let mut outer = Vec::new();
    for dir in top.ancestors() {
        if dir != top {
            outer.push(dir);
        }
        let git = dir.join(".git");
        if git.exists() {
            evidence.add_presence(git);
            return outer;
        }
        evidence.add(git, None);
    }
    Vec::new()
}

/// What is in a folder.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// The first ones by name.
    pub(super) kept: Vec<(OsString, EntryKind)>,
    /// How many more there are.
    pub(super) left_out: usize,
    /// True when the folder was not read to its end.
    pub(super) unread: bool,
    /// Some of the names that the rules leave out; folders with a slash.
    pub(super) ignored: Vec<String>,
}

/// Reads a folder: keeps the first `keep` names and looks at no more than `look_at`.
pub(super) fn entries(
    folder: &Folder,
    absolute: &Path,
    rules: &Ignores,
    keep: usize,
    look_at: usize,
    evidence: &mut Evidence,
    cancel: &CancellationToken,
) -> io::Result<Entries> {
    let mut found = Entries::default();
    evidence.add(absolute, Some(folder.version()?));
    let mut path = absolute.to_owned();
    // The greatest name kept lies on top, to be dropped for a smaller one.
    let mut kept = BinaryHeap::new();
    for (looked_at, entry) in folder.entries()?.enumerate() {
        if looked_at == look_at {
            found.unread = true;
            // Which ones were looked at is the system's choice.
            evidence.give_up();
            break;
        }
        check(cancel)?;
        let (name, kind) = entry?;
        if name == ".git" {
            continue;
        }
        path.push(&name);
        let ignored = rules.ignores(&path, kind == EntryKind::Folder);
        path.pop();
        if ignored {
            if found.ignored.len() < IGNORED_NAMES {
                found.ignored.push(shown(&name, kind));
            }
            continue;
        }
        kept.push((name, kind));
        if kept.len() > keep {
            kept.pop();
            found.left_out += 1;
        }
    }
    found.kept = kept.into_sorted_vec();
    found.ignored.sort();
    Ok(found)
}

/// Returns a name as it is shown: one line, a folder with a slash.
pub(super) fn shown(name: &OsStr, kind: EntryKind) -> String {
    let mut text = one_line(&name.to_string_lossy());
    if kind == EntryKind::Folder {
        text.push('/');
    }
    text
}

/// Escapes what would break a line or move the cursor.
pub(super) fn one_line(name: &str) -> String {
    if !name.contains(char::is_control) {
        return name.to_owned();
    }
    name.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use serde_json::{Value, json};

    use crate::tools::builtin::grep_file::GrepFile;
    use crate::tools::builtin::list_files::ListFiles;
    use crate::tools::builtin::read_file::ReadFile;
    use crate::tools::builtin::testing::{Place, context};
    use crate::tools::tool::{Tool, ToolError, ToolOutput};

    use super::*;

    fn place() -> Place {
        let place = Place::with(&[
            (".gitignore", "target/\n"),
            ("src/a.rs", "fn a() {}\n"),
            ("src/deep/b.rs", "fn b() {}\n"),
            ("other/a.rs", "fn a() {}\n"),
            ("target/out", "fn out() {}\n"),
        ]);
        symlink("src", place.path("link")).unwrap();
        symlink("../a.rs", place.path("src/deep/up")).unwrap();
        place
    }

    fn calls(place: &Place) -> Vec<(Box<dyn Tool>, Value)> {
        let workspace = || Arc::clone(&place.workspace);
        let read = |args| (Box::new(ReadFile::new(workspace(), 9999)) as Box<dyn Tool>, args);
        let list = |args| (Box::new(ListFiles::new(workspace(), 9999)) as Box<dyn Tool>, args);
        let grep = |args| (Box::new(GrepFile::new(workspace(), 9999)) as Box<dyn Tool>, args);
        vec![
            read(json!({"path": "src/a.rs"})),
            read(json!({"path": "link/a.rs"})),
            read(json!({"path": "src/deep/up"})),
            read(json!({"path": "src"})),
            read(json!({"files": [{"path": "src/a.rs"}, {"path": "src/deep/b.rs"}]})),
            list(json!({"depth": 9})),
            list(json!({"depth": 1})),
            list(json!({"path": "link"})),
            list(json!({"path": "src/deep"})),
            grep(json!({"pattern": "fn"})),
            grep(json!({"pattern": "absent"})),
            grep(json!({"pattern": "FN A", "path": "src"})),
            grep(json!({"pattern": "b(", "path": "link"})),
            grep(json!({"pattern": "fn", "path": "src/deep", "glob": "*.rs"})),
            grep(json!({"pattern": "fn", "path": "src/a.rs", "mode": "count"})),
        ]
    }

    fn run(tool: &dyn Tool, args: &Value) -> Result<ToolOutput, ToolError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(tool.call(args, &context()))
    }

    /// Calls until the files are old enough that their versions tell every later change.
    fn settled(tool: &dyn Tool, args: &Value) -> ToolOutput {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let output = run(tool, args).unwrap();
            if output.evidence.as_ref().expect("all calls have evidence").can_tell() {
                return output;
            }
            assert!(std::time::Instant::now() < deadline, "{args}");
        }
    }

    type Change = (&'static str, fn(&Place) -> io::Result<()>);

    /// What somebody else may do meanwhile.
    const CHANGES: [Change; 24] = [
        ("write", |place| fs::write(place.path("src/a.rs"), "fn z() {}\n")),
        ("replace", |place| {
            fs::write(place.path("t"), "fn y() {}\n")
                .and_then(|()| fs::rename(place.path("t"), place.path("src/deep/b.rs")))
        }),
        ("append", |place| fs::write(place.path("other/a.rs"), "fn a() {}\nfn c() {}\n")),
        ("add", |place| fs::write(place.path("src/c.rs"), "fn c() {}\n")),
        ("add deep", |place| fs::write(place.path("src/deep/c.rs"), "fn c() {}\n")),
        ("remove", |place| fs::remove_file(place.path("src/deep/b.rs"))),
        ("rename", |place| fs::rename(place.path("src/a.rs"), place.path("src/d.rs"))),
        ("chmod", |place| {
            fs::set_permissions(place.path("src/a.rs"), fs::Permissions::from_mode(0o000))
        }),
        ("chmod folder", |place| {
            fs::set_permissions(place.path("src/deep"), fs::Permissions::from_mode(0o700))
        }),
        ("make folder", |place| fs::create_dir(place.path("src/deep/more"))),
        ("ignore", |place| fs::write(place.path(".gitignore"), "deep/\n")),
        ("ignore nothing", |place| fs::remove_file(place.path(".gitignore"))),
        ("ignore below", |place| fs::write(place.path("src/.gitignore"), "a.rs\n")),
        ("ignore deep", |place| fs::write(place.path("src/deep/.ignore"), "*.rs\n")),
        ("ignore above", |place| fs::write(place.outside().join(".gitignore"), "src/\n")),
        ("repository above", |place| fs::create_dir(place.outside().join(".git"))),
        ("repository", |place| fs::create_dir(place.path(".git"))),
        ("exclude", |place| {
            fs::create_dir_all(place.path(".git/info"))
                .and_then(|()| fs::write(place.path(".git/info/exclude"), "*.rs\n"))
        }),
        ("exclude deep", |place| {
            fs::create_dir_all(place.path("src/.git/info"))
                .and_then(|()| fs::write(place.path("src/.git/info/exclude"), "deep\n"))
        }),
        ("swap link", |place| {
            fs::remove_file(place.path("link")).and_then(|()| symlink("other", place.path("link")))
        }),
        ("link a file", |place| {
            fs::remove_file(place.path("src/a.rs"))
                .and_then(|()| symlink("../other/a.rs", place.path("src/a.rs")))
        }),
        ("swap folders", |place| {
            fs::rename(place.path("src"), place.path("old"))
                .and_then(|()| fs::rename(place.path("other"), place.path("src")))
        }),
        ("link ignored", |place| symlink("../other/a.rs", place.path("src/.gitignore"))),
        ("file for folder", |place| {
            fs::remove_dir_all(place.path("src/deep"))
                .and_then(|()| fs::write(place.path("src/deep"), "fn deep() {}\n"))
        }),
    ];

    fn apply(changes: &[Change], place: &Place) {
        for (_, change) in changes {
            // What an earlier change took away cannot be changed again.
            let _ = change(place);
        }
    }

    #[test]
    fn a_result_whose_evidence_holds_is_what_the_call_gives_now() {
        let mut runner = TestRunner::new(Config { cases: 40, ..Config::default() });
        let change = || prop::sample::select(CHANGES.to_vec());
        let changes =
            (prop::collection::vec(change(), 0..3), prop::collection::vec(change(), 1..4));
        let tried = runner.run(&changes, |(before, changes)| {
            let place = place();
            apply(&before, &place);
            let mut kept = Vec::new();
            for (tool, args) in calls(&place) {
                // What fails, or depends on a name that is not there, is not kept.
                if run(&*tool, &args).is_ok_and(|output| output.evidence.is_some()) {
                    kept.push((settled(&*tool, &args), tool, args));
                }
            }
            apply(&changes, &place);
            let names: Vec<_> = changes.iter().map(|(name, _)| *name).collect();
            for (output, tool, args) in kept {
                if output.evidence.as_ref().unwrap().still_holds() {
                    let now = run(&*tool, &args).unwrap();
                    assert_eq!(now.text, output.text, "{args} after {names:?}");
                }
            }
            Ok(())
        });
        tried.unwrap();
    }

    #[test]
    fn each_change_ends_what_it_touches_and_nothing_else() {
        // Which calls, counted as they stand in the list, see another state.
        let touched_in = |repository: &str, change: &dyn Fn(&Place)| {
            let place = place();
            fs::create_dir_all(place.path(repository).join(".git/info")).unwrap();
            let calls = calls(&place);
            let kept: Vec<_> = calls.iter().map(|(tool, args)| settled(&**tool, args)).collect();
            change(&place);
            let gone = |output: &ToolOutput| !output.evidence.as_ref().unwrap().still_holds();
            kept.iter()
                .enumerate()
                .filter(|(_, kept)| gone(kept))
                .map(|(n, _)| n)
                .collect::<Vec<_>>()
        };
        let write =
            |path: &'static str| move |place: &Place| fs::write(place.path(path), "").unwrap();
        let touched = |change: &dyn Fn(&Place)| touched_in(".", change);
        let none: Vec<usize> = Vec::new();
        assert_eq!(touched(&write(".git/index")), none, "git works all the time");
        assert_eq!(touched(&write("target/out")), none);
        assert_eq!(touched(&write("target/new")), none);
        assert_eq!(touched(&write("src/deep/b.rs")), [4, 9, 10, 11, 12, 13]);
        assert_eq!(touched(&write("src/deep/new")), [5, 7, 8, 9, 10, 11, 12, 13]);
        assert_eq!(touched(&write("other/a.rs")), [9, 10]);
        assert_eq!(touched(&write(".git/info/exclude")), [3, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
        assert_eq!(touched(&write("src/.gitignore")), [3, 5, 7, 8, 9, 10, 11, 12, 13]);
        assert_eq!(touched(&write("../.gitignore")), none, "it is outside the repository");
        let walks = [3, 5, 6, 7, 8, 9, 10, 11, 12, 13];
        assert_eq!(touched_in("..", &write("../.gitignore")), walks);
        assert_eq!(touched(&|_| {}), none);
    }
}
