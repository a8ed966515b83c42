//! `grep_file`: a pattern and a place come in, matching lines by file and their counts go out.
//! Searches what people would search: no ignored files, no binaries, nothing behind a link, in an
//! order that is always the same.

use std::fmt::Write;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use grep_matcher::{LineTerminator, Matcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder};
use ignore::overrides::{Override, OverrideBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::safety::workspace::{EntryKind, Folder, Version, Workspace, WorkspacePath};
use crate::tools::builtin::blocking::{check, each_alone, go_on, one_batch, reading};
use crate::tools::builtin::lines::{self, plural};
use crate::tools::builtin::walk::{self, Ignores};
use crate::tools::builtin::{nearest, resolve_or_root, spec};
use crate::tools::tool::{
    BatchFuture, CallContext, Detail, Effect, Tool, ToolError, ToolFuture, ToolOutput, ToolSpec,
    parse_args,
};
use crate::tools::witness::Evidence;

mod hits;
mod several;

use hits::{Hits, Room};
use several::grouped;

const NAME: &str = "grep_file";

const MATCHES: usize = 100;

/// The most context lines on each side.
const CONTEXT: usize = 20;

/// How many entries of one folder are looked at, and how deep folders may lie.
const LOOKED_AT: usize = 1_000_000;
const DEPTH: usize = 128;

/// The longest line, or in a search across lines the largest file, that is searched.
const HEAP_BYTES: usize = 16 * 1024 * 1024;

/// The longest file that is read once for all searches.
const HELD_BYTES: usize = 1024 * 1024;

/// The most that a compiled pattern takes, and the most that its cache does.
const REGEX_BYTES: usize = 32 * 1024 * 1024;

/// How many files are named whose matches did not fit.
const NAMED_FILES: usize = 20;

/// What is kept of the result for its last lines.
const TAIL_BYTES: usize = 1024;

/// How many patterns one call may ask for.
const PATTERNS: usize = 8;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Rust regex
    pattern: Option<String>,
    /// Several at once
    patterns: Option<Vec<String>>,
    /// File or folder
    path: Option<String>,
    /// Such as `*.rs` or `!tests/**`
    glob: Option<String>,
    /// Lines around
    context: Option<usize>,
    #[serde(default, deserialize_with = "crate::tools::tool::or_default")]
    case_insensitive: bool,
    #[serde(default, deserialize_with = "crate::tools::tool::or_default")]
    mode: Mode,
    /// Default 100
    max_matches: Option<usize>,
    /// Plain text
    #[serde(default, deserialize_with = "crate::tools::tool::or_default")]
    literal: bool,
}

/// One search.
#[derive(Debug, Clone)]
struct Args {
    pattern: String,
    glob: Option<String>,
    context: Option<usize>,
    case_insensitive: bool,
    mode: Mode,
    max_matches: Option<usize>,
    literal: bool,
}

impl Asked {
    /// Returns every search that is asked for, in order; the same one once.
    fn searches(self) -> Result<Vec<Args>, ToolError> {
        let mut patterns: Vec<String> = Vec::new();
        for pattern in self.pattern.into_iter().chain(self.patterns.unwrap_or_default()) {
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
        }
        match patterns.len() {
            0 => return Err(bad("give `pattern` or `patterns`".to_owned())),
            n if n > PATTERNS => return Err(bad("at most 8 patterns in one call".to_owned())),
            _ => {}
        }
        let (glob, context, mode) = (self.glob, self.context, self.mode);
        let (case_insensitive, max_matches) = (self.case_insensitive, self.max_matches);
        let literal = self.literal;
        let search = |pattern| Args {
            pattern,
            glob: glob.clone(),
            context,
            case_insensitive,
            mode,
            max_matches,
            literal,
        };
        Ok(patterns.into_iter().map(search).collect())
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Content,
    Files,
    Count,
}

/// Searches files.
#[derive(Debug)]
pub struct GrepFile {
    spec: ToolSpec,
    workspace: Arc<Workspace>,
    result_bytes: usize,
}

impl GrepFile {
    /// Returns the tool for `workspace`; no result is much longer than `result_bytes`.
    pub fn new(workspace: Arc<Workspace>, result_bytes: usize) -> Self {
        let description = "Search file contents, without ignored files.";
        let spec = spec::<Asked>(NAME, description);
        Self { spec, workspace, result_bytes }
    }
}

impl Tool for GrepFile {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, args: &Value) -> Effect {
        parse_args::<Asked>(NAME, args)
            .and_then(|args| {
                let path = resolve_or_root(&self.workspace, args.path.as_deref());
                args.searches().and(path)
            })
            .map_or_else(|_| Effect::default(), |path| Effect::read(path.absolute()))
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    /// What is searched for has no part in which files are.
    fn batch(&self, args: &Value) -> Option<String> {
        let args: Asked = parse_args(NAME, args).ok()?;
        let path = resolve_or_root(&self.workspace, args.path.as_deref()).ok()?;
        // No path holds a NUL.
        let batch =
            format!("{}\0{}", path.absolute().display(), args.glob.as_deref().unwrap_or_default());
        args.searches().ok().map(|_| batch)
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

impl GrepFile {
    /// Searches the same files for what each call asks.
    async fn together(
        &self,
        calls: &[&Value],
        context: &CallContext,
    ) -> Result<Vec<Result<ToolOutput, ToolError>>, ToolError> {
        let calls: Result<Vec<Asked>, _> =
            calls.iter().map(|args| parse_args(NAME, args)).collect();
        let calls = calls?;
        let first = calls.first();
        let path = resolve_or_root(&self.workspace, first.and_then(|args| args.path.as_deref()))?;
        let globs = globs(self.workspace.root(), first.and_then(|args| args.glob.as_deref()))?;
        let asked: Result<Vec<Vec<Args>>, _> = calls.into_iter().map(Asked::searches).collect();
        let (asked, bytes) = (asked?, self.result_bytes);
        reading(NAME, context, move |cancel| {
            let all: Vec<Args> = asked.iter().flatten().cloned().collect();
            let mut found = grep(&all, &path, &globs, bytes, cancel)?.into_iter();
            let each = asked.iter().map(|searches| {
                let patterns = searches.iter().map(|search| search.pattern.as_str());
                grouped(patterns.zip(&mut found).collect(), bytes)
            });
            Ok(each.collect())
        })
        .await
    }
}

/// Reads the glob as ripgrep would, from the main folder.
fn globs(root: &Path, glob: Option<&str>) -> Result<Override, ToolError> {
    let mut globs = OverrideBuilder::new(root);
    let built = match glob.filter(|glob| !glob.is_empty()) {
        // `./` is how people write it, and would match nothing.
        Some(glob) => globs.add(glob.strip_prefix("./").unwrap_or(glob)).and_then(|g| g.build()),
        None => globs.build(),
    };
    built.map_err(|error| bad(format!("`glob`: {error}")))
}

/// Searches as asked, in one walk for all calls; for those that found nothing, in one more walk in
/// the ways that are most often meant.
fn grep(
    calls: &[Args],
    path: &WorkspacePath,
    globs: &Override,
    result_bytes: usize,
    cancel: &CancellationToken,
) -> Result<Vec<Result<ToolOutput, ToolError>>, ToolError> {
    let mut plans: Vec<_> = calls.iter().map(|args| Plan::of(args, result_bytes)).collect();
    let first = plans.iter_mut().flatten().map(|plan| &mut plan.search).collect();
    let first = Walk::run(first, path, globs, cancel)?;
    plans.iter_mut().flatten().for_each(|plan| plan.widen(result_bytes));
    let again = plans.iter_mut().flatten().filter_map(|plan| plan.wider.as_mut()).collect();
    let again = Walk::run(again, path, globs, cancel)?;
    // The second walk looks at what the first did, unless something changed since that began.
    let both = first.clone().filter(|_| again.is_some());
    let result = |plan: Result<Plan<'_>, _>| plan?.result(path, first.clone(), both.clone());
    Ok(plans.into_iter().map(result).collect())
}

/// One call while it runs.
struct Plan<'a> {
    args: &'a Args,
    search: Search,
    /// What is wrong with the pattern as a regex; the search takes it as plain text then.
    problem: Option<String>,
    /// What is searched when the search found nothing.
    wider: Option<Search>,
}

impl<'a> Plan<'a> {
    fn of(args: &'a Args, result_bytes: usize) -> Result<Self, ToolError> {
        if args.pattern.is_empty() {
            let problem = "`pattern` is empty; list_files shows which files there are";
            return Err(bad(problem.to_owned()));
        }
        let pattern = Pattern::of(args);
        let (search, problem) = match Search::new(args, pattern, result_bytes) {
            Ok(search) => (search, None),
            Err(problem) => match Search::new(args, Pattern::as_text(args), result_bytes) {
                Ok(search) => (search, Some(problem)),
                Err(_) => return Err(no_regex(&problem)),
            },
        };
        Ok(Self { args, search, problem, wider: None })
    }

    fn widen(&mut self, result_bytes: usize) {
        if self.search.matches == 0 && self.problem.is_none() {
            let pattern = Pattern::wider(self.args);
            self.wider = Search::new(self.args, pattern, result_bytes).ok();
        }
    }

    /// Returns the result, with `first` as the evidence of the first walk and `both` of both.
    fn result(
        self,
        path: &WorkspacePath,
        first: Option<Evidence>,
        both: Option<Evidence>,
    ) -> Result<ToolOutput, ToolError> {
        match (self.problem, self.wider) {
            (None, _) if self.search.matches > 0 => Ok(self.search.output("", first)),
            (Some(_), _) if self.search.matches > 0 => {
                Ok(self.search.output("(not a valid regex; found as plain text)\n", first))
            }
            (Some(problem), _) => Err(no_regex(&problem)),
            (None, Some(wider)) if wider.matches > 0 => {
                let note = "(nothing as asked; found when case is ignored or as plain text)\n";
                Ok(wider.output(note, both))
            }
            (None, wider) => {
                let evidence = if wider.is_some() { both } else { first };
                Ok(self.search.nothing(path, self.args, evidence))
            }
        }
    }
}

fn bad(problem: String) -> ToolError {
    ToolError::BadArguments { name: NAME.to_owned(), problem }
}

fn no_regex(problem: &str) -> ToolError {
    bad(format!(
        "`pattern` is not a valid regex ({problem}); `literal: true` takes it as plain text"
    ))
}

/// What is searched for.
struct Pattern {
    text: String,
    case_insensitive: bool,
    literal: bool,
    /// Whether lines cannot be searched one by one.
    across: bool,
}

impl Pattern {
    fn of(args: &Args) -> Self {
        let across = spans_lines(&args.pattern, args.literal);
        let &Args { case_insensitive, literal, .. } = args;
        Self { text: args.pattern.clone(), case_insensitive, literal, across }
    }

    fn as_text(args: &Args) -> Self {
        let text = regex_escape(&args.pattern);
        Self { text, case_insensitive: true, literal: false, ..Self::of(args) }
    }

    fn wider(args: &Args) -> Self {
        let mut wider = Self::as_text(args);
        if !args.literal {
            wider.text = format!("(?:{})|{}", args.pattern, wider.text);
        }
        wider
    }

    /// Returns the pattern as one of several that are searched for at once, if that is the same.
    fn joined(&self) -> Option<String> {
        if self.literal {
            return Some(regex_escape(&self.text));
        }
        // Flags may hold beyond the pattern, when a parenthesis that it does not open closes it.
        let flags = self.text.split("(?").skip(1).any(|after| !after.starts_with(':'));
        (!flags).then(|| self.text.clone())
    }
}

/// Returns whether the pattern names a line end, so that lines cannot be searched one by one.
fn spans_lines(pattern: &str, literal: bool) -> bool {
    pattern.contains(['\n', '\r'])
        || !literal && (pattern.contains("\\n") || pattern.contains("\\r"))
}

/// Returns what finds any of the patterns.
fn matcher(
    patterns: &[&str],
    case_insensitive: bool,
    literal: bool,
    across: bool,
) -> Result<RegexMatcher, String> {
    let mut builder = RegexMatcherBuilder::new();
    builder.case_insensitive(case_insensitive).fixed_strings(literal).multi_line(true);
    // The engine's own bounds are 100 MB for the pattern and ten times that for its cache.
    builder.size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES);
    if !across {
        // Lets `$` match before either kind of line end.
        builder.line_terminator(Some(b'\n')).crlf(true);
    }
    builder.build_many(patterns).map_err(|error| {
        // The last line says what is wrong, those before draw where.
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        last.strip_prefix("error: ").unwrap_or(last).to_owned()
    })
}

/// Escapes what a regex would read as more than itself.
fn regex_escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if r"\.+*?()|[]{}^$#&-~".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// A walk over the files, with the searches that share it.
struct Walk<'a> {
    groups: Vec<Group<'a>>,
    globs: &'a Override,
    evidence: Evidence,
    cancel: &'a CancellationToken,
    /// The file that is searched, or its beginning.
    buffer: Vec<u8>,
    /// Files looked into.
    searched: usize,
    /// Files left out because they hold no text.
    binary: usize,
    /// Files and folders that could not be searched.
    failed: usize,
}

/// Searches of which none finds anything where the filter does not.
struct Group<'a> {
    filter: Option<RegexMatcher>,
    searches: Vec<&'a mut Search>,
}

impl<'a> Group<'a> {
    fn of(searches: Vec<&'a mut Search>) -> Vec<Self> {
        let mut alone = Self { filter: None, searches: Vec::new() };
        let mut joined = [(false, Vec::new(), Vec::new()), (true, Vec::new(), Vec::new())];
        for search in searches {
            let pattern = &search.pattern;
            // Without a line terminator the engine looks at each line by itself, where text
            // anchors match: they do not in a file.
            let by_line = search.matcher.line_terminator().is_some();
            match pattern.joined().filter(|_| by_line && !pattern.across) {
                Some(text) => {
                    let (_, texts, searches) = &mut joined[usize::from(pattern.case_insensitive)];
                    texts.push(text);
                    searches.push(search);
                }
                None => alone.searches.push(search),
            }
        }
        let mut groups = vec![alone];
        for (case_insensitive, texts, searches) in joined {
            let texts: Vec<_> = texts.iter().map(String::as_str).collect();
            let filter = match texts.len() {
                0 | 1 => None,
                _ => matcher(&texts, case_insensitive, false, false).ok(),
            };
            groups.push(Self { filter, searches });
        }
        groups
    }
}

impl<'a> Walk<'a> {
    /// Runs the searches and returns the evidence, if there is.
    fn run(
        searches: Vec<&'a mut Search>,
        path: &WorkspacePath,
        globs: &'a Override,
        cancel: &'a CancellationToken,
    ) -> Result<Option<Evidence>, ToolError> {
        let evidence = Evidence::begin();
        if searches.is_empty() {
            return Ok(Some(evidence));
        }
        let mut walk = Self {
            groups: Group::of(searches),
            globs,
            evidence,
            cancel,
            buffer: vec![0; HELD_BYTES + 1],
            searched: 0,
            binary: 0,
            failed: 0,
        };
        let done = match path.open_file() {
            Ok((file, stat)) => walk.file(&file, &stat, path.absolute(), || path.display()),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                let folder = path.open_folder().map_err(|error| path.explain(&error))?;
                let rules = Ignores::of(path, &mut walk.evidence);
                walk.folder(&folder, path, &rules, 0)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(nearest::missing(path, cancel));
            }
            Err(error) => return Err(path.explain(&error)),
        };
        go_on(NAME, cancel)?;
        done.map_err(|error| path.explain(&error))?;
        for search in walk.groups.into_iter().flat_map(|group| group.searches) {
            search.searched = walk.searched;
            search.binary += walk.binary;
            search.failed += walk.failed;
        }
        Ok(walk.evidence.whole())
    }

    fn folder(
        &mut self,
        folder: &Folder,
        at: &WorkspacePath,
        rules: &Arc<Ignores>,
        depth: usize,
    ) -> io::Result<()> {
        let absolute = at.absolute();
        let read = walk::entries(
            folder,
            &absolute,
            rules,
            LOOKED_AT,
            LOOKED_AT,
            &mut self.evidence,
            self.cancel,
        )?;
        self.failed += usize::from(read.unread);
        for (name, kind) in read.kept {
            check(self.cancel)?;
            let path = absolute.join(&name);
            if self.globs.matched(&path, kind == EntryKind::Folder).is_ignore() {
                continue;
            }
            match kind {
                EntryKind::File => match folder.open_file(&name) {
                    Ok((file, stat)) => {
                        self.file(&file, &stat, path, || at.child(&name).display())?;
                    }
                    Err(error) => self.unopened(path, &error),
                },
                EntryKind::Folder if depth == DEPTH => self.failed += 1,
                EntryKind::Folder => match folder.open_folder(&name) {
                    Ok(below) => {
                        let rules = rules.enter(&below, &path, &mut self.evidence);
                        if self.folder(&below, &at.child(&name), &rules, depth + 1).is_err() {
                            check(self.cancel)?;
                            self.evidence.give_up();
                            self.failed += 1;
                        }
                    }
                    Err(error) => self.unopened(path, &error),
                },
                EntryKind::Link | EntryKind::Other => {}
            }
        }
        Ok(())
    }

    fn unopened(&mut self, path: PathBuf, error: &io::Error) {
        self.evidence.add_unopened(path, error);
        self.failed += 1;
    }

    /// Searches one file. Only being cancelled ends the walk.
    fn file(
        &mut self,
        file: &File,
        stat: &Metadata,
        path: PathBuf,
        name: impl Fn() -> String,
    ) -> io::Result<()> {
        self.searched += 1;
        self.evidence.add(path, Some(Version::of(stat)));
        let read = fill(&mut self.buffer, file, stat.len());
        let Ok(length) = read else {
            self.evidence.give_up();
            self.failed += 1;
            return Ok(());
        };
        let content = match length {
            None => Content::Long(file),
            Some(length) => match &self.buffer[..length] {
                // What they mark may be text in spite of its zero bytes.
                held @ ([0xef, 0xbb, 0xbf, ..] | [0xfe, 0xff, ..] | [0xff, 0xfe, ..]) => {
                    Content::Marked(held)
                }
                held if memchr::memchr(0, held).is_some() => {
                    self.binary += 1;
                    return Ok(());
                }
                held => Content::Text(held),
            },
        };
        let mut shown = None;
        for group in &mut self.groups {
            if let (Content::Text(text), Some(filter)) = (content, &group.filter)
                && let Ok(None) = filter.find_candidate_line(text)
            {
                continue;
            }
            for search in &mut group.searches {
                let shown: &String = shown.get_or_insert_with(|| walk::one_line(&name()));
                if search.file(shown, content, self.cancel).is_err() {
                    self.evidence.give_up();
                }
                check(self.cancel)?;
            }
        }
        Ok(())
    }
}

/// Reads a file into the buffer and returns its length, or none if it is longer than the buffer.
fn fill(buffer: &mut [u8], mut file: &File, size_bytes: u64) -> io::Result<Option<usize>> {
    if size_bytes >= buffer.len() as u64 {
        return Ok(None);
    }
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => return Ok(Some(length)),
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // This spares the read that finds the end. What was added since is of a later version;
        // only special files say that they are empty when they are not.
        if length as u64 == size_bytes {
            return Ok(Some(length));
        }
    }
    Ok(None)
}

/// What a file holds.
#[derive(Clone, Copy)]
enum Content<'a> {
    /// Bytes without a zero among them.
    Text(&'a [u8]),
    /// Bytes that begin with a mark of their encoding.
    Marked(&'a [u8]),
    /// More than is held.
    Long(&'a File),
}

/// A search while it runs, then what it found.
struct Search {
    pattern: Pattern,
    matcher: RegexMatcher,
    searcher: Searcher,
    mode: Mode,
    room: Room,
    text: String,
    matches: usize,
    files: usize,
    searched: usize,
    binary: usize,
    /// Files and folders that could not be searched whole.
    failed: usize,
    /// Files whose matches are not all shown, with how many are not.
    unshown: Vec<(String, usize)>,
    unshown_matches: usize,
    unshown_files: usize,
}

impl Search {
    fn new(args: &Args, pattern: Pattern, result_bytes: usize) -> Result<Self, String> {
        let Pattern { text, case_insensitive, literal, across } = &pattern;
        let matcher = matcher(&[text], *case_insensitive, *literal, *across)?;
        let context = args.context.unwrap_or(0).min(CONTEXT);
        let searcher = SearcherBuilder::new()
            .line_number(args.mode == Mode::Content)
            .line_terminator(if *across {
                LineTerminator::byte(b'\n')
            } else {
                LineTerminator::crlf()
            })
            .multi_line(*across)
            .before_context(if args.mode == Mode::Content { context } else { 0 })
            .after_context(if args.mode == Mode::Content { context } else { 0 })
            .heap_limit(Some(HEAP_BYTES))
            .build();
        Ok(Self {
            pattern,
            matcher,
            searcher,
            mode: args.mode,
            room: Room {
                matches: args.max_matches.unwrap_or(MATCHES).max(1),
                bytes: result_bytes.saturating_sub(TAIL_BYTES).max(TAIL_BYTES),
            },
            text: String::new(),
            matches: 0,
            files: 0,
            searched: 0,
            binary: 0,
            failed: 0,
            unshown: Vec::new(),
            unshown_matches: 0,
            unshown_files: 0,
        })
    }

    /// Searches one file; fails when it could not be searched whole.
    fn file(
        &mut self,
        name: &str,
        content: Content<'_>,
        cancel: &CancellationToken,
    ) -> io::Result<()> {
        let room = Room { bytes: self.room.bytes.saturating_sub(name.len() + 1), ..self.room };
        let mut hits = Hits::new(&self.matcher, self.mode, room);
        let searcher = &mut self.searcher;
        searcher.set_binary_detection(match content {
            Content::Text(_) => BinaryDetection::none(),
            Content::Marked(_) | Content::Long(_) => BinaryDetection::quit(0),
        });
        let searched = match content {
            Content::Text(held) | Content::Marked(held) => {
                searcher.search_slice(&self.matcher, held, &mut hits)
            }
            Content::Long(mut file) => file.rewind().and_then(|()| {
                searcher.search_reader(&self.matcher, Stoppable { file, cancel }, &mut hits)
            }),
        };
        if hits.binary {
            self.binary += 1;
            return searched;
        }
        self.failed += usize::from(searched.is_err());
        if hits.matches > 0 {
            let Hits { text, matches, shown, .. } = hits;
            self.add(name, &text, matches, shown);
        }
        searched
    }

    /// Adds what was found in one file: how many lines match, and how many of them are in `text`.
    fn add(&mut self, name: &str, text: &str, matches: usize, shown: usize) {
        self.matches += matches;
        self.files += 1;
        let (block, shown) = match self.mode {
            Mode::Content => (format!("{name}\n{text}"), shown),
            Mode::Files => (format!("{name}\n"), matches),
            Mode::Count => (format!("{name}:{matches}\n"), matches),
        };
        // Once something did not fit, nothing later is shown: what is shown is the beginning.
        let fits = self.unshown_files == 0 && shown > 0 && block.len() <= self.room.bytes;
        let shown = if fits { shown } else { 0 };
        if fits {
            self.text.push_str(&block);
            self.room.bytes -= block.len();
            if self.mode == Mode::Content {
                self.room.matches -= shown;
            }
        }
        if shown < matches {
            self.unshown_matches += matches - shown;
            self.unshown_files += 1;
            if self.unshown.len() < NAMED_FILES {
                self.unshown.push((name.to_owned(), matches - shown));
            }
        }
    }

    fn output(mut self, note: &str, evidence: Option<Evidence>) -> ToolOutput {
        self.text.insert_str(0, note);
        let text = &mut self.text;
        if self.unshown_files > 0 && self.mode == Mode::Files {
            let _ = writeln!(text, "… {}", plural(self.unshown_files, "more file"));
        } else if self.unshown_files > 0 {
            let _ = write!(text, "… {}", plural(self.unshown_matches, "more match"));
            let mut bytes = TAIL_BYTES;
            let mut named = 0;
            for (name, matches) in &self.unshown {
                let item = format!("{} {name} {matches}", if named == 0 { ":" } else { "," });
                if item.len() > bytes {
                    break;
                }
                bytes -= item.len();
                text.push_str(&item);
                named += 1;
            }
            if self.unshown_files > named {
                let _ = write!(text, " and {}", plural(self.unshown_files - named, "other file"));
            }
            text.push('\n');
        }
        let line = match self.mode {
            Mode::Files => plural(self.files, "file"),
            _ => format!("{} in {}", plural(self.matches, "match"), plural(self.files, "file")),
        };
        let failed = self.failed_note();
        let _ = writeln!(self.text, "({line}{failed})");
        ToolOutput { text: self.text, is_error: false, detail: Detail::Summary { line }, evidence }
    }

    /// Returns the answer when nothing was found.
    fn nothing(self, path: &WorkspacePath, args: &Args, evidence: Option<Evidence>) -> ToolOutput {
        let mut text = format!("no matches in {}", plural(self.searched, "file"));
        let _ = write!(text, " under `{}`", path.display());
        if let Some(glob) = &args.glob {
            let _ = write!(text, " that fit the glob `{}`", lines::cut(glob));
        }
        if self.binary > 0 {
            let _ = write!(text, "; {} skipped", plural(self.binary, "binary file"));
        }
        text.push_str(&self.failed_note());
        let detail = Detail::Summary { line: "no matches".to_owned() };
        ToolOutput { text, is_error: false, detail, evidence }
    }

    fn failed_note(&self) -> String {
        match self.failed {
            0 => String::new(),
            n => format!("; {n} files or folders could not be searched whole"),
        }
    }
}

/// Ends the reading of a file when the call is cancelled.
struct Stoppable<'a> {
    file: &'a File,
    cancel: &'a CancellationToken,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check(self.cancel)?;
        self.file.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use expect_test::expect;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use serde_json::json;

    use super::*;
    use crate::tools::builtin::testing::{Place, call, context, same_as_alone, text};

    fn tool(place: &Place) -> GrepFile {
        GrepFile::new(Arc::clone(&place.workspace), 16 * 1024)
    }

    fn small() -> Place {
        Place::with(&[
            (".gitignore", "ignored/\n"),
            (".git/HEAD", "fn secret() {}\n"),
            ("ignored/x.rs", "fn ignored() {}\n"),
            ("src/b.rs", "use a;\n\nfn main() {\n    a::run();\n}\n"),
            ("src/a.rs", "fn run() {}\nfn stop() {}\n"),
            (".hidden.md", "the fn word\n"),
        ])
    }

    #[tokio::test]
    async fn matches_are_grouped_by_file_in_order() {
        let place = small();
        symlink("src/a.rs", place.root().join("link.rs")).unwrap();
        place.put("blob", b"fn x\0\n");
        let found = call(&tool(&place), json!({"pattern": r"\bfn \w+\("})).await.unwrap();
        expect![[r"
            src/a.rs
            1:fn run() {}
            2:fn stop() {}
            src/b.rs
            3:fn main() {
            (3 matches in 2 files)
        "]]
        .assert_eq(&found.text);
        assert_eq!(found.detail, Detail::Summary { line: "3 matches in 2 files".to_owned() });
        let one = text(&tool(&place), json!({"pattern": "fn", "path": ".hidden.md"})).await;
        assert_eq!(one, ".hidden.md\n1:the fn word\n(1 match in 1 file)\n");
        let named = text(&tool(&place), json!({"pattern": "fn", "path": "ignored"})).await;
        assert!(named.contains("ignored/x.rs\n"), "what is named is searched: {named}");
    }

    #[tokio::test]
    async fn context_stands_round_the_match() {
        let place = Place::with(&[("a", "1\n2\nhit\n4\n5\n6\n7\nhit\n9\n")]);
        let found = text(&tool(&place), json!({"pattern": "hit", "context": 1})).await;
        expect![[r"
            a
            2-2
            3:hit
            4-4
            --
            7-7
            8:hit
            9-9
            (2 matches in 1 file)
        "]]
        .assert_eq(&found);
    }

    #[tokio::test]
    async fn several_patterns_stand_each_with_its_own_matches() {
        let place = small();
        let args =
            json!({"pattern": "fn run", "patterns": ["a::", "nowhere", "a::"], "path": "src"});
        let found = call(&tool(&place), args).await.unwrap();
        expect![[r"
            # fn run
            src/a.rs
            1:fn run() {}
            (1 match in 1 file)
            # a::
            src/b.rs
            4:    a::run();
            (1 match in 1 file)
            # nowhere
            no matches in 2 files under `src`
        "]]
        .assert_eq(&found.text);
        let line = "1 match in 1 file; 1 match in 1 file; no matches".to_owned();
        assert_eq!(found.detail, Detail::Summary { line });
        assert!(found.evidence.is_some());
        let one = text(&tool(&place), json!({"patterns": ["fn run"]})).await;
        assert_eq!(one, text(&tool(&place), json!({"pattern": "fn run"})).await);
    }

    #[tokio::test]
    async fn a_flood_of_matches_of_one_pattern_leaves_room_for_the_others() {
        let place = Place::with(&[("flood", "x\n".repeat(5000).as_str()), ("drop", "y\n")]);
        let tool = GrepFile::new(Arc::clone(&place.workspace), 4096);
        let args = json!({"patterns": ["x", "y", "x|z"], "max_matches": 5000});
        let found = text(&tool, args).await;
        assert!(found.len() <= 4096, "{}", found.len());
        assert!(found.contains("# y\ndrop\n1:y\n(1 match in 1 file)\n"), "{found}");
        assert_eq!(found.matches("search for this pattern alone").count(), 2, "{found}");
        let (first, last) = (found.find("# y").unwrap(), found.find("# x|z").unwrap());
        assert!(first.abs_diff(found.len() - last) < 200, "about as much for each: {found}");
    }

    #[tokio::test]
    async fn what_is_wrong_with_one_pattern_does_not_keep_the_others_from_their_matches() {
        let place = small();
        let found = text(&tool(&place), json!({"patterns": ["fn run", "(("]})).await;
        assert!(found.starts_with("# fn run\nsrc/a.rs\n1:fn run() {}\n"), "{found}");
        assert!(found.contains("# ((\n") && found.contains("not a valid regex"), "{found}");
        for args in [
            json!({}),
            json!({"patterns": []}),
            json!({"patterns": ["a", "b", "c", "d", "e", "f", "g", "h", "i"]}),
        ] {
            assert!(call(&tool(&place), args.clone()).await.is_err(), "{args}");
        }
    }

    #[tokio::test]
    async fn files_and_counts_alone() {
        let place = small();
        let files = text(&tool(&place), json!({"pattern": "fn", "mode": "files"})).await;
        assert_eq!(files, ".hidden.md\nsrc/a.rs\nsrc/b.rs\n(3 files)\n");
        let counts = text(&tool(&place), json!({"pattern": "fn", "mode": "count"})).await;
        assert_eq!(counts, ".hidden.md:1\nsrc/a.rs:2\nsrc/b.rs:1\n(4 matches in 3 files)\n");
    }

    #[tokio::test]
    async fn a_glob_chooses_files() {
        let place = small();
        let grep = async |glob: &str| {
            let args = json!({"pattern": "fn", "mode": "files", "glob": glob});
            text(&tool(&place), args).await
        };
        assert_eq!(grep("*.md").await, ".hidden.md\n(1 file)\n");
        assert_eq!(grep("./src/*.rs").await, "src/a.rs\nsrc/b.rs\n(2 files)\n");
        assert_eq!(grep("!src/**").await, ".hidden.md\n(1 file)\n");
        assert_eq!(grep("*.py").await, "no matches in 0 files under `.` that fit the glob `*.py`");
        assert!(grep("a[").await.contains("bad arguments for `grep_file`: `glob`:"));
    }

    #[tokio::test]
    async fn what_does_not_fit_is_counted_by_file() {
        let place = Place::with(&[
            ("a", &"x\n".repeat(7)),
            ("b", &"x\n".repeat(7)),
            ("c", &"x\n".repeat(7)),
        ]);
        let found = text(&tool(&place), json!({"pattern": "x", "max_matches": 9})).await;
        assert!(found.contains("b\n1:x\n2:x\n… 12 more matches: b 5, c 7\n"), "{found}");
        assert!(found.ends_with("(21 matches in 3 files)\n"), "{found}");
    }

    #[tokio::test]
    async fn a_flood_of_matches_stays_within_the_budget() {
        let place = Place::with(&[]);
        for n in 0..300 {
            let name = format!("{}/{n:03}", "long".repeat(20));
            place.put(&name, format!("needle {}\n", "é".repeat(400)).repeat(20));
        }
        for mode in ["content", "files", "count"] {
            let args =
                json!({"pattern": "needle", "mode": mode, "context": 3, "max_matches": 9999});
            let found = text(&tool(&place), args).await;
            assert!(found.len() < 16 * 1024 + 512, "{mode}: {}", found.len());
            assert!(found.len() > 12 * 1024, "{mode}: {}", found.len());
            assert!(found.contains("… "), "{mode}");
            assert!(found.ends_with("300 files)\n"), "{mode}");
        }
    }

    #[tokio::test]
    async fn a_long_line_is_cut_round_its_match() {
        let line = format!("{}needle{}", "é".repeat(5000), "ü".repeat(5000));
        let place = Place::with(&[("min.js", &line)]);
        let found = text(&tool(&place), json!({"pattern": "needle"})).await;
        let shown = found.lines().nth(1).unwrap();
        assert!(shown.starts_with("1:…é") && shown.contains("éneedleü") && shown.ends_with("ü…"));
        assert!(shown.len() < 320, "{}", shown.len());
    }

    #[tokio::test]
    async fn nothing_found_tries_what_was_probably_meant() {
        let place = Place::with(&[("a", "let v: Vec<u8> = f(x);\nREADME\n")]);
        let grep = async |pattern: &str| text(&tool(&place), json!({"pattern": pattern})).await;
        let as_meant = "(nothing as asked; found when case is ignored or as plain text)\n";
        assert_eq!(grep("readme").await, format!("{as_meant}a\n2:README\n(1 match in 1 file)\n"));
        assert!(grep("f(x)").await.starts_with(&format!("{as_meant}a\n1:let")));
        assert!(grep("f(").await.starts_with("(not a valid regex; found as plain text)\na\n1:let"));
        assert_eq!(grep("absent").await, "no matches in 1 file under `.`");
        assert_eq!(
            grep("absent(").await,
            "bad arguments for `grep_file`: `pattern` is not a valid regex (unclosed group); \
             `literal: true` takes it as plain text"
        );
        assert!(grep("").await.contains("`pattern` is empty"));
        let literal = json!({"pattern": "f(x)", "literal": true});
        assert!(text(&tool(&place), literal).await.starts_with("a\n1:let"));
    }

    #[tokio::test]
    async fn a_pattern_that_would_fill_the_memory_is_refused() {
        let place = small();
        let found = text(&tool(&place), json!({"pattern": r"(?:\pL{300}){300}x"})).await;
        assert!(found.contains("is not a valid regex (compiled regex exceeds"), "{found}");
        // What people write fits.
        let wide = json!({"pattern": r"\b(?:\w{1,40}\s+){1,8}main\b", "context": u64::MAX});
        let found = text(&tool(&place), wide).await;
        assert!(found.contains("3:fn main() {"), "{found}");
    }

    #[tokio::test]
    async fn a_pattern_may_span_lines() {
        let place = Place::with(&[("a", "one\ntwo\nthree\n")]);
        let found = text(&tool(&place), json!({"pattern": r"one\ntw."})).await;
        assert_eq!(found, "a\n1:one\n2:two\n(1 match in 1 file)\n");
        let return_only = text(&tool(&place), json!({"pattern": r"\r$"})).await;
        assert_eq!(return_only, "no matches in 1 file under `.`");
        let anchored = text(&tool(&place), json!({"pattern": "^two$"})).await;
        assert_eq!(anchored, "a\n2:two\n(1 match in 1 file)\n");
    }

    #[tokio::test]
    async fn line_ends_and_encodings_do_not_hide_a_match() {
        let place = Place::with(&[]);
        place.put("crlf", "one\r\ntwo\r\n");
        place.put("latin", b"caf\xe9 two\n");
        place.put("wide", b"\xff\xfet\0w\0o\0\n\0");
        let found = text(&tool(&place), json!({"pattern": "two$"})).await;
        expect![["
            crlf
            2:two
            latin
            1:caf\u{fffd} two
            wide
            1:two
            (3 matches in 3 files)
        "]]
        .assert_eq(&found);
    }

    #[tokio::test]
    async fn a_way_out_is_refused_and_a_wrong_name_answered() {
        let place = small();
        std::fs::write(place.outside().join("secret"), "fn").unwrap();
        symlink(place.outside(), place.root().join("out")).unwrap();
        let grep =
            async |path: &str| text(&tool(&place), json!({"pattern": "fn", "path": path})).await;
        assert!(grep("out").await.starts_with("refused: "));
        assert!(grep("out/secret").await.starts_with("refused: "));
        assert!(grep("..").await.starts_with("refused: "));
        assert_eq!(
            grep("src/c.rs").await,
            "there is no `src/c.rs`; did you mean `src/a.rs`, `src/b.rs`?"
        );
        assert!(!grep(".").await.contains("secret"));
    }

    #[test]
    fn a_cancelled_search_reads_nothing_more() {
        let place = small();
        let asked: Asked = serde_json::from_value(json!({"pattern": "fn"})).unwrap();
        let args = asked.searches().unwrap().remove(0);
        let path = place.workspace.resolve(".").unwrap();
        let globs = globs(place.workspace.root(), None).unwrap();
        let cancel = CancellationToken::new();
        let calls = [args];
        assert!(grep(&calls, &path, &globs, 4096, &cancel).is_ok());
        cancel.cancel();
        let ended = grep(&calls, &path, &globs, 4096, &cancel);
        assert!(matches!(ended, Err(ToolError::Cancelled { .. })), "{ended:?}");
        // The middle of a long file is no better place to go on.
        let file = File::open(place.root().join("src/a.rs")).unwrap();
        let mut reader = Stoppable { file: &file, cancel: &cancel };
        assert!(reader.read(&mut [0; 8]).is_err());
    }

    /// Files of all the kinds that are read differently.
    fn odd() -> Place {
        let place = small();
        place.put("src/crlf.txt", "one\r\ntwo fn\r\n\r\nTWO\r\n");
        place.put("src/wide.txt", b"\xff\xfef\0n\0 \0t\0w\0o\0\n\0");
        place.put("src/mark.txt", "\u{feff}fn two\n");
        place.put("src/latin.txt", b"caf\xe9 two\nfn\n");
        place.put("src/binary", b"fn two\0\n");
        place.put("src/empty", "");
        place.put("src/open", "no end\n\n  f(x) + a)b\nlast fn");
        place
    }

    fn calls() -> impl Strategy<Value = Vec<Value>> {
        let pattern = prop::sample::select(vec![
            "fn",
            "two",
            "Two",
            "absent",
            "",
            "f(",
            "f(x)",
            "fn (",
            "^$",
            "$",
            "x*",
            r"\bfn \w+\(",
            r"\Afn",
            r"two\z",
            "(?i)TWO",
            "(?x)f n # c",
            "a)|(two",
            "fn)(?i)(TWO",
            "fn)(?x)( ",
            "(?P<a>one)",
            "(?P<a>two)",
            r"one\r\ntwo",
            r"one\ntwo",
            r"\r$",
            "one$",
            "[^a]",
            r"(?s).\n",
            r"\s+two",
            "(?-m)^one",
            "caf.",
            "TWO|absent",
            r"a\)b",
            "last",
        ]);
        let call = (
            pattern,
            prop::option::of(0..3_usize),
            any::<bool>(),
            prop::sample::select(vec!["content", "files", "count"]),
            prop::option::of(0..4_usize),
            prop::bool::weighted(0.3),
        );
        let call = call.prop_map(|(pattern, context, case_insensitive, mode, max, literal)| {
            json!({
                "pattern": pattern, "context": context, "case_insensitive": case_insensitive,
                "mode": mode, "max_matches": max, "literal": literal,
            })
        });
        prop::collection::vec(call, 1..7)
    }

    #[test]
    fn each_call_of_a_batch_gives_what_it_gives_alone() {
        let place = odd();
        let tool = GrepFile::new(Arc::clone(&place.workspace), 1400);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut runner = TestRunner::new(Config { cases: 64, ..Config::default() });
        let path = (prop::sample::select(vec![".", "src", "src/open", "gone"]), "(\\*\\.txt)?");
        let tried = runner.run(&(calls(), path), |(mut calls, (path, glob))| {
            for call in &mut calls {
                call["path"] = json!(path);
                call["glob"] = json!(glob);
            }
            runtime.block_on(same_as_alone(&tool, &calls));
            Ok(())
        });
        tried.unwrap();
    }

    #[tokio::test]
    async fn a_batch_reads_long_files_and_calls_of_another_batch_too() {
        let place = small();
        let tool = tool(&place);
        let long = format!("{}fn end\n", "some line\n".repeat(120_000));
        place.put("src/long", &long);
        place.put("src/long.bin", long.replace("end", "\0"));
        let here = json!({"pattern": "fn", "mode": "count"});
        let calls = [
            here.clone(),
            json!({"pattern": r"line\nfn"}),
            json!({"pattern": "end", "context": 1}),
            json!({"pattern": "absent"}),
        ];
        same_as_alone(&tool, &calls).await;
        // A flag that would hold for what stands behind it.
        let leaking = [json!({"pattern": "absent)(?x)(y"}), json!({"pattern": "the fn"})];
        same_as_alone(&tool, &leaking).await;
        let elsewhere = json!({"pattern": "fn", "path": "src/a.rs"});
        same_as_alone(&tool, &[here, elsewhere, json!({"pattern": 1})]).await;
        assert!(tool.call_batch(&[], &context()).await.is_empty());
    }

    #[test]
    fn what_determines_the_files_determines_the_batch() {
        let place = small();
        let tool = tool(&place);
        let batch = |args: Value| tool.batch(&args);
        let src = batch(json!({"pattern": "a", "path": "src", "glob": "*.rs"}));
        let same = json!({"pattern": "b", "path": "./src/", "glob": "*.rs", "mode": "count"});
        assert!(src.is_some() && src == batch(same));
        assert_ne!(src, batch(json!({"pattern": "a", "path": "src"})));
        assert_ne!(src, batch(json!({"pattern": "a", "glob": "*.rs"})));
        for bad in [json!({}), json!({"pattern": "a", "path": "../x"})] {
            assert_eq!(batch(bad), None);
        }
    }

    #[tokio::test]
    async fn the_schema_offers_what_the_arguments_take() {
        let place = small();
        let offered = tool(&place).spec().parameters["properties"].clone();
        expect![[r#"{"case_insensitive":{"type":"boolean"},"context":{"description":"Lines around","minimum":0,"type":"integer"},"glob":{"description":"Such as `*.rs` or `!tests/**`","type":"string"},"literal":{"description":"Plain text","type":"boolean"},"max_matches":{"description":"Default 100","minimum":0,"type":"integer"},"mode":{"enum":["content","files","count"],"type":"string"},"path":{"description":"File or folder","type":"string"},"pattern":{"description":"Rust regex","type":"string"},"patterns":{"description":"Several at once","items":{"type":"string"},"type":"array"}}"#]].assert_eq(&offered.to_string());
    }
}
