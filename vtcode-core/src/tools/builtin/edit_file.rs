//! `edit_file`: a path and exact replacements in, the changed lines out.
//! All replacements of a call are made or none, on a file that is still as the model knows it.
//! Never guesses: text that is not found, or found twice, is answered with where it may be.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::safety::workspace::{WHOLE_BYTES, Workspace};
use crate::tools::builtin::blocking::{go_on, writing};
use crate::tools::builtin::lines::{self, plural};
use crate::tools::builtin::{change, nearest, spec};
use crate::tools::tool::{
    CallContext, ChangeKind, Detail, Effect, FileChange, Tool, ToolError, ToolFuture, ToolOutput,
    ToolSpec, parse_args,
};

const NAME: &str = "edit_file";

/// Lines shown round each change.
const CONTEXT: usize = 3;
/// A shorter new text says nothing by standing in the file already.
const MADE_BYTES: usize = 8;
/// Matches listed by line when there are too many.
const MAX_LISTED: usize = 20;

/// Replaces text in a file.
#[derive(Debug)]
pub struct EditFile {
    spec: ToolSpec,
    workspace: Arc<Workspace>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    path: String,
    /// Text to replace, exactly as in the file
    old_text: Option<String>,
    new_text: Option<String>,
    /// Replace every occurrence
    replace_all: Option<bool>,
    /// Several replacements, made in order, instead of one
    edits: Option<Vec<Edit>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Edit {
    old_text: String,
    new_text: String,
    replace_all: Option<bool>,
}

impl Args {
    /// Returns the path and the edits, whichever way they were given.
    fn into_edits(self) -> Result<(String, Vec<Edit>), ToolError> {
        let bad = |problem: &str| {
            Err(ToolError::BadArguments { name: NAME.to_owned(), problem: problem.to_owned() })
        };
        let edits = self.edits.unwrap_or_default();
        // Some models fill every field of a schema; empty ones beside `edits` say nothing.
        let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if !edits.is_empty() {
            if given(&self.old_text) || given(&self.new_text) {
                return bad("give either `old_text` and `new_text`, or `edits`, not both");
            }
            return Ok((self.path, edits));
        }
        match (self.old_text, self.new_text) {
            (Some(old_text), Some(new_text)) => {
                let edit = Edit { old_text, new_text, replace_all: self.replace_all };
                Ok((self.path, vec![edit]))
            }
            (Some(_), None) => bad("`new_text` is missing; to delete text, give it as \"\""),
            _ => bad("`old_text` and `new_text`, or `edits`, are missing"),
        }
    }
}

impl EditFile {
    /// Returns the tool for the files of `workspace`.
    pub fn new(workspace: Arc<Workspace>) -> Self {
        let description = "Replace exact text in a file. `old_text` must occur exactly once (add \
                           lines around it until it does) unless `replace_all`. The result shows \
                           the changed lines.";
        Self { spec: spec::<Args>(NAME, description), workspace }
    }
}

impl Tool for EditFile {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, args: &Value) -> Effect {
        parse_args::<Args>(NAME, args)
            .and_then(|args| Ok(self.workspace.resolve(&args.path)?))
            .map_or_else(|_| Effect::default(), |path| Effect::write(path.absolute()))
    }

    fn call<'a>(&'a self, args: &'a Value, context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async move {
            let (path, edits) = parse_args::<Args>(NAME, args)?.into_edits()?;
            let workspace = Arc::clone(&self.workspace);
            writing(NAME, context, move |cancel| edit(&workspace, &path, &edits, cancel)).await
        })
    }
}

fn edit(
    workspace: &Workspace,
    path: &str,
    edits: &[Edit],
    cancel: &CancellationToken,
) -> Result<ToolOutput, ToolError> {
    let path = workspace.resolve(path)?;
    let name = path.display();
    let Some((bytes, version)) = change::read(&path)? else {
        let missing = nearest::missing(&path, cancel);
        return Err(ToolError::Failed(format!("{missing} (write_file makes new files)")));
    };
    let old = change::text(&path, bytes)?;
    if change::is_stale(workspace, &path, version) {
        workspace.versions().saw(&path, version);
        let now = around(&old, edits);
        return Err(ToolError::Failed(format!(
            "`{name}` was changed after you last saw it, so nothing was written. {now}\n\
             If your edit still fits, make the same call again."
        )));
    }
    let replaced = replace(&old, edits, cancel);
    go_on(NAME, cancel)?;
    let (new, count) =
        replaced.map_err(|why| ToolError::Failed(format!("`{name}` was not changed: {why}")))?;
    let written = path.write_if(Some(version), new.as_bytes());
    let version = written.map_err(|error| path.explain(&error))?;
    workspace.versions().saw(&path, version);

    let diff = lines::diff(&old, &new);
    let shown = lines::show(&new, &diff.regions, CONTEXT);
    let count = plural(count, "replacement");
    Ok(ToolOutput {
        text: format!("edited {name}: {count}, {diff} lines\n{shown}").trim_end().to_owned(),
        is_error: false,
        evidence: None,
        detail: Detail::Files {
            changes: vec![FileChange {
                path: name,
                kind: ChangeKind::Update,
                added: diff.added,
                removed: diff.removed,
            }],
        },
    })
}

/// Makes the edits in order on the text; returns the new text and how many places changed, or
/// what keeps an edit from being made.
fn replace(
    text: &str,
    edits: &[Edit],
    cancel: &CancellationToken,
) -> Result<(String, usize), String> {
    let mut now = text.to_owned();
    let mut count = 0;
    for (nth, edit) in edits.iter().enumerate() {
        if cancel.is_cancelled() {
            break;
        }
        let (next, places) = replace_one(&now, edit).map_err(|why| match (edits.len(), nth) {
            (1, _) => why,
            (all, 0) => format!("edit 1 of {all}: {why}"),
            (all, _) => {
                format!("edit {} of {all} (on the text after the ones before): {why}", nth + 1)
            }
        })?;
        now = next;
        count += places;
    }
    if now == text {
        return Err("the edits leave it as it is".to_owned());
    }
    Ok((now, count))
}

fn replace_one(text: &str, edit: &Edit) -> Result<(String, usize), String> {
    let Edit { old_text: old, new_text: new, .. } = edit;
    if old == new {
        return Err("`old_text` and `new_text` are the same".to_owned());
    }
    if old.is_empty() {
        // In an empty file there is only one place that nothing can be.
        if text.trim_start_matches('\u{feff}').is_empty() {
            return Ok((format!("{text}{new}"), 1));
        }
        return Err("`old_text` is empty; give the text to replace, or use write_file to replace \
                    the whole file"
            .to_owned());
    }
    let view = View::of(text, old);
    let all = edit.replace_all.unwrap_or(false);
    let only = if all { None } else { view.only()? };
    let every = all.then(|| view.all());
    let mut out = String::with_capacity(text.len() + new.len());
    let (mut count, mut done) = (0, 0);
    for place in every.into_iter().flatten().chain(only) {
        out.push_str(&text[done..place.start]);
        out.push_str(&view.fitted(new, place.start));
        done = place.end;
        count += 1;
        if out.len() + (text.len() - done) > WHOLE_BYTES {
            let count = plural(count, "replacement");
            return Err(format!("{count} would make it too large; change it with a command"));
        }
    }
    if count == 0 {
        return Err(not_found(text, edit));
    }
    out.push_str(&text[done..]);
    Ok((out, count))
}

/// A text as its lines are when they all end in `\n`, and the way back: a model writes `\n` where
/// the file has `\r\n`, and both are to match.
struct View<'t> {
    text: &'t str,
    plain: Cow<'t, str>,
    /// Where in `plain` a `\n` stands that is `\r\n` in `text`.
    shortened: Vec<usize>,
    wanted: Cow<'t, str>,
    /// True when the wanted text spells `\r\n`, and the file has it so.
    literal: bool,
}

impl<'t> View<'t> {
    fn of(text: &'t str, wanted: &'t str) -> Self {
        let literal = wanted.contains("\r\n") && text.contains(wanted);
        let mut view = Self {
            text,
            plain: Cow::Borrowed(text),
            shortened: Vec::new(),
            wanted: Cow::Borrowed(wanted),
            literal,
        };
        if literal {
            return view;
        }
        if wanted.contains("\r\n") {
            view.wanted = Cow::Owned(wanted.replace("\r\n", "\n"));
        }
        if text.contains("\r\n") {
            let mut plain = String::with_capacity(text.len());
            for (nth, piece) in text.split("\r\n").enumerate() {
                if nth > 0 {
                    view.shortened.push(plain.len());
                    plain.push('\n');
                }
                plain.push_str(piece);
            }
            view.plain = Cow::Owned(plain);
        }
        view
    }

    /// Returns where in the text itself an offset of the view lies; before a `\r\n`, not inside.
    fn back(&self, at: usize) -> usize {
        at + self.shortened.partition_point(|&line_end| line_end < at)
    }

    fn place(&self, at: usize) -> Range<usize> {
        self.back(at)..self.back(at + self.wanted.len())
    }

    /// Gives every place, none overlapping another.
    fn all(&self) -> impl Iterator<Item = Range<usize>> {
        self.plain.match_indices(&*self.wanted).map(|(at, _)| self.place(at))
    }

    /// Returns the one place, if there is one; two, even overlapping, are an error.
    fn only(&self) -> Result<Option<Range<usize>>, String> {
        let step = self.wanted.chars().next().map_or(1, char::len_utf8);
        let mut places = Vec::new();
        let mut from = 0;
        while let Some(at) = self.plain[from..].find(&*self.wanted)
            && places.len() < MAX_LISTED
        {
            places.push(from + at);
            from += at + step;
        }
        if places.len() < 2 {
            return Ok(places.first().map(|&at| self.place(at)));
        }
        let count = self.plain.matches(&*self.wanted).count().max(places.len());
        let lines: Vec<usize> = places.iter().map(|&at| line_at(&self.plain, at)).collect();
        let listed: Vec<String> = lines.iter().map(|line| (line + 1).to_string()).collect();
        let more = if count > places.len() { ", …" } else { "" };
        let height = self.wanted.trim_end_matches('\n').matches('\n').count() + 1;
        let regions: Vec<_> = lines.iter().take(4).map(|&line| line..line + height).collect();
        Err(format!(
            "`old_text` occurs {count} times, on lines {}{more}; add lines around it to make it \
             unique, or set `replace_all`\n{}",
            listed.join(", "),
            lines::show(&self.plain, &regions, 2)
        ))
    }

    /// Returns `new` with the line ends of the place where it goes.
    fn fitted<'n>(&self, new: &'n str, at: usize) -> Cow<'n, str> {
        if self.literal {
            return Cow::Borrowed(new);
        }
        let line_end =
            self.text[at..].find('\n').map(|end| at + end).or_else(|| self.text[..at].rfind('\n'));
        let crlf = line_end.is_some_and(|end| self.text[..end].ends_with('\r'));
        match (crlf, &self.wanted) {
            (true, _) => Cow::Owned(new.replace("\r\n", "\n").replace('\n', "\r\n")),
            // The wanted text was written with `\r\n` for a file that has none here.
            (false, Cow::Owned(_)) => Cow::Owned(new.replace("\r\n", "\n")),
            (false, Cow::Borrowed(_)) => Cow::Borrowed(new),
        }
    }
}

fn line_at(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count()
}

/// Says why a text may not have been found, and shows what is nearest to it.
fn not_found(text: &str, edit: &Edit) -> String {
    let wanted = edit.old_text.as_str();
    if let Some(bare) = without_numbers(wanted) {
        let near = nearest(text, &bare);
        return format!(
            "`old_text` has line numbers before its lines, which are not in the file: leave them \
             out. {near}"
        );
    }
    let unescaped = unescaped(wanted);
    if unescaped != wanted && View::of(text, &unescaped).all().next().is_some() {
        return "`old_text` is escaped once too often: write line breaks, tabs and quotes as they \
                are in the file"
            .to_owned();
    }
    let near = nearest(text, wanted);
    if edit.new_text.trim().is_empty() {
        return format!("`old_text` is not in it. {near}");
    }
    let made: Vec<_> = View::of(text, &edit.new_text).all().take(2).collect();
    // A bracket or a single word stands everywhere.
    if let [place] = made.as_slice()
        && edit.new_text.trim().len() >= MADE_BYTES
    {
        let line = line_at(text, place.start) + 1;
        return format!(
            "`old_text` is not in it, but `new_text` already is, on line {line}. {near}"
        );
    }
    format!("`old_text` is not in it. {near}")
}

/// Shows the lines that resemble the wanted text most, and how they differ.
fn nearest(text: &str, wanted: &str) -> String {
    let lines = lines::lines_of(text).len();
    let Some(region) = change::closest(text, wanted) else {
        let lines = plural(lines, "line");
        return format!("Nothing in its {lines} resembles it; read the file again.");
    };
    let (span, shown) = (lines::span(&region), lines::show(text, std::slice::from_ref(&region), 2));
    if View::of(text, wanted).all().next().is_none() {
        let why = change::difference(text, &region, wanted);
        return format!("Closest: {span}; {why}.\n{shown}");
    }
    format!("It stands on {span}.\n{shown}")
}

/// Shows where in a text that changed meanwhile the edits would go.
fn around(text: &str, edits: &[Edit]) -> String {
    let mut regions = Vec::new();
    for edit in edits {
        if edit.old_text.is_empty() {
            continue;
        }
        let known = regions.len();
        for place in View::of(text, &edit.old_text).all().take(2) {
            let start = line_at(text, place.start);
            regions.push(start..start + lines::lines_of(&text[place]).len());
        }
        if regions.len() == known {
            regions.extend(change::closest(text, &edit.old_text));
        }
    }
    if regions.is_empty() {
        let lines = plural(lines::lines_of(text).len(), "line");
        return format!("Nothing in its {lines} now resembles `old_text`; read it again.");
    }
    format!("It is now:\n{}", lines::show(text, &regions, 5))
}

/// Returns the text without `12<tab>` (as read_file shows it), `12:` or `12-` (as grep_file does)
/// before each line, if every line has it.
fn without_numbers(text: &str) -> Option<String> {
    let bare = |line: &str| {
        let number = line.trim_start_matches(' ');
        let rest = number.trim_start_matches(|c: char| c.is_ascii_digit());
        let is_number = rest.len() < number.len();
        let rest = rest.strip_prefix(['\t', ':', '-']).filter(|_| is_number)?;
        Some(rest.to_owned())
    };
    let lines: Option<Vec<String>> = text.trim_end_matches('\n').split('\n').map(bare).collect();
    Some(lines?.join("\n"))
}

/// Undoes one level of the escapes that JSON needs.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some(c @ ('"' | '\'' | '\\' | '`' | '$')) => out.push(c),
            other => {
                out.push('\\');
                out.extend(other);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::tools::builtin::testing::{Place, call, changes, context, fails, says};

    const FILE: &str = "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n";

    fn tool(files: &[(&str, &str)]) -> (Place, EditFile) {
        let place = Place::with(files);
        let tool = EditFile::new(Arc::clone(&place.workspace));
        (place, tool)
    }

    #[tokio::test]
    async fn replaces_text_and_shows_where() {
        let (place, tool) = tool(&[("src/a.rs", FILE)]);
        let args = json!({"path": "src/a.rs", "old_text": "five\nsix", "new_text": "5\n5.5\n6"});
        let output = call(&tool, args).await.unwrap();
        expect![[r"
            edited src/a.rs: 1 replacement, +3 -2 lines
            2	two
            3	three
            4	four
            5	5
            6	5.5
            7	6
            8	seven
            9	eight
            10	nine"]]
        .assert_eq(&output.text);
        assert_eq!(place.get("src/a.rs"), FILE.replace("five\nsix", "5\n5.5\n6"));
        let change = &changes(&output)[0];
        assert_eq!((change.path.as_str(), change.kind), ("src/a.rs", ChangeKind::Update));
        assert_eq!((change.added, change.removed), (3, 2));
    }

    #[tokio::test]
    async fn several_edits_are_made_in_order_each_on_the_text_before_it() {
        let (place, tool) = tool(&[("a", FILE)]);
        let text = says(
            &tool,
            json!({"path": "a", "edits": [
                {"old_text": "one", "new_text": "uno"},
                {"old_text": "uno\ntwo\n", "new_text": "uno\n"},
                {"old_text": "ten", "new_text": "TEN", "replace_all": true},
            ]}),
        )
        .await;
        assert!(text.starts_with("edited a: 3 replacements, +2 -3 lines\n"), "{text}");
        assert!(text.contains("\n…\n"), "two regions: {text}");
        assert_eq!(place.get("a"), FILE.replace("one\ntwo", "uno").replace("ten", "TEN"));
    }

    #[tokio::test]
    async fn one_edit_that_does_not_fit_keeps_all_from_being_made() {
        let (place, tool) = tool(&[("a", FILE)]);
        let text = fails(
            &tool,
            json!({"path": "a", "edits": [
                {"old_text": "one", "new_text": "uno"},
                {"old_text": "one", "new_text": "eins"},
            ]}),
        )
        .await;
        assert!(text.starts_with("`a` was not changed: edit 2 of 2 (on the text after"), "{text}");
        assert_eq!(place.get("a"), FILE);
    }

    #[tokio::test]
    async fn text_that_occurs_twice_is_refused_with_its_lines() {
        let (place, tool) = tool(&[("a", "x = 1\ny\nx = 1\n")]);
        let args = json!({"path": "a", "old_text": "x = 1", "new_text": "x = 2"});
        expect![[r"
            `a` was not changed: `old_text` occurs 2 times, on lines 1, 3; add lines around it to make it unique, or set `replace_all`
            1	x = 1
            2	y
            3	x = 1"]]
        .assert_eq(&fails(&tool, args.clone()).await);
        assert_eq!(place.get("a"), "x = 1\ny\nx = 1\n");

        let mut all = args;
        all["replace_all"] = json!(true);
        assert!(says(&tool, all).await.starts_with("edited a: 2 replacements, +2 -2"));
        assert_eq!(place.get("a"), "x = 2\ny\nx = 2\n");
    }

    #[tokio::test]
    async fn places_that_overlap_are_two_places() {
        let (place, tool) = tool(&[("a", "}\n}\n}\n")]);
        let args = json!({"path": "a", "old_text": "}\n}\n", "new_text": ""});
        assert!(fails(&tool, args).await.contains("occurs 2 times, on lines 1, 2;"));
        assert_eq!(place.get("a"), "}\n}\n}\n");
    }

    #[tokio::test]
    async fn what_is_not_found_is_answered_with_what_is_nearest() {
        let (_place, tool) = tool(&[("a", "fn main() {\n\tlet total = add(1, 2);\n}\n")]);
        let hint = |old: &str| fails(&tool, json!({"path": "a", "old_text": old, "new_text": "x"}));
        expect![[r"
            `a` was not changed: `old_text` is not in it. Closest: line 2; it differs in indentation (the file has tabs).
            1	fn main() {
            2		let total = add(1, 2);
            3	}"]]
        .assert_eq(&hint("    let total = add(1, 2);\n").await);
        expect![[r"
            `a` was not changed: `old_text` has line numbers before its lines, which are not in the file: leave them out. It stands on line 2.
            1	fn main() {
            2		let total = add(1, 2);
            3	}"]]
        .assert_eq(&hint("2\t\tlet total = add(1, 2);\n").await);
        expect!["`a` was not changed: Nothing in its 3 lines resembles it; read the file again."]
            .assert_eq(
                &hint("wholly different words").await.replace("`old_text` is not in it. ", ""),
            );
        assert!(hint("fn main() {\\n\\tlet total").await.contains("escaped once too often"));
    }

    #[tokio::test]
    async fn an_edit_made_before_is_recognised() {
        let (_place, tool) = tool(&[("a", "let limit = 20;\n")]);
        let args =
            json!({"path": "a", "old_text": "let limit = 10;", "new_text": "let limit = 20;"});
        let text = fails(&tool, args).await;
        assert!(text.contains("but `new_text` already is, on line 1"), "{text}");
        let args = json!({"path": "a", "old_text": "let limit = 10;", "new_text": "="});
        let text = fails(&tool, args).await;
        assert!(text.contains("is not in it. Closest: line 1"), "{text}");
    }

    #[tokio::test]
    async fn a_file_changed_since_it_was_read_is_refused_once_and_shown() {
        let (place, tool) = tool(&[("a", FILE)]);
        place.read("a");
        place.put("a", FILE.replace("four", "4").as_bytes());
        let args = json!({"path": "a", "old_text": "five", "new_text": "5"});
        let text = fails(&tool, args.clone()).await;
        assert!(text.starts_with("`a` was changed after you last saw it"), "{text}");
        assert!(text.contains("\n4\t4\n5\tfive\n"), "{text}");
        assert_eq!(place.get("a"), FILE.replace("four", "4"));

        says(&tool, args).await;
        assert_eq!(place.get("a"), FILE.replace("four", "4").replace("five", "5"));
    }

    #[tokio::test]
    async fn a_file_read_through_a_link_is_known_under_its_own_name() {
        let (place, tool) = tool(&[("a", FILE)]);
        std::os::unix::fs::symlink("a", place.path("link")).unwrap();
        place.read("link");
        place.put("a", FILE.replace("four", "4").as_bytes());
        let text = fails(&tool, json!({"path": "a", "old_text": "five", "new_text": "5"})).await;
        assert!(text.starts_with("`a` was changed after you last saw it"), "{text}");
        says(&tool, json!({"path": "link", "old_text": "five", "new_text": "5"})).await;
        says(&tool, json!({"path": "a", "old_text": "six", "new_text": "6"})).await;
        assert!(place.path("link").is_symlink());
        assert_eq!(place.get("a"), FILE.replace("four", "4").replace("five\nsix", "5\n6"));
    }

    #[tokio::test]
    async fn replacements_that_would_fill_the_memory_are_refused() {
        let (place, tool) = tool(&[("a", &"a\n".repeat(1_000_000))]);
        let args = json!({"path": "a", "old_text": "a", "new_text": "b".repeat(100_000), "replace_all": true});
        let text = fails(&tool, args).await;
        assert!(text.contains("would make it too large; change it with a command"), "{text}");
        assert_eq!(place.get("a").len(), 2_000_000);
        let file = std::fs::File::create(place.path("huge")).unwrap();
        file.set_len(1 << 40).unwrap();
        let text = fails(&tool, json!({"path": "huge", "old_text": "a", "new_text": "b"})).await;
        assert!(text.ends_with("bytes are too many to take whole; use a command"), "{text}");
    }

    #[tokio::test]
    async fn lines_copied_from_a_search_are_recognised() {
        let (_place, tool) = tool(&[("a", FILE)]);
        for copied in ["2:two\n3-three\n", "  2\ttwo\n  3\tthree"] {
            let args = json!({"path": "a", "old_text": copied, "new_text": "x"});
            let text = fails(&tool, args).await;
            assert!(text.contains("has line numbers before its lines"), "{text}");
            assert!(text.contains("It stands on lines 2-3."), "{text}");
        }
    }

    #[tokio::test]
    async fn our_own_edits_are_no_change_by_somebody_else() {
        let (place, tool) = tool(&[("a", FILE)]);
        place.read("a");
        says(&tool, json!({"path": "a", "old_text": "one", "new_text": "1"})).await;
        says(&tool, json!({"path": "a", "old_text": "two", "new_text": "2"})).await;
        assert_eq!(place.get("a"), FILE.replace("one", "1").replace("two", "2"));
    }

    #[tokio::test]
    async fn line_ends_mark_and_missing_newline_stay_as_they_are() {
        for (before, old, new, after) in [
            ("a\r\nb\r\nc\r\n", "a\nb\n", "a\nx\ny\n", "a\r\nx\r\ny\r\nc\r\n"),
            ("a\r\nb\r\nc\r\n", "b", "x\ny", "a\r\nx\r\ny\r\nc\r\n"),
            ("a\r\nb\r\nc", "c", "x\ny", "a\r\nb\r\nx\r\ny"),
            ("a\nb\nc\n", "a\r\nb\r\n", "x\r\n", "x\nc\n"),
            ("a\nb\r\nc\n", "b\n", "x\ny\n", "a\nx\r\ny\r\nc\n"),
            ("a\nb\r\nc\n", "a\n", "x\ny\n", "x\ny\nb\r\nc\n"),
            ("a\r\nb\r\n", "a\r\nb\r\n", "a\nb\n", "a\nb\n"),
            ("\u{feff}a\nb", "a\nb", "x", "\u{feff}x"),
            ("a\nb", "b", "c", "a\nc"),
            ("é\r\nü\r\n", "ü", "ö", "é\r\nö\r\n"),
        ] {
            let (place, tool) = tool(&[("a", before)]);
            says(&tool, json!({"path": "a", "old_text": old, "new_text": new})).await;
            assert_eq!(place.get("a"), after, "{before:?}: {old:?} to {new:?}");
        }
    }

    #[tokio::test]
    async fn the_mode_stays_and_nothing_is_left_beside() {
        let (place, tool) = tool(&[("run.sh", "echo 1\n")]);
        let mode = std::fs::Permissions::from_mode(0o750);
        std::fs::set_permissions(place.path("run.sh"), mode).unwrap();
        says(&tool, json!({"path": "run.sh", "old_text": "1", "new_text": "2"})).await;
        let mode = std::fs::metadata(place.path("run.sh")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750);
        assert_eq!(place.tree().len(), 2, "the folder and the file");
    }

    #[tokio::test]
    async fn what_is_no_text_is_refused() {
        let (place, tool) = tool(&[]);
        place.put("binary", b"a\n\0b");
        place.put("latin", b"one\ncaf\xe9\n");
        std::fs::create_dir(place.path("folder")).unwrap();
        place.link_out();
        let before = place.tree();
        let said =
            |path: &str| fails(&tool, json!({"path": path, "old_text": "o", "new_text": "x"}));
        expect!["`binary` is binary (a NUL byte on line 2); change it with a command"]
            .assert_eq(&said("binary").await);
        expect!["`latin` is not UTF-8 (byte 0xe9 on line 2); change it with a command"]
            .assert_eq(&said("latin").await);
        expect!["`folder`: a folder, not a file"].assert_eq(&said("folder").await);
        expect!["there is no `bynary`; did you mean `binary`? (write_file makes new files)"]
            .assert_eq(&said("bynary").await);
        assert!(said("out/secret").await.starts_with("refused: "));
        assert!(said("../x").await.starts_with("refused: "));
        assert_eq!(place.tree(), before);
    }

    #[tokio::test]
    async fn arguments_that_mean_nothing_are_refused_with_what_would() {
        let (place, tool) = tool(&[("a", FILE), ("empty", "")]);
        let said = |args: Value| fails(&tool, args);
        assert!(said(json!({"path": "a"})).await.contains("`old_text` and `new_text`, or `edits`"));
        assert!(said(json!({"path": "a", "edits": []})).await.contains("missing"));
        assert!(
            said(json!({"path": "a", "old_text": "one"})).await.contains("`new_text` is missing")
        );
        let same = json!({"path": "a", "old_text": "one", "new_text": "one"});
        assert!(said(same).await.contains("are the same"));
        let empty = json!({"path": "a", "old_text": "", "new_text": "x"});
        assert!(said(empty).await.contains("`old_text` is empty"));
        let both = json!({"path": "a", "old_text": "one", "new_text": "1",
            "edits": [{"old_text": "two", "new_text": "2"}]});
        assert!(said(both).await.contains("not both"));
        let there_and_back = json!({"path": "a", "edits": [
            {"old_text": "one", "new_text": "1"}, {"old_text": "1", "new_text": "one"}]});
        assert!(said(there_and_back).await.contains("leave it as it is"));
        assert!(said(json!({"path": "a", "oldtext": "one"})).await.contains("unknown field"));
        assert_eq!(place.get("a"), FILE);

        // What some models write, and where it is clear what they mean.
        says(&tool, json!({"path": "empty", "old_text": "", "new_text": "x\n"})).await;
        assert_eq!(place.get("empty"), "x\n");
        let filled = json!({"path": "a", "old_text": "", "new_text": "", "replace_all": null,
            "edits": [{"old_text": "one", "new_text": "1", "replace_all": null}]});
        says(&tool, filled).await;
        assert_eq!(place.get("a"), FILE.replace("one", "1"));
    }

    #[tokio::test]
    async fn a_cancelled_call_writes_nothing() {
        let (place, tool) = tool(&[("a", FILE)]);
        let context = context();
        context.cancel.cancel();
        let args = json!({"path": "a", "old_text": "one", "new_text": "1"});
        let outcome = tool.call(&args, &context).await;
        assert!(matches!(outcome, Err(ToolError::Cancelled { .. })), "{outcome:?}");
        assert_eq!(place.get("a"), FILE);
    }

    #[test]
    fn the_effect_is_a_write_of_the_file() {
        let (place, tool) = tool(&[]);
        let path = place.workspace.root().join("a");
        assert_eq!(tool.effect(&json!({"path": "./b/../a"})), Effect::write(path));
        assert_eq!(tool.effect(&json!({"path": "../a"})), Effect::default());
        assert_eq!(tool.effect(&json!("a")), Effect::default());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        /// A file in CRLF, edited with `\n`, becomes what the same file in LF becomes.
        #[test]
        fn line_ends_make_no_difference(
            text in "[ab\n]{0,12}", old in "[ab\n]{1,4}", new in "[ab\n]{0,4}", all in proptest::bool::ANY,
        ) {
            let crlf = |text: &str| text.replace('\n', "\r\n");
            let edit = [Edit { old_text: old, new_text: new, replace_all: Some(all) }];
            let cancel = CancellationToken::new();
            let expected = replace(&text, &edit, &cancel).map(|(text, count)| (crlf(&text), count));
            // Without a line end of its own, a text has none to keep.
            if text.contains('\n') {
                let got = replace(&crlf(&text), &edit, &cancel);
                proptest::prop_assert_eq!(got.is_ok(), expected.is_ok());
                if expected.is_ok() {
                    proptest::prop_assert_eq!(got, expected);
                }
            }
        }
    }
}
