//! Google Gemini: messages in, request bytes out, each seal on the part that it came with; streamed
//! chunks in, deltas out, a tool call at once, as the wire sends its arguments whole.
//! Never puts the key into the URL, where logs and error messages would keep it.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::arguments::as_object;
use super::halves::Halves;
use super::json::{self, Json, Text};
use super::{DecodeError, Decoder, Provider, appended, name_call, render, reported, seal};
use crate::config::dialect::{AnswerSchema, Effort, ModelFacts, Thinking};
use crate::llm::message::{
    Delta, FinishReason, Image, ImageRules, Message, Part, Setup, ToolAnswer, ToolCall, Usage,
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

    fn segment(&self, message: &Message) -> Bytes {
        let (role, parts) = match message {
            Message::User { text, images } if text.is_empty() && images.is_empty() => {
                return Bytes::new();
            }
            Message::User { text, images } => {
                let mut parts = Vec::with_capacity(images.len() + 1);
                parts.extend(images.iter().map(|image| self.image(image)));
                parts.extend((!text.is_empty()).then(|| PastPart::text(text)));
                ("user", parts)
            }
            Message::Assistant { parts } => ("model", past(parts)),
            Message::Tool { results } => ("user", results.iter().map(PastPart::answer).collect()),
        };
        if parts.is_empty() {
            return Bytes::new();
        }
        render(&Content { role, parts }).into()
    }

    fn images(&self) -> ImageRules {
        super::image_rules(&self.facts)
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
    content: Json<'a>,
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
    fn of(json: Json<'a>) -> Self {
        let mut candidate = Self::default();
        json.fields(|key, value| match key {
            "index" => candidate.index = value,
            "content" => candidate.content = value,
            "finishReason" => candidate.finish_reason = value.text(),
            "finishMessage" => candidate.finish_message = value.text(),
            _ => {}
        });
        candidate
    }
}

impl<'a> Piece<'a> {
    fn of(json: Json<'a>) -> Self {
        let mut piece = Self::default();
        json.fields(|key, value| match key {
            "text" => piece.text = value.text(),
            "thought" => piece.thought = value.is_true(),
            "thoughtSignature" => piece.thought_signature = value.text(),
            "functionCall" => piece.function_call = value,
            _ => {}
        });
        piece
    }
}

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
        // A server that was not heard to be asked for events sends a list of all chunks.
        let data = json::value(data)?;
        if data.is_list() {
            return data.items().try_for_each(|chunk| self.chunk(chunk, out));
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
    fn chunk(&mut self, chunk: Json<'_>, out: &mut Vec<Delta>) -> Result<(), DecodeError> {
        let (mut candidates, mut feedback, mut usage, mut id, mut error) =
            <(Json<'_>, Json<'_>, Json<'_>, Text<'_>, Json<'_>)>::default();
        chunk.fields(|key, value| match key {
            "candidates" => candidates = value,
            "promptFeedback" => feedback = value,
            "usageMetadata" => usage = value,
            "responseId" => id = value.text(),
            "error" => error = value,
            _ => {}
        });
        if !error.is_none() {
            return Err(reported::in_stream(error.raw()));
        }
        if !id.is_empty() && self.response_id.is_empty() {
            self.response_id = id.said().into_owned();
        }
        let mut reason = Ok(());
        // We ask for one answer; a server that sends more gets its first one heard.
        let first = |candidate: &Candidate<'_>| candidate.index.number().unwrap_or(0) == 0;
        for candidate in candidates.items().map(Candidate::of).filter(first) {
            for piece in candidate.content.field("parts").items() {
                self.piece(&Piece::of(piece), out)?;
            }
            if !candidate.finish_reason.is_empty() {
                let (name, message) =
                    (candidate.finish_reason.said(), candidate.finish_message.said());
                reason = finish_reason(&name, &message).map(|finish| self.finish = Some(finish));
            }
        }
        if !feedback.field("blockReason").text().is_empty() {
            self.finish = Some(FinishReason::Refusal);
        }
        if usage.is_object() {
            self.count(usage, out);
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

    fn count(&mut self, counts: Json<'_>, out: &mut Vec<Delta>) {
        let mut usage = Usage::default();
        counts.fields(|key, value| {
            let sum = match key {
                "promptTokenCount" | "toolUsePromptTokenCount" => &mut usage.input_tokens,
                "cachedContentTokenCount" => &mut usage.cached_input_tokens,
                "candidatesTokenCount" | "thoughtsTokenCount" => &mut usage.output_tokens,
                _ => return,
            };
            *sum = sum.saturating_add(value.number().unwrap_or(0));
        });
        // The counts stand on every chunk.
        if usage != self.usage {
            self.usage = usage;
            out.push(Delta::Usage(usage));
        }
    }
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
#[allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them so")]
mod tests {

    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::super::tests::{body, decoded, messages, setup};
    use super::*;
    use crate::config::limits::Limits;
    use crate::safety::workspace::Workspace;
    use crate::tools::builtin;

    /// Checks what a stream of these chunks says.
    #[track_caller]
    fn check(chunks: &[Value], expected: &Expect) {
        expected.assert_eq(&decoded(&Gemini::default(), &stream(chunks)));
    }

    fn stream(chunks: &[Value]) -> String {
        // This server ends its lines as HTTP does.
        let mut stream = String::new();
        for chunk in chunks {
            write!(stream, "data: {chunk}\r\n\r\n").unwrap();
        }
        stream
    }

    fn parts(parts: &Value) -> Value {
        json!({"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0}],
            "modelVersion": "m", "responseId": "r1"})
    }

    fn text(words: &str) -> Value {
        parts(&json!([{"text": words}]))
    }

    fn stop(reason: &str) -> Value {
        json!({"candidates": [{"content": {"role": "model", "parts": [{"text": ""}]},
            "finishReason": reason}], "responseId": "r1",
            "usageMetadata": {"promptTokenCount": 12, "cachedContentTokenCount": 8,
                "candidatesTokenCount": 3, "thoughtsTokenCount": 2, "totalTokenCount": 17}})
    }

    /// What the decoder gave, as a message.
    fn answered(chunks: &[Value]) -> Message {
        let (mut decoder, mut deltas) = (Gemini::default().decoder(&Arc::default()), Vec::new());
        for chunk in chunks {
            decoder.event("", &chunk.to_string(), &mut deltas).unwrap();
        }
        decoder.end(&mut deltas).unwrap();
        let parts = deltas.into_iter().filter_map(|delta| match delta {
            Delta::Part(part) => Some(part),
            _ => None,
        });
        Message::Assistant { parts: parts.collect() }
    }

    #[test]
    fn a_request_is_rendered_as_the_wire_wants_it() {
        let head = Gemini::default().head(&setup());
        let segments: Vec<_> = messages().iter().map(|m| Gemini::default().segment(m)).collect();
        let body = body(&Gemini::default(), &head, &segments);
        serde_json::from_str::<Value>(&body).unwrap();
        expect![[r#"
            {"systemInstruction":{"parts":[{"text":"Be \"good\"."}]},"tools":[{"functionDeclarations":[{"name":"read_file","description":"Reads","parametersJsonSchema":{"type":"object"}}]}],"contents":[
            {"role":"user","parts":[{"text":"fix\nit"}]},
            {"role":"model","parts":[{"text":"I look."},{"functionCall":{"id":"a","name":"read_file","args":{"path": "x"}}},{"functionCall":{"id":"b","name":"read_file","args":{"_raw":"{\"path\":"}}},{"functionCall":{"id":"c","name":"read_file","args":{}}}]},
            {"role":"user","parts":[{"functionResponse":{"id":"a","name":"read_file","response":{"output":"one"}}},{"functionResponse":{"id":"b","name":"read_file","response":{"error":"no JSON"}}},{"functionResponse":{"id":"c","name":"read_file","response":{"error":"Error: no path"}}},{"functionResponse":{"id":"d","name":"read_file","response":{"output":""}}}]},
            {"role":"user","parts":[{"text":"go on"}]}]}"#]].assert_eq(&body.replace("{\"role\"", "\n{\"role\""));
    }

    #[test]
    fn what_is_empty_is_not_sent() {
        let bare = Setup { system: " ".to_owned(), tools: Vec::new(), ..setup() };
        let segments = [
            Gemini::default().segment(&Message::user(String::new())),
            Gemini::default()
                .segment(&Message::Assistant { parts: vec![Part::Text { text: String::new() }] }),
            Gemini::default().segment(&Message::user("hi")),
        ];
        assert_eq!(
            body(&Gemini::default(), &Gemini::default().head(&bare), &segments),
            r#"{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}"#
        );
    }

    #[test]
    fn the_key_stands_in_one_header_and_the_model_in_one_step_of_the_path() {
        assert!(Gemini::default().headers(Some("k")).contains(&("x-goog-api-key", "k".to_owned())));
        assert!(!Gemini::default().headers(None).iter().any(|(name, _)| *name == "x-goog-api-key"));
        for (model, step) in [
            ("gemini-2.5-pro", "gemini-2.5-pro"),
            ("models/gemini-2.5-pro", "gemini-2.5-pro"),
            ("../../x?key=y#", "..%2F..%2Fx%3Fkey%3Dy%23"),
        ] {
            assert_eq!(
                Gemini::default().url("http://h", model),
                format!("http://h/v1beta/models/{step}:streamGenerateContent?alt=sse")
            );
        }
    }

    #[test]
    fn the_schemas_of_the_tools_are_sent_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Arc::new(Workspace::open(folder.path()).unwrap());
        let spool = folder.path().join("spool");
        let tools = builtin::all(
            &workspace,
            spool,
            [],
            Arc::new(crate::safety::sandbox::Sandbox::off()),
            &Limits::full().tools,
        );
        let tools: Vec<_> = tools.iter().map(|tool| tool.spec().clone()).collect();
        assert_eq!(tools.len(), 9);
        let mut body = Gemini::default().head(&Setup { tools: tools.clone(), ..setup() }).to_vec();
        body.extend_from_slice(b"]}");
        let body: Value = serde_json::from_slice(&body).unwrap();
        for (tool, sent) in
            tools.iter().zip(body["tools"][0]["functionDeclarations"].as_array().unwrap())
        {
            assert_eq!(sent["name"], *tool.name);
            assert_eq!(sent["parametersJsonSchema"], tool.parameters);
            assert_eq!(sent["parametersJsonSchema"]["type"], "object");
            assert!(
                sent["parameters"].is_null(),
                "the field that takes only a part of JSON Schema"
            );
        }
        let marked =
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"});
        assert_eq!(schema(&marked), json!({"type": "object"}));
    }

    #[test]
    fn words_thinking_and_calls_are_told_as_they_come() {
        check(
            &[
                parts(&json!([{"text": "h", "thought": true}])),
                parts(&json!([{"text": "m", "thought": true}])),
                text("I "),
                text("löök 🙂"),
                parts(&json!([{"functionCall": {"name": "read_file", "args": {"path": "x"}}},
                    {"functionCall": {"name": "list_files", "args": {}, "id": "own"}}])),
                parts(&json!([{"functionCall": {"name": "f"}}])),
                stop("STOP"),
            ],
            &expect![[r#"
                reasoning "h"
                reasoning "m"
                = reasoning "hm" 
                text "I "
                text "löök 🙂"
                = text "I löök 🙂"
                = call r1_1 read_file {"path":"x"}
                = call own list_files {}
                = call r1_3 f 
                usage 12 (8) 5
                finish ToolCalls
            "#]],
        );
    }

    #[test]
    fn every_seal_goes_back_on_the_part_that_it_came_with() {
        let came = [
            json!({"text": "hm", "thought": true, "thoughtSignature": "s1"}),
            json!({"text": "I look."}),
            json!({"text": "Sealed words.", "thoughtSignature": "s2"}),
            json!({"text": "More."}),
            json!({"functionCall": {"id": "a", "name": "f", "args": {"x":1}}, "thoughtSignature": "s3"}),
            json!({"functionCall": {"id": "b", "name": "f", "args": {}}}),
            json!({"text": "", "thoughtSignature": "s4"}),
            json!({"functionCall": {"id": "c", "name": "f", "args": {}}}),
        ];
        let chunks: Vec<_> =
            came.iter().map(|part| parts(&json!([part]))).chain([stop("STOP")]).collect();
        let segment = Gemini::default().segment(&answered(&chunks));
        let sent: Value = serde_json::from_slice(&segment).unwrap();
        assert_eq!(sent, json!({"role": "model", "parts": came}));
    }

    #[test]
    fn a_seal_of_one_provider_is_not_sent_to_another() {
        let chunks = [
            parts(&json!([{"text": "hm", "thought": true, "thoughtSignature": "s1"},
                {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "s2"}])),
            stop("STOP"),
        ];
        let message = answered(&chunks);
        for wire in crate::config::endpoint::Wire::ALL {
            let segment = super::super::for_wire(wire).segment(&message);
            let text = std::str::from_utf8(&segment).unwrap();
            let own = wire == crate::config::endpoint::Wire::Gemini;
            assert_eq!(text.contains("\"s1\""), own, "{text}");
            assert!(!text.contains("gemini/"), "{text}");
            assert!(text.contains("r1_1"), "{text}");
        }
    }

    #[test]
    fn an_emoji_cut_in_two_by_the_server_costs_neither_the_answer_nor_the_emoji() {
        let chunk = |text: &str| {
            format!(r#"data: {{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}}}}]}}"#)
                + "\n\n"
        };
        let end = "data: {\"candidates\":[{\"finishReason\":\"STOP\"}]}\n\n";
        assert_eq!(
            decoded(&Gemini::default(), &(chunk("a \\ud83d") + &chunk("\\ude42") + end)),
            "text \"a \"\ntext \"🙂\"\n= text \"a 🙂\"\nfinish Stop\n"
        );
    }

    #[test]
    fn calls_without_ids_and_with_the_same_one_are_told_apart() {
        let same = json!({"functionCall": {"id": "x", "name": "f", "args": {}}});
        check(
            &[parts(&json!([same, same])), stop("STOP")],
            &expect![[r#"
            = call x f {}
            = call x_2 f {}
            usage 12 (8) 5
            finish ToolCalls
        "#]],
        );
        // A server that names not even its answers.
        let bare = json!({"candidates": [{"content": {"parts": [
            {"functionCall": {"name": "f", "args": null}}]}, "finishReason": "STOP"}]});
        check(
            &[bare],
            &expect![[r#"
            = call call_1 f 
            finish ToolCalls
        "#]],
        );
        check(
            &[parts(&json!([{"functionCall": {"args": {}}}]))],
            &expect![[r#"
            the stream holds an event that is not what the provider documents: a tool call without a name
        "#]],
        );
    }

    #[test]
    fn the_reasons_to_stop_are_told_apart() {
        for (name, finish) in [
            ("STOP", "Stop"),
            ("MAX_TOKENS", "Length"),
            ("SAFETY", "Refusal"),
            ("RECITATION", "Refusal"),
            ("PROHIBITED_CONTENT", "Refusal"),
            ("OTHER", "Other"),
            ("MISSING_THOUGHT_SIGNATURE", "Other"),
        ] {
            assert_eq!(
                decoded(&Gemini::default(), &stream(&[stop(name)])),
                format!("usage 12 (8) 5\nfinish {finish}\n")
            );
        }
        let blocked = json!({"promptFeedback": {"blockReason": "SAFETY", "safetyRatings": []},
            "usageMetadata": {"promptTokenCount": 4}});
        assert_eq!(
            decoded(&Gemini::default(), &stream(&[blocked])),
            "usage 4 (0) 0\nfinish Refusal\n"
        );
    }

    #[test]
    fn a_call_that_the_server_threw_away_is_asked_for_again() {
        let mut chunk = stop("MALFORMED_FUNCTION_CALL");
        chunk["candidates"][0]["finishMessage"] = "Malformed function call: f(".into();
        let mut decoder = Gemini::default().decoder(&Arc::default());
        let result = decoder.event("", &chunk.to_string(), &mut Vec::new());
        let Err(DecodeError::Reported { message, temporary: true }) = result else { panic!() };
        assert_eq!(message, "MALFORMED_FUNCTION_CALL: Malformed function call: f(");
    }

    #[test]
    fn a_stream_ends_well_only_if_it_says_so() {
        check(
            &[text("a")],
            &expect![[r#"
            text "a"
            the stream ended before the answer was complete
        "#]],
        );
        assert_eq!(
            decoded(&Gemini::default(), ""),
            "the stream ended before the answer was complete\n"
        );
        // What follows a reason to stop is heard all the same.
        check(
            &[text("a"), stop("STOP"), text("b")],
            &expect![[r#"
            text "a"
            usage 12 (8) 5
            text "b"
            = text "ab"
            finish Stop
        "#]],
        );
    }

    #[test]
    fn errors_in_the_stream_end_it_and_say_whether_they_pass() {
        for (code, status, passes) in
            [(503, "UNAVAILABLE", true), (429, "RESOURCE_EXHAUSTED", true), (400, "X", false)]
        {
            let error = json!({"error": {"code": code, "message": "no luck", "status": status}});
            let mut decoder = Gemini::default().decoder(&Arc::default());
            let result = decoder.event("", &error.to_string(), &mut Vec::new());
            let Err(DecodeError::Reported { message, temporary }) = result else { panic!() };
            assert_eq!((&*message, temporary), ("no luck", passes));
        }
        assert!(decoded(&Gemini::default(), "data: {\n\n").contains("not what the provider"));
    }

    #[test]
    fn a_crowded_server_says_in_its_error_how_long_to_wait() {
        let error = |wait: &str| {
            let details = json!([{"@type": "type.googleapis.com/google.rpc.QuotaFailure"},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": wait}]);
            json!({"error": {"code": 429, "details": details}}).to_string()
        };
        let wait = |body: &str| Gemini::default().retry_after(body.as_bytes());
        assert_eq!(wait(&error("34.5s")), Some(Duration::from_millis(34_500)));
        for odd in ["34", "-1s", "s", "1e99s"] {
            assert_eq!(wait(&error(odd)), None, "{odd}");
        }
        assert_eq!(wait("<html>"), None);
    }

    #[test]
    fn fields_and_shapes_that_nobody_promised_do_no_harm() {
        check(
            &[
                json!({"candidates": null, "error": null, "usageMetadata": [], "new": 1}),
                json!({"candidates": [{"content": {"role": "model"}, "finishReason": null}]}),
                json!({"candidates": [{"content": ["odd"]}], "responseId": 3}),
                json!({"candidates": [{"index": 1, "content": {"parts": [{"text": "other"}]}}]}),
                parts(
                    &json!([{"executableCode": {"code": "1"}}, {"text": ["odd"], "thought": "x"}]),
                ),
                text("a"),
                json!({"candidates": [{"finishReason": "STOP"}],
                    "usageMetadata": {"promptTokenCount": -1, "candidatesTokenCount": 2}}),
            ],
            &expect![[r#"
                text "a"
                usage 0 (0) 2
                = text "a"
                finish Stop
            "#]],
        );
    }

    #[test]
    fn a_whole_answer_and_a_list_of_chunks_decode_too() {
        let whole = json!({"candidates": [{"content": {"parts": [{"text": "Hi"},
            {"functionCall": {"name": "f", "args": {}}}]}, "finishReason": "STOP"}],
            "responseId": "r2"});
        let told = "text \"Hi\"\n= text \"Hi\"\n= call r2_1 f {}\nfinish ToolCalls\n";
        for body in [whole.clone(), json!([whole])] {
            assert_eq!(decoded(&Gemini::default(), &format!("data: {body}\n\n")), told);
        }
    }
}
