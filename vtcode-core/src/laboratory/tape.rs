//! A recorded session as a tape: what the model said and asked for, how long it took, and what each
//! call gave. Made from a line of the corpus, whose texts are lost and are made up in their size, or
//! from a journal of ours, which has them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::acts::{Act, mention};
use super::corpus::{Call, Session, Step};
use crate::core::event::{Event, EventKind};
use crate::core::optimized_agent::predict::{Source, Span};
use crate::llm::message::{Part, ToolCall};
use crate::tools::tool::Detail;

/// A session to be played.
#[derive(Debug, Clone, PartialEq)]
pub struct Tape {
    /// The session's id.
    pub id: String,
    /// What it worked on, if the record says.
    pub repo: String,
    pub(super) prompts: Vec<Prompt>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prompt {
    pub(super) text: String,
    pub(super) answers: Vec<Answer>,
}

/// One answer of the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) thinks: Duration,
    pub(super) words: String,
    pub(super) output_tokens: u64,
    pub(super) calls: Vec<Taped>,
    /// It is not in the record: a prompt that was left in its middle ends with it.
    pub(super) added: bool,
}

/// One call and what it gave.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Taped {
    pub(super) tool: &'static str,
    pub(super) args: Value,
    pub(super) ran: Duration,
    pub(super) text: String,
    pub(super) is_error: bool,
    pub(super) read_only: bool,
    /// Files it changed.
    pub(super) changes: Vec<String>,
    /// Files it asked for, if it asked for nothing else.
    pub(super) reads: Vec<(String, Span)>,
    /// The same call later gave the same, so that its result could have been kept.
    pub(super) lasts: bool,
}

/// The tools of a tape. What has no place among ours is `other`.
pub(super) const TOOLS: [&str; 7] =
    ["read_file", "grep_file", "list_files", "edit_file", "apply_patch", "run_command", "other"];

/// Why a file is no recorded session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapeError {
    /// A record of the journal cannot be read.
    #[error("line {line} is no record of a session's journal: {what}")]
    Journal {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The session has nothing to be played.
    #[error("the session holds no answer of a model")]
    Empty,
}

impl Tape {
    /// Makes a tape of a session of the corpus. One with neither answers nor calls gives an empty
    /// tape.
    pub fn of_session(session: &Session) -> Self {
        let mut tape = Self {
            id: session.session_id.clone(),
            repo: session.repo.clone(),
            prompts: Vec::new(),
        };
        for step in &session.steps {
            match step {
                Step::User { bytes, paths } => {
                    let text = filled(paths, *bytes, "prompt");
                    tape.prompts.push(Prompt { text, answers: Vec::new() });
                }
                Step::Llm { llm_ms, out_tokens, paths } => {
                    let answers = tape.answers();
                    // An answer without calls would end the prompt; more follows in this one.
                    if answers.last().is_none_or(|last| !last.calls.is_empty()) {
                        answers.push(Answer::default());
                    }
                    let answer = answers.last_mut().expect("there is one now");
                    answer.thinks += Duration::from_millis(llm_ms.unwrap_or(0));
                    answer.output_tokens += out_tokens.unwrap_or(0);
                    for path in paths {
                        let _ = write!(answer.words, "{path} ");
                    }
                }
                Step::Tool { calls } => {
                    let answers = tape.answers();
                    if answers.is_empty() {
                        answers.push(Answer::default());
                    }
                    let answer = answers.last_mut().expect("there is one now");
                    answer.calls.extend(calls.iter().map(Taped::of_call));
                }
            }
        }
        note_what_lasts(&mut tape, session);
        tape.end()
    }

    /// Makes a tape of a session's journal, one event a line as JSON. Fails when a line is no
    /// event, other than a torn last one, or when no request was sent.
    pub fn of_journal(text: &str) -> Result<Self, TapeError> {
        let mut tape = Self { id: String::new(), repo: String::new(), prompts: Vec::new() };
        let mut sent = Duration::ZERO;
        let mut places: HashMap<String, (usize, usize)> = HashMap::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let event: Event = match serde_json::from_str(line) {
                Ok(event) => event,
                // A torn last line is what a process leaves that died.
                Err(_) if text.lines().count() == at + 1 && at > 0 => break,
                Err(error) => {
                    return Err(TapeError::Journal { line: at + 1, what: error.to_string() });
                }
            };
            match event.kind {
                EventKind::SessionStarted(header) => {
                    tape.id = header.session_id;
                    tape.repo = header.cwd.display().to_string();
                }
                EventKind::PromptStarted { text, .. } => {
                    tape.prompts.push(Prompt { text, answers: Vec::new() });
                }
                EventKind::RequestSent { .. } => {
                    sent = event.at;
                    tape.answers().push(Answer::default());
                    places.clear();
                }
                EventKind::Part { part } => {
                    let answers = tape.answers();
                    let Some(answer) = answers.last_mut() else { continue };
                    match part {
                        Part::Text { text } => answer.words.push_str(&text),
                        Part::ToolCall(call) => {
                            places.insert(call.id.clone(), (0, answer.calls.len()));
                            answer.calls.push(Taped::of_tool_call(&call));
                        }
                        Part::Reasoning { .. } => {}
                    }
                    answer.thinks = event.at.saturating_sub(sent);
                }
                EventKind::ResponseEnded { usage, .. } => {
                    if let Some(answer) = tape.answers().last_mut() {
                        answer.thinks = event.at.saturating_sub(sent);
                        answer.output_tokens = usage.output_tokens;
                    }
                }
                EventKind::ToolFinished { call_id, text, is_error, detail, ran, .. } => {
                    let Some((_, nth)) = places.get(&call_id) else { continue };
                    let Some(answer) = tape.answers().last_mut() else { continue };
                    let call = &mut answer.calls[*nth];
                    (call.text, call.is_error, call.ran) = (text, is_error, ran);
                    if let Detail::Files { changes } = detail {
                        call.changes = changes.into_iter().map(|change| change.path).collect();
                    }
                }
                _ => {}
            }
        }
        if tape.prompts.iter().all(|prompt| prompt.answers.is_empty()) {
            return Err(TapeError::Empty);
        }
        Ok(tape.end())
    }

    fn answers(&mut self) -> &mut Vec<Answer> {
        if self.prompts.is_empty() {
            self.prompts.push(Prompt { text: "go on".to_owned(), answers: Vec::new() });
        }
        &mut self.prompts.last_mut().expect("there is one now").answers
    }

    /// Ends each prompt with an answer without calls, as the engine needs it.
    fn end(mut self) -> Self {
        self.prompts.retain(|prompt| !prompt.answers.is_empty());
        for prompt in &mut self.prompts {
            for answer in &mut prompt.answers {
                if answer.calls.is_empty() && answer.words.trim().is_empty() {
                    "…".clone_into(&mut answer.words);
                }
            }
            if prompt.answers.last().is_some_and(|answer| !answer.calls.is_empty()) {
                let words = "…".to_owned();
                prompt.answers.push(Answer { words, added: true, ..Answer::default() });
            }
        }
        self
    }
}

impl Taped {
    fn of_call(call: &Call) -> Self {
        let Act { source, reads, searches } = Act::of(call);
        let text = |names: &[&str]| names.iter().find_map(|name| call.args.get(name)?.as_str());
        let (tool, args) = match source {
            Source::Text if !reads.is_empty() && text(&["cmd", "command"]).is_none() => {
                let (path, span) = &reads[0];
                let args = match span {
                    Span::Whole => json!({"path": path}),
                    Span::Lines { first, last: u32::MAX } => json!({"path": path, "start": first}),
                    Span::Lines { first, last } => {
                        json!({"path": path, "start": first, "end": last})
                    }
                };
                ("read_file", args)
            }
            Source::Edit if call.files.len() == 1 => {
                ("edit_file", json!({"path": call.files[0], "call": digest(&call.args)}))
            }
            Source::Edit => {
                let mut patch = String::new();
                for file in &call.files {
                    let _ = writeln!(patch, "*** Update File: {file}");
                }
                ("apply_patch", json!({"patch": patch, "call": digest(&call.args)}))
            }
            Source::Search if text(&["cmd", "command"]).is_none() => {
                ("grep_file", json!({"call": digest(&call.args)}))
            }
            Source::List if text(&["cmd", "command"]).is_none() => {
                ("list_files", json!({"call": digest(&call.args)}))
            }
            _ => match text(&["cmd", "command"]) {
                Some(command) => ("run_command", json!({"command": command})),
                None => ("other", json!({"tool": call.name, "call": digest(&call.args)})),
            },
        };
        let paths: Vec<String> =
            searches.into_iter().chain(call.result_paths.iter().cloned()).collect();
        Self {
            tool,
            args,
            ran: call.ran(),
            text: filled(&paths, call.result_bytes.unwrap_or(0), "result"),
            is_error: call.error,
            read_only: call.read_only,
            changes: call.files.clone(),
            reads,
            lasts: false,
        }
    }

    fn of_tool_call(call: &ToolCall) -> Self {
        let tool = TOOLS.into_iter().find(|tool| *tool == call.name).unwrap_or("other");
        let args: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        let read_only = matches!(tool, "read_file" | "grep_file" | "list_files");
        let reads = if tool == "read_file" { read_ranges(&args) } else { Vec::new() };
        let args = if tool == "other" { json!({"tool": call.name, "call": args}) } else { args };
        Self {
            tool,
            args,
            ran: Duration::ZERO,
            text: "interrupted".to_owned(),
            is_error: false,
            read_only,
            changes: Vec::new(),
            reads,
            lasts: false,
        }
    }
}

/// Returns the files that arguments of `read_file` ask for.
fn read_ranges(args: &Value) -> Vec<(String, Span)> {
    let one = |args: &Value| {
        let number = |name: &str| args.get(name).and_then(Value::as_u64).map(|n| n as u32);
        let span = match (number("start"), number("end")) {
            (None | Some(0 | 1), None) => Span::Whole,
            (first, last) => {
                Span::Lines { first: first.unwrap_or(1), last: last.unwrap_or(u32::MAX) }
            }
        };
        Some((args.get("path")?.as_str()?.to_owned(), span))
    };
    let several = args.get("files").and_then(Value::as_array).map(Vec::as_slice);
    one(args).into_iter().chain(several.unwrap_or_default().iter().filter_map(one)).collect()
}

/// Marks each result that the same call, asked again with nothing written between, gave once more:
/// a cache that looks whether files changed may serve it.
fn note_what_lasts(tape: &mut Tape, session: &Session) {
    let recorded = session.steps.iter().filter_map(|step| match step {
        Step::Tool { calls } => Some(calls),
        _ => None,
    });
    let mut taped: Vec<&mut Taped> = tape
        .prompts
        .iter_mut()
        .flat_map(|prompt| &mut prompt.answers)
        .flat_map(|answer| &mut answer.calls)
        .collect();
    let mut last: HashMap<String, (usize, Option<&str>)> = HashMap::new();
    for (at, call) in recorded.flatten().enumerate() {
        if !call.read_only {
            last.clear();
            continue;
        }
        let sha = call.result_sha.as_deref();
        if let Some((before, same)) = last.insert(key(call), (at, sha))
            && sha.is_some()
            && same == sha
            && before < taped.len()
        {
            taped[before].lasts = true;
        }
    }
}

fn key(call: &Call) -> String {
    format!("{} {}", call.name, call.args)
}

/// Names arguments by what they are, in few letters.
fn digest(args: &Value) -> String {
    blake3::hash(args.to_string().as_bytes()).to_hex()[..12].to_owned()
}

/// Makes a text of this size that names these paths.
fn filled(paths: &[String], bytes: u64, what: &str) -> String {
    let mut text = String::new();
    for path in paths {
        let named = mention(path);
        match named.line {
            Some(line) => {
                let _ = writeln!(text, "{}:{line}:", named.path);
            }
            None => {
                let _ = writeln!(text, "{}", named.path);
            }
        }
    }
    let missing = (bytes as usize).saturating_sub(text.len());
    let line = format!("text of a {what}\n");
    text.extend(std::iter::repeat_n(line.as_str(), missing / line.len()));
    if text.trim().is_empty() {
        text.push_str(what);
    }
    text
}
