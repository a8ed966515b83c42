//! What a session tells of its own work, and what a profile makes of it.

use std::time::Duration;

use serde_json::json;
use vtcode_core::config::endpoint::Wire;
use vtcode_core::config::limits::Limits;
use vtcode_core::core::event::EventKind;
use vtcode_core::core::performance_profiler::Profile;
use vtcode_core::core::performance_profiler::turns::Stage;
use vtcode_testkit::{call, say};

use crate::session::{Session, full};

async fn profiled(limits: Limits) -> (Session, Profile) {
    let profile = std::sync::Arc::new(std::sync::Mutex::new(Profile::default()));
    let taken = std::sync::Arc::clone(&profile);
    let replies = vec![
        call("read_file", json!({"path": "a.txt"})),
        call("list_files", json!({})),
        say("Done."),
    ];
    let session = Session::new(Wire::OpenAiChat, limits, replies)
        .await
        .on_event(move |event| taken.lock().unwrap().take(event));
    session.run(&["go"]).await;
    let profile = profile.lock().unwrap().clone();
    (session, profile)
}

#[tokio::test]
async fn a_measured_session_tells_what_each_turn_cost_us() {
    let mut limits = full();
    limits.agent.measured = true;
    let (session, profile) = profiled(limits).await;
    assert_eq!(session.count(|kind| matches!(kind, EventKind::OwnWork { .. })), 3);
    assert_eq!(profile.turns.iter().count(), 3);
    for turn in profile.turns.iter() {
        assert!(!turn.own.render.is_zero() && !turn.own.journal.is_zero(), "{:?}", turn.own);
        assert!(turn.own.render + turn.own.journal < turn.total(), "{turn:?}");
    }
    let counts = [Stage::ModelWait, Stage::FirstByte, Stage::ToolRun, Stage::Render]
        .map(|stage| profile.turns.stage(stage).count);
    assert_eq!(counts, [3, 3, 2, 3]);
    assert!(profile.table().contains("\nslowest of 3: turn "), "{}", profile.table());
}

#[tokio::test]
async fn making_a_result_part_of_the_request_is_in_the_account() {
    let mut limits = full();
    limits.agent.measured = true;
    let read = |n: usize| call("read_file", json!({"path": format!("{n}.txt")}));
    let replies = (0..8).map(read).chain([say("Done.")]).collect();
    let profile = std::sync::Arc::new(std::sync::Mutex::new(Profile::default()));
    let taken = std::sync::Arc::clone(&profile);
    let session = Session::new(Wire::OpenAiChat, limits, replies).await;
    // Four small files, then four of which each line has something to escape.
    for n in 0..8 {
        let text = if n < 4 { "a\n".to_owned() } else { "\t\"a\"\n".repeat(4000) };
        session.workspace.write(format!("{n}.txt"), &text);
    }
    let session = session.on_event(move |event| taken.lock().unwrap().take(event));
    session.run(&["go"]).await;
    let profile = profile.lock().unwrap().clone();
    let render: Vec<_> = profile.turns.iter().map(|turn| turn.own.render).collect();
    // The least of each: whoever took the processor meanwhile made the others longer.
    let (small, large) = (render[1..4].iter().min(), render[5..8].iter().min());
    assert!(large.unwrap() > &(*small.unwrap() * 2), "{render:?}");
}

#[tokio::test]
async fn a_session_that_is_not_measured_reads_no_clock_for_it() {
    let (session, profile) = profiled(full()).await;
    assert_eq!(session.count(|kind| matches!(kind, EventKind::OwnWork { .. })), 0);
    assert_eq!(profile.turns.stage(Stage::Render).count, 0);
    assert_eq!(profile.turns.stage(Stage::ModelWait).count, 3, "the events alone tell that");
}

#[tokio::test]
async fn every_stage_moves_in_a_real_session() {
    let mut limits = full();
    limits.agent.measured = true;
    limits.client.measured = true;
    limits.tools.measured = true;
    limits.tools.max_concurrent = 1;
    let read = |path: &str| call("read_file", json!({"path": path}));
    let words = "some words of a long answer, ".repeat(2000);
    let replies = vec![
        // What was written a moment ago is not kept: it may change within the clock's tick.
        say(&words).and(read("a.txt")).and(read("b.txt")).delay(Duration::from_millis(100)),
        say("Once more.").and(read("a.txt")),
        say(&words),
        say("Done."),
    ];
    let session = Session::new(Wire::OpenAiChat, limits, replies).await;
    let profile = std::sync::Arc::new(std::sync::Mutex::new(Profile::default()));
    let taken = std::sync::Arc::clone(&profile);
    let session = session.on_event(move |event| taken.lock().unwrap().take(event));
    session.run(&["go", "and on"]).await;
    let profile = profile.lock().unwrap().clone();
    for stage in Stage::ALL {
        let found = profile.turns.stage(stage);
        assert!(found.count > 0, "{stage:?} was never recorded: {}", session.transcript());
        // A call may find its slot free at once.
        let took = stage == Stage::QueueWait || !found.max.is_zero();
        assert!(took, "{stage:?} took no time: {found:?}");
    }
    let turns: Vec<_> = profile.turns.iter().collect();
    assert!(turns[0].own.parse > turns[1].own.parse, "each turn has what its own answer took");
    assert!(turns[0].own.cache_check.is_zero() && !turns[1].own.cache_check.is_zero());
}
