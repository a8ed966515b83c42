//! Checks after edits, in real sessions with real processes in a real sandbox: what the model is told
//! and when, what ends a check, and that nothing of it is left.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Semaphore;
use vtcode_core::config::limits::Limits;
use vtcode_core::config::safety::SandboxSettings;
use vtcode_core::core::event::{CheckEnd, EventKind};
use vtcode_core::core::performance_profiler::Profile;
use vtcode_core::safety::sandbox::{Sandbox, SandboxPlan};
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::tool::ToolOutput;
use vtcode_testkit::{Reply, call, say};

use crate::session::{ALL, Probe, Session, full, plain};

/// Fails while `a.txt` says bad, and runs for ever while it says slow.
const CHECK: &str = "if grep -q slow a.txt; then sleep 600; fi; \
                     if grep -q bad a.txt; then echo 'a.txt:1: this is bad'; exit 1; fi";

fn edit(old: &str, new: &str) -> Reply {
    call("edit_file", json!({"path": "a.txt", "old_text": old, "new_text": new}))
}

/// The model thinks until a check has ended.
fn wait() -> Reply {
    call("wait", json!({}))
}

/// Says so, and returns true, where commands cannot be confined.
fn cannot_confine() -> bool {
    let settings = SandboxSettings::default();
    let dir = tempfile::tempdir().unwrap();
    let workspace = Workspace::open(dir.path()).unwrap();
    let plan = SandboxPlan {
        settings: &settings,
        workspace: &workspace,
        build: None,
        private: Vec::new(),
        env: &[],
    };
    let error = Sandbox::new(&plan).err();
    error.inspect(|error| println!("not tried: {error}")).is_some()
}

/// A session whose tool `wait` ends when a check has, each call with one check.
async fn session(limits: Limits, command: Option<&str>, replies: Vec<Reply>) -> Session {
    let ended = Arc::new(Semaphore::new(0));
    let awaited = Arc::clone(&ended);
    let probe = Probe::new("wait", move |_| {
        let awaited = Arc::clone(&awaited);
        async move {
            awaited.acquire().await.unwrap().forget();
            Ok(ToolOutput::text("waited"))
        }
    });
    let session = Session::new(ALL[0], limits, replies).await;
    session.tool(probe).checked(command).on_event(move |event| {
        if let EventKind::CheckEnded { end, .. } = event.kind
            && end != CheckEnd::Superseded
        {
            ended.add_permits(1);
        }
    })
}

fn ends(session: &Session) -> Vec<CheckEnd> {
    let kinds = session.kinds();
    let ends = kinds.iter().filter_map(|kind| match kind {
        EventKind::CheckEnded { end, .. } => Some(*end),
        _ => None,
    });
    ends.collect()
}

#[tokio::test]
async fn what_an_edit_breaks_is_told_with_the_next_result_and_that_it_is_mended_once() {
    if cannot_confine() {
        return;
    }
    let replies = vec![
        edit("alpha", "bad"),
        wait(),
        edit("bad", "bad still"),
        wait(),
        edit("bad still", "good"),
        wait(),
        edit("good", "better"),
        wait(),
        say("Done."),
    ];
    let session = session(full(), Some(CHECK), replies).await;
    session.run(&["go"]).await;
    let transcript = session.transcript();
    let fails = "waited\n    [vtcode attached, unasked: check fails: `if grep";
    assert_eq!(transcript.matches(fails).count(), 1, "{transcript}");
    assert_eq!(transcript.matches("\n    a.txt:1: this is bad\n").count(), 1, "{transcript}");
    assert_eq!(transcript.matches("unasked: check passes again: `if grep").count(), 1);
    let (failed, passed) = (CheckEnd::Failed, CheckEnd::Passed);
    assert_eq!(ends(&session), [failed, failed, passed, passed]);
    let mut profile = Profile::default();
    session.events.lock().unwrap().iter().for_each(|event| profile.take(event));
    let ledger = &profile.checks;
    assert_eq!((ledger.runs, ledger.failed, ledger.told, ledger.superseded), (4, 2, 2, 0));
    assert!(ledger.tokens > 20, "{ledger:?}");
    assert!(profile.table().contains("checks after edits: 4 ran, 2 failed"));
}

#[tokio::test]
async fn a_newer_edit_ends_the_check_of_an_older_one() {
    if cannot_confine() {
        return;
    }
    let replies = vec![edit("alpha", "slow"), edit("slow", "bad"), wait(), say("Done.")];
    let session = session(full(), Some(CHECK), replies).await;
    session.run(&["go"]).await;
    assert_eq!(ends(&session), [CheckEnd::Superseded, CheckEnd::Failed]);
    assert!(session.transcript().contains("unasked: check fails: "));
}

#[tokio::test]
async fn a_command_of_the_models_goes_before_a_check_and_its_changes_are_not_checked() {
    if cannot_confine() {
        return;
    }
    let command = "echo bad > a.txt; echo ran";
    let replies =
        vec![edit("alpha", "slow"), call("run_command", json!({"command": command})), say("Done.")];
    let session = session(full(), Some(CHECK), replies).await;
    session.run(&["go"]).await;
    assert_eq!(ends(&session), [CheckEnd::Superseded]);
    assert!(!session.transcript().contains("unasked"));
}

#[tokio::test]
async fn a_check_does_not_outlive_its_prompt() {
    if cannot_confine() {
        return;
    }
    let marker = format!("check-{}", uuid::Uuid::now_v7());
    let script = format!("exec 3< a.txt; : {marker}; sleep 600");
    let session = session(full(), Some(&script), vec![edit("alpha", "beta"), say("Done.")]).await;
    session.run(&["go"]).await;
    assert_eq!(ends(&session), [CheckEnd::Interrupted]);
    assert_eq!(processes_with(&marker), 0);
}

fn processes_with(marker: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let named = processes.filter(|process| {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(marker)
    });
    named.count()
}

#[tokio::test]
async fn a_check_that_outgrows_its_bounds_is_ended_and_once_all_is_used_none_is_run() {
    if cannot_confine() {
        return;
    }
    let mut limits = full();
    limits.agent.checks.run_cpu = Duration::from_millis(250);
    let burn = "while :; do :; done";
    let replies = vec![
        edit("alpha", "beta"),
        wait(),
        edit("beta", "gamma"),
        edit("gamma", "delta"),
        say("Done."),
    ];
    let burning = session(limits.clone(), Some(burn), replies).await;
    burning.run(&["go"]).await;
    assert_eq!(ends(&burning), [CheckEnd::OverBudget]);
    let warned = |kind: &EventKind| matches!(kind, EventKind::Warning { message } if message.contains("check.run_cpu_s"));
    assert_eq!(burning.count(warned), 1);
    assert!(!burning.transcript().contains("unasked"));

    limits.agent.checks.wall = Duration::from_millis(50);
    let replies = vec![edit("alpha", "slow"), wait(), say("Done.")];
    let slow = session(limits, Some(CHECK), replies).await;
    slow.run(&["go"]).await;
    assert_eq!(ends(&slow), [CheckEnd::OutOfTime]);
}

#[tokio::test]
async fn nothing_is_checked_where_it_is_off_and_nothing_without_an_edit() {
    if cannot_confine() {
        return;
    }
    let replies = || vec![edit("alpha", "bad"), say("Done.")];
    let off = session(plain(), Some(CHECK), replies()).await;
    off.run(&["go"]).await;
    let reads = vec![
        call("read_file", json!({"path": "a.txt"})),
        edit("no such text", "bad"),
        say("Done."),
    ];
    let idle = session(full(), Some(CHECK), reads).await;
    idle.run(&["go"]).await;
    for session in [off, idle] {
        assert_eq!(session.count(|kind| matches!(kind, EventKind::CheckStarted { .. })), 0);
    }
}

#[tokio::test]
async fn a_resumed_session_sends_what_a_check_said_byte_for_byte_and_says_it_once() {
    if cannot_confine() {
        return;
    }
    let replies = vec![
        edit("alpha", "bad"),
        wait(),
        say("Later."),
        edit("beta", "gamma").and(call(
            "edit_file",
            json!({
                "path": "b.txt", "old_text": "beta", "new_text": "gamma"
            }),
        )),
        wait(),
        edit("bad", "good"),
        wait(),
        say("Done."),
    ];
    let session = session(full(), Some(CHECK), replies).await;
    session.run(&["go"]).await;
    // The run checks that its requests begin with the bytes of the ones before.
    session.run(&["go on"]).await;
    let transcript = session.transcript();
    assert_eq!(transcript.matches("unasked: check fails: ").count(), 1, "{transcript}");
    assert_eq!(transcript.matches("unasked: check passes again: ").count(), 1, "{transcript}");
    let body = &session.bodies()[3];
    assert!(body.contains("this is bad"), "{body}");
}

/// The whole way with a real compiler, found by the folder's files.
#[tokio::test]
async fn a_crate_is_checked_by_cargo_where_it_calls_for_it() {
    let cargo = std::process::Command::new("cargo").arg("--version").output();
    if cannot_confine() || !cargo.is_ok_and(|output| output.status.success()) {
        println!("not tried: no sandbox or no cargo");
        return;
    }
    let replies = vec![
        call(
            "edit_file",
            json!({
                "path": "src/lib.rs", "old_text": "1 + 1", "new_text": "1 + nothing"
            }),
        ),
        wait(),
        call(
            "edit_file",
            json!({
                "path": "src/lib.rs", "old_text": "1 + nothing", "new_text": "1 + 2"
            }),
        ),
        wait(),
        say("Done."),
    ];
    let mut session = session(full(), None, replies).await;
    session.workspace.write("Cargo.toml", "[package]\nname = \"one\"\nedition = \"2021\"\n");
    session
        .workspace
        .write("Cargo.lock", "version = 3\n\n[[package]]\nname = \"one\"\nversion = \"0.0.0\"\n");
    session.workspace.write("src/lib.rs", "pub fn two() -> u32 {\n    1 + 1\n}\n");
    session = session.checked(None);
    session.run(&["go"]).await;
    assert_eq!(ends(&session), [CheckEnd::Failed, CheckEnd::Passed], "{}", session.transcript());
    let transcript = session.transcript();
    assert!(transcript.contains("src/lib.rs:2:9: error[E0425]"), "{transcript}");
    assert!(transcript.contains("check passes again: `cargo check"), "{transcript}");
    assert!(!session.workspace.path().join("target").exists());
}
