//! Chat Completions: requests as servers take them, answers as servers send them.

#![allow(clippy::needless_raw_string_hashes, reason = "expect-test writes them so")]

use expect_test::{Expect, expect};

use super::super::tests::{body, decoded, messages, setup};
use super::*;

/// Checks what a stream of these chunks says.
#[track_caller]
fn check(chunks: &[&str], expected: &Expect) {
    let stream = format!("data: {}\n\n", chunks.join("\n\ndata: "));
    expected.assert_eq(&decoded(&OpenAiChat::default(), &stream));
}

/// A chunk with this delta.
fn delta(delta: &str) -> String {
    format!(
        r#"{{"id":"c","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}],"usage":null}}"#
    )
}

/// A chunk with these tool call fragments.
fn calls(calls: &str) -> String {
    delta(&format!(r#"{{"tool_calls":[{calls}]}}"#))
}

fn stop(reason: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}]}}"#)
}

#[test]
fn ids_and_thinking_go_back_as_the_server_takes_them() {
    let parts = vec![
        Part::Reasoning { text: "hm".to_owned(), signature: None, redacted: false },
        Part::ToolCall(ToolCall {
            id: "call_1".to_owned(),
            name: "f".to_owned(),
            arguments: "{}".to_owned(),
        }),
    ];
    let past = Message::Assistant { parts };
    let answer = ToolAnswer {
        call_id: "call_1".to_owned(),
        name: "f".to_owned(),
        text: "ok".to_owned(),
        is_error: false,
    };
    let sent = |url: &str| {
        let provider = super::super::of(&crate::config::endpoint::Endpoint::new(
            crate::config::endpoint::Wire::OpenAiChat,
            url,
            "m",
        ));
        let answer = Message::Tool { results: vec![answer.clone()] };
        [provider.segment(&past), provider.segment(&answer)]
            .map(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap())
    };
    let [call, _] = sent("https://api.deepseek.com/v1");
    assert_eq!(call["reasoning_content"], "hm");
    let [call, _] = sent("http://localhost:11434/v1");
    assert_eq!(call["reasoning"], "hm");
    let [call, answer] = sent("http://h/v1");
    assert!(call.get("reasoning").is_none() && call.get("reasoning_content").is_none());
    assert_eq!(
        (&call["tool_calls"][0]["id"], &answer["tool_call_id"]),
        (&"call_1".into(), &"call_1".into())
    );
    let [call, answer] = sent("https://api.mistral.ai/v1");
    let id = call["tool_calls"][0]["id"].as_str().unwrap();
    assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
    assert_eq!(answer["tool_call_id"], id);
}

#[test]
fn a_content_of_pieces_is_heard() {
    check(
        &[
            r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"h"}]}]}}]}"#,
            r#"{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"m"}]}]}}]}"#,
            r#"{"choices":[{"delta":{"content":[{"type":"text","text":"So."}]}}]}"#,
            &stop("stop"),
            "[DONE]",
        ],
        &expect![[r#"
                reasoning "h"
                reasoning "m"
                = reasoning "hm" 
                text "So."
                = text "So."
                finish Stop
            "#]],
    );
}

#[test]
fn a_request_is_rendered_as_the_wire_wants_it() {
    let head = OpenAiChat::default().head(&setup());
    let segments: Vec<_> = messages().iter().map(|m| OpenAiChat::default().segment(m)).collect();
    let body = body(&OpenAiChat::default(), &head, &segments);
    serde_json::from_str::<serde_json::Value>(&body).unwrap();
    expect![[r#"
            {"model":"m","stream":true,"stream_options":{"include_usage":true},"tools":[{"type":"function","function":{"name":"read_file","description":"Reads","parameters":{"type":"object"}}}],"messages":[
            {"role":"system","content":"Be \"good\"."},
            {"role":"user","content":"fix\nit"},
            {"role":"assistant","content":"I look.","tool_calls":[{"id":"a","type":"function","function":{"name":"read_file","arguments":"{\"path\": \"x\"}"}},{"id":"b","type":"function","function":{"name":"read_file","arguments":"{\"_raw\":\"{\\\"path\\\":\"}"}},{"id":"c","type":"function","function":{"name":"read_file","arguments":"{}"}}]},
            {"role":"tool","tool_call_id":"a","content":"one"},
            {"role":"tool","tool_call_id":"b","content":"error: no JSON"},
            {"role":"tool","tool_call_id":"c","content":"Error: no path"},
            {"role":"tool","tool_call_id":"d","content":""},
            {"role":"user","content":"go on"}]}"#]].assert_eq(&body.replace("{\"role\"", "\n{\"role\""));
}

#[test]
fn without_system_prompt_and_tools_neither_is_sent() {
    let bare = Setup { system: String::new(), tools: Vec::new(), ..setup() };
    let head = OpenAiChat::default().head(&bare);
    let hello = OpenAiChat::default().segment(&Message::user("hi"));
    assert_eq!(
        body(&OpenAiChat::default(), &head, &[hello]),
        r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}"#
    );
}

#[test]
fn the_key_stands_in_one_header() {
    assert!(
        OpenAiChat::default()
            .headers(Some("k"))
            .contains(&("authorization", "Bearer k".to_owned()))
    );
    assert!(!OpenAiChat::default().headers(None).iter().any(|(name, _)| *name == "authorization"));
    assert_eq!(OpenAiChat::default().url("http://h/v1", "m"), "http://h/v1/chat/completions");
}

#[test]
fn words_thinking_and_usage_are_told_as_they_come() {
    check(
        &[
            &delta(r#"{"role":"assistant","content":"","reasoning_content":null}"#),
            &delta(r#"{"reasoning_content":"h","reasoning":"h"}"#),
            &delta(r#"{"reasoning":"m"}"#),
            &delta(r#"{"content":"Gr\u00fc\u00df "}"#),
            &delta(r#"{"content":"Gott 🙂","reasoning":{"odd":1}}"#),
            &stop("stop"),
            r#"{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":8,"audio_tokens":0}}}"#,
            "[DONE]",
        ],
        &expect![[r#"
                reasoning "h"
                reasoning "m"
                = reasoning "hm" 
                text "Grüß "
                text "Gott 🙂"
                usage 12 (8) 3
                = text "Grüß Gott 🙂"
                finish Stop
            "#]],
    );
}

#[test]
fn an_emoji_cut_in_two_by_the_server_costs_neither_the_answer_nor_the_emoji() {
    check(
        &[
            &delta(r#"{"content":"a \ud83d"}"#),
            &delta(r#"{"content":"\ude42"}"#),
            &calls(r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\":\"\ud83d"}}"#),
            &calls(r#"{"index":0,"function":{"arguments":"\ude42\"}"}}"#),
            &stop("tool_calls"),
        ],
        &expect![[r#"
                text "a "
                text "🙂"
                = text "a 🙂"
                = call a f {"x":"🙂"}
                finish ToolCalls
            "#]],
    );
}

#[test]
fn odd_counts_and_indices_do_not_cost_the_answer() {
    check(
        &[
            r#"{"choices":[{"index":"0","delta":{"content":"hi"}}],"usage":"none yet"}"#,
            &calls(r#"{"index":"0","id":"a","function":{"name":"f","arguments":"{\"x\":"}}"#),
            &calls(r#"{"index":"0","function":{"arguments":"1}"}}"#),
            &stop("tool_calls"),
            r#"{"choices":[],"usage":{"prompt_tokens":-1,"completion_tokens":3,"prompt_tokens_details":[]}}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2.5}}"#,
        ],
        &expect![[r#"
                text "hi"
                = text "hi"
                = call a f {"x":1}
                usage 0 (0) 3
                usage 7 (0) 0
                finish ToolCalls
            "#]],
    );
}

#[test]
fn a_call_is_told_the_moment_its_object_closes() {
    check(
        &[
            &delta(r#"{"role":"assistant","content":"I look."}"#),
            &calls(
                r#"{"index":0,"id":"a","type":"function","function":{"name":"read_file","arguments":""}}"#,
            ),
            &calls(r#"{"index":0,"function":{"arguments":"{\"path\":\"}"}}"#),
            &calls(r#"{"index":0,"function":{"arguments":"\"}"}}"#),
            // A mark between the call and the end shows that the call was not held back.
            r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
            &stop("tool_calls"),
            "[DONE]",
        ],
        &expect![[r#"
                text "I look."
                = text "I look."
                = call a read_file {"path":"}"}
                usage 1 (0) 1
                finish ToolCalls
            "#]],
    );
}

#[test]
fn interleaved_calls_come_in_the_order_in_which_they_began() {
    check(
        &[
            &calls(
                r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\":"}},{"index":1,"id":"b","function":{"name":"g","arguments":"{"}}"#,
            ),
            &calls(r#"{"index":1,"function":{"arguments":"}"}}"#),
            &calls(r#"{"index":2,"id":"c","function":{"name":"h","arguments":""}}"#),
            &calls(r#"{"index":0,"function":{"arguments":"1}\n"}}"#),
            &stop("tool_calls"),
        ],
        &expect![[r#"
                = call a f {"x":1}
                = call b g {}
                = call c h 
                finish ToolCalls
            "#]],
    );
}

#[test]
fn what_compatible_servers_get_wrong_still_gives_each_call_once() {
    // No index, whole calls, the same id twice, and a plain `stop`.
    check(
        &[
            &calls(r#"{"id":"a","function":{"name":"f","arguments":"{}"}}"#),
            &calls(r#"{"id":"a","function":{"name":"f","arguments":"{\"x\":1}"}}"#),
            &stop("stop"),
            "[DONE]",
        ],
        &expect![[r#"
                = call a f {}
                = call a_2 f {"x":1}
                finish ToolCalls
            "#]],
    );
    // Index 0 for each of two calls, without arguments, then with an object.
    check(
        &[
            &calls(r#"{"index":0,"id":"a","function":{"name":"f"}}"#),
            &calls(r#"{"index":0,"id":"b","function":{"name":"f","arguments":{"x":1}}}"#),
            &stop("tool_calls"),
        ],
        &expect![[r#"
                = call a f 
                = call b f {"x":1}
                finish ToolCalls
            "#]],
    );
    // Id and name on every chunk; and neither index nor id on later chunks.
    check(
        &[
            &calls(r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\""}}"#),
            &calls(r#"{"index":0,"id":"a","function":{"name":"f","arguments":":1}"}}"#),
            &calls(r#"{"index":0,"id":"a","function":{"name":"f","arguments":""}}"#),
            &calls(r#"{"id":"b","function":{"name":"g","arguments":"{"}}"#),
            &calls(r#"{"function":{"arguments":"}"}}"#),
            &stop("function_call"),
        ],
        &expect![[r#"
                = call a f {"x":1}
                = call b g {}
                finish ToolCalls
            "#]],
    );
    // No ids and no indices at all.
    check(
        &[
            &calls(
                r#"{"function":{"name":"f","arguments":"{}"}},{"function":{"name":"f","arguments":"{}"}}"#,
            ),
            &calls(r#"{"function":{"name":"g","arguments":null}}"#),
            &stop(""),
            "[DONE]",
        ],
        &expect![[r#"
                = call call_1 f {}
                = call call_2 f {}
                = call call_3 g 
                finish ToolCalls
            "#]],
    );
}

#[test]
fn text_around_calls_keeps_its_place() {
    check(
        &[
            &delta(r#"{"content":"a"}"#),
            &calls(r#"{"index":0,"id":"x","function":{"name":"f","arguments":"{"}}"#),
            &delta(r#"{"content":"b"}"#),
            &calls(r#"{"index":0,"function":{"arguments":"}"}}"#),
            &stop("tool_calls"),
        ],
        &expect![[r#"
                text "a"
                = text "a"
                text "b"
                = call x f {}
                = text "b"
                finish ToolCalls
            "#]],
    );
}

#[test]
fn broken_arguments_are_told_as_they_are() {
    check(
        &[
            &calls(r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\": oops"}}"#),
            &calls(r#"{"index":1,"id":"b","function":{"name":"f","arguments":"[1]"}}"#),
            &stop("tool_calls"),
        ],
        &expect![[r#"
                = call a f {"x": oops
                = call b f [1]
                finish ToolCalls
            "#]],
    );
    check(
        &[&calls(r#"{"index":0,"id":"a","function":{"arguments":"{}"}}"#), &stop("tool_calls")],
        &expect![[r#"
                the stream holds an event that is not what the provider documents: a tool call without a name
            "#]],
    );
}

#[test]
fn a_call_cut_off_before_its_arguments_is_not_one_without() {
    check(
        &[
            &calls(r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{\"x\":\"lo"}}"#),
            &calls(r#"{"index":1,"id":"b","function":{"name":"f","arguments":""}}"#),
            &stop("length"),
        ],
        &expect![[r#"
                = call a f {"x":"lo
                finish Length
            "#]],
    );
}

#[test]
fn a_stream_ends_well_only_if_it_says_so() {
    let early = "the stream ended before the answer was complete\n";
    let text = delta(r#"{"content":"a"}"#);
    check(
        &[&text, &stop("stop")],
        &expect![[r#"
            text "a"
            = text "a"
            finish Stop
        "#]],
    );
    check(
        &[&text, "[DONE]"],
        &expect![[r#"
            text "a"
            = text "a"
            finish Stop
        "#]],
    );
    check(
        &[&text],
        &expect![[r#"
            text "a"
            the stream ended before the answer was complete
        "#]],
    );
    assert_eq!(decoded(&OpenAiChat::default(), ""), early);
    assert_eq!(decoded(&OpenAiChat::default(), "data: [DONE]\n\n"), early);
    assert_eq!(decoded(&OpenAiChat::default(), ": only a comment\n\n"), early);
    assert_eq!(
        decoded(&OpenAiChat::default(), &format!("data: {}\n", stop("stop"))),
        early,
        "without its blank line an event is none"
    );
}

#[test]
fn refusals_filters_and_unknown_ends_are_told() {
    check(
        &[&delta(r#"{"refusal":"I cannot."}"#), &stop("stop"), "[DONE]"],
        &expect![[r#"
            text "I cannot."
            = text "I cannot."
            finish Refusal
        "#]],
    );
    check(
        &[&stop("content_filter")],
        &expect![[r#"
            finish Refusal
        "#]],
    );
    check(
        &[&stop("load")],
        &expect![[r#"
            finish Other
        "#]],
    );
}

#[test]
fn errors_in_the_stream_end_it() {
    check(
        &[
            &delta(r#"{"content":"a"}"#),
            r#"{"error":{"message":"busy","code":429}}"#,
            &stop("stop"),
        ],
        &expect![[r#"
                text "a"
                the provider reported an error in the stream: busy
            "#]],
    );
    assert_eq!(
        decoded(&OpenAiChat::default(), "event: error\ndata: {\"message\":\"gone\"}\n\n"),
        "the provider reported an error in the stream: gone\n"
    );
    check(
        &["{\"choices\":[{"],
        &expect![[r#"
            the stream holds an event that is not what the provider documents: EOF while parsing an object at line 1 column 13: {"choices":[{
        "#]],
    );
}

#[test]
fn fields_and_shapes_that_nobody_promised_do_no_harm() {
    check(
        &[
            r#"{"choices":null,"system_fingerprint":"x","new":{"a":[1]}}"#,
            r#"{"choices":[{"delta":null,"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"content":["odd"],"tool_calls":null}}]}"#,
            r#"{"choices":[{"index":1,"delta":{"content":"another answer"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":null}}"#,
            "[DONE]",
            "after the end",
        ],
        &expect![[r#"
                text "a"
                = text "a"
                finish Stop
            "#]],
    );
}

#[test]
fn a_whole_answer_decodes_as_one_chunk() {
    check(
        &[
            r#"{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
        ],
        &expect![[r#"
                text "Hi"
                = text "Hi"
                = call a f {}
                usage 1 (0) 2
                finish ToolCalls
            "#]],
    );
}

#[test]
fn a_call_written_as_text_counts_if_no_native_one_came() {
    let text = delta(r#"{"content":"```json\n{\"name\": \"read_file\", \"arguments\": {}}\n```"}"#);
    check(
        &[&text, &stop("stop"), "[DONE]"],
        &expect![[r#"
            text "```json\n{\"name\": \"read_file\", \"arguments\": {}}\n```"
            = text "```json\n{\"name\": \"read_file\", \"arguments\": {}}\n```"
            = call call_1 read_file {}
            finish ToolCalls
        "#]],
    );
    let native = calls(r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}"#);
    check(
        &[&text, &native, &stop("stop")],
        &expect![[r#"
            text "```json\n{\"name\": \"read_file\", \"arguments\": {}}\n```"
            = text "```json\n{\"name\": \"read_file\", \"arguments\": {}}\n```"
            = call a f {}
            finish ToolCalls
        "#]],
    );
}
