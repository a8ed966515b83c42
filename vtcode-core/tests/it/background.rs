//! Commands that outlive their call, in whole sessions: a scripted model starts, watches and stops
//! them, and nothing of them outlives the session.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use vtcode_core::config::endpoint::Wire;
use vtcode_core::core::event::EventKind;
use vtcode_core::core::optimized_agent::End;
use vtcode_core::tools::async_pipeline::{
    AsyncToolPipeline, ExecutionContext, ExecutionPriority, ToolRequest,
};
use vtcode_testkit::{Reply, call, say};

use crate::session::{ALL, Session, full, plain, within};

fn start(command: &str) -> Reply {
    call("run_command", json!({"command": command, "background": true}))
}

fn run(command: &str) -> Reply {
    call("run_command", json!({"command": command}))
}

/// The texts of all results, in their order.
fn results(session: &Session) -> Vec<String> {
    let texts = session.kinds().into_iter().filter_map(|kind| match kind {
        EventKind::ToolFinished { text, .. } => Some(text),
        _ => None,
    });
    texts.collect()
}

/// Returns the state letter of a process, if there is one.
fn state(pid: &str) -> Option<u8> {
    let pid = pid.trim();
    if cfg!(target_os = "linux") {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        return stat.rsplit_once(") ")?.1.bytes().next();
    }
    let ps = Command::new("ps").args(["-o", "stat=", "-p", pid]).output().unwrap();
    ps.stdout.first().copied()
}

/// Waits until a process is dead. Left alone, it would live far longer than the guard allows; a
/// machine under load may not have given it the time to be reaped.
async fn ends(pid: &str) {
    let dead = async {
        while !matches!(state(pid), None | Some(b'Z')) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(dead).await;
}

/// Waits until a file holds a line, and prints it.
const WAIT: &str = "until [ -s pid ]; do sleep 0.01; done; cat pid";
/// A server that says who it is.
const SERVER: &str = "echo $$ > pid; echo up; read line < in; echo got $line; exec sleep 600";

fn fifo(folder: &Path) {
    assert!(Command::new("mkfifo").arg(folder.join("in")).status().unwrap().success());
}

#[tokio::test]
async fn a_command_is_started_looked_at_and_stopped() {
    for wire in ALL {
        for limits in [full(), plain()] {
            let replies = vec![
                start(SERVER),
                run("echo hello > in"),
                call("command_output", json!({"id": "bg1", "wait_ms": 60_000})),
                call("command_stop", json!({"id": "bg1"})),
                call("command_output", json!({"id": "bg1"})),
                say("Done."),
            ];
            let session = Session::new(wire, limits, replies).await;
            fifo(session.workspace.path());
            let outcome = session.run(&["serve"]).await;
            assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())));
            let results = results(&session);
            assert!(results[0].contains("[bg1 runs; all it prints is kept in "), "{results:?}");
            // Which of the answers has it depends on the speed of the machine.
            let printed: Vec<_> = results
                .iter()
                .flat_map(|text| text.lines())
                .filter(|line| !line.starts_with('['))
                .collect();
            assert_eq!(printed, ["up", "got hello"], "{results:?}");
            assert!(results[3].ends_with("[bg1 stopped: killed by signal 15]"), "{results:?}");
            assert_eq!(results[4], "[bg1 stopped: killed by signal 15]");
        }
    }
}

#[tokio::test]
async fn it_ends_with_the_session() {
    for limits in [full(), plain()] {
        let replies = vec![start(SERVER), run(WAIT), say("It runs.")];
        let session = Session::new(ALL[0], limits, replies).await;
        fifo(session.workspace.path());
        session.run(&["serve"]).await;
        let pid = session.workspace.read("pid");
        assert_eq!(results(&session)[1], format!("{pid}[exit code 0]"));
        ends(&pid).await;
    }
}

#[tokio::test]
async fn it_ends_with_an_interrupted_session() {
    let wait = call("command_output", json!({"id": "bg1", "wait_ms": 60_000}));
    let replies = vec![start(SERVER), run(WAIT), wait];
    let session = Session::new(ALL[0], full(), replies).await.cancel_when(
        |kind| matches!(kind, EventKind::ToolStarted { name, .. } if name == "command_output"),
    );
    fifo(session.workspace.path());
    let outcome = session.run(&["serve"]).await;
    assert_eq!(outcome.end, Some(End::Interrupted));
    ends(&session.workspace.read("pid")).await;
}

#[tokio::test]
async fn several_starts_in_one_answer_have_their_ids_in_the_order_asked() {
    for limits in [full(), plain()] {
        // The first only reads, as far as anybody can tell; the second may do anything.
        let many = start("sleep 600; pwd").and(start("exec sleep 600")).and(start("sleep 600; ls"));
        let session = Session::new(ALL[0], limits, vec![many, say("Done.")]).await;
        session.run(&["go"]).await;
        for n in 1..=3 {
            let transcript = session.transcript();
            assert!(transcript.contains(&format!("[bg{n} runs; ")), "{transcript}");
        }
        let order: Vec<_> = session
            .transcript()
            .lines()
            .filter_map(|line| Some(line.split_once("gives run_command: [")?.1[..3].to_owned()))
            .collect();
        assert_eq!(order, ["bg1", "bg2", "bg3"]);
    }
}

#[tokio::test]
async fn it_ends_when_the_pipeline_shuts_down_though_somebody_still_holds_the_tools() {
    let session = Session::new(Wire::OpenAiChat, full(), Vec::new()).await;
    let registry = session.registry();
    let pipeline = AsyncToolPipeline::with_registry(Arc::clone(&registry));
    for (id, args) in [
        // It does not end when it is asked to.
        ("start", json!({"command": "trap '' TERM; echo $$ > pid; sleep 600", "background": true})),
        ("wait", json!({"command": WAIT})),
    ] {
        let request = ToolRequest {
            id: id.to_owned(),
            tool_name: "run_command".to_owned(),
            args,
            priority: ExecutionPriority::Normal,
            timeout: Duration::MAX,
            context: ExecutionContext::default(),
        };
        pipeline.submit_request(request).await.unwrap();
        within(pipeline.wait_result(id)).await.result.unwrap();
    }
    let pid = session.workspace.read("pid");
    assert!(state(&pid).is_some(), "it runs");
    within(pipeline.shutdown()).await;
    assert_eq!(state(&pid), None, "it is dead and reaped when shutdown returns");
    assert!(registry.get_tool_metadata("run_command").is_some());
}
