//! Guesses which file the model reads next: what it asked for and what it was told go in, paths with
//! a probability come out. An additive model over hints, whose weights stand in one table.
//! Touches no disk, takes no lock, and leaves it to others whether a guess is worth its tokens.

use std::collections::HashMap;

mod features;
pub(crate) mod mentions;
pub mod weights;
pub mod worth;

use features::Setting;
use weights::{Feature, Weights};

/// A path that stands in a text, and the line that stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mention<'a> {
    /// Relative to the workspace.
    pub path: &'a str,
    /// The line, from 1.
    pub line: Option<u32>,
}

/// Where a path was mentioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The user's prompt.
    Prompt,
    /// The model's own words.
    Words,
    /// The result of a search.
    Search,
    /// A listing of files.
    List,
    /// What git printed.
    Git,
    /// What a compiler, a linter or a test printed.
    Check,
    /// A file that was read.
    Text,
    /// What changed a file.
    Edit,
    /// What another command printed.
    Command,
}

/// Which part of a file was read or attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// All of it.
    Whole,
    /// These lines, from 1, both included.
    Lines {
        /// The first.
        first: u32,
        /// The last; `u32::MAX` when it goes to the end.
        last: u32,
    },
}

/// A file that may be read next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guess<'a> {
    /// The file, as it was mentioned.
    pub path: &'a str,
    /// The line that its latest mention names.
    pub line: Option<u32>,
    /// What of it was read last, if the file is unchanged since.
    pub read: Option<Span>,
    /// Whether this very step reads or changes it, so that its results show it.
    pub shown_now: bool,
    /// How likely the next step reads it, from 0 to 1.
    pub probability: f32,
}

/// Paths of one result that are taken in; a longer listing says little of each.
const MENTIONS_TAKEN: usize = 24;
/// Files that are guessed among: those touched last.
const ACTIVE: usize = 64;
/// Files that are remembered; a session that touches more forgets those it touched first.
const REMEMBERED: usize = 4096;

/// What one session did and was told, as far as it says what is read next.
#[derive(Debug)]
pub struct Predictor {
    files: Vec<File>,
    by_path: HashMap<Box<str>, usize>,
    /// Files by their last component, so that `name.rs` finds `src/name.rs`.
    by_name: HashMap<Box<str>, Vec<usize>>,
    /// The files touched last, the latest at the end.
    active: Vec<usize>,
    setting: Setting,
    weights: Weights,
}

/// A file that was mentioned, read or edited.
#[derive(Debug)]
struct File {
    path: Box<str>,
    class: Feature,
    mentioned: Option<Mentioned>,
    mentions: u32,
    in_prompt: bool,
    read: Option<Read>,
    reads: u32,
    edited_step: Option<u32>,
    edits: u32,
    /// Attached, and not changed since.
    attached: Option<Span>,
}

/// The latest mention of a file.
#[derive(Debug, Clone, Copy)]
struct Mentioned {
    step: u32,
    source: Source,
    line: Option<u32>,
    /// Its place among the paths of the text, from 0.
    rank: u32,
    /// How many paths the text names.
    of: u32,
}

/// The latest read of a file.
#[derive(Debug, Clone, Copy)]
struct Read {
    step: u32,
    span: Span,
}

impl Source {
    /// Returns what kind of text a command line prints, by its first command.
    pub fn of_command(line: &str) -> Self {
        let parts = line.split(['\n', ';', '|']).flat_map(|part| part.split("&&"));
        let mut commands = parts.map(|part| {
            let mut words = part.split_whitespace();
            (words.next().unwrap_or_default(), words.next().unwrap_or_default())
        });
        let passing = |(name, _): &(&str, &str)| matches!(*name, "" | "cd" | "echo" | "pwd");
        let Some((name, verb)) = commands.find(|command| !passing(command)) else {
            return Self::Command;
        };
        match (name, verb) {
            ("git" | "gh", _) => Self::Git,
            ("grep" | "rg" | "ag" | "egrep", _) => Self::Search,
            ("ls" | "find" | "fd" | "tree", _) => Self::List,
            ("cat" | "nl" | "head" | "tail" | "sed" | "bat" | "less", _) => Self::Text,
            (
                "cargo" | "go" | "npm" | "pnpm" | "yarn" | "bun" | "make" | "mvn" | "gradle"
                | "pytest" | "tox" | "ruff" | "mypy" | "tsc" | "eslint" | "jest" | "vitest"
                | "python" | "python3" | "npx" | "bunx" | "uv" | "dotnet" | "swift",
                _,
            ) if !matches!(verb, "add" | "install" | "i" | "publish") => Self::Check,
            _ => Self::Command,
        }
    }
}

impl File {
    /// Returns what was read of it last, if it is unchanged since.
    fn seen(&self) -> Option<Span> {
        let read = self.read?;
        self.edited_step.is_none_or(|edited| edited < read.step).then_some(read.span)
    }
}

impl Default for Predictor {
    fn default() -> Self {
        Self::with_weights(Weights::shipped())
    }
}

impl Predictor {
    /// Returns a predictor that knows nothing of a session yet and weighs hints like this.
    pub fn with_weights(weights: Weights) -> Self {
        Self {
            files: Vec::new(),
            by_path: HashMap::new(),
            by_name: HashMap::new(),
            active: Vec::with_capacity(ACTIVE + 1),
            setting: Setting::default(),
            weights,
        }
    }

    /// A prompt that names these paths begins.
    pub fn prompt<'a>(&mut self, mentions: impl IntoIterator<Item = Mention<'a>>) {
        self.setting.prompt();
        self.mention(Source::Prompt, mentions);
    }

    /// The model begins a step: an answer and the results of its calls.
    pub fn step(&mut self) {
        self.setting.next();
    }

    /// The model's words name these paths.
    pub fn words<'a>(&mut self, mentions: impl IntoIterator<Item = Mention<'a>>) {
        self.mention(Source::Words, mentions);
    }

    /// A call reads a file.
    pub fn read(&mut self, path: &str, span: Span) {
        self.make_room();
        let Some(id) = self.file(path) else { return };
        let step = self.setting.step;
        let file = &mut self.files[id];
        file.read = Some(Read { step, span });
        file.reads += 1;
        self.setting.read = Some(id);
        self.touch(id);
    }

    /// A call changed a file: what was attached of it is out of date.
    pub fn edited(&mut self, path: &str) {
        self.make_room();
        let Some(id) = self.file(path) else { return };
        let file = &mut self.files[id];
        file.edited_step = Some(self.setting.step);
        file.edits += 1;
        file.attached = None;
        self.setting.edited = Some(id);
        self.touch(id);
    }

    /// Anything may have changed: nothing that was attached counts any more.
    pub fn all_may_have_changed(&mut self) {
        for file in &mut self.files {
            file.attached = None;
        }
    }

    /// A call gave its result, which names these paths.
    pub fn told<'a>(
        &mut self,
        source: Source,
        failed: bool,
        mentions: impl IntoIterator<Item = Mention<'a>>,
    ) {
        self.setting.told(source, failed);
        self.mention(source, mentions);
    }

    /// A file was attached to a result.
    pub fn attached(&mut self, path: &str, span: Span) {
        self.make_room();
        if let Some(id) = self.file(path) {
            self.files[id].attached = Some(span);
        }
    }

    /// Returns what of a file is attached and still as it is on the disk.
    pub fn holds(&self, path: &str) -> Option<Span> {
        let path = plain(path)?;
        self.by_path.get(path).and_then(|&id| self.files[id].attached)
    }

    /// Returns the files that the next step may read, the likeliest first, at most so many. Files
    /// that are attached already are not among them.
    // bench: predict, a session of 2000 paths
    pub fn guesses(&self, most: usize) -> Vec<Guess<'_>> {
        let mut guesses: Vec<Guess<'_>> = Vec::with_capacity(self.active.len());
        for &id in &self.active {
            let file = &self.files[id];
            if file.attached.is_some() {
                continue;
            }
            let mut logit = 0f32;
            self.features(id, |feature| logit += self.weights[feature]);
            guesses.push(Guess {
                path: &file.path,
                line: file.mentioned.and_then(|mentioned| mentioned.line),
                read: file.seen(),
                shown_now: file.read.map(|read| read.step) == Some(self.setting.step)
                    || file.edited_step == Some(self.setting.step),
                probability: 1.0 / (1.0 + (-logit).exp()),
            });
        }
        // Ties stand in the order touched, the latest first: the same on every machine.
        guesses.reverse();
        guesses.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        guesses.truncate(most);
        guesses
    }

    /// Gives every file that may be guessed, with what speaks for it. For training.
    pub fn candidates(&self, mut each: impl FnMut(&str, &[Feature])) {
        let mut features = Vec::with_capacity(32);
        for &id in &self.active {
            if self.files[id].attached.is_none() {
                features.clear();
                self.features(id, |feature| features.push(feature));
                each(&self.files[id].path, &features);
            }
        }
    }

    fn mention<'a>(&mut self, source: Source, mentions: impl IntoIterator<Item = Mention<'a>>) {
        self.make_room();
        let mut ids: Vec<(usize, Option<u32>)> = Vec::new();
        for mention in mentions.into_iter().take(MENTIONS_TAKEN) {
            let path = if source == Source::Git { unprefixed(mention.path) } else { mention.path };
            let Some(id) = self.file(path) else { continue };
            if !ids.iter().any(|(known, _)| *known == id) {
                ids.push((id, mention.line));
            }
        }
        let of = ids.len() as u32;
        // The first is touched last, so that it stays longest.
        for (rank, (id, line)) in ids.into_iter().enumerate().rev() {
            let file = &mut self.files[id];
            let rank = rank as u32;
            file.mentioned = Some(Mentioned { step: self.setting.step, source, line, rank, of });
            file.mentions += 1;
            file.in_prompt |= source == Source::Prompt;
            self.touch(id);
        }
    }

    /// Returns the place of a file, which is made if there is none.
    fn file(&mut self, path: &str) -> Option<usize> {
        let path = plain(path)?;
        if let Some(&id) = self.by_path.get(path) {
            return Some(id);
        }
        let name = name_of(path);
        if let Some(ids) = self.by_name.get(name) {
            // A part of a path that is known means that path: the one touched last.
            let whole = |id: &&usize| {
                self.files[**id].path.strip_suffix(path).is_some_and(|dir| dir.ends_with('/'))
            };
            if let Some(&id) = ids.iter().rev().find(whole) {
                return Some(id);
            }
        }
        let id = self.files.len();
        self.files.push(File {
            path: path.into(),
            class: features::class_of(path),
            mentioned: None,
            mentions: 0,
            in_prompt: false,
            read: None,
            reads: 0,
            edited_step: None,
            edits: 0,
            attached: None,
        });
        self.by_path.insert(path.into(), id);
        self.by_name.entry(name.into()).or_default().push(id);
        Some(id)
    }

    /// Makes room for what one text may name, before any place is looked up: places change with it.
    /// Keeps the active files alone; what else was touched is older than all of them.
    fn make_room(&mut self) {
        if self.files.len() + MENTIONS_TAKEN <= REMEMBERED {
            return;
        }
        let active = std::mem::take(&mut self.active);
        let place = |id: usize| active.iter().position(|&kept| kept == id);
        self.setting.read = self.setting.read.and_then(place);
        self.setting.edited = self.setting.edited.and_then(place);
        let mut files: Vec<Option<File>> =
            std::mem::take(&mut self.files).into_iter().map(Some).collect();
        self.files = active.iter().filter_map(|&id| files[id].take()).collect();
        self.active = (0..self.files.len()).collect();
        (self.by_path, self.by_name) = (HashMap::new(), HashMap::new());
        for (id, file) in self.files.iter().enumerate() {
            self.by_path.insert(file.path.clone(), id);
            self.by_name.entry(name_of(&file.path).into()).or_default().push(id);
        }
    }

    fn touch(&mut self, id: usize) {
        if let Some(at) = self.active.iter().rposition(|&other| other == id) {
            self.active.remove(at);
        } else if self.active.len() == ACTIVE {
            self.active.remove(0);
        }
        self.active.push(id);
    }
}

/// Returns a path as it is remembered; none for what cannot be a file of the workspace.
fn plain(path: &str) -> Option<&str> {
    let path = path.trim_start_matches("./");
    let outside = path.is_empty()
        || path.len() > 400
        || path.starts_with(['/', '~', '-', '$'])
        || path.ends_with('/')
        || path.contains("://")
        || path.contains(['*', '?', '<', '>', '|', '\n'])
        || path.split('/').any(|part| part == "..");
    (!outside).then_some(path)
}

/// Takes from a path what git puts before it in a diff.
fn unprefixed(path: &str) -> &str {
    path.strip_prefix("a/").or_else(|| path.strip_prefix("b/")).unwrap_or(path)
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests;
