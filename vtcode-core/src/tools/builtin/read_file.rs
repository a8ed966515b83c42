//! `read_file`: paths and line ranges come in, numbered lines go out, as many as fit.
//! Streams to the range asked for, holds a whole file only while several calls read from it, and
//! records which version of each file the model has now seen.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::safety::workspace::{Version, WHOLE_BYTES, Workspace, WorkspacePath};
use crate::tools::builtin::blocking::{each_alone, go_on, one_batch, reading};
use crate::tools::builtin::lines::{cut, plural};
use crate::tools::builtin::walk::Ignores;
use crate::tools::builtin::{list_files, nearest, spec};
use crate::tools::tool::{
    BatchFuture, CallContext, Detail, Effect, Tool, ToolError, ToolFuture, ToolOutput, ToolSpec,
    parse_args,
};
use crate::tools::witness::Evidence;

mod magic;
mod window;

use window::{Content, Window};

const NAME: &str = "read_file";

/// How many lines are read when no end is given.
const LINES: u64 = 2000;

/// How many files and ranges one call may ask for.
const FILES: usize = 50;

/// What is kept of the result for a file's header and notes.
const FRAME_BYTES: usize = 160;

/// How much of a file is read at once.
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    path: Option<String>,
    /// First line, from 1
    start: Option<u64>,
    /// Last line
    end: Option<u64>,
    /// Several at once
    files: Option<Vec<FileRange>>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileRange {
    path: String,
    start: Option<u64>,
    end: Option<u64>,
}

impl Args {
    /// Returns everything asked for, in order.
    fn ranges(self) -> Result<Vec<FileRange>, ToolError> {
        let bad = |problem: &str| {
            Err(ToolError::BadArguments { name: NAME.to_owned(), problem: problem.to_owned() })
        };
        let mut ranges = Vec::new();
        if let Some(path) = self.path {
            ranges.push(FileRange { path, start: self.start, end: self.end });
        } else if self.start.is_some() || self.end.is_some() {
            return bad("`start` and `end` need `path`; in `files` they stand beside each path");
        }
        ranges.extend(self.files.unwrap_or_default());
        match ranges.len() {
            0 => bad("give `path` or `files`"),
            n if n > FILES => bad("at most 50 files in one call"),
            _ => Ok(ranges),
        }
    }
}

/// Reads files.
#[derive(Debug)]
pub struct ReadFile {
    spec: ToolSpec,
    workspace: Arc<Workspace>,
    result_bytes: usize,
}

impl ReadFile {
    /// Returns the tool for `workspace`; no result is much longer than `result_bytes`.
    pub fn new(workspace: Arc<Workspace>, result_bytes: usize) -> Self {
        let description = "Read files or line ranges; read all you need in one call.";
        Self { spec: spec::<Args>(NAME, description), workspace, result_bytes }
    }
}

impl Tool for ReadFile {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, args: &Value) -> Effect {
        let ranges = parse_args::<Args>(NAME, args).and_then(Args::ranges).unwrap_or_default();
        let mut effect = Effect::default();
        for path in ranges.iter().filter_map(|range| self.workspace.resolve(&range.path).ok()) {
            let path = path.absolute();
            if !effect.reads.contains(&path) {
                effect.reads.push(path);
            }
        }
        effect
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    /// The size of the one file that is asked for.
    fn bytes(&self, args: &Value) -> Option<u64> {
        let ranges = parse_args::<Args>(NAME, args).and_then(Args::ranges).ok()?;
        let [range] = ranges.as_slice() else { return None };
        let (_, stat) = self.workspace.resolve(&range.path).ok()?.open_file().ok()?;
        Some(stat.len())
    }

    fn on_request_only(&self, args: &Value) -> bool {
        let ranges = parse_args::<Args>(NAME, args).and_then(Args::ranges).unwrap_or_default();
        ranges.iter().any(|range| match self.workspace.resolve(&range.path) {
            // The name that was judged is the file's own only where no link is in it.
            Ok(path) => path.identity() != path.absolute() || Ignores::hide(&path),
            Err(_) => true,
        })
    }

    fn unshown(&self, args: &Value) {
        let ranges = parse_args::<Args>(NAME, args).and_then(Args::ranges).unwrap_or_default();
        for path in ranges.iter().filter_map(|range| self.workspace.resolve(&range.path).ok()) {
            self.workspace.versions().forget(&path);
        }
    }

    /// Ranges of one file are cut from one reading of it.
    fn batch(&self, args: &Value) -> Option<String> {
        let ranges = parse_args::<Args>(NAME, args).and_then(Args::ranges).ok()?;
        let [range] = ranges.as_slice() else { return None };
        Some(self.workspace.resolve(&range.path).ok()?.absolute().display().to_string())
    }

    fn call<'a>(&'a self, args: &'a Value, context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async move {
            let mut results = self.together(&[args], context).await?;
            results.pop().expect("there is a result for each call")
        })
    }

    fn call_batch<'a>(
        &'a self,
        calls: &'a [&'a Value],
        context: &'a CallContext,
    ) -> BatchFuture<'a> {
        Box::pin(async move {
            if one_batch(self, calls).is_some()
                && let Ok(results) = self.together(calls, context).await
            {
                return results;
            }
            each_alone(self, calls, context).await
        })
    }
}

impl ReadFile {
    /// Reads what the calls ask for, each file that several ask for once.
    async fn together(
        &self,
        calls: &[&Value],
        context: &CallContext,
    ) -> Result<Vec<Result<ToolOutput, ToolError>>, ToolError> {
        let asked: Result<Vec<_>, _> =
            calls.iter().map(|args| parse_args::<Args>(NAME, args)?.ranges()).collect();
        let (asked, workspace, bytes) = (asked?, Arc::clone(&self.workspace), self.result_bytes);
        reading(NAME, context, move |cancel| {
            let mut opened =
                Opened { evidence: Evidence::begin(), hold: asked.len() > 1, last: None };
            let mut read =
                |ranges: &Vec<_>| read_all(&workspace, ranges, bytes, &mut opened, cancel);
            Ok(asked.iter().map(&mut read).collect())
        })
        .await
    }
}

/// The file that was opened last: the next range is often of the same one.
struct Opened {
    /// Begun before anything was opened.
    evidence: Evidence,
    /// Whether a file is worth being held in memory.
    hold: bool,
    last: Option<(PathBuf, Source)>,
}

struct Source {
    file: File,
    /// All of it.
    held: Option<Vec<u8>>,
    size_bytes: u64,
    /// From before it was read: what is written while we read must count as not seen.
    version: Version,
}

impl Opened {
    fn open(&mut self, path: &WorkspacePath) -> io::Result<&Source> {
        let absolute = path.absolute();
        let last = match self.last.take() {
            Some(last) if last.0 == absolute => last,
            _ => (absolute, Source::open(path, self.hold)?),
        };
        Ok(&self.last.insert(last).1)
    }
}

impl Source {
    fn open(path: &WorkspacePath, hold: bool) -> io::Result<Self> {
        let (file, stat) = path.open_file()?;
        let mut held = None;
        if hold && stat.len() <= WHOLE_BYTES as u64 {
            let mut content = Vec::with_capacity(stat.len() as usize + 1);
            (&file).take(WHOLE_BYTES as u64 + 1).read_to_end(&mut content)?;
            held = Some(content).filter(|content| content.len() <= WHOLE_BYTES);
        }
        Ok(Self { file, held, size_bytes: stat.len(), version: Version::of(&stat) })
    }

    fn window(
        &self,
        range: RangeInclusive<u64>,
        budget: usize,
        cancel: &CancellationToken,
    ) -> io::Result<Content> {
        if let Some(content) = &self.held {
            return Window::read(content.as_slice(), self.size_bytes, range, budget, cancel);
        }
        (&self.file).rewind()?;
        let reader = BufReader::with_capacity(CHUNK_BYTES, &self.file);
        Window::read(reader, self.size_bytes, range, budget, cancel)
    }
}

/// What one range gave.
enum Answer {
    Lines(Window),
    /// Words instead of lines.
    Said(String),
}

fn read_all(
    workspace: &Workspace,
    ranges: &[FileRange],
    result_bytes: usize,
    opened: &mut Opened,
    cancel: &CancellationToken,
) -> Result<ToolOutput, ToolError> {
    let mut evidence = opened.evidence.clone();
    let several = ranges.len() > 1;
    let budget = result_bytes.saturating_sub(FRAME_BYTES * ranges.len());
    let mut answers = Vec::new();
    for range in ranges {
        let answer = read(workspace, range, budget, ranges.len(), opened, &mut evidence, cancel);
        go_on(NAME, cancel)?;
        // Alone, a failure is the call's; among others it must not cost them.
        answers.push(if several { answer } else { Ok(answer?) });
    }
    let sizes = answers.iter().map(|answer| match answer {
        Ok(Answer::Lines(window)) => window.text().len(),
        Ok(Answer::Said(text)) => text.len(),
        Err(_) => 0,
    });
    let share = fair_share(sizes.collect(), budget);
    let mut text = String::new();
    let (mut lines, mut failed) = (0, 0);
    for (range, answer) in ranges.iter().zip(answers) {
        // What cannot be a path may be a whole text.
        let path =
            workspace.resolve(&range.path).map_or_else(|_| cut(&range.path), |p| p.display());
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        match answer {
            Ok(Answer::Lines(mut window)) => {
                window.trim(share);
                lines += window.len();
                if several {
                    let _ = writeln!(text, "== {path} ({})", window.span());
                }
                text.push_str(window.text());
                for note in window.notes(!several) {
                    let _ = writeln!(text, "({note})");
                }
            }
            Ok(Answer::Said(said)) if several => {
                let _ = writeln!(text, "== {path}\n{}", said.trim_end());
            }
            Ok(Answer::Said(said)) => text.push_str(&said),
            Err(error) => {
                failed += 1;
                let _ = writeln!(text, "== {path}\n{error}");
            }
        }
    }
    let mut line = plural(lines, "line");
    if several {
        line = format!("{}, {line}", plural(ranges.len(), "file"));
    }
    if failed > 0 {
        let _ = write!(line, ", {failed} failed");
    }
    let is_error = failed == ranges.len();
    let detail = Detail::Summary { line };
    Ok(ToolOutput { text, is_error, detail, evidence: evidence.whole() })
}

/// Returns how much each may have so that all together have no more than `budget`: the small ones
/// what they need, the large ones the same.
fn fair_share(mut sizes: Vec<usize>, mut budget: usize) -> usize {
    sizes.sort_unstable();
    let count = sizes.len();
    for (i, size) in sizes.into_iter().enumerate() {
        let share = budget / (count - i);
        if size > share {
            return share;
        }
        budget -= size;
    }
    usize::MAX
}

fn read(
    workspace: &Workspace,
    range: &FileRange,
    budget: usize,
    of: usize,
    opened: &mut Opened,
    evidence: &mut Evidence,
    cancel: &CancellationToken,
) -> Result<Answer, ToolError> {
    let path = workspace.resolve(&range.path)?;
    let first = range.start.unwrap_or(1).max(1);
    // There is no line 0: models that fill in every field say so where they mean none.
    let end = range.end.filter(|end| *end > 0);
    let last = end.unwrap_or_else(|| first.saturating_add(LINES - 1));
    if last < first {
        return Err(ToolError::Failed(format!("line {first} to {last} is an empty range")));
    }
    let source = match opened.open(&path) {
        Ok(source) => source,
        Err(error) => {
            let answer = instead(&path, &error, budget / of.max(2), evidence, cancel);
            if answer.is_err() {
                // Which names are near depends on the whole workspace.
                evidence.give_up();
            }
            return answer;
        }
    };
    let version = source.version;
    evidence.add(path.absolute(), Some(version));
    let content = source.window(first..=last, budget, cancel).map_err(|error| {
        evidence.give_up();
        path.explain(&error)
    })?;
    match content {
        Content::Binary(description) => Ok(Answer::Said(description)),
        Content::Text(window) => {
            if let (0, Some(total)) = (window.len(), window.total())
                && first > 1
            {
                return Err(ToolError::Failed(format!(
                    "`{}` has {total} lines; there is no line {first}",
                    path.display()
                )));
            }
            // Nobody waits for the lines of a call that was ended: they will not be seen.
            go_on(NAME, cancel)?;
            workspace.versions().saw(&path, version);
            Ok(Answer::Lines(window))
        }
    }
}

/// Answers for what is no regular file: a folder with its names, which is what would be asked next.
fn instead(
    path: &WorkspacePath,
    error: &io::Error,
    budget: usize,
    evidence: &mut Evidence,
    cancel: &CancellationToken,
) -> Result<Answer, ToolError> {
    match error.kind() {
        io::ErrorKind::NotFound => Err(nearest::missing(path, cancel)),
        io::ErrorKind::IsADirectory => {
            let folder = path.open_folder().map_err(|error| path.explain(&error))?;
            let trees = list_files::trees(path, folder, &[1], budget, evidence, cancel)
                .map_err(|error| path.explain(&error))?;
            let tree = trees.into_iter().map(|tree| tree.text).collect::<String>();
            Ok(Answer::Said(format!("`{}` is a folder:\n{tree}", path.display())))
        }
        _ => Err(path.explain(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::tools::builtin::testing::{Place, call, context, same_as_alone, text};

    fn tool(place: &Place) -> ReadFile {
        ReadFile::new(Arc::clone(&place.workspace), 16 * 1024)
    }

    fn numbered(lines: u64) -> String {
        (1..=lines).fold(String::new(), |mut text, n| {
            let _ = writeln!(text, "line {n}");
            text
        })
    }

    #[tokio::test]
    async fn a_whole_file_is_its_numbered_lines_and_counts_as_seen() {
        let place = Place::with(&[("src/a.rs", "fn a() {\n\n}\n")]);
        let read = call(&tool(&place), json!({"path": "src/a.rs"})).await.unwrap();
        assert_eq!(read.text, "1\tfn a() {\n2\t\n3\t}\n");
        assert_eq!(read.detail, Detail::Summary { line: "3 lines".to_owned() });
        let path = place.workspace.resolve("src/a.rs").unwrap();
        let seen = place.workspace.versions().last_seen(&path);
        assert_eq!(seen, Some(path.read().unwrap().1));
    }

    #[test]
    fn what_is_linked_or_ignored_is_for_those_who_ask() {
        let place = Place::with(&[
            (".gitignore", "build/\n/local.toml\n"),
            ("src/a.rs", "a"),
            ("src/local.toml", "a"),
            ("local.toml", "key"),
            ("build/deep/out.rs", "made"),
            ("src/deep/.ignore", "*.gen.rs\n!kept.gen.rs\n"),
            ("src/deep/x.gen.rs", "made"),
            ("src/deep/kept.gen.rs", "kept"),
        ]);
        symlink("../local.toml", place.path("src/link.toml")).unwrap();
        symlink("src", place.path("linked")).unwrap();
        let tool = tool(&place);
        for (path, only) in [
            ("src/a.rs", false),
            ("./src/../src/a.rs", false),
            ("src/local.toml", false),
            ("local.toml", true),
            ("build/deep/out.rs", true),
            ("src/deep/x.gen.rs", true),
            ("src/deep/kept.gen.rs", false),
            ("src/link.toml", true),
            ("linked/a.rs", true),
            ("../outside", true),
        ] {
            assert_eq!(tool.on_request_only(&json!({"path": path})), only, "{path}");
        }
        let outside = place.outside().canonicalize().unwrap().join("work/src/a.rs");
        assert!(!tool.on_request_only(&json!({"path": outside})), "its other name");
    }

    #[tokio::test]
    async fn what_was_shown_to_nobody_is_not_known() {
        let place = Place::with(&[("a", "one\n")]);
        let (read, path) = (tool(&place), place.workspace.resolve("a").unwrap());
        call(&read, json!({"path": "a"})).await.unwrap();
        assert!(place.workspace.versions().last_seen(&path).is_some());
        read.unshown(&json!({"path": "a"}));
        assert_eq!(place.workspace.versions().last_seen(&path), None);
    }

    #[tokio::test]
    async fn a_range_says_where_it_stands() {
        let place = Place::with(&[("a", &numbered(300))]);
        let read = async |args| text(&tool(&place), args).await;
        assert_eq!(
            read(json!({"path": "a", "start": 10, "end": 11})).await,
            "10\tline 10\n11\tline 11\n(lines 10-11 of 300)\n"
        );
        assert_eq!(
            read(json!({"path": "a", "start": 300, "end": 900})).await,
            "300\tline 300\n(lines 300-300 of 300)\n"
        );
        assert!(read(json!({"path": "a", "start": 0})).await.starts_with("1\tline 1\n"));
        let whole = read(json!({"path": "a"})).await;
        assert_eq!(read(json!({"path": "a", "start": 0, "end": 0})).await, whole);
        assert_eq!(
            read(json!({"path": "a", "start": 301})).await,
            "`a` has 300 lines; there is no line 301"
        );
        assert_eq!(
            read(json!({"path": "a", "start": 9, "end": 2})).await,
            "line 9 to 2 is an empty range"
        );
        assert_eq!(
            read(json!({"path": "a", "start": 299, "end": u64::MAX})).await,
            "299\tline 299\n300\tline 300\n(lines 299-300 of 300)\n"
        );
        assert_eq!(
            read(json!({"path": "a", "start": u64::MAX})).await,
            format!("`a` has 300 lines; there is no line {}", u64::MAX)
        );
    }

    #[tokio::test]
    async fn what_does_not_fit_says_how_to_go_on() {
        let place = Place::with(&[("many", &numbered(2500))]);
        place.put("wide", format!("{}\n", "x".repeat(100)).repeat(400));
        let many = ReadFile::new(Arc::clone(&place.workspace), 1024 * 1024);
        let read = text(&many, json!({"path": "many"})).await;
        assert!(read.ends_with(
            "2000\tline 2000\n(lines 1-2000 of 2500; cut here; go on with start: 2001)\n"
        ));
        let read = text(&tool(&place), json!({"path": "wide"})).await;
        assert!(read.len() <= 16 * 1024, "{}", read.len());
        let last = read.lines().rev().nth(1).unwrap().split_once('\t').unwrap().0;
        let last: u64 = last.parse().unwrap();
        assert!(read.ends_with(&format!(
            "(lines 1-{last} of 400; cut here; go on with start: {})\n",
            last + 1
        )));
        let rest = text(&tool(&place), json!({"path": "wide", "start": last + 1})).await;
        assert!(rest.starts_with(&format!("{}\tx", last + 1)), "nothing is left out between");
    }

    #[tokio::test]
    async fn several_files_and_ranges_come_in_one_answer() {
        let place = Place::with(&[("a", &numbered(5)), ("b", "only\n"), ("empty", "")]);
        let args = json!({"files": [
            {"path": "a", "start": 2, "end": 3},
            {"path": "gone"},
            {"path": "b"},
            {"path": "a", "start": 3, "end": 4},
            {"path": "../outside"},
            {"path": "empty"},
        ]});
        let read = call(&tool(&place), args).await.unwrap();
        expect![[r"
            == a (lines 2-3 of 5)
            2	line 2
            3	line 3
            == gone
            there is no `gone`
            == b (lines 1-1 of 1)
            1	only
            == a (lines 3-4 of 5)
            3	line 3
            4	line 4
            == ../outside
            refused: `../outside` is outside the workspace `ROOT`; use a path inside it
            == empty (empty)
        "]]
        .assert_eq(&read.text.replace(&*place.workspace.root().to_string_lossy(), "ROOT"));
        assert!(!read.is_error);
        let line = "6 files, 5 lines, 2 failed".to_owned();
        assert_eq!(read.detail, Detail::Summary { line });
    }

    #[tokio::test]
    async fn a_large_file_leaves_room_for_small_ones() {
        let big = format!("{}\n", "x".repeat(100)).repeat(1000);
        let place = Place::with(&[("big1", &big), ("small", &numbered(20)), ("big2", &big)]);
        let args = json!({"files": [{"path": "big1"}, {"path": "small"}, {"path": "big2"}]});
        let read = text(&tool(&place), args).await;
        assert!(read.len() <= 16 * 1024, "{}", read.len());
        assert!(read.contains("20\tline 20\n"), "{read}");
        assert_eq!(read.matches("cut here; go on with start: ").count(), 2);
        assert!(read.len() > 14 * 1024, "the room is used: {}", read.len());
    }

    #[test]
    fn the_share_is_fair() {
        assert_eq!(fair_share(vec![], 100), usize::MAX);
        assert_eq!(fair_share(vec![10, 20], 100), usize::MAX);
        assert_eq!(fair_share(vec![500, 10, 500], 110), 50);
        assert_eq!(fair_share(vec![500, 500], 0), 0);
    }

    #[tokio::test]
    async fn ranges_of_one_file_come_as_each_does_alone() {
        let place = Place::with(&[("a", &numbered(3000)), ("src/x", "")]);
        place.put("blob", b"abc\0def");
        place.put("bom", "\u{feff}a\r\nb");
        place.put("wide", format!("{}\n", "x".repeat(3000)).repeat(400));
        place.put("large", format!("{}\n", "y".repeat(99)).repeat(90_000));
        let tool = tool(&place);
        for path in ["a", "blob", "bom", "wide", "large", "src", "gone", "../out"] {
            let calls = [
                json!({"path": path, "start": 20, "end": 30}),
                json!({"path": path}),
                json!({"path": path, "start": 2, "end": 2}),
                json!({"path": path, "start": 5, "end": 4}),
                json!({"files": [{"path": path, "start": 2999}]}),
                json!({"path": path, "start": 1_000_000}),
            ];
            same_as_alone(&tool, &calls).await;
        }
        let others = [json!({"path": "a", "end": 1}), json!({"path": "bom"}), json!({})];
        same_as_alone(&tool, &others).await;
        let several = json!({"files": [{"path": "a"}, {"path": "a", "start": 9}]});
        assert_eq!(tool.batch(&several), None);
        same_as_alone(&tool, &[several]).await;
    }

    #[tokio::test]
    async fn a_file_read_in_a_batch_counts_as_seen_if_it_was_shown() {
        let place = Place::with(&[("a", "one\n")]);
        let path = place.workspace.resolve("a").unwrap();
        let (bad, good) = (json!({"path": "a", "start": 9}), json!({"path": "a"}));
        tool(&place).call_batch(&[&bad, &bad], &context()).await;
        assert_eq!(place.workspace.versions().last_seen(&path), None);
        tool(&place).call_batch(&[&bad, &good], &context()).await;
        let seen = place.workspace.versions().last_seen(&path);
        assert_eq!(seen, Some(path.read().unwrap().1));
    }

    #[tokio::test]
    async fn long_lines_are_cut_between_characters() {
        let place = Place::with(&[("long", &format!("x{}\nnext\n", "é".repeat(5000)))]);
        let read = text(&tool(&place), json!({"path": "long"})).await;
        let (first, rest) = read.split_once('\n').unwrap();
        assert_eq!(first, format!("1\tx{}… (+8001 bytes)", "é".repeat(999)));
        assert_eq!(rest, "2\tnext\n(long lines are cut)\n");
    }

    #[tokio::test]
    async fn the_notes_tell_what_the_lines_cannot_show() {
        let place = Place::with(&[("empty", "")]);
        place.put("crlf", "a\r\nb\r\n");
        place.put("mixed", "a\r\nb\n");
        place.put("latin", b"caf\xe9\n");
        place.put("bom", "\u{feff}a");
        let read = async |path: &str| text(&tool(&place), json!({"path": path})).await;
        assert_eq!(read("empty").await, "(empty file)\n");
        assert_eq!(read("crlf").await, "1\ta\n2\tb\n(lines end in CRLF)\n");
        assert_eq!(read("mixed").await, "1\ta\n2\tb\n(some lines end in CRLF)\n");
        assert_eq!(
            read("latin").await,
            "1\tcaf\u{fffd}\n(not all of it is UTF-8; \u{fffd} stands for other bytes)\n"
        );
        assert_eq!(
            read("bom").await,
            "1\ta\n(starts with a byte order mark; no newline at the end)\n"
        );
    }

    #[tokio::test]
    async fn a_nul_far_into_a_text_is_shown_and_not_sent() {
        let place = Place::with(&[("log", &format!("{}\0\0b\n", "x\n".repeat(9000)))]);
        let read = text(&tool(&place), json!({"path": "log", "start": 9001})).await;
        assert_eq!(read, "9001\t␀␀b\n(lines 9001-9001 of 9001)\n");
    }

    #[tokio::test]
    async fn what_holds_no_text_is_described() {
        let place = Place::with(&[]);
        place.put("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
        place.put("blob", b"abc\0def");
        place.put("wide", b"\xff\xfea\0b\0");
        let read = async |path: &str| text(&tool(&place), json!({"path": path})).await;
        assert_eq!(read("a.png").await, "(PNG image, 16 bytes; not shown)\n");
        assert_eq!(read("blob").await, "(binary file, 7 bytes; not shown)\n");
        assert_eq!(read("wide").await, "(UTF-16 text, 6 bytes; not shown)\n");
        let path = place.workspace.resolve("blob").unwrap();
        assert_eq!(place.workspace.versions().last_seen(&path), None, "it was not shown");
    }

    #[tokio::test]
    async fn a_folder_is_answered_with_its_names_and_a_pipe_at_once() {
        let place = Place::with(&[("src/a.rs", ""), ("src/b/c.rs", "")]);
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            place.root().join("pipe"),
            rustix::fs::Mode::from_raw_mode(0o600),
        )
        .unwrap();
        let read = async |path: &str| text(&tool(&place), json!({"path": path})).await;
        assert_eq!(read("src").await, "`src` is a folder:\na.rs\nb/\n");
        assert_eq!(read("pipe").await, "`pipe`: a pipe, not a file");
        symlink("/dev/null", place.root().join("null")).unwrap();
        assert!(read("null").await.starts_with("refused: a link in `null` leads outside"));
    }

    #[tokio::test]
    async fn a_wrong_name_is_answered_with_near_ones() {
        let place = Place::with(&[
            ("src/parser.rs", ""),
            ("src/lexer.rs", ""),
            ("lib/deep/config.rs", ""),
            ("target/config.rs", ""),
            (".gitignore", "target\n"),
        ]);
        let read = async |path: &str| text(&tool(&place), json!({"path": path})).await;
        assert_eq!(
            read("src/parsers.rs").await,
            "there is no `src/parsers.rs`; did you mean `src/parser.rs`?"
        );
        assert_eq!(
            read("src/Config.rs").await,
            "there is no `src/Config.rs`; did you mean `lib/deep/config.rs`?"
        );
        assert_eq!(
            read("scr/lexer.rs").await,
            "there is no `scr/lexer.rs`; did you mean `src/lexer.rs`?"
        );
        assert_eq!(read("zzz/qqq").await, "there is no `zzz/qqq`");
        assert_eq!(
            read("vendor/src/parser.rs").await,
            "there is no `vendor/src/parser.rs`; did you mean `src/parser.rs`?"
        );
        assert_eq!(
            read("src/lexer.rs/x").await,
            "`src/lexer.rs/x` cannot be: a part of it is a file, not a folder"
        );
    }

    #[tokio::test]
    async fn two_gigabytes_are_read_by_range_only() {
        let place = Place::with(&[]);
        let file = fs::File::create(place.root().join("huge")).unwrap();
        std::io::Write::write_all(&mut &file, numbered(5000).as_bytes()).unwrap();
        // The rest is one hole: it costs no disk, and reading it whole would cost the memory.
        file.set_len(2 << 30).unwrap();
        let read = text(&tool(&place), json!({"path": "huge", "start": 4999, "end": 5000})).await;
        assert_eq!(
            read,
            "4999\tline 4999\n5000\tline 5000\n(lines 4999-5000 of 2147483648 bytes)\n"
        );
    }

    #[tokio::test]
    async fn a_cancelled_call_ends_at_once() {
        let place = Place::with(&[]);
        let file = fs::File::create(place.root().join("endless")).unwrap();
        std::io::Write::write_all(&mut &file, &vec![b'x'; 1 << 16]).unwrap();
        file.set_len(1 << 40).unwrap();
        let (tool, context) = (tool(&place), context());
        let args = json!({"path": "endless", "start": 2});
        let call = tool.call(&args, &context);
        let stop = async {
            tokio::task::yield_now().await;
            context.cancel.cancel();
        };
        let both = async { tokio::join!(call, stop).0 };
        let ended = tokio::time::timeout(Duration::from_secs(30), both).await.expect("it hangs");
        assert!(matches!(ended, Err(ToolError::Cancelled { .. })), "{ended:?}");
        // The runtime waits for its blocking threads, so the end of this test shows that the
        // thread ended, too.
    }

    #[tokio::test]
    async fn arguments_that_say_nothing_are_refused() {
        let place = Place::with(&[("a", "x\n")]);
        let read = async |args| text(&tool(&place), args).await;
        assert_eq!(read(json!({})).await, "bad arguments for `read_file`: give `path` or `files`");
        assert!(read(json!({"files": [], "start": 3})).await.contains("need `path`"));
        assert!(read(json!({"path": "a", "line": 3})).await.contains("unknown field `line`"));
        let crowd: Vec<_> = (0..51).map(|_| json!({"path": "a"})).collect();
        assert!(read(json!({"files": crowd})).await.contains("at most 50 files"));
        let both = read(json!({"path": "a", "files": [{"path": "a"}]})).await;
        assert_eq!(both.matches("== a (lines 1-1 of 1)\n1\tx\n").count(), 2, "{both}");
    }

    #[test]
    fn a_call_reads_each_file_once() {
        let place = Place::with(&[]);
        let args = json!({"path": "a", "files": [{"path": "./a"}, {"path": "b"}, {"path": "/"}]});
        let root = place.workspace.root();
        assert_eq!(tool(&place).effect(&args).reads, [root.join("a"), root.join("b")]);
        assert_eq!(tool(&place).effect(&json!({"path": 7})), Effect::default());
    }
}
