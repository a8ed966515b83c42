//! What fills the model's window: `vtcode context`, files in a prompt, and a window that is full.

use serde_json::{Value, json};
use vtcode_testkit::{Reply, ScriptedModel, call, say};

use crate::user::User;

fn files() -> Vec<(String, String)> {
    (0..12).map(|n| (format!("{n}.txt"), format!("line of file {n}\n").repeat(500))).collect()
}

fn read(n: usize) -> Reply {
    call("read_file", json!({"path": format!("{n}.txt")}))
}

#[tokio::test]
async fn a_file_in_a_prompt_goes_out_with_it() {
    let user = User::with([("src/a.rs", "one\ntwo\nthree\n")]);
    let model = ScriptedModel::start(vec![say("Seen."), say("Again.")]).await;
    let ran = user.exec(&model, "explain @src/a.rs:2-3 and @src/none.rs").run().await.exits(0);
    ran.says("`@src/none.rs` is no file here; the words go out as they are");
    let sent = |n: usize| model.requests()[n].json()["messages"][1]["content"].clone();
    let expected = "explain @src/a.rs:2-3 and @src/none.rs\n\n<file path=\"src/a.rs:2-3\">\ntwo\n\
                    three\n</file>";
    assert_eq!(sent(0), expected);
    // What was attached is what was sent: a later run repeats it, whatever became of the file.
    std::fs::write(user.folder.path().join("src/a.rs"), "changed").unwrap();
    user.vtcode(["resume", "--last", "and now?"]).run().await.exits(0);
    assert_eq!(sent(1), expected);
}

#[tokio::test]
async fn the_window_of_a_session_is_shown_and_what_leaves_it_first() {
    let user = User::with(files());
    let replies = [read(0), read(1), call("run_command", json!({"command": "cat 2.txt"}))];
    let mut replies: Vec<Reply> = replies.into();
    replies.extend([read(3), read(4), say("Done.").usage(20_000, 15_000, 10)]);
    let model = ScriptedModel::start(replies).await;
    user.exec(&model, "read").env("VTCODE_CONTEXT_WINDOW_TOKENS", "100000").run().await.exits(0);

    let context = || user.vtcode(["context"]).env("VTCODE_CONTEXT_WINDOW_TOKENS", "100000");
    let shown = context().run().await.exits(0);
    for words in [
        "files read",
        "4 of them",
        "what commands printed",
        "The window holds 100000 tokens; from 80000 on",
        "Of the 20000 tokens of the last request, the provider had 15000 in its cache.",
        "read_file {\"path\":\"0.txt\"}",
    ] {
        assert!(shown.stdout.contains(words), "{words}: {shown}");
    }
    let told: Value =
        serde_json::from_str(&context().arg("--json").run().await.exits(0).stdout).unwrap();
    assert_eq!(told["window_tokens"], 100_000);
    assert_eq!(told["last"]["cached_input_tokens"], 15_000);
    let tokens: u64 =
        told["rows"].as_array().unwrap().iter().map(|r| r["tokens"].as_u64().unwrap()).sum();
    assert_eq!(told["tokens"], tokens);
    assert!((15_000..25_000).contains(&tokens), "about what was reported: {tokens}");
    assert_eq!(told["next"][0]["tool"], "read_file");
    // Nothing was written and nothing is locked.
    user.vtcode(["resume", "--last", "x", "--max-turns", "1"]).run().await;

    user.vtcode(["context", "nobody"]).run().await.exits(2).says("no session `nobody`");
}

#[tokio::test]
async fn a_full_window_is_told_and_what_was_put_aside_can_be_read() {
    let user = User::with(files());
    let model = ScriptedModel::start_with(|request, number| {
        if number < 9 {
            return read(number);
        }
        // The model reads what it was pointed to.
        let body = request.json();
        let texts = body["messages"].as_array().unwrap().iter();
        let texts = texts.filter_map(|message| message["content"].as_str());
        let pointer = texts.into_iter().find(|text| text.starts_with("[put aside to save room"));
        match pointer.filter(|_| number == 9) {
            Some(text) => {
                let (_, rest) = text.split_once("read_file ").unwrap();
                let (path, _) = rest.split_once(" has all of it").unwrap();
                call("read_file", json!({"path": path}))
            }
            None => say("Done."),
        }
    })
    .await;
    let exec = user.exec(&model, "read").env("VTCODE_CONTEXT_WINDOW_TOKENS", "26000");
    let ran = exec.run().await.exits(0).prints("Done.\n");
    ran.says("older results were put aside");
    let journal = user.journal();
    let last = journal.iter().rev().find(|record| record["type"] == "tool_finished").unwrap();
    assert_eq!(last["is_error"], false, "{last}");
    assert!(last["text"].as_str().unwrap().contains("line of file 0"), "{last}");
}
