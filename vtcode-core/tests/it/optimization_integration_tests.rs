//! Each optimization in a real session: its counter moves where it is on and stands where it is
//! off, and what the model reads is the same either way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::sync::Notify;
use vtcode_core::config::endpoint::Wire;
use vtcode_core::config::limits::Limits;
use vtcode_core::core::event::EventKind;
use vtcode_core::tools::async_pipeline::PipelineMetrics;
use vtcode_core::tools::tool::ToolOutput;
use vtcode_testkit::{Reply, call, say};

use crate::session::{Probe, Session, full, plain};

/// Waits until files that were just made can be told from a later state by their times.
async fn settle(session: &Session) {
    let made = std::fs::metadata(session.workspace.path().join("b.txt")).unwrap();
    let settled = made.modified().unwrap() + Duration::from_millis(50);
    while let Ok(left) = settled.duration_since(SystemTime::now()) {
        tokio::time::sleep(left).await;
    }
}

pub(crate) async fn run(limits: Limits, replies: Vec<Reply>) -> (String, PipelineMetrics) {
    let session = Session::new(Wire::OpenAiChat, limits, replies).await;
    settle(&session).await;
    session.run(&["go"]).await;
    (session.transcript(), session.metrics())
}

#[tokio::test]
async fn a_repeated_read_is_kept_and_the_model_is_told() {
    let read = || call("read_file", json!({"path": "a.txt"}));
    let list = || call("list_files", json!({}));
    let replies = vec![read(), list(), read().and(list()), say("Done.")];
    let (text, metrics) = run(full(), replies.clone()).await;
    assert_eq!(metrics.cache_hits, 2);
    assert_eq!((metrics.completed, metrics.waiting, metrics.running), (4, 0, 0));
    let read_once = metrics.tools.iter().find(|tool| tool.name == "read_file").unwrap();
    assert_eq!(read_once.ran.count, 1, "the second one did not run");
    assert!(text.contains("gives read_file: [unchanged since step 1]\n    1\talpha"), "{text}");
    assert!(text.contains("gives list_files: [unchanged since step 2]\n"), "{text}");

    let (without, metrics) = run(plain(), replies).await;
    assert_eq!(metrics.cache_hits, 0);
    assert_eq!(without, text);
}

#[tokio::test]
async fn a_read_after_a_change_is_new() {
    let read = || call("read_file", json!({"path": "a.txt"}));
    let replies = vec![
        read(),
        call("run_command", json!({"command": "echo gamma >> a.txt"})),
        read(),
        say("Done."),
    ];
    let (text, metrics) = run(full(), replies.clone()).await;
    assert_eq!((metrics.cache_hits, metrics.stale_rejected), (0, 1));
    assert!(text.contains("1\talpha\n    2\tgamma"), "{text}");
    assert!(!text.contains("unchanged"), "{text}");
    assert_eq!(run(plain(), replies).await.0, text);
}

/// Runs one message whose first call holds the only slot until all others wait behind it.
pub(crate) async fn behind_one_slot(
    mut limits: Limits,
    calls: Vec<Reply>,
) -> (String, PipelineMetrics) {
    limits.tools.max_concurrent = 1;
    let waiting = calls.len();
    let message = calls.into_iter().fold(call("hold", json!({})), Reply::and);
    let (all_wait, started) = (Arc::new(Notify::new()), AtomicUsize::new(0));
    let released = Arc::clone(&all_wait);
    let hold = Probe::new("hold", move |_| {
        let all_wait = Arc::clone(&all_wait);
        async move {
            all_wait.notified().await;
            Ok(ToolOutput::text("held"))
        }
    });
    let session =
        Session::new(Wire::Anthropic, limits, vec![message, say("Done.")]).await.tool(hold);
    let session = session.on_event(move |event| {
        if matches!(event.kind, EventKind::ResponseEnded { .. })
            || matches!(event.kind, EventKind::ToolStarted { .. })
                && started.fetch_add(1, Ordering::Relaxed) == waiting
        {
            released.notify_one();
        }
    });
    settle(&session).await;
    session.run(&["go"]).await;
    (session.transcript(), session.metrics())
}

#[tokio::test]
async fn similar_calls_that_wait_together_run_as_one() {
    let grep = |pattern: &str| call("grep_file", json!({"pattern": pattern}));
    let calls = || ["alpha", "beta", "a", "nothing", "("].map(grep).to_vec();
    let (text, metrics) = behind_one_slot(full(), calls()).await;
    assert_eq!(metrics.batch_sizes[4], 1, "{metrics:?}");
    assert!(text.contains("a.txt"), "{text}");

    let (without, metrics) = behind_one_slot(plain(), calls()).await;
    assert_eq!(metrics.batch_sizes.iter().sum::<u64>(), 0, "{metrics:?}");
    assert_eq!(without, text);
}

#[tokio::test]
async fn identical_reads_in_flight_run_once() {
    let read = || call("read_file", json!({"path": "a.txt"}));
    let (text, metrics) = behind_one_slot(full(), vec![read(), read(), read()]).await;
    let read_once = metrics.tools.iter().find(|tool| tool.name == "read_file").unwrap();
    assert_eq!(read_once.ran.count, 1, "{metrics:?}");
    assert_eq!(metrics.shared + metrics.cache_hits, 2, "{metrics:?}");

    let (without, metrics) = behind_one_slot(plain(), vec![read(), read(), read()]).await;
    assert_eq!(metrics.shared + metrics.cache_hits, 0, "{metrics:?}");
    assert_eq!(without, text);
}

#[tokio::test]
async fn a_call_that_does_not_fit_its_schema_is_answered_before_it_runs() {
    let replies = vec![
        call("read_file", json!({"file_path": "a.txt"}))
            .and(call("grep_file", json!({"pattern": 7, "context": "2"}))),
        say("Done."),
    ];
    let (text, metrics) = run(full(), replies.clone()).await;
    assert!(text.contains("unknown field `file_path`; did you mean `path`?"), "{text}");
    assert!(text.contains("`context` must be an integer from 0, not the string \"2\""), "{text}");
    let refused: u64 = metrics.tools.iter().map(|tool| tool.refused).sum();
    assert_eq!(refused, 2);
    assert_eq!(run(plain(), replies).await.0, text);
}
