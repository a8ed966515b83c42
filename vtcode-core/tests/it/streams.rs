//! Streamed answers as each provider documents them, for tests and benches: the events that begin
//! one, one with a piece of text or of a call's arguments, and the naive reading of them.

use vtcode_core::config::endpoint::Wire;

/// The events before the first words.
pub(crate) fn begin(wire: Wire) -> String {
    match wire {
        Wire::OpenAiChat => data(
            r#"{"id":"chatcmpl-9q1","object":"chat.completion.chunk","created":1767225600,"model":"gpt-5.1","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"a1"}"#,
        ),
        Wire::OpenAiResponses => [
            r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","status":"in_progress","output":[]}}"#,
            r#"{"type":"response.output_item.added","sequence_number":1,"output_index":0,"item":{"id":"msg_0d1","type":"message","status":"in_progress","content":[],"role":"assistant"}}"#,
            r#"{"type":"response.content_part.added","sequence_number":2,"item_id":"msg_0d1","output_index":0,"content_index":0,"part":{"type":"output_text","annotations":[],"logprobs":[],"text":""}}"#,
        ]
        .map(named)
        .concat(),
        Wire::Anthropic => [
            r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-opus-5-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":472,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":2}}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        ]
        .map(named)
        .concat(),
        _ => delta(wire, "So"),
    }
}

/// One event with a piece of text, as JSON writes it.
pub(crate) fn delta(wire: Wire, piece: &str) -> String {
    match wire {
        Wire::OpenAiChat => data(&format!(
            r#"{{"id":"chatcmpl-9q1","object":"chat.completion.chunk","created":1767225600,"model":"gpt-5.1","service_tier":"default","system_fingerprint":"fp_1","choices":[{{"index":0,"delta":{{"content":"{piece}"}},"logprobs":null,"finish_reason":null}}],"usage":null,"obfuscation":"GpXIPSPnR"}}"#
        )),
        Wire::OpenAiResponses => named(&format!(
            r#"{{"type":"response.output_text.delta","sequence_number":7,"item_id":"msg_0d1","output_index":0,"content_index":0,"delta":"{piece}","logprobs":[],"obfuscation":"GpXIPSPnR"}}"#
        )),
        Wire::Anthropic => named(&format!(
            r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{piece}"}}}}"#
        )),
        _ => format!(
            "data: {}\r\n\r\n",
            format_args!(
                r#"{{"candidates": [{{"content": {{"parts": [{{"text": "{piece}"}}],"role": "model"}},"index": 0}}],"usageMetadata": {{"promptTokenCount": 12,"candidatesTokenCount": 3,"totalTokenCount": 15,"promptTokensDetails": [{{"modality": "TEXT","tokenCount": 12}}]}},"modelVersion": "gemini-3-pro","responseId": "r1"}}"#
            )
        ),
    }
}

/// The events before the first piece of a call's arguments.
pub(crate) fn begin_call(wire: Wire) -> String {
    match wire {
        Wire::OpenAiChat => data(
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"write_file","arguments":"{\"content\":\""}}]},"finish_reason":null}]}"#,
        ),
        Wire::OpenAiResponses => named(
            r#"{"type":"response.output_item.added","output_index":0,"item":{"id":"fc_1","type":"function_call","status":"in_progress","arguments":"","call_id":"call_1","name":"write_file"}}"#,
        ),
        _ => named(
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"toolu_1","name":"write_file","input":{}}}"#,
        ),
    }
}

/// One event with a piece of a call's arguments, as JSON writes it.
pub(crate) fn arguments(wire: Wire, piece: &str) -> String {
    match wire {
        Wire::OpenAiChat => data(&format!(
            r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":0,"function":{{"arguments":"{piece}"}}}}]}},"finish_reason":null}}]}}"#
        )),
        Wire::OpenAiResponses => named(&format!(
            r#"{{"type":"response.function_call_arguments.delta","item_id":"fc_1","output_index":0,"delta":"{piece}"}}"#
        )),
        _ => named(&format!(
            r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"input_json_delta","partial_json":"{piece}"}}}}"#
        )),
    }
}

fn data(event: &str) -> String {
    format!("data: {event}\n\n")
}

/// An event whose type stands in its name, too.
fn named(event: &str) -> String {
    let kind = event.split('"').nth(3).unwrap_or_default();
    format!("event: {kind}\ndata: {event}\n\n")
}
