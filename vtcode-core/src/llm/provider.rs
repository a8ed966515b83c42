//! Wire formats: a conversation in, request bytes out; streamed bytes in, deltas out.
//! One stateless translation a file; a decoder holds only the state of one stream.
//! Never opens a connection and never decides to retry.

pub mod anthropic;
mod arguments;
pub mod gemini;
mod halves;
mod json;
pub mod openai_chat;
pub mod openai_responses;
mod reported;
mod schema;
mod seal;
pub mod sse;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::config::dialect::{Dialect, Effort, ModelFacts};
use crate::config::endpoint::{Endpoint, Wire};
use crate::core::conversation::{Conversation, RequestBody};
use crate::core::memory_pool::StringLoan;
use crate::llm::message::{
    Delta, Image, ImageRules, MAX_IMAGE_BYTES, Message, Setup, ToolAnswer, ToolCall, ToolChoice,
};
use crate::llm::models;

/// Returns the translation for an endpoint: its wire, as its server and its model speak it.
pub fn of(endpoint: &Endpoint) -> Arc<dyn Provider> {
    let Dialect { quirks, facts, .. } = &endpoint.dialect;
    let quirks = *quirks;
    // Who found the endpoint himself may not have looked its model up.
    let facts = match facts {
        unknown if *unknown == ModelFacts::default() => {
            models::listed(endpoint.wire, &endpoint.model)
        }
        facts => *facts,
    };
    match endpoint.wire {
        Wire::OpenAiChat => Arc::new(openai_chat::OpenAiChat { quirks, facts }),
        Wire::OpenAiResponses => Arc::new(openai_responses::OpenAiResponses { facts }),
        Wire::Anthropic => Arc::new(anthropic::Anthropic { facts }),
        Wire::Gemini => Arc::new(gemini::Gemini { facts }),
    }
}

/// Returns the translation for a wire format, as a server and a model speak it of which nothing
/// is known.
pub fn for_wire(wire: Wire) -> Arc<dyn Provider> {
    of(&Endpoint::new(wire, "", ""))
}

/// A stateless translation between the conversation and one wire format.
pub trait Provider: Send + Sync {
    /// Returns the request URL for a base URL without trailing slash.
    fn url(&self, base_url: &str, model: &str) -> String;

    /// Returns the headers of a request, the one with the key among them, as name and value.
    fn headers(&self, key: Option<&str>) -> Vec<(&'static str, String)>;

    /// Renders what stands before the messages; constant over a session.
    fn head(&self, setup: &Setup) -> Bytes;

    /// Renders one message onto a buffer, once. The bytes stay valid in every later request.
    fn render(&self, message: &Message, onto: &mut Vec<u8>);

    /// Returns one message as it is rendered.
    fn segment(&self, message: &Message) -> Bytes {
        let mut bytes = Vec::new();
        self.render(message, &mut bytes);
        bytes.into()
    }

    /// Returns what server and model take of images. Where they take none, a segment holds words in
    /// an image's place.
    fn images(&self) -> ImageRules;

    /// Frames a conversation of this wire's segments as a request, which shares their bytes.
    fn frame(&self, conversation: &Conversation) -> RequestBody {
        self.frame_with(conversation, Bytes::from_static(TAIL))
    }

    /// Does the same, and tells the model whether to call a tool. That stands behind the messages,
    /// so that the request begins as those before it. `setup` is what the head was rendered from.
    fn frame_choosing(
        &self,
        conversation: &Conversation,
        choice: &ToolChoice,
        setup: &Setup,
    ) -> RequestBody {
        let offered = !setup.tools.is_empty();
        let fields = if offered { self.choice(choice, setup) } else { Map::new() };
        if fields.is_empty() {
            return self.frame(conversation);
        }
        let fields = render(&fields);
        self.frame_with(conversation, [b"],", &fields[1..]].concat().into())
    }

    /// Frames a conversation as a request that ends with `tail`, from the end of the messages on.
    fn frame_with(&self, conversation: &Conversation, tail: Bytes) -> RequestBody {
        conversation.body(&[], tail)
    }

    /// Returns the fields of a request that tell a model whether to call one of its tools.
    fn choice(&self, choice: &ToolChoice, setup: &Setup) -> Map<String, Value>;

    /// Returns whether what the provider has cached of a conversation serves a request with another
    /// choice, too.
    fn choice_keeps_cache(&self) -> bool {
        true
    }

    /// Returns a decoder for one streamed answer. `tools` are the names that were offered.
    fn decoder(&self, tools: &Arc<[String]>) -> Box<dyn Decoder>;

    /// Returns what an error body says, if it has the wire's error shape.
    fn error_message(&self, body: &[u8]) -> Option<String>;

    /// Returns the wait that an error body asks for, on a wire that says it there and not in a
    /// header.
    fn retry_after(&self, _body: &[u8]) -> Option<Duration> {
        None
    }
}

/// Decodes one streamed answer, event by event.
pub trait Decoder: Send {
    /// Takes one server-sent event (its type, empty if it named none, and its data) and appends
    /// what it says. Fails when the data is not what the wire promises, the provider reports an
    /// error, the answer has more than 4,096 parts, or it closes before the model said anything.
    fn event(&mut self, event: &str, data: &str, out: &mut Vec<Delta>) -> Result<(), DecodeError>;

    /// Takes the end of the stream. `out` gets a [`Delta::Finish`] here or got it before, unless
    /// the stream ended too early, which is an error, as is a tool call without a name.
    fn end(&mut self, out: &mut Vec<Delta>) -> Result<(), DecodeError>;
}

/// A stream that is not what the wire promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The data of an event is not the JSON that it should be.
    #[error("the stream holds an event that is not what the provider documents: {what}")]
    Malformed {
        /// What was wrong, with the first 200 characters of data that cannot be read.
        what: String,
    },
    /// The provider reported an error inside the stream.
    #[error("the provider reported an error in the stream: {message}")]
    Reported {
        /// The provider's words.
        message: String,
        /// True when the provider calls it temporary (overloaded, rate limit).
        temporary: bool,
    },
    /// The stream ended before the model was done.
    #[error("the stream ended before the answer was complete")]
    EndedEarly,
}

/// Returns the headers of a request to a server that takes the key as a bearer's token.
fn bearer_headers(key: Option<&str>) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        ("accept", "text/event-stream".to_owned()),
    ];
    headers.extend(key.map(|key| ("authorization", format!("Bearer {key}"))));
    headers
}

/// Renders a value of ours as JSON.
fn render(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings, numbers and JSON values always render")
}

/// Renders a value of ours as JSON, behind what a buffer holds.
fn render_onto(buffer: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(buffer, value).expect("strings, numbers and JSON values always render");
}

/// The most parts that an answer may be made of. No model says so many; a server that sends them
/// would have us look for each among all others.
const MAX_PARTS: usize = 4096;

fn too_many_parts() -> DecodeError {
    DecodeError::Malformed { what: format!("an answer of more than {MAX_PARTS} parts") }
}

/// Ends the list of messages and the request, on every wire.
const TAIL: &[u8] = b"]}";

/// Returns the only field of an object.
fn field(name: &str, value: impl Into<Value>) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value.into())])
}

/// Appends what is said to what was said before, and returns it alone.
fn appended(text: &mut String, more: json::Text<'_>) -> StringLoan {
    let start = text.len();
    more.push_onto(text);
    StringLoan::from(&text[start..])
}

/// Returns the word for an effort; the least that the model knows where it knows none so low.
fn level(effort: Effort, least: Effort) -> &'static str {
    effort.max(least).as_str()
}

/// Returns the tokens of thinking that stand for an effort.
fn budget(effort: Effort) -> u32 {
    match effort {
        Effort::Minimal => 0,
        Effort::Low => 2048,
        Effort::Medium => 8192,
        Effort::High => 24_576,
    }
}

/// Returns what is taken of images where the wire's documents set no bound of their own.
fn image_rules(facts: &ModelFacts) -> ImageRules {
    ImageRules { taken: facts.images != Some(false), max_bytes: MAX_IMAGE_BYTES }
}

/// Returns an image as a request holds it, in base64; or words where it cannot be sent.
fn sent(image: &Image, facts: &ModelFacts) -> Result<String, &'static str> {
    if facts.images == Some(false) {
        return Err("[an image stands here, which this model cannot read]");
    }
    image.base64().ok_or("[an image stood here; its file is gone]")
}

/// Returns an image as a `data:` URL; or words where it cannot be sent.
fn data_url(image: &Image, facts: &ModelFacts) -> Result<String, &'static str> {
    let kind = image.kind().media_type();
    Ok(format!("data:{kind};base64,{}", sent(image, facts)?))
}

/// Returns a result's text for a wire that has no mark for a failed call: the text says it.
fn marked_text(result: &ToolAnswer) -> Cow<'_, str> {
    let says_so = result.text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("error"));
    if result.is_error && !says_so {
        format!("error: {}", result.text).into()
    } else {
        result.text.as_str().into()
    }
}

/// Gives the `nth` call of an answer an id of its own where the server gave none, or one twice.
fn name_call(call: &mut ToolCall, nth: usize, ids: &mut HashSet<String>) {
    if call.id.is_empty() {
        call.id = format!("call_{nth}");
    }
    if ids.contains(&call.id) {
        let id = call.id.clone();
        // Its own number is nearly always free: however many there are of one id, none is searched for.
        let copies = (nth..).map(|copy| format!("{id}_{copy}"));
        call.id = copies.into_iter().find(|id| !ids.contains(id)).unwrap_or(id);
    }
    ids.insert(call.id.clone());
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::sse::SseParser;
    use super::*;
    use crate::llm::message::{Part, ToolAnswer, Usage};
    use crate::tools::tool::ToolSpec;

    /// Decodes a stream whole, at every split into two, and byte by byte; all must tell the same.
    /// Returns it as text, a line for each delta, and the error as the last line.
    pub(super) fn decoded(provider: &dyn Provider, stream: &str) -> String {
        let whole = decode(provider, &[stream.as_bytes()]);
        for split in 0..stream.len() {
            let (head, tail) = stream.as_bytes().split_at(split);
            assert_eq!(decode(provider, &[head, tail]), whole, "split at {split}");
        }
        let single: Vec<_> = stream.as_bytes().chunks(1).collect();
        assert_eq!(decode(provider, &single), whole, "byte by byte");
        whole
    }

    fn decode(provider: &dyn Provider, chunks: &[&[u8]]) -> String {
        let mut decoder =
            provider.decoder(&["read_file".to_owned(), "list_files".to_owned()].into());
        let (mut parser, mut deltas, mut result) = (SseParser::new(), Vec::new(), Ok(()));
        for chunk in chunks {
            let take = |event: &str, data: &str| {
                if result.is_ok() {
                    result = decoder.event(event, data, &mut deltas);
                }
            };
            parser.push(chunk, take).unwrap();
        }
        let result = result.and_then(|()| decoder.end(&mut deltas));
        let mut text = String::new();
        for delta in deltas {
            match delta {
                Delta::Text(words) => writeln!(text, "text {words:?}"),
                Delta::Reasoning(words) => writeln!(text, "reasoning {words:?}"),
                Delta::Part(Part::Text { text: words }) => writeln!(text, "= text {words:?}"),
                Delta::Part(Part::Reasoning { text: words, signature, redacted }) => {
                    let kind = if redacted { "redacted" } else { "reasoning" };
                    writeln!(text, "= {kind} {words:?} {}", signature.unwrap_or_default())
                }
                Delta::Part(Part::ToolCall(ToolCall { id, name, arguments })) => {
                    writeln!(text, "= call {id} {name} {arguments}")
                }
                Delta::Usage(Usage { input_tokens, cached_input_tokens, output_tokens }) => {
                    writeln!(text, "usage {input_tokens} ({cached_input_tokens}) {output_tokens}")
                }
                Delta::Finish(finish) => writeln!(text, "finish {finish:?}"),
            }
            .unwrap();
        }
        if let Err(error) = result {
            writeln!(text, "{error}").unwrap();
        }
        text
    }

    /// A request with these messages, all in one.
    pub(super) fn body(provider: &dyn Provider, head: &Bytes, segments: &[Bytes]) -> String {
        let mut conversation = Conversation::new(head.clone());
        for segment in segments {
            conversation.push(segment);
        }
        String::from_utf8(provider.frame(&conversation).to_vec().unwrap()).unwrap()
    }

    /// A setup with one tool.
    pub(super) fn setup() -> Setup {
        Setup {
            model: "m".to_owned(),
            system: "Be \"good\".".to_owned(),
            tools: vec![ToolSpec {
                name: "read_file".into(),
                description: "Reads".into(),
                parameters: serde_json::json!({"type": "object"}),
            }],
            max_output_tokens: 99,
            session_id: "s1".to_owned(),
            ..Setup::default()
        }
    }

    /// A conversation with all kinds of messages.
    pub(super) fn messages() -> Vec<Message> {
        let call = |id: &str, arguments: &str| {
            Part::ToolCall(ToolCall {
                id: id.to_owned(),
                name: "read_file".to_owned(),
                arguments: arguments.to_owned(),
            })
        };
        let answer = |id: &str, text: &str, is_error| ToolAnswer {
            call_id: id.to_owned(),
            name: "read_file".to_owned(),
            text: text.to_owned(),
            is_error,
        };
        let thought = |signature: Option<&str>, redacted| Part::Reasoning {
            text: if redacted { "" } else { "hm" }.to_owned(),
            signature: signature.map(str::to_owned),
            redacted,
        };
        let said = |text: &str| Part::Text { text: text.to_owned() };
        vec![
            Message::user("fix\nit"),
            Message::Assistant {
                parts: vec![
                    thought(Some("seal"), false),
                    thought(Some("sealed"), true),
                    thought(None, false),
                    said("I look."),
                    call("a", "{\"path\": \"x\"}"),
                    call("b", "{\"path\":"),
                    call("c", ""),
                ],
            },
            Message::Tool {
                results: vec![
                    answer("a", "one", false),
                    answer("b", "no JSON", true),
                    answer("c", "Error: no path", true),
                    answer("d", "", false),
                ],
            },
            Message::Assistant { parts: vec![thought(None, false)] },
            Message::user("go on"),
        ]
    }

    #[test]
    fn an_image_stands_in_a_message_as_each_wire_takes_it() {
        let images = vec![
            Image::new(&b"\x89PNG\r\n\x1a\n\0"[..]).unwrap(),
            Image::new(&b"GIF89a\0"[..]).unwrap(),
        ];
        let (png, gif) = ("iVBORw0KGgoA", "R0lGODlhAA==");
        let told = |wire, images: Option<bool>, message: &Message| {
            let mut endpoint = Endpoint::new(wire, "", "m");
            endpoint.dialect.facts.images = images;
            String::from_utf8(of(&endpoint).segment(message).to_vec()).unwrap()
        };
        let message = Message::User { text: "see".to_owned(), images: images.clone() };
        for (wire, expected) in [
            (
                Wire::OpenAiChat,
                format!(
                    r#"{{"role":"user","content":[{{"type":"text","text":"see"}},{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{png}"}}}},{{"type":"image_url","image_url":{{"url":"data:image/gif;base64,{gif}"}}}}]}}"#
                ),
            ),
            (
                Wire::OpenAiResponses,
                format!(
                    r#"{{"type":"message","role":"user","content":[{{"type":"input_text","text":"see"}},{{"type":"input_image","image_url":"data:image/png;base64,{png}","detail":"auto"}},{{"type":"input_image","image_url":"data:image/gif;base64,{gif}","detail":"auto"}}]}}"#
                ),
            ),
            (
                Wire::Anthropic,
                format!(
                    r#"{{"role":"user","content":[{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{png}"}}}},{{"type":"image","source":{{"type":"base64","media_type":"image/gif","data":"{gif}"}}}},{{"type":"text","text":"see"}}]}}"#
                ),
            ),
            (
                Wire::Gemini,
                format!(
                    r#"{{"role":"user","parts":[{{"inlineData":{{"mimeType":"image/png","data":"{png}"}}}},{{"inlineData":{{"mimeType":"image/gif","data":"{gif}"}}}},{{"text":"see"}}]}}"#
                ),
            ),
        ] {
            assert_eq!(told(wire, None, &message), expected);
            assert_eq!(told(wire, Some(true), &message), expected);
            // A model that reads none is told, and is sent none.
            let told_none = told(wire, Some(false), &message);
            assert!(told_none.contains("which this model cannot read"), "{told_none}");
            assert!(!told_none.contains(png) && told_none.contains("see"), "{told_none}");
            // A reference without its bytes is never sent as an image.
            let json = serde_json::to_string(&message).unwrap();
            let lost = told(wire, None, &serde_json::from_str(&json).unwrap());
            assert!(lost.contains("its file is gone") && !lost.contains(png), "{lost}");
            // Images without words are a message, too.
            let wordless = Message::User { text: String::new(), images: images.clone() };
            let wordless = told(wire, None, &wordless);
            assert!(wordless.contains(gif) && !wordless.contains(r#""text":"#), "{wordless}");
        }
    }

    #[test]
    fn a_longer_conversation_begins_with_the_bytes_of_the_shorter() {
        for wire in Wire::ALL {
            let provider = for_wire(wire);
            let head = provider.head(&setup());
            let segments: Vec<_> = messages().iter().map(|m| provider.segment(m)).collect();
            let body_of = |count: usize| {
                let body = body(&*provider, &head, &segments[..count]);
                serde_json::from_str::<serde_json::Value>(&body).expect("the body is JSON");
                // Where the cache marks stand is no content.
                body.replace(r#","cache_control":{"type":"ephemeral"}"#, "")
            };
            for count in 0..segments.len() {
                let shorter = body_of(count);
                let prefix = shorter.strip_suffix("]}").unwrap();
                assert!(body_of(count + 1).starts_with(prefix), "{wire} {count}");
            }
        }
    }

    /// The data of a stream with thinking, words and two calls.
    fn sample(wire: Wire) -> Vec<&'static str> {
        match wire {
            Wire::OpenAiChat => vec![
                r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
                r#"{"choices":[{"delta":{"content":"So."}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\":"}}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"b","function":{"name":"f","arguments":"{}"}}]}}]}"#,
                r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
                "[DONE]",
            ],
            Wire::OpenAiResponses => vec![
                r#"{"type":"response.output_item.added","output_index":0,"item":{"type":"reasoning","id":"r"}}"#,
                r#"{"type":"response.reasoning_summary_text.delta","output_index":0,"item_id":"r","delta":"hm"}"#,
                r#"{"type":"response.output_item.done","output_index":0,"item":{"type":"reasoning","id":"r","encrypted_content":"e"}}"#,
                r#"{"type":"response.output_text.delta","output_index":1,"item_id":"m","delta":"So."}"#,
                r#"{"type":"response.output_item.done","output_index":1,"item":{"type":"message","id":"m"}}"#,
                r#"{"type":"response.output_item.added","output_index":2,"item":{"type":"function_call","id":"i","call_id":"a","name":"f"}}"#,
                r#"{"type":"response.function_call_arguments.delta","output_index":2,"item_id":"i","delta":"{\"x\":"}"#,
                r#"{"type":"response.function_call_arguments.delta","output_index":2,"item_id":"i","delta":"1}"}"#,
                r#"{"type":"response.function_call_arguments.done","output_index":2,"item_id":"i"}"#,
                r#"{"type":"response.output_item.done","output_index":3,"item":{"type":"function_call","call_id":"b","name":"f","arguments":"{}"}}"#,
                r#"{"type":"response.completed","response":{"status":"completed"}}"#,
            ],
            Wire::Anthropic => vec![
                r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"hm"}}"#,
                r#"{"type":"content_block_stop","index":0}"#,
                r#"{"type":"content_block_start","index":1,"content_block":{"type":"text","text":"So."}}"#,
                r#"{"type":"content_block_stop","index":1}"#,
                r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"a","name":"f","input":{}}}"#,
                r#"{"type":"content_block_delta","index":2,"delta":{"partial_json":"{\"x\":"}}"#,
                r#"{"type":"content_block_delta","index":2,"delta":{"partial_json":"1}"}}"#,
                r#"{"type":"content_block_stop","index":2}"#,
                r#"{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"b","name":"f","input":{}}}"#,
                r#"{"type":"content_block_stop","index":3}"#,
                r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"}}"#,
                r#"{"type":"message_stop"}"#,
            ],
            Wire::Gemini => vec![
                r#"{"candidates":[{"content":{"parts":[{"text":"hm","thought":true}]}}],"responseId":"r"}"#,
                r#"{"candidates":[{"content":{"parts":[{"text":"So."}]}}],"responseId":"r"}"#,
                r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"x":1}},"thoughtSignature":"e"}]}}]}"#,
                r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{}}}]}}]}"#,
                r#"{"candidates":[{"finishReason":"STOP"}]}"#,
            ],
        }
    }

    #[test]
    fn a_stream_with_an_event_lost_doubled_or_too_early_still_ends_and_no_id_comes_twice() {
        for wire in Wire::ALL {
            let whole = sample(wire);
            let mut broken = vec![whole.clone()];
            for at in 0..whole.len() {
                let mut lost = whole.clone();
                lost.remove(at);
                let mut doubled = whole.clone();
                doubled.insert(at, whole[at]);
                let mut early = whole.clone();
                early.swap(at, at.saturating_sub(1));
                broken.extend([lost, doubled, early]);
            }
            for (number, events) in broken.into_iter().enumerate() {
                let (mut decoder, mut deltas) =
                    (for_wire(wire).decoder(&Arc::default()), Vec::new());
                let decoded =
                    events.iter().try_for_each(|data| decoder.event("", data, &mut deltas));
                let ended = decoded.and_then(|()| decoder.end(&mut deltas));
                let finished = deltas.iter().filter(|d| matches!(d, Delta::Finish(_))).count();
                assert_eq!(finished, usize::from(ended.is_ok()), "{wire} {events:?}");
                let mut ids: Vec<_> = deltas
                    .iter()
                    .filter_map(|delta| match delta {
                        Delta::Part(Part::ToolCall(call)) => Some(&call.id),
                        _ => None,
                    })
                    .collect();
                let calls = ids.len();
                assert!(number > 0 || calls == 2, "{wire}: {deltas:?}");
                ids.sort();
                ids.dedup();
                assert_eq!(ids.len(), calls, "{wire} {events:?}");
            }
        }
    }

    /// What a setup adds to the head of a request to a model, as a line.
    fn added(wire: Wire, url: &str, model: &str, change: impl Fn(&mut Setup)) -> String {
        let provider = of(&Endpoint::new(wire, url, model));
        let head = |setup: &Setup| {
            let body = body(&*provider, &provider.head(setup), &[]);
            match serde_json::from_str(&body).expect("the body is JSON") {
                serde_json::Value::Object(fields) => fields,
                other => panic!("{other}"),
            }
        };
        let plain = Setup { model: model.to_owned(), ..setup() };
        let mut changed = plain.clone();
        change(&mut changed);
        let mut added = head(&changed);
        for (name, value) in head(&plain) {
            if added.get(&name) == Some(&value) {
                added.remove(&name);
            }
        }
        serde_json::Value::from(added).to_string()
    }

    #[test]
    fn effort_is_told_as_each_model_takes_it() {
        use Effort::{High, Low, Minimal};
        let told = |wire, model: &str, effort| {
            added(wire, "", model, |setup| {
                setup.effort = Some(effort);
                setup.max_output_tokens = 32_000;
            })
            .replace(r#""max_tokens":32000,"#, "")
        };
        for (wire, model, effort, expected) in [
            (Wire::OpenAiChat, "gpt-5", Minimal, r#"{"reasoning_effort":"minimal"}"#),
            (Wire::OpenAiChat, "gpt-5.1", Minimal, r#"{"reasoning_effort":"low"}"#),
            (Wire::OpenAiChat, "qwen3", High, r#"{"reasoning_effort":"high"}"#),
            (Wire::OpenAiChat, "gpt-4.1", High, "{}"),
            (Wire::OpenAiResponses, "gpt-5.1", High, r#"{"reasoning":{"effort":"high"}}"#),
            (Wire::OpenAiResponses, "gpt-4.1", High, "{}"),
            (
                Wire::Anthropic,
                "claude-opus-5-5",
                Minimal,
                r#"{"output_config":{"effort":"low"},"thinking":{"type":"adaptive"}}"#,
            ),
            (
                Wire::Anthropic,
                "claude-opus-9",
                High,
                r#"{"output_config":{"effort":"high"},"thinking":{"type":"adaptive"}}"#,
            ),
            (Wire::Anthropic, "claude-opus-4-5", High, r#"{"output_config":{"effort":"high"}}"#),
            (
                Wire::Anthropic,
                "claude-haiku-4-5",
                High,
                r#"{"thinking":{"budget_tokens":24576,"type":"enabled"}}"#,
            ),
            (
                Wire::Gemini,
                "gemini-3-pro",
                Minimal,
                r#"{"generationConfig":{"thinkingConfig":{"thinkingLevel":"low"}}}"#,
            ),
            (
                Wire::Gemini,
                "gemini-2.5-pro",
                Minimal,
                r#"{"generationConfig":{"thinkingConfig":{"thinkingBudget":128}}}"#,
            ),
            (
                Wire::Gemini,
                "gemini-2.5-flash",
                Minimal,
                r#"{"generationConfig":{"thinkingConfig":{"thinkingBudget":0}}}"#,
            ),
            (
                Wire::Gemini,
                "gemini-2.5-flash",
                Low,
                r#"{"generationConfig":{"thinkingConfig":{"thinkingBudget":2048}}}"#,
            ),
        ] {
            assert_eq!(told(wire, model, effort), expected, "{wire} {model} {effort}");
        }
        // The answer keeps its room, and no thought at all is no budget.
        let told = |tokens, effort| {
            added(Wire::Anthropic, "", "claude-haiku-4-5", |setup| {
                setup.effort = Some(effort);
                setup.max_output_tokens = tokens;
            })
        };
        assert_eq!(
            told(4096, High),
            r#"{"max_tokens":4096,"thinking":{"budget_tokens":3072,"type":"enabled"}}"#
        );
        assert_eq!(told(1500, High), r#"{"max_tokens":1500}"#);
        assert_eq!(told(4096, Minimal), r#"{"max_tokens":4096}"#);
    }

    #[test]
    fn a_choice_stands_behind_the_messages_as_each_wire_takes_it() {
        let schema = serde_json::json!({"type": "object"});
        let told = |wire, url: &str, choice: &ToolChoice, change: &dyn Fn(&mut Setup)| {
            let provider = of(&Endpoint::new(wire, url, "m"));
            let mut setup = setup();
            change(&mut setup);
            let mut conversation = Conversation::new(provider.head(&setup));
            conversation.push(&provider.segment(&Message::user("hi")));
            let text = |body: RequestBody| String::from_utf8(body.to_vec().unwrap()).unwrap();
            let plain = text(provider.frame(&conversation));
            let body = text(provider.frame_choosing(&conversation, choice, &setup));
            serde_json::from_str::<Value>(&body).expect("the body is JSON");
            let rest = body.strip_prefix(plain.strip_suffix("]}").unwrap()).unwrap();
            rest.strip_prefix("]").unwrap().trim_start_matches(',').to_owned()
        };
        let tool = ToolChoice::Tool("read_file".to_owned());
        let choices = [&ToolChoice::Auto, &ToolChoice::None, &ToolChoice::Required, &tool];
        let of_wire = |wire, url: &str| choices.map(|choice| told(wire, url, choice, &|_| {}));
        assert_eq!(
            of_wire(Wire::OpenAiChat, "http://h/v1"),
            [
                "}",
                r#""tool_choice":"none"}"#,
                r#""tool_choice":"required"}"#,
                r#""tool_choice":{"function":{"name":"read_file"},"type":"function"}}"#,
            ]
        );
        assert_eq!(
            of_wire(Wire::OpenAiResponses, ""),
            [
                "}",
                r#""tool_choice":"none"}"#,
                r#""tool_choice":"required"}"#,
                r#""tool_choice":{"name":"read_file","type":"function"}}"#,
            ]
        );
        assert_eq!(
            of_wire(Wire::Anthropic, ""),
            [
                "}",
                r#""tool_choice":{"type":"none"}}"#,
                r#""tool_choice":{"type":"any"}}"#,
                r#""tool_choice":{"name":"read_file","type":"tool"}}"#,
            ]
        );
        assert_eq!(
            of_wire(Wire::Gemini, ""),
            [
                "}",
                r#""toolConfig":{"functionCallingConfig":{"mode":"NONE"}}}"#,
                r#""toolConfig":{"functionCallingConfig":{"mode":"ANY"}}}"#,
                r#""toolConfig":{"functionCallingConfig":{"allowedFunctionNames":["read_file"],"mode":"ANY"}}}"#,
            ]
        );
        // Where a required call is not honoured, its schema is.
        let call = r#"{"anyOf":[{"additionalProperties":false,"properties":{"arguments":{"type":"object"},"name":{"const":"read_file"}},"required":["name","arguments"],"type":"object"}]}"#;
        let asked = format!(
            r#""response_format":{{"json_schema":{{"name":"call","schema":{call},"strict":false}},"type":"json_schema"}},"tool_choice":"none"}}"#
        );
        let llamacpp = "http://127.0.0.1:8080/v1";
        assert_eq!(of_wire(Wire::OpenAiChat, llamacpp)[2..], [asked.clone(), asked]);
        // And a schema of the answer, where it is not taken beside tools that may be called.
        let words = told(Wire::OpenAiChat, llamacpp, &ToolChoice::None, &|setup| {
            setup.answer_schema = Some(Arc::new(schema.clone()));
        });
        assert_eq!(
            words,
            r#""response_format":{"json_schema":{"name":"answer","schema":{"type":"object"},"strict":false},"type":"json_schema"},"tool_choice":"none"}"#
        );
        let words = told(Wire::OpenAiChat, "http://h/v1", &ToolChoice::None, &|setup| {
            setup.answer_schema = Some(Arc::new(schema.clone()));
        });
        assert_eq!(words, r#""tool_choice":"none"}"#, "the head asks for it");
        // A model that thinks cannot be made to call, and without tools there is no choice.
        let thinks = |setup: &mut Setup| {
            setup.effort = Some(Effort::High);
            setup.max_output_tokens = 32_000;
        };
        assert_eq!(told(Wire::Anthropic, "", &ToolChoice::Required, &thinks), "}");
        for wire in Wire::ALL {
            let told = told(wire, "", &ToolChoice::Required, &|setup| setup.tools.clear());
            assert_eq!(told, "}", "{wire}");
        }
    }

    #[test]
    fn a_schema_is_asked_for_where_the_server_holds_an_answer_to_it() {
        let schema = serde_json::json!({"type": "object", "additionalProperties": false,
            "properties": {"a": {"type": "string"}}, "required": ["a"]});
        let told = |wire, url: &str, model: &str, tools: bool| {
            let told = added(wire, url, model, |setup| {
                setup.answer_schema = Some(Arc::new(schema.clone()));
                if !tools {
                    setup.tools.clear();
                }
            });
            told.replace(&schema.to_string(), "SCHEMA")
        };
        let chat = r#"{"response_format":{"json_schema":{"name":"answer","schema":SCHEMA,"strict":true},"type":"json_schema"}}"#;
        let gemini = r#"{"generationConfig":{"responseJsonSchema":SCHEMA,"responseMimeType":"application/json"}}"#;
        for (wire, url, model, tools, expected) in [
            (Wire::OpenAiChat, "https://api.openai.com/v1", "gpt-5.1", true, chat),
            (Wire::OpenAiChat, "http://h/v1", "m", true, chat),
            (Wire::OpenAiChat, "http://127.0.0.1:8080/v1", "m", false, chat),
            // llama.cpp refuses a schema with tools.
            (Wire::OpenAiChat, "http://127.0.0.1:8080/v1", "m", true, "{}"),
            (
                Wire::OpenAiChat,
                "https://api.deepseek.com/v1",
                "m",
                true,
                r#"{"response_format":{"type":"json_object"}}"#,
            ),
            (
                Wire::OpenAiResponses,
                "",
                "gpt-5.1",
                true,
                r#"{"text":{"format":{"name":"answer","schema":SCHEMA,"strict":true,"type":"json_schema"}}}"#,
            ),
            (
                Wire::Anthropic,
                "",
                "claude-sonnet-4-5",
                true,
                r#"{"output_config":{"format":{"schema":SCHEMA,"type":"json_schema"}}}"#,
            ),
            (Wire::Anthropic, "", "claude-sonnet-4-0", true, "{}"),
            (Wire::Gemini, "", "gemini-3-pro", true, gemini),
            (Wire::Gemini, "", "gemini-2.5-pro", false, gemini),
            (Wire::Gemini, "", "gemini-2.5-pro", true, "{}"),
        ] {
            assert_eq!(told(wire, url, model, tools), expected, "{wire} {url} {model} {tools}");
        }
        // One that leaves fields open: OpenAI is not told to be strict, Anthropic is not asked.
        let open = |wire, model: &str| {
            added(wire, "", model, |setup| {
                setup.answer_schema = Some(Arc::new(serde_json::json!({"type": "object"})));
            })
        };
        assert!(open(Wire::OpenAiChat, "m").contains(r#""strict":false"#));
        assert_eq!(open(Wire::Anthropic, "claude-sonnet-4-5"), "{}");
    }

    #[test]
    fn a_bound_on_answers_goes_out_in_the_servers_own_field() {
        let told = |wire, url: &str, chosen| {
            added(wire, url, "m", |setup| setup.max_output_chosen = chosen)
        };
        for (wire, url, expected) in [
            (Wire::OpenAiChat, "https://api.openai.com/v1", r#"{"max_completion_tokens":99}"#),
            (Wire::OpenAiChat, "http://127.0.0.1:11434/v1", r#"{"max_tokens":99}"#),
            (Wire::OpenAiResponses, "", r#"{"max_output_tokens":99}"#),
            (Wire::Gemini, "", r#"{"generationConfig":{"maxOutputTokens":99}}"#),
        ] {
            assert_eq!(told(wire, url, true), expected);
            assert_eq!(told(wire, url, false), "{}");
        }
        // Where the server would cut it off early it is always sent.
        let head = of(&Endpoint::new(Wire::OpenAiChat, "https://api.deepseek.com/v1", "m"));
        let head = String::from_utf8(head.head(&setup()).to_vec()).unwrap();
        assert!(head.contains(r#""max_tokens":99"#), "{head}");
        // Mistral refuses fields that it does not know.
        let head = of(&Endpoint::new(Wire::OpenAiChat, "https://api.mistral.ai/v1", "m"));
        let head = String::from_utf8(head.head(&setup()).to_vec()).unwrap();
        assert!(!head.contains("stream_options"), "{head}");
    }

    #[test]
    fn a_model_that_chooses_its_words_itself_is_sent_no_temperature() {
        for (wire, model) in [(Wire::Anthropic, "claude-opus-5-5"), (Wire::OpenAiChat, "gpt-5.1")] {
            assert_eq!(added(wire, "", model, |setup| setup.temperature = Some(0.0)), "{}");
        }
    }

    #[test]
    fn a_temperature_is_sent_only_where_one_is_set() {
        for wire in Wire::ALL {
            let head = |temperature| {
                let provider = for_wire(wire);
                let head = provider.head(&Setup { temperature, ..setup() });
                let body = body(&*provider, &head, &[]);
                serde_json::from_str::<serde_json::Value>(&body).expect("the body is JSON")
            };
            let (unset, set) = (head(None), head(Some(0.25)));
            let of = |body: &serde_json::Value| match wire {
                Wire::Gemini => body["generationConfig"]["temperature"].clone(),
                _ => body["temperature"].clone(),
            };
            assert_eq!((of(&unset), of(&set)), (serde_json::Value::Null, 0.25.into()), "{wire}");
            assert_eq!(unset.get("generationConfig"), None);
        }
    }

    #[test]
    fn ids_are_made_where_they_miss_and_told_apart_where_they_repeat() {
        let mut ids = HashSet::new();
        let mut named = |id: &str, nth| {
            let mut call =
                ToolCall { id: id.into(), name: String::new(), arguments: String::new() };
            name_call(&mut call, nth, &mut ids);
            call.id
        };
        assert_eq!([named("a", 1), named("a", 2), named("a", 3)], ["a", "a_2", "a_3"]);
        assert_eq!([named("", 4), named("call_4", 5)], ["call_4", "call_4_5"]);
        assert_eq!([named("b_8", 7), named("b", 8), named("b", 8)], ["b_8", "b", "b_9"]);
    }
}
