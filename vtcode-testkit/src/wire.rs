//! The wires: a reply comes in, server-sent events or one JSON body go out, shaped as the real
//! provider shapes them. Each wire is a file of pure functions.
//! Never touches a socket and never fails on purpose; `model` breaks what is rendered here.

mod chat;
mod gemini;
mod messages;
mod responses;

use serde_json::Value;

use crate::bill::Bill;
use crate::reply::{Part, Reply, Usage};

/// A wire format that the scripted model speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wire {
    /// OpenAI Chat Completions, `POST /v1/chat/completions`.
    Chat,
    /// Anthropic Messages, `POST /v1/messages`.
    Messages,
    /// OpenAI Responses, `POST /v1/responses`.
    Responses,
    /// Google Gemini, `POST /v1beta/models/NAME:streamGenerateContent?alt=sse`.
    Gemini,
}

/// A reply with everything decided that it left open.
pub(crate) struct Answer<'a> {
    /// The request's number on this server; makes ids unique.
    number: usize,
    /// The model that the request named.
    model: &'a str,
    parts: Vec<Say<'a>>,
    /// `None`: does not tell.
    finish: Option<String>,
    usage: Usage,
    /// The chat wire reports usage in a stream only when asked.
    usage_in_stream: bool,
}

enum Say<'a> {
    Text(&'a str),
    Thinking(&'a str),
    Call { id: String, name: &'a str, arguments: &'a str },
}

impl<'a> Answer<'a> {
    /// Joins a reply with the request that it answers.
    pub(crate) fn new(
        wire: Wire,
        number: usize,
        request: &'a Value,
        request_bytes: usize,
        reply: &'a Reply,
    ) -> Self {
        let number = reply.number.unwrap_or(number);
        let prefix = match wire {
            Wire::Chat | Wire::Responses => "call",
            Wire::Messages => "toolu",
            // As older models: only the order tells one call from another.
            Wire::Gemini => "",
        };
        let parts: Vec<_> = reply
            .parts
            .iter()
            .enumerate()
            .map(|(index, part)| match part {
                Part::Text(text) => Say::Text(text),
                Part::Thinking(text) => Say::Thinking(text),
                Part::Call { id, name, arguments } => {
                    let new = || match prefix {
                        "" => String::new(),
                        prefix => format!("{prefix}_{number}_{index}"),
                    };
                    let id = id.clone().unwrap_or_else(new);
                    Say::Call { id, name, arguments }
                }
            })
            .collect();
        let calls = parts.iter().any(|part| matches!(part, Say::Call { .. }));
        let reason = reply.finish.as_deref().unwrap_or(if calls { "tool_calls" } else { "stop" });
        Self {
            number,
            model: request["model"].as_str().unwrap_or_default(),
            finish: Some(wire.finish_word(reason).to_owned()),
            usage: reply.usage.unwrap_or_else(|| Usage {
                input: tokens(request_bytes),
                cached: 0,
                output: parts.iter().map(|part| tokens(part.bytes())).sum(),
            }),
            usage_in_stream: request["stream_options"]["include_usage"] == true,
            parts,
        }
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Leaves out everything that says that, or why, the model is done.
    pub(crate) fn without_end(mut self) -> Self {
        self.finish = None;
        self
    }
}

impl Say<'_> {
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) | Self::Thinking(text) => text.len(),
            Self::Call { name, arguments, .. } => name.len() + arguments.len(),
        }
    }
}

/// What the wires call the same: chat's word, then those of messages, responses and gemini.
const FINISH_WORDS: [[&str; 4]; 4] = [
    ["stop", "end_turn", responses::COMPLETED, "STOP"],
    ["tool_calls", "tool_use", responses::COMPLETED, "STOP"],
    ["length", "max_tokens", "max_output_tokens", "MAX_TOKENS"],
    ["content_filter", "refusal", "content_filter", "SAFETY"],
];

impl Wire {
    /// Returns the events with which a reply is streamed in answer to a request with this body,
    /// whatever its fault: for tests that have a transport of their own.
    pub fn events(self, reply: &Reply, request: &[u8]) -> Vec<Vec<u8>> {
        let body: Value = serde_json::from_slice(request).unwrap_or_default();
        self.stream(&Answer::new(self, 0, &body, request.len(), reply))
    }

    /// Returns what these bytes of a streamed answer bill.
    pub fn billed(self, body: &[u8]) -> Usage {
        Bill::new(self).sent(body)
    }

    /// Returns the events of a streamed answer, each complete with its blank line.
    pub(crate) fn stream(self, answer: &Answer<'_>) -> Vec<Vec<u8>> {
        match self {
            Self::Chat => chat::stream(answer),
            Self::Messages => messages::stream(answer),
            Self::Responses => responses::stream(answer),
            Self::Gemini => gemini::stream(answer),
        }
    }

    /// Returns the body of an answer that is not streamed.
    pub(crate) fn whole(self, answer: &Answer<'_>) -> Value {
        match self {
            Self::Chat => chat::whole(answer),
            Self::Messages => messages::whole(answer),
            Self::Responses => responses::whole(answer),
            Self::Gemini => gemini::whole(answer),
        }
    }

    /// Returns the body of an error.
    pub(crate) fn error(self, code: u16, message: &str) -> Value {
        match self {
            Self::Chat | Self::Responses => chat::error(code, message),
            Self::Messages => messages::error(code, message),
            Self::Gemini => gemini::error(code, message),
        }
    }

    /// Returns the event that reports an overloaded provider inside a stream.
    pub fn error_event(self) -> Vec<u8> {
        match self {
            Self::Chat => sse("", &chat::error(503, "The server is overloaded, try again later")),
            Self::Messages => messages::event(messages::error(529, "Overloaded")),
            Self::Responses => responses::error_event("The server is overloaded"),
            Self::Gemini => sse("", &gemini::error(503, "The model is overloaded")),
        }
    }

    /// Returns the list of models.
    pub(crate) fn models(self) -> Value {
        match self {
            Self::Chat | Self::Responses => chat::models(),
            Self::Messages => messages::models(),
            Self::Gemini => gemini::models(),
        }
    }

    /// Returns the wire whose requests go to this path.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        match path {
            "/v1/chat/completions" => Some(Self::Chat),
            "/v1/messages" => Some(Self::Messages),
            "/v1/responses" => Some(Self::Responses),
            path => path.strip_prefix(GEMINI_MODELS)?.contains(':').then_some(Self::Gemini),
        }
    }

    /// Reads a request's body, as strictly as the provider does about what it cannot do without.
    pub(crate) fn request(self, target: &str, body: &[u8]) -> Result<Value, (u16, String)> {
        let mut request: Value = serde_json::from_slice(body)
            .map_err(|error| (400, format!("the request body is not JSON: {error}")))?;
        if self == Self::Gemini {
            gemini_target(target, &mut request)?;
        }
        let missing = if !request["model"].is_string() {
            "model"
        } else if self == Self::Responses {
            let input = &request["input"];
            let says = input.as_array().is_some_and(|items| !items.is_empty());
            if says || input.is_string() {
                return Ok(request);
            }
            "input"
        } else if self == Self::Gemini {
            match gemini::missing(&request) {
                Some(missing) => missing,
                None => return Ok(request),
            }
        } else if request["messages"].as_array().is_none_or(Vec::is_empty) {
            "messages"
        } else if self == Self::Messages && !request["max_tokens"].is_u64() {
            "max_tokens"
        } else {
            return Ok(request);
        };
        Err((400, format!("{missing}: field required")))
    }

    fn finish_word(self, reason: &str) -> &str {
        let known = FINISH_WORDS.iter().find(|words| words.contains(&reason));
        let Some([chat, messages, responses, gemini]) = known else { return reason };
        match self {
            Self::Chat => chat,
            Self::Messages => messages,
            Self::Responses => responses,
            Self::Gemini => gemini,
        }
    }
}

/// Where the Gemini wire's models lie.
const GEMINI_MODELS: &str = "/v1beta/models/";

/// Reads what the Gemini wire says in the path into the request, where the other wires say it.
fn gemini_target(target: &str, request: &mut Value) -> Result<(), (u16, String)> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let named = path.strip_prefix(GEMINI_MODELS).and_then(|path| path.rsplit_once(':'));
    let (model, method) = named.unwrap_or_default();
    let streamed = match method {
        // Without `alt` the chunks come as a list, in which no client of ours is interested.
        "streamGenerateContent" if query.split('&').any(|pair| pair == "alt=sse") => true,
        "generateContent" => false,
        _ => return Err((404, format!("no such method: {target}"))),
    };
    let Some(fields) = request.as_object_mut() else {
        return Err((400, "the request body is not an object".to_owned()));
    };
    // The provider refuses fields that it does not know.
    if let Some(field) = ["model", "stream"].iter().find(|field| fields.contains_key(**field)) {
        return Err((400, format!("Unknown name \"{field}\": Cannot find field.")));
    }
    fields.insert("model".to_owned(), model.into());
    fields.insert("stream".to_owned(), streamed.into());
    Ok(())
}

/// The name under which the scripted model lists itself.
const MODEL: &str = "scripted";

/// Bytes of text in one delta: a few words, so that every answer of more than a few has several.
const FRAGMENT_BYTES: usize = 24;

/// Cuts a text into what one delta holds, after a space where there is one.
fn fragments(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = if rest.len() <= FRAGMENT_BYTES {
            rest.len()
        } else {
            let most = (0..=FRAGMENT_BYTES).rev().find(|&at| rest.is_char_boundary(at));
            let most = most.expect("a character has four bytes at most");
            rest[..most].rfind(' ').map_or(most, |space| space + 1)
        };
        let (fragment, later) = rest.split_at(end);
        rest = later;
        Some(fragment)
    })
}

fn tokens(bytes: usize) -> u64 {
    bytes.div_ceil(4) as u64
}

/// Returns one server-sent event; an empty name leaves the `event:` line out.
fn sse(name: &str, data: &impl std::fmt::Display) -> Vec<u8> {
    let name = if name.is_empty() { String::new() } else { format!("event: {name}\n") };
    format!("{name}data: {data}\n\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_lose_nothing_and_cut_no_character() {
        for text in [
            String::new(),
            "ok".to_owned(),
            "The test fails because the sum starts at one, so I change it.".to_owned(),
            "ä".repeat(40),
            "🦀".repeat(40),
            " ".repeat(60),
        ] {
            let pieces: Vec<_> = fragments(&text).collect();
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|piece| (1..=FRAGMENT_BYTES).contains(&piece.len())));
        }
        let words: Vec<_> = fragments("The test fails because the sum is wrong").collect();
        assert_eq!(words, ["The test fails because ", "the sum is wrong"]);
    }

    #[test]
    fn reasons_are_translated_to_the_wire_and_unknown_ones_kept() {
        assert_eq!(Wire::Chat.finish_word("max_tokens"), "length");
        assert_eq!(Wire::Messages.finish_word("length"), "max_tokens");
        assert_eq!(Wire::Messages.finish_word("stop"), "end_turn");
        assert_eq!(Wire::Responses.finish_word("tool_use"), "completed");
        assert_eq!(Wire::Gemini.finish_word("length"), "MAX_TOKENS");
        assert_eq!(Wire::Chat.finish_word("pause_turn"), "pause_turn");
    }
}
