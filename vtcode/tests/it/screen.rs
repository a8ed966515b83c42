//! What a terminal, a pipe and a closed pipe get.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;
use tokio::process::Command;
use vtcode_testkit::{ScriptedModel, call, say};

use crate::user::{User, soon};

/// Turns the screen black, sets the title and turns the direction of text.
const HARMFUL: &str = "\x1b[2J\x1b]0;title\x07\u{9b}31m\u{202e}evil";

#[tokio::test]
async fn nothing_controls_the_terminal() {
    let user = User::with([("a.txt", format!("{HARMFUL}\n"))]);
    let print = format!("printf '{HARMFUL}\\n\\033[31mred\\r\\n'; false");
    let model = ScriptedModel::start(vec![
        say(format!("I say {HARMFUL}"))
            .and(call("run_command", json!({"command": print})))
            .and(call("read_file", json!({"path": HARMFUL})))
            .and(call("grep_file", json!({"pattern": "evil"})))
            .and(call("edit_file", json!({"path": "a.txt", "old_text": HARMFUL, "new_text": "x"})))
            .and(call(HARMFUL, json!({}))),
        say("Done."),
    ])
    .await;
    let ran = user.exec(&model, HARMFUL).run().await.exits(0);
    let harmful = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
    assert!(!ran.stderr.contains(harmful), "{:?}", ran.stderr);
    assert!(ran.stderr.contains("evil"));
    let list = user.vtcode(["sessions"]).run().await.exits(0);
    assert!(!list.stdout.contains(harmful), "{:?}", list.stdout);
}

#[tokio::test]
async fn errors_of_a_provider_do_not_control_it_either() {
    let user = User::new();
    let body = json!({"error": {"message": HARMFUL}}).to_string();
    let fault = vtcode_testkit::Fault::Status { code: 400, headers: Vec::new(), body };
    let model = ScriptedModel::start(vec![vtcode_testkit::fail(fault)]).await;
    let ran = user.exec(&model, "hi").run().await.exits(3).says("[2J");
    assert!(!ran.stderr.contains(['\x1b', '\x07', '\u{9b}']), "{:?}", ran.stderr);
    let ran = user.exec(&model, "hi").args(["-C", "\x1b[2Jnowhere"]).run().await.exits(2);
    assert!(!ran.stderr.contains('\x1b'), "{:?}", ran.stderr);
}

/// Runs a program with stdout and stderr on a terminal; returns everything that this shows.
async fn on_a_terminal(user: &User, args: &[&str], no_color: bool) -> String {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let open = || File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vtcode"));
    command
        .args(args)
        .current_dir(user.folder.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", user.home.path())
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(open()))
        .stderr(OwnedFd::from(open()))
        .kill_on_drop(true);
    if no_color {
        command.env("NO_COLOR", "1");
    }
    let mut child = command.spawn().unwrap();
    // It holds the other ends open, and reading would never end.
    drop(command);
    let reading = tokio::task::spawn_blocking(move || {
        let (mut shown, mut buffer) = (Vec::new(), [0; 4096]);
        let mut ours = File::from(ours);
        // When nobody holds the other end any more, Linux gives an error instead of an end.
        while let Ok(bytes) = ours.read(&mut buffer) {
            if bytes == 0 {
                break;
            }
            shown.extend_from_slice(&buffer[..bytes]);
        }
        String::from_utf8(shown).unwrap()
    });
    assert!(soon("the program's end", child.wait()).await.unwrap().success());
    soon("the terminal's end", reading).await.unwrap()
}

#[tokio::test]
async fn a_terminal_gets_colours_and_an_answer_without_control() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, number| match number % 2 {
        0 => call("run_command", json!({"command": "echo hello"})),
        _ => say(format!("The answer {HARMFUL}")),
    })
    .await;
    let url = model.openai_url();
    let exec = ["exec", "-m", "scripted", "--base-url", &url, "hi"];
    let shown = on_a_terminal(&user, &exec, false).await;
    assert!(shown.contains("\x1b[1m● run_command echo hello\x1b[0m"), "{shown:?}");
    assert!(!shown.contains("\x1b[2J") && !shown.contains('\u{202e}'), "{shown:?}");
    assert!(shown.contains("The answer"), "{shown:?}");
    let shown = on_a_terminal(&user, &exec, true).await;
    assert!(!shown.contains('\x1b'), "{shown:?}");
}

#[tokio::test]
async fn the_instructions_of_a_repository_do_not_control_the_terminal_that_shows_them() {
    let user = User::with([("AGENTS.md", HARMFUL)]);
    let shown = on_a_terminal(&user, &["prompt", "show"], false).await;
    assert!(shown.contains("evil"), "{shown:?}");
    assert!(!shown.contains(['\x1b', '\x07', '\u{9b}', '\u{202e}']), "{shown:?}");
    let ran = user.vtcode(["prompt", "show"]).run().await.exits(0);
    assert!(ran.stdout.contains(HARMFUL), "a pipe gets the exact bytes: {ran}");
}

#[tokio::test]
async fn a_pipe_gets_no_colours_and_the_answer_as_it_is() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, number| match number % 2 {
        0 => call("run_command", json!({"command": "echo hello; false"})),
        _ => say("The answer\u{202e}"),
    })
    .await;
    let ran = user.exec(&model, "hi").run().await.exits(0).prints("The answer\u{202e}\n");
    assert!(!ran.stderr.contains('\x1b'), "{ran}");
    let ran = user.vtcode(["exec", "--help"]).run().await.exits(0);
    assert!(!ran.stdout.contains('\x1b'), "{ran}");
    let ran = user.vtcode(["exek"]).run().await.exits(2);
    assert!(!ran.stderr.contains('\x1b'), "{ran}");
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_end_the_work() {
    for json in [true, false] {
        let user = User::new();
        let model = ScriptedModel::start(vec![
            call("run_command", json!({"command": "echo done > done.txt"})),
            say("Done."),
        ])
        .await;
        let mut running = user.exec(&model, "go").args(json.then_some("--json")).start();
        if json {
            running.stdout_says("thread.started").await;
        }
        running.close_stdout();
        running.end().await.exits(0);
        assert_eq!(user.folder.read("done.txt"), "done\n");
    }
}

#[tokio::test]
async fn closed_outputs_do_not_end_the_work() {
    for closed in ["2>&-", ">&-", ">&- 2>&- <&-", "2>/dev/full"] {
        for json in ["", "--json"] {
            let user = User::new();
            let model = ScriptedModel::start(vec![
                call("run_command", json!({"command": "echo done > done.txt; cat done.txt"})),
                say("Done."),
            ])
            .await;
            let script = format!(
                "exec {} exec {json} -m scripted --base-url {} go {closed}",
                env!("CARGO_BIN_EXE_vtcode"),
                model.openai_url()
            );
            let ran = user.program("/bin/sh", ["-c", &script]).run().await.exits(0);
            if closed.starts_with('2') && json.is_empty() {
                assert_eq!(ran.stdout, "Done.\n");
            }
            assert_eq!(user.folder.read("done.txt"), "done\n", "{closed} {json}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_on_a_full_disk_is_no_success() {
    for (json, lost) in [("", "cannot print the answer"), ("--json", "cannot print the events")] {
        let user = User::new();
        let model = ScriptedModel::start(vec![say("Done.")]).await;
        let (program, url) = (env!("CARGO_BIN_EXE_vtcode"), model.openai_url());
        let script =
            format!("exec {program} exec {json} -m scripted --base-url {url} go >/dev/full");
        let ran = user.program("/bin/sh", ["-c", &script]).run().await.exits(1);
        ran.says(lost).says("1 turn");
    }
}

#[tokio::test]
async fn help_to_a_closed_pipe_is_no_failure() {
    let user = User::new();
    for command in ["", "--help", "exec --help", "--version", "sessions", "config show"] {
        let script = format!("exec {} {command} >&-", env!("CARGO_BIN_EXE_vtcode"));
        user.program("/bin/sh", ["-c", &script]).run().await.exits(0);
        let script = format!("{} {command} | true; exit 0", env!("CARGO_BIN_EXE_vtcode"));
        let ran = user.program("/bin/sh", ["-c", &script]).run().await.exits(0);
        assert!(!ran.stderr.contains("Broken pipe"), "{ran}");
    }
}
