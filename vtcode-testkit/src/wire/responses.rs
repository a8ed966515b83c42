//! OpenAI Responses: an answer comes in, typed events with numbered items or one response go out.
//! Every item is opened, filled by several deltas and closed before the next one opens.
//! Never sends thinking without its encrypted content; clients have to send it back.

use serde_json::{Value, json};

use super::{Answer, MODEL, Say, fragments, sse, tokens};

/// Some moment, the same on every run, so that recordings can be compared.
const CREATED: u64 = 1_767_225_600;

pub(super) fn stream(answer: &Answer<'_>) -> Vec<Vec<u8>> {
    let begun = response(answer, "in_progress", &[], &Value::Null);
    let mut events = vec![
        json!({"type": "response.created", "response": begun}),
        json!({"type": "response.in_progress", "response": begun}),
    ];
    for (index, part) in answer.parts.iter().enumerate() {
        let id = item_id(answer, index, part);
        let event = |kind: &str, more: &Value| {
            let mut event = json!({"type": kind, "output_index": index});
            if kind.starts_with("response.output_item.") {
                event["item"] = more.clone();
                return event;
            }
            event["item_id"] = id.as_str().into();
            let more = more.as_object().expect("every caller gives an object").clone();
            event.as_object_mut().expect("an object").extend(more);
            event
        };
        events.push(event("response.output_item.added", &begun_item(answer, index, part)));
        match part {
            Say::Text(text) => {
                let empty = json!({"type": "output_text", "text": "", "annotations": []});
                let full = json!({"type": "output_text", "text": text, "annotations": []});
                let part = |part| json!({"content_index": 0, "part": part});
                events.push(event("response.content_part.added", &part(empty)));
                events.extend(fragments(text).map(|piece| {
                    let delta = json!({"content_index": 0, "delta": piece, "logprobs": []});
                    event("response.output_text.delta", &delta)
                }));
                let done = json!({"content_index": 0, "text": text, "logprobs": []});
                events.push(event("response.output_text.done", &done));
                events.push(event("response.content_part.done", &part(full)));
            }
            Say::Thinking(text) => {
                let part = |text: &str| json!({"summary_index": 0, "part": {"type": "summary_text", "text": text}});
                events.push(event("response.reasoning_summary_part.added", &part("")));
                events.extend(fragments(text).map(|piece| {
                    let delta = json!({"summary_index": 0, "delta": piece});
                    event("response.reasoning_summary_text.delta", &delta)
                }));
                let done = json!({"summary_index": 0, "text": text});
                events.push(event("response.reasoning_summary_text.done", &done));
                events.push(event("response.reasoning_summary_part.done", &part(text)));
            }
            Say::Call { arguments, .. } => {
                events.extend(fragments(arguments).map(|piece| {
                    event("response.function_call_arguments.delta", &json!({"delta": piece}))
                }));
                let done = json!({"arguments": arguments});
                events.push(event("response.function_call_arguments.done", &done));
            }
        }
        events.push(event("response.output_item.done", &item(answer, index, part)));
    }
    if let Some(finish) = &answer.finish {
        let kind = if finish == COMPLETED { "response.completed" } else { "response.incomplete" };
        events.push(json!({"type": kind, "response": whole(answer)}));
    }
    (0..).zip(events).map(|(number, data)| event(data, number)).collect()
}

pub(super) fn whole(answer: &Answer<'_>) -> Value {
    let items = answer.parts.iter().enumerate().map(|(index, part)| item(answer, index, part));
    let items: Vec<_> = items.collect();
    let finish = answer.finish.as_deref().unwrap_or(COMPLETED);
    let status = if finish == COMPLETED { COMPLETED } else { "incomplete" };
    let mut response = response(answer, status, &items, &usage(answer));
    if status != COMPLETED {
        response["incomplete_details"] = json!({"reason": finish});
    }
    response
}

pub(super) fn error_event(message: &str) -> Vec<u8> {
    let data = json!({"type": "error", "code": "server_error", "message": message, "param": null});
    event(data, 0)
}

/// The word for an answer that nothing cut short.
pub(super) const COMPLETED: &str = "completed";

fn response(answer: &Answer<'_>, status: &str, output: &[Value], usage: &Value) -> Value {
    json!({
        "id": format!("resp_{}", answer.number),
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": null,
        "incomplete_details": null,
        "model": if answer.model.is_empty() { MODEL } else { answer.model },
        "output": output,
        "parallel_tool_calls": true,
        "store": false,
        "usage": usage,
    })
}

fn item_id(answer: &Answer<'_>, index: usize, part: &Say<'_>) -> String {
    let prefix = match part {
        Say::Text(_) => "msg",
        Say::Thinking(_) => "rs",
        Say::Call { .. } => "fc",
    };
    format!("{prefix}_{}_{index}", answer.number)
}

fn begun_item(answer: &Answer<'_>, index: usize, part: &Say<'_>) -> Value {
    let mut item = item(answer, index, part);
    match part {
        Say::Text(_) => item["content"] = json!([]),
        Say::Thinking(_) => {
            item["summary"] = json!([]);
            item["encrypted_content"] = "".into();
        }
        Say::Call { .. } => item["arguments"] = "".into(),
    }
    if item["status"].is_string() {
        item["status"] = "in_progress".into();
    }
    item
}

fn item(answer: &Answer<'_>, index: usize, part: &Say<'_>) -> Value {
    let own_id = item_id(answer, index, part);
    match part {
        Say::Text(text) => json!({
            "type": "message",
            "id": own_id,
            "status": COMPLETED,
            "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }),
        Say::Thinking(text) => json!({
            "type": "reasoning",
            "id": own_id,
            "summary": [{"type": "summary_text", "text": text}],
            "encrypted_content": format!("encrypted+{}/{index}==", answer.number),
        }),
        Say::Call { id, name, arguments } => json!({
            "type": "function_call",
            "id": own_id,
            "status": COMPLETED,
            "call_id": id,
            "name": name,
            "arguments": arguments,
        }),
    }
}

fn usage(answer: &Answer<'_>) -> Value {
    let usage = answer.usage;
    let thinking = answer.parts.iter().map(|part| match part {
        Say::Thinking(text) => tokens(text.len()),
        _ => 0,
    });
    json!({
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.output,
        "output_tokens_details": {
            "reasoning_tokens": thinking.sum::<u64>().min(usage.output),
        },
        "total_tokens": usage.input + usage.output,
    })
}

/// Returns an event whose name is the type in its data, as on this wire they all are.
fn event(mut data: Value, number: u64) -> Vec<u8> {
    data["sequence_number"] = number.into();
    sse(data["type"].as_str().expect("every event of this wire has a type"), &data)
}
