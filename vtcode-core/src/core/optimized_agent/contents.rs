//! What fills the model's window: a session's view comes in, what each kind of thing takes of it and
//! what would leave it next go out.
//! Guesses tokens from bytes, by what the provider last reported; renders nothing and changes nothing.

use serde::Serialize;

use super::attachments::MARK;
use super::compact;
use crate::core::journal::View;
use crate::llm::message::{IMAGE_TOKENS, Images, Message, Part, ToolCall, Usage, tool_calls};
use crate::tools::tool::ToolSpec;

/// Bytes that are about one token, where no provider has told.
const BYTES_PER_TOKEN: u64 = 4;

/// What the next request of a session would hold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contents {
    /// Each kind of thing that is there, in the order of [`What`].
    pub rows: Vec<Row>,
    /// All of it, as tokens, about.
    pub tokens: u64,
    /// The tokens that a request may have before older messages leave, if that is known.
    pub most_tokens: Option<u64>,
    /// The tokens that the window holds, if known.
    pub window_tokens: Option<u64>,
    /// What the last request used, as the provider reported it.
    pub last: Option<Usage>,
    /// The results that would leave first, in that order.
    pub next: Vec<Leaving>,
}

/// One kind of thing in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What it is.
    pub what: What,
    /// How many there are.
    pub count: usize,
    /// Their text, in bytes.
    pub bytes: usize,
    /// The same, as tokens, about.
    pub tokens: u64,
}

/// What can fill a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The system prompt, the instructions of the project in it.
    System,
    /// The tools' schemas.
    Tools,
    /// What the user said, with the files mentioned.
    Prompts,
    /// The images of prompts.
    Images,
    /// A summary of what came before.
    Summary,
    /// What the model said.
    Words,
    /// What it thought, as far as the provider wants it back.
    Thinking,
    /// Its calls.
    Calls,
    /// Files that it read.
    Files,
    /// What it searched and listed.
    Searches,
    /// What commands printed.
    Commands,
    /// What was said of its changes.
    Changes,
    /// Results of other tools.
    Others,
    /// What was attached to results unasked: files, folders' instructions, outcomes of checks.
    Attached,
    /// What stands in the place of results that were put aside.
    Aside,
}

impl What {
    /// Returns it in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::System => "system prompt",
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Images => "images",
            Self::Summary => "summary of what came before",
            Self::Words => "the model's words",
            Self::Thinking => "the model's thinking",
            Self::Calls => "the model's calls",
            Self::Files => "files read",
            Self::Searches => "searches and lists",
            Self::Commands => "what commands printed",
            Self::Changes => "results of changes",
            Self::Others => "results of other tools",
            Self::Attached => "attached unasked",
            Self::Aside => "results put aside",
        }
    }

    fn of_result(tool: &str) -> Self {
        match tool {
            "read_file" => Self::Files,
            "grep_file" | "list_files" => Self::Searches,
            "run_command" | "command_output" | "command_stop" => Self::Commands,
            "edit_file" | "write_file" | "apply_patch" => Self::Changes,
            _ => Self::Others,
        }
    }
}

/// A result that leaves the window when there is no room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leaving {
    /// The tool.
    pub tool: String,
    /// The arguments of its call, as the model wrote them.
    pub arguments: String,
    /// The result's text, in bytes.
    pub bytes: usize,
    /// The same, as tokens, about.
    pub tokens: u64,
}

impl Contents {
    /// Looks at the next request of a session with these tools.
    pub fn of(
        view: &View,
        tools: &[ToolSpec],
        limits: &crate::config::limits::ContextLimits,
    ) -> Self {
        let mut pieces: Vec<(What, usize)> = vec![(What::System, view.header.system.len())];
        pieces.extend(tools.iter().map(|tool| {
            let schema = tool.parameters.to_string().len();
            (What::Tools, tool.name.len() + tool.description.len() + schema)
        }));
        let asked = asked(view);
        let (mut sent, mut images) = (None, Images::default());
        for (at, message) in view.messages.iter().enumerate() {
            if asked == Some(at) {
                sent = Some((text_bytes(&pieces), images));
            }
            weigh(message, &mut pieces);
            images += Images::of(message.images());
        }
        let told = view.last.filter(|(bytes, usage)| *bytes > 0 && usage.input_tokens > 0);
        let (so_many, of_bytes) = match (told, sent) {
            // What the provider counted were these very texts, with their frames round them.
            (Some((_, usage)), Some((bytes, images))) => {
                let of_images = (images.count * IMAGE_TOKENS) as u64;
                (usage.input_tokens.saturating_sub(of_images).max(1), bytes.max(1) as u64)
            }
            (Some((bytes, usage)), None) => (usage.input_tokens, images.weighed(bytes) as u64),
            (None, _) => (1, BYTES_PER_TOKEN),
        };
        let tokens = |bytes: usize| {
            let tokens = (bytes as u128 * u128::from(so_many)).div_ceil(u128::from(of_bytes));
            u64::try_from(tokens).unwrap_or(u64::MAX)
        };
        pieces.retain(|(_, bytes)| *bytes > 0);
        pieces.sort_by_key(|(what, _)| *what);
        let rows: Vec<Row> = pieces
            .chunk_by(|a, b| a.0 == b.0)
            .map(|pieces| {
                let (what, count) = (pieces[0].0, pieces.len());
                let bytes = pieces.iter().map(|(_, bytes)| bytes).sum();
                // What an image takes of a window has nothing to do with its bytes.
                let tokens = match what {
                    What::Images => (count * IMAGE_TOKENS) as u64,
                    _ => tokens(bytes),
                };
                Row { what, count, bytes, tokens }
            })
            .collect();
        Self {
            tokens: rows.iter().map(|row| row.tokens).sum(),
            most_tokens: limits.most_tokens(),
            window_tokens: limits.window_tokens,
            last: view.last.map(|(_, usage)| usage),
            next: leaving(&view.messages)
                .map(|(call, bytes)| Leaving {
                    tool: call.name.clone(),
                    arguments: call.arguments.clone(),
                    bytes,
                    tokens: tokens(bytes),
                })
                .collect(),
            rows,
        }
    }
}

/// Returns how many messages the last request had that was answered: those before its answer. None
/// when it had others.
fn asked(view: &View) -> Option<usize> {
    let answers = view.messages.iter().enumerate();
    let mut answers = answers.filter(|(_, message)| matches!(message, Message::Assistant { .. }));
    answers.nth(view.last_answer?.checked_sub(1)?).map(|(at, _)| at)
}

fn text_bytes(pieces: &[(What, usize)]) -> usize {
    let texts = pieces.iter().filter(|(what, _)| *what != What::Images);
    texts.map(|(_, bytes)| bytes).sum()
}

fn weigh(message: &Message, pieces: &mut Vec<(What, usize)>) {
    match message {
        Message::User { text, .. } if compact::is_summary(text) => {
            pieces.push((What::Summary, text.len()));
        }
        Message::User { text, images } => {
            pieces.push((What::Prompts, text.len()));
            pieces.extend(
                images
                    .iter()
                    .map(|image| (What::Images, Images::of(std::slice::from_ref(image)).bytes)),
            );
        }
        Message::Assistant { parts } => pieces.extend(parts.iter().map(|part| {
            let what = match part {
                Part::Text { .. } => What::Words,
                Part::Reasoning { .. } => What::Thinking,
                Part::ToolCall(_) => What::Calls,
            };
            (what, part.bytes())
        })),
        Message::Tool { results } => {
            for answer in results {
                let aside = compact::is_pointer(&answer.text);
                let what = if aside { What::Aside } else { What::of_result(&answer.name) };
                let mut texts = answer.text.split(MARK);
                pieces.push((what, texts.next().unwrap_or_default().len()));
                pieces.extend(texts.map(|text| (What::Attached, MARK.len() + text.len())));
            }
        }
    }
}

/// Returns the calls whose results leave first, and the sizes of these.
fn leaving(messages: &[Message]) -> impl Iterator<Item = (&ToolCall, usize)> {
    compact::in_order(messages).flat_map(|at| {
        let calls: Vec<&ToolCall> = match at.checked_sub(1).map(|before| &messages[before]) {
            Some(Message::Assistant { parts }) => tool_calls(parts).collect(),
            _ => Vec::new(),
        };
        let results = match &messages[at] {
            Message::Tool { results } => results.as_slice(),
            _ => &[],
        };
        let long = calls.into_iter().zip(results).filter(|(_, answer)| compact::is_long(answer));
        long.map(|(call, answer)| (call, answer.text.len())).collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::limits::Limits;
    use crate::core::event::SessionHeader;
    use crate::llm::message::ToolAnswer;

    fn view(messages: Vec<Message>, last: Option<(usize, Usage)>) -> View {
        let header = SessionHeader {
            format: 1,
            session_id: "s".into(),
            started_at_ms: 0,
            cwd: "/w".into(),
            add_dirs: Vec::new(),
            provider: "openai".into(),
            base_url: String::new(),
            model: "m".into(),
            system: "be good".into(),
        };
        View { header, messages, last, last_answer: None }
    }

    fn step(tool: &str, bytes: usize) -> [Message; 2] {
        let call = ToolCall {
            id: "c".into(),
            name: tool.into(),
            arguments: json!({"n": bytes}).to_string(),
        };
        let answer = ToolAnswer {
            call_id: "c".into(),
            name: tool.into(),
            text: "x".repeat(bytes),
            is_error: false,
        };
        [
            Message::Assistant { parts: vec![Part::ToolCall(call)] },
            Message::Tool { results: vec![answer] },
        ]
    }

    #[test]
    fn each_kind_of_thing_has_its_row_and_what_leaves_first_comes_first() {
        let mut messages = vec![Message::user("go")];
        for (tool, bytes) in
            [("run_command", 4000), ("read_file", 8000), ("read_file", 10), ("mine", 2000)]
        {
            messages.extend(step(tool, bytes));
        }
        // Two bytes were a token in the last request.
        let used = Usage { input_tokens: 5000, cached_input_tokens: 4000, output_tokens: 1 };
        let mut limits = Limits::full().agent.context;
        limits.window_tokens = Some(20_000);
        let contents = Contents::of(&view(messages, Some((10_000, used))), &[], &limits);
        let row = |what| contents.rows.iter().find(|row| row.what == what).unwrap();
        assert_eq!((row(What::Files).count, row(What::Files).bytes), (2, 8010));
        assert_eq!(row(What::Files).tokens, 4005);
        assert_eq!(row(What::Commands).tokens, 2000);
        assert_eq!((row(What::Others).count, row(What::System).bytes), (1, 7));
        assert_eq!(contents.tokens, contents.rows.iter().map(|row| row.tokens).sum::<u64>());
        assert_eq!(contents.most_tokens, Some(10_000));
        let next: Vec<_> = contents.next.iter().map(|l| (l.tool.as_str(), l.bytes)).collect();
        assert_eq!(next, [("run_command", 4000), ("read_file", 8000)]);
        assert_eq!(contents.next[0].arguments, r#"{"n":4000}"#);
    }

    #[test]
    fn what_the_last_request_held_is_as_much_as_its_provider_said() {
        let mut messages = vec![Message::user("go")];
        messages.extend(step("read_file", 990));
        messages.extend(step("read_file", 1000));
        let used = Usage { input_tokens: 3000, ..Usage::default() };
        let limits = Limits::full().agent.context;
        // It had the first step, and its answer made the second.
        let mut view = view(messages, Some((90_000, used)));
        view.last_answer = Some(2);
        let contents = Contents::of(&view, &[], &limits);
        let of_first = "be good".len() + "go".len() + 990 + compact::bytes(&view.messages[1]);
        let row = contents.rows.iter().find(|row| row.what == What::Files).unwrap();
        let expected = (1990 * 3000_usize).div_ceil(of_first);
        assert_eq!(row.tokens, expected as u64);
        // Of another view, only the sizes of the bodies can be compared.
        view.last_answer = None;
        let contents = Contents::of(&view, &[], &limits);
        let row = contents.rows.iter().find(|row| row.what == What::Files).unwrap();
        assert_eq!(row.tokens, (1990_u64 * 3000).div_ceil(90_000));
    }

    #[test]
    fn what_is_attached_to_a_result_has_a_row_of_its_own() {
        let mut messages = vec![Message::user("go")];
        messages.extend(step("grep_file", 100));
        let Some(Message::Tool { results }) = messages.last_mut() else { panic!() };
        let (one, two) = (format!("{MARK}`a`]\n1\ta\n"), format!("{MARK}`b`]\n1\tb\n"));
        results[0].text.push_str(&one);
        results[0].text.push_str(&two);
        let contents = Contents::of(&view(messages, None), &[], &Limits::full().agent.context);
        let row = |what| contents.rows.iter().find(|row| row.what == what).unwrap();
        assert_eq!((row(What::Searches).count, row(What::Searches).bytes), (1, 100));
        let attached = row(What::Attached);
        assert_eq!((attached.count, attached.bytes), (2, one.len() + two.len()));
    }

    #[test]
    fn what_was_made_shorter_is_told_apart() {
        let mut messages = vec![Message::user("go")];
        messages.extend(step("read_file", 5000));
        messages.extend(step("read_file", 5000));
        compact::put_aside(&mut messages, &[2], |_| None);
        let mut messages = compact::summed_up(&messages, 1, Some("so"), &[]);
        messages.push(Message::user("and now"));
        let contents = Contents::of(&view(messages, None), &[], &Limits::full().agent.context);
        let kinds: Vec<_> = contents.rows.iter().map(|row| (row.what, row.count)).collect();
        let expected = [
            (What::System, 1),
            (What::Prompts, 1),
            (What::Summary, 1),
            (What::Calls, 2),
            (What::Files, 1),
            (What::Aside, 1),
        ];
        assert_eq!(kinds, expected);
    }
}
