//! `exec --json`: one object a line, in the shape that programs rely on, and nothing else.

use expect_test::expect;
use serde_json::{Value, json};
use vtcode_testkit::{Fault, ScriptedModel, call, fail, say, think};

use crate::user::User;

/// Writes lines with what differs from run to run taken out.
fn shown(lines: &[Value]) -> String {
    let mut lines = lines.to_vec();
    for line in &mut lines {
        if let Some(id) = line.get_mut("thread_id") {
            assert_eq!(id.as_str().unwrap().len(), 36);
            *id = json!("ID");
        }
        if let Some(ms) = line.pointer_mut("/item/duration_ms") {
            assert!(ms.is_u64());
            *ms = json!("MS");
        }
    }
    lines.iter().fold(String::new(), |shown, line| shown + &line.to_string() + "\n")
}

#[tokio::test]
async fn every_kind_of_line() {
    let user = User::with([("a.txt", "one\n")]);
    let model = ScriptedModel::start(vec![
        fail(Fault::status(500).header("retry-after", "0")),
        think("Two things.")
            .and(say("I look and change."))
            .and(call("read_file", json!({"path": "a.txt"})))
            .usage(100, 40, 10),
        call("edit_file", json!({"path": "a.txt", "old_text": "one", "new_text": "two"}))
            .usage(150, 60, 10),
        call("run_command", json!({"command": "cat a.txt; exit 3"})).usage(200, 100, 20),
        say("Done.").usage(300, 200, 30),
    ])
    .await;
    let ran = user.exec(&model, "go").arg("--json").run().await.exits(0);
    expect![[r#"
        {"thread_id":"ID","type":"thread.started"}
        {"type":"turn.started"}
        {"attempt":2,"cause":"the provider failed (HTTP 500): the script orders this error","type":"retry","wait_ms":0}
        {"item":{"id":"item_0","text":"Two things.","type":"reasoning"},"type":"item.completed"}
        {"item":{"id":"item_1","text":"I look and change.","type":"agent_message"},"type":"item.completed"}
        {"item":{"arguments":{"path":"a.txt"},"id":"item_2","name":"read_file","status":"in_progress","type":"tool_call"},"type":"item.started"}
        {"item":{"arguments":{"path":"a.txt"},"duration_ms":"MS","id":"item_2","name":"read_file","status":"completed","type":"tool_call"},"type":"item.completed"}
        {"item":{"changes":[],"id":"item_3","status":"in_progress","type":"file_change"},"type":"item.started"}
        {"item":{"changes":[{"added":1,"kind":"update","path":"a.txt","removed":1}],"duration_ms":"MS","id":"item_3","status":"completed","type":"file_change"},"type":"item.completed"}
        {"item":{"aggregated_output":"","command":"cat a.txt; exit 3","exit_code":null,"id":"item_4","status":"in_progress","type":"command_execution"},"type":"item.started"}
        {"item":{"aggregated_output":"two\n","command":"cat a.txt; exit 3","duration_ms":"MS","exit_code":3,"id":"item_4","status":"failed","type":"command_execution"},"type":"item.completed"}
        {"item":{"id":"item_5","text":"Done.","type":"agent_message"},"type":"item.completed"}
        {"type":"turn.completed","usage":{"cached_input_tokens":400,"input_tokens":750,"output_tokens":70}}
    "#]].assert_eq(&shown(&ran.lines()));
    let thread = ran.lines()[0]["thread_id"].as_str().unwrap().to_owned();
    assert_eq!(user.session_ids(), [thread]);
}

#[tokio::test]
async fn calls_that_cannot_be_made() {
    let user = User::new();
    let model = ScriptedModel::start(vec![
        vtcode_testkit::raw_call("run_command", "{\"command\": \"ls")
            .and(call("no_such_tool", json!({"a": 1})))
            .and(call("edit_file", json!({"path": "none", "old_text": "a", "new_text": "b"})))
            .and(call("run_command", json!({"command": "sleep 100", "timeout_ms": 1}))),
        say("Done."),
    ])
    .await;
    let ran = user.exec(&model, "go").arg("--json").run().await.exits(0);
    let mut completed: Vec<_> =
        ran.lines().into_iter().filter(|line| line["type"] == "item.completed").collect();
    // They end in any order; the ids tell in which one they were asked for.
    completed.sort_by_key(|line| line["item"]["id"].to_string());
    expect![[r#"
        {"item":{"aggregated_output":"the arguments of this call are not valid JSON, so it was not run: they end in the middle, cut off perhaps at the output limit, so write less at once (EOF while parsing a string at line 1 column 15); send the call again with one JSON object","command":"{\"command\": \"ls","duration_ms":"MS","error":"the arguments of this call are not valid JSON, so it was not run: they end in the middle, cut off perhaps at the output limit, so write less at once (EOF while parsing a string at line 1 column 15); send the call again with one JSON object","error_class":"model","exit_code":null,"id":"item_0","status":"failed","type":"command_execution"},"type":"item.completed"}
        {"item":{"arguments":{"a":1},"duration_ms":"MS","error":"no tool named `no_such_tool`","error_class":"model","id":"item_1","name":"no_such_tool","status":"failed","type":"tool_call"},"type":"item.completed"}
        {"item":{"changes":[],"duration_ms":"MS","error":"there is no `none` (write_file makes new files)","error_class":"tool","id":"item_2","status":"failed","type":"file_change"},"type":"item.completed"}
        {"item":{"aggregated_output":"","command":"sleep 100","duration_ms":"MS","error":"[ended at its deadline of 1 ms; for more time give timeout_ms]","error_class":"tool","exit_code":null,"id":"item_3","status":"failed","type":"command_execution"},"type":"item.completed"}
        {"item":{"id":"item_4","text":"Done.","type":"agent_message"},"type":"item.completed"}
    "#]].assert_eq(&shown(&completed));
}

#[tokio::test]
async fn items_begin_and_end_once_with_the_same_id() {
    let user = User::with([("a.txt", "one\n")]);
    let read = || call("read_file", json!({"path": "a.txt"}));
    let model = ScriptedModel::start(vec![read().and(read()), read(), say("Done.")]).await;
    let ran = user.exec(&model, "go").arg("--json").run().await.exits(0);
    let ids = |kind: &str| -> Vec<Value> {
        let lines = ran.lines().into_iter();
        let calls = lines.filter(|l| l["type"] == kind && l["item"]["type"] == "tool_call");
        let mut ids: Vec<_> = calls.map(|line| line["item"]["id"].clone()).collect();
        ids.sort_by_key(ToString::to_string);
        ids
    };
    assert_eq!(ids("item.started"), ids("item.completed"));
    assert_eq!(ids("item.started").len(), 3);
}

#[tokio::test]
async fn a_turn_that_fails() {
    let user = User::new();
    let model = ScriptedModel::start(vec![fail(Fault::status(401))]).await;
    let ran = user.exec(&model, "go").arg("--json").run().await.exits(3);
    let lines = ran.lines();
    let kinds: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["thread.started", "turn.started", "turn.failed"]);
    let message = lines[2]["error"]["message"].as_str().unwrap();
    assert!(message.contains("HTTP 401"), "{message}");
}

#[tokio::test]
async fn a_limit_and_a_broken_answer_are_failed_turns_too() {
    let user = User::new();
    let command = call("run_command", json!({"command": "true"}));
    let model = ScriptedModel::start_with(move |_, _| command.clone()).await;
    let ran = user.exec(&model, "go").args(["--json", "--max-turns", "1"]).run().await.exits(4);
    let last = ran.lines().pop().unwrap();
    assert_eq!(last["type"], "turn.failed");
    assert_eq!(last["error"]["message"], "the limit of 1 turn was reached (--max-turns)");
}

#[tokio::test]
async fn errors_before_a_turn_are_one_line() {
    let user = User::with([("vtcode.toml", "modle = \"x\"\n")]);
    let model = ScriptedModel::start(vec![]).await;
    for (exec, code, words) in [
        (user.exec(&model, "go"), 2, "did you mean `model`?"),
        (user.exec(&model, ""), 2, "the prompt is empty"),
        (user.exec(&model, "go").args(["-C", "nowhere"]), 2, "nowhere"),
        (user.vtcode(["resume", "--last", "go"]), 2, "no session to go on with"),
        (user.vtcode(["resume", "0000", "go"]), 2, "no session `0000`"),
    ] {
        let ran = exec.arg("--json").run().await.exits(code).says(words);
        let lines = ran.lines();
        assert_eq!(lines.len(), 1, "{ran}");
        assert_eq!(lines[0]["type"], "error");
        assert!(lines[0]["message"].as_str().unwrap().contains(words), "{ran}");
    }
    let usage = user.exec(&model, "go").args(["--json", "--no-such-option"]).run().await;
    usage.exits(2).prints("");
}

#[tokio::test]
async fn the_output_of_a_command_is_given_whole() {
    let user = User::new();
    let command = call("run_command", json!({"command": "seq 1 20000"}));
    let model = ScriptedModel::start(vec![command, say("Done.")]).await;
    let ran = user.exec(&model, "go").arg("--json").run().await.exits(0);
    let lines = ran.lines();
    let is_result = |line: &&Value| !line["item"]["exit_code"].is_null();
    let item = &lines.iter().find(is_result).unwrap()["item"];
    let whole = (1..=20000).fold(String::new(), |whole, n| whole + &n.to_string() + "\n");
    assert_eq!(item["aggregated_output"].as_str().unwrap(), whole);
}

#[tokio::test]
async fn a_session_that_goes_on_tells_the_same_way() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, _| say("Done.").usage(10, 0, 1)).await;
    let first = user.exec(&model, "go").arg("--json").run().await.exits(0);
    let second = user.vtcode(["resume", "--last", "--json", "more"]).run().await.exits(0);
    assert_eq!(first.lines(), second.lines());
}
