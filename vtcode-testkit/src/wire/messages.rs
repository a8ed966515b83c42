//! Anthropic Messages: an answer comes in, named events with content blocks or one message go out.
//! Every block is opened, filled by several deltas and closed before the next one opens.
//! Never sends a thinking block without a signature; clients have to send it back.

use serde_json::{Value, json};

use super::{Answer, MODEL, Say, fragments, sse};

pub(super) fn stream(answer: &Answer<'_>) -> Vec<Vec<u8>> {
    let mut events = vec![event(json!({
        "type": "message_start",
        "message": message(answer, &[], None, &usage(answer, 1)),
    }))];
    for (index, part) in answer.parts.iter().enumerate() {
        let delta = |delta: Value| {
            event(json!({"type": "content_block_delta", "index": index, "delta": delta}))
        };
        let empty = match part {
            Say::Text(_) => json!({"type": "text", "text": ""}),
            Say::Thinking(_) => json!({"type": "thinking", "thinking": "", "signature": ""}),
            Say::Call { id, name, .. } => {
                json!({"type": "tool_use", "id": id, "name": name, "input": {}})
            }
        };
        let start = json!({"type": "content_block_start", "index": index, "content_block": empty});
        events.push(event(start));
        if index == 0 {
            events.push(ping());
        }
        match part {
            Say::Text(text) => events.extend(
                fragments(text).map(|piece| delta(json!({"type": "text_delta", "text": piece}))),
            ),
            Say::Thinking(text) => {
                events.extend(
                    fragments(text)
                        .map(|piece| delta(json!({"type": "thinking_delta", "thinking": piece}))),
                );
                let signature = signature(answer, index);
                events.push(delta(json!({"type": "signature_delta", "signature": signature})));
            }
            Say::Call { arguments, .. } => {
                // The provider opens every input with an empty piece, and so do we.
                events.extend(std::iter::once("").chain(fragments(arguments)).map(|piece| {
                    delta(json!({"type": "input_json_delta", "partial_json": piece}))
                }));
            }
        }
        events.push(event(json!({"type": "content_block_stop", "index": index})));
    }
    if answer.parts.is_empty() {
        events.push(ping());
    }
    if let Some(finish) = &answer.finish {
        events.push(event(json!({
            "type": "message_delta",
            "delta": {"stop_reason": finish, "stop_sequence": null},
            "usage": {"output_tokens": answer.usage.output},
        })));
        events.push(event(json!({"type": "message_stop"})));
    }
    events
}

pub(super) fn whole(answer: &Answer<'_>) -> Value {
    let blocks: Vec<_> = answer
        .parts
        .iter()
        .enumerate()
        .map(|(index, part)| match part {
            Say::Text(text) => json!({"type": "text", "text": text}),
            Say::Thinking(text) => json!({
                "type": "thinking",
                "thinking": text,
                "signature": signature(answer, index),
            }),
            Say::Call { id, name, arguments } => {
                // Here the input is JSON, not text: arguments that are broken become a string.
                let input: Value = serde_json::from_str(arguments)
                    .unwrap_or_else(|_| Value::String((*arguments).to_owned()));
                json!({"type": "tool_use", "id": id, "name": name, "input": input})
            }
        })
        .collect();
    let usage = usage(answer, answer.usage.output);
    message(answer, &blocks, answer.finish.as_deref(), &usage)
}

pub(super) fn error(code: u16, message: &str) -> Value {
    let kind = match code {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}})
}

pub(super) fn models() -> Value {
    json!({
        "data": [{
            "type": "model",
            "id": MODEL,
            "display_name": "Scripted model",
            "created_at": "2026-01-01T00:00:00Z",
        }],
        "first_id": MODEL,
        "last_id": MODEL,
        "has_more": false,
    })
}

fn message(answer: &Answer<'_>, content: &[Value], finish: Option<&str>, usage: &Value) -> Value {
    json!({
        "id": format!("msg_{}", answer.number),
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": finish,
        "stop_sequence": null,
        "usage": usage,
    })
}

/// This wire counts the cached tokens beside the input, not in it.
fn usage(answer: &Answer<'_>, output: u64) -> Value {
    json!({
        "input_tokens": answer.usage.input - answer.usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": answer.usage.cached,
        "output_tokens": output,
    })
}

fn signature(answer: &Answer<'_>, index: usize) -> String {
    format!("signature+{}/{index}==", answer.number)
}

fn ping() -> Vec<u8> {
    event(json!({"type": "ping"}))
}

/// Returns an event whose name is the type in its data, as on this wire they all are.
#[expect(clippy::needless_pass_by_value, reason = "every caller builds it on the spot")]
pub(super) fn event(data: Value) -> Vec<u8> {
    let mut text = String::new();
    type_first(&data, &mut text);
    sse(data["type"].as_str().expect("every event of this wire has a type"), &text)
}

/// Writes JSON with `type` as the first key of every object, as the provider does. A decoder that
/// goes by the type has less to remember then, so that a bench would measure something else.
fn type_first(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let first = map.get_key_value("type");
            let rest = map.iter().filter(|(key, _)| *key != "type");
            for (index, (key, value)) in first.into_iter().chain(rest).enumerate() {
                out.push(if index == 0 { '{' } else { ',' });
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                type_first(value, out);
            }
            out.push_str(if map.is_empty() { "{}" } else { "}" });
        }
        // No list of an event has objects in it.
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_stands_first_and_nothing_is_lost() {
        let data = json!({
            "type": "content_block_start",
            "content_block": {"id": "a\"b", "type": "tool_use", "input": {}, "list": [1, null]},
        });
        let event = String::from_utf8(event(data.clone())).unwrap();
        let text = event.strip_prefix("event: content_block_start\ndata: ").unwrap();
        assert!(text.starts_with(r#"{"type":"content_block_start","content_block":{"type":"#));
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), data);
    }
}
