//! The engine against a scripted model on a real socket, with the real tools in a real folder.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use expect_test::expect;
use serde_json::json;
use tokio::sync::{Notify, oneshot};
use vtcode_core::config::endpoint::Wire;
use vtcode_core::core::event::EventKind;
use vtcode_core::core::optimized_agent::{
    AgentOutcome, End, EngineError, Failure, FailureKind, Limit,
};
use vtcode_core::tools::tool::{ChangeKind, FileChange, ToolError, ToolOutput};
use vtcode_testkit::{Fault, Reply, call, fail, raw_call, say, think};

use crate::session::{ALL, Probe, Session, full, plain, within};

#[expect(clippy::unnecessary_wraps, reason = "it is what an outcome holds")]
fn done(words: &str) -> Option<End> {
    Some(End::Done(words.to_owned()))
}

fn failure(outcome: &AgentOutcome) -> &Failure {
    match &outcome.end {
        Some(End::Failed(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

fn read(path: &str) -> Reply {
    call("read_file", json!({"path": path}))
}

fn write(path: &str, content: &str) -> Reply {
    call("write_file", json!({"path": path, "content": content}))
}

fn run(command: &str) -> Reply {
    call("run_command", json!({"command": command}))
}

fn retries(session: &Session) -> usize {
    session.count(|kind| matches!(kind, EventKind::Retry { .. }))
}

#[tokio::test]
async fn a_task_on_both_wires_reads_the_same() {
    let expected = expect![[r#"
        user: look around
        thinks: Look first.
        assistant: I look.
        calls read_file {"path":"a.txt"}
        calls read_file {"path":"b.txt"}
        gives read_file: 1	alpha
        gives read_file: 1	beta
        calls write_file {"content":"gamma\n","path":"c.txt"}
        calls run_command {"command":"cat c.txt; exit 3"}
        gives write_file: created c.txt: 1 line
        gives run_command: gamma
            [exit code 3]
        assistant: All three are there.
    "#]];
    let mut transcripts = Vec::new();
    for wire in ALL {
        for limits in [full(), plain()] {
            let replies = vec![
                think("Look first.").and(say("I look.")).and(read("a.txt")).and(read("b.txt")),
                write("c.txt", "gamma\n").and(run("cat c.txt; exit 3")),
                say("All three are there."),
            ];
            let connections = if limits.client.idle_connections == 0 { 3 } else { 1 };
            let session = Session::new(wire, limits, replies).await;
            let outcome = session.run(&["look around"]).await;
            assert_eq!(outcome.end, done("All three are there."));
            assert_eq!((outcome.turns, outcome.changes.len()), (3, 1));
            let change =
                FileChange { path: "c.txt".into(), kind: ChangeKind::Add, added: 1, removed: 0 };
            assert_eq!(outcome.changes, [change]);
            assert!(outcome.usage.input_tokens > 0 && outcome.usage.output_tokens > 0);
            transcripts.push(session.transcript());
            assert_eq!(session.model.connections(), connections);
        }
    }
    expected.assert_eq(&transcripts[0]);
    assert!(transcripts.iter().all(|other| *other == transcripts[0]), "{transcripts:?}");
}

#[tokio::test]
async fn the_history_does_not_depend_on_what_runs_at_once() {
    let script = || {
        let mut many = say("Many.");
        for n in 0..6 {
            many = many.and(run(&format!("echo {n}"))).and(read("a.txt"));
        }
        let mixed =
            write("n.txt", "1\n").and(read("n.txt")).and(run("cat n.txt")).and(read("none"));
        vec![many, mixed, say("Done.")]
    };
    for wire in ALL {
        let mut bodies = Vec::new();
        for (slots, mid_stream) in [(8, usize::MAX), (1, usize::MAX), (8, 0), (1, 0), (2, 1)] {
            let mut limits = full();
            limits.tools.max_concurrent = slots;
            limits.agent.calls_started_mid_stream = mid_stream;
            let session = Session::new(wire, limits, script()).await;
            assert_eq!(session.run(&["go"]).await.end, done("Done."));
            bodies.push(session.bodies());
        }
        assert_eq!(bodies[0].len(), 3);
        assert!(bodies.iter().all(|other| *other == bodies[0]));
    }
}

#[tokio::test]
async fn results_stand_in_the_order_asked_whatever_ended_first() {
    for wire in ALL {
        let last_ended = Arc::new(Notify::new());
        let (wait, tell) = (Arc::clone(&last_ended), last_ended);
        let first = Probe::new("first", move |_| {
            let wait = Arc::clone(&wait);
            async move {
                wait.notified().await;
                Ok(ToolOutput::text("one"))
            }
        });
        let last = Probe::new("last", move |_| {
            let tell = Arc::clone(&tell);
            async move {
                tell.notify_one();
                Ok(ToolOutput::text("two"))
            }
        });
        let replies = vec![call("first", json!({})).and(call("last", json!({}))), say("Done.")];
        let session = Session::new(wire, full(), replies).await.tool(first).tool(last);
        assert_eq!(session.run(&["go"]).await.end, done("Done."));
        expect![[r"
            user: go
            calls first {}
            calls last {}
            gives first: one
            gives last: two
            assistant: Done.
        "]]
        .assert_eq(&session.transcript());
        let ended: Vec<_> = session
            .kinds()
            .into_iter()
            .filter_map(|kind| match kind {
                EventKind::ToolFinished { name, .. } => Some(name),
                _ => None,
            })
            .collect();
        assert_eq!(ended, ["last", "first"]);
    }
}

#[tokio::test]
async fn what_goes_wrong_with_a_call_is_for_the_model_to_read() {
    let expected = expect![[r#"
        user: go
        calls read_file {"path": "a.txt"
        calls read_file [1]
        calls readfile {"path":"a.txt"}
        calls read_file {"file":"a.txt"}
        calls read_file {"path":"../outside"}
        calls read_file {"path":"missing.txt"}
        calls panics {}
        calls read_file {"path":"a.txt"}
        fails read_file: the arguments of this call are not valid JSON, so it was not run: they end in the middle, cut off perhaps at the output limit, so write less at once (EOF while parsing an object at line 1 column 16); send the call again with one JSON object
        fails read_file: the arguments of this call are not valid JSON, so it was not run: they are not an object; send the call again with one JSON object
        fails readfile: no tool named `readfile`; did you mean `read_file`?
        fails read_file: bad arguments for `read_file`: unknown field `file`; did you mean `files`?
        fails read_file: refused: `../outside` is outside the workspace `<workspace>`; use a path inside it
        fails read_file: there is no `missing.txt`
        fails panics: the tool crashed: oh no; this is a fault of VT Code
        gives read_file: 1	alpha
        assistant: I see.
    "#]];
    let panics = || Probe::new("panics", |_| async { panic!("oh no") });
    let mut transcripts = Vec::new();
    // Gemini's arguments are no text, so they are never half an object.
    for wire in ALL.into_iter().filter(|wire| *wire != Wire::Gemini) {
        for limits in [full(), plain()] {
            let replies = vec![
                raw_call("read_file", "{\"path\": \"a.txt\"")
                    .and(raw_call("read_file", "[1]"))
                    .and(call("readfile", json!({"path": "a.txt"})))
                    .and(call("read_file", json!({"file": "a.txt"})))
                    .and(read("../outside"))
                    .and(read("missing.txt"))
                    .and(call("panics", json!({})))
                    .and(read("a.txt")),
                say("I see."),
            ];
            let session = Session::new(wire, limits, replies).await.tool(panics());
            let outcome = session.run(&["go"]).await;
            assert_eq!(outcome.end, done("I see."));
            transcripts.push(session.transcript());
        }
    }
    expected.assert_eq(&transcripts[0]);
    assert!(transcripts.iter().all(|other| *other == transcripts[0]), "{transcripts:?}");
}

#[tokio::test]
async fn a_stream_cut_after_a_call_goes_on_and_the_call_ran_once() {
    // Where the call is complete, by events of each wire: enough words follow it to be cut.
    let words = "And then some words that need a few events to arrive, so that they can be cut.";
    for wire in ALL {
        for limits in [full(), plain()] {
            let reply = run("echo x >> log").and(say(words)).and(read("a.txt"));
            let whole = Session::new(wire, limits.clone(), vec![reply.clone(), say("Done.")]).await;
            whole.run(&["go"]).await;

            let mut cuts_after_the_call = 0;
            for events in 2..40 {
                let cut = reply.clone().fault(Fault::CutAfterEvents(events));
                // Asked again or gone on with: either way these follow.
                let replies = vec![cut, reply.clone(), say("Done.")];
                let session = Session::new(wire, limits.clone(), replies).await;
                let outcome = session.run(&["go"]).await;
                assert!(matches!(outcome.end, Some(End::Done(_))), "{events}: {outcome:?}");
                let answers = session.model.requests().len();
                let ran = session.workspace.read("log").lines().count();
                let warned = session.count(|kind| matches!(kind, EventKind::Warning { .. }));
                let started = session.count(
                    |kind| matches!(kind, EventKind::ToolStarted { name, .. } if name == "run_command"),
                );
                assert_eq!(ran, started, "{wire} {events}");
                if retries(&session) == 0 && warned == 1 {
                    // The call was complete: it is not asked for again, the second reply is new.
                    cuts_after_the_call += 1;
                    assert_eq!((ran, answers), (2, 3), "{wire} {events}");
                } else if retries(&session) == 1 {
                    assert_eq!((ran, warned, answers), (1, 0, 3), "{wire} {events}");
                    assert_eq!(
                        session.transcript(),
                        whole.transcript().replace("call_0", "call_1")
                    );
                } else {
                    // The cut lay behind the end of the answer.
                    assert_eq!((retries(&session), warned), (0, 0), "{wire} {events}");
                    break;
                }
            }
            assert!(cuts_after_the_call > 2, "{wire}");
        }
    }
}

#[tokio::test]
async fn an_answer_cut_before_its_first_call_is_asked_for_again() {
    for wire in ALL {
        for fault in [
            Fault::CutAfterEvents(0),
            Fault::CutAfterEvents(1),
            Fault::CutAfterEvents(4),
            Fault::CutAfterBytes(700),
            Fault::MissingTerminal,
            Fault::ErrorAfterEvents(4),
            Fault::Reset,
            Fault::CloseBeforeResponse,
        ] {
            let words = "Some words, so many that they need several events to arrive in whole.";
            let replies = vec![say(words).fault(fault.clone()), say("Whole.")];
            let session = Session::new(wire, full(), replies).await;
            let outcome = session.run(&["go"]).await;
            assert_eq!(outcome.end, done("Whole."), "{wire} {fault:?}");
            assert_eq!(retries(&session), 1, "{wire} {fault:?}");
            assert_eq!(session.transcript(), "user: go\nassistant: Whole.\n");
            let bodies = session.bodies();
            assert_eq!(bodies[0], bodies[1]);
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_again_and_again_fails_and_can_be_gone_on_from() {
    for (wire, events) in ALL.into_iter().zip([4, 6, 4, 4]) {
        let cut = || say("Many words. ".repeat(20)).fault(Fault::CutAfterEvents(events));
        let replies = vec![cut(), cut(), cut(), say("Here.")];
        let session = Session::new(wire, full(), replies).await;
        let outcome = session.run(&["go", "are you there?"]).await;
        assert_eq!(outcome.end, done("Here."), "the next prompt is worked on");
        assert_eq!(retries(&session), 2);
        assert_eq!(session.count(|kind| matches!(kind, EventKind::PromptFailed { .. })), 1);
        assert_eq!(session.transcript(), "user: go\nuser: are you there?\nassistant: Here.\n");
    }
}

#[tokio::test]
async fn what_was_said_whole_before_the_last_break_is_kept_by_engine_and_journal() {
    // Thinking behind words says that the words are whole; then the stream is cut.
    for (wire, events) in ALL.into_iter().zip([4, 15, 8, 4]) {
        let cut = || {
            let thoughts = think("Where could it be? There are many places to look. ".repeat(5));
            say("I look.").and(thoughts).fault(Fault::CutAfterEvents(events))
        };
        let replies = || vec![cut(), cut(), cut(), say("Here.")];
        let session = Session::new(wire, full(), replies()).await;
        assert_eq!(session.run(&["go", "and?"]).await.end, done("Here."));
        let transcript = session.transcript();
        let split = Session::new(wire, full(), replies()).await;
        split.run(&["go"]).await;
        assert_eq!(split.run(&["and?"]).await.end, done("Here."));
        assert_eq!(split.transcript(), transcript);
        assert_eq!(split.bodies(), session.bodies());
        assert!(transcript.contains("assistant: I look.\nuser: and?"), "{wire}: {transcript}");
    }
}

#[tokio::test]
async fn an_empty_answer_is_asked_for_again_once() {
    for wire in ALL {
        let replies = vec![fail(Fault::Empty), say("Now."), fail(Fault::Empty), fail(Fault::Empty)];
        let session = Session::new(wire, full(), replies).await;
        assert_eq!(session.run(&["go"]).await.end, done("Now."));
        assert_eq!(retries(&session), 1);
        let outcome = session.run(&["again"]).await;
        assert_eq!(failure(&outcome).kind, FailureKind::Model);
        assert_eq!(session.transcript(), "user: go\nassistant: Now.\nuser: again\n");
    }
}

#[tokio::test]
async fn a_refused_key_ends_the_prompt_without_another_try() {
    for wire in ALL {
        let session = Session::new(wire, full(), vec![fail(Fault::status(401))]).await;
        let outcome = session.run(&["go"]).await;
        assert_eq!(failure(&outcome).kind, FailureKind::Provider);
        assert_eq!((session.model.requests().len(), retries(&session)), (1, 0));
        assert_eq!(outcome.turns, 1);
    }
}

#[tokio::test]
async fn a_server_in_trouble_is_tried_as_often_as_the_client_may_and_no_more() {
    for fault in [Fault::status(503), Fault::CloseBeforeResponse, Fault::CutAfterEvents(0)] {
        let mut limits = full();
        limits.client.attempts = 3;
        let replies = vec![fail(fault.clone()); 9];
        let session = Session::new(Wire::OpenAiChat, limits, replies).await;
        let outcome = session.run(&["go"]).await;
        assert_eq!(failure(&outcome).kind, FailureKind::Unavailable, "{fault:?}");
        assert_eq!(session.model.requests().len(), 3, "{fault:?}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_model_fails() {
    for wire in ALL {
        let session =
            Session::new(wire, full(), vec![say("I can't.").finish("content_filter")]).await;
        let outcome = session.run(&["go"]).await;
        assert_eq!(failure(&outcome).kind, FailureKind::Model);
        assert!(failure(&outcome).message.contains("I can't."));
    }
}

#[tokio::test]
async fn an_interruption_ends_a_stream_at_once_and_keeps_its_words() {
    for (wire, events) in ALL.into_iter().zip([4, 5, 4, 1]) {
        let hours = Duration::from_secs(10_000);
        let replies = vec![say("The first words of many that never come.").pace(hours)];
        // Chunks hours apart: only what comes before the first pause is seen.
        let slow = Session::new(wire, full(), replies).await;
        let slow = slow.cancel_when(|kind| matches!(kind, EventKind::FirstByte));
        assert_eq!(slow.run(&["go"]).await.end, Some(End::Interrupted));
        within(slow.model.wait_until(|requests| requests[0].client_left)).await;

        let words = "The first words of many that never come.";
        let replies = vec![say(words).fault(Fault::StallAfterEvents(events)), say("Again.")];
        let session = Session::new(wire, full(), replies).await;
        let session = session.cancel_when(|kind| matches!(kind, EventKind::TextDelta { .. }));
        assert_eq!(session.run(&["go"]).await.end, Some(End::Interrupted));
        let transcript = session.transcript();
        assert!(transcript.starts_with("user: go\nassistant: The first"), "{transcript}");
        assert!(!transcript.contains("never come"), "{transcript}");
    }
}

fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    // A zombie that its parent has not asked for yet runs no more.
    stat.map_or(true, |stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

#[tokio::test]
async fn an_interruption_ends_a_command_and_all_its_children() {
    for limits in [full(), plain()] {
        let command = "echo $$ > shell; sleep 1000 & echo $! > child; echo ready; sleep 1000";
        let replies = vec![say("I wait.").and(run(command)).and(write("late.txt", "x"))];
        let session = Session::new(Wire::OpenAiChat, limits, replies).await;
        let session = session.cancel_when(
            |kind| matches!(kind, EventKind::ToolProgress { text, .. } if text.contains("ready")),
        );
        let began = Instant::now();
        let outcome = session.run(&["go"]).await;
        assert_eq!(outcome.end, Some(End::Interrupted));
        assert!(began.elapsed() < Duration::from_secs(30));
        assert!(is_gone(&session.workspace.read("shell")));
        assert!(is_gone(&session.workspace.read("child")));
        assert!(!session.workspace.path().join("late.txt").exists(), "it waited for the command");
        assert_eq!(session.model.requests().len(), 1);
        let results = session.transcript();
        assert!(results.contains("fails write_file: "), "{results}");
    }
}

#[tokio::test]
async fn a_run_that_is_dropped_leaves_no_process() {
    let command = "echo $$ > shell; echo ready; sleep 1000";
    let (ready, is_ready) = oneshot::channel();
    let ready = std::sync::Mutex::new(Some(ready));
    let session =
        Session::new(Wire::OpenAiChat, full(), vec![run(command)]).await.on_event(move |event| {
            if matches!(event.kind, EventKind::ToolProgress { .. }) {
                ready.lock().unwrap().take().map(|ready| ready.send(()));
            }
        });
    let (journal, messages) = session.open();
    let (engine, pipeline) = session.engine(journal, messages);
    engine.submit("go").await.unwrap();
    tokio::select! {
        outcome = engine.start() => panic!("{outcome:?}"),
        ready = within(is_ready) => ready.unwrap(),
    }
    // The future of `start` is gone, the engine and the pipeline are not.
    let shell = session.workspace.read("shell");
    let ended = async {
        while !is_gone(&shell) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(ended).await;
    within(pipeline.shutdown()).await;
    let replay = session.replay();
    assert_eq!(replay.interrupted.len(), 1);
}

#[tokio::test]
async fn an_interruption_before_the_start_asks_nothing() {
    let session = Session::new(Wire::OpenAiChat, full(), vec![]).await;
    let (journal, messages) = session.open();
    let (engine, _) = session.engine(journal, messages);
    engine.submit("go").await.unwrap();
    engine.cancel_token().cancel();
    let outcome = within(engine.start()).await.unwrap();
    assert_eq!(outcome.end, Some(End::Interrupted));
    assert_eq!(session.model.requests().len(), 0);
}

#[tokio::test]
async fn a_prompt_ends_at_its_limits() {
    for wire in ALL {
        let mut limits = full();
        limits.agent.max_turns = 2;
        let session = Session::new(wire, limits, vec![read("a.txt"), read("b.txt")]).await;
        let outcome = session.run(&["go"]).await;
        assert_eq!(outcome.end, Some(End::Limit(Limit::Turns(2))));
        assert_eq!(session.model.requests().len(), 2);
        assert!(session.transcript().ends_with("beta\n"), "{}", session.transcript());

        let mut limits = full();
        limits.agent.max_tokens = Some(25_000);
        let replies = vec![read("a.txt").usage(9000, 50, 10), read("b.txt").usage(9000, 50, 10)];
        let session = Session::new(wire, limits, replies).await;
        let outcome = session.run(&["go"]).await;
        // The third request would take 9,000 more.
        assert_eq!(outcome.end, Some(End::Limit(Limit::Tokens(25_000))));
        assert_eq!(outcome.usage.input_tokens + outcome.usage.output_tokens, 18_020);
        assert_eq!(outcome.usage.cached_input_tokens, 100);
        assert!(session.transcript().ends_with("beta\n"), "{}", session.transcript());

        let mut limits = full();
        let wall = Duration::from_millis(50);
        limits.agent.max_wall = Some(wall);
        let session = Session::new(wire, limits, vec![fail(Fault::StallAfterEvents(1))]).await;
        let outcome = session.run(&["go"]).await;
        assert_eq!(outcome.end, Some(End::Limit(Limit::Wall(wall))));
    }
}

#[tokio::test]
async fn a_wall_of_forever_is_none() {
    let mut limits = full();
    limits.agent.max_wall = Some(Duration::MAX);
    let session = Session::new(Wire::OpenAiChat, limits, vec![say("Done.")]).await;
    assert_eq!(session.run(&["go"]).await.end, done("Done."));
}

#[tokio::test]
async fn a_wall_ends_a_running_command() {
    let mut limits = full();
    limits.agent.max_wall = Some(Duration::from_millis(300));
    let replies = vec![run("echo $$ > shell; sleep 1000")];
    let session = Session::new(Wire::OpenAiChat, limits, replies).await;
    let outcome = session.run(&["go"]).await;
    assert!(matches!(outcome.end, Some(End::Limit(Limit::Wall(_)))), "{outcome:?}");
    if session.workspace.path().join("shell").exists() {
        assert!(is_gone(&session.workspace.read("shell")));
    }
}

#[tokio::test]
async fn prompts_of_one_run_share_a_conversation_and_a_connection() {
    for wire in ALL {
        let replies = vec![read("a.txt"), say("Alpha."), run("true"), say("Fine.")];
        let session = Session::new(wire, full(), replies).await;
        let outcome = session.run(&["read a", "run true"]).await;
        assert_eq!((outcome.end, outcome.turns), (done("Fine."), 4));
        assert_eq!(session.model.connections(), 1);
        assert_eq!(session.bodies().len(), 4);
    }
}

#[tokio::test]
async fn an_engine_starts_once_and_takes_no_prompt_after_its_input_is_closed() {
    let session = Session::new(Wire::OpenAiChat, full(), vec![]).await;
    let (journal, messages) = session.open();
    let (engine, _) = session.engine(journal, messages);
    engine.close_input();
    engine.close_input();
    assert!(matches!(engine.submit("late").await, Err(EngineError::InputClosed)));
    let outcome = within(engine.start()).await.unwrap();
    assert_eq!((outcome.end, outcome.turns), (None, 0));
    assert!(matches!(within(engine.start()).await, Err(EngineError::StartedTwice)));
}

#[tokio::test]
async fn a_prompt_may_come_while_another_is_worked_on() {
    let replies = vec![run("true"), say("One."), say("Two.")];
    let session = Session::new(Wire::OpenAiChat, full(), replies).await;
    let (journal, messages) = session.open();
    let (engine, _) = session.engine(journal, messages);
    let user = Arc::clone(&engine);
    let running = tokio::spawn(async move { engine.start().await });
    user.submit("first").await.unwrap();
    within(session.model.wait_for_requests(1)).await;
    user.submit("second").await.unwrap();
    user.close_input();
    let outcome = within(running).await.unwrap().unwrap();
    assert_eq!(outcome.end, done("Two."));
    assert!(matches!(user.submit("third").await, Err(EngineError::InputClosed)));
    assert_eq!(session.count(|kind| matches!(kind, EventKind::PromptFinished { .. })), 2);
}

#[tokio::test]
async fn calls_start_while_the_answer_streams_or_after_it() {
    for (mid_stream, expected) in [(usize::MAX, true), (0, false)] {
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let counts = Probe::new("counts", move |_| {
            let count = Arc::clone(&count);
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                Ok(ToolOutput::text("counted"))
            }
        });
        let mut limits = full();
        limits.agent.calls_started_mid_stream = mid_stream;
        // The answer stalls behind its call; only a call that starts at once can end.
        let words = "Words behind the call, enough for several events.";
        let reply = call("counts", json!({})).and(say(words)).fault(Fault::StallAfterEvents(7));
        let session = Session::new(Wire::OpenAiChat, limits, vec![reply]).await.tool(counts);
        let session = session.cancel_when(move |kind| match kind {
            EventKind::ToolFinished { .. } => expected,
            EventKind::TextDelta { .. } => !expected,
            _ => false,
        });
        assert_eq!(session.run(&["go"]).await.end, Some(End::Interrupted));
        assert_eq!(ran.load(Ordering::SeqCst), usize::from(expected));
        let never = "fails counts: interrupted: this call never started";
        let result = if expected { "gives counts: counted" } else { never };
        assert!(session.transcript().contains(result), "{}", session.transcript());
    }
}

#[tokio::test]
async fn a_tool_that_ends_badly_ends_nothing_else() {
    let refuses = Probe::new("refuses", |_| async {
        Err(ToolError::Refused { reason: "not here".to_owned() })
    });
    let replies = vec![call("refuses", json!({})).and(read("a.txt")), say("Fine.")];
    let session = Session::new(Wire::OpenAiChat, full(), replies).await.tool(refuses);
    assert_eq!(session.run(&["go"]).await.end, done("Fine."));
    assert!(session.transcript().contains("fails refuses: refused: not here"));
}
