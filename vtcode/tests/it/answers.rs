//! `exec` when all goes well: where the prompt comes from and where the answer goes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::json;
use vtcode_testkit::{ScriptedModel, call, say, think};

use crate::user::{PROVIDERS, User, results, soon, system};

#[tokio::test]
async fn the_answer_goes_to_stdout_and_progress_to_stderr() {
    let user = User::with([("notes.txt", "one\ntwo\n")]);
    let model = ScriptedModel::start(vec![
        say("I look first.").and(call("read_file", json!({"path": "notes.txt"}))),
        say("There are two notes."),
    ])
    .await;
    let ran = user.exec(&model, "how many notes?").run().await.exits(0);
    let ran =
        ran.prints("There are two notes.\n").says("I look first.").says("● read_file notes.txt");
    assert!(!ran.stderr.contains("There are two notes."), "{ran}");
    assert!(ran.stderr.contains("2 turns"), "{ran}");
}

#[tokio::test]
async fn all_providers_carry_the_same_task() {
    for provider in PROVIDERS {
        let user = User::with([("notes.txt", "one\ntwo\n"), ("more.txt", "three\n")]);
        let read = |path: &str| call("read_file", json!({"path": path}));
        let model = ScriptedModel::start(vec![
            think("Which file?").and(say("Both.")).and(read("notes.txt")).and(read("more.txt")),
            say("Two."),
        ])
        .await;
        let exec = user.exec_on(provider, &model, "how many notes?");
        exec.run().await.exits(0).prints("Two.\n");
        let requests = model.requests();
        assert_eq!(requests.len(), 2);
        assert!(requests.iter().all(|request| request.error.is_none()), "{requests:?}");
        assert_eq!(results(&requests[1]), ["1\tone\n2\ttwo\n", "1\tthree\n"], "{provider}");
        assert!(String::from_utf8_lossy(&requests[0].body).contains("how many notes?"));
        assert_eq!(requests[0].connection, requests[1].connection, "one connection for all");
    }
}

#[tokio::test]
async fn the_prompt_comes_from_stdin_for_a_dash_or_when_there_is_no_other() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    user.exec(&model, "-").stdin("from a dash\n").run().await.exits(0).prints("Done.\n");
    let piped = ["exec", "-m", "scripted", "--base-url", &model.openai_url()];
    user.vtcode(piped).stdin("from a pipe").run().await.exits(0).prints("Done.\n");
    let bodies: Vec<_> = model.requests().iter().map(vtcode_testkit::Request::json).collect();
    assert_eq!(bodies[0]["messages"][1]["content"], "from a dash\n");
    assert_eq!(bodies[1]["messages"][1]["content"], "from a pipe");
}

#[tokio::test]
async fn without_a_prompt_nothing_begins() {
    let user = User::new();
    let model = ScriptedModel::start(vec![]).await;
    let none = ["exec", "--base-url", &model.openai_url()];
    user.vtcode(none).run().await.exits(2).prints("").says("the prompt is empty");
    user.exec(&model, "").run().await.exits(2).says("the prompt is empty");
    user.exec(&model, " \n\t").run().await.exits(2).says("the prompt is empty");
    user.exec(&model, "-").stdin("\n").run().await.exits(2).says("the prompt is empty");
    let bytes = user.exec(&model, "-").stdin(b"\xff\xfe".as_slice()).run().await.exits(2);
    bytes.says("not UTF-8");
    let long = user.exec(&model, "-").stdin(vec![b'x'; 9 << 20]).run().await.exits(2);
    long.says("longer than 8 MiB");
    assert!(model.requests().is_empty());
    assert!(!user.state().exists(), "no session may be left");
}

#[tokio::test]
async fn a_folder_that_is_none_and_options_that_are_none_are_usage_errors() {
    let user = User::with([("file", "")]);
    let model = ScriptedModel::start(vec![]).await;
    let exec = || user.exec(&model, "hi");
    for missing in ["nowhere", "file"] {
        exec().args(["-C", missing]).run().await.exits(2).prints("").says(missing);
        exec().args(["--add-dir", missing]).run().await.exits(2).prints("").says(missing);
    }
    let odd = user.folder.path().join(OsStr::from_bytes(b"odd\xff"));
    std::fs::create_dir(&odd).unwrap();
    exec().arg("-C").arg(odd).run().await.exits(2).says("its path is not UTF-8");
    exec().arg("--no-such-option").run().await.exits(2).prints("").says("--no-such-option");
    exec().args(["--sandbox", "maybe"]).run().await.exits(2).says("workspace-write");
    exec().args(["--max-turns", "0"]).run().await.exits(2).says("max_turns");
    exec().args(["--max-wall", "soon"]).run().await.exits(2).says("--max-wall");
    user.vtcode(["exek"]).run().await.exits(2).says("exec");
    assert!(model.requests().is_empty());
    assert!(user.session_ids().is_empty(), "no session may be left");
}

#[tokio::test]
async fn the_folder_to_work_in_and_further_ones_can_be_named() {
    let user = User::with([("below/inner.txt", "inner\n")]);
    let more = User::with([("far.txt", "far\n")]);
    let far = more.folder.path().join("far.txt");
    let model = ScriptedModel::start(vec![
        call("read_file", json!({"path": "inner.txt"}))
            .and(call("read_file", json!({"path": far})))
            .and(call("run_command", json!({"command": "pwd"}))),
        say("Done."),
    ])
    .await;
    let exec = user.exec(&model, "look").args(["-C", "below"]);
    exec.arg("--add-dir").arg(more.folder.path()).run().await.exits(0);
    let pwd = format!("{}/below\n[exit code 0]", user.folder.path().display());
    assert_eq!(results(&model.requests()[1]), ["1\tinner\n", "1\tfar\n", &pwd]);
}

#[tokio::test]
async fn the_answer_is_written_to_a_file_too() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, _| say("The answer.")).await;
    user.exec(&model, "hi").args(["-o", "answer.txt"]).run().await.exits(0).prints("The answer.\n");
    assert_eq!(user.folder.read("answer.txt"), "The answer.");

    let exec = user.exec(&model, "hi").args(["--json", "-o", "other.txt"]);
    exec.run().await.exits(0);
    assert_eq!(user.folder.read("other.txt"), "The answer.");

    let asked = model.requests().len();
    let exec = user.exec(&model, "hi").args(["-o", "nowhere/answer.txt"]);
    exec.run().await.exits(2).says("nowhere/answer.txt");
    assert_eq!(model.requests().len(), asked, "it is known before any work is done");
}

#[tokio::test]
async fn results_come_in_the_order_asked_whatever_order_they_finish_in() {
    let user = User::with([("a.txt", "a\n")]);
    let pipe = user.folder.path().join("pipe");
    std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    let model = ScriptedModel::start(vec![
        call("run_command", json!({"command": "cat pipe"}))
            .and(call("read_file", json!({"path": "a.txt"}))),
        say("Done."),
    ])
    .await;
    let mut running = user.exec(&model, "look").arg("--json").start();
    let first = running.stdout_says("duration_ms").await;
    assert!(first.contains("read_file"), "it does not wait for the command: {first}");
    let written = tokio::task::spawn_blocking(move || std::fs::write(pipe, "slow\n"));
    running.end().await.exits(0);
    soon("a reader of the pipe", written).await.unwrap().unwrap();
    assert_eq!(results(&model.requests()[1]), ["slow\n[exit code 0]", "1\ta\n"]);
}

#[tokio::test]
async fn no_optimization_changes_what_the_model_reads() {
    let user = User::with([("a.txt", "a\n"), ("b.txt", "b\n")]);
    let model = ScriptedModel::start_with(|_, number| match number % 3 {
        0 => call("read_file", json!({"path": "a.txt"}))
            .and(call("write_file", json!({"path": "c.txt", "content": "c\n"})))
            .and(call("run_command", json!({"command": "cat c.txt; rm c.txt"})))
            .and(call("grep_file", json!({"pattern": "b"}))),
        1 => call("list_files", json!({})),
        _ => say("Done."),
    })
    .await;
    let exec = || user.exec(&model, "go").args(["--yolo"]);
    exec().run().await.exits(0);
    exec().env("VTCODE_USE_OPTIMIZED_LOOP", "false").run().await.exits(0);
    exec().env("VTCODE_MAX_CONCURRENT_TOOLS", "1").run().await.exits(0);
    let requests = model.requests();
    // The model's ids count the requests of all runs.
    assert_eq!(results(&requests[2]), results(&requests[5]));
    assert_eq!(results(&requests[2]), results(&requests[8]));
    assert_eq!(results(&requests[2]).len(), 5);
}

#[tokio::test]
async fn the_first_request_is_small() {
    let user = User::with([("Cargo.toml", "[package]\n"), ("src/main.rs", "fn main() {}\n")]);
    let model = ScriptedModel::start(vec![say("Done.")]).await;
    user.exec(&model, "hi").run().await.exits(0);
    let request = &model.requests()[0];
    assert!(request.body.len() < 8000, "{} bytes", request.body.len());
    let tools = request.json()["tools"].to_string();
    let tokens = (tools.len() + system(request).len()) / 4;
    assert!(tokens < 1500, "{tokens} tokens");
}

#[tokio::test]
async fn the_projects_instructions_are_in_the_prompt_the_nearest_last() {
    let user = User::with([
        ("AGENTS.md", "Use tabs."),
        ("crates/one/AGENTS.md", "Use spaces."),
        ("crates/two/AGENTS.md", "Use nothing."),
        (".git/HEAD", "ref: refs/heads/main\n"),
    ]);
    std::fs::create_dir_all(user.config()).unwrap();
    std::fs::write(user.config().join("AGENTS.md"), "Be brief.").unwrap();
    let model = ScriptedModel::start(vec![say("Done.")]).await;
    user.exec(&model, "hi").args(["-C", "crates/one"]).run().await.exits(0);
    let prompt = system(&model.requests()[0]);
    let at = |words: &str| prompt.find(words).unwrap_or_else(|| panic!("no `{words}` in {prompt}"));
    assert!(at("Be brief.") < at("Use tabs.") && at("Use tabs.") < at("Use spaces."), "{prompt}");
    assert!(!prompt.contains("Use nothing."), "{prompt}");
}

#[tokio::test]
async fn a_run_says_what_of_the_sandbox_is_missing_or_refuses_to_begin() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    let ran = user.exec(&model, "hi").run().await;
    assert!(!ran.stderr.contains("not yet confined"), "{ran}");
    if ran.stderr.contains("--sandbox off") {
        eprintln!("no sandbox on this machine");
        ran.exits(2);
    } else {
        ran.exits(0);
    }
    let ran = user.exec(&model, "hi").args(["--sandbox", "off"]).run().await.exits(0);
    assert!(!ran.stderr.contains("not enforced"), "{ran}");
}

#[tokio::test]
async fn a_profile_is_printed_when_asked_for() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    let plain = user.exec(&model, "hi").run().await.exits(0);
    let option = user.exec(&model, "hi").arg("--profile").run().await.exits(0).prints("Done.\n");
    let variable = user.exec(&model, "hi").env("VTCODE_PROFILING_ENABLED", "true").run().await;
    let variable = variable.exits(0).prints("Done.\n");
    let lines = |text: &str| text.lines().count();
    assert!(lines(&option.stderr) > lines(&plain.stderr), "{option}");
    assert_eq!(lines(&variable.stderr), lines(&option.stderr), "{variable}");
}

#[tokio::test]
async fn a_profile_tells_what_became_of_the_tool_calls() {
    let user = User::new();
    let list = || call("list_files", json!({}));
    let replies = vec![
        // So that what is in the folder has settled when it is listed.
        call("run_command", json!({"command": "sleep 0.1"})),
        list(),
        list().and(call("read_file", json!({"path": "none"}))),
        call("run_command", json!({"command": "kill -9 $$"})),
        say("Done."),
    ];
    let model = ScriptedModel::start(replies).await;
    let ran = user.exec(&model, "hi").arg("--profile").run().await.exits(0).prints("Done.\n");
    let at = ran.stderr.find("\ntool calls: ").expect("there is no table");
    let table = &ran.stderr[at + 1..];
    assert!(table.starts_with("tool calls: 1 kept, 0 shared, 0 found stale; "), "{ran}");
    assert!(table.contains("; 0 refused, 0 timed out, 1 killed; batches: "), "{ran}");
    let row = |tool: &str| -> Vec<&str> {
        let line = table.lines().find(|line| line.trim_start().starts_with(tool));
        line.expect("there is no line of it").split_whitespace().take(3).collect()
    };
    assert_eq!(row("list_files"), ["list_files", "1", "0"]);
    assert_eq!(row("read_file"), ["read_file", "1", "1"]);
    assert_eq!(row("run_command"), ["run_command", "2", "0"]);
    assert!(!table.contains("write_file"), "it was not called: {ran}");
}

#[tokio::test]
async fn a_task_without_quotes_or_with_a_dash_in_front_is_told_how_it_is_given() {
    let user = User::new();
    for words in [&["fix", "the", "bug"][..], &["- fix the bug\n- test it"], &["--fix it"]] {
        let exec = user.vtcode(["exec"]).args(words);
        exec.run().await.exits(2).prints("").says("The task is one argument");
    }
    for other in [&["exec", "--full-auto", "x"][..], &["config", "show", "x"]] {
        let ran = user.vtcode(other).run().await.exits(2);
        assert!(!ran.stderr.contains("The task is"), "{ran}");
    }
}
