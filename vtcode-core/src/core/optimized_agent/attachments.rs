//! Files that are attached to results before the model asks for them: what was asked and told goes
//! in, wishes come out, and of each attached file what became of it. Weighs every wish by what it
//! costs, and stops wishing in a session where too few are of use.
//! Reads nothing itself: the driver does, through the pipeline.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::predict::mentions::mentions;
use super::predict::worth::{Bounds, Standing, Worth, part};
use super::predict::{Guess, Predictor, Source, Span};
use crate::config::limits::AgentLimits;
use crate::core::event::AttachmentEnd;
use crate::llm::message::{Message, Part, ToolAnswer, ToolCall, tool_calls};

/// The tool that attached files are read with.
pub(super) const READ: &str = "read_file";

/// What stands before an attached file, so that the model knows what it looks at.
pub(super) const MARK: &str = "\n[vtcode attached, unasked: ";

/// Steps after which a file that was not used is counted as wasted.
const PATIENCE: u32 = 8;
/// How long a step takes before any was seen, and for how many steps that counts.
const USUAL_STEP: (f64, f64) = (6.0, 2.0);
/// What a step writes before any was seen.
const USUAL_OUTPUT: (f64, f64) = (150.0, 2.0);
/// The predictor's own word counts for so many attached files.
const PRIOR: f64 = 6.0;
/// The smallest file that is thought of.
const LEAST_TOKENS: u64 = 20;
/// Requests that will carry on what is attached now: as many as there were, within these.
const TO_COME: (u32, u32) = (10, 50);

/// What the session knows of attached files.
#[derive(Debug)]
pub(super) struct Attachments {
    predictor: Predictor,
    bounds: Bounds,
    limits: AgentLimits,
    /// Counts the model's answers, from 1.
    step: u32,
    /// The calls of the latest answer.
    calls: HashMap<String, ToolCall>,
    open: Vec<Open>,
    /// What could not be read.
    refused: HashSet<String>,
    /// Files used, and files whose end is known.
    used: f64,
    ended: f64,
    /// What the predictor said of these, added up.
    expected: f64,
    /// Tokens and number of the files attached.
    paid: (u64, u64),
    off: bool,
    asked_at: Option<Instant>,
    seconds: (f64, f64),
    output: (f64, f64),
}

/// An attached file whose use is not known yet.
#[derive(Debug)]
struct Open {
    path: String,
    tokens: u64,
    probability: f32,
    step: u32,
}

/// A file that may be worth attaching.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub(super) path: String,
    line: Option<u32>,
    read: Option<Span>,
    probability: f32,
}

/// A file worth attaching, or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wish {
    pub(super) path: String,
    pub(super) span: Span,
    pub(super) probability: f32,
}

/// What became of an attached file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settled {
    pub(super) path: String,
    pub(super) tokens: u64,
    pub(super) end: AttachmentEnd,
    pub(super) saved: Duration,
}

impl Attachments {
    /// Returns the state after a conversation.
    pub(super) fn after(messages: &[Message], limits: &AgentLimits) -> Self {
        let mut attachments = Self {
            predictor: Predictor::default(),
            bounds: Bounds::of(limits.attached_tokens),
            limits: limits.clone(),
            step: 0,
            calls: HashMap::new(),
            open: Vec::new(),
            refused: HashSet::new(),
            used: 0.0,
            ended: 0.0,
            expected: 0.0,
            paid: (0, 0),
            off: limits.attached_tokens == 0,
            asked_at: None,
            seconds: (USUAL_STEP.0 * USUAL_STEP.1, USUAL_STEP.1),
            output: (USUAL_OUTPUT.0 * USUAL_OUTPUT.1, USUAL_OUTPUT.1),
        };
        for message in messages {
            attachments.take(message);
        }
        attachments
    }

    /// Takes a message that joins the conversation; gives what became of attached files by it.
    pub(super) fn take(&mut self, message: &Message) -> Vec<Settled> {
        if self.limits.attached_tokens == 0 {
            return Vec::new();
        }
        match message {
            Message::User { text, .. } => {
                self.predictor.prompt(mentions(text));
                Vec::new()
            }
            Message::Assistant { parts } => self.answer(parts),
            Message::Tool { results } => {
                self.results(results);
                Vec::new()
            }
        }
    }

    /// Older messages left the window: what was attached to them is gone with them.
    pub(super) fn forget(&mut self) {
        self.predictor.all_may_have_changed();
    }

    /// A request goes out.
    pub(super) fn asks(&mut self) {
        self.asked_at = Some(Instant::now());
    }

    /// An answer is complete and used this.
    pub(super) fn answered(&mut self, output_tokens: u64) {
        if let Some(asked_at) = self.asked_at.take() {
            self.seconds.0 += asked_at.elapsed().as_secs_f64();
            self.seconds.1 += 1.0;
        }
        if output_tokens > 0 {
            self.output.0 += output_tokens as f64;
            self.output.1 += 1.0;
        }
    }

    fn answer(&mut self, parts: &[Part]) -> Vec<Settled> {
        self.step += 1;
        self.predictor.step();
        let mut words = String::new();
        for part in parts {
            if let Part::Text { text } = part {
                words.push_str(text);
                words.push('\n');
                self.predictor.words(mentions(text));
            }
        }
        self.calls = tool_calls(parts).map(|call| (call.id.clone(), call.clone())).collect();
        let mut read = HashSet::new();
        for call in tool_calls(parts) {
            if call.name == READ {
                for (path, span) in reads(call) {
                    self.predictor.read(&path, span);
                    read.insert(path);
                }
            } else {
                words.push_str(&call.arguments);
                words.push('\n');
            }
        }
        let ended = parts.iter().all(|part| !matches!(part, Part::ToolCall(_)));
        self.settle(&words, &read, ended)
    }

    /// Finds out which attached files an answer used, asked for all the same, or left alone.
    fn settle(&mut self, words: &str, read: &HashSet<String>, ended: bool) -> Vec<Settled> {
        let step_time = Duration::from_secs_f64(self.step_seconds());
        let (step, mut settled) = (self.step, Vec::new());
        let (mut used, mut over, mut expected) = (0.0, 0.0, 0.0);
        self.open.retain(|open| {
            let end = if read.contains(&open.path) {
                AttachmentEnd::Asked
            } else if names(words, &open.path) {
                AttachmentEnd::Used
            } else if ended || step - open.step >= PATIENCE {
                AttachmentEnd::Unused
            } else {
                return true;
            };
            // A file that is asked for all the same was guessed, but saved nothing.
            used += f64::from(u8::from(end == AttachmentEnd::Used));
            over += 1.0;
            expected += f64::from(open.probability);
            let saved = if end == AttachmentEnd::Used { step_time } else { Duration::ZERO };
            let (path, tokens) = (open.path.clone(), open.tokens);
            settled.push(Settled { path, tokens, end, saved });
            false
        });
        self.used += used;
        self.ended += over;
        self.expected += expected;
        settled
    }

    fn results(&mut self, results: &[ToolAnswer]) {
        for result in results {
            let call = self.calls.get(&result.call_id);
            let source = call.map_or(Source::Command, source);
            if source == Source::Edit
                && !result.is_error
                && let Some(call) = call
            {
                for path in edits(call) {
                    self.predictor.edited(&path);
                }
            }
            let text = result.text.split(MARK).next().unwrap_or_default();
            self.predictor.told(source, result.is_error, mentions(text));
            for attached in attached_paths(&result.text) {
                self.predictor.attached(attached, Span::Whole);
            }
        }
    }

    /// Returns the files that may be worth being attached to the results at hand, in a window of so
    /// many tokens, the likeliest first. How large they are is for the driver to find out.
    pub(super) fn candidates(&self, context_tokens: u64) -> Vec<Candidate> {
        if self.off {
            return Vec::new();
        }
        let worth = self.worth(context_tokens);
        let fits = |guess: &Guess<'_>| {
            !guess.shown_now
                && guess.read != Some(Span::Whole)
                && may_be_shown(guess.path)
                && !self.refused.contains(guess.path)
                && worth.gain(guess.probability, LEAST_TOKENS) > 0.0
        };
        let guesses = self.predictor.guesses(4 * self.bounds.files);
        let candidates = guesses.into_iter().filter(fits).map(|guess| Candidate {
            path: guess.path.to_owned(),
            line: guess.line,
            read: guess.read,
            probability: guess.probability,
        });
        candidates.take(2 * self.bounds.files).collect()
    }

    /// Returns which of these files, with their sizes in bytes, are worth their tokens, and what of
    /// them is. A file without a size cannot be read.
    pub(super) fn wishes(
        &mut self,
        sized: Vec<(Candidate, Option<u64>)>,
        context_tokens: u64,
    ) -> Vec<Wish> {
        let worth = self.worth(context_tokens);
        let (mut wishes, mut left) = (Vec::new(), self.bounds.tokens);
        for (candidate, bytes) in sized {
            let Some(bytes) = bytes else {
                self.refuse(candidate.path);
                continue;
            };
            let Candidate { path, line, read, probability } = candidate;
            let guess = Guess { path: &path, line, read, shown_now: false, probability };
            let (span, tokens) = part(&guess, bytes, &self.bounds);
            let gains = bytes > 0 && worth.gain(probability, tokens) > 0.0;
            if wishes.len() < self.bounds.files && tokens <= left && gains {
                left -= tokens;
                self.paid = (self.paid.0 + tokens, self.paid.1 + 1);
                wishes.push(Wish { path, span, probability });
            }
        }
        wishes
    }

    /// A wish could not be fulfilled, and will not be.
    pub(super) fn refuse(&mut self, path: String) {
        self.refused.insert(path);
    }

    /// A wish was fulfilled.
    pub(super) fn attached(&mut self, wish: &Wish, tokens: u64) {
        self.predictor.attached(&wish.path, wish.span);
        let (path, probability) = (wish.path.clone(), wish.probability);
        self.open.push(Open { path, tokens, probability, step: self.step });
    }

    /// Returns how many of the files attached were of use, and how many would have to be, once that
    /// is too few: nothing more is attached in this session then. Says so once.
    pub(super) fn gives_up(&mut self, context_tokens: u64) -> Option<(f32, f32)> {
        if self.off || self.ended == 0.0 {
            return None;
        }
        let break_even = self.worth(context_tokens).break_even(self.mean_tokens());
        // What the predictor promised counts until what happened outweighs it.
        let promised = self.expected / self.ended * PRIOR;
        let precision = (promised + self.used) / (PRIOR + self.ended);
        self.off = precision < break_even;
        self.off.then_some((precision as f32, break_even as f32))
    }

    fn worth(&self, context_tokens: u64) -> Worth {
        Worth::of(&Standing {
            price: self.limits.price,
            context_tokens,
            output_tokens: self.output.0 / self.output.1,
            step_seconds: self.step_seconds(),
            second_tokens: f64::from(self.limits.second_tokens),
            requests_to_come: f64::from(self.step.clamp(TO_COME.0, TO_COME.1)),
        })
    }

    fn step_seconds(&self) -> f64 {
        self.seconds.0 / self.seconds.1
    }

    /// Returns what an attached file of this session takes, in the mean.
    fn mean_tokens(&self) -> u64 {
        self.paid.0 / self.paid.1.max(1)
    }
}

/// Returns the block that shows an attached file.
pub(super) fn block(wish: &Wish, text: &str) -> String {
    let path = &wish.path;
    match wish.span {
        Span::Whole => format!("{MARK}`{path}`; it need not be read again]\n{text}"),
        Span::Lines { first, last } => {
            format!("{MARK}`{path}` lines {first}-{last}; these need not be read again]\n{text}")
        }
    }
}

/// Returns the files that a result shows beside what was asked for.
fn attached_paths(text: &str) -> impl Iterator<Item = &str> {
    text.split(MARK).skip(1).filter_map(|block| block.strip_prefix('`')?.split('`').next())
}

/// Returns whether a file may be shown without having been asked for: nothing hidden, nothing that
/// looks like a secret.
fn may_be_shown(path: &str) -> bool {
    // In a whole path, as `secrets/` holds what its name says, whatever lies in it.
    const ANYWHERE: [&str; 12] = [
        "secret",
        "credential",
        "password",
        "passwd",
        "apikey",
        "api_key",
        "api-key",
        "keystore",
        "kubeconfig",
        "service-account",
        "service_account",
        ".env.",
    ];
    // In a name: folders are often called so for other reasons.
    const NAMES: [&str; 5] = ["token", "private", "id_rsa", "id_ed25519", "id_ecdsa"];
    const ENDINGS: [&str; 12] = [
        ".pem", ".key", ".p12", ".pfx", ".env", ".kdbx", ".jks", ".ppk", ".gpg", ".asc", ".tfvars",
        ".tfstate",
    ];
    let lower = path.to_ascii_lowercase();
    let name = lower.rsplit('/').next().unwrap_or(&lower);
    !lower.split('/').any(|part| part.starts_with('.'))
        && !ANYWHERE.iter().any(|word| lower.contains(word))
        && !NAMES.iter().any(|word| name.contains(word))
        && !ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Returns whether words name a file: by its path, or by its name as a word of its own.
fn names(words: &str, path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_edge =
        |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | '-' | '.'));
    words.match_indices(name).any(|(at, _)| {
        let after = &words[at + name.len()..];
        is_edge(words[..at].chars().next_back())
            && is_edge(after.trim_start_matches('.').chars().next())
    })
}

/// Returns what kind of text a call's result is.
fn source(call: &ToolCall) -> Source {
    match call.name.as_str() {
        READ => Source::Text,
        "grep_file" => Source::Search,
        "list_files" => Source::List,
        "edit_file" | "write_file" | "apply_patch" => Source::Edit,
        "run_command" => {
            let args = arguments(call);
            Source::of_command(args.get("command").and_then(Value::as_str).unwrap_or_default())
        }
        _ => Source::Command,
    }
}

fn arguments(call: &ToolCall) -> Value {
    serde_json::from_str(&call.arguments).unwrap_or(Value::Null)
}

/// Returns the files that a call reads.
fn reads(call: &ToolCall) -> Vec<(String, Span)> {
    let args = arguments(call);
    let read = |args: &Value| {
        let number = |name: &str| args.get(name).and_then(Value::as_u64).map(|n| n as u32);
        let path = args.get("path")?.as_str()?.trim_start_matches("./").to_owned();
        let span = match (number("start"), number("end")) {
            (None | Some(0 | 1), None) => Span::Whole,
            (start, end) => {
                Span::Lines { first: start.unwrap_or(1).max(1), last: end.unwrap_or(u32::MAX) }
            }
        };
        Some((path, span))
    };
    let several = args.get("files").and_then(Value::as_array).map(Vec::as_slice);
    read(&args).into_iter().chain(several.unwrap_or_default().iter().filter_map(read)).collect()
}

/// Returns the files that a call changes.
fn edits(call: &ToolCall) -> Vec<String> {
    let args = arguments(call);
    if let Some(path) = args.get("path").and_then(Value::as_str) {
        return vec![path.to_owned()];
    }
    let patch = args.get("patch").and_then(Value::as_str).unwrap_or_default();
    let changed = ["*** Update File: ", "*** Add File: ", "*** Delete File: "];
    let path =
        |line: &str| changed.iter().find_map(|begin| line.strip_prefix(begin)).map(str::to_owned);
    patch.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests;
