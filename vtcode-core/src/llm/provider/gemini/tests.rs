//! Gemini: requests as the server takes them, answers as it sends them.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them so")]

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
        assert!(sent["parameters"].is_null(), "the field that takes only a part of JSON Schema");
    }
    let marked = json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"});
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
    assert_eq!(decoded(&Gemini::default(), &stream(&[blocked])), "usage 4 (0) 0\nfinish Refusal\n");
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
            parts(&json!([{"executableCode": {"code": "1"}}, {"text": ["odd"], "thought": "x"}])),
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
