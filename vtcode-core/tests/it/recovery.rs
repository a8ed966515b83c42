//! What goes wrong, and what follows from it: each class of error has a bounded, visible reaction.
//! The table stands in docs/recovery.md.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use vtcode_core::config::endpoint::Wire;
use vtcode_core::config::limits::Limits;
use vtcode_core::core::event::{ErrorClass, EventKind};
use vtcode_core::core::optimized_agent::{AgentOutcome, End, FailureKind};
use vtcode_core::tools::tool::{ToolError, ToolOutput};
use vtcode_testkit::{Fault, Reply, call, fail, raw_call, say};

use crate::session::{Probe, Session, full, plain, within};

fn run(command: &str) -> Reply {
    call("run_command", json!({"command": command}))
}

fn read(path: &str) -> Reply {
    call("read_file", json!({"path": path}))
}

fn in_circles(outcome: &AgentOutcome) -> bool {
    matches!(&outcome.end, Some(End::Failed(failure))
        if failure.kind == FailureKind::Model && failure.message.contains("goes in circles"))
}

fn warnings(session: &Session) -> Vec<String> {
    let message = |kind| match kind {
        EventKind::Warning { message } => Some(message),
        _ => None,
    };
    session.kinds().into_iter().filter_map(message).collect()
}

/// Returns the class of each call's failure, in the order in which they ended.
fn classes(session: &Session) -> Vec<(String, Option<ErrorClass>)> {
    let class = |kind| match kind {
        EventKind::ToolFinished { name, class, .. } => Some((name, class)),
        _ => None,
    };
    session.kinds().into_iter().filter_map(class).collect()
}

#[tokio::test]
async fn a_model_in_a_circle_reads_every_result_is_told_and_ends() {
    let mut transcripts = Vec::new();
    for base in [full(), plain()] {
        let mut limits = base;
        limits.agent.max_repeats = 4;
        let session = Session::new(Wire::OpenAiChat, limits, vec![read("none"); 20]).await;
        let outcome = session.run(&["go"]).await;
        assert!(in_circles(&outcome), "{outcome:?}");
        // One that is new and four that are not.
        assert_eq!((outcome.turns, session.model.requests().len()), (5, 5));
        let transcript = session.transcript();
        assert_eq!(transcript.matches("there is no `none`").count(), 5, "{transcript}");
        assert_eq!(transcript.matches("nothing new has come for").count(), 2, "{transcript}");
        transcripts.push(transcript);
        // Its next prompt is worked on, and the count begins anew.
        assert!(in_circles(&session.run(&["again"]).await));
        assert_eq!(session.model.requests().len(), 9, "four that were known before");
    }
    assert_eq!(transcripts[0], transcripts[1]);
}

#[tokio::test]
async fn a_prompt_that_ends_in_a_circle_leaves_the_next_one_to_be_worked_on() {
    let mut limits = full();
    limits.agent.max_repeats = 2;
    let mut replies = vec![read("a.txt"); 3];
    replies.push(say("Done."));
    let session = Session::new(Wire::Anthropic, limits, replies).await;
    let outcome = session.run(&["go", "say something else"]).await;
    assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())));
    let failed = session.kinds().into_iter().find_map(|kind| match kind {
        EventKind::PromptFailed { class, .. } => Some(class),
        _ => None,
    });
    assert_eq!(failed, Some(Some(ErrorClass::Model)));
}

#[tokio::test]
async fn what_only_looks_like_a_circle_goes_on() {
    let patient = |command: &str, times| {
        let mut replies = vec![run(command); times];
        replies.push(say("Done."));
        replies
    };
    let mut limits = full();
    limits.agent.max_repeats = 3;
    let edit = |from: &str, to: &str| {
        call("edit_file", json!({"path": "a.txt", "old_text": from, "new_text": to}))
    };
    let back_and_forth = [edit("alpha", "beta"), run("cat b.txt"), edit("beta", "alpha")];
    let mut edits: Vec<_> = back_and_forth.into_iter().cycle().take(15).collect();
    edits.push(say("Done."));
    let polls = "echo x >> log; wc -l < log";
    for (what, replies) in [
        ("a poll whose output changes", patient(polls, 9)),
        ("a poll that waits", patient("sleep 1", 5)),
        ("edits back and forth", edits),
    ] {
        let session = Session::new(Wire::OpenAiChat, limits.clone(), replies).await;
        let outcome = session.run(&["go"]).await;
        assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())), "{what}");
    }
}

#[tokio::test]
async fn whoever_is_there_decides_whether_a_circle_goes_on() {
    for (yes, asked, requests) in [(2, 3, 7), (0, 1, 3)] {
        let mut limits = full();
        limits.agent.max_repeats = 2;
        let session = Session::new(Wire::OpenAiChat, limits, vec![read("a.txt"); 20]).await;
        let questions = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&questions);
        let session = session.confirm(Arc::new(move |why| {
            assert!(why.contains("only repeated calls"), "{why}");
            let nth = counted.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move { nth < yes })
        }));
        assert!(in_circles(&session.run(&["go"]).await));
        assert_eq!(questions.load(Ordering::SeqCst), asked);
        assert_eq!(session.model.requests().len(), requests);
    }
}

#[tokio::test]
async fn a_question_that_nobody_answers_ends_with_the_session() {
    let mut limits = full();
    limits.agent.max_repeats = 1;
    limits.agent.max_wall = None;
    let session = Session::new(Wire::OpenAiChat, limits, vec![read("a.txt"); 3]).await;
    let session = session.confirm(Arc::new(|_| Box::pin(std::future::pending())));
    let (journal, messages) = session.open();
    let (engine, pipeline) = session.engine(journal, messages);
    engine.submit("go").await.unwrap();
    let cancel = engine.cancel_token();
    let (outcome, ()) = tokio::join!(within(engine.start()), async {
        within(session.model.wait_until(|r| r.len() == 2 && r[1].ended_at.is_some())).await;
        cancel.cancel();
    });
    assert_eq!(outcome.unwrap().end, Some(End::Interrupted));
    within(pipeline.shutdown()).await;
}

#[tokio::test]
async fn each_failure_of_a_call_has_a_class() {
    let mut limits = full();
    limits.tools.max_concurrent = 1;
    let panics = Probe::new("panics", |_| async { panic!("oh no") });
    let fails = Probe::new("fails", |_| async { Err(ToolError::Failed("no".to_owned())) });
    let replies = vec![
        raw_call("read_file", "{")
            .and(call("read_fil", json!({})))
            .and(call("read_file", json!({"path": 7}))),
        read("../x").and(run("git push --force")),
        read("none").and(call("fails", json!({}))),
        call("panics", json!({})),
        read("a.txt"),
        say("Done."),
    ];
    let session = Session::new(Wire::OpenAiChat, limits, replies).await.tool(panics).tool(fails);
    assert!(matches!(session.run(&["go"]).await.end, Some(End::Done(_))));
    let mut classes: Vec<_> = classes(&session).into_iter().map(|(_, class)| class).collect();
    let expected = [
        &[Some(ErrorClass::Model); 3][..],
        &[Some(ErrorClass::Policy); 2],
        &[Some(ErrorClass::Tool); 2],
        &[Some(ErrorClass::Ours), None],
    ]
    .concat();
    assert_eq!(std::mem::take(&mut classes), expected);
}

#[tokio::test]
async fn each_end_of_a_prompt_has_a_class() {
    let ends: [(Vec<Reply>, Option<ErrorClass>); 4] = [
        (vec![fail(Fault::status(401))], Some(ErrorClass::Provider)),
        (vec![fail(Fault::NotSse)], Some(ErrorClass::Provider)),
        (vec![fail(Fault::Empty), fail(Fault::Empty)], Some(ErrorClass::Model)),
        (vec![read("a.txt"), read("b.txt")], None),
    ];
    for (replies, expected) in ends {
        let mut limits = full();
        limits.agent.max_turns = 2;
        let session = Session::new(Wire::OpenAiChat, limits, replies).await;
        session.run(&["go"]).await;
        let failed = session.kinds().into_iter().find_map(|kind| match kind {
            EventKind::PromptFailed { class, error, .. } => Some((class, error)),
            _ => None,
        });
        let (class, error) = failed.expect("it fails");
        assert_eq!(class, expected, "{error}");
    }
}

#[tokio::test]
async fn a_listener_that_panics_costs_nobody_else_anything() {
    for panics_at in ["prompt_started", "tool_progress", "tool_finished", "prompt_finished"] {
        let replies = vec![run("echo x >> log; echo y").and(read("a.txt")), say("Done.")];
        let heard = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&heard);
        let session = Session::new(Wire::OpenAiChat, full(), replies).await;
        let session = session.on_event(move |event| {
            count.fetch_add(1, Ordering::SeqCst);
            assert_ne!(serde_json::to_value(event).unwrap()["type"], panics_at, "on purpose");
        });
        let outcome = session.run(&["go"]).await;
        assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())), "{panics_at}");
        assert_eq!(session.workspace.read("log"), "x\n");
        let warnings = warnings(&session);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("listener") && warnings[0].contains("on purpose"));
        // It heard everything up to its own failure, the others everything.
        let all = session.kinds().len();
        let heard = heard.load(Ordering::SeqCst);
        assert!(heard < all, "{panics_at}: {heard} of {all}");
    }
}

#[tokio::test]
async fn two_hundred_calls_in_one_answer_each_have_one_result_in_their_order() {
    for (limits, wire) in [(full(), Wire::OpenAiChat), (plain(), Wire::Anthropic)] {
        let calls = (0..200).map(|n| match n % 4 {
            0 => read("a.txt"),
            1 => call("no_such_tool", json!({"n": n})),
            2 => raw_call("read_file", r#"{"path": 1}"#),
            _ => call("echoes", json!({})),
        });
        let many = calls.reduce(Reply::and).unwrap();
        let session = Session::new(wire, limits, vec![many, say("Done.")]).await;
        let session = session.tool(Probe::new("echoes", |context| async move {
            Ok(ToolOutput::text(&*context.call_id))
        }));
        let outcome = session.run(&["go"]).await;
        assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())));
        let started = session.count(|kind| matches!(kind, EventKind::ToolStarted { .. }));
        let ended = session.count(|kind| matches!(kind, EventKind::ToolFinished { .. }));
        assert_eq!((started, ended), (200, 200));
    }
}

#[tokio::test]
async fn calls_beyond_what_may_wait_are_told_so_and_the_rest_runs() {
    let mut limits: Limits = full();
    (limits.tools.max_concurrent, limits.tools.max_waiting) = (1, 10);
    let ran = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ran);
    let (go, may_go) = tokio::sync::watch::channel(false);
    let waits = Probe::new("waits", move |_| {
        let (count, mut may_go) = (Arc::clone(&count), may_go.clone());
        async move {
            within(may_go.wait_for(|go| *go)).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            Ok(ToolOutput::text("ran"))
        }
    });
    let many = (0..60).map(|_| call("waits", json!({}))).reduce(Reply::and).unwrap();
    let session = Session::new(Wire::OpenAiChat, limits, vec![many, say("Done.")]).await;
    let session = session.tool(waits).on_event(move |event| {
        if matches!(event.kind, EventKind::ResponseEnded { .. }) {
            go.send_replace(true);
        }
    });
    assert!(matches!(session.run(&["go"]).await.end, Some(End::Done(_))));
    let transcript = session.transcript();
    let (ran, refused) = (
        ran.load(Ordering::SeqCst),
        transcript.matches("fails waits: not run: 10 calls are waiting already").count(),
    );
    assert_eq!(ran + refused, 60, "{transcript}");
    assert_eq!(transcript.matches("gives waits: ran").count(), ran);
    assert!(refused >= 40, "{refused}");
    assert!(classes(&session).iter().any(|(_, class)| *class == Some(ErrorClass::Environment)));
}

#[tokio::test]
async fn a_server_that_keeps_the_stream_open_behind_the_end_holds_nothing_up() {
    // The model is done; only the body's own end does not come. Where that is, the test finds out.
    for stop_after in 1..30 {
        let replies = vec![
            say("One.").and(run("true")).fault(Fault::StallAfterEvents(stop_after)),
            say("Done."),
        ];
        let session = Session::new(Wire::OpenAiChat, full(), replies).await;
        let (journal, messages) = session.open();
        let (engine, pipeline) = session.engine(journal, messages);
        engine.submit("go").await.unwrap();
        engine.close_input();
        let mut work = std::pin::pin!(engine.start());
        let early = tokio::time::timeout(Duration::from_millis(300), &mut work).await;
        if session.count(|kind| matches!(kind, EventKind::ResponseEnded { .. })) > 0 {
            let outcome = match early {
                Ok(outcome) => outcome,
                Err(_) => tokio::time::timeout(Duration::from_secs(10), work).await.unwrap(),
            };
            assert!(matches!(outcome.unwrap().end, Some(End::Done(_))), "{stop_after}");
            return;
        }
        within(pipeline.shutdown()).await;
    }
    panic!("no event was the last one that says why the model stopped");
}
