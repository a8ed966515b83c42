//! What fills the model's window: `vtcode context`, files in a prompt, and a window that is full.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::Notify;
use vtcode_testkit::{Reply, ScriptedModel, call, say};

use crate::user::{User, soon};

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

/// Bytes of a request that are a token to [`counting`].
const TOKEN_BYTES: usize = 4;

/// A model that counts what it is sent, as providers do: the frames of JSON, too.
async fn counting(reply: impl Fn(usize) -> Reply + Send + Sync + 'static) -> ScriptedModel {
    ScriptedModel::start_with(move |request, number| {
        reply(number).usage((request.body.len() / TOKEN_BYTES) as u64, 0, 10)
    })
    .await
}

/// Returns what `vtcode context --json` says of the last session.
async fn told(user: &User, window: &str) -> Value {
    let context = user.vtcode(["context", "--json"]).env("VTCODE_CONTEXT_WINDOW_TOKENS", window);
    serde_json::from_str(&context.run().await.exits(0).stdout).unwrap()
}

/// Fails unless the rows add up to what a request of so many bytes had.
fn is_true(told: &Value, request_bytes: usize, what: &str) {
    let rows = told["rows"].as_array().unwrap();
    let sum: u64 = rows.iter().map(|row| row["tokens"].as_u64().unwrap()).sum();
    assert_eq!(told["tokens"], sum, "{what}");
    let sent = (request_bytes / TOKEN_BYTES) as u64;
    assert!(sum.abs_diff(sent) < sent / 50 + 20, "{what}: told {sum}, sent {sent}: {told}");
}

#[tokio::test]
async fn the_rows_add_up_to_the_next_request_of_whatever_session() {
    const WIDE: &str = "200000";
    let user = User::with(files());
    // Small results and long ones, so that frames and texts weigh differently.
    let asked = Arc::new(Notify::new());
    let is_asked = Arc::clone(&asked);
    let model = counting(move |number| match number {
        0 | 8 => call("list_files", json!({"path": "."})),
        1..=3 => read(number),
        4 | 5 => call("read_file", json!({"path": "1.txt", "start": number, "end": number})),
        6 => call("run_command", json!({"command": "echo \"a \\\"quoted\\\" word\""})),
        7 | 9 => say("Done."),
        10 => read(4),
        11 => {
            is_asked.notify_one();
            say("Never heard.").delay(Duration::from_secs(600))
        }
        _ => say("Again."),
    })
    .await;
    let sent = |number: usize| model.requests()[number].body.len();
    let env = ("VTCODE_CONTEXT_WINDOW_TOKENS", WIDE);

    user.exec(&model, "look").env(env.0, env.1).run().await.exits(0);
    let ended = told(&user, WIDE).await;
    let resume = |prompt: &str| user.vtcode(["resume", "--last", prompt]).env(env.0, env.1);
    resume("go").run().await.exits(0);
    is_true(&ended, sent(8), "ended");

    // Gone on with, and while a request is on its way.
    let live = resume("and on").start();
    soon("the request", asked.notified()).await;
    is_true(&told(&user, WIDE).await, sent(11), "live");

    // Ended in the middle, with half a record.
    live.signal(Signal::KILL);
    live.end().await;
    let journal = user.session().join("journal.jsonl");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes.extend(b"{\"type\":\"part\",\"at\":");
    std::fs::write(&journal, bytes).unwrap();
    let broken = told(&user, WIDE).await;
    resume("x").run().await.exits(0);
    is_true(&broken, sent(12), "broken");
}

#[tokio::test]
async fn what_was_attached_has_a_row_and_what_is_broken_is_told() {
    let user = User::with([("src/merge.rs", "fn merge() {}\n")]);
    let model = counting(|number| match number {
        0 => call("grep_file", json!({"pattern": "fn merge", "path": "."})),
        _ => say("Done."),
    })
    .await;
    let attaching = [("VTCODE_MAX_ATTACHED_TOKENS", "3000"), ("VTCODE_SECOND_TOKENS", "20000")];
    let exec = user.exec(&model, "look");
    attaching.into_iter().fold(exec, |exec, (name, value)| exec.env(name, value)).run().await;
    let contents = told(&user, "200000").await;
    let attached =
        contents["rows"].as_array().unwrap().iter().find(|row| row["what"] == "attached");
    assert_eq!(attached.unwrap()["count"], 1, "{contents}");
    let shown = user.vtcode(["context"]).run().await.exits(0);
    assert!(shown.stdout.contains("attached unasked"), "{shown}");
    user.vtcode(["resume", "--last", "x"]).run().await.exits(0);
    is_true(&contents, model.requests()[2].body.len(), "attached");

    let journal = user.session().join("journal.jsonl");
    let whole = std::fs::read_to_string(&journal).unwrap();
    let context = async |words: &str| {
        user.vtcode(["context"]).run().await.exits(1).says(words);
    };
    let (first, rest) = whole.split_once('\n').unwrap();
    std::fs::write(&journal, format!("{first}\nrubbish\n{rest}")).unwrap();
    context("line 2 is not a record of this version").await;
    std::fs::write(&journal, rest).unwrap();
    context("the session's header is missing").await;
    std::fs::remove_file(&journal).unwrap();
    context("cannot read the session's journal in").await;
}

#[tokio::test]
async fn the_rows_add_up_after_a_compaction() {
    const NARROW: &str = "26000";
    let user = User::with(files());
    let model = counting(|number| if number < 10 { read(number) } else { say("Done.") }).await;
    user.exec(&model, "read").env("VTCODE_CONTEXT_WINDOW_TOKENS", NARROW).run().await.exits(0);
    let journal = user.journal();
    let compactions = journal.iter().filter(|record| record["type"] == "compacted").count();
    assert!(compactions > 0);
    let contents = told(&user, NARROW).await;
    let aside = contents["rows"].as_array().unwrap().iter().find(|row| row["what"] == "aside");
    let pointers: u64 = journal
        .iter()
        .filter(|record| record["type"] == "compacted")
        .map(|record| record["put_aside"].as_u64().unwrap())
        .sum();
    assert_eq!(aside.unwrap()["count"], pointers);
    let resume = user.vtcode(["resume", "--last", "x"]);
    resume.env("VTCODE_CONTEXT_WINDOW_TOKENS", NARROW).run().await.exits(0);
    is_true(&contents, model.requests().last().unwrap().body.len(), "compacted");
}
