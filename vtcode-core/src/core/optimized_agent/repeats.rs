//! Sees when a session goes in circles. Calls and what they gave go in; the text with a note, and how
//! many answers in a row brought nothing new, come out. The content is always given. Looks at what
//! was said, not at how it was found, so that a note is the same whether a result was kept, shared
//! or read again.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde_json::Value;

use super::attachments::MARK;
use crate::core::cache::{Key, key};
use crate::llm::message::{Message, ToolCall, tool_calls};

/// A step whose calls ran this long waits for something, and time is what it gains.
const WAITING: Duration = Duration::from_secs(1);
/// Steps in a row without anything new before every repeated call is told so, not only a read.
const CIRCLES_TOLD: u32 = 2;
/// Attached files that are remembered, so that their content is not given twice.
const ATTACHED_KEPT: usize = 16;

/// The latest text of each call, as a hash, and the step in which it was first seen. Of a session
/// that is gone on with, only the messages that were read again are known.
#[derive(Debug)]
pub(super) struct Repeats {
    seen: HashMap<Key, (u32, Key)>,
    /// Counts the model's answers, from 1.
    step: u32,
    /// What the calls of this step gave so far.
    now: Step,
    /// Steps in a row, up to the one before this, whose calls gave nothing new.
    nothing_new: u32,
    /// The same, without those that waited for something.
    in_circles: u32,
    /// What was shown before it was asked for, the latest at the end: path, step and text.
    attached: VecDeque<(String, u32, String)>,
}

#[derive(Debug, Default)]
struct Step {
    calls: u32,
    gained: bool,
    ran: Duration,
}

/// A result as it came from a tool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gave<'a> {
    pub(super) text: &'a str,
    /// True for a read that succeeded: told at once when it is the same as before.
    pub(super) is_read: bool,
    /// True when files changed.
    pub(super) changed: bool,
    pub(super) ran: Duration,
}

/// Calls that are remembered; with more, all are forgotten, and their next results bear no note.
const REMEMBERED: usize = 16 * 1024;

const NOTE: &str = "[unchanged since step ";

impl Repeats {
    /// Returns the state after so many steps of which nothing is known, and a conversation.
    pub(super) fn after(steps: u32, messages: &[Message]) -> Self {
        let (now, seen) = (Step::default(), HashMap::new());
        let attached = VecDeque::new();
        let mut repeats =
            Self { seen, step: steps + 1, now, nothing_new: 0, in_circles: 0, attached };
        let mut asked = HashMap::new();
        for message in messages {
            match message {
                Message::User { .. } => {}
                Message::Assistant { parts } => {
                    asked = tool_calls(parts).map(|call| (call.id.as_str(), call)).collect();
                    repeats.step += 1;
                }
                Message::Tool { results } => {
                    for answer in results {
                        let Some(call) = asked.get(answer.call_id.as_str()) else { continue };
                        // The answer before these results ended the step that they belong to.
                        let step = repeats.step - 1;
                        let text = answer.text.split(MARK).next().unwrap_or_default();
                        let (since, text) = without_note(text);
                        repeats.see(call, text, since.filter(|s| *s < step).unwrap_or(step));
                    }
                }
            }
        }
        repeats
    }

    /// A prompt begins: somebody said something new.
    pub(super) fn begin(&mut self) {
        (self.nothing_new, self.in_circles, self.now) = (0, 0, Step::default());
    }

    /// The model's answer and its results are complete; what follows belongs to the next step.
    pub(super) fn next_step(&mut self) {
        self.step += 1;
        let Step { calls, gained, ran } = std::mem::take(&mut self.now);
        if gained {
            (self.nothing_new, self.in_circles) = (0, 0);
        } else if calls > 0 {
            self.nothing_new += 1;
            self.in_circles += u32::from(ran < WAITING);
        }
    }

    /// Returns how many answers in a row asked only for what was known, and waited for nothing.
    pub(super) fn in_circles(&self) -> u32 {
        self.in_circles
    }

    /// Older messages left the window: what was shown in them may be asked for again.
    pub(super) fn forget_attached(&mut self) {
        self.attached.clear();
    }

    /// A file was shown before it was asked for.
    pub(super) fn attached(&mut self, path: &str, text: &str) {
        if self.attached.len() == ATTACHED_KEPT {
            self.attached.pop_front();
        }
        // The answer before these results ended the step that they belong to.
        self.attached.push_back((path.to_owned(), self.step - 1, text.to_owned()));
    }

    /// Returns the step in which all that a read gives was shown already. Says so once: who asks
    /// again has lost it.
    fn shown_before(&mut self, call: &ToolCall, text: &str) -> Option<u32> {
        if self.attached.is_empty() || text.trim().is_empty() {
            return None;
        }
        let args: Value = serde_json::from_str(&call.arguments).ok()?;
        let path = args.get("path")?.as_str()?.trim_start_matches("./");
        let shows = |(shown, _, whole): &(String, u32, String)| {
            shown == path && whole.contains(text.trim_end())
        };
        let at = self.attached.iter().rposition(shows)?;
        self.attached.remove(at).map(|(_, step, _)| step)
    }

    /// Returns the text of a result as the model gets it.
    pub(super) fn noted(&mut self, call: &ToolCall, gave: Gave<'_>) -> Option<String> {
        let since = self.see(call, gave.text, self.step);
        self.now.calls += 1;
        self.now.gained |= since.is_none() || gave.changed;
        self.now.ran += gave.ran;
        if gave.is_read
            && let Some(step) = self.shown_before(call, gave.text)
        {
            return Some(format!("{NOTE}{step}, where it was attached; see there]"));
        }
        let (step, text) = (since?, gave.text);
        if self.nothing_new >= CIRCLES_TOLD {
            let steps = self.nothing_new;
            return Some(format!(
                "{NOTE}{step}; nothing new has come for {steps} steps: do something else, or say \
                 what is missing]\n{text}"
            ));
        }
        gave.is_read.then(|| format!("{NOTE}{step}]\n{text}"))
    }

    /// Records a result; returns the earlier step since which the call gave the same.
    fn see(&mut self, call: &ToolCall, text: &str, step: u32) -> Option<u32> {
        let call = key([call.name.as_bytes(), without_blanks(&call.arguments).as_bytes()]);
        let text = key([text.as_bytes()]);
        match self.seen.get(&call) {
            Some((since, same)) if *same == text => (*since < step).then_some(*since),
            _ => {
                if self.seen.len() == REMEMBERED {
                    self.seen.clear();
                }
                self.seen.insert(call, (step, text));
                None
            }
        }
    }
}

/// Returns a result as it came from its tool, and the step that its note names: where the messages of
/// that one were not read again, nothing else tells it.
fn without_note(text: &str) -> (Option<u32>, &str) {
    let noted =
        text.split_once('\n').and_then(|(line, rest)| Some((line.strip_prefix(NOTE)?, rest)));
    let Some((note, rest)) = noted else { return (None, text) };
    let digits = note.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    (digits.parse().ok(), rest)
}

/// Returns JSON without what a model may write otherwise the next time and mean the same.
fn without_blanks(json: &str) -> Cow<'_, str> {
    if !json.contains(|c: char| c.is_ascii_whitespace()) {
        return Cow::Borrowed(json);
    }
    let (mut quoted, mut escaped) = (false, false);
    let means = |c: &char| {
        let blank = !quoted && c.is_ascii_whitespace();
        quoted ^= *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        !blank
    };
    Cow::Owned(json.chars().filter(means).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::message::{Part, ToolAnswer};

    fn gave(text: &str) -> Gave<'_> {
        Gave { text, is_read: true, changed: false, ran: Duration::ZERO }
    }

    fn command(text: &str) -> Gave<'_> {
        Gave { is_read: false, ..gave(text) }
    }

    fn call(arguments: &str) -> ToolCall {
        ToolCall { id: "c".into(), name: "tool".into(), arguments: arguments.into() }
    }

    /// One step of one call; returns what the model reads.
    fn step(repeats: &mut Repeats, arguments: &str, gave: Gave<'_>) -> String {
        let noted = repeats.noted(&call(arguments), gave);
        repeats.next_step();
        noted.unwrap_or_else(|| gave.text.to_owned())
    }

    #[test]
    fn a_repeat_names_the_step_and_gives_the_content() {
        let mut repeats = Repeats::after(0, &[]);
        let read = |repeats: &mut Repeats, text: &str| {
            let noted = repeats.noted(&call(r#"{"path":"a"}"#), gave(text));
            noted.unwrap_or_else(|| text.to_owned())
        };
        assert_eq!(read(&mut repeats, "one"), "one");
        assert_eq!(read(&mut repeats, "one"), "one", "within a step nothing is earlier");
        repeats.next_step();
        assert_eq!(read(&mut repeats, "one"), "[unchanged since step 1]\none");
        repeats.next_step();
        assert_eq!(read(&mut repeats, "two"), "two");
        repeats.next_step();
        assert_eq!(read(&mut repeats, "two"), "[unchanged since step 3]\ntwo");
        assert_eq!(repeats.noted(&call(r#"{"path":"b"}"#), gave("two")), None);
    }

    #[test]
    fn a_resumed_conversation_knows_what_was_read() {
        let turn = |text: &str| {
            let call = call(r#"{ "path": "a" }"#);
            let answer = ToolAnswer {
                call_id: "c".into(),
                name: "tool".into(),
                text: text.into(),
                is_error: false,
            };
            [
                Message::Assistant { parts: vec![Part::ToolCall(call)] },
                Message::Tool { results: vec![answer] },
            ]
        };
        let mut messages = vec![Message::user("go")];
        messages.extend(turn("one"));
        messages.extend(turn("[unchanged since step 1; nothing new has come]\none"));
        let mut repeats = Repeats::after(0, &messages);
        let again = call(r#"{"path":"a"}"#);
        let noted = repeats.noted(&again, gave("one"));
        assert_eq!(noted.as_deref(), Some("[unchanged since step 1]\none"));
        assert_eq!(repeats.noted(&again, command("one")), None, "no read");
        // The first of them lies in a file and was not read again: its step is told by the note.
        let mut repeats = Repeats::after(1, &messages[3..]);
        let noted = repeats.noted(&again, gave("one"));
        assert_eq!(noted.as_deref(), Some("[unchanged since step 1]\none"));
        // What a tool says is no note of ours: no step is later than the one that it was said in.
        let odd = turn("[unchanged since step 99]\none");
        let noted = Repeats::after(1, &odd).noted(&again, gave("one"));
        assert_eq!(noted.as_deref(), Some("[unchanged since step 2]\none"));
    }

    #[test]
    fn a_circle_is_counted_and_told_and_its_content_given() {
        let mut repeats = Repeats::after(0, &[]);
        // Two calls that alternate are a circle, too.
        for call in ["a", "b"] {
            assert_eq!(step(&mut repeats, call, command("fails")), "fails");
        }
        for (call, circles) in [("a", 1), ("b", 2)] {
            assert_eq!(
                step(&mut repeats, call, command("fails")),
                "fails",
                "once or twice is fine"
            );
            assert_eq!(repeats.in_circles(), circles);
        }
        let told = step(&mut repeats, "a", command("fails"));
        assert!(told.starts_with("[unchanged since step 1; nothing new has come for 2 steps"));
        assert!(told.ends_with("]\nfails"), "{told}");
        assert_eq!(repeats.in_circles(), 3);
        assert_eq!(step(&mut repeats, "c", command("fails")), "fails");
        assert_eq!(repeats.in_circles(), 0, "another call is something new");
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut repeats = Repeats::after(0, &[]);
        for n in 0..REMEMBERED + 10 {
            step(&mut repeats, &n.to_string(), command("same"));
        }
        assert_eq!(repeats.seen.len(), 10);
    }

    #[test]
    fn what_looks_like_a_circle_and_is_none() {
        // A poll whose output changes.
        let mut repeats = Repeats::after(0, &[]);
        for n in 0..20 {
            let text = format!("{n} of 20");
            assert_eq!(step(&mut repeats, "poll", command(&text)), text);
        }
        assert_eq!(repeats.in_circles(), 0);
        // One that waits.
        for _ in 0..20 {
            step(&mut repeats, "wait", Gave { ran: WAITING, ..command("not yet") });
        }
        assert_eq!(repeats.in_circles(), 0);
        // The same test again and again, with an edit between.
        for n in 0..20 {
            step(&mut repeats, "test", command("fails"));
            let edit = Gave { changed: true, ..command("a.txt +1 -1") };
            step(&mut repeats, if n % 2 == 0 { "there" } else { "back" }, edit);
            assert!(repeats.in_circles() < 2);
        }
        // Something new beside what is known.
        for n in 0..20 {
            repeats.noted(&call("test"), command("fails"));
            step(&mut repeats, &format!("{n}"), command("fails"));
        }
        assert_eq!(repeats.in_circles(), 0);
        // Answers without calls, and the next prompt.
        for _ in 0..3 {
            step(&mut repeats, "test", command("fails"));
        }
        repeats.next_step();
        assert_eq!(repeats.in_circles(), 3);
        repeats.begin();
        assert_eq!(repeats.in_circles(), 0);
    }

    #[test]
    fn blanks_between_tokens_mean_nothing_and_those_in_text_do() {
        assert_eq!(without_blanks("{\"a\":\"b c\"}"), "{\"a\":\"b c\"}");
        assert_eq!(without_blanks("{ \"a\" :\n\"b c\"}"), "{\"a\":\"b c\"}");
        assert_eq!(without_blanks(r#"{"a\\" : "b \" c" }"#), r#"{"a\\":"b \" c"}"#);
    }
}
