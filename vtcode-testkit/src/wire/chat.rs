//! OpenAI Chat Completions: an answer comes in, `chat.completion.chunk`s or one completion go out.
//! Thinking goes out as `reasoning_content`, as the open models' servers send it.
//! Never writes an `event:` line; this wire has none.

use serde_json::{Value, json};

use super::{Answer, MODEL, Say, fragments, sse, tokens};

/// Some moment, the same on every run, so that recordings can be compared.
const CREATED: u64 = 1_767_225_600;

pub(super) fn stream(answer: &Answer<'_>) -> Vec<Vec<u8>> {
    let says_words = answer.parts.iter().any(|part| matches!(part, Say::Text(_)));
    let content = if says_words { json!("") } else { Value::Null };
    let mut events = vec![delta(answer, &json!({"role": "assistant", "content": content}))];
    let mut call = 0;
    for part in &answer.parts {
        match part {
            Say::Text(text) => events
                .extend(fragments(text).map(|piece| delta(answer, &json!({"content": piece})))),
            Say::Thinking(text) => events.extend(
                fragments(text).map(|piece| delta(answer, &json!({"reasoning_content": piece}))),
            ),
            Say::Call { id, name, arguments } => {
                let first = json!({
                    "index": call,
                    "id": id,
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                });
                events.push(delta(answer, &json!({"tool_calls": [first]})));
                events.extend(fragments(arguments).map(|piece| {
                    let more = json!({"index": call, "function": {"arguments": piece}});
                    delta(answer, &json!({"tool_calls": [more]}))
                }));
                call += 1;
            }
        }
    }
    if let Some(finish) = &answer.finish {
        events.push(chunk(
            answer,
            &json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": finish}]),
            &Value::Null,
        ));
        if answer.usage_in_stream {
            events.push(chunk(answer, &json!([]), &usage(answer)));
        }
        events.push(b"data: [DONE]\n\n".to_vec());
    }
    events
}

pub(super) fn whole(answer: &Answer<'_>) -> Value {
    let mut content = String::new();
    let mut reasoning = String::new();
    let mut calls = Vec::new();
    for part in &answer.parts {
        match part {
            Say::Text(text) => content.push_str(text),
            Say::Thinking(text) => reasoning.push_str(text),
            Say::Call { id, name, arguments } => calls.push(json!({
                "id": id,
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            })),
        }
    }
    let content = if content.is_empty() { Value::Null } else { content.into() };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !reasoning.is_empty() {
        message["reasoning_content"] = reasoning.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    json!({
        "id": format!("chatcmpl-{}", answer.number),
        "object": "chat.completion",
        "created": CREATED,
        "model": answer.model,
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": answer.finish,
        }],
        "usage": usage(answer),
    })
}

pub(super) fn error(code: u16, message: &str) -> Value {
    let (kind, name) = match code {
        401 => ("invalid_request_error", json!("invalid_api_key")),
        429 => ("requests", json!("rate_limit_exceeded")),
        500.. => ("server_error", Value::Null),
        _ => ("invalid_request_error", Value::Null),
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": name}})
}

pub(super) fn models() -> Value {
    json!({
        "object": "list",
        "data": [{"id": MODEL, "object": "model", "created": CREATED, "owned_by": "vtcode"}],
    })
}

fn delta(answer: &Answer<'_>, delta: &Value) -> Vec<u8> {
    let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": null});
    chunk(answer, &json!([choice]), &Value::Null)
}

fn chunk(answer: &Answer<'_>, choices: &Value, usage: &Value) -> Vec<u8> {
    let mut chunk = json!({
        "id": format!("chatcmpl-{}", answer.number),
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": answer.model,
        "choices": choices,
    });
    if answer.usage_in_stream {
        chunk["usage"] = usage.clone();
    }
    sse("", &chunk)
}

fn usage(answer: &Answer<'_>) -> Value {
    let usage = answer.usage;
    let thinking = answer.parts.iter().map(|part| match part {
        Say::Thinking(text) => tokens(text.len()),
        _ => 0,
    });
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {
            "reasoning_tokens": thinking.sum::<u64>().min(usage.output),
        },
    })
}
