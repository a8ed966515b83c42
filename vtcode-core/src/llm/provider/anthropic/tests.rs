//! Messages: requests as the server takes them, answers as it sends them.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them so")]

use std::fmt::Write as _;

use expect_test::{Expect, expect};

use super::super::tests::{body, decoded, messages, setup};
use super::*;
use crate::llm::message::ToolAnswer;

/// Checks what a stream of these events says; each carries its type in its data.
#[track_caller]
fn check(events: &[&str], expected: &Expect) {
    let mut stream = String::new();
    for event in events {
        let (_, kind) = event.split_once(r#""type":""#).unwrap();
        let (kind, _) = kind.split_once('"').unwrap();
        write!(stream, "event: {kind}\ndata: {event}\n\n").unwrap();
    }
    expected.assert_eq(&decoded(&Anthropic::default(), &stream));
}

const START: &str = r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"model":"m","stop_reason":null,"usage":{"input_tokens":3,"cache_creation_input_tokens":10,"cache_read_input_tokens":100,"output_tokens":1}}}"#;
const STOP: &str = r#"{"type":"message_stop"}"#;

fn block(index: u64, block: &str) -> String {
    format!(r#"{{"type":"content_block_start","index":{index},"content_block":{block}}}"#)
}

fn delta(index: u64, delta: &str) -> String {
    format!(r#"{{"type":"content_block_delta","index":{index},"delta":{delta}}}"#)
}

fn json(index: u64, json: &str) -> String {
    let json = serde_json::Value::from(json);
    delta(index, &format!(r#"{{"type":"input_json_delta","partial_json":{json}}}"#))
}

fn stop(index: u64) -> String {
    format!(r#"{{"type":"content_block_stop","index":{index}}}"#)
}

fn reason(reason: &str) -> String {
    format!(
        r#"{{"type":"message_delta","delta":{{"stop_reason":"{reason}","stop_sequence":null}},"usage":{{"output_tokens":9}}}}"#
    )
}

#[test]
fn a_request_is_rendered_as_the_wire_wants_it() {
    let head = Anthropic::default().head(&setup());
    let segments: Vec<_> = messages().iter().map(|m| Anthropic::default().segment(m)).collect();
    let body = body(&Anthropic::default(), &head, &segments);
    serde_json::from_str::<serde_json::Value>(&body).unwrap();
    expect![[r#"
            {"model":"m","max_tokens":99,"stream":true,"tools":[{"name":"read_file","description":"Reads","input_schema":{"type":"object"}}],"system":[{"type":"text","text":"Be \"good\".","cache_control":{"type":"ephemeral"}}],"messages":[
            {"role":"user","content":[{"type":"text","text":"fix\nit"}]},
            {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"seal"},{"type":"redacted_thinking","data":"sealed"},{"type":"text","text":"I look."},{"type":"tool_use","id":"a","name":"read_file","input":{"path": "x"}},{"type":"tool_use","id":"b","name":"read_file","input":{"_raw":"{\"path\":"}},{"type":"tool_use","id":"c","name":"read_file","input":{}}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":"one"},{"type":"tool_result","tool_use_id":"b","content":"no JSON","is_error":true},{"type":"tool_result","tool_use_id":"c","content":"Error: no path","is_error":true},{"type":"tool_result","tool_use_id":"d","cache_control":{"type":"ephemeral"}}]},
            {"role":"user","content":[{"type":"text","text":"go on","cache_control":{"type":"ephemeral"}}]}]}"#]]
        .assert_eq(&body.replace("{\"role\"", "\n{\"role\""));
}

#[test]
fn empty_texts_are_never_sent() {
    for text in ["", " \n"] {
        let text = text.to_owned();
        assert!(Anthropic::default().segment(&Message::user(text.clone())).is_empty());
        let parts = vec![Part::Text { text: text.clone() }];
        assert!(Anthropic::default().segment(&Message::Assistant { parts }).is_empty());
        let bare = Setup { system: text, tools: Vec::new(), ..setup() };
        let body = body(
            &Anthropic::default(),
            &Anthropic::default().head(&bare),
            &[Bytes::new(), Bytes::new()],
        );
        assert_eq!(body, r#"{"model":"m","max_tokens":99,"stream":true,"messages":[]}"#);
    }
}

#[test]
fn ids_of_another_provider_are_sent_with_letters_that_this_one_takes() {
    let call_id = "functions.f:0".to_owned();
    let (name, arguments) = ("f".to_owned(), String::new());
    let call = ToolCall { id: call_id.clone(), name: name.clone(), arguments };
    let past = Message::Assistant { parts: vec![Part::ToolCall(call)] };
    let answer = ToolAnswer { call_id, name, text: "ok".to_owned(), is_error: false };
    for message in [past, Message::Tool { results: vec![answer] }] {
        let segment = Anthropic::default().segment(&message);
        let text = std::str::from_utf8(&segment).unwrap();
        assert!(text.contains(r#"id":"functions_2ef_3a0""#), "{text}");
    }
}

#[test]
fn the_key_stands_in_one_header() {
    assert!(Anthropic::default().headers(Some("k")).contains(&("x-api-key", "k".to_owned())));
    assert!(!Anthropic::default().headers(None).iter().any(|(name, _)| *name == "x-api-key"));
    assert_eq!(Anthropic::default().url("http://h", "m"), "http://h/v1/messages");
}

#[test]
fn an_emoji_cut_in_two_by_the_server_costs_neither_the_answer_nor_the_emoji() {
    check(
        &[
            START,
            &block(0, r#"{"type":"text","text":""}"#),
            &delta(0, r#"{"type":"text_delta","text":"a \ud83d"}"#),
            &delta(0, r#"{"type":"text_delta","text":"\ude42"}"#),
            &stop(0),
            &reason("end_turn"),
            STOP,
        ],
        &expect![[r#"
                usage 113 (100) 1
                text "a "
                text "🙂"
                = text "a 🙂"
                usage 113 (100) 9
                finish Stop
            "#]],
    );
}

#[test]
fn odd_counts_do_not_cost_the_answer() {
    check(
        &[
            r#"{"type":"message_start","message":{"usage":{"input_tokens":-3,"output_tokens":1}}}"#,
            &block(0, r#"{"type":"text","text":"hi"}"#),
            &stop(0),
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":[]}"#,
            STOP,
        ],
        &expect![[r#"
                usage 0 (0) 1
                text "hi"
                = text "hi"
                finish Stop
            "#]],
    );
}

#[test]
fn thinking_words_and_calls_are_told_as_they_come() {
    check(
        &[
            START,
            &block(0, r#"{"type":"thinking","thinking":"","signature":""}"#),
            &delta(0, r#"{"type":"thinking_delta","thinking":"h"}"#),
            &delta(0, r#"{"type":"thinking_delta","thinking":"m"}"#),
            &delta(0, r#"{"type":"signature_delta","signature":"seal"}"#),
            &stop(0),
            &block(1, r#"{"type":"redacted_thinking","data":"sealed"}"#),
            &stop(1),
            r#"{"type":"ping"}"#,
            &block(2, r#"{"type":"text","text":""}"#),
            &delta(2, r#"{"type":"text_delta","text":"I "}"#),
            &delta(2, r#"{"type":"text_delta","text":"l\u00f6\u00f6k"}"#),
            &stop(2),
            &block(3, r#"{"type":"tool_use","id":"toolu_1","name":"read_file","input":{}}"#),
            &json(3, ""),
            &json(3, "{\"path\":"),
            &json(3, " \"x\"}"),
            &stop(3),
            &block(4, r#"{"type":"tool_use","id":"toolu_2","name":"list_files","input":{}}"#),
            &json(4, ""),
            &stop(4),
            &reason("tool_use"),
            STOP,
        ],
        &expect![[r#"
                usage 113 (100) 1
                reasoning "h"
                reasoning "m"
                = reasoning "hm" seal
                = redacted "" sealed
                text "I "
                text "löök"
                = text "I löök"
                = call toolu_1 read_file {"path": "x"}
                = call toolu_2 list_files 
                usage 113 (100) 9
                finish ToolCalls
            "#]],
    );
}

#[test]
fn a_bare_call_is_told_before_what_follows_it() {
    check(
        &[
            &block(0, r#"{"type":"tool_use","id":"a","name":"f","input":{}}"#),
            &stop(0),
            &block(1, r#"{"type":"text","text":"then"}"#),
            &stop(1),
            &reason("end_turn"),
        ],
        &expect![[r#"
                = call a f 
                text "then"
                = text "then"
                usage 0 (0) 9
                finish ToolCalls
            "#]],
    );
}

#[test]
fn a_call_cut_off_before_its_arguments_is_not_one_without() {
    check(
        &[
            &block(0, r#"{"type":"tool_use","id":"a","name":"f","input":{}}"#),
            &json(0, "{\"x\":\"lo"),
            &stop(0),
            &block(1, r#"{"type":"tool_use","id":"b","name":"f","input":{}}"#),
            &stop(1),
            &reason("max_tokens"),
            STOP,
        ],
        &expect![[r#"
                = call a f {"x":"lo
                usage 0 (0) 9
                finish Length
            "#]],
    );
}

#[test]
fn compatible_servers_may_send_the_arguments_with_the_start_and_no_ids() {
    let call = r#"{"type":"tool_use","id":"","name":"f","input":{"x":1}}"#;
    check(
        &[&block(0, call), &stop(0), &block(1, call), &stop(1), STOP],
        &expect![[r#"
            = call call_1 f {"x":1}
            = call call_2 f {"x":1}
            finish ToolCalls
        "#]],
    );
}

#[test]
fn a_stream_ends_well_only_if_it_says_so() {
    let text = block(0, r#"{"type":"text","text":"a"}"#);
    check(
        &[&text, &stop(0), &reason("end_turn")],
        &expect![[r#"
            text "a"
            = text "a"
            usage 0 (0) 9
            finish Stop
        "#]],
    );
    check(
        &[&text, &stop(0)],
        &expect![[r#"
            text "a"
            = text "a"
            the stream ended before the answer was complete
        "#]],
    );
    assert_eq!(
        decoded(&Anthropic::default(), ""),
        "the stream ended before the answer was complete\n"
    );
}

#[test]
fn the_reasons_to_stop_are_told_apart() {
    for (name, finish) in [
        ("stop_sequence", "Stop"),
        ("model_context_window_exceeded", "Length"),
        ("refusal", "Refusal"),
        ("pause_turn", "Other"),
    ] {
        let stream = format!("data: {}\n\ndata: {STOP}\n\n", reason(name));
        assert_eq!(
            decoded(&Anthropic::default(), &stream),
            format!("usage 0 (0) 9\nfinish {finish}\n")
        );
    }
}

#[test]
fn errors_in_the_stream_end_it() {
    check(
        &[
            START,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            STOP,
        ],
        &expect![[r#"
                usage 113 (100) 1
                the provider reported an error in the stream: Overloaded
            "#]],
    );
    assert_eq!(
        decoded(&Anthropic::default(), "event: ping\ndata: {\n\n"),
        "the stream holds an event that is not what the provider documents: EOF while parsing an object at line 1 column 1: {\n"
    );
}

#[test]
fn a_whole_answer_decodes_as_one_event() {
    check(
        &[
            r#"{"type":"message","role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"seal"},{"type":"text","text":"Hi"},{"type":"tool_use","id":"a","name":"f","input":{"x":1}},{"type":"tool_use","id":"b","name":"g","input":{}}],"stop_reason":"tool_use","usage":{"input_tokens":3,"output_tokens":4}}"#,
        ],
        &expect![[r#"
                reasoning "hm"
                = reasoning "hm" seal
                text "Hi"
                = text "Hi"
                = call a f {"x":1}
                = call b g 
                usage 3 (0) 4
                finish ToolCalls
            "#]],
    );
}

#[test]
fn blocks_and_events_that_nobody_promised_do_no_harm() {
    check(
        &[
            r#"{"type":"vendor_event","index":7,"delta":null}"#,
            &block(0, r#"{"type":"server_tool_use","id":"x","name":"web_search","input":{}}"#),
            &json(0, "{}"),
            &stop(0),
            &delta(9, r#"{"type":"text_delta","text":"no block"}"#),
            &block(1, r#"{"type":"text","text":"","citations":[]}"#),
            &delta(1, r#"{"type":"citations_delta","citation":{}}"#),
            &stop(1),
            &reason("end_turn"),
            STOP,
            r#"{"type":"ping"}"#,
        ],
        &expect![[r#"
                usage 0 (0) 9
                finish Stop
            "#]],
    );
}
