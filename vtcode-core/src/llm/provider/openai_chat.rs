//! OpenAI Chat Completions, also spoken by most local servers: messages in, request bytes out;
//! streamed chunks in, deltas out, a tool call the moment its arguments are complete.
//! Bends to what compatible servers get wrong, but never runs two calls together into one.

mod written;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::arguments::{ObjectScan, as_object};
use super::halves::Halves;
use super::json::{self, Json, Reader, Text};
use super::{
    DecodeError, Decoder, MAX_PARTS, Provider, appended, marked_text, name_call, render,
    render_onto, reported, schema,
};
use crate::config::dialect::{
    AnswerSchema, EffortField, IdForm, ModelFacts, OutputLimit, Quirks, SchemaField, Thinking,
    ThinkingBack,
};
use crate::core::memory_pool::{StringLoan, global_pool};
use crate::llm::message::{
    Delta, FinishReason, ImageRules, Message, Part, Setup, ToolAnswer, ToolCall, ToolChoice, Usage,
    tool_calls,
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
            response_format: self.response_format(setup, setup.tools.is_empty()),
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

    fn render(&self, message: &Message, onto: &mut Vec<u8>) {
        match message {
            Message::User { text, images } if images.is_empty() => {
                render_onto(onto, &Said { role: "user", content: text });
            }
            Message::User { text, images } => {
                let mut content = Vec::with_capacity(images.len() + 1);
                content.extend((!text.is_empty()).then(|| Piece::Text { text: text.into() }));
                content.extend(images.iter().map(|i| match super::data_url(i, &self.facts) {
                    Ok(url) => Piece::ImageUrl { image_url: ImageUrl { url } },
                    Err(words) => Piece::Text { text: words.into() },
                }));
                render_onto(onto, &SaidPieces { role: "user", content });
            }
            Message::Assistant { parts } => self.past(parts, onto),
            Message::Tool { results } => {
                for (nth, result) in results.iter().enumerate() {
                    if nth > 0 {
                        onto.push(b',');
                    }
                    self.answer(result, onto);
                }
            }
        }
    }

    fn images(&self) -> ImageRules {
        super::image_rules(&self.facts)
    }

    fn choice(&self, choice: &ToolChoice, setup: &Setup) -> Map<String, Value> {
        let schema = |format: &ResponseFormat<'_>| {
            serde_json::to_value(format).expect("a schema is JSON that renders")
        };
        let told = match choice {
            ToolChoice::Auto => return Map::new(),
            ToolChoice::None => {
                let mut fields = super::field("tool_choice", "none");
                // A server that takes no schema beside tools takes one where none may be called.
                let held = self.facts.answer_schema != AnswerSchema::WithoutTools
                    && self.response_format(setup, false).is_none();
                let format = held.then(|| self.response_format(setup, true)).flatten();
                fields.extend(format.map(|format| ("response_format".to_owned(), schema(&format))));
                return fields;
            }
            // What such a server does hold its model to is a schema: the call comes as words.
            ToolChoice::Required | ToolChoice::Tool(_)
                if !self.quirks.required && self.quirks.schema == SchemaField::JsonSchema =>
            {
                let calls = written::schema(&setup.tools, choice);
                let json_schema = NamedSchema { name: "call", strict: false, schema: &calls };
                let mut fields = super::field("tool_choice", "none");
                let format = schema(&ResponseFormat::JsonSchema { json_schema });
                fields.insert("response_format".to_owned(), format);
                return fields;
            }
            ToolChoice::Required => "required".into(),
            ToolChoice::Tool(name) => {
                serde_json::json!({"type": "function", "function": {"name": name}})
            }
        };
        super::field("tool_choice", told)
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
    schema: &'a Value,
}

impl OpenAiChat {
    /// Returns the form in which a schema is asked for, `alone`: with no tool that could be called.
    fn response_format<'a>(&self, setup: &'a Setup, alone: bool) -> Option<ResponseFormat<'a>> {
        let schema = setup.answer_schema.as_deref()?;
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
    parameters: &'a Value,
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
    #[serde(skip_serializing_if = "PastCalls::is_empty")]
    tool_calls: PastCalls<'a>,
}

/// The calls among the parts of an answer, as the server takes them back.
struct PastCalls<'a> {
    server: &'a OpenAiChat,
    parts: &'a [Part],
}

impl PastCalls<'_> {
    fn is_empty(&self) -> bool {
        tool_calls(self.parts).next().is_none()
    }
}

impl Serialize for PastCalls<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(tool_calls(self.parts).map(|call| PastCall {
            id: self.server.id(&call.id),
            r#type: "function",
            function: PastFunction { name: &call.name, arguments: as_object(&call.arguments) },
        }))
    }
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
    fn past(&self, parts: &[Part], onto: &mut Vec<u8>) {
        let content: String = parts
            .iter()
            .filter_map(|part| match part {
                Part::Text { text } => Some(text.as_str()),
                _ => None,
            })
            .collect();
        let tool_calls = PastCalls { server: self, parts };
        if content.is_empty() && tool_calls.is_empty() {
            return;
        }
        let content = Some(content).filter(|content| !content.is_empty());
        let thought = parts.iter().find_map(|part| match part {
            Part::Reasoning { text, .. } if !text.is_empty() => Some(&**text),
            _ => None,
        });
        let thought = thought.filter(|_| !tool_calls.is_empty());
        let back = |field| thought.filter(|_| self.quirks.thinking_back == field);
        let assistant = Assistant {
            role: "assistant",
            content,
            reasoning_content: back(ThinkingBack::ReasoningContent),
            reasoning: back(ThinkingBack::Reasoning),
            tool_calls,
        };
        render_onto(onto, &assistant);
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
    said: Spoken<'a>,
    finish_reason: Text<'a>,
}

/// The fields of what is said that are heard.
#[derive(Default)]
struct Spoken<'a> {
    /// Words; a list of pieces from servers that say what is thinking in it.
    content: Json<'a>,
    refusal: Text<'a>,
    reasoning_content: Text<'a>,
    reasoning: Text<'a>,
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
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Self {
        let (mut choice, mut streamed, mut whole) = (Self::default(), false, Json::default());
        reader.fields(&mut |key, value| match key {
            "index" => choice.index = value.value(),
            "delta" if value.is_object() => {
                streamed = true;
                choice.said = Spoken::read(value);
            }
            "message" => whole = value.value(),
            "finish_reason" => choice.finish_reason = value.text(),
            _ => {}
        });
        if !streamed && whole.is_object() {
            choice.said = Spoken::read(&mut Reader::of(whole.raw()));
        }
        choice
    }
}

impl<'a> Spoken<'a> {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Self {
        let mut said = Self::default();
        reader.fields(&mut |key, value| match key {
            "content" => said.content = value.value(),
            "refusal" => said.refusal = value.text(),
            "reasoning_content" => said.reasoning_content = value.text(),
            "reasoning" => said.reasoning = value.text(),
            "tool_calls" => said.tool_calls = value.value(),
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
        let (mut first, mut usage, mut error) =
            <(Option<Choice<'_>>, Json<'_>, Json<'_>)>::default();
        json::event(data, |key, value| match key {
            // We ask for one answer; a server that sends more gets its first one heard.
            "choices" => value.items(&mut |value| {
                if first.is_none() {
                    let choice = Choice::read(value);
                    first = Some(choice).filter(|choice| choice.index.number().unwrap_or(0) == 0);
                }
            }),
            "usage" => usage = value.value(),
            "error" => error = value.value(),
            _ => {}
        })?;
        if event == "error" || !error.is_none() {
            return Err(reported::in_stream(data));
        }
        if let Some(choice) = first {
            self.said(&choice.said, out)?;
            if !choice.finish_reason.is_empty() {
                self.finish = Some(finish_reason(&choice.finish_reason.said()));
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
    fn said(&mut self, said: &Spoken<'_>, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        // Servers that name both fields repeat the same words in them.
        let reasoning = said.reasoning_content;
        self.think(if reasoning.is_empty() { said.reasoning } else { reasoning }, out);
        self.speak(said.content.text(), out);
        for piece in said.content.items() {
            self.piece(piece, out);
        }
        self.refused |= !said.refusal.is_empty();
        self.speak(said.refusal, out);
        for call in said.tool_calls.items() {
            self.call(&CallDelta::of(call));
            if self.slots.len() > MAX_PARTS {
                return Err(super::too_many_parts());
            }
        }
        self.give(out);
        Ok(())
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
mod tests;
