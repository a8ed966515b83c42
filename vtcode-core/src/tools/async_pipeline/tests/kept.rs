//! Results that are served again: kept ones and shared ones.

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::tools::witness::{Evidence, Version};

/// A folder whose files changed long enough ago for evidence to tell.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
        settle(&self.path(name));
    }
}

/// Waits until the file's change lies so far back that the next one shows.
fn settle(path: &Path) {
    let told = || {
        let mut evidence = Evidence::begin();
        evidence.add(path, std::fs::metadata(path).ok().map(|stat| Version::of(&stat)));
        evidence.can_tell()
    };
    while !told() {
        std::thread::yield_now();
    }
}

/// Reads the file `path`, with evidence, and counts how often it ran.
fn reading(runs: &Arc<AtomicUsize>) -> Probe {
    let runs = Arc::clone(runs);
    probe("read", move |args, _| {
        runs.fetch_add(1, Ordering::SeqCst);
        async move { look(args["path"].as_str().unwrap()) }
    })
    .repeatable()
}

#[expect(clippy::unnecessary_wraps, reason = "it is what a call gives")]
pub(super) fn look(path: &str) -> Done {
    let evidence = seen(path);
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| e.kind().to_string());
    Ok(ToolOutput { evidence, ..ToolOutput::text(text) })
}

/// Takes evidence of one file or folder. What can neither be seen nor be said to be absent (a loop
/// of links, a file on the way) is no evidence: another such state gives another result.
pub(super) fn seen(path: &str) -> Option<Evidence> {
    let mut evidence = Evidence::begin();
    let version = match std::fs::metadata(path) {
        Ok(stat) => Some(Version::of(&stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => return None,
    };
    evidence.add(path, version);
    Some(evidence)
}

async fn ask(pipeline: &AsyncToolPipeline, tool: &str, args: Value) -> ToolResult {
    pipeline.submit_request(request("ask", tool, args)).await.unwrap();
    within(pipeline.wait_result("ask")).await
}

#[tokio::test]
async fn a_read_is_served_again_until_its_file_changes() {
    let (folder, runs) = (Folder::new(), Arc::default());
    let pipeline = pipeline([reading(&runs)]);
    let args = json!({"path": folder.path("a")});
    folder.put("a", "one");
    for hit in [false, true, true] {
        let result = ask(&pipeline, "read", args.clone()).await;
        assert_eq!(result.cache_hit, hit);
        assert_eq!(words(result), "one");
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);

    folder.put("a", "two");
    for hit in [false, true] {
        let result = ask(&pipeline, "read", args.clone()).await;
        assert_eq!((result.cache_hit, words(result)), (hit, "two".to_owned()));
    }
    std::fs::remove_file(folder.path("a")).unwrap();
    assert_eq!(words(ask(&pipeline, "read", args.clone()).await), "entity not found");
    folder.put("a", "back");
    assert_eq!(words(ask(&pipeline, "read", args).await), "back");
    let metrics = pipeline.get_metrics().await;
    assert_eq!((metrics.cache_hits, metrics.stale_rejected), (3, 3));
    assert_eq!((runs.load(Ordering::SeqCst), metrics.tools[0].ran.count), (4, 4));
}

#[tokio::test]
async fn a_direct_read_is_served_again_until_a_direct_write() {
    let (folder, runs) = (Folder::new(), Arc::default());
    let write = probe("write", |args, _| async move {
        std::fs::write(args["path"].as_str().unwrap(), "two").unwrap();
        said("done")
    });
    let pipeline = pipeline([reading(&runs), write.writes()]);
    let registry = pipeline.registry();
    folder.put("a", "one");
    let args = json!({"path": folder.path("a")});
    let read = async || registry.execute_tool_optimized("read", args.clone()).await.unwrap().text;
    assert_eq!((read().await, read().await), ("one".to_owned(), "one".to_owned()));
    assert_eq!(runs.load(Ordering::SeqCst), 1, "the second one did not run");
    // The agent's own calls and a program's share what is kept.
    assert!(ask(&pipeline, "read", args.clone()).await.cache_hit);

    registry.execute_tool_optimized("write", args.clone()).await.unwrap();
    assert_eq!(read().await, "two");
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    let metrics = pipeline.get_metrics().await;
    assert_eq!((metrics.cache_hits, metrics.stale_rejected, metrics.completed), (2, 1, 5));
}

#[tokio::test]
async fn direct_reads_at_the_same_time_share_one_run() {
    let (tool, mut latch) = latched(true);
    let pipeline = pipeline([tool]);
    let read = || pipeline.registry().execute_tool_optimized("latched", json!({}));
    let go = async {
        latch.begins.recv().await.unwrap();
        latch.go.add_permits(1);
    };
    let (one, two, ()) = within(async { tokio::join!(read(), read(), go) }).await;
    assert_eq!((one.unwrap().text, two.unwrap().text), ("run 0".to_owned(), "run 0".to_owned()));
    assert_eq!(latch.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn different_arguments_and_different_tools_are_different_reads() {
    let (folder, runs) = (Folder::new(), Arc::default());
    let mut other = reading(&runs);
    other.spec.name = "other".into();
    let pipeline = pipeline([reading(&runs), other]);
    folder.put("a", "one");
    folder.put("b", "two");
    for _ in 0..2 {
        let a = json!({"path": folder.path("a")});
        let b = json!({"path": folder.path("b")});
        assert_eq!(words(ask(&pipeline, "read", a.clone()).await), "one");
        assert_eq!(words(ask(&pipeline, "read", b).await), "two");
        assert_eq!(words(ask(&pipeline, "other", a).await), "one");
    }
    assert_eq!(runs.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn what_gives_no_evidence_or_an_error_or_changes_something_is_never_kept() {
    let folder = Folder::new();
    folder.put("a", "one");
    let path = folder.path("a").display().to_string();
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = |name, give: fn(String) -> Done| {
        let (runs, path) = (Arc::clone(&runs), path.clone());
        probe(name, move |_, _| {
            runs.fetch_add(1, Ordering::SeqCst);
            let path = path.clone();
            async move { give(path) }
        })
    };
    let tools = [
        counted("no_evidence", |_| said("x")).repeatable(),
        counted("error", |_| Err(ToolError::Failed("x".to_owned()))).repeatable(),
        counted("is_error", |p| look(&p).map(|out| ToolOutput { is_error: true, ..out }))
            .repeatable(),
        counted("not_repeatable", |p| look(&p)),
        counted("writes", |p| look(&p)).repeatable().writes(),
    ];
    let names = ["no_evidence", "error", "is_error", "not_repeatable", "writes"];
    let pipeline = pipeline(tools);
    for (n, name) in names.into_iter().enumerate() {
        for _ in 0..2 {
            let result = ask(&pipeline, name, json!({})).await;
            assert!(!result.cache_hit && !result.shared, "{name}");
        }
        assert_eq!(runs.load(Ordering::SeqCst), 2 * (n + 1), "{name}");
    }
}

#[tokio::test]
async fn with_the_cache_off_each_call_runs_and_says_the_same() {
    let (folder, runs) = (Folder::new(), Arc::default());
    folder.put("a", "one");
    let pipeline = with_limits(Limits::plain().tools, [reading(&runs)]);
    for n in 1..4 {
        let result = ask(&pipeline, "read", json!({"path": folder.path("a")})).await;
        assert!(!result.cache_hit);
        assert_eq!((words(result), runs.load(Ordering::SeqCst)), ("one".to_owned(), n));
    }
}

/// A repeatable tool that tells when it begins and goes on when it is let; the text is its number.
struct Latched {
    begins: mpsc::UnboundedReceiver<()>,
    go: Arc<Semaphore>,
    runs: Arc<AtomicUsize>,
}

fn latched(evidence: bool) -> (Probe, Latched) {
    let (began, begins) = mpsc::unbounded_channel();
    let (go, runs) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gate, count) = (Arc::clone(&go), Arc::clone(&runs));
    let tool = probe("latched", move |_, context| {
        let run = count.fetch_add(1, Ordering::SeqCst);
        let (gate, began) = (Arc::clone(&gate), began.clone());
        async move {
            began.send(()).unwrap();
            tokio::select! {
                permit = gate.acquire() => permit.unwrap().forget(),
                () = context.cancel.cancelled() => {
                    return Err(ToolError::Cancelled { name: "latched".to_owned() });
                }
            }
            let evidence = evidence.then(Evidence::begin);
            Ok(ToolOutput { evidence, ..ToolOutput::text(format!("run {run}")) })
        }
    });
    (tool.repeatable(), Latched { begins, go, runs })
}

async fn submit(pipeline: &AsyncToolPipeline, ids: &[&str]) {
    for id in ids {
        pipeline.submit_request(request(id, "latched", json!({}))).await.unwrap();
    }
}

#[tokio::test]
async fn identical_reads_in_flight_share_one_run() {
    let (tool, mut latch) = latched(true);
    let pipeline = pipeline([tool]);
    submit(&pipeline, &["a", "b", "c"]).await;
    within(latch.begins.recv()).await.unwrap();
    latch.go.add_permits(1);
    for (id, shared) in [("a", false), ("b", true), ("c", true)] {
        let result = within(pipeline.wait_result(id)).await;
        assert_eq!((result.shared, result.cache_hit), (shared, false), "{id}");
        assert_eq!(words(result), "run 0");
    }
    assert_eq!(latch.runs.load(Ordering::SeqCst), 1);
    let metrics = pipeline.get_metrics().await;
    assert_eq!((metrics.shared, metrics.completed), (2, 3));
}

#[tokio::test]
async fn when_the_one_that_runs_is_cancelled_another_takes_over() {
    let (tool, mut latch) = latched(true);
    let pipeline = pipeline([tool]);
    let (leader, cancel) = cancellable("leader", "latched");
    pipeline.submit_request(leader).await.unwrap();
    submit(&pipeline, &["b", "c"]).await;
    within(latch.begins.recv()).await.unwrap();
    cancel.cancel();
    let result = within(pipeline.wait_result("leader")).await;
    assert!(matches!(result.result, Err(ToolError::Cancelled { .. })));
    within(latch.begins.recv()).await.unwrap();
    latch.go.add_permits(1);
    assert_eq!(words(within(pipeline.wait_result("b")).await), "run 1");
    assert_eq!(words(within(pipeline.wait_result("c")).await), "run 1");
    assert_eq!(latch.runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_follower_that_is_cancelled_leaves_the_others_alone() {
    let (tool, mut latch) = latched(true);
    let pipeline = pipeline([tool]);
    submit(&pipeline, &["a"]).await;
    within(latch.begins.recv()).await.unwrap();
    let (follower, cancel) = cancellable("follower", "latched");
    pipeline.submit_request(follower).await.unwrap();
    submit(&pipeline, &["c"]).await;
    tokio::task::yield_now().await;
    cancel.cancel();
    let result = within(pipeline.wait_result("follower")).await;
    assert!(matches!(result.result, Err(ToolError::Cancelled { .. })));
    latch.go.add_permits(1);
    assert_eq!(words(within(pipeline.wait_result("a")).await), "run 0");
    assert_eq!(words(within(pipeline.wait_result("c")).await), "run 0");
}

#[tokio::test]
async fn a_result_that_nobody_can_vouch_for_is_not_shared_and_holds_up_nobody() {
    let (tool, mut latch) = latched(false);
    let pipeline = pipeline([tool]);
    submit(&pipeline, &["a", "b", "c"]).await;
    within(latch.begins.recv()).await.unwrap();
    latch.go.add_permits(1);
    assert_eq!(words(within(pipeline.wait_result("a")).await), "run 0");
    // Both run now, beside each other: neither waits for the other to end first.
    within(latch.begins.recv()).await.unwrap();
    within(latch.begins.recv()).await.unwrap();
    latch.go.add_permits(2);
    for id in ["b", "c"] {
        let result = within(pipeline.wait_result(id)).await;
        assert!(!result.shared && result.result.is_ok());
    }
    assert_eq!(latch.runs.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn what_changed_while_it_was_read_is_not_shared() {
    let folder = Folder::new();
    folder.put("a", "old");
    let path = folder.path("a").display().to_string();
    let (looked, mut looks) = mpsc::unbounded_channel();
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let slow = probe("latched", move |_, _| {
        let (output, looked, gate) = (look(&path), looked.clone(), Arc::clone(&gate));
        async move {
            looked.send(()).unwrap();
            gate.acquire().await.unwrap().forget();
            output
        }
    });
    let pipeline = pipeline([slow.repeatable()]);
    submit(&pipeline, &["a"]).await;
    within(looks.recv()).await.unwrap();
    folder.put("a", "new");
    // It is asked for after the change, so it must see it.
    submit(&pipeline, &["b"]).await;
    tokio::task::yield_now().await;
    go.add_permits(2);
    assert_eq!(words(within(pipeline.wait_result("a")).await), "old");
    let late = within(pipeline.wait_result("b")).await;
    assert_eq!((late.shared, words(late)), (false, "new".to_owned()));
}

#[tokio::test]
async fn with_sharing_off_each_runs() {
    let (tool, mut latch) = latched(true);
    let limits = ToolLimits { share_reads: false, ..Limits::full().tools };
    let pipeline = with_limits(limits, [tool]);
    submit(&pipeline, &["a", "b"]).await;
    within(latch.begins.recv()).await.unwrap();
    within(latch.begins.recv()).await.unwrap();
    latch.go.add_permits(2);
    for id in ["a", "b"] {
        assert!(!within(pipeline.wait_result(id)).await.shared);
    }
}

#[tokio::test]
async fn an_urgent_read_does_not_wait_for_an_identical_one_that_is_not() {
    let (tool, mut latch) = latched(true);
    let pipeline = with_slots(1, [tool, deaf()]);
    let (deaf, cancel) = cancellable("deaf", "deaf");
    pipeline.submit_request(deaf).await.unwrap();
    let low = ExecutionPriority::Low;
    pipeline
        .submit_request(ToolRequest { priority: low, ..request("low", "latched", json!({})) })
        .await
        .unwrap();
    let urgent = request("urgent", "latched", json!({}));
    let critical = ExecutionPriority::Critical;
    pipeline.submit_request(ToolRequest { priority: critical, ..urgent }).await.unwrap();
    tokio::task::yield_now().await;
    latch.go.add_permits(2);
    cancel.cancel();
    assert_eq!(words(within(pipeline.wait_result("urgent")).await), "run 0");
    within(latch.begins.recv()).await.unwrap();
    within(pipeline.wait_result("low")).await.result.unwrap();
}
