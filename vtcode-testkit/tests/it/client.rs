//! A client that hides nothing: what is written goes out as it is, and what comes in is kept as the
//! chunks and events in which it came.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vtcode_testkit::{ScriptedModel, Wire};

pub(crate) const ALL: [Wire; 4] = [Wire::Chat, Wire::Messages, Wire::Responses, Wire::Gemini];

/// Long enough for any machine; a test that needs it hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("the test hangs")
}

pub(crate) struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) chunks: Vec<Vec<u8>>,
    /// False when the connection ended first.
    pub(crate) complete: bool,
}

impl Client {
    pub(crate) async fn to(model: &ScriptedModel) -> Self {
        Self { stream: TcpStream::connect(model.address()).await.unwrap(), inbox: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn post(&mut self, path: &str, body: &str) {
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}", body.len());
        self.write(format!("{head}\r\n\r\n{body}").as_bytes()).await;
    }

    /// Asks for a streamed answer and reads all of it.
    pub(crate) async fn stream(&mut self, wire: Wire) -> Got {
        self.post(path(wire), &request(wire, true).to_string()).await;
        self.response().await.unwrap()
    }

    /// Reads a response as far as it comes; `None` when the connection ends before its head.
    pub(crate) async fn response(&mut self) -> Option<Got> {
        within(async {
            let end = loop {
                match find(&self.inbox, b"\r\n\r\n") {
                    Some(at) => break at + 4,
                    None if !self.more().await => return None,
                    None => {}
                }
            };
            let head: Vec<_> = self.inbox.drain(..end).collect();
            let head = String::from_utf8(head).unwrap().to_lowercase();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            let mut got =
                Got { status, head, body: Vec::new(), chunks: Vec::new(), complete: false };
            if let Some(length) = got.header("content-length") {
                let length: usize = length.parse().unwrap();
                while self.inbox.len() < length && self.more().await {}
                got.complete = self.inbox.len() >= length;
                got.body = self.inbox.drain(..length.min(self.inbox.len())).collect();
            } else {
                while let Some(chunk) = self.chunk().await {
                    if chunk.is_empty() {
                        got.complete = true;
                        break;
                    }
                    got.body.extend(&chunk);
                    got.chunks.push(chunk);
                }
            }
            Some(got)
        })
        .await
    }

    /// Reads a response that is a head only.
    pub(crate) async fn interim(&mut self) -> String {
        loop {
            if let Some(at) = find(&self.inbox, b"\r\n\r\n") {
                return String::from_utf8(self.inbox.drain(..at + 4).collect()).unwrap();
            }
            assert!(self.more().await, "the connection ended");
        }
    }

    /// Reads one chunk; `None` when the connection ends first.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.inbox, b"\r\n") {
                let size = str::from_utf8(&self.inbox[..at]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                if self.inbox.len() >= at + 2 + size + 2 {
                    let chunk: Vec<_> = self.inbox.drain(..at + 2 + size + 2).collect();
                    assert!(chunk.ends_with(b"\r\n"));
                    return Some(chunk[at + 2..at + 2 + size].to_vec());
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Returns what reading says once everything is read: how the connection ended.
    pub(crate) async fn end(mut self) -> std::io::Result<()> {
        within(async {
            assert_eq!(self.inbox, b"");
            match self.stream.read_buf(&mut self.inbox).await? {
                0 => Ok(()),
                _ => panic!("there is more: {}", String::from_utf8_lossy(&self.inbox)),
            }
        })
        .await
    }

    async fn more(&mut self) -> bool {
        within(self.stream.read_buf(&mut self.inbox)).await.is_ok_and(|bytes| bytes > 0)
    }
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Returns the events, `[DONE]` as a string.
    pub(crate) fn events(&self) -> Vec<(String, Value)> {
        let text = self.text();
        assert!(
            text.is_empty() || text.ends_with("\n\n"),
            "the last event is not complete: {text}"
        );
        text.split_terminator("\n\n")
            .map(|event| {
                let (name, data) = match event.strip_prefix("event: ") {
                    Some(rest) => rest.split_once('\n').unwrap(),
                    None => ("", event),
                };
                let data = data.strip_prefix("data: ").unwrap();
                let data = serde_json::from_str(data).unwrap_or_else(|_| data.into());
                (name.to_owned(), data)
            })
            .collect()
    }
}

/// What an answer says, read off any wire.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Said {
    /// Text, thinking and calls in the order in which they began.
    pub(crate) parts: Vec<Part>,
    pub(crate) finish: Option<String>,
    /// Input that was not cached, cached input, output.
    pub(crate) usage: Option<(u64, u64, u64)>,
    /// The stream says that it is over.
    pub(crate) terminal: bool,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Part {
    Text(String),
    Thinking(String),
    Call { id: String, name: String, arguments: String },
}

pub(crate) fn said(wire: Wire, got: &Got) -> Said {
    let mut said = Said::default();
    for (name, data) in got.events() {
        match wire {
            Wire::Chat => chat_event(&mut said, &name, &data),
            Wire::Responses => responses_event(&mut said, &name, &data),
            Wire::Gemini => gemini_chunk(&mut said, &name, &data),
            _ => messages_event(&mut said, &name, &data),
        }
    }
    said
}

fn chat_event(said: &mut Said, name: &str, data: &Value) {
    assert_eq!(name, "");
    if data == "[DONE]" {
        said.terminal = true;
        return;
    }
    assert!(!said.terminal);
    assert_eq!(data["object"], "chat.completion.chunk");
    if let Some(usage) = data.get("usage").filter(|usage| !usage.is_null()) {
        let cached = count(&usage["prompt_tokens_details"]["cached_tokens"]);
        let input = count(&usage["prompt_tokens"]) - cached;
        said.usage = Some((input, cached, count(&usage["completion_tokens"])));
    }
    let Some(choice) = data["choices"].as_array().unwrap().first() else { return };
    if let Some(finish) = choice["finish_reason"].as_str() {
        said.finish = Some(finish.to_owned());
    }
    let delta = &choice["delta"];
    if let Some(more) = delta["content"].as_str().filter(|more| !more.is_empty()) {
        match said.parts.last_mut() {
            Some(Part::Text(text)) => text.push_str(more),
            _ => said.parts.push(Part::Text(more.to_owned())),
        }
    }
    if let Some(more) = delta["reasoning_content"].as_str() {
        match said.parts.last_mut() {
            Some(Part::Thinking(text)) => text.push_str(more),
            _ => said.parts.push(Part::Thinking(more.to_owned())),
        }
    }
    for call in delta["tool_calls"].as_array().into_iter().flatten() {
        let so_far = said.parts.iter().filter(|part| matches!(part, Part::Call { .. })).count();
        if call["id"].is_string() {
            assert_eq!(count(&call["index"]), so_far as u64);
            assert_eq!(call["type"], "function");
            said.parts.push(Part::Call {
                id: call["id"].as_str().unwrap().to_owned(),
                name: call["function"]["name"].as_str().unwrap().to_owned(),
                arguments: String::new(),
            });
        } else {
            assert_eq!(count(&call["index"]) + 1, so_far as u64);
        }
        let Some(Part::Call { arguments, .. }) = said.parts.last_mut() else { panic!("{call}") };
        arguments.push_str(call["function"]["arguments"].as_str().unwrap());
    }
}

fn messages_event(said: &mut Said, name: &str, data: &Value) {
    assert_eq!(data["type"], name);
    assert!(!said.terminal);
    match name {
        "message_start" => {
            let usage = &data["message"]["usage"];
            let cached = count(&usage["cache_read_input_tokens"]);
            said.usage =
                Some((count(&usage["input_tokens"]), cached, count(&usage["output_tokens"])));
        }
        "content_block_start" => {
            assert_eq!(count(&data["index"]), said.parts.len() as u64);
            let block = &data["content_block"];
            said.parts.push(match block["type"].as_str().unwrap() {
                "text" => Part::Text(String::new()),
                "thinking" => Part::Thinking(String::new()),
                "tool_use" => Part::Call {
                    id: block["id"].as_str().unwrap().to_owned(),
                    name: block["name"].as_str().unwrap().to_owned(),
                    arguments: String::new(),
                },
                other => panic!("{other}"),
            });
        }
        "content_block_delta" => {
            assert_eq!(count(&data["index"]) + 1, said.parts.len() as u64);
            let delta = &data["delta"];
            match (delta["type"].as_str().unwrap(), said.parts.last_mut().unwrap()) {
                ("text_delta", Part::Text(text)) => text.push_str(delta["text"].as_str().unwrap()),
                ("thinking_delta", Part::Thinking(text)) => {
                    text.push_str(delta["thinking"].as_str().unwrap());
                }
                ("signature_delta", Part::Thinking(_)) => assert!(delta["signature"].is_string()),
                ("input_json_delta", Part::Call { arguments, .. }) => {
                    arguments.push_str(delta["partial_json"].as_str().unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
        "content_block_stop" => assert_eq!(count(&data["index"]) + 1, said.parts.len() as u64),
        "message_delta" => {
            said.finish = data["delta"]["stop_reason"].as_str().map(str::to_owned);
            said.usage.as_mut().unwrap().2 = count(&data["usage"]["output_tokens"]);
        }
        "message_stop" => said.terminal = true,
        "ping" => {}
        other => panic!("{other}"),
    }
}

fn responses_event(said: &mut Said, name: &str, data: &Value) {
    assert_eq!(data["type"], name);
    assert!(!said.terminal);
    match name {
        "response.output_item.added" => {
            assert_eq!(count(&data["output_index"]), said.parts.len() as u64);
            let item = &data["item"];
            said.parts.push(match item["type"].as_str().unwrap() {
                "message" => Part::Text(String::new()),
                "reasoning" => Part::Thinking(String::new()),
                "function_call" => Part::Call {
                    id: item["call_id"].as_str().unwrap().to_owned(),
                    name: item["name"].as_str().unwrap().to_owned(),
                    arguments: String::new(),
                },
                other => panic!("{other}"),
            });
        }
        "response.output_item.done" => {
            assert_eq!(count(&data["output_index"]) + 1, said.parts.len() as u64);
            let item = &data["item"];
            let whole = match said.parts.last().unwrap() {
                Part::Text(text) => item["content"][0]["text"] == **text,
                Part::Thinking(text) => {
                    assert!(item["encrypted_content"].is_string());
                    item["summary"][0]["text"] == **text
                }
                Part::Call { arguments, .. } => item["arguments"] == **arguments,
            };
            assert!(whole, "{item}");
        }
        "response.completed" | "response.incomplete" => {
            let response = &data["response"];
            let reason = response["incomplete_details"]["reason"].as_str();
            said.finish = reason.or(response["status"].as_str()).map(str::to_owned);
            let usage = &response["usage"];
            let cached = count(&usage["input_tokens_details"]["cached_tokens"]);
            let input = count(&usage["input_tokens"]) - cached;
            said.usage = Some((input, cached, count(&usage["output_tokens"])));
            said.terminal = true;
        }
        "response.output_text.delta"
        | "response.reasoning_summary_text.delta"
        | "response.function_call_arguments.delta" => {
            let (kind, so_far) = match said.parts.last_mut().unwrap() {
                Part::Text(text) => ("output_text", text),
                Part::Thinking(text) => ("reasoning_summary_text", text),
                Part::Call { arguments, .. } => ("function_call_arguments", arguments),
            };
            assert_eq!(name, format!("response.{kind}.delta"));
            so_far.push_str(data["delta"].as_str().unwrap());
        }
        "response.created" | "response.in_progress" => assert!(said.parts.is_empty()),
        // What opens a part of an item, and what repeats its deltas.
        _ => assert!(
            name.contains("_part.") || name.contains("_text.") || name.contains("_arguments."),
            "{name}"
        ),
    }
}

fn gemini_chunk(said: &mut Said, name: &str, data: &Value) {
    assert_eq!(name, "");
    assert!(!said.terminal);
    let candidate = &data["candidates"][0];
    for part in candidate["content"]["parts"].as_array().unwrap() {
        if let Some(call) = part.get("functionCall") {
            said.parts.push(Part::Call {
                id: call.get("id").map_or("", |id| id.as_str().unwrap()).to_owned(),
                name: call["name"].as_str().unwrap().to_owned(),
                arguments: call["args"].to_string(),
            });
            continue;
        }
        let words = part["text"].as_str().unwrap();
        match (part["thought"] == true, said.parts.last_mut()) {
            (true, Some(Part::Thinking(text))) | (false, Some(Part::Text(text))) => {
                text.push_str(words);
            }
            (true, _) => said.parts.push(Part::Thinking(words.to_owned())),
            (false, _) if words.is_empty() => {}
            (false, _) => said.parts.push(Part::Text(words.to_owned())),
        }
    }
    let usage = &data["usageMetadata"];
    let cached = count(&usage["cachedContentTokenCount"]);
    let output = count(&usage["candidatesTokenCount"]) + count(&usage["thoughtsTokenCount"]);
    said.usage = Some((count(&usage["promptTokenCount"]) - cached, cached, output));
    if let Some(finish) = candidate["finishReason"].as_str() {
        said.finish = Some(finish.to_owned());
        said.terminal = true;
    }
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

pub(crate) fn path(wire: Wire) -> &'static str {
    match wire {
        Wire::Chat => "/v1/chat/completions",
        Wire::Responses => "/v1/responses",
        Wire::Gemini => "/v1beta/models/m:streamGenerateContent?alt=sse",
        _ => "/v1/messages",
    }
}

pub(crate) fn request(wire: Wire, stream: bool) -> Value {
    match wire {
        Wire::Responses => return json!({"model": "m", "stream": stream, "input": "hi"}),
        Wire::Gemini => return json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}),
        _ => {}
    }
    let mut request =
        json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]});
    match wire {
        Wire::Chat => request["stream_options"] = json!({"include_usage": true}),
        _ => request["max_tokens"] = 100.into(),
    }
    request
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
