//! Google Gemini: messages in, request bytes out, each seal on the part that it came with; streamed
//! chunks in, deltas out, a tool call at once, as the wire sends its arguments whole.
//! Never puts the key into the URL, where logs and error messages would keep it.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::arguments::as_object;
use super::halves::Halves;
use super::json::{self, Json, Reader, Text};
use super::{
    DecodeError, Decoder, Provider, appended, name_call, render, render_onto, reported, seal,
};
use crate::config::dialect::{AnswerSchema, Effort, ModelFacts, Thinking};
use crate::llm::message::{
    Delta, FinishReason, Image, ImageRules, Message, Part, Setup, ToolAnswer, ToolCall, ToolChoice,
    Usage,
};

/// The wire format, as one model takes it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gemini {
    /// What the model takes.
    pub facts: ModelFacts,
}

impl Provider for Gemini {
    fn url(&self, base_url: &str, model: &str) -> String {
        let model = model.strip_prefix("models/").unwrap_or(model);
        let mut url = format!("{base_url}/v1beta/models/");
        for byte in model.bytes() {
            // A name is one step of the path, whatever stands in it.
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                    url.push(char::from(byte));
                }
                _ => write!(url, "%{byte:02X}").expect("a string takes all that is written"),
            }
        }
        url.push_str(":streamGenerateContent?alt=sse");
        url
    }

    fn headers(&self, key: Option<&str>) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("content-type", "application/json".to_owned()),
            ("accept", "text/event-stream".to_owned()),
        ];
        headers.extend(key.map(|key| ("x-goog-api-key", key.to_owned())));
        headers
    }

    fn head(&self, setup: &Setup) -> Bytes {
        let mut bytes = render(&Head {
            generation_config: self.generation(setup),
            system_instruction: (!setup.system.trim().is_empty())
                .then_some(System { parts: [PastPart::text(&setup.system)] }),
            tools: (!setup.tools.is_empty()).then(|| {
                let function_declarations = setup.tools.iter().map(|tool| Function {
                    name: &tool.name,
                    description: &tool.description,
                    parameters_json_schema: schema(&tool.parameters),
                });
                [Tools { function_declarations: function_declarations.collect() }]
            }),
        });
        bytes.pop();
        if !bytes.ends_with(b"{") {
            bytes.push(b',');
        }
        bytes.extend_from_slice(b"\"contents\":[");
        bytes.into()
    }

    fn render(&self, message: &Message, onto: &mut Vec<u8>) {
        let (role, parts) = match message {
            Message::User { text, images } => {
                let mut parts = Vec::with_capacity(images.len() + 1);
                parts.extend(images.iter().map(|image| self.image(image)));
                parts.extend((!text.is_empty()).then(|| PastPart::text(text)));
                ("user", parts)
            }
            Message::Assistant { parts } => ("model", past(parts)),
            Message::Tool { results } => ("user", results.iter().map(PastPart::answer).collect()),
        };
        if !parts.is_empty() {
            render_onto(onto, &Content { role, parts });
        }
    }

    fn images(&self) -> ImageRules {
        super::image_rules(&self.facts)
    }

    fn choice(&self, choice: &ToolChoice, _setup: &Setup) -> Map<String, Value> {
        let told = match choice {
            ToolChoice::Auto => return Map::new(),
            ToolChoice::None => serde_json::json!({"mode": "NONE"}),
            ToolChoice::Required => serde_json::json!({"mode": "ANY"}),
            ToolChoice::Tool(name) => {
                serde_json::json!({"mode": "ANY", "allowedFunctionNames": [name]})
            }
        };
        super::field("toolConfig", super::field("functionCallingConfig", told))
    }

    fn decoder(&self, _tools: &Arc<[String]>) -> Box<dyn Decoder> {
        Box::new(GeminiDecoder::default())
    }

    fn error_message(&self, body: &[u8]) -> Option<String> {
        reported::message(body)
    }

    fn retry_after(&self, body: &[u8]) -> Option<Duration> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let details = body["error"]["details"].as_array()?;
        let wait = details.iter().find_map(|detail| detail["retryDelay"].as_str())?;
        Duration::try_from_secs_f64(wait.strip_suffix('s')?.parse().ok()?).ok()
    }
}

/// Returns a tool's schema as `parametersJsonSchema` takes it: all of JSON Schema but the mark of
/// its version. The older field `parameters` takes only a part, and refuses the rest by name.
fn schema(parameters: &Value) -> Value {
    let mut schema = parameters.clone();
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("$schema");
    }
    schema
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    generation_config: Option<Generation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<System<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<[Tools<'a>; 1]>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Generation {
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_config: Option<ThinkingConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_mime_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_json_schema: Option<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum ThinkingConfig {
    ThinkingLevel(&'static str),
    ThinkingBudget(u32),
}

impl Gemini {
    fn image(&self, image: &Image) -> PastPart<'static> {
        match super::sent(image, &self.facts) {
            Ok(data) => PastPart {
                inline_data: Some(Inline { mime_type: image.kind().media_type(), data }),
                ..PastPart::default()
            },
            Err(words) => PastPart::text(words),
        }
    }

    fn generation(&self, setup: &Setup) -> Option<Generation> {
        let facts = &self.facts;
        let schema = setup.answer_schema.as_deref().filter(|_| match facts.answer_schema {
            AnswerSchema::No => false,
            AnswerSchema::WithoutTools => setup.tools.is_empty(),
            _ => true,
        });
        let thinking_config = setup.effort.and_then(|effort| match facts.thinking {
            Thinking::None => None,
            Thinking::Level { least } => {
                Some(ThinkingConfig::ThinkingLevel(super::level(effort, least)))
            }
            Thinking::Budget { least, optional } => {
                let none = optional && effort == Effort::Minimal;
                let budget = if none { 0 } else { super::budget(effort).max(least) };
                Some(ThinkingConfig::ThinkingBudget(budget))
            }
            _ => Some(ThinkingConfig::ThinkingLevel(effort.as_str())),
        });
        let generation = Generation {
            temperature: setup.temperature.filter(|_| !facts.fixed_temperature),
            max_output_tokens: setup.max_output_chosen.then_some(setup.max_output_tokens),
            thinking_config,
            response_mime_type: schema.map(|_| "application/json"),
            response_json_schema: schema.map(self::schema),
        };
        generation.says_something().then_some(generation)
    }
}

impl Generation {
    fn says_something(&self) -> bool {
        self.temperature.is_some()
            || self.max_output_tokens.is_some()
            || self.thinking_config.is_some()
            || self.response_mime_type.is_some()
    }
}

#[derive(Serialize)]
struct System<'a> {
    parts: [PastPart<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tools<'a> {
    function_declarations: Vec<Function<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Function<'a> {
    name: &'a str,
    description: &'a str,
    parameters_json_schema: Value,
}

#[derive(Serialize)]
struct Content<'a> {
    role: &'static str,
    parts: Vec<PastPart<'a>>,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct PastPart<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    thought: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    inline_data: Option<Inline>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_call: Option<PastCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_response: Option<Answer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thought_signature: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Inline {
    mime_type: &'static str,
    data: String,
}

#[derive(Serialize)]
struct PastCall<'a> {
    id: &'a str,
    name: &'a str,
    args: Box<RawValue>,
}

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    name: &'a str,
    response: Outcome<'a>,
}

/// The two fields that the model is told to look for.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome<'a> {
    Output(&'a str),
    Error(&'a str),
}

impl<'a> PastPart<'a> {
    fn text(text: &'a str) -> Self {
        Self { text: Some(text), ..Self::default() }
    }

    fn call(call: &'a ToolCall) -> Self {
        let args = RawValue::from_string(as_object(&call.arguments).into_owned())
            .expect("`as_object` gives only valid JSON");
        let function_call = Some(PastCall { id: &call.id, name: &call.name, args });
        Self { function_call, ..Self::default() }
    }

    fn answer(result: &'a ToolAnswer) -> Self {
        let response = if result.is_error { Outcome::Error } else { Outcome::Output };
        let function_response = Some(Answer {
            id: &result.call_id,
            name: &result.name,
            response: response(&result.text),
        });
        Self { function_response, ..Self::default() }
    }
}

/// Returns what the model said. Each seal goes back on the part on which it came, since the server
/// refuses a call that has lost its own; thinking without this wire's seal is not sent.
fn past(parts: &[Part]) -> Vec<PastPart<'_>> {
    let mut sent = Vec::new();
    let mut next_seal = None;
    let mut says_something = false;
    for part in parts {
        let part = match part {
            Part::Text { text } if text.is_empty() => continue,
            Part::Text { text } => PastPart::text(text),
            Part::ToolCall(call) => PastPart::call(call),
            Part::Reasoning { text, signature, .. } => {
                let kept = signature.as_deref().unwrap_or_default();
                if let Some(seal) = seal::unmarked(seal::GEMINI_NEXT, kept) {
                    next_seal = Some(seal);
                }
                let Some(seal) = seal::unmarked(seal::GEMINI_OWN, kept) else { continue };
                sent.push(PastPart {
                    thought: !text.is_empty(),
                    thought_signature: Some(seal),
                    ..PastPart::text(text)
                });
                continue;
            }
        };
        says_something = true;
        sent.push(PastPart { thought_signature: next_seal.take(), ..part });
    }
    if !says_something {
        sent.clear();
    }
    sent
}

/// The fields of a candidate that are heard.
#[derive(Default)]
struct Candidate<'a> {
    index: Json<'a>,
    parts: Json<'a>,
    finish_reason: Text<'a>,
    finish_message: Text<'a>,
}

/// The fields of a part that are heard.
#[derive(Default)]
struct Piece<'a> {
    text: Text<'a>,
    thought: bool,
    thought_signature: Text<'a>,
    function_call: Json<'a>,
}

impl<'a> Candidate<'a> {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Self {
        let mut candidate = Self::default();
        reader.fields(&mut |key, value| match key {
            "index" => candidate.index = value.value(),
            "content" => value.fields(&mut |key, value| {
                if key == "parts" {
                    candidate.parts = value.value();
                }
            }),
            "finishReason" => candidate.finish_reason = value.text(),
            "finishMessage" => candidate.finish_message = value.text(),
            _ => {}
        });
        candidate
    }
}

impl<'a> Piece<'a> {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Self {
        let mut piece = Self::default();
        reader.fields(&mut |key, value| match key {
            "text" => piece.text = value.text(),
            "thought" => piece.thought = value.value().is_true(),
            "thoughtSignature" => piece.thought_signature = value.text(),
            "functionCall" => piece.function_call = value.value(),
            _ => {}
        });
        piece
    }
}

/// What is kept of an answer's own name.
const ID_LETTERS: usize = 64;

/// The text that is being spoken; more of it may follow.
enum Open {
    Text(String),
    Thought(String),
}

#[derive(Default)]
struct GeminiDecoder {
    halves: Halves,
    open: Option<Open>,
    /// The answer's name, the same on each chunk.
    response_id: String,
    calls_given: usize,
    ids: HashSet<String>,
    usage: Usage,
    finish: Option<FinishReason>,
    done: bool,
}

impl Decoder for GeminiDecoder {
    fn event(&mut self, _name: &str, data: &str, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        if self.done {
            return Ok(());
        }
        let data = &*self.halves.join(data);
        if data.trim_start().starts_with('[') {
            // A server that was not heard to be asked for events sends a list of all chunks.
            return json::value(data)?.items().try_for_each(|chunk| self.chunk(chunk.raw(), out));
        }
        self.chunk(data, out)
    }

    fn end(&mut self, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        if self.done {
            return Ok(());
        }
        // Only here: a reason to stop is no promise that no chunk follows.
        let Some(finish) = self.finish else { return Err(DecodeError::EndedEarly) };
        self.close(out);
        self.done = true;
        out.push(Delta::Finish(match finish {
            FinishReason::Stop if self.calls_given > 0 => FinishReason::ToolCalls,
            finish => finish,
        }));
        Ok(())
    }
}

impl GeminiDecoder {
    fn chunk(&mut self, data: &str, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        let (mut heard, mut usage) = (None, None);
        let (mut id, mut blocked, mut error) = <(Text<'_>, Text<'_>, Json<'_>)>::default();
        json::event(data, |key, value| match key {
            // We ask for one answer; a server that sends more gets its first one heard.
            "candidates" => value.items(&mut |value| {
                if heard.is_none() {
                    let one = Candidate::read(value);
                    heard = Some(one).filter(|one| one.index.number().unwrap_or(0) == 0);
                }
            }),
            "promptFeedback" => value.fields(&mut |key, value| {
                if key == "blockReason" {
                    blocked = value.text();
                }
            }),
            "usageMetadata" if value.is_object() => usage = Some(counted(value)),
            "responseId" => id = value.text(),
            "error" => error = value.value(),
            _ => {}
        })?;
        if !error.is_none() {
            return Err(reported::in_stream(error.raw()));
        }
        if !id.is_empty() && self.response_id.is_empty() {
            // Each call may be named by it, so it must be short.
            self.response_id = id.said().chars().take(ID_LETTERS).collect();
        }
        let mut reason = Ok(());
        if let Some(candidate) = heard {
            let mut taken = Ok(());
            Reader::of(candidate.parts.raw()).items(&mut |piece| {
                let piece = Piece::read(piece);
                if taken.is_ok() {
                    taken = self.piece(&piece, out);
                }
            });
            taken?;
            if !candidate.finish_reason.is_empty() {
                let (name, message) =
                    (candidate.finish_reason.said(), candidate.finish_message.said());
                reason = finish_reason(&name, &message).map(|finish| self.finish = Some(finish));
            }
        }
        if !blocked.is_empty() {
            self.finish = Some(FinishReason::Refusal);
        }
        if let Some(usage) = usage.filter(|usage| *usage != self.usage) {
            // The counts stand on every chunk.
            self.usage = usage;
            out.push(Delta::Usage(usage));
        }
        reason
    }

    fn piece(&mut self, piece: &Piece<'_>, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        let seal = &*piece.thought_signature.said();
        if !piece.function_call.is_none() {
            self.close(out);
            give_seal(seal::GEMINI_NEXT, seal, out);
            return self.call(piece.function_call, out);
        }
        let words = piece.text;
        if piece.thought {
            if !matches!(self.open, Some(Open::Thought(_))) {
                self.close(out);
            }
            if !words.is_empty() {
                let open = self.open.get_or_insert(Open::Thought(String::new()));
                if let Open::Thought(text) = open {
                    out.push(Delta::Reasoning(appended(text, words)));
                }
            }
            if !seal.is_empty() {
                self.close_sealed(seal, out);
            }
            return Ok(());
        }
        if !seal.is_empty() {
            // A part with a seal is never joined with one that has none.
            self.close(out);
            let mark = if words.is_empty() { seal::GEMINI_OWN } else { seal::GEMINI_NEXT };
            give_seal(mark, seal, out);
        }
        if !words.is_empty() {
            if !matches!(self.open, Some(Open::Text(_))) {
                self.close(out);
            }
            if let Open::Text(text) = self.open.get_or_insert(Open::Text(String::new())) {
                out.push(Delta::Text(appended(text, words)));
            }
            if !seal.is_empty() {
                self.close(out);
            }
        }
        Ok(())
    }

    /// Ends the text that is being spoken.
    fn close(&mut self, out: &mut Vec<Delta>) {
        out.extend(self.open.take().map(|open| {
            Delta::Part(match open {
                Open::Text(text) => Part::Text { text },
                Open::Thought(text) => Part::Reasoning { text, signature: None, redacted: false },
            })
        }));
    }

    /// Ends the thought that is being spoken with a seal over it.
    fn close_sealed(&mut self, seal: &str, out: &mut Vec<Delta>) {
        match self.open.take() {
            Some(Open::Thought(text)) => {
                let signature = Some(seal::marked(seal::GEMINI_OWN, seal));
                out.push(Delta::Part(Part::Reasoning { text, signature, redacted: false }));
            }
            _ => give_seal(seal::GEMINI_OWN, seal, out),
        }
    }

    fn call(&mut self, call: Json<'_>, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        let name = call.field("name").text().said().into_owned();
        if name.is_empty() {
            return Err(DecodeError::Malformed { what: "a tool call without a name".to_owned() });
        }
        self.calls_given += 1;
        // Older models name no call. The answer's own name tells this one from all others of the
        // session, in which only one answer has it.
        let id = match (&*call.field("id").text().said(), &*self.response_id) {
            ("", "") => String::new(),
            ("", answer) => format!("{answer}_{}", self.calls_given),
            (id, _) => id.to_owned(),
        };
        let arguments = call.field("args").raw();
        let arguments = if arguments == "null" { "" } else { arguments }.to_owned();
        let mut call = ToolCall { id, name, arguments };
        name_call(&mut call, self.calls_given, &mut self.ids);
        out.push(Delta::Part(Part::ToolCall(call)));
        Ok(())
    }
}

/// Returns the tokens that a chunk counts.
fn counted(counts: &mut Reader<'_>) -> Usage {
    let mut usage = Usage::default();
    counts.fields(&mut |key, value| {
        let sum = match key {
            "promptTokenCount" | "toolUsePromptTokenCount" => &mut usage.input_tokens,
            "cachedContentTokenCount" => &mut usage.cached_input_tokens,
            "candidatesTokenCount" | "thoughtsTokenCount" => &mut usage.output_tokens,
            _ => return,
        };
        *sum = sum.saturating_add(value.value().number().unwrap_or(0));
    });
    usage
}

fn give_seal(mark: &str, seal: &str, out: &mut Vec<Delta>) {
    if !seal.is_empty() {
        let signature = Some(seal::marked(mark, seal));
        out.push(Delta::Part(Part::Reasoning { text: String::new(), signature, redacted: true }));
    }
}

/// Returns what a reason to stop means. A call that the model wrote so badly that the server threw
/// it away is an error that passes: the same request often gives a good one.
fn finish_reason(name: &str, message: &str) -> Result<FinishReason, DecodeError> {
    match name {
        "STOP" => Ok(FinishReason::Stop),
        "MAX_TOKENS" => Ok(FinishReason::Length),
        "SAFETY" | "RECITATION" | "LANGUAGE" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII"
        | "IMAGE_SAFETY" => Ok(FinishReason::Refusal),
        "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" | "MALFORMED_RESPONSE" => {
            let words = if message.is_empty() { "the answer was thrown away" } else { message };
            Err(DecodeError::Reported { message: format!("{name}: {words}"), temporary: true })
        }
        _ => Ok(FinishReason::Other),
    }
}

#[cfg(test)]
mod tests;
