//! Responses: requests as the server takes them, answers as it sends them.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them so")]

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use serde_json::json;

use super::super::tests::{body, decoded, messages, setup};
use super::*;

/// Checks what a stream of these events says; each carries its type in its data.
#[track_caller]
fn check(events: &[Value], expected: &Expect) {
    expected.assert_eq(&decoded(&OpenAiResponses::default(), &stream(events)));
}

fn stream(events: &[Value]) -> String {
    let mut stream = String::new();
    for event in events {
        let kind = event["type"].as_str().unwrap();
        write!(stream, "event: {kind}\ndata: {event}\n\n").unwrap();
    }
    stream
}

fn created() -> Value {
    json!({"type": "response.created", "sequence_number": 0, "response": {
            "id": "resp_1", "object": "response", "status": "in_progress", "error": null,
            "output": [], "usage": null}})
}

fn added(index: u64, item: &Value) -> Value {
    json!({"type": "response.output_item.added", "output_index": index, "item": item})
}

fn done(index: u64, item: &Value) -> Value {
    json!({"type": "response.output_item.done", "output_index": index, "item": item})
}

fn text(index: u64, delta: &str) -> Value {
    json!({"type": "response.output_text.delta", "output_index": index, "item_id": "msg_1",
            "content_index": 0, "delta": delta})
}

fn arguments(index: u64, delta: &str) -> Value {
    json!({"type": "response.function_call_arguments.delta", "output_index": index,
            "item_id": "fc_1", "delta": delta})
}

fn all_arguments(index: u64, all: &str) -> Value {
    json!({"type": "response.function_call_arguments.done", "output_index": index,
            "item_id": "fc_1", "arguments": all})
}

fn call(id: &str, arguments: &str, status: &str) -> Value {
    json!({"type": "function_call", "id": format!("fc_{id}"), "call_id": id, "name": "f",
            "arguments": arguments, "status": status})
}

fn message() -> Value {
    json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress",
            "content": []})
}

fn said(words: &str) -> Value {
    json!({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": words, "annotations": []}]})
}

fn completed() -> Value {
    json!({"type": "response.completed", "response": {"status": "completed", "error": null,
            "usage": {"input_tokens": 12, "input_tokens_details": {"cached_tokens": 8},
                "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2},
                "total_tokens": 17}}})
}

fn incomplete(reason: &str) -> Value {
    json!({"type": "response.incomplete", "response": {"status": "incomplete",
            "incomplete_details": {"reason": reason}}})
}

#[test]
fn a_request_is_rendered_as_the_wire_wants_it() {
    let head = OpenAiResponses::default().head(&setup());
    let mut messages = messages();
    let Message::Assistant { parts } = &mut messages[1] else { panic!() };
    // Only this wire's own seals go back, and only before something said.
    for (at, text) in [(0, ""), (1, "two\n\nparts")] {
        let signature = Some(format!("responses:enc{at}"));
        let part = Part::Reasoning { text: text.to_owned(), signature, redacted: false };
        parts.insert(at, part);
    }
    let signature = Some("responses:last".to_owned());
    parts.push(Part::Reasoning { text: String::new(), signature, redacted: true });
    let segments: Vec<_> = messages.iter().map(|m| OpenAiResponses::default().segment(m)).collect();
    let body = body(&OpenAiResponses::default(), &head, &segments);
    serde_json::from_str::<Value>(&body).unwrap();
    expect![[r#"
            {"model":"m","stream":true,"store":false,"include":["reasoning.encrypted_content"],"prompt_cache_key":"s1","instructions":"Be \"good\".","tools":[
            {"type":"function","name":"read_file","description":"Reads","parameters":
            {"type":"object"},"strict":false}],"input":[
            {"type":"message","role":"user","content":[
            {"type":"input_text","text":"fix\nit"}]},
            {"type":"reasoning","summary":[],"encrypted_content":"enc0"},
            {"type":"reasoning","summary":[
            {"type":"summary_text","text":"two\n\nparts"}],"encrypted_content":"enc1"},
            {"type":"message","role":"assistant","content":[
            {"type":"output_text","text":"I look."}]},
            {"type":"function_call","call_id":"a","name":"read_file","arguments":"{\"path\": \"x\"}"},
            {"type":"function_call","call_id":"b","name":"read_file","arguments":"{\"_raw\":\"{\\\"path\\\":\"}"},
            {"type":"function_call","call_id":"c","name":"read_file","arguments":"{}"},
            {"type":"function_call_output","call_id":"a","output":"one"},
            {"type":"function_call_output","call_id":"b","output":"error: no JSON"},
            {"type":"function_call_output","call_id":"c","output":"Error: no path"},
            {"type":"function_call_output","call_id":"d","output":""},
            {"type":"message","role":"user","content":[
            {"type":"input_text","text":"go on"}]}]}"#]].assert_eq(&body.replace("{\"type\"", "\n{\"type\""));
}

#[test]
fn what_is_not_there_is_not_sent_and_models_without_thinking_are_not_asked_for_it() {
    let model = "gpt-4.1-mini".to_owned();
    let (system, session_id) = (String::new(), String::new());
    let bare = Setup { model, system, session_id, tools: Vec::new(), ..setup() };
    let head = OpenAiResponses::default().head(&bare);
    let hello = OpenAiResponses::default().segment(&Message::user("hi"));
    assert_eq!(
        body(&OpenAiResponses::default(), &head, &[hello]),
        r#"{"model":"gpt-4.1-mini","stream":true,"store":false,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]}]}"#
    );
}

#[test]
fn the_key_stands_in_one_header() {
    let header = ("authorization", "Bearer k".to_owned());
    assert!(OpenAiResponses::default().headers(Some("k")).contains(&header));
    assert!(
        !OpenAiResponses::default().headers(None).iter().any(|(name, _)| *name == "authorization")
    );
    assert_eq!(OpenAiResponses::default().url("http://h/v1", "m"), "http://h/v1/responses");
}

#[test]
fn thinking_words_and_parallel_calls_are_told_as_they_come() {
    let summary = |delta: &str| {
        json!({"type": "response.reasoning_summary_text.delta", "output_index": 0,
                "item_id": "rs_1", "summary_index": 0, "delta": delta})
    };
    let part = json!({"type": "response.reasoning_summary_part.added", "output_index": 0,
            "item_id": "rs_1", "part": {"type": "summary_text", "text": ""}});
    check(
        &[
            created(),
            json!({"type": "response.in_progress", "response": {"status": "in_progress"}}),
            added(0, &json!({"type": "reasoning", "id": "rs_1", "summary": []})),
            part.clone(),
            summary("h"),
            summary("m"),
            part,
            summary("so"),
            done(
                0,
                &json!({"type": "reasoning", "id": "rs_1", "encrypted_content": "enc==",
                        "summary": [{"type": "summary_text", "text": "hm"},
                            {"type": "summary_text", "text": "so"}]}),
            ),
            added(1, &message()),
            json!({"type": "response.content_part.added", "output_index": 1,
                    "part": {"type": "output_text", "text": ""}}),
            text(1, "I "),
            text(1, "löök 🙂"),
            json!({"type": "response.output_text.done", "output_index": 1, "text": "I löök 🙂"}),
            done(1, &said("I löök 🙂")),
            added(2, &call("call_a", "", "in_progress")),
            arguments(2, "{\"path\":"),
            arguments(2, " \"x\"}"),
            all_arguments(2, "{\"path\": \"x\"}"),
            // A mark shows that the call did not wait for the end of its item.
            summary("late"),
            done(2, &call("call_a", "{\"path\": \"x\"}", "completed")),
            added(3, &call("call_b", "", "in_progress")),
            all_arguments(3, ""),
            done(3, &call("call_b", "", "completed")),
            completed(),
        ],
        &expect![[r#"
                reasoning "h"
                reasoning "m"
                reasoning "\n\n"
                reasoning "so"
                = reasoning "hm\n\nso" responses:enc==
                text "I "
                text "löök 🙂"
                = text "I löök 🙂"
                = call call_a f {"path": "x"}
                reasoning "late"
                = call call_b f 
                usage 12 (8) 5
                finish ToolCalls
            "#]],
    );
}

#[test]
fn an_emoji_cut_in_two_by_the_server_costs_neither_the_answer_nor_the_emoji() {
    let stream = concat!(
        r#"data: {"type":"response.output_text.delta","output_index":0,"delta":"a \ud83d"}"#,
        "\n\n",
        r#"data: {"type":"response.output_text.delta","output_index":0,"delta":"\ude42"}"#,
        "\n\n",
        r#"data: {"type":"response.completed","response":{"status":"completed"}}"#,
        "\n\n",
    );
    assert_eq!(
        decoded(&OpenAiResponses::default(), stream),
        "text \"a \"\ntext \"🙂\"\n= text \"a 🙂\"\nfinish Stop\n"
    );
}

#[test]
fn interleaved_calls_come_in_the_order_in_which_they_began() {
    check(
        &[
            added(0, &call("a", "", "in_progress")),
            added(1, &call("b", "", "in_progress")),
            arguments(0, "{\"x\":"),
            arguments(1, "{}"),
            all_arguments(1, "{}"),
            arguments(0, "1}"),
            all_arguments(0, "{\"x\":1}"),
            done(1, &call("b", "{}", "completed")),
            done(0, &call("a", "{\"x\":1}", "completed")),
            completed(),
        ],
        &expect![[r#"
                = call a f {"x":1}
                = call b f {}
                usage 12 (8) 5
                finish ToolCalls
            "#]],
    );
}

#[test]
fn what_compatible_servers_get_wrong_still_gives_each_call_once() {
    // One index for all items, and another id for an item on each event.
    let other_id = json!({"type": "function_call", "id": "zz", "call_id": "a", "name": "f",
            "arguments": "{\"x\":1}", "status": "completed"});
    check(
        &[
            added(0, &call("a", "", "in_progress")),
            arguments(0, "{\"x\":1}"),
            done(0, &other_id),
            added(0, &call("b", "", "in_progress")),
            all_arguments(0, "{}"),
            done(0, &call("b", "{}", "completed")),
            completed(),
        ],
        &expect![[r#"
                = call a f {"x":1}
                = call b f {}
                usage 12 (8) 5
                finish ToolCalls
            "#]],
    );
    // Items that only end; the arguments as an object; one id twice; no id.
    let bare = json!({"type": "function_call", "name": "g", "arguments": {"y": 2}});
    check(
        &[
            done(0, &said("So.")),
            done(1, &call("a", "{}", "completed")),
            done(2, &call("a", "{}", "completed")),
            done(3, &bare),
            json!({"type": "response.done", "response": {}}),
        ],
        &expect![[r#"
                text "So."
                = text "So."
                = call a f {}
                = call a_2 f {}
                = call call_3 g {"y":2}
                finish ToolCalls
            "#]],
    );
    // Neither index nor id, and a last line from another wire.
    let delta = json!({"type": "response.output_text.delta", "delta": "hi"});
    let stream = stream(&[delta, completed()]) + "data: [DONE]\n\n";
    assert_eq!(
        decoded(&OpenAiResponses::default(), &stream),
        "text \"hi\"\n= text \"hi\"\nusage 12 (8) 5\nfinish Stop\n"
    );
}

#[test]
fn a_call_cut_off_before_its_arguments_is_not_one_without() {
    check(
        &[
            added(0, &call("a", "", "in_progress")),
            arguments(0, "{\"x\":\"lo"),
            added(1, &call("b", "", "in_progress")),
            incomplete("max_output_tokens"),
        ],
        &expect![[r#"
                = call a f {"x":"lo
                finish Length
            "#]],
    );
    check(
        &[
            added(0, &call("a", "", "in_progress")),
            all_arguments(0, ""),
            done(0, &call("a", "", "incomplete")),
            incomplete("max_output_tokens"),
        ],
        &expect![[r#"
                finish Length
            "#]],
    );
    check(
        &[
            done(0, &json!({"type": "function_call", "call_id": "a", "status": "completed"})),
            completed(),
        ],
        &expect![[r#"
                the stream holds an event that is not what the provider documents: a tool call without a name
            "#]],
    );
}

#[test]
fn refusals_filters_and_unknown_ends_are_told() {
    let refusal = json!({"type": "response.refusal.delta", "output_index": 0,
            "item_id": "msg_1", "delta": "I cannot."});
    let refused = json!({"type": "message", "id": "msg_1", "role": "assistant",
            "content": [{"type": "refusal", "refusal": "I cannot."}]});
    let told = "text \"I cannot.\"\n= text \"I cannot.\"\nusage 12 (8) 5\nfinish Refusal\n";
    for events in [
        vec![added(0, &message()), refusal, done(0, &refused), completed()],
        vec![done(0, &refused), completed()],
    ] {
        assert_eq!(decoded(&OpenAiResponses::default(), &stream(&events)), told);
    }
    for (reason, finish) in [("content_filter", "Refusal"), ("boredom", "Other")] {
        let stream = stream(&[text(0, "a"), incomplete(reason)]);
        assert_eq!(
            decoded(&OpenAiResponses::default(), &stream),
            format!("text \"a\"\n= text \"a\"\nfinish {finish}\n")
        );
    }
}

#[test]
fn a_stream_ends_well_only_if_it_says_so() {
    check(
        &[created(), added(0, &message()), text(0, "a"), done(0, &said("a"))],
        &expect![[r#"
                text "a"
                = text "a"
                the stream ended before the answer was complete
            "#]],
    );
    let early = "the stream ended before the answer was complete\n";
    assert_eq!(decoded(&OpenAiResponses::default(), ""), early);
    assert_eq!(decoded(&OpenAiResponses::default(), "data: [DONE]\n\n"), early);
}

#[test]
fn errors_in_the_stream_end_it_and_say_whether_they_pass() {
    let failed = |code: &str| {
        json!({"type": "response.failed", "response": {"status": "failed",
                "error": {"code": code, "message": "no luck"}}})
    };
    let error = json!({"type": "error", "code": "server_error", "message": "gone"});
    let nested = json!({"type": "error", "error": {"type": "invalid_request_error",
            "message": "too long"}});
    for (event, words, passes) in [
        (failed("server_error"), "no luck", true),
        (failed("rate_limit_exceeded"), "no luck", true),
        (failed("context_length_exceeded"), "no luck", false),
        (error, "gone", true),
        (nested, "too long", false),
    ] {
        let mut decoder = OpenAiResponses::default().decoder(&Arc::default());
        let result = decoder.event("", &event.to_string(), &mut Vec::new());
        let Err(DecodeError::Reported { message, temporary }) = result else { panic!() };
        assert_eq!((&*message, temporary), (words, passes));
    }
    check(
        &[text(0, "a"), failed("server_error"), completed()],
        &expect![[r#"
            text "a"
            the provider reported an error in the stream: no luck
        "#]],
    );
    assert!(decoded(&OpenAiResponses::default(), "data: {\n\n").contains("not what the provider"));
}

#[test]
fn items_fields_and_shapes_that_nobody_promised_do_no_harm() {
    check(
        &[
            json!({"type": "response.vendor.event", "output_index": "x", "delta": {"a": 1}}),
            json!({"type": "response.output_item.added", "item": ["odd"]}),
            added(0, &json!({"type": "web_search_call", "id": "ws", "status": "completed"})),
            done(0, &json!({"type": "web_search_call", "id": "ws", "action": {}})),
            json!({"type": "response.output_text.delta", "output_index": 1, "delta": null}),
            text(1, "a"),
            json!({"type": "response.completed", "response": {"status": "completed",
                    "output": "none", "usage": {"input_tokens": -1, "output_tokens": 2}}}),
            text(1, "after the end"),
        ],
        &expect![[r#"
                text "a"
                = text "a"
                usage 0 (0) 2
                finish Stop
            "#]],
    );
}

#[test]
fn a_whole_answer_decodes_as_one_event() {
    let body = json!({"id": "resp_1", "object": "response", "status": "completed",
            "error": null, "output": [
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "enc"},
                said("Hi"), call("a", "{\"x\":1}", "completed")],
            "usage": {"input_tokens": 3, "output_tokens": 4}});
    expect![[r#"
            = redacted "" responses:enc
            text "Hi"
            = text "Hi"
            = call a f {"x":1}
            usage 3 (0) 4
            finish ToolCalls
        "#]]
    .assert_eq(&decoded(&OpenAiResponses::default(), &format!("data: {body}\n\n")));
}
