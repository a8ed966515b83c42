//! What a response has said of the tokens used: the bytes of its body come in as they are sent, the
//! counts of all events that are complete with their blank line go out.
//! Reads what was rendered here, so it need not bear with anything else.

use serde_json::Value;

use crate::reply::Usage;
use crate::wire::Wire;

/// The bill of one response.
#[derive(Debug)]
pub(crate) struct Bill {
    wire: Wire,
    /// The event that is not complete.
    event: Vec<u8>,
    used: Usage,
}

impl Bill {
    pub(crate) fn new(wire: Wire) -> Self {
        Self { wire, event: Vec::new(), used: Usage::default() }
    }

    /// More of a streamed body went out; returns what is billed so far.
    pub(crate) fn sent(&mut self, body: &[u8]) -> Usage {
        for &byte in body {
            self.event.push(byte);
            if self.event.ends_with(b"\n\n") {
                let event = std::mem::take(&mut self.event);
                self.event_sent(&String::from_utf8_lossy(&event));
            }
        }
        self.used
    }

    /// Returns what a body that is not streamed bills.
    pub(crate) fn whole(mut self, body: &Value) -> Usage {
        self.take(body);
        self.used
    }

    fn event_sent(&mut self, event: &str) {
        // Most events say nothing of it, and reading them all would be half of the server's work.
        let names = ["\"prompt_tokens\"", "\"output_tokens\"", "\"usageMetadata\""];
        let data = event.lines().find_map(|line| line.strip_prefix("data: "));
        if let Some(data) = data.filter(|data| names.iter().any(|name| data.contains(name)))
            && let Ok(data) = serde_json::from_str(data)
        {
            self.take(&data);
        }
    }

    fn take(&mut self, data: &Value) {
        let (usage, [input, cached, output]) = match self.wire {
            Wire::Chat => {
                let cached = "/prompt_tokens_details/cached_tokens";
                (&data["usage"], ["/prompt_tokens", cached, "/completion_tokens"])
            }
            Wire::Responses => {
                let cached = "/input_tokens_details/cached_tokens";
                let usage = if data["usage"].is_object() { data } else { &data["response"] };
                (&usage["usage"], ["/input_tokens", cached, "/output_tokens"])
            }
            Wire::Messages => {
                let start = &data["message"]["usage"];
                let usage = if start.is_object() { start } else { &data["usage"] };
                (usage, ["/input_tokens", "/cache_read_input_tokens", "/output_tokens"])
            }
            Wire::Gemini => {
                let cached = "/cachedContentTokenCount";
                (&data["usageMetadata"], ["/promptTokenCount", cached, "/candidatesTokenCount"])
            }
        };
        if !usage.is_object() {
            return;
        }
        let count = |path| usage.pointer(path).and_then(Value::as_u64);
        self.used.cached = count(cached).unwrap_or(self.used.cached);
        if let Some(input) = count(input) {
            // The messages wire counts what was cached beside the input.
            let beside = if self.wire == Wire::Messages { self.used.cached } else { 0 };
            self.used.input = input + beside;
        }
        if let Some(output) = count(output) {
            // The gemini wire counts thinking beside the output.
            self.used.output = output + count("/thoughtsTokenCount").unwrap_or(0);
        }
    }
}
