//! OpenAI Responses: messages in, request bytes out, with nothing left to the server to remember;
//! typed events in, deltas out, a tool call the moment its arguments are complete.
//! Never sends an id of the server's: it would look for an item that it was asked not to store.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::arguments::as_object;
use super::halves::Halves;
use super::json::{self, Json, Text};
use super::{
    DecodeError, Decoder, Provider, appended, marked_text, name_call, render, reported, schema,
    seal,
};
use crate::config::dialect::{AnswerSchema, ModelFacts, Thinking};
use crate::llm::message::{Delta, FinishReason, ImageRules, Message, Part, Setup, ToolCall, Usage};

/// The wire format, as one model takes it.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenAiResponses {
    /// What the model takes.
    pub facts: ModelFacts,
}

/// The models without thinking, by the beginning of their names: they refuse to be asked for it.
const WITHOUT_REASONING: [&str; 3] = ["gpt-3", "gpt-4", "chatgpt-"];

impl Provider for OpenAiResponses {
    fn url(&self, base_url: &str, _model: &str) -> String {
        format!("{base_url}/responses")
    }

    fn headers(&self, key: Option<&str>) -> Vec<(&'static str, String)> {
        super::bearer_headers(key)
    }

    fn head(&self, setup: &Setup) -> Bytes {
        let facts = &self.facts;
        let reasons = facts.thinking != Thinking::None
            && !WITHOUT_REASONING.iter().any(|name| setup.model.starts_with(name));
        let effort = setup.effort.filter(|_| reasons).map(|effort| match facts.thinking {
            Thinking::Level { least } => super::level(effort, least),
            _ => effort.as_str(),
        });
        let schema = setup.answer_schema.as_deref().filter(|_| match facts.answer_schema {
            AnswerSchema::No => false,
            AnswerSchema::WithoutTools => setup.tools.is_empty(),
            _ => true,
        });
        let mut bytes = render(&Head {
            model: &setup.model,
            stream: true,
            store: false,
            max_output_tokens: setup.max_output_chosen.then_some(setup.max_output_tokens),
            temperature: setup.temperature.filter(|_| !facts.fixed_temperature),
            reasoning: effort.map(|effort| Reasoning { effort }),
            text: schema.map(|schema| AnswerText {
                format: Format {
                    r#type: "json_schema",
                    name: "answer",
                    strict: schema::is_strict(schema),
                    schema,
                },
            }),
            include: reasons.then_some(["reasoning.encrypted_content"]),
            prompt_cache_key: Some(&*setup.session_id).filter(|id| !id.is_empty()),
            instructions: Some(&*setup.system).filter(|system| !system.is_empty()),
            tools: setup
                .tools
                .iter()
                .map(|tool| Tool {
                    r#type: "function",
                    name: &tool.name,
                    description: &tool.description,
                    parameters: &tool.parameters,
                    strict: false,
                })
                .collect(),
        });
        bytes.pop();
        bytes.extend_from_slice(b",\"input\":[");
        bytes.into()
    }

    fn segment(&self, message: &Message) -> Bytes {
        let mut bytes = Vec::new();
        let mut push = |item: &Item<'_>| {
            if !bytes.is_empty() {
                bytes.push(b',');
            }
            bytes.extend(render(item));
        };
        match message {
            Message::User { text, images } => {
                let mut content = Vec::with_capacity(images.len() + 1);
                content.extend(
                    (images.is_empty() || !text.is_empty()).then_some(Content::InputText { text }),
                );
                content.extend(images.iter().map(|i| match super::data_url(i, &self.facts) {
                    Ok(image_url) => Content::InputImage { image_url, detail: "auto" },
                    Err(text) => Content::InputText { text },
                }));
                push(&Item::Message { role: "user", content });
            }
            Message::Assistant { parts } => past(parts).for_each(|item| push(&item)),
            Message::Tool { results } => {
                for result in results {
                    let output = marked_text(result);
                    push(&Item::FunctionCallOutput { call_id: &result.call_id, output });
                }
            }
        }
        bytes.into()
    }

    fn images(&self) -> ImageRules {
        super::image_rules(&self.facts)
    }

    fn decoder(&self, _tools: &Arc<[String]>) -> Box<dyn Decoder> {
        Box::new(ResponsesDecoder::default())
    }

    fn error_message(&self, body: &[u8]) -> Option<String> {
        reported::message(body)
    }
}

#[derive(Serialize)]
struct Head<'a> {
    model: &'a str,
    stream: bool,
    store: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Reasoning>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<AnswerText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    include: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
}

#[derive(Serialize)]
struct Reasoning {
    effort: &'static str,
}

#[derive(Serialize)]
struct AnswerText<'a> {
    format: Format<'a>,
}

#[derive(Serialize)]
struct Format<'a> {
    r#type: &'static str,
    name: &'static str,
    strict: bool,
    schema: &'a Value,
}

#[derive(Serialize)]
struct Tool<'a> {
    r#type: &'static str,
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
    /// Left out, it would mean true here, and that takes only a part of JSON Schema.
    strict: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Item<'a> {
    Message { role: &'static str, content: Vec<Content<'a>> },
    Reasoning { summary: Vec<Content<'a>>, encrypted_content: &'a str },
    FunctionCall { call_id: &'a str, name: &'a str, arguments: Cow<'a, str> },
    FunctionCallOutput { call_id: &'a str, output: Cow<'a, str> },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(clippy::enum_variant_names, reason = "the names are the wire's")]
enum Content<'a> {
    InputText { text: &'a str },
    InputImage { image_url: String, detail: &'static str },
    OutputText { text: &'a str },
    SummaryText { text: &'a str },
}

/// Returns what the model said as items. Thinking without this wire's seal is not sent, nor is
/// thinking that nothing follows, which the server refuses.
fn past(parts: &[Part]) -> impl Iterator<Item = Item<'_>> {
    let says = |part: &Part| match part {
        Part::Text { text } => !text.is_empty(),
        Part::ToolCall(_) => true,
        Part::Reasoning { .. } => false,
    };
    let end = parts.iter().rposition(says).map_or(0, |last| last + 1);
    parts[..end].iter().filter_map(|part| match part {
        Part::Text { text } if text.is_empty() => None,
        Part::Text { text } => {
            Some(Item::Message { role: "assistant", content: vec![Content::OutputText { text }] })
        }
        Part::Reasoning { text, signature, .. } => Some(Item::Reasoning {
            summary: if text.is_empty() { vec![] } else { vec![Content::SummaryText { text }] },
            encrypted_content: seal::unmarked(seal::RESPONSES, signature.as_deref()?)?,
        }),
        Part::ToolCall(call) => Some(Item::FunctionCall {
            call_id: &call.id,
            name: &call.name,
            arguments: as_object(&call.arguments),
        }),
    })
}

/// The fields of an event that are heard.
#[derive(Default)]
struct Event<'a> {
    kind: Json<'a>,
    output_index: Json<'a>,
    item_id: Json<'a>,
    delta: Json<'a>,
    arguments: Json<'a>,
    item: Json<'a>,
    response: Json<'a>,
    /// `response` stands here in an answer that is not streamed.
    object: Json<'a>,
}

/// The fields of an item that are heard.
#[derive(Default)]
struct ItemEvent<'a> {
    kind: Text<'a>,
    id: Text<'a>,
    call_id: Text<'a>,
    name: Text<'a>,
    /// A text; some servers send the object itself.
    arguments: Json<'a>,
    status: Text<'a>,
    content: Json<'a>,
    summary: Json<'a>,
    encrypted_content: Text<'a>,
}

impl<'a> ItemEvent<'a> {
    fn of(json: Json<'a>) -> Self {
        let mut item = Self::default();
        json.fields(|key, value| match key {
            "type" => item.kind = value.text(),
            "id" => item.id = value.text(),
            "call_id" => item.call_id = value.text(),
            "name" => item.name = value.text(),
            "arguments" => item.arguments = value,
            "status" => item.status = value.text(),
            "content" => item.content = value,
            "summary" => item.summary = value,
            "encrypted_content" => item.encrypted_content = value.text(),
            _ => {}
        });
        item
    }

    /// Returns what its pieces say, joined.
    fn whole(&self, between: &str) -> String {
        let mut whole = String::new();
        for piece in self.summary.items().chain(self.content.items()) {
            for text in [piece.field("text").text(), piece.field("refusal").text()] {
                if !text.is_empty() {
                    if !whole.is_empty() {
                        whole.push_str(between);
                    }
                    text.push_onto(&mut whole);
                }
            }
        }
        whole
    }

    fn refuses(&self) -> bool {
        self.summary
            .items()
            .chain(self.content.items())
            .any(|piece| !piece.field("refusal").text().is_empty())
    }
}

/// One item of the answer, in the order in which the items began.
struct Slot {
    index: Option<u64>,
    id: String,
    said: Said,
    /// Nothing more is expected.
    done: bool,
}

enum Said {
    Text(String),
    Reasoning {
        text: String,
        seal: String,
    },
    Call(ToolCall),
    /// A call that the output limit cut off before its first argument.
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Reasoning,
    Call,
}

impl Kind {
    /// Returns the kind of an item; none for one that this version does not know and did not ask
    /// for, such as a search by the server.
    fn of_item(name: &str) -> Option<Self> {
        match name {
            "message" => Some(Self::Text),
            "reasoning" => Some(Self::Reasoning),
            "function_call" => Some(Self::Call),
            _ => None,
        }
    }

    fn empty(self) -> Said {
        match self {
            Self::Text => Said::Text(String::new()),
            Self::Reasoning => Said::Reasoning { text: String::new(), seal: String::new() },
            Self::Call => Said::Call(ToolCall {
                id: String::new(),
                name: String::new(),
                arguments: String::new(),
            }),
        }
    }
}

impl Said {
    fn is(&self, kind: Kind) -> bool {
        match self {
            Self::Text(_) => kind == Kind::Text,
            Self::Reasoning { .. } => kind == Kind::Reasoning,
            Self::Call(_) => kind == Kind::Call,
            Self::Nothing => false,
        }
    }
}

#[derive(Default)]
struct ResponsesDecoder {
    halves: Halves,
    slots: Vec<Slot>,
    /// How many of the slots were given out.
    given: usize,
    calls_given: usize,
    ids: HashSet<String>,
    refused: bool,
    done: bool,
}

impl Decoder for ResponsesDecoder {
    fn event(&mut self, name: &str, data: &str, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        // Servers that also speak Chat Completions close this stream in the same way.
        if self.done || data.trim() == "[DONE]" {
            return Ok(());
        }
        let data = &*self.halves.join(data);
        let mut event = Event::default();
        json::event(data, |key, value| match key {
            "type" => event.kind = value,
            "output_index" => event.output_index = value,
            "item_id" => event.item_id = value,
            "delta" => event.delta = value,
            "arguments" => event.arguments = value,
            "item" => event.item = value,
            "response" => event.response = value,
            "object" => event.object = value,
            _ => {}
        })?;
        let kind = event.kind.text().said();
        let kind = if kind.is_empty() { name } else { &*kind };
        let (index, id) = (event.output_index.number(), event.item_id.text().said());
        let delta = event.delta.text();
        match kind {
            "response.output_item.added" => {
                let item = ItemEvent::of(event.item);
                if let Some(kind) = Kind::of_item(&item.kind.said()) {
                    let at = self.open(index, &item.id.said(), kind);
                    self.name(at, &item);
                }
            }
            "response.output_text.delta" => self.words(index, &id, delta, out),
            "response.refusal.delta" => {
                self.refused = true;
                self.words(index, &id, delta, out);
            }
            "response.reasoning_summary_part.added" => {
                let at = self.find(index, &id, Kind::Reasoning);
                if let Some(Said::Reasoning { text, .. }) = at.map(|at| &self.slots[at].said)
                    && !text.is_empty()
                {
                    self.think(index, &id, "\n\n", out);
                }
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                let at = self.found(index, &id, Kind::Reasoning);
                if let Said::Reasoning { text, .. } = &mut self.slots[at].said
                    && !delta.is_empty()
                {
                    out.push(Delta::Reasoning(appended(text, delta)));
                }
            }
            "response.function_call_arguments.delta" => {
                let at = self.found(index, &id, Kind::Call);
                if let Said::Call(call) = &mut self.slots[at].said {
                    delta.push_onto(&mut call.arguments);
                }
            }
            "response.function_call_arguments.done" => {
                let at = self.found(index, &id, Kind::Call);
                let slot = &mut self.slots[at];
                if let Said::Call(call) = &mut slot.said {
                    let whole = event.arguments.text();
                    if !whole.is_empty() {
                        call.arguments = whole.said().into_owned();
                    }
                    // One without arguments may be cut off; its item tells.
                    slot.done |= !call.arguments.trim().is_empty() && !call.name.is_empty();
                }
                self.give(out);
            }
            "response.output_item.done" => {
                self.item_done(index, &ItemEvent::of(event.item), out)?;
            }
            "response.completed" | "response.incomplete" | "response.done" => {
                return self.finish(event.response, kind, out);
            }
            "error" | "response.failed" | "response.cancelled" => {
                let told = if event.response.is_none() { data } else { event.response.raw() };
                return Err(reported::in_stream(told));
            }
            "" if event.object.text().said() == "response" => {
                return self.finish(json::value(data)?, "", out);
            }
            // What repeats (`….done` of texts), what tells of progress, and what later versions add.
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, _out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        if self.done { Ok(()) } else { Err(DecodeError::EndedEarly) }
    }
}

impl ResponsesDecoder {
    fn open(&mut self, index: Option<u64>, id: &str, kind: Kind) -> usize {
        self.slots.push(Slot { index, id: id.to_owned(), said: kind.empty(), done: false });
        self.slots.len() - 1
    }

    /// Returns the slot of an item. By the documents its index tells; the ids that some gateways
    /// send differ from event to event. Where neither is sent, it is the last one.
    fn find(&self, index: Option<u64>, id: &str, kind: Kind) -> Option<usize> {
        self.slots.iter().rposition(|slot| {
            slot.said.is(kind)
                && match index {
                    Some(_) => slot.index == index,
                    None => id.is_empty() || slot.id == id,
                }
        })
    }

    /// Returns the slot of an item, which begins here if nothing told of it before.
    fn found(&mut self, index: Option<u64>, id: &str, kind: Kind) -> usize {
        self.find(index, id, kind).unwrap_or_else(|| self.open(index, id, kind))
    }

    fn words(&mut self, index: Option<u64>, id: &str, more: Text<'_>, out: &mut Vec<Delta>) {
        let at = self.found(index, id, Kind::Text);
        if let Said::Text(text) = &mut self.slots[at].said
            && !more.is_empty()
        {
            out.push(Delta::Text(appended(text, more)));
        }
    }

    fn think(&mut self, index: Option<u64>, id: &str, more: &str, out: &mut Vec<Delta>) {
        let at = self.found(index, id, Kind::Reasoning);
        if let Said::Reasoning { text, .. } = &mut self.slots[at].said
            && !more.is_empty()
        {
            text.push_str(more);
            out.push(Delta::Reasoning(more.into()));
        }
    }

    /// Takes what an item says of a call.
    fn name(&mut self, at: usize, item: &ItemEvent<'_>) {
        let Said::Call(call) = &mut self.slots[at].said else { return };
        let id = if item.call_id.is_empty() { item.id } else { item.call_id };
        for (field, told) in [(&mut call.id, id), (&mut call.name, item.name)] {
            if !told.is_empty() {
                *field = told.said().into_owned();
            }
        }
        let arguments = if item.arguments.is_object() {
            item.arguments.raw().into()
        } else {
            item.arguments.text().said()
        };
        if !arguments.is_empty() {
            call.arguments = arguments.into_owned();
        }
    }

    fn item_done(
        &mut self,
        index: Option<u64>,
        item: &ItemEvent<'_>,
        out: &mut Vec<Delta>,
    ) -> Result<(), DecodeError> {
        let Some(kind) = Kind::of_item(&item.kind.said()) else { return Ok(()) };
        let id = item.id.said();
        let at = self.found(index, &id, kind);
        if self.slots[at].done {
            return Ok(());
        }
        self.name(at, item);
        self.refused |= item.refuses();
        let slot = &mut self.slots[at];
        slot.done = true;
        // All of it, from a server that sent no deltas.
        match &mut slot.said {
            Said::Text(text) if text.is_empty() => {
                let whole = item.whole("");
                if !whole.is_empty() {
                    out.push(Delta::Text(whole.as_str().into()));
                    *text = whole;
                }
            }
            Said::Reasoning { text, seal } => {
                *seal = item.encrypted_content.said().into_owned();
                if text.is_empty() {
                    self.think(index, &id, &item.whole("\n\n"), out);
                }
            }
            Said::Call(call) if item.status.said() == "incomplete" && is_bare(call) => {
                slot.said = Said::Nothing;
            }
            Said::Call(call) if call.name.is_empty() => return Err(nameless()),
            _ => {}
        }
        self.give(out);
        Ok(())
    }

    /// Gives out the slots that are done, up to the first that is not.
    fn give(&mut self, out: &mut Vec<Delta>) {
        while let Some(slot) = self.slots.get_mut(self.given).filter(|slot| slot.done) {
            self.given += 1;
            match &mut slot.said {
                Said::Text(text) if !text.is_empty() => {
                    out.push(Delta::Part(Part::Text { text: std::mem::take(text) }));
                }
                Said::Reasoning { text, seal } if !text.is_empty() || !seal.is_empty() => {
                    let signature = (!seal.is_empty()).then(|| seal::marked(seal::RESPONSES, seal));
                    let (redacted, text) = (text.is_empty(), std::mem::take(text));
                    out.push(Delta::Part(Part::Reasoning { text, signature, redacted }));
                }
                Said::Call(call) => {
                    let mut call = ToolCall {
                        id: call.id.clone(),
                        name: call.name.clone(),
                        arguments: std::mem::take(&mut call.arguments),
                    };
                    self.calls_given += 1;
                    name_call(&mut call, self.calls_given, &mut self.ids);
                    out.push(Delta::Part(Part::ToolCall(call)));
                }
                _ => {}
            }
        }
    }

    /// Takes the end of the answer, as its event and its status tell it.
    fn finish(
        &mut self,
        response: Json<'_>,
        event: &str,
        out: &mut Vec<Delta>,
    ) -> Result<(), DecodeError> {
        let (mut status, mut details, mut output, mut usage) =
            <(Json<'_>, Json<'_>, Json<'_>, Json<'_>)>::default();
        response.fields(|key, value| match key {
            "status" => status = value,
            "incomplete_details" => details = value,
            "output" => output = value,
            "usage" => usage = value,
            _ => {}
        });
        if self.slots.is_empty() {
            for (index, item) in (0..).zip(output.items()) {
                self.item_done(Some(index), &ItemEvent::of(item), out)?;
            }
        }
        let reason = details.is_object().then(|| details.field("reason").text().said());
        let finish = match (&*status.text().said(), reason.as_deref()) {
            (_, Some("max_output_tokens" | "max_tokens")) => FinishReason::Length,
            (_, Some("content_filter")) => FinishReason::Refusal,
            ("completed", _) => FinishReason::Stop,
            ("", None) if event != "response.incomplete" => FinishReason::Stop,
            _ => FinishReason::Other,
        };
        for slot in &mut self.slots[self.given..] {
            match &slot.said {
                Said::Call(call) if slot.done || !is_bare(call) => {}
                Said::Call(_) if finish != FinishReason::Stop => slot.said = Said::Nothing,
                _ => {}
            }
            if matches!(&slot.said, Said::Call(call) if call.name.is_empty()) {
                return Err(nameless());
            }
            slot.done = true;
        }
        self.give(out);
        if usage.is_object() {
            let count = |value: Json<'_>| value.number().unwrap_or(0);
            out.push(Delta::Usage(Usage {
                input_tokens: count(usage.field("input_tokens")),
                cached_input_tokens: count(
                    usage.field("input_tokens_details").field("cached_tokens"),
                ),
                // Thinking (`output_tokens_details.reasoning_tokens`) is counted in it.
                output_tokens: count(usage.field("output_tokens")),
            }));
        }
        self.done = true;
        out.push(Delta::Finish(match finish {
            FinishReason::Stop if self.refused => FinishReason::Refusal,
            FinishReason::Stop if self.calls_given > 0 => FinishReason::ToolCalls,
            finish => finish,
        }));
        Ok(())
    }
}

fn nameless() -> DecodeError {
    DecodeError::Malformed { what: "a tool call without a name".to_owned() }
}

fn is_bare(call: &ToolCall) -> bool {
    call.arguments.trim().is_empty()
}

#[cfg(test)]
#[allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them so")]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::super::tests::{body, decoded, messages, setup};
    use super::*;

    /// Checks what a stream of these events says; each carries its type in its data.
    #[track_caller]
    fn check(events: &[Value], expected: &Expect) {
        expected.assert_eq(&decoded(&OpenAiResponses::default(), &stream(events)));
    }

    fn stream(events: &[Value]) -> String {
        let mut stream = String::new();
        for event in events {
            let kind = event["type"].as_str().unwrap();
            write!(stream, "event: {kind}\ndata: {event}\n\n").unwrap();
        }
        stream
    }

    fn created() -> Value {
        json!({"type": "response.created", "sequence_number": 0, "response": {
            "id": "resp_1", "object": "response", "status": "in_progress", "error": null,
            "output": [], "usage": null}})
    }

    fn added(index: u64, item: &Value) -> Value {
        json!({"type": "response.output_item.added", "output_index": index, "item": item})
    }

    fn done(index: u64, item: &Value) -> Value {
        json!({"type": "response.output_item.done", "output_index": index, "item": item})
    }

    fn text(index: u64, delta: &str) -> Value {
        json!({"type": "response.output_text.delta", "output_index": index, "item_id": "msg_1",
            "content_index": 0, "delta": delta})
    }

    fn arguments(index: u64, delta: &str) -> Value {
        json!({"type": "response.function_call_arguments.delta", "output_index": index,
            "item_id": "fc_1", "delta": delta})
    }

    fn all_arguments(index: u64, all: &str) -> Value {
        json!({"type": "response.function_call_arguments.done", "output_index": index,
            "item_id": "fc_1", "arguments": all})
    }

    fn call(id: &str, arguments: &str, status: &str) -> Value {
        json!({"type": "function_call", "id": format!("fc_{id}"), "call_id": id, "name": "f",
            "arguments": arguments, "status": status})
    }

    fn message() -> Value {
        json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress",
            "content": []})
    }

    fn said(words: &str) -> Value {
        json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": words, "annotations": []}]})
    }

    fn completed() -> Value {
        json!({"type": "response.completed", "response": {"status": "completed", "error": null,
            "usage": {"input_tokens": 12, "input_tokens_details": {"cached_tokens": 8},
                "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2},
                "total_tokens": 17}}})
    }

    fn incomplete(reason: &str) -> Value {
        json!({"type": "response.incomplete", "response": {"status": "incomplete",
            "incomplete_details": {"reason": reason}}})
    }

    #[test]
    fn a_request_is_rendered_as_the_wire_wants_it() {
        let head = OpenAiResponses::default().head(&setup());
        let mut messages = messages();
        let Message::Assistant { parts } = &mut messages[1] else { panic!() };
        // Only this wire's own seals go back, and only before something said.
        for (at, text) in [(0, ""), (1, "two\n\nparts")] {
            let signature = Some(format!("responses:enc{at}"));
            let part = Part::Reasoning { text: text.to_owned(), signature, redacted: false };
            parts.insert(at, part);
        }
        let signature = Some("responses:last".to_owned());
        parts.push(Part::Reasoning { text: String::new(), signature, redacted: true });
        let segments: Vec<_> =
            messages.iter().map(|m| OpenAiResponses::default().segment(m)).collect();
        let body = body(&OpenAiResponses::default(), &head, &segments);
        serde_json::from_str::<Value>(&body).unwrap();
        expect![[r#"
            {"model":"m","stream":true,"store":false,"include":["reasoning.encrypted_content"],"prompt_cache_key":"s1","instructions":"Be \"good\".","tools":[
            {"type":"function","name":"read_file","description":"Reads","parameters":
            {"type":"object"},"strict":false}],"input":[
            {"type":"message","role":"user","content":[
            {"type":"input_text","text":"fix\nit"}]},
            {"type":"reasoning","summary":[],"encrypted_content":"enc0"},
            {"type":"reasoning","summary":[
            {"type":"summary_text","text":"two\n\nparts"}],"encrypted_content":"enc1"},
            {"type":"message","role":"assistant","content":[
            {"type":"output_text","text":"I look."}]},
            {"type":"function_call","call_id":"a","name":"read_file","arguments":"{\"path\": \"x\"}"},
            {"type":"function_call","call_id":"b","name":"read_file","arguments":"{\"_raw\":\"{\\\"path\\\":\"}"},
            {"type":"function_call","call_id":"c","name":"read_file","arguments":"{}"},
            {"type":"function_call_output","call_id":"a","output":"one"},
            {"type":"function_call_output","call_id":"b","output":"error: no JSON"},
            {"type":"function_call_output","call_id":"c","output":"Error: no path"},
            {"type":"function_call_output","call_id":"d","output":""},
            {"type":"message","role":"user","content":[
            {"type":"input_text","text":"go on"}]}]}"#]].assert_eq(&body.replace("{\"type\"", "\n{\"type\""));
    }

    #[test]
    fn what_is_not_there_is_not_sent_and_models_without_thinking_are_not_asked_for_it() {
        let model = "gpt-4.1-mini".to_owned();
        let (system, session_id) = (String::new(), String::new());
        let bare = Setup { model, system, session_id, tools: Vec::new(), ..setup() };
        let head = OpenAiResponses::default().head(&bare);
        let hello = OpenAiResponses::default().segment(&Message::user("hi"));
        assert_eq!(
            body(&OpenAiResponses::default(), &head, &[hello]),
            r#"{"model":"gpt-4.1-mini","stream":true,"store":false,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]}]}"#
        );
    }

    #[test]
    fn the_key_stands_in_one_header() {
        let header = ("authorization", "Bearer k".to_owned());
        assert!(OpenAiResponses::default().headers(Some("k")).contains(&header));
        assert!(
            !OpenAiResponses::default()
                .headers(None)
                .iter()
                .any(|(name, _)| *name == "authorization")
        );
        assert_eq!(OpenAiResponses::default().url("http://h/v1", "m"), "http://h/v1/responses");
    }

    #[test]
    fn thinking_words_and_parallel_calls_are_told_as_they_come() {
        let summary = |delta: &str| {
            json!({"type": "response.reasoning_summary_text.delta", "output_index": 0,
                "item_id": "rs_1", "summary_index": 0, "delta": delta})
        };
        let part = json!({"type": "response.reasoning_summary_part.added", "output_index": 0,
            "item_id": "rs_1", "part": {"type": "summary_text", "text": ""}});
        check(
            &[
                created(),
                json!({"type": "response.in_progress", "response": {"status": "in_progress"}}),
                added(0, &json!({"type": "reasoning", "id": "rs_1", "summary": []})),
                part.clone(),
                summary("h"),
                summary("m"),
                part,
                summary("so"),
                done(
                    0,
                    &json!({"type": "reasoning", "id": "rs_1", "encrypted_content": "enc==",
                        "summary": [{"type": "summary_text", "text": "hm"},
                            {"type": "summary_text", "text": "so"}]}),
                ),
                added(1, &message()),
                json!({"type": "response.content_part.added", "output_index": 1,
                    "part": {"type": "output_text", "text": ""}}),
                text(1, "I "),
                text(1, "löök 🙂"),
                json!({"type": "response.output_text.done", "output_index": 1, "text": "I löök 🙂"}),
                done(1, &said("I löök 🙂")),
                added(2, &call("call_a", "", "in_progress")),
                arguments(2, "{\"path\":"),
                arguments(2, " \"x\"}"),
                all_arguments(2, "{\"path\": \"x\"}"),
                // A mark shows that the call did not wait for the end of its item.
                summary("late"),
                done(2, &call("call_a", "{\"path\": \"x\"}", "completed")),
                added(3, &call("call_b", "", "in_progress")),
                all_arguments(3, ""),
                done(3, &call("call_b", "", "completed")),
                completed(),
            ],
            &expect![[r#"
                reasoning "h"
                reasoning "m"
                reasoning "\n\n"
                reasoning "so"
                = reasoning "hm\n\nso" responses:enc==
                text "I "
                text "löök 🙂"
                = text "I löök 🙂"
                = call call_a f {"path": "x"}
                reasoning "late"
                = call call_b f 
                usage 12 (8) 5
                finish ToolCalls
            "#]],
        );
    }

    #[test]
    fn an_emoji_cut_in_two_by_the_server_costs_neither_the_answer_nor_the_emoji() {
        let stream = concat!(
            r#"data: {"type":"response.output_text.delta","output_index":0,"delta":"a \ud83d"}"#,
            "\n\n",
            r#"data: {"type":"response.output_text.delta","output_index":0,"delta":"\ude42"}"#,
            "\n\n",
            r#"data: {"type":"response.completed","response":{"status":"completed"}}"#,
            "\n\n",
        );
        assert_eq!(
            decoded(&OpenAiResponses::default(), stream),
            "text \"a \"\ntext \"🙂\"\n= text \"a 🙂\"\nfinish Stop\n"
        );
    }

    #[test]
    fn interleaved_calls_come_in_the_order_in_which_they_began() {
        check(
            &[
                added(0, &call("a", "", "in_progress")),
                added(1, &call("b", "", "in_progress")),
                arguments(0, "{\"x\":"),
                arguments(1, "{}"),
                all_arguments(1, "{}"),
                arguments(0, "1}"),
                all_arguments(0, "{\"x\":1}"),
                done(1, &call("b", "{}", "completed")),
                done(0, &call("a", "{\"x\":1}", "completed")),
                completed(),
            ],
            &expect![[r#"
                = call a f {"x":1}
                = call b f {}
                usage 12 (8) 5
                finish ToolCalls
            "#]],
        );
    }

    #[test]
    fn what_compatible_servers_get_wrong_still_gives_each_call_once() {
        // One index for all items, and another id for an item on each event.
        let other_id = json!({"type": "function_call", "id": "zz", "call_id": "a", "name": "f",
            "arguments": "{\"x\":1}", "status": "completed"});
        check(
            &[
                added(0, &call("a", "", "in_progress")),
                arguments(0, "{\"x\":1}"),
                done(0, &other_id),
                added(0, &call("b", "", "in_progress")),
                all_arguments(0, "{}"),
                done(0, &call("b", "{}", "completed")),
                completed(),
            ],
            &expect![[r#"
                = call a f {"x":1}
                = call b f {}
                usage 12 (8) 5
                finish ToolCalls
            "#]],
        );
        // Items that only end; the arguments as an object; one id twice; no id.
        let bare = json!({"type": "function_call", "name": "g", "arguments": {"y": 2}});
        check(
            &[
                done(0, &said("So.")),
                done(1, &call("a", "{}", "completed")),
                done(2, &call("a", "{}", "completed")),
                done(3, &bare),
                json!({"type": "response.done", "response": {}}),
            ],
            &expect![[r#"
                text "So."
                = text "So."
                = call a f {}
                = call a_2 f {}
                = call call_3 g {"y":2}
                finish ToolCalls
            "#]],
        );
        // Neither index nor id, and a last line from another wire.
        let delta = json!({"type": "response.output_text.delta", "delta": "hi"});
        let stream = stream(&[delta, completed()]) + "data: [DONE]\n\n";
        assert_eq!(
            decoded(&OpenAiResponses::default(), &stream),
            "text \"hi\"\n= text \"hi\"\nusage 12 (8) 5\nfinish Stop\n"
        );
    }

    #[test]
    fn a_call_cut_off_before_its_arguments_is_not_one_without() {
        check(
            &[
                added(0, &call("a", "", "in_progress")),
                arguments(0, "{\"x\":\"lo"),
                added(1, &call("b", "", "in_progress")),
                incomplete("max_output_tokens"),
            ],
            &expect![[r#"
                = call a f {"x":"lo
                finish Length
            "#]],
        );
        check(
            &[
                added(0, &call("a", "", "in_progress")),
                all_arguments(0, ""),
                done(0, &call("a", "", "incomplete")),
                incomplete("max_output_tokens"),
            ],
            &expect![[r#"
                finish Length
            "#]],
        );
        check(
            &[
                done(0, &json!({"type": "function_call", "call_id": "a", "status": "completed"})),
                completed(),
            ],
            &expect![[r#"
                the stream holds an event that is not what the provider documents: a tool call without a name
            "#]],
        );
    }

    #[test]
    fn refusals_filters_and_unknown_ends_are_told() {
        let refusal = json!({"type": "response.refusal.delta", "output_index": 0,
            "item_id": "msg_1", "delta": "I cannot."});
        let refused = json!({"type": "message", "id": "msg_1", "role": "assistant",
            "content": [{"type": "refusal", "refusal": "I cannot."}]});
        let told = "text \"I cannot.\"\n= text \"I cannot.\"\nusage 12 (8) 5\nfinish Refusal\n";
        for events in [
            vec![added(0, &message()), refusal, done(0, &refused), completed()],
            vec![done(0, &refused), completed()],
        ] {
            assert_eq!(decoded(&OpenAiResponses::default(), &stream(&events)), told);
        }
        for (reason, finish) in [("content_filter", "Refusal"), ("boredom", "Other")] {
            let stream = stream(&[text(0, "a"), incomplete(reason)]);
            assert_eq!(
                decoded(&OpenAiResponses::default(), &stream),
                format!("text \"a\"\n= text \"a\"\nfinish {finish}\n")
            );
        }
    }

    #[test]
    fn a_stream_ends_well_only_if_it_says_so() {
        check(
            &[created(), added(0, &message()), text(0, "a"), done(0, &said("a"))],
            &expect![[r#"
                text "a"
                = text "a"
                the stream ended before the answer was complete
            "#]],
        );
        let early = "the stream ended before the answer was complete\n";
        assert_eq!(decoded(&OpenAiResponses::default(), ""), early);
        assert_eq!(decoded(&OpenAiResponses::default(), "data: [DONE]\n\n"), early);
    }

    #[test]
    fn errors_in_the_stream_end_it_and_say_whether_they_pass() {
        let failed = |code: &str| {
            json!({"type": "response.failed", "response": {"status": "failed",
                "error": {"code": code, "message": "no luck"}}})
        };
        let error = json!({"type": "error", "code": "server_error", "message": "gone"});
        let nested = json!({"type": "error", "error": {"type": "invalid_request_error",
            "message": "too long"}});
        for (event, words, passes) in [
            (failed("server_error"), "no luck", true),
            (failed("rate_limit_exceeded"), "no luck", true),
            (failed("context_length_exceeded"), "no luck", false),
            (error, "gone", true),
            (nested, "too long", false),
        ] {
            let mut decoder = OpenAiResponses::default().decoder(&Arc::default());
            let result = decoder.event("", &event.to_string(), &mut Vec::new());
            let Err(DecodeError::Reported { message, temporary }) = result else { panic!() };
            assert_eq!((&*message, temporary), (words, passes));
        }
        check(
            &[text(0, "a"), failed("server_error"), completed()],
            &expect![[r#"
            text "a"
            the provider reported an error in the stream: no luck
        "#]],
        );
        assert!(
            decoded(&OpenAiResponses::default(), "data: {\n\n").contains("not what the provider")
        );
    }

    #[test]
    fn items_fields_and_shapes_that_nobody_promised_do_no_harm() {
        check(
            &[
                json!({"type": "response.vendor.event", "output_index": "x", "delta": {"a": 1}}),
                json!({"type": "response.output_item.added", "item": ["odd"]}),
                added(0, &json!({"type": "web_search_call", "id": "ws", "status": "completed"})),
                done(0, &json!({"type": "web_search_call", "id": "ws", "action": {}})),
                json!({"type": "response.output_text.delta", "output_index": 1, "delta": null}),
                text(1, "a"),
                json!({"type": "response.completed", "response": {"status": "completed",
                    "output": "none", "usage": {"input_tokens": -1, "output_tokens": 2}}}),
                text(1, "after the end"),
            ],
            &expect![[r#"
                text "a"
                = text "a"
                usage 0 (0) 2
                finish Stop
            "#]],
        );
    }

    #[test]
    fn a_whole_answer_decodes_as_one_event() {
        let body = json!({"id": "resp_1", "object": "response", "status": "completed",
            "error": null, "output": [
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "enc"},
                said("Hi"), call("a", "{\"x\":1}", "completed")],
            "usage": {"input_tokens": 3, "output_tokens": 4}});
        expect![[r#"
            = redacted "" responses:enc
            text "Hi"
            = text "Hi"
            = call a f {"x":1}
            usage 3 (0) 4
            finish ToolCalls
        "#]]
        .assert_eq(&decoded(&OpenAiResponses::default(), &format!("data: {body}\n\n")));
    }
}
