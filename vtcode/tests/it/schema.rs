//! `--output-schema`: the last message is one JSON value that fits, or the exit code says that it is
//! not. Asked for, checked and sent back once, on every wire.

use serde_json::json;
use vtcode_testkit::{ScriptedModel, call, say};

use crate::resume::goes_on;
use crate::user::{PROVIDERS, User};

const SCHEMA: &str = r#"{
  "type": "object",
  "properties": {"count": {"type": "integer", "minimum": 1}},
  "required": ["count"],
  "additionalProperties": false
}"#;

fn user() -> User {
    User::with([("schema.json", SCHEMA), ("a.txt", "one\n")])
}

#[tokio::test]
async fn an_answer_that_fits_is_the_answer() {
    for provider in PROVIDERS {
        let user = user();
        let read = call("read_file", json!({"path": "a.txt"}));
        let answer = "```json\n{\"count\": 1}\n```";
        let model = ScriptedModel::start(vec![say("I look.").and(read), say(answer)]).await;
        let exec = user.exec_on(provider, &model, "how many?");
        let exec = exec.args(["--output-schema", "schema.json", "-o", "answer.json"]);
        exec.run().await.exits(0).prints("{\"count\": 1}\n");
        assert_eq!(user.folder.read("answer.json"), "{\"count\": 1}", "{provider}");
        let body = String::from_utf8(model.requests()[0].body.to_vec()).unwrap();
        assert!(body.contains("fits this JSON schema"), "{provider}: {body}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_sent_back_once_with_what_is_wrong() {
    for provider in PROVIDERS {
        let user = user();
        let fitting = ["{\"count\": 2}", "{\"count\": 3}"];
        let model = ScriptedModel::start(vec![
            say("{\"count\": 0, \"sum\": 1}"),
            say(fitting[0]),
            say(fitting[1]),
        ])
        .await;
        let schema = ["--output-schema", "schema.json"];
        let exec = user.exec_on(provider, &model, "how many?").args(schema);
        exec.run().await.exits(0).prints("{\"count\": 2}\n");
        let requests = model.requests();
        goes_on(&requests[0], &requests[1]);
        let body = String::from_utf8(requests[1].body.to_vec()).unwrap();
        assert!(body.contains("$.count must be at least 1, not 0"), "{provider}: {body}");
        assert!(body.contains("$.sum must not be there"), "{provider}: {body}");
        // To say it again takes no tool; where that would cost the cache, it is not said.
        let last = |n: usize| String::from_utf8(model.requests()[n].body.to_vec()).unwrap();
        let none = match provider {
            "anthropic" => "]}",
            "gemini" => r#"],"toolConfig":{"functionCallingConfig":{"mode":"NONE"}}}"#,
            _ => r#"],"tool_choice":"none"}"#,
        };
        assert!(last(0).ends_with("]}") && last(1).ends_with(none), "{provider}: {}", last(1));
        // What was sent back is in the journal.
        let more = user.vtcode(["resume", "--last", "and now?"]).args(schema);
        more.run().await.exits(0).prints("{\"count\": 3}\n");
        goes_on(&requests[1], &model.requests()[2]);
    }
}

#[tokio::test]
async fn an_answer_that_never_fits_fails_and_says_why() {
    let user = user();
    let model = ScriptedModel::start_with(|_, _| say("There are two.")).await;
    let exec = user.exec(&model, "how many?").args(["--output-schema", "schema.json", "-o", "out"]);
    let ran = exec.run().await.exits(1).prints("").says("it is not one JSON value");
    assert!(ran.stderr.contains("--output-schema"), "{ran}");
    assert_eq!(model.requests().len(), 2);
    assert!(!user.folder.path().join("out").exists());

    // The last turn is no time for another try.
    let exec = user.exec(&model, "how many?").args(["--output-schema", "schema.json"]);
    exec.args(["--max-turns", "1"]).run().await.exits(1);
    assert_eq!(model.requests().len(), 3);
}

#[tokio::test]
async fn a_schema_that_cannot_be_used_is_told_before_anything_begins() {
    let user = user();
    let model = ScriptedModel::start_with(|_, _| say("{}")).await;
    for (text, why) in [
        ("{", "not JSON"),
        ("[]", "must be an object"),
        (r#"{"properties": {"a": {"pattern": "x"}}}"#, "`#/properties/a/pattern`"),
        (r#"{"type": "text"}"#, "`#/type`"),
    ] {
        user.folder.write("bad.json", text);
        let exec = user.exec(&model, "go").args(["--output-schema", "bad.json"]);
        exec.run().await.exits(2).says("bad.json").says(why);
    }
    for path in ["none.json", "."] {
        let exec = user.exec(&model, "go").args(["--output-schema", path]);
        exec.run().await.exits(2).says(path);
    }
    assert!(model.requests().is_empty() && user.session_ids().is_empty());
}

#[tokio::test]
async fn a_local_server_is_held_to_the_schema_where_no_tool_may_be_called() {
    let user = user();
    let model = ScriptedModel::start(vec![say("Two."), say("{\"count\": 2}")]).await;
    let url = model.openai_url();
    user.configure(&format!(
        "[providers.mine]\nbase_url = \"{url}\"\nquirks = \"llamacpp\"\nmodel = \"scripted\"\n"
    ));
    let exec = user.vtcode(["exec", "--provider", "mine", "how many?"]);
    let exec = exec.args(["--output-schema", "schema.json"]);
    exec.run().await.exits(0).prints("{\"count\": 2}\n");
    let [first, second] = &model.requests()[..] else { panic!() };
    // It refuses a schema beside tools.
    assert!(first.json().get("response_format").is_none());
    let second = second.json();
    assert_eq!(second["tool_choice"], "none");
    let schema = &second["response_format"]["json_schema"]["schema"];
    assert_eq!(schema["required"], json!(["count"]));
}
