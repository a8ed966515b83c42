//! `apply_patch`: a patch over any number of files in, the list of changed files out.
//! Everything is computed and checked in memory first; then all is written, or, if a write fails,
//! put back. Never leaves a workspace with half a patch in it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::safety::workspace::{Version, WHOLE_BYTES, Workspace, WorkspacePath};
use crate::tools::builtin::blocking::writing;
use crate::tools::builtin::lines::{self, plural};
use crate::tools::builtin::{change, nearest, spec};
use crate::tools::tool::{
    CallContext, ChangeKind, Detail, Effect, FileChange, Tool, ToolError, ToolFuture, ToolOutput,
    ToolSpec, parse_args,
};

mod parse;
mod update;

use parse::{Act, Hunk, Section};

const NAME: &str = "apply_patch";

/// The most that the files of one patch may hold: they are all in memory at once.
const MAX_BYTES: usize = 4 * WHOLE_BYTES;

/// Applies patches.
#[derive(Debug)]
pub struct ApplyPatch {
    spec: ToolSpec,
    workspace: Arc<Workspace>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    patch: String,
}

/// What a patch changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Each file once, in the order in which the patch names them first.
    pub changes: Vec<FileChange>,
    /// What the author of the patch should look at again.
    pub notes: Vec<String>,
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() {
            f.write_str("the files already are as the patch makes them")?;
        } else {
            write!(f, "applied to {}", plural(self.changes.len(), "file"))?;
        }
        for FileChange { path, kind, added, removed } in &self.changes {
            let letter = match kind {
                ChangeKind::Add => 'A',
                ChangeKind::Update => 'M',
                ChangeKind::Delete => 'D',
            };
            write!(f, "\n{letter} {path} +{added} -{removed}")?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\nnote: {note}"))
    }
}

/// Why a patch was not applied. The workspace is as it was, but for what [`PatchError::Write`]
/// names.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// The text is not a patch.
    #[error("line {line} of the patch: {problem}; nothing was changed")]
    Malformed {
        /// Of the text given, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The patch does not fit the files.
    #[error("nothing was changed, because the patch does not fit:\n{}", problems.join("\n"))]
    Unfit {
        /// One for each section that does not fit, beginning with its path.
        problems: Vec<String>,
    },
    /// A file could not be written, or was changed by somebody else after it was read.
    #[error("cannot write `{path}`: {cause}; {}", left_text(left))]
    Write {
        /// The file.
        path: String,
        /// The system's answer.
        #[source]
        cause: io::Error,
        /// Files written before it that could not be put back.
        left: Vec<String>,
    },
    /// The call was cancelled before anything was written.
    #[error("interrupted before anything was changed")]
    Cancelled,
}

fn left_text(left: &[String]) -> String {
    if left.is_empty() {
        return "everything is as it was".to_owned();
    }
    format!("these files could not be put back as they were: {}", left.join(", "))
}

impl ApplyPatch {
    /// Returns the tool for the files of `workspace`.
    pub fn new(workspace: Arc<Workspace>) -> Self {
        let spec = spec::<Args>(
            NAME,
            "Change files by a patch, all or nothing. Show 3 unchanged lines around each change; \
             `@@ line` names a line above it where they are not unique:\n\
             *** Begin Patch\n\
             *** Update File: a.rs\n\
             @@ fn main() {\n \
             unchanged\n\
             -old\n\
             +new\n\
             *** Add File: b.rs\n\
             +line\n\
             *** Delete File: c.rs\n\
             *** End Patch\n\
             `*** Move to: path` after Update File renames.",
        );
        Self { spec, workspace }
    }
}

impl Tool for ApplyPatch {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, args: &Value) -> Effect {
        let mut effect = Effect::default();
        let Ok(args) = parse_args::<Args>(NAME, args) else { return effect };
        for section in parse::parse(&args.patch).unwrap_or_default() {
            let to = match section.act {
                Act::Update { to, .. } => to,
                Act::Add { .. } | Act::Delete => None,
            };
            let paths = [Some(section.path), to].into_iter().flatten();
            effect
                .writes
                .extend(paths.filter_map(|p| self.workspace.resolve(p).ok()).map(|p| p.absolute()));
        }
        effect
    }

    fn call<'a>(&'a self, args: &'a Value, context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async move {
            let args = parse_args::<Args>(NAME, args)?;
            let workspace = Arc::clone(&self.workspace);
            let work = move |cancel: &CancellationToken| {
                apply_unless(&workspace, &args.patch, cancel).map_err(|error| match error {
                    PatchError::Cancelled => ToolError::Cancelled { name: NAME.to_owned() },
                    other => ToolError::Failed(other.to_string()),
                })
            };
            let applied = writing(NAME, context, work).await?;
            Ok(ToolOutput {
                text: applied.to_string(),
                is_error: false,
                detail: Detail::Files { changes: applied.changes },
                evidence: None,
            })
        })
    }
}

/// Applies a patch to the files of `workspace`, all of it or nothing. Fails when the text is no
/// patch, when it does not fit the files or names one that may not be written, and when a file
/// cannot be written; it is never [`PatchError::Cancelled`]. Blocks.
pub fn apply(workspace: &Workspace, patch: &str) -> Result<Applied, PatchError> {
    apply_unless(workspace, patch, &CancellationToken::new())
}

fn apply_unless(
    workspace: &Workspace,
    patch: &str,
    cancel: &CancellationToken,
) -> Result<Applied, PatchError> {
    let sections = parse::parse(patch)
        .map_err(|parse::Malformed { line, problem }| PatchError::Malformed { line, problem })?;
    let mut plan = Plan { workspace, cancel, files: Vec::new(), bytes: 0, notes: Vec::new() };
    let mut problems = Vec::new();
    let mut broken: Vec<&str> = Vec::new();
    for section in &sections {
        if cancel.is_cancelled() {
            return Err(PatchError::Cancelled);
        }
        // What comes after a section that failed on the same file would fail for its sake only.
        if broken.contains(&section.path) {
            continue;
        }
        if let Err(problem) = plan.take(section) {
            broken.push(section.path);
            problems.push(problem);
        }
    }
    problems.extend(plan.file_and_folder());
    if !problems.is_empty() {
        plan.record_told();
        return Err(PatchError::Unfit { problems });
    }
    if cancel.is_cancelled() {
        return Err(PatchError::Cancelled);
    }
    plan.write()?;
    Ok(Applied { changes: plan.changes(), notes: plan.notes })
}

/// The files as the patch makes them, before anything is written.
struct Plan<'w> {
    workspace: &'w Workspace,
    cancel: &'w CancellationToken,
    files: Vec<Planned>,
    /// What the files hold before the patch, together.
    bytes: usize,
    notes: Vec<String>,
}

struct Planned {
    path: WorkspacePath,
    /// The same for every name of this file.
    identity: PathBuf,
    /// What is there; none if nothing is.
    before: Option<Before>,
    /// What shall be there.
    after: Option<Vec<u8>>,
    /// The permissions of the file that is moved here, if one is.
    mode: Option<u32>,
    /// The model knows an older state.
    stale: bool,
    /// The model is told so by this call.
    told: bool,
}

struct Before {
    bytes: Vec<u8>,
    version: Version,
}

impl Plan<'_> {
    /// Takes a section into the plan, or says why it does not fit.
    fn take(&mut self, section: &Section<'_>) -> Result<(), String> {
        let at = self.file(section.path)?;
        match &section.act {
            Act::Add { content } => {
                let file = &mut self.files[at];
                if file.after.as_ref().is_some_and(|there| there != content.as_bytes()) {
                    return Err(format!(
                        "`{}` exists already: use `*** Update File`, or delete it in the same patch",
                        file.path.display()
                    ));
                }
                file.after = Some(content.clone().into_bytes());
            }
            Act::Delete => {
                self.must_be_there(at)?;
                self.must_be_no_link(section.path)?;
                self.must_be_known(at, &[])?;
                self.files[at].after = None;
            }
            Act::Update { to, hunks } => {
                self.must_be_there(at)?;
                if !hunks.is_empty() {
                    self.update(at, hunks)?;
                }
                if let Some(to) = to {
                    self.must_be_no_link(section.path)?;
                    self.move_to(at, to)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the place of a file in the plan; reads it when it is new there.
    fn file(&mut self, path: &str) -> Result<usize, String> {
        let path = self.workspace.resolve(path).map_err(|e| ToolError::from(e).to_string())?;
        let identity = path.identity();
        if let Some(at) = self.files.iter().position(|file| file.identity == identity) {
            return Ok(at);
        }
        let before = change::read(&path).map_err(|e| e.to_string())?;
        let before = before.map(|(bytes, version)| Before { bytes, version });
        self.bytes += before.as_ref().map_or(0, |before| before.bytes.len());
        if self.bytes > MAX_BYTES {
            return Err(format!(
                "`{}`: with it the files of this patch hold too much; give several patches",
                path.display()
            ));
        }
        let stale =
            before.as_ref().is_some_and(|b| change::is_stale(self.workspace, &path, b.version));
        let after = before.as_ref().map(|before| before.bytes.clone());
        self.files.push(Planned { path, identity, before, after, mode: None, stale, told: false });
        Ok(self.files.len() - 1)
    }

    /// Refuses to remove a link: whether it or its target is meant cannot be told.
    fn must_be_no_link(&self, path: &str) -> Result<(), String> {
        let path = self.workspace.resolve(path).map_err(|e| ToolError::from(e).to_string())?;
        match path.is_link() {
            Ok(false) => Ok(()),
            Ok(true) => Err(format!("`{}` is a link; remove it with a command", path.display())),
            Err(e) => Err(path.explain(&e).to_string()),
        }
    }

    fn must_be_there(&self, at: usize) -> Result<(), String> {
        let file = &self.files[at];
        if file.after.is_some() {
            return Ok(());
        }
        if file.before.is_some() {
            return Err(format!("`{}` is deleted by this patch already", file.path.display()));
        }
        Err(nearest::missing(&file.path, self.cancel).to_string())
    }

    /// Refuses a file that changed since the model saw it, and shows what the hunks would meet.
    fn must_be_known(&mut self, at: usize, hunks: &[Hunk<'_>]) -> Result<(), String> {
        let file = &mut self.files[at];
        let Some(before) = file.before.as_ref().filter(|_| file.stale) else { return Ok(()) };
        file.told = true;
        let text = String::from_utf8_lossy(&before.bytes);
        let mut regions = update::regions(&text, hunks);
        if regions.is_empty() {
            regions.push(0..lines::lines_of(&text).len().min(12));
        }
        Err(format!(
            "`{}` was changed after you last saw it. It is now:\n{}\nIf the patch still fits, make \
             the same call again.",
            file.path.display(),
            lines::show(&text, &regions, 5)
        ))
    }

    fn update(&mut self, at: usize, hunks: &[Hunk<'_>]) -> Result<(), String> {
        self.must_be_known(at, hunks)?;
        let file = &mut self.files[at];
        let name = file.path.display();
        let bytes = file.after.clone().unwrap_or_default();
        let text = change::text(&file.path, bytes).map_err(|e| e.to_string())?;
        let mut notes = Vec::new();
        let new = update::update(&text, hunks, &mut notes).map_err(|misfit| {
            let line = hunks[misfit.hunk].line;
            let (nth, all) = (misfit.hunk + 1, hunks.len());
            format!("`{name}`, hunk {nth} of {all} (line {line} of the patch): {}", misfit.problem)
        })?;
        self.notes.extend(notes.into_iter().map(|note| format!("{name}: {note}")));
        file.after = Some(new.into_bytes());
        Ok(())
    }

    fn move_to(&mut self, from: usize, to: &str) -> Result<(), String> {
        let to = self.file(to)?;
        if from == to {
            return Ok(());
        }
        self.must_be_known(from, &[])?;
        let (name, target) = (self.files[from].path.display(), self.files[to].path.display());
        if self.files[to].after.is_some() {
            return Err(format!("`{name}` cannot be moved: `{target}` exists already"));
        }
        self.files[to].after = self.files[from].after.take();
        self.files[to].mode = self.files[from].permissions();
        Ok(())
    }

    /// Returns what is wrong with a patch that makes one path a file and a folder.
    fn file_and_folder(&self) -> Option<String> {
        let files: Vec<_> = self.files.iter().filter(|file| file.after.is_some()).collect();
        let above = |file: &Planned, other: &Planned| {
            let (file, other) = (file.path.absolute(), other.path.absolute());
            file != other && other.starts_with(file)
        };
        let file = files.iter().find(|file| files.iter().any(|other| above(file, other)))?;
        Some(format!("`{}` cannot be both a file and a folder", file.path.display()))
    }

    /// Records what the model is told of files that changed; the same patch again is its decision.
    fn record_told(&self) {
        for file in self.files.iter().filter(|file| file.told) {
            if let Some(before) = &file.before {
                self.workspace.versions().saw(&file.path, before.version);
            }
        }
    }

    /// Writes the whole plan, or puts back what it wrote.
    fn write(&self) -> Result<(), PatchError> {
        let changed = || self.files.iter().filter(|file| file.changes());
        // Removals come last: they are the hardest to put back.
        let order: Vec<&Planned> = changed()
            .filter(|file| file.after.is_some())
            .chain(changed().filter(|file| file.after.is_none()))
            .collect();
        let failed = |file: &Planned, cause, left| {
            Err(PatchError::Write { path: file.path.display(), cause, left })
        };
        for file in &order {
            let now = match file.path.version() {
                Ok(now) => now,
                Err(cause) => return failed(file, cause, Vec::new()),
            };
            if now != file.version() {
                return failed(file, file.path.changed(), Vec::new());
            }
        }
        let mut new_folders = Vec::new();
        for file in order.iter().filter(|file| file.before.is_none()) {
            new_folders
                .extend(file.path.folders_above().filter(|at| matches!(at.exists(), Ok(false))));
        }
        let mut versions = Vec::new();
        for (nth, file) in order.iter().enumerate() {
            match file.write() {
                Ok(version) => versions.push(version),
                Err(cause) => {
                    let done = order.iter().zip(&versions).take(nth).rev();
                    let left = done.filter(|(file, now)| self.put_back(file, **now).is_err());
                    let left = left.map(|(file, _)| file.path.display()).collect();
                    for folder in new_folders.iter().rev() {
                        // What somebody else put into it meanwhile keeps it.
                        let _ = folder.remove_folder();
                    }
                    return failed(file, cause, left);
                }
            }
        }
        for (file, version) in order.iter().zip(versions) {
            match version {
                Some(version) => self.workspace.versions().saw(&file.path, version),
                None => self.workspace.versions().forget(&file.path),
            }
        }
        Ok(())
    }

    /// Makes a file again what it was before the patch, if it still is what the patch made it.
    fn put_back(&self, file: &Planned, now: Option<Version>) -> io::Result<()> {
        let Some(before) = &file.before else {
            return now.map_or(Ok(()), |now| file.path.remove_if(now));
        };
        let mode = Some(before.version.permissions());
        let version = file.path.write_mode_if(now, &before.bytes, mode)?;
        // What the model knew is true again, under a new version.
        let versions = self.workspace.versions();
        if versions.last_seen(&file.path) == Some(before.version) {
            versions.saw(&file.path, version);
        }
        Ok(())
    }

    fn changes(&self) -> Vec<FileChange> {
        let text = |bytes: Option<&Vec<u8>>| {
            bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
        };
        self.files
            .iter()
            .filter(|file| file.changes())
            .map(|file| {
                let before = file.before.as_ref().map(|before| &before.bytes);
                let diff = lines::diff(&text(before), &text(file.after.as_ref()));
                let kind = match (before, &file.after) {
                    (None, _) => ChangeKind::Add,
                    (_, None) => ChangeKind::Delete,
                    _ => ChangeKind::Update,
                };
                let path = file.path.display();
                FileChange { path, kind, added: diff.added, removed: diff.removed }
            })
            .collect()
    }
}

impl Planned {
    fn changes(&self) -> bool {
        self.before.as_ref().map(|before| &before.bytes) != self.after.as_ref()
    }

    fn version(&self) -> Option<Version> {
        self.before.as_ref().map(|before| before.version)
    }

    /// Returns the permissions that the file takes along when it is moved.
    fn permissions(&self) -> Option<u32> {
        self.mode.or(self.version().map(|version| version.permissions()))
    }

    /// Makes the file what the plan says; returns its new version, none when it is gone.
    fn write(&self) -> io::Result<Option<Version>> {
        match (&self.after, self.version()) {
            (Some(content), now) => self.path.write_mode_if(now, content, self.mode).map(Some),
            (None, Some(now)) => self.path.remove_if(now).map(|()| None),
            (None, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use expect_test::expect;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::tools::builtin::testing::{Place, call, changes, context, fails, says};

    fn tool(files: &[(&str, &str)]) -> (Place, ApplyPatch) {
        let place = Place::with(files);
        let tool = ApplyPatch::new(Arc::clone(&place.workspace));
        (place, tool)
    }

    const FILES: [(&str, &str); 3] =
        [("a.rs", "one\ntwo\nthree\n"), ("b.rs", "bee\n"), ("src/c.rs", "sea\nsee\n")];

    #[tokio::test]
    async fn a_patch_adds_changes_moves_and_deletes() {
        let (place, tool) = tool(&FILES);
        let patch = "*** Begin Patch\n\
             *** Update File: a.rs\n@@\n one\n-two\n+2\n+2.5\n three\n\
             *** Add File: new/d.rs\n+dee\n\
             *** Delete File: b.rs\n\
             *** Update File: src/c.rs\n*** Move to: src/e.rs\n-sea\n+ocean\n\
             *** End Patch\n";
        let output = call(&tool, json!({"patch": patch})).await.unwrap();
        expect![[r"
            applied to 5 files
            M a.rs +2 -1
            A new/d.rs +1 -0
            D b.rs +0 -1
            D src/c.rs +0 -2
            A src/e.rs +2 -0"]]
        .assert_eq(&output.text);
        assert_eq!(changes(&output).len(), 5);
        assert_eq!(place.get("a.rs"), "one\n2\n2.5\nthree\n");
        assert_eq!(place.get("new/d.rs"), "dee\n");
        assert_eq!(place.get("src/e.rs"), "ocean\nsee\n");
        assert!(!place.path("b.rs").exists() && !place.path("src/c.rs").exists());
    }

    #[tokio::test]
    async fn one_hunk_that_does_not_fit_keeps_every_file_as_it_is() {
        let (place, tool) = tool(&FILES);
        let before = place.tree();
        let patch = "*** Update File: a.rs\n-two\n+2\n*** Add File: d.rs\n+x\n\
             *** Delete File: b.rs\n*** Update File: src/c.rs\n-sea\n+C\n@@\n-sea too\n+S\n\
             *** Update File: c.rs\n-x\n";
        expect![[r"
            nothing was changed, because the patch does not fit:
            `src/c.rs`, hunk 2 of 2 (line 10 of the patch): these lines are not in the file:
            sea too
            Closest: line 1; line 1 is `sea`, not `sea too`.
            1	sea
            2	see
            there is no `c.rs`; did you mean `src/c.rs`, `a.rs`, `b.rs`?"]]
        .assert_eq(&fails(&tool, json!({"patch": patch})).await);
        assert_eq!(place.tree(), before);
    }

    #[tokio::test]
    async fn sections_that_cannot_be_are_refused() {
        let (place, tool) = tool(&FILES);
        place.put("binary", b"a\0b");
        place.link_out();
        let before = place.tree();
        for (patch, said) in [
            ("*** Add File: a.rs\n+other\n", "`a.rs` exists already"),
            ("*** Delete File: z.rs\n", "there is no `z.rs`"),
            ("*** Update File: A.rs\n-one\n", "did you mean `a.rs`"),
            ("*** Update File: a.rs\n*** Move to: b.rs\n-one\n", "`b.rs` exists already"),
            (
                "*** Delete File: a.rs\n*** Update File: a.rs\n-one\n",
                "deleted by this patch already",
            ),
            ("*** Update File: binary\n-a\n", "is binary"),
            ("*** Delete File: src\n", "`src`: a folder, not a file"),
            ("*** Add File: d/e\n+x\n*** Add File: d\n+x\n", "both a file and a folder"),
            ("*** Add File: a.rs/x\n+x\n", "a part of it is a file"),
            ("*** Add File: ../x\n+x\n", "outside the workspace"),
            ("*** Add File: out/x\n+x\n", "leads outside the workspace"),
            ("*** Update File: a.rs\n*** Move to: /elsewhere/x\n-one\n", "outside the workspace"),
            ("not a patch", "line 1 of the patch: `not a patch` is not"),
        ] {
            let text = fails(&tool, json!({"patch": patch})).await;
            assert!(text.contains(said), "{patch}: {text}");
            assert_eq!(place.tree(), before, "{patch}");
        }
    }

    #[tokio::test]
    async fn sections_on_the_same_file_follow_each_other() {
        let (place, tool) = tool(&FILES);
        let patch = "*** Update File: a.rs\n-one\n+1\n*** Update File: ./a.rs\n-1\n+I\n\
             *** Delete File: b.rs\n*** Add File: b.rs\n+new\n\
             *** Add File: d.rs\n+x\n*** Delete File: d.rs\n";
        let text = says(&tool, json!({"patch": patch})).await;
        assert_eq!(text, "applied to 2 files\nM a.rs +1 -1\nM b.rs +1 -1");
        assert_eq!(
            (place.get("a.rs"), place.get("b.rs")),
            ("I\ntwo\nthree\n".into(), "new\n".into())
        );
        assert!(!place.path("d.rs").exists());
    }

    #[tokio::test]
    async fn two_names_of_one_file_are_one_file() {
        let (place, tool) = tool(&FILES);
        std::os::unix::fs::symlink("src", place.path("link")).unwrap();
        std::os::unix::fs::symlink("src/c.rs", place.path("l.rs")).unwrap();
        let patch = "*** Update File: src/c.rs\n-sea\n+C\n*** Update File: link/c.rs\n-see\n+D\n\
             *** Update File: l.rs\n-D\n+E\n";
        let text = says(&tool, json!({"patch": patch})).await;
        assert_eq!(text, "applied to 1 file\nM src/c.rs +2 -2");
        assert_eq!(place.get("src/c.rs"), "C\nE\n");
        assert!(place.path("l.rs").is_symlink());
    }

    #[tokio::test]
    async fn a_link_is_neither_removed_nor_moved() {
        let (place, tool) = tool(&FILES);
        std::os::unix::fs::symlink("a.rs", place.path("l.rs")).unwrap();
        let before = place.tree();
        for patch in
            ["*** Delete File: l.rs\n", "*** Update File: l.rs\n*** Move to: m.rs\n-one\n+1\n"]
        {
            let text = fails(&tool, json!({"patch": patch})).await;
            assert!(text.ends_with("`l.rs` is a link; remove it with a command"), "{text}");
            assert_eq!(place.tree(), before);
        }
    }

    #[tokio::test]
    async fn files_that_together_would_fill_the_memory_are_refused() {
        let (place, tool) = tool(&[]);
        for name in ["0", "1", "2", "3", "4"] {
            let file = std::fs::File::create(place.path(name)).unwrap();
            file.set_len(WHOLE_BYTES as u64).unwrap();
        }
        let patch = ["0", "1", "2", "3", "4"].map(|name| format!("*** Delete File: {name}\n"));
        let patch = patch.concat();
        let text = fails(&tool, json!({"patch": patch})).await;
        assert!(text.contains("hold too much; give several patches"), "{text}");
        assert!(place.path("0").exists());
    }

    #[tokio::test]
    async fn adding_what_is_there_already_changes_nothing() {
        let (_place, tool) = tool(&FILES);
        let output = call(&tool, json!({"patch": "*** Add File: b.rs\n+bee\n"})).await.unwrap();
        assert_eq!(output.text, "the files already are as the patch makes them");
        assert!(changes(&output).is_empty());
    }

    #[tokio::test]
    async fn a_moved_file_keeps_its_mode_and_bytes() {
        let (place, tool) = tool(&[]);
        place.put("run", b"\x7fELF\0\xff");
        std::fs::set_permissions(place.path("run"), Permissions::from_mode(0o751)).unwrap();
        says(&tool, json!({"patch": "*** Update File: run\n*** Move to: bin/run\n"})).await;
        assert_eq!(std::fs::read(place.path("bin/run")).unwrap(), b"\x7fELF\0\xff");
        let mode = std::fs::metadata(place.path("bin/run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o751);
        assert!(!place.path("run").exists());
    }

    #[tokio::test]
    async fn a_file_changed_since_it_was_read_is_refused_once_and_shown() {
        let (place, tool) = tool(&FILES);
        place.read("a.rs");
        place.put("a.rs", b"zero\none\ntwo\nthree\n");
        let before = place.tree();
        let args =
            json!({"patch": "*** Update File: b.rs\n-bee\n+B\n*** Update File: a.rs\n-two\n+2\n"});
        let text = fails(&tool, args.clone()).await;
        assert!(
            text.contains("`a.rs` was changed after you last saw it. It is now:\n1\tzero\n"),
            "{text}"
        );
        assert_eq!(place.tree(), before);
        says(&tool, args).await;
        assert_eq!(place.get("a.rs"), "zero\none\n2\nthree\n");

        // What it wrote itself it knows.
        says(&tool, json!({"patch": "*** Update File: a.rs\n-2\n+II\n"})).await;
        place.put("b.rs", b"bzz\n");
        let text = fails(&tool, json!({"patch": "*** Delete File: b.rs\n"})).await;
        assert!(text.contains("It is now:\n1\tbzz"), "{text}");
        says(&tool, json!({"patch": "*** Delete File: b.rs\n"})).await;
    }

    #[test]
    fn a_write_that_fails_midway_puts_back_what_was_done() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::with(&FILES);
        std::fs::write(folder.path().join("locked"), "locked\n").unwrap();
        for file in ["a.rs", "b.rs"] {
            std::fs::set_permissions(place.path(file), Permissions::from_mode(0o640)).unwrap();
        }
        let workspace =
            Workspace::open(&place.path("")).unwrap().with_dir(folder.path(), false).unwrap();
        let before = place.tree();
        let seen = workspace.resolve("a.rs").unwrap();
        workspace.versions().saw(&seen, seen.read().unwrap().1);

        let locked = folder.path().canonicalize().unwrap().join("locked");
        let patch = format!(
            "*** Update File: a.rs\n-one\n+1\n*** Add File: d.rs\n+x\n*** Delete File: b.rs\n\
             *** Update File: src/c.rs\n*** Move to: e/f/c.rs\n*** Delete File: {}\n",
            locked.display()
        );
        let error = apply(&workspace, &patch).unwrap_err();
        assert!(matches!(&error, PatchError::Write { left, .. } if left.is_empty()), "{error}");
        assert!(error.to_string().ends_with("; everything is as it was"), "{error}");
        assert_eq!(place.tree(), before);
        for file in ["a.rs", "b.rs"] {
            let mode = std::fs::metadata(place.path(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o640, "{file}");
        }
        // What the model knew of the file is still true.
        apply(&workspace, "*** Update File: a.rs\n-one\n+1\n").unwrap();
    }

    #[tokio::test]
    async fn a_cancelled_call_writes_nothing() {
        let (place, tool) = tool(&FILES);
        let before = place.tree();
        let context = context();
        context.cancel.cancel();
        let args = json!({"patch": "*** Delete File: b.rs\n"});
        let outcome = tool.call(&args, &context).await;
        assert!(matches!(outcome, Err(ToolError::Cancelled { .. })), "{outcome:?}");
        assert_eq!(place.tree(), before);
    }

    #[test]
    fn the_effect_is_a_write_of_every_file_named() {
        let (place, tool) = tool(&[]);
        let patch =
            "*** Update File: a\n*** Move to: b\n-x\n*** Delete File: c\n*** Add File: ../d\n";
        let root = place.workspace.root();
        let writes = vec![root.join("a"), root.join("b"), root.join("c")];
        let effect = tool.effect(&json!({"patch": patch}));
        assert_eq!(effect, Effect { writes, ..Effect::default() });
        assert_eq!(tool.effect(&json!({"patch": "nothing"})), Effect::default());
        assert_eq!(tool.effect(&json!({})), Effect::default());
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            cases: 200,
            ..ProptestConfig::default()
        })]

        /// Whatever the text, a patch that fails leaves every file as it was.
        #[test]
        fn garbage_never_panics_and_never_leaves_half_a_patch(
            pieces in prop::collection::vec(prop_oneof![
                Just("*** Begin Patch\n".to_owned()), Just("*** End Patch\n".to_owned()),
                Just("*** Update File: a.rs\n".to_owned()), Just("*** Add File: d/e\n".to_owned()),
                Just("*** Delete File: b.rs\n".to_owned()), Just("*** Move to: f\n".to_owned()),
                Just("*** Add File: d\n".to_owned()), Just("*** End of File\n".to_owned()),
                Just("@@\n".to_owned()), Just("@@ one\n".to_owned()), Just("-two\n".to_owned()),
                Just(" one\n".to_owned()), Just("+new\n".to_owned()), Just("\n".to_owned()),
                Just("<<'EOF'\n".to_owned()), Just("EOF\n".to_owned()), "\\PC{0,8}\r?\n?",
            ], 0..12),
        ) {
            let place = Place::with(&FILES);
            let before = place.tree();
            let changed = apply(&place.workspace, &pieces.concat())
                .is_ok_and(|applied| !applied.changes.is_empty());
            prop_assert_eq!(changed, place.tree() != before);
        }

        /// A patch that fits, bent at some places, and bytes that are none.
        #[test]
        fn a_bent_patch_never_panics_and_is_never_half_applied(
            bends in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 0..4),
        ) {
            let mut patch = b"*** Begin Patch\n*** Update File: a.rs\n@@\n one\n-two\n+2\n\
                *** Add File: d/e\n+new\n*** Delete File: b.rs\n*** End Patch\n".to_vec();
            for (at, byte, how) in bends {
                let at = at.index(patch.len());
                match how {
                    0 => patch[at] = byte,
                    1 => patch.truncate(at.max(1)),
                    _ => patch.insert(at, byte),
                }
            }
            let place = Place::with(&FILES);
            let before = place.tree();
            let applied = apply(&place.workspace, &String::from_utf8_lossy(&patch));
            if applied.is_err() {
                prop_assert_eq!(place.tree(), before);
            }
        }
    }
}
