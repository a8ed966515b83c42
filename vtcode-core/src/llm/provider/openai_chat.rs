//! OpenAI Chat Completions, also spoken by most local servers: messages in, request bytes out;
//! streamed chunks in, deltas out, a tool call the moment its arguments are complete.
//! Bends to what compatible servers get wrong, but never runs two calls together into one.

mod written;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::arguments::{ObjectScan, as_object};
use super::halves::Halves;
use super::json::{self, Json, Text};
use super::{
    DecodeError, Decoder, Provider, appended, marked_text, name_call, render, render_onto,
    reported, schema,
};
use crate::config::dialect::{
    AnswerSchema, EffortField, IdForm, ModelFacts, OutputLimit, Quirks, SchemaField, Thinking,
    ThinkingBack,
};
use crate::core::memory_pool::{StringLoan, global_pool};
use crate::llm::message::{
    Delta, FinishReason, ImageRules, Message, Part, Setup, ToolAnswer, ToolCall, Usage,
};

/// The wire format, as one server and one model speak it.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenAiChat {
    /// What the server does otherwise.
    pub quirks: Quirks,
    /// What the model takes.
    pub facts: ModelFacts,
}

impl Provider for OpenAiChat {
    fn url(&self, base_url: &str, _model: &str) -> String {
        format!("{base_url}/chat/completions")
    }

    fn headers(&self, key: Option<&str>) -> Vec<(&'static str, String)> {
        super::bearer_headers(key)
    }

    fn head(&self, setup: &Setup) -> Bytes {
        let quirks = &self.quirks;
        let bounded = setup.max_output_chosen || quirks.low_bound;
        let bound =
            |field| (bounded && quirks.output_limit == field).then_some(setup.max_output_tokens);
        let level = setup.effort.and_then(|effort| match self.facts.thinking {
            Thinking::None => None,
            Thinking::Level { least } => Some(super::level(effort, least)),
            _ => Some(effort.as_str()),
        });
        let effort = |field| level.filter(|_| quirks.effort == field);
        let mut bytes = render(&Head {
            model: &setup.model,
            stream: true,
            stream_options: self
                .quirks
                .stream_options
                .then_some(StreamOptions { include_usage: true }),
            max_tokens: bound(OutputLimit::MaxTokens),
            max_completion_tokens: bound(OutputLimit::MaxCompletionTokens),
            temperature: setup.temperature.filter(|_| !self.facts.fixed_temperature),
            reasoning_effort: effort(EffortField::ReasoningEffort),
            reasoning: effort(EffortField::Reasoning).map(|effort| Reasoning { effort }),
            prompt_cache_key: Some(&*setup.session_id)
                .filter(|id| self.quirks.cache_key && !id.is_empty()),
            response_format: self.response_format(setup),
            tools: setup
                .tools
                .iter()
                .map(|tool| Tool {
                    r#type: "function",
                    function: Function {
                        name: &tool.name,
                        description: &tool.description,
                        parameters: &tool.parameters,
                    },
                })
                .collect(),
        });
        bytes.pop();
        bytes.extend_from_slice(b",\"messages\":[");
        if !setup.system.is_empty() {
            bytes.extend(render(&Said { role: "system", content: &setup.system }));
        }
        bytes.into()
    }

    fn segment(&self, message: &Message) -> Bytes {
        match message {
            Message::User { text, images } if images.is_empty() => {
                render(&Said { role: "user", content: text }).into()
            }
            Message::User { text, images } => {
                let mut content = Vec::with_capacity(images.len() + 1);
                content.extend((!text.is_empty()).then(|| Piece::Text { text: text.into() }));
                content.extend(images.iter().map(|i| match super::data_url(i, &self.facts) {
                    Ok(url) => Piece::ImageUrl { image_url: ImageUrl { url } },
                    Err(words) => Piece::Text { text: words.into() },
                }));
                render(&SaidPieces { role: "user", content }).into()
            }
            Message::Assistant { parts } => self.past(parts),
            Message::Tool { results } => {
                let mut bytes = Vec::new();
                for result in results {
                    if !bytes.is_empty() {
                        bytes.push(b',');
                    }
                    self.answer(result, &mut bytes);
                }
                bytes.into()
            }
        }
    }

    fn images(&self) -> ImageRules {
        super::image_rules(&self.facts)
    }

    fn decoder(&self, tools: &Arc<[String]>) -> Box<dyn Decoder> {
        let (tools, fragment) = (Arc::clone(tools), global_pool().loan_string());
        Box::new(ChatDecoder { tools, fragment, ..ChatDecoder::default() })
    }

    fn error_message(&self, body: &[u8]) -> Option<String> {
        reported::message(body)
    }
}

#[derive(Serialize)]
struct Head<'a> {
    model: &'a str,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Reasoning>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_format: Option<ResponseFormat<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct Reasoning {
    effort: &'static str,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat<'a> {
    JsonSchema { json_schema: NamedSchema<'a> },
    JsonObject,
}

#[derive(Serialize)]
struct NamedSchema<'a> {
    name: &'static str,
    strict: bool,
    schema: &'a serde_json::Value,
}

impl OpenAiChat {
    fn response_format<'a>(&self, setup: &'a Setup) -> Option<ResponseFormat<'a>> {
        let schema = setup.answer_schema.as_deref()?;
        let alone = setup.tools.is_empty();
        let taken = match self.facts.answer_schema {
            AnswerSchema::No => false,
            AnswerSchema::WithoutTools => alone,
            _ => alone || self.quirks.schema_with_tools,
        };
        match self.quirks.schema {
            SchemaField::JsonSchema if taken => Some(ResponseFormat::JsonSchema {
                json_schema: NamedSchema {
                    name: "answer",
                    strict: schema::is_strict(schema),
                    schema,
                },
            }),
            SchemaField::JsonObject if taken => Some(ResponseFormat::JsonObject),
            _ => None,
        }
    }
}

#[derive(Serialize)]
struct Tool<'a> {
    r#type: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a serde_json::Value,
}

#[derive(Serialize)]
struct Said<'a> {
    role: &'static str,
    content: &'a str,
}

/// What a user says in more than words.
#[derive(Serialize)]
struct SaidPieces<'a> {
    role: &'static str,
    content: Vec<Piece<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Piece<'a> {
    Text { text: Cow<'a, str> },
    ImageUrl { image_url: ImageUrl },
}

#[derive(Serialize)]
struct ImageUrl {
    url: String,
}

#[derive(Serialize)]
struct Assistant<'a> {
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<PastCall<'a>>,
}

#[derive(Serialize)]
struct PastCall<'a> {
    id: Cow<'a, str>,
    r#type: &'static str,
    function: PastFunction<'a>,
}

#[derive(Serialize)]
struct PastFunction<'a> {
    name: &'a str,
    arguments: Cow<'a, str>,
}

#[derive(Serialize)]
struct Answer<'a> {
    role: &'static str,
    tool_call_id: Cow<'a, str>,
    content: Cow<'a, str>,
}

impl OpenAiChat {
    /// Renders what the model said. Its thinking is sent to servers that want it back, with the
    /// calls that it led to: the wire has no field for it that all servers take. Nothing said gives
    /// nothing, since servers refuse an assistant without content.
    fn past(&self, parts: &[Part]) -> Bytes {
        let content: String = parts
            .iter()
            .filter_map(|part| match part {
                Part::Text { text } => Some(text.as_str()),
                _ => None,
            })
            .collect();
        let tool_calls: Vec<_> = parts
            .iter()
            .filter_map(|part| match part {
                Part::ToolCall(call) => Some(PastCall {
                    id: self.id(&call.id),
                    r#type: "function",
                    function: PastFunction {
                        name: &call.name,
                        arguments: as_object(&call.arguments),
                    },
                }),
                _ => None,
            })
            .collect();
        if content.is_empty() && tool_calls.is_empty() {
            return Bytes::new();
        }
        let content = Some(content).filter(|content| !content.is_empty());
        let thought = parts.iter().find_map(|part| match part {
            Part::Reasoning { text, .. } if !text.is_empty() => Some(&**text),
            _ => None,
        });
        let thought = thought.filter(|_| !tool_calls.is_empty());
        let back = |field| thought.filter(|_| self.quirks.thinking_back == field);
        render(&Assistant {
            role: "assistant",
            content,
            reasoning_content: back(ThinkingBack::ReasoningContent),
            reasoning: back(ThinkingBack::Reasoning),
            tool_calls,
        })
        .into()
    }

    fn answer(&self, result: &ToolAnswer, onto: &mut Vec<u8>) {
        let content = marked_text(result);
        let answer = Answer { role: "tool", tool_call_id: self.id(&result.call_id), content };
        // What stands around the text takes less than this.
        onto.reserve(answer.content.len() + 128);
        render_onto(onto, &answer);
    }

    /// Returns a call's id as the server takes it back.
    fn id<'a>(&self, id: &'a str) -> Cow<'a, str> {
        let fits = id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match self.quirks.ids {
            IdForm::NineAlphanumeric if !fits => {
                // Of a hash, so that it is the same in the call and in its answer.
                Cow::Owned(blake3::hash(id.as_bytes()).to_hex()[..9].to_owned())
            }
            _ => Cow::Borrowed(id),
        }
    }
}

/// The fields of a choice that are heard.
#[derive(Default)]
struct Choice<'a> {
    index: Json<'a>,
    /// What is said; the whole answer, from a server that does not stream.
    said: Json<'a>,
    finish_reason: Json<'a>,
}

/// The fields of what is said that are heard.
#[derive(Default)]
struct Spoken<'a> {
    /// Words; a list of pieces from servers that say what is thinking in it.
    content: Json<'a>,
    refusal: Json<'a>,
    reasoning_content: Json<'a>,
    reasoning: Json<'a>,
    tool_calls: Json<'a>,
}

#[derive(Default)]
struct CallDelta<'a> {
    index: Json<'a>,
    id: Json<'a>,
    name: Json<'a>,
    /// A fragment of text; some servers send the object itself.
    arguments: Json<'a>,
}

impl<'a> Choice<'a> {
    fn of(json: Json<'a>) -> Self {
        let mut choice = Self::default();
        json.fields(|key, value| match key {
            "index" => choice.index = value,
            "delta" if !value.is_none() => choice.said = value,
            "message" if choice.said.is_none() => choice.said = value,
            "finish_reason" => choice.finish_reason = value,
            _ => {}
        });
        choice
    }
}

impl<'a> Spoken<'a> {
    fn of(json: Json<'a>) -> Self {
        let mut said = Self::default();
        json.fields(|key, value| match key {
            "content" => said.content = value,
            "refusal" => said.refusal = value,
            "reasoning_content" => said.reasoning_content = value,
            "reasoning" => said.reasoning = value,
            "tool_calls" => said.tool_calls = value,
            _ => {}
        });
        said
    }
}

impl<'a> CallDelta<'a> {
    fn of(json: Json<'a>) -> Self {
        let mut call = Self::default();
        json.fields(|key, value| match key {
            "index" => call.index = value,
            "id" => call.id = value,
            "function" => value.fields(|key, value| match key {
                "name" => call.name = value,
                "arguments" => call.arguments = value,
                _ => {}
            }),
            _ => {}
        });
        call
    }
}

/// One part of the answer, in the order in which the parts began.
enum Slot {
    Text(String),
    Reasoning(String),
    Call(OpenCall),
}

#[derive(Default)]
struct OpenCall {
    index: Option<i64>,
    /// As the server sent it; may be empty.
    id: String,
    name: String,
    arguments: String,
    scan: ObjectScan,
    /// Nothing more is expected, whether its object closed or not.
    ended: bool,
}

impl OpenCall {
    fn is_complete(&self) -> bool {
        (self.scan.is_closed() && !self.name.is_empty()) || self.ended
    }
}

#[derive(Default)]
struct ChatDecoder {
    /// The names that were offered.
    tools: Arc<[String]>,
    halves: Halves,
    /// What the last piece of a call's arguments said; kept for its room.
    fragment: StringLoan,
    slots: Vec<Slot>,
    /// How many of the slots were given out.
    given: usize,
    /// How many calls were given out, and under which ids.
    calls_given: usize,
    ids: HashSet<String>,
    usage: Usage,
    finish: Option<FinishReason>,
    /// The model refused in words of their own kind; the stream ends with a plain `stop` then.
    refused: bool,
    done: bool,
}

impl Decoder for ChatDecoder {
    fn event(&mut self, event: &str, data: &str, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        if self.done {
            return Ok(());
        }
        if data.trim() == "[DONE]" {
            // A stream that says nothing but this is one that a broken server gave up.
            if self.finish.is_none() && self.slots.is_empty() {
                return Err(DecodeError::EndedEarly);
            }
            return self.finish(out);
        }
        let data = &*self.halves.join(data);
        let (mut choices, mut usage, mut error) = <(Json<'_>, Json<'_>, Json<'_>)>::default();
        json::event(data, |key, value| match key {
            "choices" => choices = value,
            "usage" => usage = value,
            "error" => error = value,
            _ => {}
        })?;
        if event == "error" || !error.is_none() {
            return Err(reported::in_stream(data));
        }
        // We ask for one answer; a server that sends more gets its first one heard.
        let first = |choice: &Choice<'_>| choice.index.number().unwrap_or(0) == 0;
        for choice in choices.items().map(Choice::of).filter(first) {
            self.said(&Spoken::of(choice.said), out);
            let reason = choice.finish_reason.text();
            if !reason.is_empty() {
                self.finish = Some(finish_reason(&reason.said()));
                if self.has_calls() {
                    // The calls can start now; usage and the closing event are still to come.
                    self.settle(out)?;
                }
            }
        }
        if usage.is_object() {
            self.usage(usage, out);
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        if self.done {
            return Ok(());
        }
        if self.finish.is_none() {
            return Err(DecodeError::EndedEarly);
        }
        self.finish(out)
    }
}

fn finish_reason(name: &str) -> FinishReason {
    match name {
        "stop" => FinishReason::Stop,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        "length" => FinishReason::Length,
        "content_filter" => FinishReason::Refusal,
        _ => FinishReason::Other,
    }
}

impl ChatDecoder {
    fn said(&mut self, said: &Spoken<'_>, out: &mut Vec<Delta>) {
        // Servers that name both fields repeat the same words in them.
        let reasoning = said.reasoning_content.text();
        self.think(if reasoning.is_empty() { said.reasoning.text() } else { reasoning }, out);
        self.speak(said.content.text(), out);
        for piece in said.content.items() {
            self.piece(piece, out);
        }
        let refusal = said.refusal.text();
        self.refused |= !refusal.is_empty();
        self.speak(refusal, out);
        for call in said.tool_calls.items() {
            self.call(&CallDelta::of(call));
        }
        self.give(out);
    }

    /// Takes a piece of a content that is a list, as Mistral's thinking models send it.
    fn piece(&mut self, piece: Json<'_>, out: &mut Vec<Delta>) {
        let thinking = piece.field("thinking");
        self.think(thinking.text(), out);
        for thought in thinking.items() {
            self.think(thought.field("text").text(), out);
        }
        self.speak(piece.field("text").text(), out);
    }

    fn think(&mut self, words: Text<'_>, out: &mut Vec<Delta>) {
        if words.is_empty() {
            return;
        }
        if !matches!(self.slots.last(), Some(Slot::Reasoning(_))) {
            self.slots.push(Slot::Reasoning(String::new()));
            self.give(out);
        }
        if let Some(Slot::Reasoning(text)) = self.slots.last_mut() {
            out.push(Delta::Reasoning(appended(text, words)));
        }
    }

    fn speak(&mut self, words: Text<'_>, out: &mut Vec<Delta>) {
        if words.is_empty() {
            return;
        }
        if !matches!(self.slots.last(), Some(Slot::Text(_))) {
            self.slots.push(Slot::Text(String::new()));
            self.give(out);
        }
        if let Some(Slot::Text(text)) = self.slots.last_mut() {
            out.push(Delta::Text(appended(text, words)));
        }
    }

    fn call(&mut self, delta: &CallDelta<'_>) {
        let mut fragment = std::mem::take(&mut self.fragment);
        fragment.clear();
        if delta.arguments.is_object() {
            fragment.push_str(delta.arguments.raw());
        } else {
            delta.arguments.text().push_onto(&mut fragment);
        }
        self.call_piece(delta, &fragment);
        self.fragment = fragment;
    }

    fn call_piece(&mut self, delta: &CallDelta<'_>, fragment: &str) {
        let (id, name) = (&*delta.id.text().said(), &*delta.name.text().said());
        let index = delta.index.number();
        let at = self.continued(index, id, name, fragment).unwrap_or_else(|| {
            self.slots.push(Slot::Call(OpenCall { index, ..OpenCall::default() }));
            self.slots.len() - 1
        });
        let Slot::Call(call) = &mut self.slots[at] else {
            unreachable!("only calls are continued")
        };
        if call.id.is_empty() {
            id.clone_into(&mut call.id);
        }
        // A name repeated on every chunk is one name; one that differs is the rest of it.
        if call.name != name {
            call.name.push_str(name);
        }
        let taken = call.scan.push(fragment);
        call.arguments.push_str(&fragment[..taken]);
    }

    /// Returns the slot of the call that a fragment belongs to, or none if it begins a new one.
    ///
    /// By the wire's rules the index tells. In practice some servers leave it out, or send 0 for
    /// each of several calls, or repeat id and name on every chunk.
    fn continued(&self, index: Option<i64>, id: &str, name: &str, fragment: &str) -> Option<usize> {
        let at = self.slots.iter().rposition(|slot| match slot {
            Slot::Call(call) if index.is_some() => call.index == index,
            Slot::Call(call) => id.is_empty() || call.id == id,
            _ => false,
        })?;
        let Slot::Call(call) = &self.slots[at] else { return None };
        let other_id = !id.is_empty() && !call.id.is_empty() && call.id != id;
        let other_name = !name.is_empty() && !call.name.is_empty() && call.name != name;
        let rest_of_name = index.is_some() && id.is_empty() && call.arguments.is_empty();
        let another_object =
            !name.is_empty() && call.scan.is_closed() && fragment.trim_start().starts_with('{');
        let begins = other_id || (other_name && !rest_of_name) || another_object;
        (!begins).then_some(at)
    }

    fn has_calls(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, Slot::Call(_)))
    }

    /// Gives out the slots that are complete, up to the first that is not.
    fn give(&mut self, out: &mut Vec<Delta>) {
        while self.given < self.slots.len() {
            let is_last = self.given + 1 == self.slots.len();
            let part = match &mut self.slots[self.given] {
                Slot::Text(_) | Slot::Reasoning(_) if is_last => break,
                Slot::Text(text) => Part::Text { text: std::mem::take(text) },
                Slot::Reasoning(text) => {
                    Part::Reasoning { text: std::mem::take(text), signature: None, redacted: false }
                }
                Slot::Call(call) if !call.is_complete() => break,
                Slot::Call(call) => Part::ToolCall(ToolCall {
                    id: call.id.clone(),
                    name: call.name.clone(),
                    arguments: std::mem::take(&mut call.arguments),
                }),
            };
            self.given += 1;
            self.give_part(part, out);
        }
    }

    fn give_part(&mut self, part: Part, out: &mut Vec<Delta>) {
        let part = match part {
            Part::ToolCall(mut call) => {
                self.calls_given += 1;
                name_call(&mut call, self.calls_given, &mut self.ids);
                Part::ToolCall(call)
            }
            part => part,
        };
        out.push(Delta::Part(part));
    }

    /// Gives out all that is left: nothing more of the answer comes.
    fn settle(&mut self, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        let cut_off = self.finish == Some(FinishReason::Length);
        let mut at = 0;
        self.slots.retain_mut(|slot| {
            at += 1;
            let Slot::Call(call) = slot else { return true };
            call.ended = true;
            // Cut off before its first argument, a call is not one without arguments. One cut off
            // later stays: its broken arguments never run, and the model reads why.
            at <= self.given || !(cut_off && call.arguments.trim().is_empty())
        });
        let nameless = |slot: &Slot| matches!(slot, Slot::Call(call) if call.name.is_empty());
        if self.slots[self.given..].iter().any(nameless) {
            return Err(DecodeError::Malformed { what: "a tool call without a name".to_owned() });
        }
        self.give(out);
        if self.given < self.slots.len() {
            // `give` keeps the last text, as more of it could follow.
            let last = match self.slots.pop() {
                Some(Slot::Text(text)) => Part::Text { text },
                Some(Slot::Reasoning(text)) => {
                    Part::Reasoning { text, signature: None, redacted: false }
                }
                _ => unreachable!("`give` stops only at an incomplete call or the last text"),
            };
            self.give_part(last, out);
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        let written = match self.slots.last() {
            Some(Slot::Text(text)) if !self.tools.is_empty() && !self.has_calls() => {
                written::calls(text, &self.tools)
            }
            _ => Vec::new(),
        };
        self.settle(out)?;
        for (name, arguments) in written {
            self.give_part(Part::ToolCall(ToolCall { id: String::new(), name, arguments }), out);
        }
        let finish = match (self.finish, self.calls_given) {
            _ if self.refused => FinishReason::Refusal,
            // Some servers say `stop` after tool calls, or `tool_calls` after none.
            (None | Some(FinishReason::Stop), 1..) => FinishReason::ToolCalls,
            (None | Some(FinishReason::ToolCalls), 0) => FinishReason::Stop,
            (Some(finish), _) => finish,
        };
        self.done = true;
        out.push(Delta::Finish(finish));
        Ok(())
    }

    fn usage(&mut self, told: Json<'_>, out: &mut Vec<Delta>) {
        let mut usage = Usage::default();
        told.fields(|key, value| match key {
            "prompt_tokens" => usage.input_tokens = value.number().unwrap_or(0),
            "completion_tokens" => usage.output_tokens = value.number().unwrap_or(0),
            "prompt_tokens_details" => {
                let cached = value.field("cached_tokens").number();
                usage.cached_input_tokens = cached.unwrap_or(usage.cached_input_tokens);
            }
            // DeepSeek's word for it.
            "prompt_cache_hit_tokens" => {
                usage.cached_input_tokens = value.number().unwrap_or(usage.cached_input_tokens);
            }
            _ => {}
        });
        // Some servers repeat the counts on every chunk.
        if usage != self.usage {
            self.usage = usage;
            out.push(Delta::Usage(usage));
        }
    }
}

#[cfg(test)]
#[allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them so")]
mod tests {
    use expect_test::{Expect, expect};

    use super::super::tests::{body, decoded, messages, setup};
    use super::*;

    /// Checks what a stream of these chunks says.
    #[track_caller]
    fn check(chunks: &[&str], expected: &Expect) {
        let stream = format!("data: {}\n\n", chunks.join("\n\ndata: "));
        expected.assert_eq(&decoded(&OpenAiChat::default(), &stream));
    }

    /// A chunk with this delta.
    fn delta(delta: &str) -> String {
        format!(
            r#"{{"id":"c","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}],"usage":null}}"#
        )
    }

    /// A chunk with these tool call fragments.
    fn calls(calls: &str) -> String {
        delta(&format!(r#"{{"tool_calls":[{calls}]}}"#))
    }

    fn stop(reason: &str) -> String {
        format!(r#"{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}]}}"#)
    }

    #[test]
    fn ids_and_thinking_go_back_as_the_server_takes_them() {
        let parts = vec![
            Part::Reasoning { text: "hm".to_owned(), signature: None, redacted: false },
            Part::ToolCall(ToolCall {
                id: "call_1".to_owned(),
                name: "f".to_owned(),
                arguments: "{}".to_owned(),
            }),
        ];
        let past = Message::Assistant { parts };
        let answer = ToolAnswer {
            call_id: "call_1".to_owned(),
            name: "f".to_owned(),
            text: "ok".to_owned(),
            is_error: false,
        };
        let sent = |url: &str| {
            let provider = super::super::of(&crate::config::endpoint::Endpoint::new(
                crate::config::endpoint::Wire::OpenAiChat,
                url,
                "m",
            ));
            let answer = Message::Tool { results: vec![answer.clone()] };
            [provider.segment(&past), provider.segment(&answer)]
                .map(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap())
        };
        let [call, _] = sent("https://api.deepseek.com/v1");
        assert_eq!(call["reasoning_content"], "hm");
        let [call, _] = sent("http://localhost:11434/v1");
        assert_eq!(call["reasoning"], "hm");
        let [call, answer] = sent("http://h/v1");
        assert!(call.get("reasoning").is_none() && call.get("reasoning_content").is_none());
        assert_eq!(
            (&call["tool_calls"][0]["id"], &answer["tool_call_id"]),
            (&"call_1".into(), &"call_1".into())
        );
        let [call, answer] = sent("https://api.mistral.ai/v1");
        let id = call["tool_calls"][0]["id"].as_str().unwrap();
        assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        assert_eq!(answer["tool_call_id"], id);
    }

    #[test]
    fn a_content_of_pieces_is_heard() {
        check(
            &[
                r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"h"}]}]}}]}"#,
                r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"m"}]}]}}]}"#,
                r#"{"choices":[{"delta":{"content":[{"type":"text","text":"So."}]}}]}"#,
                &stop("stop"),
                "[DONE]",
            ],
            &expect![[r#"
                reasoning "h"
                reasoning "m"
                = reasoning "hm" 
                text "So."
                = text "So."
                finish Stop
            "#]],
        );
    }

    #[test]
    fn a_request_is_rendered_as_the_wire_wants_it() {
        let head = OpenAiChat::default().head(&setup());
        let segments: Vec<_> =
            messages().iter().map(|m| OpenAiChat::default().segment(m)).collect();
        let body = body(&OpenAiChat::default(), &head, &segments);
        serde_json::from_str::<serde_json::Value>(&body).unwrap();
        expect![[r#"
            {"model":"m","stream":true,"stream_options":{"include_usage":true},"tools":[{"type":"function","function":{"name":"read_file","description":"Reads","parameters":{"type":"object"}}}],"messages":[
            {"role":"system","content":"Be \"good\"."},
            {"role":"user","content":"fix\nit"},
            {"role":"assistant","content":"I look.","tool_calls":[{"id":"a","type":"function","function":{"name":"read_file","arguments":"{\"path\": \"x\"}"}},{"id":"b","type":"function","function":{"name":"read_file","arguments":"{\"_raw\":\"{\\\"path\\\":\"}"}},{"id":"c","type":"function","function":{"name":"read_file","arguments":"{}"}}]},
            {"role":"tool","tool_call_id":"a","content":"one"},
            {"role":"tool","tool_call_id":"b","content":"error: no JSON"},
            {"role":"tool","tool_call_id":"c","content":"Error: no path"},
            {"role":"tool","tool_call_id":"d","content":""},
            {"role":"user","content":"go on"}]}"#]].assert_eq(&body.replace("{\"role\"", "\n{\"role\""));
    }

    #[test]
    fn without_system_prompt_and_tools_neither_is_sent() {
        let bare = Setup { system: String::new(), tools: Vec::new(), ..setup() };
        let head = OpenAiChat::default().head(&bare);
        let hello = OpenAiChat::default().segment(&Message::user("hi"));
        assert_eq!(
            body(&OpenAiChat::default(), &head, &[hello]),
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}"#
        );
    }

    #[test]
    fn the_key_stands_in_one_header() {
        assert!(
            OpenAiChat::default()
                .headers(Some("k"))
                .contains(&("authorization", "Bearer k".to_owned()))
        );
        assert!(
            !OpenAiChat::default().headers(None).iter().any(|(name, _)| *name == "authorization")
        );
        assert_eq!(OpenAiChat::default().url("http://h/v1", "m"), "http://h/v1/chat/completions");
    }

    #[test]
    fn words_thinking_and_usage_are_told_as_they_come() {
        check(
            &[
                &delta(r#"{"role":"assistant","content":"","reasoning_content":null}"#),
                &delta(r#"{"reasoning_content":"h","reasoning":"h"}"#),
                &delta(r#"{"reasoning":"m"}"#),
                &delta(r#"{"content":"Gr\u00fc\u00df "}"#),
                &delta(r#"{"content":"Gott 🙂","reasoning":{"odd":1}}"#),
                &stop("stop"),
                r#"{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":8,"audio_tokens":0}}}"#,
                "[DONE]",
            ],
            &expect![[r#"
                reasoning "h"
                reasoning "m"
                = reasoning "hm" 
                text "Grüß "
                text "Gott 🙂"
                usage 12 (8) 3
                = text "Grüß Gott 🙂"
                finish Stop
            "#]],
        );
    }

    #[test]
    fn an_emoji_cut_in_two_by_the_server_costs_neither_the_answer_nor_the_emoji() {
        check(
            &[
                &delta(r#"{"content":"a \ud83d"}"#),
                &delta(r#"{"content":"\ude42"}"#),
                &calls(
                    r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\":\"\ud83d"}}"#,
                ),
                &calls(r#"{"index":0,"function":{"arguments":"\ude42\"}"}}"#),
                &stop("tool_calls"),
            ],
            &expect![[r#"
                text "a "
                text "🙂"
                = text "a 🙂"
                = call a f {"x":"🙂"}
                finish ToolCalls
            "#]],
        );
    }

    #[test]
    fn odd_counts_and_indices_do_not_cost_the_answer() {
        check(
            &[
                r#"{"choices":[{"index":"0","delta":{"content":"hi"}}],"usage":"none yet"}"#,
                &calls(r#"{"index":"0","id":"a","function":{"name":"f","arguments":"{\"x\":"}}"#),
                &calls(r#"{"index":"0","function":{"arguments":"1}"}}"#),
                &stop("tool_calls"),
                r#"{"choices":[],"usage":{"prompt_tokens":-1,"completion_tokens":3,"prompt_tokens_details":[]}}"#,
                r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2.5}}"#,
            ],
            &expect![[r#"
                text "hi"
                = text "hi"
                = call a f {"x":1}
                usage 0 (0) 3
                usage 7 (0) 0
                finish ToolCalls
            "#]],
        );
    }

    #[test]
    fn a_call_is_told_the_moment_its_object_closes() {
        check(
            &[
                &delta(r#"{"role":"assistant","content":"I look."}"#),
                &calls(
                    r#"{"index":0,"id":"a","type":"function","function":{"name":"read_file","arguments":""}}"#,
                ),
                &calls(r#"{"index":0,"function":{"arguments":"{\"path\":\"}"}}"#),
                &calls(r#"{"index":0,"function":{"arguments":"\"}"}}"#),
                // A mark between the call and the end shows that the call was not held back.
                r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
                &stop("tool_calls"),
                "[DONE]",
            ],
            &expect![[r#"
                text "I look."
                = text "I look."
                = call a read_file {"path":"}"}
                usage 1 (0) 1
                finish ToolCalls
            "#]],
        );
    }

    #[test]
    fn interleaved_calls_come_in_the_order_in_which_they_began() {
        check(
            &[
                &calls(
                    r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\":"}},{"index":1,"id":"b","function":{"name":"g","arguments":"{"}}"#,
                ),
                &calls(r#"{"index":1,"function":{"arguments":"}"}}"#),
                &calls(r#"{"index":2,"id":"c","function":{"name":"h","arguments":""}}"#),
                &calls(r#"{"index":0,"function":{"arguments":"1}\n"}}"#),
                &stop("tool_calls"),
            ],
            &expect![[r#"
                = call a f {"x":1}
                = call b g {}
                = call c h 
                finish ToolCalls
            "#]],
        );
    }

    #[test]
    fn what_compatible_servers_get_wrong_still_gives_each_call_once() {
        // No index, whole calls, the same id twice, and a plain `stop`.
        check(
            &[
                &calls(r#"{"id":"a","function":{"name":"f","arguments":"{}"}}"#),
                &calls(r#"{"id":"a","function":{"name":"f","arguments":"{\"x\":1}"}}"#),
                &stop("stop"),
                "[DONE]",
            ],
            &expect![[r#"
                = call a f {}
                = call a_2 f {"x":1}
                finish ToolCalls
            "#]],
        );
        // Index 0 for each of two calls, without arguments, then with an object.
        check(
            &[
                &calls(r#"{"index":0,"id":"a","function":{"name":"f"}}"#),
                &calls(r#"{"index":0,"id":"b","function":{"name":"f","arguments":{"x":1}}}"#),
                &stop("tool_calls"),
            ],
            &expect![[r#"
                = call a f 
                = call b f {"x":1}
                finish ToolCalls
            "#]],
        );
        // Id and name on every chunk; and neither index nor id on later chunks.
        check(
            &[
                &calls(r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\""}}"#),
                &calls(r#"{"index":0,"id":"a","function":{"name":"f","arguments":":1}"}}"#),
                &calls(r#"{"index":0,"id":"a","function":{"name":"f","arguments":""}}"#),
                &calls(r#"{"id":"b","function":{"name":"g","arguments":"{"}}"#),
                &calls(r#"{"function":{"arguments":"}"}}"#),
                &stop("function_call"),
            ],
            &expect![[r#"
                = call a f {"x":1}
                = call b g {}
                finish ToolCalls
            "#]],
        );
        // No ids and no indices at all.
        check(
            &[
                &calls(
                    r#"{"function":{"name":"f","arguments":"{}"}},{"function":{"name":"f","arguments":"{}"}}"#,
                ),
                &calls(r#"{"function":{"name":"g","arguments":null}}"#),
                &stop(""),
                "[DONE]",
            ],
            &expect![[r#"
                = call call_1 f {}
                = call call_2 f {}
                = call call_3 g 
                finish ToolCalls
            "#]],
        );
    }

    #[test]
    fn text_around_calls_keeps_its_place() {
        check(
            &[
                &delta(r#"{"content":"a"}"#),
                &calls(r#"{"index":0,"id":"x","function":{"name":"f","arguments":"{"}}"#),
                &delta(r#"{"content":"b"}"#),
                &calls(r#"{"index":0,"function":{"arguments":"}"}}"#),
                &stop("tool_calls"),
            ],
            &expect![[r#"
                text "a"
                = text "a"
                text "b"
                = call x f {}
                = text "b"
                finish ToolCalls
            "#]],
        );
    }

    #[test]
    fn broken_arguments_are_told_as_they_are() {
        check(
            &[
                &calls(
                    r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\": oops"}}"#,
                ),
                &calls(r#"{"index":1,"id":"b","function":{"name":"f","arguments":"[1]"}}"#),
                &stop("tool_calls"),
            ],
            &expect![[r#"
                = call a f {"x": oops
                = call b f [1]
                finish ToolCalls
            "#]],
        );
        check(
            &[&calls(r#"{"index":0,"id":"a","function":{"arguments":"{}"}}"#), &stop("tool_calls")],
            &expect![[r#"
                the stream holds an event that is not what the provider documents: a tool call without a name
            "#]],
        );
    }

    #[test]
    fn a_call_cut_off_before_its_arguments_is_not_one_without() {
        check(
            &[
                &calls(r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\":\"lo"}}"#),
                &calls(r#"{"index":1,"id":"b","function":{"name":"f","arguments":""}}"#),
                &stop("length"),
            ],
            &expect![[r#"
                = call a f {"x":"lo
                finish Length
            "#]],
        );
    }

    #[test]
    fn a_stream_ends_well_only_if_it_says_so() {
        let early = "the stream ended before the answer was complete\n";
        let text = delta(r#"{"content":"a"}"#);
        check(
            &[&text, &stop("stop")],
            &expect![[r#"
            text "a"
            = text "a"
            finish Stop
        "#]],
        );
        check(
            &[&text, "[DONE]"],
            &expect![[r#"
            text "a"
            = text "a"
            finish Stop
        "#]],
        );
        check(
            &[&text],
            &expect![[r#"
            text "a"
            the stream ended before the answer was complete
        "#]],
        );
        assert_eq!(decoded(&OpenAiChat::default(), ""), early);
        assert_eq!(decoded(&OpenAiChat::default(), "data: [DONE]\n\n"), early);
        assert_eq!(decoded(&OpenAiChat::default(), ": only a comment\n\n"), early);
        assert_eq!(
            decoded(&OpenAiChat::default(), &format!("data: {}\n", stop("stop"))),
            early,
            "without its blank line an event is none"
        );
    }

    #[test]
    fn refusals_filters_and_unknown_ends_are_told() {
        check(
            &[&delta(r#"{"refusal":"I cannot."}"#), &stop("stop"), "[DONE]"],
            &expect![[r#"
            text "I cannot."
            = text "I cannot."
            finish Refusal
        "#]],
        );
        check(
            &[&stop("content_filter")],
            &expect![[r#"
            finish Refusal
        "#]],
        );
        check(
            &[&stop("load")],
            &expect![[r#"
            finish Other
        "#]],
        );
    }

    #[test]
    fn errors_in_the_stream_end_it() {
        check(
            &[
                &delta(r#"{"content":"a"}"#),
                r#"{"error":{"message":"busy","code":429}}"#,
                &stop("stop"),
            ],
            &expect![[r#"
                text "a"
                the provider reported an error in the stream: busy
            "#]],
        );
        assert_eq!(
            decoded(&OpenAiChat::default(), "event: error\ndata: {\"message\":\"gone\"}\n\n"),
            "the provider reported an error in the stream: gone\n"
        );
        check(
            &["{\"choices\":[{"],
            &expect![[r#"
            the stream holds an event that is not what the provider documents: EOF while parsing an object at line 1 column 13: {"choices":[{
        "#]],
        );
    }

    #[test]
    fn fields_and_shapes_that_nobody_promised_do_no_harm() {
        check(
            &[
                r#"{"choices":null,"system_fingerprint":"x","new":{"a":[1]}}"#,
                r#"{"choices":[{"delta":null,"finish_reason":null}]}"#,
                r#"{"choices":[{"delta":{"content":["odd"],"tool_calls":null}}]}"#,
                r#"{"choices":[{"index":1,"delta":{"content":"another answer"}}]}"#,
                r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":null}}"#,
                "[DONE]",
                "after the end",
            ],
            &expect![[r#"
                text "a"
                = text "a"
                finish Stop
            "#]],
        );
    }

    #[test]
    fn a_whole_answer_decodes_as_one_chunk() {
        check(
            &[
                r#"{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
            ],
            &expect![[r#"
                text "Hi"
                = text "Hi"
                = call a f {}
                usage 1 (0) 2
                finish ToolCalls
            "#]],
        );
    }

    #[test]
    fn a_call_written_as_text_counts_if_no_native_one_came() {
        let text =
            delta(r#"{"content":"```json\n{\"name\": \"read_file\", \"arguments\": {}}\n```"}"#);
        check(
            &[&text, &stop("stop"), "[DONE]"],
            &expect![[r#"
            text "```json\n{\"name\": \"read_file\", \"arguments\": {}}\n```"
            = text "```json\n{\"name\": \"read_file\", \"arguments\": {}}\n```"
            = call call_1 read_file {}
            finish ToolCalls
        "#]],
        );
        let native = calls(r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}"#);
        check(
            &[&text, &native, &stop("stop")],
            &expect![[r#"
            text "```json\n{\"name\": \"read_file\", \"arguments\": {}}\n```"
            = text "```json\n{\"name\": \"read_file\", \"arguments\": {}}\n```"
            = call a f {}
            finish ToolCalls
        "#]],
        );
    }
}
