//! `list_files`: a folder comes in, its tree as indented names goes out, as far as fits.
//! Leaves out what the ignore files leave out, and never follows a link.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::safety::workspace::{EntryKind, Folder, Workspace, WorkspacePath};
use crate::tools::builtin::blocking::{check, each_alone, one_batch, reading};
use crate::tools::builtin::lines::plural;
use crate::tools::builtin::walk::{self, Ignores};
use crate::tools::builtin::{nearest, resolve_or_root, spec};
use crate::tools::tool::{
    BatchFuture, CallContext, Detail, Effect, Tool, ToolError, ToolFuture, ToolOutput, ToolSpec,
    parse_args,
};
use crate::tools::witness::Evidence;

const NAME: &str = "list_files";

const DEFAULT_DEPTH: usize = 2;

/// How many entries are shown in all.
const ENTRIES: usize = 500;

/// How many entries are shown of a folder below the one asked for.
const ENTRIES_BELOW: usize = 60;

/// How many entries of one folder are looked at.
const LOOKED_AT: usize = 100_000;

/// The most of a link's target that is shown.
const TARGET_CHARS: usize = 200;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    /// Default: the workspace
    path: Option<String>,
    /// Default 2
    depth: Option<usize>,
}

/// Lists a folder.
#[derive(Debug)]
pub struct ListFiles {
    spec: ToolSpec,
    workspace: Arc<Workspace>,
    result_bytes: usize,
}

impl ListFiles {
    /// Returns the tool for `workspace`; no result is much longer than `result_bytes`.
    pub fn new(workspace: Arc<Workspace>, result_bytes: usize) -> Self {
        let spec = spec::<Args>(NAME, "List a folder's tree, without ignored files.");
        Self { spec, workspace, result_bytes }
    }
}

impl Tool for ListFiles {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, args: &Value) -> Effect {
        parse_args::<Args>(NAME, args)
            .and_then(|args| resolve_or_root(&self.workspace, args.path.as_deref()))
            .map_or_else(|_| Effect::default(), |path| Effect::read(path.absolute()))
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    /// One walk of a folder serves all depths.
    fn batch(&self, args: &Value) -> Option<String> {
        let (path, _) = self.asked(args).ok()?;
        Some(path.absolute().display().to_string())
    }

    fn call<'a>(&'a self, args: &'a Value, context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async move {
            let mut listed = self.together(&[args], context).await?;
            Ok(listed.pop().expect("there is an output for each call"))
        })
    }

    fn call_batch<'a>(
        &'a self,
        calls: &'a [&'a Value],
        context: &'a CallContext,
    ) -> BatchFuture<'a> {
        Box::pin(async move {
            if one_batch(self, calls).is_some()
                && let Ok(listed) = self.together(calls, context).await
            {
                return listed.into_iter().map(Ok).collect();
            }
            each_alone(self, calls, context).await
        })
    }
}

impl ListFiles {
    /// Reads the arguments: a folder and how deep to look.
    fn asked(&self, args: &Value) -> Result<(WorkspacePath, usize), ToolError> {
        let args: Args = parse_args(NAME, args)?;
        let path = resolve_or_root(&self.workspace, args.path.as_deref())?;
        Ok((path, args.depth.unwrap_or(DEFAULT_DEPTH).max(1)))
    }

    /// Lists one folder to the depth of each call.
    async fn together(
        &self,
        calls: &[&Value],
        context: &CallContext,
    ) -> Result<Vec<ToolOutput>, ToolError> {
        let asked: Result<Vec<_>, _> = calls.iter().map(|args| self.asked(args)).collect();
        let (mut paths, depths): (Vec<_>, Vec<_>) = asked?.into_iter().unzip();
        let path = paths.swap_remove(0);
        let bytes = self.result_bytes;
        reading(NAME, context, move |cancel| list(&path, &depths, bytes, cancel)).await
    }
}

/// Lists a folder to each of the depths.
fn list(
    path: &WorkspacePath,
    depths: &[usize],
    result_bytes: usize,
    cancel: &CancellationToken,
) -> Result<Vec<ToolOutput>, ToolError> {
    let mut evidence = Evidence::begin();
    let folder = path.open_folder().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => nearest::missing(path, cancel),
        io::ErrorKind::NotADirectory => {
            ToolError::Failed(format!("`{}` is no folder; read_file reads files", path.display()))
        }
        _ => path.explain(&error),
    })?;
    let trees = trees(path, folder, depths, result_bytes, &mut evidence, cancel)
        .map_err(|error| path.explain(&error))?;
    let output = |tree: Tree| ToolOutput {
        text: tree.text,
        is_error: false,
        detail: Detail::Summary { line: plural(tree.entries, "entry") },
        evidence: tree.evidence.whole(),
    };
    Ok(trees.into_iter().map(output).collect())
}

/// One line of the tree, with what stands below it.
#[derive(Default)]
struct Node {
    line: String,
    below: Vec<usize>,
    /// Said below the last entry.
    note: Option<String>,
}

/// A folder's tree as it is shown.
pub(super) struct Tree {
    pub(super) text: String,
    /// How many entries it shows.
    pub(super) entries: usize,
    evidence: Evidence,
}

/// Returns the tree to each of `depths`, which are at least 1, in their order. What a tree depends
/// on is added to `evidence`, from which each takes along what was known when it was done.
pub(super) fn trees(
    path: &WorkspacePath,
    folder: Folder,
    depths: &[usize],
    result_bytes: usize,
    evidence: &mut Evidence,
    cancel: &CancellationToken,
) -> io::Result<Vec<Tree>> {
    let deepest = depths.iter().copied().max().unwrap_or(0);
    let mut trees: Vec<Option<Tree>> = depths.iter().map(|_| None).collect();
    let mut nodes = vec![Node::default()];
    let mut entries_left = ENTRIES;
    let mut bytes_left = result_bytes;
    let mut unopened = 0_usize;
    let mut ignored = Vec::new();
    // Level by level, so that what does not fit is the deepest.
    let rules = Ignores::of(path, evidence);
    let mut folders = VecDeque::from([(0, path.clone(), Some(folder), 0, rules)]);
    while let Some((node, at, open, level, rules)) = folders.pop_front() {
        check(cancel)?;
        // A less deep tree ends before the first folder of its depth: what comes later only adds
        // to what is there by then.
        for (tree, _) in trees.iter_mut().zip(depths).filter(|(_, depth)| **depth == level) {
            tree.get_or_insert_with(|| finished(&nodes, unopened, &ignored, evidence));
        }
        if entries_left == 0 || bytes_left == 0 {
            unopened += 1;
            continue;
        }
        let absolute = at.absolute();
        // The rules that came along with the first folder are already its own.
        let opened = match open {
            Some(open) => Ok((open, rules)),
            None => at.open_folder().map(|open| {
                let rules = rules.enter(&open, &absolute, evidence);
                (open, rules)
            }),
        };
        let (open, rules) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                evidence.add_unopened(absolute, &error);
                nodes[node].note = Some("(cannot be opened)".to_owned());
                continue;
            }
        };
        let keep = if level == 0 { entries_left } else { entries_left.min(ENTRIES_BELOW) };
        let read = match walk::entries(&open, &absolute, &rules, keep, LOOKED_AT, evidence, cancel)
        {
            Ok(read) => read,
            Err(error) if level == 0 => return Err(error),
            Err(_) => {
                evidence.give_up();
                nodes[node].note = Some("(cannot be read)".to_owned());
                continue;
            }
        };
        if level == 0 {
            ignored = read.ignored;
        }
        let mut left_out = read.left_out;
        for (name, kind) in read.kept {
            let line = match kind {
                EntryKind::Link => {
                    let target = open.link_target(&name).unwrap_or_default();
                    let target: String =
                        target.to_string_lossy().chars().take(TARGET_CHARS).collect();
                    format!("{} -> {}", walk::shown(&name, kind), walk::one_line(&target))
                }
                EntryKind::Other => format!("{} (no regular file)", walk::shown(&name, kind)),
                EntryKind::File | EntryKind::Folder => walk::shown(&name, kind),
            };
            let cost = line.len() + 2 * level + 1;
            if cost > bytes_left {
                bytes_left = 0;
                left_out += 1;
                continue;
            }
            bytes_left -= cost;
            entries_left -= 1;
            let id = nodes.len();
            nodes.push(Node { line, ..Node::default() });
            nodes[node].below.push(id);
            if kind == EntryKind::Folder && level + 1 < deepest {
                folders.push_back((id, at.child(&name), None, level + 1, Arc::clone(&rules)));
            }
        }
        if left_out > 0 || read.unread {
            let more = if read.unread { "more than " } else { "" };
            nodes[node].note = Some(format!("… {more}{left_out} more"));
        }
    }
    let last = || finished(&nodes, unopened, &ignored, evidence);
    Ok(trees.into_iter().map(|tree| tree.unwrap_or_else(last)).collect())
}

fn finished(nodes: &[Node], unopened: usize, ignored: &[String], evidence: &Evidence) -> Tree {
    let shown = nodes.len() - 1;
    let mut text = String::new();
    print(nodes, 0, 0, &mut text);
    if shown == 0 {
        text.push_str("(empty)\n");
    }
    if unopened > 0 || nodes.iter().any(|node| node.note.is_some()) {
        let _ = writeln!(
            text,
            "({} shown; for the rest name a folder as `path`{})",
            plural(shown, "entry"),
            match unopened {
                0 => String::new(),
                n => format!("; {} not opened", plural(n, "folder")),
            }
        );
    }
    if !ignored.is_empty() {
        let _ = writeln!(text, "(ignored: {})", ignored.join(" "));
    }
    Tree { text, entries: shown, evidence: evidence.clone() }
}

/// Prints what stands below a node. No deeper than there are entries, so recursion is bounded.
fn print(nodes: &[Node], node: usize, level: usize, text: &mut String) {
    let indent = |text: &mut String| text.extend(std::iter::repeat_n("  ", level));
    for &id in &nodes[node].below {
        indent(text);
        text.push_str(&nodes[id].line);
        text.push('\n');
        print(nodes, id, level + 1, text);
    }
    if let Some(note) = &nodes[node].note {
        indent(text);
        text.push_str(note);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::tools::builtin::testing::{Place, call, same_as_alone, text};

    fn tool(place: &Place) -> ListFiles {
        ListFiles::new(Arc::clone(&place.workspace), 16 * 1024)
    }

    #[tokio::test]
    async fn a_tree_is_sorted_and_leaves_out_what_git_ignores() {
        let place = Place::with(&[
            (".gitignore", "target/\n*.log\n!keep.log\n"),
            (".git/config", ""),
            (".github/ci.yml", ""),
            ("Cargo.toml", ""),
            ("b.log", ""),
            ("keep.log", ""),
            ("src/lib.rs", ""),
            ("src/deep/er/x.rs", ""),
            ("src/.gitignore", "generated.rs\n"),
            ("src/generated.rs", ""),
            ("target/debug/out", ""),
        ]);
        expect![[r"
            .github/
              ci.yml
            .gitignore
            Cargo.toml
            keep.log
            src/
              .gitignore
              deep/
              lib.rs
            (ignored: b.log target/)
        "]]
        .assert_eq(&text(&tool(&place), json!({})).await);
        let deeper = text(&tool(&place), json!({"path": "src", "depth": 3})).await;
        assert!(deeper.contains("deep/\n  er/\n    x.rs\n"), "{deeper}");
        assert!(!deeper.contains("  generated.rs"), "{deeper}");
    }

    #[tokio::test]
    async fn rules_from_above_the_workspace_hold_inside_its_repository_only() {
        let place = Place::with(&[("a.log", ""), ("a.rs", "")]);
        std::fs::write(place.outside().join(".gitignore"), "*.log\n").unwrap();
        assert!(text(&tool(&place), json!({})).await.starts_with("a.log\na.rs\n"));
        std::fs::create_dir(place.outside().join(".git")).unwrap();
        assert!(text(&tool(&place), json!({})).await.starts_with("a.rs\n"));
    }

    #[tokio::test]
    async fn a_link_is_named_and_not_followed() {
        let place = Place::with(&[("real/file", "")]);
        symlink("..", place.root().join("real/loop")).unwrap();
        symlink(place.outside(), place.root().join("out")).unwrap();
        let listed = text(&tool(&place), json!({"depth": u64::MAX})).await;
        let outside = place.outside().display();
        assert_eq!(listed, format!("out -> {outside}\nreal/\n  file\n  loop -> ..\n"));
        let refused = text(&tool(&place), json!({"path": "out"})).await;
        assert!(refused.starts_with("refused: a link in `out` leads outside"), "{refused}");
    }

    #[tokio::test]
    async fn a_crowded_folder_is_cut_and_leaves_room_for_its_neighbours() {
        let place = Place::with(&[("z/last", "")]);
        for n in 0..3000 {
            place.put(&format!("crowd/{n:04}"), "");
        }
        let listed = text(&tool(&place), json!({})).await;
        assert!(listed.contains("  0059\n  … 2940 more\nz/\n  last\n"), "{listed}");
        assert!(listed.contains("for the rest name a folder as `path`"), "{listed}");
        let crowd = call(&tool(&place), json!({"path": "crowd"})).await.unwrap();
        assert!(crowd.text.contains("0499\n… 2500 more\n"), "{}", crowd.text);
        assert_eq!(crowd.detail, Detail::Summary { line: "500 entries".to_owned() });
    }

    #[tokio::test]
    async fn long_names_do_not_break_the_budget() {
        let place = Place::with(&[]);
        for n in 0..400 {
            place.put(&format!("{n:03}{}", "x".repeat(200)), "");
        }
        let tool = ListFiles::new(Arc::clone(&place.workspace), 4096);
        let listed = text(&tool, json!({})).await;
        assert!(listed.len() < 4096 + 300, "{}", listed.len());
        assert!(listed.contains("… 380 more"), "{listed}");
    }

    #[tokio::test]
    async fn one_walk_serves_all_depths_as_each_does_alone() {
        let place = Place::with(&[(".gitignore", "ignored\n"), ("ignored", ""), ("z/last", "")]);
        for n in 0..150 {
            place.put(&format!("a/b{}/c{}/{n:03}", n % 7, n % 3), "");
            place.put(&format!("crowd/{n:04}"), "");
        }
        symlink("a", place.root().join("link")).unwrap();
        let calls =
            |path: &str| [3, 1, 2, 9, 4, 2, 0].map(|depth| json!({"path": path, "depth": depth}));
        // Where all fits, where the bytes are used up half way, and where at once.
        for bytes in [16 * 1024, 700, 160, 20] {
            let tool = ListFiles::new(Arc::clone(&place.workspace), bytes);
            for path in [".", "a", "a/b1", "z/last", "gone", "link", "../out"] {
                same_as_alone(&tool, &calls(path)).await;
            }
        }
        same_as_alone(&tool(&place), &[json!({}), json!({"path": "a"}), json!({"p": 1})]).await;
    }

    #[tokio::test]
    async fn what_is_no_folder_is_told() {
        let place = Place::with(&[("src/main.rs", "")]);
        let file = text(&tool(&place), json!({"path": "src/main.rs"})).await;
        assert_eq!(file, "`src/main.rs` is no folder; read_file reads files");
        let missing = text(&tool(&place), json!({"path": "srcs"})).await;
        assert_eq!(missing, "there is no `srcs`; did you mean `src`?");
        std::fs::create_dir(place.root().join("empty")).unwrap();
        assert_eq!(text(&tool(&place), json!({"path": "empty/"})).await, "(empty)\n");
    }

    #[tokio::test]
    async fn a_name_cannot_fake_a_line() {
        let place = Place::with(&[("a\nb\u{1b}[2J", "")]);
        assert_eq!(text(&tool(&place), json!({})).await, "a\\nb\\u{1b}[2J\n");
    }

    #[test]
    fn a_call_reads_the_folder_it_names() {
        let place = Place::with(&[]);
        let effect = tool(&place).effect(&json!({"path": "src"}));
        assert_eq!(effect, Effect::read(place.workspace.root().join("src")));
        assert_eq!(tool(&place).effect(&json!({"path": "../x"})), Effect::default());
    }
}
