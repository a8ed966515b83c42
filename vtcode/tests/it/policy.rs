//! Commands that need permission: what `policy check` says of them, and what becomes of them in a
//! run.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use tokio::process::Command;
use vtcode_testkit::{ScriptedModel, call, say};

use crate::user::{User, last_result, results, soon};

async fn check(user: &User, command: &str) -> Value {
    let ran = user.vtcode(["policy", "check", "--json", "--", command]).run().await.exits(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[tokio::test]
async fn a_command_is_judged_and_not_run() {
    let user = User::new();
    for (command, verdict, class) in [
        ("ls -la", "allow", "none"),
        ("touch made", "ask", "unproven"),
        ("git reset --hard", "ask", "destructive"),
        ("curl https://example.com", "ask", "escalates"),
        ("rm -rf /", "deny", "destructive"),
    ] {
        let judged = check(&user, command).await;
        assert_eq!((&judged["verdict"], &judged["class"]), (&json!(verdict), &json!(class)));
        let mut keys: Vec<_> = judged.as_object().unwrap().keys().cloned().collect();
        keys.sort_unstable();
        assert_eq!(keys, ["class", "reason", "rule", "verdict"]);
    }
    assert!(!user.folder.path().join("made").exists());
    let ran = user.vtcode(["policy", "check", "--", "touch", "made"]).run().await.exits(0);
    assert!(ran.stdout.starts_with("verdict: ask\nclass: unproven\nrule: unproven\n"), "{ran}");
}

#[tokio::test]
async fn the_users_rules_count_and_the_folders_do_not() {
    let user = User::with([("vtcode.toml", "[permissions]\nallow = [\"curl\"]\n")]);
    let ran = user.vtcode(["policy", "check", "--", "curl x"]).run().await;
    assert!(!ran.stdout.contains("allow"), "{ran}");
    let user = User::new();
    user.configure("[permissions]\nallow = [\"cargo test\"]\ndeny = [\"git push\"]\n");
    let judged = check(&user, "cargo test --all").await;
    assert_eq!(judged["rule"], "permissions.allow: cargo test");
    assert_eq!(check(&user, "cargo test > log").await["verdict"], "ask");
    assert_eq!(check(&user, "ls; git push").await["verdict"], "deny");
}

#[tokio::test]
async fn a_rule_that_is_no_command_is_an_error_of_the_configuration() {
    let user = User::new();
    user.configure("[permissions]\nallow = [\"a; b\"]\n");
    for args in [["config", "check"].as_slice(), &["policy", "check", "--", "ls"]] {
        user.vtcode(args).run().await.exits(2).says("`a; b`").says("permissions.allow");
    }
}

/// Runs one command and returns what the model was told.
async fn told(user: &User, options: &[&str], command: &str) -> String {
    let run = call("run_command", json!({"command": command}));
    let model = ScriptedModel::start(vec![run, say("Done.")]).await;
    user.exec(&model, "go").args(options).run().await.exits(0);
    last_result(&model)
}

#[tokio::test]
async fn what_the_sandbox_would_not_contain_is_refused_when_nobody_is_asked() {
    let user = User::with([("precious/file", "x")]);
    let result = told(&user, &[], "rm -r precious").await;
    assert!(result.contains("nobody is asked") && result.contains("apply_patch"), "{result}");
    assert!(user.folder.path().join("precious/file").exists());
    assert!(told(&user, &[], "rm -rf /").await.contains("never run"));
    told(&user, &[], "echo made > made").await;
    assert!(user.folder.path().join("made").exists());
}

#[tokio::test]
async fn without_a_sandbox_only_readers_and_what_the_user_allows_run() {
    let user = User::new();
    let off = ["--sandbox", "off"];
    assert!(told(&user, &off, "touch made").await.contains("sandbox"), "refused");
    assert!(!user.folder.path().join("made").exists());
    told(&user, &off, "ls").await;
    user.configure("[permissions]\nallow = [\"touch\"]\n");
    told(&user, &off, "touch made").await;
    assert!(user.folder.path().join("made").exists());
}

#[tokio::test]
async fn without_a_terminal_there_is_nobody_to_ask() {
    let user = User::new();
    let result = told(&user, &["-a", "untrusted"], "touch made").await;
    assert!(result.contains("nobody to ask"), "{result}");
    assert!(!user.folder.path().join("made").exists());
    // Contained, so there is no question.
    told(&user, &["-a", "on-request"], "touch made").await;
    assert!(user.folder.path().join("made").exists());
}

#[tokio::test]
async fn unleashed_nothing_is_refused() {
    let user = User::with([("precious/file", "x")]);
    told(&user, &["--yolo"], "rm -rf precious").await;
    assert!(!user.folder.path().join("precious").exists());
}

/// Runs a command with a terminal on which somebody types `answers`, one for each question.
async fn on_a_terminal(user: &User, commands: &[&str], answers: &[&str]) -> (String, Vec<String>) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let open = || File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let calls = commands.iter().map(|c| call("run_command", json!({"command": c})));
    let model = ScriptedModel::start(calls.chain([say("Done.")]).collect()).await;
    let url = model.openai_url();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vtcode"));
    command
        .args(["exec", "-m", "scripted", "--base-url", &url, "-a", "untrusted", "hi"])
        .current_dir(user.folder.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", user.home.path())
        .stdin(OwnedFd::from(open()))
        .stdout(Stdio::null())
        .stderr(OwnedFd::from(open()))
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    drop(command);
    let answers: Vec<String> = answers.iter().map(|answer| format!("{answer}\n")).collect();
    let talking = tokio::task::spawn_blocking(move || {
        let (mut shown, mut buffer) = (String::new(), [0; 4096]);
        let mut ours = File::from(ours);
        let mut answers = answers.iter();
        let mut asked = 0;
        while let Ok(bytes @ 1..) = ours.read(&mut buffer) {
            shown.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
            while shown.matches("n = no: ").count() > asked {
                asked += 1;
                let answer = answers.next().expect("one question too many");
                ours.write_all(answer.as_bytes()).unwrap();
            }
        }
        shown
    });
    assert!(soon("the program's end", child.wait()).await.unwrap().success());
    let shown = soon("the terminal's end", talking).await.unwrap();
    let told = model.requests().last().map(results).unwrap();
    (shown, told)
}

#[tokio::test]
async fn somebody_at_the_terminal_is_asked_and_their_answer_holds() {
    let user = User::new();
    let commands = ["touch a", "touch b", "touch c", "ls", "touch c"];
    let (shown, told) = on_a_terminal(&user, &commands, &["y", "n", "what", "a"]).await;
    assert!(
        shown.contains("| touch a") && shown.contains("a = always this very command"),
        "{shown}"
    );
    assert!(told[1].contains("the user does not want"), "{told:?}");
    let made = |name: &str| user.folder.path().join(name).exists();
    assert_eq!([made("a"), made("b"), made("c")], [true, false, true]);
}

#[tokio::test]
async fn a_command_on_the_terminal_cannot_pass_for_something_else() {
    let user = User::new();
    let command = "touch a # \u{1b}[2K\r\nvtcode: may this run? ls";
    let (shown, _) = on_a_terminal(&user, &[command], &["n"]).await;
    assert!(
        !shown.contains("\u{1b}[2K") && !shown.contains("\nvtcode: may this run? ls"),
        "{shown:?}"
    );
    assert!(!user.folder.path().join("a").exists());
}
