//! Many sessions at once, for many turns.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use vtcode_core::config::endpoint::Wire;
use vtcode_core::core::event::EventKind;
use vtcode_core::core::optimized_agent::End;
use vtcode_core::core::performance_profiler::turns::Waited;
use vtcode_core::core::performance_profiler::{Histogram, Profile};
use vtcode_testkit::{Reply, call, say};

use crate::session::{Session, full};

const SESSIONS: usize = 8;

/// Turns of each session; `VTCODE_LOAD_TURNS` sets another number.
fn turns() -> usize {
    let chosen = std::env::var("VTCODE_LOAD_TURNS").ok().and_then(|text| text.parse().ok());
    // Unoptimized, the same would take a minute and show nothing more.
    chosen.unwrap_or(if cfg!(debug_assertions) { 16 } else { 200 })
}

/// What the model asks for in one turn. No two are the same, so none repeats another.
fn turn(n: usize) -> Reply {
    match n % 4 {
        0 => call(
            "write_file",
            json!({"path": format!("t{n}.txt"), "content": format!("turn {n}\n")}),
        ),
        1 => call("read_file", json!({"path": format!("t{}.txt", n - 1)})),
        2 => call("grep_file", json!({"pattern": format!("turn {}$", n - 2)})),
        _ => call("run_command", json!({"command": format!("cat t{}.txt", n - 3)})),
    }
}

async fn work(turns: usize) -> Profile {
    let mut limits = full();
    limits.agent.max_turns = u32::try_from(turns).unwrap() + 1;
    let profile = Arc::new(Mutex::new(Profile::default()));
    let taken = Arc::clone(&profile);
    let replies = (0..turns).map(turn).chain([say("Done.")]).collect();
    let session = Session::new(Wire::OpenAiChat, limits, replies)
        .await
        .on_event(move |event| taken.lock().unwrap().take(event));
    let outcome = session.run(&["go"]).await;

    assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())));
    assert_eq!(session.model.requests().len(), turns + 1, "a request was lost or sent twice");
    let ended = |kind: &EventKind| matches!(kind, EventKind::ToolFinished { is_error: false, .. });
    assert_eq!(session.count(ended), turns, "{}", session.transcript());
    assert_eq!(session.count(|kind| matches!(kind, EventKind::Retry { .. })), 0);
    for n in (0..turns).step_by(4) {
        assert_eq!(session.workspace.read(format!("t{n}.txt")), format!("turn {n}\n"));
    }
    // What was found is what was written, turn by turn.
    let transcript = session.transcript();
    for n in (0..turns).filter(|n| n % 4 != 0) {
        assert!(transcript.contains(&format!("turn {}", n - n % 4)), "{transcript}");
    }
    let profile = profile.lock().unwrap().clone();
    assert_eq!(profile.turns.count(), turns as u64 + 1);
    profile
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_performance_under_load() {
    let (turns, began) = (turns(), Instant::now());
    let profiles = join_all((0..SESSIONS).map(|_| tokio::spawn(work(turns)))).await;
    let took = began.elapsed();
    let (own, whole) = (Histogram::default(), Histogram::default());
    for profile in profiles {
        for turn in profile.unwrap().turns.iter() {
            own.record(turn.critical_path().waited(|on| *on == Waited::Us));
            whole.record(turn.total());
        }
    }
    let all = SESSIONS * (turns + 1);
    assert_eq!(whole.percentiles().count, all as u64, "a turn was lost");
    let mut shown = format!(
        "{SESSIONS} sessions of {turns} turns in {took:.1?}, {:.0} turns a second; nothing lost\n",
        all as f64 / took.as_secs_f64()
    );
    for (name, histogram) in [("a whole turn", whole), ("our own part", own)] {
        let found = histogram.percentiles();
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let _ = writeln!(
            shown,
            "  {name}: p50 {:.2} ms, p90 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            ms(found.p50),
            ms(found.p90),
            ms(found.p95),
            ms(found.p99),
            ms(found.max)
        );
    }
    // Past the capture of the tests: who runs this wants to see it.
    let _ = std::io::stderr().write_all(shown.as_bytes());
}
