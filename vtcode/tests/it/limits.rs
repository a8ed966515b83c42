//! Limits end a run with their own exit code and keep what was done.

use rustix::process::Signal;
use serde_json::json;
use vtcode_testkit::{Fault, ScriptedModel, call, say};

use crate::user::{User, soon};

fn step(number: usize) -> vtcode_testkit::Reply {
    let path = format!("step-{number}.txt");
    call("write_file", json!({"path": path, "content": "done\n"})).usage(100, 0, 10)
}

#[tokio::test]
async fn turns() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, number| step(number)).await;
    let ran = user.exec(&model, "go").args(["--max-turns", "2"]).run().await.exits(4).prints("");
    let ran = ran.says("the limit of 2 turns was reached (--max-turns)").says("vtcode resume");
    let ran = ran.says("changed: step-0.txt (new) +1");
    assert!(ran.stderr.contains("2 turns"), "{ran}");
    assert_eq!(model.requests().len(), 2);
    assert_eq!(user.folder.snapshot().len(), 2, "both steps are kept");
    let kinds: Vec<_> = user.journal().iter().map(|r| r["type"].clone()).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "tool_finished").count(), 2);
    assert_eq!(kinds.last().unwrap(), "prompt_failed");
}

#[tokio::test]
async fn tokens() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, number| step(number).usage(9000, 0, 10)).await;
    let exec = user.exec(&model, "go").args(["--max-tokens", "28000"]);
    // A fourth request would take 9,000 more.
    exec.run().await.exits(4).says("the limit of 28000 tokens was reached");
    assert_eq!(model.requests().len(), 3);
    assert_eq!(user.folder.snapshot().len(), 3);
}

#[tokio::test]
async fn time_with_a_model_that_stalls() {
    let user = User::new();
    let stalled = say("Half an answer").fault(Fault::StallAfterEvents(2));
    let model = ScriptedModel::start(vec![step(0), stalled]).await;
    let ran = user.exec(&model, "go").args(["--max-wall", "1"]).run().await.exits(4).prints("");
    ran.says("the time limit of 1s was reached (--max-wall)").says("changed: step-0.txt");
    assert_eq!(user.folder.read("step-0.txt"), "done\n");
}

#[tokio::test]
async fn time_with_a_command_that_runs_on() {
    let user = User::new();
    let command = call("run_command", json!({"command": "echo begun; sleep 100"}));
    let model = ScriptedModel::start(vec![command]).await;
    let ran = user.exec(&model, "go").env("VTCODE_MAX_WALL_S", "1").run().await.exits(4);
    ran.says("(--max-wall)").says("begun");
    let finished = user.journal().into_iter().find(|r| r["type"] == "tool_finished").unwrap();
    assert_eq!(finished["text"], "begun\n[interrupted]");
}

#[tokio::test]
async fn a_run_without_an_answer_leaves_no_older_one_in_its_file() {
    let limits: [&[&str]; 4] = [
        &["--max-turns", "1"],
        &["--max-tokens", "28000"],
        &["--max-wall", "1"],
        &["--max-turns", "1", "--output-schema", "schema.json"],
    ];
    for limit in limits {
        let user = User::with([
            ("answer.txt", "{\"count\": 1}"),
            ("other.txt", "{\"count\": 1}"),
            ("schema.json", r#"{"type": "object", "required": ["count"]}"#),
        ]);
        std::os::unix::fs::symlink("other.txt", user.folder.path().join("link.txt")).unwrap();
        let stalled = || say("Half an answer").fault(Fault::StallAfterEvents(2));
        for (number, file) in ["answer.txt", "link.txt"].into_iter().enumerate() {
            let first = step(number).usage(20_000, 0, 10);
            let model = ScriptedModel::start(vec![first, stalled()]).await;
            let exec = user.exec(&model, "go").args(["-o", file]).args(limit.iter().copied());
            exec.run().await.exits(4).prints("").says(&format!("changed: step-{number}.txt"));
        }
        assert!(!user.folder.path().join("answer.txt").exists(), "{limit:?}");
        assert_eq!(user.folder.read("other.txt"), "", "{limit:?}: the file behind a link stays");
    }
}

#[tokio::test]
async fn a_run_that_is_killed_leaves_no_older_answer_in_its_file() {
    let user = User::with([("answer.txt", "an older answer")]);
    let stalled = say("Half an answer").fault(Fault::StallAfterEvents(2));
    let model = ScriptedModel::start(vec![stalled]).await;
    let running = user.exec(&model, "go").args(["-o", "answer.txt"]).start();
    soon("the request", model.wait_for_requests(1)).await;
    running.signal(Signal::KILL);
    running.end().await;
    assert!(!user.folder.path().join("answer.txt").exists());
}

#[tokio::test]
async fn a_file_that_takes_no_answer_is_told_before_anything_is_asked() {
    let user = User::new();
    let model = ScriptedModel::start(vec![say("never")]).await;
    // Nobody, not even root, makes a file there.
    let ran = user.exec(&model, "go").args(["-o", "/proc/answer.txt"]).run().await.exits(2);
    ran.says("cannot write the answer to `/proc/answer.txt`");
    assert_eq!(model.requests().len(), 0);
}

#[tokio::test]
async fn the_environment_and_files_set_them_too() {
    let user = User::with([("vtcode.toml", "[limits]\nmax_turns = 3\n")]);
    let model = ScriptedModel::start_with(|_, number| step(number)).await;
    user.exec(&model, "go").run().await.exits(4).says("3 turns was reached");
    user.exec(&model, "go").env("VTCODE_MAX_TURNS", "2").run().await.exits(4).says("2 turns was");
    let both = user.exec(&model, "go").env("VTCODE_MAX_TURNS", "2").args(["--max-turns", "1"]);
    both.run().await.exits(4).says("the limit of 1 turn");
}

#[tokio::test]
async fn a_bound_on_costs_ends_the_task_before_the_request_that_would_pass_it() {
    let user = User::with([("a.txt", "one\n")]);
    let read = || call("read_file", json!({"path": "a.txt"}));
    let replies = vec![read().usage(100_000, 0, 10), read().usage(100_000, 0, 10)];
    let model = ScriptedModel::start(replies).await;
    let price = [("VTCODE_PRICE_INPUT", "2"), ("VTCODE_PRICE_OUTPUT", "10")];
    let mut exec = user.exec(&model, "go").args(["--max-cost", "0.5"]);
    for (name, value) in price {
        exec = exec.env(name, value);
    }
    // Each costs 20 cents: the third would make it 60.
    let ran = exec.run().await.exits(4).says("the limit of $0.5 was reached");
    ran.says("$0.4002");
    assert_eq!(model.requests().len(), 2);
}

#[tokio::test]
async fn a_bound_on_costs_that_nobody_can_keep_is_refused_before_anything_is_sent() {
    let user = User::new();
    let model = ScriptedModel::start(vec![say("never")]).await;
    let ran = user.exec(&model, "go").args(["--max-cost", "0.5"]).run().await.exits(2);
    ran.says("set price.input and price.output");
    assert_eq!(model.requests().len(), 0);
}
