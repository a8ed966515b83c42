//! Google Gemini: an answer comes in, chunks that are small answers themselves or one of them go
//! out. A call comes whole in one chunk, without an id unless the script gives one.
//! Never lets an answer that thought go without a signature; clients have to send it back.

use serde_json::{Value, json};

use super::{Answer, MODEL, Say, fragments, sse, tokens};

pub(super) fn stream(answer: &Answer<'_>) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut ends_in_words = false;
    for (index, part) in answer.parts.iter().enumerate() {
        match part {
            Say::Text(text) => {
                chunks.extend(fragments(text).map(|piece| json!({"text": piece})));
                ends_in_words = true;
            }
            Say::Thinking(text) => {
                chunks.extend(fragments(text).map(|piece| json!({"text": piece, "thought": true})));
                ends_in_words = false;
            }
            Say::Call { .. } => {
                chunks.push(call(answer, index));
                ends_in_words = false;
            }
        }
    }
    let mut chunks: Vec<_> = chunks.into_iter().map(|part| chunk(answer, &[part], None)).collect();
    if let Some(finish) = &answer.finish {
        let mut last = json!({"text": ""});
        if ends_in_words && thinks(answer) {
            // Words have their signature behind them, in a part that has none.
            last["thoughtSignature"] = signature(answer, "end").into();
        }
        chunks.push(chunk(answer, &[last], Some(finish)));
    }
    chunks.iter().map(|chunk| sse("", chunk)).collect()
}

pub(super) fn whole(answer: &Answer<'_>) -> Value {
    let parts = answer.parts.iter().enumerate().map(|(index, part)| match part {
        Say::Text(text) => json!({"text": text}),
        Say::Thinking(text) => json!({"text": text, "thought": true}),
        Say::Call { .. } => call(answer, index),
    });
    chunk(answer, &parts.collect::<Vec<_>>(), answer.finish.as_deref())
}

pub(super) fn error(code: u16, message: &str) -> Value {
    let status = match code {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        500.. => "INTERNAL",
        _ => "INVALID_ARGUMENT",
    };
    json!({"error": {"code": code, "message": message, "status": status}})
}

pub(super) fn models() -> Value {
    json!({"models": [{
        "name": format!("models/{MODEL}"),
        "displayName": "Scripted model",
        "supportedGenerationMethods": ["generateContent"],
    }]})
}

/// Returns what a request must not be without: the provider takes the results of calls only right
/// behind them, one for each. None when nothing is missing.
pub(super) fn missing(request: &Value) -> Option<&'static str> {
    let contents = request["contents"].as_array().filter(|contents| !contents.is_empty());
    let Some(contents) = contents else { return Some("contents") };
    let mut open = 0;
    for content in contents {
        let Some(parts) = content["parts"].as_array().filter(|parts| !parts.is_empty()) else {
            return Some("contents.parts");
        };
        let count = |field: &str| parts.iter().filter(|part| part[field].is_object()).count();
        if count("functionResponse") != std::mem::replace(&mut open, count("functionCall")) {
            return Some("functionResponse");
        }
    }
    None
}

/// Only the first call of an answer that thought carries a signature.
fn call(answer: &Answer<'_>, at: usize) -> Value {
    let Say::Call { id, name, arguments } = &answer.parts[at] else {
        unreachable!("every caller has seen a call there")
    };
    let mut call = json!({"functionCall": {"name": name}});
    if !arguments.is_empty() {
        // Arguments are JSON here, not text: broken ones become a string.
        let args: Value = serde_json::from_str(arguments).unwrap_or_else(|_| (*arguments).into());
        call["functionCall"]["args"] = args;
    }
    if !id.is_empty() {
        call["functionCall"]["id"] = id.as_str().into();
    }
    let earlier = answer.parts[..at].iter().any(|part| matches!(part, Say::Call { .. }));
    if thinks(answer) && !earlier {
        call["thoughtSignature"] = signature(answer, "call").into();
    }
    call
}

fn thinks(answer: &Answer<'_>) -> bool {
    answer.parts.iter().any(|part| matches!(part, Say::Thinking(_)))
}

fn signature(answer: &Answer<'_>, place: &str) -> String {
    format!("signature+{}/{place}==", answer.number)
}

fn chunk(answer: &Answer<'_>, parts: &[Value], finish: Option<&str>) -> Value {
    let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
    if let Some(finish) = finish {
        candidate["finishReason"] = finish.into();
    }
    json!({
        "candidates": [candidate],
        "usageMetadata": usage(answer),
        "modelVersion": answer.model,
        "responseId": format!("answer-{}", answer.number),
    })
}

/// This wire counts thinking beside the output, not in it.
fn usage(answer: &Answer<'_>) -> Value {
    let usage = answer.usage;
    let thinking = answer.parts.iter().map(|part| match part {
        Say::Thinking(text) => tokens(text.len()),
        _ => 0,
    });
    let thinking = thinking.sum::<u64>().min(usage.output);
    json!({
        "promptTokenCount": usage.input,
        "cachedContentTokenCount": usage.cached,
        "candidatesTokenCount": usage.output - thinking,
        "thoughtsTokenCount": thinking,
        "totalTokenCount": usage.input + usage.output,
    })
}
