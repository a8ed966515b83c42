//! Tells the model when a read gives what it gave before. A call and its text go in, the text with
//! a note comes out; the content is always given. Looks at what was said, not at how it was found,
//! so that the note is the same whether a result was kept, shared or read again.

use std::collections::HashMap;

use serde_json::Value;

use crate::core::cache::{Key, key};
use crate::llm::message::{Message, tool_calls};

/// The latest text of each read, as a hash, and the step in which it was first seen.
#[derive(Debug)]
pub(super) struct Repeats {
    seen: HashMap<Key, (u32, Key)>,
    /// Counts the model's answers, from 1.
    step: u32,
}

const NOTE: &str = "[unchanged since step ";

impl Repeats {
    /// Returns the state after a conversation; `repeatable` says of a tool's name whether its
    /// calls are reads that can be repeated.
    pub(super) fn after(messages: &[Message], repeatable: impl Fn(&str) -> bool) -> Self {
        let mut repeats = Self { seen: HashMap::new(), step: 1 };
        let mut asked = HashMap::new();
        for message in messages {
            match message {
                Message::User { .. } => {}
                Message::Assistant { parts } => {
                    asked = tool_calls(parts).map(|call| (call.id.as_str(), call)).collect();
                    repeats.step += 1;
                }
                Message::Tool { results } => {
                    for answer in results.iter().filter(|a| !a.is_error && repeatable(&a.name)) {
                        let Some(call) = asked.get(answer.call_id.as_str()) else { continue };
                        let args = serde_json::from_str(&call.arguments).unwrap_or(Value::Null);
                        // The answer before these results ended the step that they belong to.
                        let step = repeats.step - 1;
                        repeats.see(&answer.name, &args, without_note(&answer.text), step);
                    }
                }
            }
        }
        repeats
    }

    /// The model's answer is complete; what follows belongs to the next step.
    pub(super) fn next_step(&mut self) {
        self.step += 1;
    }

    /// Returns the text of a read as the model gets it.
    pub(super) fn noted(&mut self, name: &str, args: &Value, text: String) -> String {
        match self.see(name, args, &text, self.step) {
            Some(step) => format!("{NOTE}{step}]\n{text}"),
            None => text,
        }
    }

    /// Records a read; returns the earlier step since which it gave the same.
    fn see(&mut self, name: &str, args: &Value, text: &str, step: u32) -> Option<u32> {
        let call = key([name.as_bytes(), args.to_string().as_bytes()]);
        let text = key([text.as_bytes()]);
        match self.seen.get(&call) {
            Some((since, same)) if *same == text => (*since < step).then_some(*since),
            _ => {
                self.seen.insert(call, (step, text));
                None
            }
        }
    }
}

fn without_note(text: &str) -> &str {
    match text.split_once('\n') {
        Some((line, rest)) if line.starts_with(NOTE) => rest,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::message::{Part, ToolAnswer, ToolCall};
    use serde_json::json;

    #[test]
    fn a_repeat_names_the_step_and_gives_the_content() {
        let mut repeats = Repeats::after(&[], |_| true);
        let read = |repeats: &mut Repeats, text: &str| {
            repeats.noted("read_file", &json!({"path": "a"}), text.to_owned())
        };
        assert_eq!(read(&mut repeats, "one"), "one");
        assert_eq!(read(&mut repeats, "one"), "one", "within a step nothing is earlier");
        repeats.next_step();
        assert_eq!(read(&mut repeats, "one"), "[unchanged since step 1]\none");
        repeats.next_step();
        assert_eq!(read(&mut repeats, "two"), "two");
        repeats.next_step();
        assert_eq!(read(&mut repeats, "two"), "[unchanged since step 3]\ntwo");
        let other = json!({"path": "b"});
        assert_eq!(repeats.noted("read_file", &other, "two".into()), "two");
    }

    #[test]
    fn a_resumed_conversation_knows_what_was_read() {
        let turn = |text: &str| {
            let call = ToolCall {
                id: "c".into(),
                name: "read_file".into(),
                arguments: r#"{ "path": "a" }"#.into(),
            };
            let answer = ToolAnswer {
                call_id: "c".into(),
                name: "read_file".into(),
                text: text.into(),
                is_error: false,
            };
            [
                Message::Assistant { parts: vec![Part::ToolCall(call)] },
                Message::Tool { results: vec![answer] },
            ]
        };
        let mut messages = vec![Message::User { text: "go".into() }];
        messages.extend(turn("one"));
        messages.extend(turn("[unchanged since step 1]\none"));
        let mut repeats = Repeats::after(&messages, |name| name == "read_file");
        assert_eq!(
            repeats.noted("read_file", &json!({"path": "a"}), "one".into()),
            "[unchanged since step 1]\none"
        );
        let mut none = Repeats::after(&messages, |_| false);
        assert_eq!(none.noted("read_file", &json!({"path": "a"}), "one".into()), "one");
    }
}
