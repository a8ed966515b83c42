//! What a session tells of its own work, and what a profile makes of it.

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
async fn a_session_that_is_not_measured_reads_no_clock_for_it() {
    let (session, profile) = profiled(full()).await;
    assert_eq!(session.count(|kind| matches!(kind, EventKind::OwnWork { .. })), 0);
    assert_eq!(profile.turns.stage(Stage::Render).count, 0);
    assert_eq!(profile.turns.stage(Stage::ModelWait).count, 3, "the events alone tell that");
}
