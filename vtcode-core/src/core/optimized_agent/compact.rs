//! Compaction: the messages that a request would send come in, fewer bytes that say what matters
//! of them go out.
//! Pure: reads no clock, no disk and no journal. The log of the session is never touched; what
//! comes out is another view of it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::config::limits::ContextLimits;
use crate::llm::message::{Images, Message, Part, ToolAnswer, tool_calls, words};
use crate::tools::builtin::lines::first;

/// A result up to this long stays: what would stand in its place is hardly shorter.
const SHORT_BYTES: usize = 800;

/// Messages at the end that keep their results: what the model is working with.
const KEPT_MESSAGES: usize = 4;

/// Of all bytes, a summary leaves the newest as they are: one in so many.
const KEPT_SHARE: usize = 4;

/// Of a prompt, and of all prompts, a summary repeats so much to the letter.
const PROMPT_BYTES: usize = 4 * 1024;
const PROMPTS_BYTES: usize = 16 * 1024;

/// The first and the last line of a result that was put aside are shown up to this long.
const LINE_BYTES: usize = 120;

/// How a view can be made to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fit {
    /// It fits, or nothing can be done.
    AsItIs,
    /// Once the long results of these messages are put aside.
    PutAside(Vec<usize>),
    /// Once what came before this message is summed up.
    SumUp { before: usize },
}

/// How large the next request is thought to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Its body.
    pub(super) bytes: usize,
    /// What the model reads of it.
    pub(super) input_tokens: u64,
}

/// Returns how the next request fits into the model's window.
pub(super) fn fit(messages: &[Message], next: Size, limits: &ContextLimits) -> Fit {
    let (Some(most), Some(target)) = (limits.most_tokens(), limits.target_tokens()) else {
        return Fit::AsItIs;
    };
    if next.input_tokens <= most {
        return Fit::AsItIs;
    }
    let spare = |left: u64| {
        let bytes = u128::from(next.input_tokens - left) * next.bytes as u128;
        usize::try_from(bytes / u128::from(next.input_tokens)).unwrap_or(usize::MAX)
    };
    let (oldest, saved) = oldest(messages, spare(target));
    // With less, the prefix would change again in a turn or two.
    if !oldest.is_empty() && saved >= spare(u64::midpoint(most, target)) {
        return Fit::PutAside(oldest);
    }
    match recent(messages) {
        Some(before) => Fit::SumUp { before },
        // One message fills it all: what can be put aside is the best that is left.
        None if !oldest.is_empty() => Fit::PutAside(oldest),
        None => Fit::AsItIs,
    }
}

/// Returns whether a text stands in the place of a result that was put aside.
pub(super) fn is_pointer(text: &str) -> bool {
    text.starts_with(POINTER_START)
}

/// Returns whether a user's message is a summary of what came before.
pub(super) fn is_summary(text: &str) -> bool {
    text.starts_with(SUMMARY_START)
}

/// Returns the messages whose results can be put aside, in the order in which they are.
pub(super) fn in_order(messages: &[Message]) -> impl Iterator<Item = usize> {
    with_long_results(messages, KEPT_MESSAGES).map(|(message, _)| message)
}

/// Returns every message with long results but the newest: what can be done at once when a
/// provider says that a request is too long.
pub(super) fn all_but_the_newest(messages: &[Message]) -> Vec<usize> {
    with_long_results(messages, 1).map(|(message, _)| message).collect()
}

/// Returns the oldest messages whose long results together have so many bytes, and how many they
/// have.
fn oldest(messages: &[Message], spare: usize) -> (Vec<usize>, usize) {
    let (mut oldest, mut saved) = (Vec::new(), 0);
    for (message, bytes) in with_long_results(messages, KEPT_MESSAGES) {
        if saved >= spare {
            break;
        }
        saved += bytes;
        oldest.push(message);
    }
    (oldest, saved)
}

/// Returns the messages with long results, the oldest first, without so many of the newest
/// messages, and the bytes of these results.
fn with_long_results(messages: &[Message], kept: usize) -> impl Iterator<Item = (usize, usize)> {
    let last = messages.len().saturating_sub(kept);
    messages[..last].iter().enumerate().filter_map(|(at, message)| {
        let Message::Tool { results } = message else { return None };
        let bytes: usize =
            results.iter().filter(|answer| is_long(answer)).map(|a| a.text.len()).sum();
        (bytes > 0).then_some((at, bytes))
    })
}

pub(super) fn is_long(answer: &ToolAnswer) -> bool {
    answer.text.len() > SHORT_BYTES
}

/// Returns the first of the messages that a summary leaves as they are; none when there would be
/// nothing to sum up.
pub(super) fn recent(messages: &[Message]) -> Option<usize> {
    let total: usize = messages.iter().map(bytes).sum();
    let (mut kept, mut first) = (0, None);
    for (at, message) in messages.iter().enumerate().rev() {
        kept += bytes(message);
        if kept > total / KEPT_SHARE && first.is_some() {
            break;
        }
        // From the model's words on, every result stands behind its call.
        if matches!(message, Message::Assistant { .. }) {
            first = Some(at);
        }
    }
    // What holds prompts alone, or the summary before, is as short as it can be.
    first.filter(|first| messages[..*first].iter().any(|m| !matches!(m, Message::User { .. })))
}

/// Returns about how many bytes a message has on the wire.
pub(super) fn bytes(message: &Message) -> usize {
    match message {
        Message::User { text, images } => text.len() + Images::of(images).weight(),
        Message::Assistant { parts } => parts.iter().map(Part::bytes).sum(),
        Message::Tool { results } => results.iter().map(|answer| answer.text.len()).sum(),
    }
}

/// Puts a pointer in the place of each long result of these messages. `keep` stores a text where
/// the model can read it, and says where; without that the model has to call again.
pub(super) fn put_aside(
    messages: &mut [Message],
    which: &[usize],
    mut keep: impl FnMut(&str) -> Option<PathBuf>,
) -> usize {
    let mut count = 0;
    for at in which {
        let Some(Message::Tool { results }) = messages.get_mut(*at) else { continue };
        for answer in results.iter_mut().filter(|answer| is_long(answer)) {
            answer.text = pointer(&answer.text, keep(&answer.text).as_deref());
            count += 1;
        }
    }
    count
}

const POINTER_START: &str = "[put aside to save room: ";

fn pointer(text: &str, file: Option<&Path>) -> String {
    let lines = text.lines().count();
    let size = format!("{} bytes in {lines} lines", text.len());
    let mut pointer = match file {
        Some(file) => format!(
            "{POINTER_START}{size}; read_file {} has all of it, by ranges too]",
            file.display()
        ),
        None => format!("{POINTER_START}{size}; make the call again if you need it]"),
    };
    let mut ends = [text.lines().next(), text.lines().next_back()]
        .map(|line| first(line.unwrap_or_default(), LINE_BYTES));
    if lines == 1 {
        ends[1] = "";
    }
    // Writing to a String cannot fail.
    let _ = write!(pointer, "\n{}\n[…]\n{}", ends[0], ends[1]);
    pointer
}

/// The first line of a message that stands for all before it.
const SUMMARY_START: &str =
    "[What came before was summed up to save room; nothing of the work itself was undone.]";
const PROMPTS: &str = "The user's prompts so far, the newest last:";
const CHANGED: &str = "Files changed so far: ";
const SUMMARY: &str = "What was found out and done:";

/// Asks the model, at the end of the same conversation, for what a summary must hold.
pub(super) const ASK: &str = "\
[This is not from the user. The conversation is about to exceed your context window: everything above, but for the newest messages, will be replaced by what you write now.]
Write down, in plain text and without calling a tool, what you need to go on with the task without reading anything again: the goal and how far it is reached, decisions and why they were made, what was found out (with paths, names, line numbers, exact error messages), what was changed and how it was checked, what failed, and the next steps. Leave out what no longer matters.";

/// Returns the view with everything before a message in one message of the user's.
pub(super) fn summed_up(
    messages: &[Message],
    before: usize,
    summary: Option<&str>,
    changed: &[String],
) -> Vec<Message> {
    let (old, recent) = messages.split_at(before.min(messages.len()));
    let mut text = format!("{SUMMARY_START}\n\n{PROMPTS}\n{}", prompts(old));
    if !changed.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n\n{CHANGED}{}", changed.join(", "));
    }
    let told = match summary.map(str::trim) {
        Some(summary) if !summary.is_empty() => summary.to_owned(),
        _ => last_words(old),
    };
    let _ = write!(text, "\n\n{SUMMARY}\n{told}");
    let mut view = vec![Message::user(text)];
    view.extend(recent.iter().cloned());
    view
}

/// Returns the prompts among messages, the newest whole as far as there is room, older ones cut.
fn prompts(messages: &[Message]) -> String {
    let mut prompts: Vec<String> = Vec::new();
    for message in messages {
        let Message::User { text, images } = message else { continue };
        if let Some(earlier) = earlier(text) {
            prompts.extend(earlier);
            continue;
        }
        // What a summary repeats is found again by its fences.
        let mut prompt = cut(text.trim(), PROMPT_BYTES).replace(FENCE, "= prompt =");
        if !images.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(prompt, "\n{}", without_images(images.len()));
        }
        prompts.push(prompt);
    }
    let mut room = PROMPTS_BYTES;
    let mut shown: Vec<String> = Vec::new();
    for prompt in prompts.iter().rev() {
        if prompt.len() > room {
            shown.push("[… older ones left out]".to_owned());
            break;
        }
        room -= prompt.len();
        shown.push(prompt.clone());
    }
    shown.reverse();
    let fenced = shown.into_iter().map(|prompt| format!("{FENCE}\n{prompt}\n"));
    fenced.collect::<String>() + FENCE
}

/// Tells the model what it cannot look at again.
fn without_images(count: usize) -> String {
    let images = if count == 1 { "an image" } else { "images" };
    format!("[{images} stood here and left to save room; what mattered of it is below]")
}

/// Stands between the prompts of a summary.
const FENCE: &str = "=-=-= prompt =-=-=";

/// Returns the prompts that a summary repeats; none when the text is no summary.
fn earlier(text: &str) -> Option<Vec<String>> {
    let rest = text.strip_prefix(SUMMARY_START)?;
    let start = format!("\n\n{PROMPTS}\n{FENCE}\n");
    let rest = rest.strip_prefix(start.as_str())?;
    let (prompts, _) = rest.split_once(&format!("\n{FENCE}\n\n"))?;
    let between = format!("\n{FENCE}\n");
    Some(prompts.split(between.as_str()).map(str::to_owned).collect())
}

/// What is known without the model: its own last words, and which tools it used.
fn last_words(messages: &[Message]) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut calls = 0;
    for message in messages.iter().rev() {
        match message {
            Message::User { text, .. } => {
                // A summary that was made before goes on.
                if let Some((_, summary)) = text.split_once(&format!("\n\n{SUMMARY}\n"))
                    && text.starts_with(SUMMARY_START)
                {
                    said.push(cut(summary, PROMPT_BYTES));
                }
            }
            Message::Assistant { parts } => {
                calls += tool_calls(parts).count();
                let words = words(parts);
                if !words.trim().is_empty() && said.len() < 20 {
                    said.push(cut(words.trim(), PROMPT_BYTES / 4));
                }
            }
            Message::Tool { .. } => {}
        }
    }
    said.reverse();
    format!(
        "[No summary could be made. {calls} tool calls were made; the words said meanwhile:]\n{}",
        said.join("\n")
    )
}

fn cut(text: &str, most: usize) -> String {
    match first(text, most) {
        start if start.len() < text.len() => format!("{start} [… cut]"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
