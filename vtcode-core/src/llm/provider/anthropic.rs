//! Anthropic Messages: messages in, request bytes out, with cache markers where they pay; streamed
//! events in, deltas out, a tool call the moment its block stops.
//! Never sends an empty text block or thinking without its seal, since the server refuses both.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::arguments::as_object;
use super::halves::Halves;
use super::json::{self, Json, Text};
use super::{
    DecodeError, Decoder, MAX_PARTS, Provider, appended, name_call, render, render_onto, reported,
    schema, seal,
};
use crate::config::dialect::{AnswerSchema, Effort, ModelFacts, Thinking};
use crate::core::conversation::{Conversation, Insert, RequestBody};
use crate::llm::message::{
    Delta, FinishReason, Image, ImageRules, Message, Part, Setup, ToolCall, ToolChoice, Usage,
};

/// The wire format, as one model takes it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anthropic {
    /// What the model takes.
    pub facts: ModelFacts,
}

/// Asks the server to cache all that stands before and in the block that carries it.
const CACHE_MARK: &[u8] = br#","cache_control":{"type":"ephemeral"}"#;

/// How a segment that may carry a mark begins and ends: `"content":[…,{…}]}` is its last field.
const USER_START: &[u8] = br#"{"role":"user""#;
const BLOCK_END: &[u8] = b"}]}";

/// The server takes 5 MiB of an image, as base64.
const IMAGE_BYTES: usize = (5 << 20) / 4 * 3;

/// Marks on messages. Two, as the server looks back only 20 blocks for an older entry: a turn with
/// many calls would miss it, were the end of the request before not marked too.
const MARKED_MESSAGES: usize = 2;

impl Provider for Anthropic {
    fn url(&self, base_url: &str, _model: &str) -> String {
        format!("{base_url}/v1/messages")
    }

    fn headers(&self, key: Option<&str>) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("accept", "text/event-stream".to_owned()),
            ("anthropic-version", "2023-06-01".to_owned()),
        ];
        headers.extend(key.map(|key| ("x-api-key", key.to_owned())));
        headers
    }

    fn head(&self, setup: &Setup) -> Bytes {
        let (thinking, effort) = self.thinking(setup);
        // What cannot be promised of a schema that leaves fields open is refused.
        let takes_schema = self.facts.answer_schema == AnswerSchema::Yes
            || (self.facts.answer_schema == AnswerSchema::WithoutTools && setup.tools.is_empty());
        let schema = setup.answer_schema.as_deref();
        let schema = schema.filter(|schema| takes_schema && schema::is_closed(schema));
        let format = schema.map(|schema| Format { r#type: "json_schema", schema });
        let mut bytes = render(&Head {
            model: &setup.model,
            max_tokens: setup.max_output_tokens,
            stream: true,
            temperature: setup
                .temperature
                .filter(|_| !self.facts.fixed_temperature && thinking.is_none()),
            thinking,
            output_config: (effort.is_some() || format.is_some())
                .then_some(OutputConfig { effort, format }),
            tools: setup
                .tools
                .iter()
                .map(|tool| Tool {
                    name: &tool.name,
                    description: &tool.description,
                    input_schema: &tool.parameters,
                })
                .collect(),
            system: (!setup.system.trim().is_empty()).then(|| {
                [System {
                    r#type: "text",
                    text: &setup.system,
                    cache_control: CacheControl { r#type: "ephemeral" },
                }]
            }),
        });
        bytes.pop();
        bytes.extend_from_slice(b",\"messages\":[");
        bytes.into()
    }

    fn render(&self, message: &Message, onto: &mut Vec<u8>) {
        let (role, content) = match message {
            Message::User { text, images } => {
                let sent: Vec<_> = images.iter().map(|i| super::sent(i, &self.facts)).collect();
                // As the documents advise, the words come after what they are about.
                let mut content: Vec<_> = images
                    .iter()
                    .zip(&sent)
                    .map(|(image, sent)| Block::image(image, sent))
                    .collect();
                content.extend(text_block(text));
                return render_message(onto, "user", &content);
            }
            Message::Assistant { parts } => {
                // Kept alive for the blocks, which borrow them.
                let inputs: Vec<_> = parts.iter().map(input).collect();
                let content: Vec<_> = parts.iter().zip(&inputs).filter_map(past).collect();
                return render_message(onto, "assistant", &content);
            }
            Message::Tool { results } => (
                "user",
                results
                    .iter()
                    .map(|result| Block::ToolResult {
                        tool_use_id: id(&result.call_id),
                        content: Some(&*result.text).filter(|text| !text.is_empty()),
                        is_error: result.is_error,
                    })
                    .collect::<Vec<_>>(),
            ),
        };
        render_message(onto, role, &content);
    }

    fn images(&self) -> ImageRules {
        ImageRules { max_bytes: IMAGE_BYTES, ..super::image_rules(&self.facts) }
    }

    fn frame_with(&self, conversation: &Conversation, tail: Bytes) -> RequestBody {
        let segments = conversation.segments().iter().enumerate().rev();
        let marked = segments.filter(|(_, segment)| segment.at_hand().is_some_and(takes_mark));
        let mut marks: Vec<_> = marked
            .take(MARKED_MESSAGES)
            .map(|(message, _)| Insert { message, from_end: BLOCK_END.len(), bytes: CACHE_MARK })
            .collect();
        marks.reverse();
        conversation.body(&marks, tail)
    }

    fn choice(&self, choice: &ToolChoice, setup: &Setup) -> Map<String, Value> {
        let thinks = self.thinking(setup).0.is_some();
        let told = match choice {
            ToolChoice::None => json!({"type": "none"}),
            ToolChoice::Required if !thinks => json!({"type": "any"}),
            ToolChoice::Tool(name) if !thinks => json!({"type": "tool", "name": name}),
            // A model that thinks cannot be made to call; the server refuses the field.
            ToolChoice::Auto | ToolChoice::Required | ToolChoice::Tool(_) => return Map::new(),
        };
        super::field("tool_choice", told)
    }

    /// By the documents, another choice makes the server read all messages anew.
    fn choice_keeps_cache(&self) -> bool {
        false
    }

    fn decoder(&self, _tools: &Arc<[String]>) -> Box<dyn Decoder> {
        Box::new(AnthropicDecoder::default())
    }

    fn error_message(&self, body: &[u8]) -> Option<String> {
        reported::message(body)
    }
}

/// Returns whether a segment, as it is sent, may carry a mark.
fn takes_mark(sent: &[u8]) -> bool {
    let message = sent.strip_prefix(b",").unwrap_or(sent);
    message.starts_with(USER_START) && message.ends_with(BLOCK_END)
}

#[derive(Serialize)]
struct Head<'a> {
    model: &'a str,
    max_tokens: u32,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Thought>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<[System<'a>; 1]>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Thought {
    Adaptive,
    Enabled { budget_tokens: u32 },
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format<'a>>,
}

#[derive(Serialize)]
struct Format<'a> {
    r#type: &'static str,
    schema: &'a Value,
}

/// What is left for the answer of the tokens that are asked for, whatever is thought before.
const ANSWER_TOKENS: u32 = 1024;

impl Anthropic {
    /// Returns how the model is told how hard to think.
    fn thinking(&self, setup: &Setup) -> (Option<Thought>, Option<&'static str>) {
        let Some(effort) = setup.effort else { return (None, None) };
        match self.facts.thinking {
            Thinking::None => (None, None),
            Thinking::Level { least } => (None, Some(super::level(effort, least))),
            Thinking::Adaptive => {
                (Some(Thought::Adaptive), Some(super::level(effort, Effort::Low)))
            }
            // A model that is newer than the table.
            Thinking::Unknown if setup.model.starts_with("claude-") => {
                (Some(Thought::Adaptive), Some(super::level(effort, Effort::Low)))
            }
            Thinking::Unknown | Thinking::Budget { .. } => {
                let least = match self.facts.thinking {
                    Thinking::Budget { least, .. } => least,
                    _ => 1024,
                };
                let room = setup.max_output_tokens.saturating_sub(ANSWER_TOKENS);
                let budget_tokens = super::budget(effort).min(room);
                let thinks = effort > Effort::Minimal && budget_tokens >= least;
                (thinks.then_some(Thought::Enabled { budget_tokens }), None)
            }
        }
    }
}

#[derive(Serialize)]
struct Tool<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a Value,
}

#[derive(Serialize)]
struct System<'a> {
    r#type: &'static str,
    text: &'a str,
    cache_control: CacheControl,
}

#[derive(Serialize)]
struct CacheControl {
    r#type: &'static str,
}

#[derive(Serialize)]
struct Said<'a> {
    role: &'static str,
    /// The last field, so that the last block's end is the segment's end.
    content: &'a [Block<'a>],
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'a> {
    Text {
        text: &'a str,
    },
    Image {
        source: Source<'a>,
    },
    Thinking {
        thinking: &'a str,
        signature: &'a str,
    },
    RedactedThinking {
        data: &'a str,
    },
    ToolUse {
        id: Cow<'a, str>,
        name: &'a str,
        input: &'a RawValue,
    },
    ToolResult {
        tool_use_id: Cow<'a, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<&'a str>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
}

#[derive(Serialize)]
struct Source<'a> {
    r#type: &'static str,
    media_type: &'static str,
    data: &'a str,
}

impl<'a> Block<'a> {
    fn image(image: &Image, sent: &'a Result<String, &'static str>) -> Self {
        match sent {
            Ok(data) => {
                let media_type = image.kind().media_type();
                Self::Image { source: Source { r#type: "base64", media_type, data } }
            }
            Err(words) => Self::Text { text: words },
        }
    }
}

fn render_message(onto: &mut Vec<u8>, role: &'static str, content: &[Block<'_>]) {
    if !content.is_empty() {
        render_onto(onto, &Said { role, content });
    }
}

/// Returns a text block, or none for a text of white space, which the server refuses.
fn text_block(text: &str) -> Option<Block<'_>> {
    (!text.trim().is_empty()).then_some(Block::Text { text })
}

/// Returns a call's id with letters that the server takes. A session that another provider began
/// may hold others, such as the `functions.f:0` of some models.
fn id(id: &str) -> Cow<'_, str> {
    let taken = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if id.chars().all(taken) {
        return Cow::Borrowed(id);
    }
    let written = |c: char| if taken(c) { c.to_string() } else { format!("_{:x}", u32::from(c)) };
    Cow::Owned(id.chars().map(written).collect())
}

fn input(part: &Part) -> Option<Box<RawValue>> {
    let Part::ToolCall(call) = part else { return None };
    let object = as_object(&call.arguments).into_owned();
    Some(RawValue::from_string(object).expect("`as_object` gives only valid JSON"))
}

fn past<'a>((part, input): (&'a Part, &'a Option<Box<RawValue>>)) -> Option<Block<'a>> {
    match (part, input) {
        (Part::Text { text }, _) => text_block(text),
        (Part::Reasoning { signature: None, .. }, _) => None,
        (Part::Reasoning { signature: Some(seal), .. }, _) if seal::is_marked(seal) => None,
        (Part::Reasoning { signature: Some(data), redacted: true, .. }, _) => {
            Some(Block::RedactedThinking { data })
        }
        (Part::Reasoning { text, signature: Some(signature), .. }, _) => {
            Some(Block::Thinking { thinking: text, signature })
        }
        (Part::ToolCall(call), input) => {
            Some(Block::ToolUse { id: id(&call.id), name: &call.name, input: input.as_deref()? })
        }
    }
}

/// The fields of an event that are heard.
#[derive(Default)]
struct Event<'a> {
    kind: Json<'a>,
    index: Json<'a>,
    message: Json<'a>,
    content_block: Json<'a>,
    delta: Json<'a>,
    usage: Json<'a>,
    /// Of an answer that is not streamed.
    content: Json<'a>,
    stop_reason: Json<'a>,
}

/// The fields of a block's start, or of what is added to it, that are heard.
#[derive(Default)]
struct BlockDelta<'a> {
    text: Text<'a>,
    thinking: Text<'a>,
    signature: Text<'a>,
    partial_json: Text<'a>,
}

impl<'a> BlockDelta<'a> {
    fn of(json: Json<'a>) -> Self {
        let mut delta = Self::default();
        json.fields(|key, value| match key {
            "text" => delta.text = value.text(),
            "thinking" => delta.thinking = value.text(),
            "signature" => delta.signature = value.text(),
            "partial_json" => delta.partial_json = value.text(),
            _ => {}
        });
        delta
    }
}

#[derive(Default)]
struct AnthropicDecoder {
    halves: Halves,
    /// Blocks that have started and not stopped; by the documents at most one.
    open: Vec<(u64, Part)>,
    /// A call without arguments. It may be one that the output limit cut off before its first
    /// argument, so it waits for what follows, which comes at once.
    bare: Option<ToolCall>,
    calls_given: usize,
    ids: HashSet<String>,
    counts: [u64; 4],
    finish: Option<FinishReason>,
    done: bool,
}

impl Decoder for AnthropicDecoder {
    fn event(&mut self, name: &str, data: &str, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        if self.done {
            return Ok(());
        }
        let data = &*self.halves.join(data);
        let mut event = Event::default();
        json::event(data, |key, value| match key {
            "type" => event.kind = value.value(),
            "index" => event.index = value.value(),
            "message" => event.message = value.value(),
            "content_block" => event.content_block = value.value(),
            "delta" => event.delta = value.value(),
            "usage" => event.usage = value.value(),
            "content" => event.content = value.value(),
            "stop_reason" => event.stop_reason = value.value(),
            _ => {}
        })?;
        let kind = event.kind.text().said();
        let kind = if kind.is_empty() { name } else { &*kind };
        let index = event.index.number().unwrap_or(0);
        match kind {
            "message" => return self.whole(&event, out),
            "message_start" => self.count(event.message.field("usage"), out),
            "content_block_start" => {
                self.give_bare(out);
                if self.open.len() >= MAX_PARTS {
                    return Err(super::too_many_parts());
                }
                self.start(index, event.content_block, out);
            }
            "content_block_delta" => self.delta(index, &BlockDelta::of(event.delta), out),
            "content_block_stop" => {
                if let Some(at) = self.open.iter().position(|(open, _)| *open == index) {
                    let (_, part) = self.open.remove(at);
                    self.stop(part, out);
                }
            }
            "message_delta" => {
                let reason = event.delta.field("stop_reason").text();
                if !reason.is_empty() {
                    self.finish = Some(finish_reason(&reason.said()));
                    if self.finish != Some(FinishReason::Length) {
                        self.give_bare(out);
                    }
                }
                self.count(event.usage, out);
            }
            "message_stop" => {
                if self.finish.get_or_insert(FinishReason::Stop) != &FinishReason::Length {
                    self.give_bare(out);
                }
                return self.end(out);
            }
            "error" => return Err(reported::in_stream(data)),
            // `ping`, and what later versions add.
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        if self.done {
            return Ok(());
        }
        let Some(finish) = self.finish else { return Err(DecodeError::EndedEarly) };
        self.done = true;
        out.push(Delta::Finish(match finish {
            FinishReason::Stop if self.calls_given > 0 => FinishReason::ToolCalls,
            FinishReason::ToolCalls if self.calls_given == 0 => FinishReason::Stop,
            finish => finish,
        }));
        Ok(())
    }
}

fn finish_reason(name: &str) -> FinishReason {
    match name {
        "end_turn" | "stop_sequence" => FinishReason::Stop,
        "tool_use" => FinishReason::ToolCalls,
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "refusal" => FinishReason::Refusal,
        _ => FinishReason::Other,
    }
}

impl AnthropicDecoder {
    fn whole(&mut self, event: &Event<'_>, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        for block in event.content.items() {
            self.give_bare(out);
            self.start(0, block, out);
            if let Some((_, part)) = self.open.pop() {
                self.stop(part, out);
            }
        }
        let finish = finish_reason(&event.stop_reason.text().said());
        if finish != FinishReason::Length {
            self.give_bare(out);
        }
        self.finish = Some(finish);
        self.count(event.usage, out);
        self.end(out)
    }

    fn start(&mut self, index: u64, block: Json<'_>, out: &mut Vec<Delta>) {
        let said = |name| block.field(name).text().said().into_owned();
        let part = match &*block.field("type").text().said() {
            "text" => Part::Text { text: String::new() },
            "thinking" => Part::Reasoning { text: String::new(), signature: None, redacted: false },
            "redacted_thinking" => Part::Reasoning {
                text: String::new(),
                signature: Some(said("data")),
                redacted: true,
            },
            "tool_use" => Part::ToolCall(ToolCall {
                id: said("id"),
                name: said("name"),
                // By the documents `{}` here and the arguments in deltas; compatible servers
                // also send all of them here.
                arguments: Some(block.field("input").raw())
                    .filter(|input| input.contains('"'))
                    .unwrap_or_default()
                    .to_owned(),
            }),
            // A kind of block that this version does not know, and did not ask for.
            _ => return,
        };
        self.open.push((index, part));
        self.delta(
            index,
            &BlockDelta { partial_json: Text::default(), ..BlockDelta::of(block) },
            out,
        );
    }

    fn delta(&mut self, index: u64, delta: &BlockDelta<'_>, out: &mut Vec<Delta>) {
        let Some((_, part)) = self.open.iter_mut().find(|(open, _)| *open == index) else { return };
        match part {
            Part::Text { text } if !delta.text.is_empty() => {
                out.push(Delta::Text(appended(text, delta.text)));
            }
            Part::Reasoning { text, signature, redacted: false } => {
                if !delta.thinking.is_empty() {
                    out.push(Delta::Reasoning(appended(text, delta.thinking)));
                }
                if !delta.signature.is_empty() {
                    delta.signature.push_onto(signature.get_or_insert_default());
                }
            }
            Part::ToolCall(call) => delta.partial_json.push_onto(&mut call.arguments),
            _ => {}
        }
    }

    fn stop(&mut self, part: Part, out: &mut Vec<Delta>) {
        match part {
            Part::Text { text } if text.is_empty() => {}
            Part::ToolCall(call) if call.arguments.trim().is_empty() => self.bare = Some(call),
            Part::ToolCall(call) => self.give_call(call, out),
            part => out.push(Delta::Part(part)),
        }
    }

    fn give_bare(&mut self, out: &mut Vec<Delta>) {
        if let Some(call) = self.bare.take() {
            self.give_call(call, out);
        }
    }

    fn give_call(&mut self, mut call: ToolCall, out: &mut Vec<Delta>) {
        self.calls_given += 1;
        name_call(&mut call, self.calls_given, &mut self.ids);
        out.push(Delta::Part(Part::ToolCall(call)));
    }

    /// Takes counts; each event tells only some of them.
    fn count(&mut self, counts: Json<'_>, out: &mut Vec<Delta>) {
        if !counts.is_object() {
            return;
        }
        counts.fields(|key, value| {
            let known = match key {
                "input_tokens" => &mut self.counts[0],
                "cache_read_input_tokens" => &mut self.counts[1],
                "cache_creation_input_tokens" => &mut self.counts[2],
                "output_tokens" => &mut self.counts[3],
                _ => return,
            };
            *known = value.number().unwrap_or(*known);
        });
        let [fresh, cached, written, output] = self.counts;
        out.push(Delta::Usage(Usage {
            input_tokens: fresh.saturating_add(cached).saturating_add(written),
            cached_input_tokens: cached,
            output_tokens: output,
        }));
    }
}

#[cfg(test)]
mod tests;
