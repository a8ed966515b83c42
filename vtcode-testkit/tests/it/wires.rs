//! What is said, arrives, on any wire, streamed or not, however it is chunked.

use serde_json::{Value, json};
use vtcode_testkit::{Chunking, Reply, ScriptedModel, Wire, call, raw_call, say, think};

use crate::client::{ALL, Client, Part, path, request, said};

fn full() -> Reply {
    think("I should look at both files before I say anything.")
        .and(say("I look at the two files, ä and ö, at once."))
        .and(call("read_file", json!({"path": "src/lib.rs", "start": 1, "end": 40})).call_id("one"))
        .and(call("grep_file", json!({"pattern": "fn \"main\"\\b"})))
        .usage(1000, 800, 50)
}

fn parts(second: &str) -> Vec<Part> {
    vec![
        Part::Thinking("I should look at both files before I say anything.".into()),
        Part::Text("I look at the two files, ä and ö, at once.".into()),
        Part::Call {
            id: "one".into(),
            name: "read_file".into(),
            arguments: json!({"path": "src/lib.rs", "start": 1, "end": 40}).to_string(),
        },
        Part::Call {
            id: second.into(),
            name: "grep_file".into(),
            arguments: json!({"pattern": "fn \"main\"\\b"}).to_string(),
        },
    ]
}

#[tokio::test]
async fn thinking_words_and_parallel_calls_arrive_in_one_message_in_order() {
    for (wire, second, finish) in [
        (Wire::Chat, "call_0_3", "tool_calls"),
        (Wire::Messages, "toolu_0_3", "tool_use"),
        (Wire::Responses, "call_0_3", "completed"),
        (Wire::Gemini, "", "STOP"),
    ] {
        let model = ScriptedModel::start(vec![full()]).await;
        let got = Client::to(&model).await.stream(wire).await;
        assert!(got.complete);
        assert_eq!(got.status, 200);
        assert_eq!(got.header("content-type"), Some("text/event-stream; charset=utf-8"));

        let said = said(wire, &got);
        assert_eq!(said.parts, parts(second));
        assert_eq!(said.finish.as_deref(), Some(finish));
        assert_eq!(said.usage, Some((200, 800, 50)));
        assert!(said.terminal);
    }
}

#[tokio::test]
async fn a_chat_stream_has_the_events_that_the_provider_sends() {
    let reply = say("Two pieces of text, no less.").and(call("ls", json!({"path": "."})));
    let model = ScriptedModel::start(vec![reply]).await;
    let got = Client::to(&model).await.stream(Wire::Chat).await;
    let shown: Vec<_> = got
        .events()
        .iter()
        .map(|(_, data)| match &data["choices"][0] {
            Value::Null if data == "[DONE]" => "done".to_owned(),
            Value::Null => "usage".to_owned(),
            choice => format!("{} {}", choice["delta"], choice["finish_reason"]),
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#"{"content":"","role":"assistant"} null"#,
            r#"{"content":"Two pieces of text, no "} null"#,
            r#"{"content":"less."} null"#,
            r#"{"tool_calls":[{"function":{"arguments":"","name":"ls"},"id":"call_0_1","index":0,"type":"function"}]} null"#,
            r#"{"tool_calls":[{"function":{"arguments":"{\"path\":\".\"}"},"index":0}]} null"#,
            r#"{} "tool_calls""#,
            "usage",
            "done",
        ]
    );
}

#[tokio::test]
async fn a_messages_stream_has_the_events_that_the_provider_sends() {
    let reply = say("Hi.").and(call("ls", json!({"path": "."})));
    let model = ScriptedModel::start(vec![reply]).await;
    let got = Client::to(&model).await.stream(Wire::Messages).await;
    let names: Vec<_> = got.events().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
}

#[tokio::test]
async fn a_responses_stream_has_the_events_that_the_provider_sends() {
    let reply = think("Hm.").and(say("Hi.")).and(call("ls", json!({"path": "."})));
    let model = ScriptedModel::start(vec![reply]).await;
    let got = Client::to(&model).await.stream(Wire::Responses).await;
    let events = got.events();
    let names: Vec<_> =
        events.iter().map(|(name, _)| name.strip_prefix("response.").unwrap()).collect();
    assert_eq!(
        names,
        [
            "created",
            "in_progress",
            "output_item.added",
            "reasoning_summary_part.added",
            "reasoning_summary_text.delta",
            "reasoning_summary_text.done",
            "reasoning_summary_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
    );
    let numbers = events.iter().map(|(_, data)| data["sequence_number"].as_u64().unwrap());
    assert!(numbers.eq(0..19));
}

#[tokio::test]
async fn a_gemini_stream_has_the_parts_that_the_provider_sends() {
    let calls = call("ls", json!({"path": "."})).and(call("ls", json!({})).call_id("own"));
    let replies = vec![think("Hm.").and(calls), think("Hm.").and(say("Hi."))];
    let model = ScriptedModel::start(replies).await;
    let mut client = Client::to(&model).await;
    let mut parts = async || -> Vec<String> {
        let events = client.stream(Wire::Gemini).await.events();
        let parts = events.iter().map(|(_, data)| &data["candidates"][0]["content"]["parts"][0]);
        parts.map(Value::to_string).collect()
    };
    assert_eq!(
        parts().await,
        [
            r#"{"text":"Hm.","thought":true}"#,
            r#"{"functionCall":{"args":{"path":"."},"name":"ls"},"thoughtSignature":"signature+0/call=="}"#,
            r#"{"functionCall":{"args":{},"id":"own","name":"ls"}}"#,
            r#"{"text":""}"#,
        ]
    );
    assert_eq!(
        parts().await,
        [
            r#"{"text":"Hm.","thought":true}"#,
            r#"{"text":"Hi."}"#,
            r#"{"text":"","thoughtSignature":"signature+1/end=="}"#,
        ]
    );
}

#[tokio::test]
async fn usage_is_streamed_on_the_chat_wire_only_when_asked_for() {
    let model = ScriptedModel::start(vec![say("Hi.")]).await;
    let mut client = Client::to(&model).await;
    let mut body = request(Wire::Chat, true);
    body.as_object_mut().unwrap().remove("stream_options");
    client.post(path(Wire::Chat), &body.to_string()).await;
    let got = client.response().await.unwrap();
    assert_eq!(said(Wire::Chat, &got).usage, None);
    assert!(!got.text().contains("usage"));
}

#[tokio::test]
async fn without_stream_the_same_message_comes_whole() {
    let model = ScriptedModel::start(vec![full(), full(), full(), full()]).await;
    let mut client = Client::to(&model).await;

    client.post(path(Wire::Chat), &request(Wire::Chat, false).to_string()).await;
    let chat = client.response().await.unwrap().json();
    let message = &chat["choices"][0]["message"];
    assert_eq!(message["content"], "I look at the two files, ä and ö, at once.");
    assert!(message["reasoning_content"].as_str().unwrap().starts_with("I should"));
    assert_eq!(message["tool_calls"][0]["id"], "one");
    assert_eq!(message["tool_calls"][1]["function"]["name"], "grep_file");
    assert_eq!(
        message["tool_calls"][1]["function"]["arguments"],
        r#"{"pattern":"fn \"main\"\\b"}"#
    );
    assert_eq!(chat["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(chat["usage"]["prompt_tokens"], 1000);

    client.post(path(Wire::Messages), &request(Wire::Messages, false).to_string()).await;
    let message = client.response().await.unwrap().json();
    let kinds: Vec<_> =
        message["content"].as_array().unwrap().iter().map(|block| &block["type"]).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"]);
    assert_eq!(
        message["content"][2]["input"],
        json!({"path": "src/lib.rs", "start": 1, "end": 40})
    );
    assert_eq!(message["stop_reason"], "tool_use");
    assert_eq!(message["usage"]["input_tokens"], 200);

    client.post(path(Wire::Responses), &request(Wire::Responses, false).to_string()).await;
    let response = client.response().await.unwrap().json();
    let kinds: Vec<_> =
        response["output"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(response["status"], "completed");
    assert_eq!(response["usage"]["input_tokens"], 1000);

    let body = request(Wire::Gemini, false).to_string();
    client.post("/v1beta/models/m:generateContent", &body).await;
    let chunk = client.response().await.unwrap().json();
    assert_eq!(chunk["candidates"][0]["content"]["parts"].as_array().unwrap().len(), 4);
    assert_eq!(chunk["candidates"][0]["finishReason"], "STOP");
    assert_eq!(chunk["usageMetadata"]["promptTokenCount"], 1000);
}

#[tokio::test]
async fn raw_arguments_and_a_forced_finish_arrive_as_given() {
    for (wire, finish) in [
        (Wire::Chat, "length"),
        (Wire::Messages, "max_tokens"),
        (Wire::Responses, "max_output_tokens"),
    ] {
        let cut = "{\"path\": \"src/ma";
        let model = ScriptedModel::start(vec![
            raw_call("read_file", cut).finish("length"),
            raw_call("x", ""),
        ])
        .await;
        let mut client = Client::to(&model).await;
        let first = said(wire, &client.stream(wire).await);
        assert!(matches!(&first.parts[..], [Part::Call { arguments, .. }] if arguments == cut));
        assert_eq!(first.finish.as_deref(), Some(finish));
        let second = said(wire, &client.stream(wire).await);
        assert!(
            matches!(&second.parts[..], [Part::Call { arguments, .. }] if arguments.is_empty())
        );
    }
}

#[tokio::test]
async fn however_it_is_chunked_the_same_bytes_arrive() {
    for wire in ALL {
        let model = ScriptedModel::start(vec![full()]).await;
        let whole = Client::to(&model).await.stream(wire).await;
        assert_eq!(whole.chunks.len(), whole.events().len(), "one event a chunk");

        for chunking in [
            Chunking::Bytes(0),
            Chunking::Bytes(1),
            Chunking::Bytes(7),
            Chunking::Bytes(usize::MAX),
            Chunking::Random(0),
            Chunking::Random(41),
        ] {
            let model = ScriptedModel::start(vec![full()]).await.chunking(chunking);
            let got = Client::to(&model).await.stream(wire).await;
            assert!(got.complete);
            assert_eq!(got.body, whole.body, "{chunking:?}");
            let longest = got.chunks.iter().map(Vec::len).max().unwrap();
            match chunking {
                Chunking::Bytes(usize::MAX) => assert_eq!(got.chunks.len(), 1),
                Chunking::Bytes(most) => assert_eq!(longest, most.max(1)),
                _ => assert!((32..=64).contains(&longest)),
            }
        }
    }
}

#[tokio::test]
async fn random_chunks_are_the_same_for_the_same_seed_and_differ_by_request() {
    let run = async |seed| {
        let model = ScriptedModel::start(vec![full(), full()]).await;
        let model = model.chunking(Chunking::Random(seed));
        let mut client = Client::to(&model).await;
        let sizes = |chunks: Vec<Vec<u8>>| chunks.iter().map(Vec::len).collect::<Vec<_>>();
        let first = sizes(client.stream(Wire::Chat).await.chunks);
        (first, sizes(client.stream(Wire::Chat).await.chunks))
    };
    let (first, second) = run(7).await;
    assert_eq!(run(7).await, (first.clone(), second.clone()));
    assert_ne!(first, second);
    assert_ne!(run(8).await.0, first);
}

#[tokio::test]
async fn a_long_answer_without_a_space_comes_in_many_pieces_and_whole() {
    let long = "é".repeat(50_000);
    let model = ScriptedModel::start(vec![say(&long)]).await;
    let got = Client::to(&model).await.stream(Wire::Messages).await;
    assert!(got.chunks.len() > 4_000);
    assert_eq!(said(Wire::Messages, &got).parts, [Part::Text(long)]);
}
