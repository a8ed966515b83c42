//! OpenAI Responses: messages in, request bytes out, with nothing left to the server to remember;
//! typed events in, deltas out, a tool call the moment its arguments are complete.
//! Never sends an id of the server's: it would look for an item that it was asked not to store.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::arguments::as_object;
use super::halves::Halves;
use super::json::{self, Json, Text};
use super::{
    DecodeError, Decoder, MAX_PARTS, Provider, appended, marked_text, name_call, render,
    render_onto, reported, schema, seal,
};
use crate::config::dialect::{AnswerSchema, ModelFacts, Thinking};
use crate::llm::message::{
    Delta, FinishReason, ImageRules, Message, Part, Setup, ToolCall, ToolChoice, Usage,
};

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

    fn render(&self, message: &Message, onto: &mut Vec<u8>) {
        let begin = onto.len();
        let mut push = |item: &Item<'_>| {
            if onto.len() > begin {
                onto.push(b',');
            }
            render_onto(onto, item);
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
    }

    fn images(&self) -> ImageRules {
        super::image_rules(&self.facts)
    }

    fn choice(&self, choice: &ToolChoice, _setup: &Setup) -> Map<String, Value> {
        let told = match choice {
            ToolChoice::Auto => return Map::new(),
            ToolChoice::None => "none".into(),
            ToolChoice::Required => "required".into(),
            ToolChoice::Tool(name) => serde_json::json!({"type": "function", "name": name}),
        };
        super::field("tool_choice", told)
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
        if self.slots.len() > MAX_PARTS {
            return Err(super::too_many_parts());
        }
        let data = &*self.halves.join(data);
        let mut event = Event::default();
        json::event(data, |key, value| match key {
            "type" => event.kind = value.value(),
            "output_index" => event.output_index = value.value(),
            "item_id" => event.item_id = value.value(),
            "delta" => event.delta = value.value(),
            "arguments" => event.arguments = value.value(),
            "item" => event.item = value.value(),
            "response" => event.response = value.value(),
            "object" => event.object = value.value(),
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
                if self.slots.len() > MAX_PARTS {
                    return Err(super::too_many_parts());
                }
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
mod tests;
