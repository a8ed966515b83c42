//! Similar calls that run as one, and when they do not wait for each other.

use super::*;

/// A tool whose calls run together, and what each run was given.
fn batched(log: &Log) -> Probe {
    let (alone, together) = (log.clone(), log.clone());
    let answer = |args: &Value| match args["n"].as_u64() {
        Some(13) => Err(ToolError::Failed("13 fails".to_owned())),
        Some(n) => said(n.to_string()),
        None => said("none"),
    };
    probe("batched", move |args, _| {
        alone.note(format!("alone {}", args["n"]));
        async move { answer(&args) }
    })
    .batched(move |calls, _| {
        let ns: Vec<_> = calls.iter().map(|args| args["n"].to_string()).collect();
        together.note(format!("together {}", ns.join(" ")));
        async move {
            assert!(!ns.contains(&"666".to_owned()), "broken");
            calls.iter().map(answer).collect()
        }
    })
}

/// A call that holds a slot until it is let go.
fn gate() -> (Probe, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let gate = Arc::clone(&go);
    let tool = probe("gate", move |_, _| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            said("open")
        }
    });
    (tool, go)
}

/// A pipeline with one slot, which is taken.
async fn busy(max_batch: usize, log: &Log) -> (Arc<AsyncToolPipeline>, Arc<Notify>) {
    let (gate, go) = gate();
    let limits = ToolLimits { max_concurrent: 1, max_batch, ..Limits::full().tools };
    let pipeline = with_limits(limits, [batched(log), gate]);
    pipeline.submit_request(request("gate", "gate", json!({}))).await.unwrap();
    settle().await;
    (pipeline, go)
}

/// Lets everything that can go on go on.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

async fn submit(
    pipeline: &AsyncToolPipeline,
    n: u64,
    priority: ExecutionPriority,
) -> CancellationToken {
    let request = ToolRequest { priority, ..request(&n.to_string(), "batched", json!({"n": n})) };
    let cancel = request.context.cancel.clone();
    pipeline.submit_request(request).await.unwrap();
    cancel
}

async fn answer(pipeline: &AsyncToolPipeline, n: u64) -> String {
    words(within(pipeline.wait_result(&n.to_string())).await)
}

use ExecutionPriority::{Critical, Low, Normal};

#[tokio::test]
async fn calls_that_wait_together_run_as_one_and_each_gets_its_own() {
    let log = Log::default();
    let (pipeline, go) = busy(5, &log).await;
    for n in [3, 1, 13, 2] {
        submit(&pipeline, n, Normal).await;
    }
    settle().await;
    let metrics = pipeline.get_metrics().await;
    assert_eq!((metrics.waiting, metrics.running, metrics.completed), (4, 1, 0));
    go.notify_one();
    for (n, text) in [(1, "1"), (2, "2"), (3, "3"), (13, "13 fails")] {
        assert_eq!(answer(&pipeline, n).await, text);
    }
    assert_eq!(log.all(), ["together 3 1 13 2"]);
    let metrics = pipeline.get_metrics().await;
    assert_eq!(metrics.batch_sizes[..5], [0, 0, 0, 1, 0]);
    assert_eq!((metrics.tools[0].ran.count, metrics.tools[0].failed), (4, 1));
    assert_eq!((metrics.waiting, metrics.running, metrics.completed), (0, 0, 5));
}

#[tokio::test]
async fn different_batches_do_not_mix() {
    let log = Log::default();
    let (pipeline, go) = busy(5, &log).await;
    for (n, key) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        let args = json!({"n": n, "key": key});
        pipeline.submit_request(request(&n.to_string(), "batched", args)).await.unwrap();
    }
    settle().await;
    go.notify_one();
    for n in 1..5 {
        assert_eq!(answer(&pipeline, n).await, n.to_string());
    }
    assert_eq!(log.all(), ["together 1 3", "together 2 4"]);
}

#[tokio::test]
async fn who_is_cancelled_before_the_start_is_left_out() {
    let log = Log::default();
    let (pipeline, go) = busy(5, &log).await;
    let first = submit(&pipeline, 1, Normal).await;
    submit(&pipeline, 2, Normal).await;
    let third = submit(&pipeline, 3, Normal).await;
    submit(&pipeline, 4, Normal).await;
    settle().await;
    // The first started the group; it takes nobody with it.
    first.cancel();
    third.cancel();
    for n in [1, 3] {
        assert_eq!(answer(&pipeline, n).await, "`batched` was interrupted before it finished");
    }
    assert_eq!(pipeline.get_metrics().await.waiting, 2);
    go.notify_one();
    assert_eq!((answer(&pipeline, 2).await, answer(&pipeline, 4).await), ("2".into(), "4".into()));
    assert_eq!(log.all(), ["together 2 4"]);
}

#[tokio::test]
async fn a_crash_of_a_batch_is_a_result_for_each_and_frees_the_slot() {
    let log = Log::default();
    let (pipeline, go) = busy(5, &log).await;
    submit(&pipeline, 1, Normal).await;
    submit(&pipeline, 666, Normal).await;
    settle().await;
    go.notify_one();
    for n in [1, 666] {
        let text = answer(&pipeline, n).await;
        assert_eq!(text, "the tool crashed: broken; this is a fault of VT Code");
    }
    submit(&pipeline, 2, Normal).await;
    assert_eq!(answer(&pipeline, 2).await, "2");
}

#[tokio::test]
async fn a_batch_that_loses_a_result_fails_for_each() {
    let (gate, go) = gate();
    let lossy =
        probe("batched", |_, _| async { said("alone") }).batched(|_, _| async { vec![said("1")] });
    let pipeline = with_slots(1, [lossy, gate]);
    pipeline.submit_request(request("gate", "gate", json!({}))).await.unwrap();
    settle().await;
    submit(&pipeline, 1, Normal).await;
    submit(&pipeline, 2, Normal).await;
    settle().await;
    go.notify_one();
    for n in [1, 2] {
        assert_eq!(answer(&pipeline, n).await, "the batch lost a result");
    }
}

#[tokio::test]
async fn a_large_batch_splits_and_a_batch_of_one_is_off() {
    let log = Log::default();
    let (pipeline, go) = busy(3, &log).await;
    for n in 1..8 {
        submit(&pipeline, n, Normal).await;
    }
    settle().await;
    go.notify_one();
    for n in 1..8 {
        assert_eq!(answer(&pipeline, n).await, n.to_string());
    }
    assert_eq!(log.all(), ["together 1 2 3", "together 4 5 6", "alone 7"]);
    assert_eq!(pipeline.get_metrics().await.batch_sizes[..3], [1, 0, 2]);

    let log = Log::default();
    let (pipeline, go) = busy(1, &log).await;
    for n in 1..4 {
        submit(&pipeline, n, Normal).await;
    }
    settle().await;
    go.notify_one();
    for n in 1..4 {
        assert_eq!(answer(&pipeline, n).await, n.to_string());
    }
    assert_eq!(log.all(), ["alone 1", "alone 2", "alone 3"]);
}

#[tokio::test]
async fn a_critical_call_joins_nobody() {
    let log = Log::default();
    let (pipeline, go) = busy(5, &log).await;
    submit(&pipeline, 1, Normal).await;
    submit(&pipeline, 2, Critical).await;
    submit(&pipeline, 3, Normal).await;
    settle().await;
    go.notify_one();
    for n in 1..4 {
        assert_eq!(answer(&pipeline, n).await, n.to_string());
    }
    assert_eq!(log.all(), ["alone 2", "together 1 3"]);
}

#[tokio::test(start_paused = true)]
async fn only_a_low_call_waits_for_company_and_not_for_long() {
    let patience = Limits::full().tools.batch_timeout;
    let log = Log::default();
    let pipeline = with_slots(8, [batched(&log)]);
    for priority in [Normal, ExecutionPriority::High, Critical] {
        let began = Instant::now();
        submit(&pipeline, 1, priority).await;
        answer(&pipeline, 1).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "{priority:?}");
    }
    let began = Instant::now();
    submit(&pipeline, 2, Low).await;
    settle().await;
    submit(&pipeline, 3, Low).await;
    assert_eq!(answer(&pipeline, 2).await, "2");
    assert_eq!(answer(&pipeline, 3).await, "3");
    assert!(began.elapsed() >= patience && began.elapsed() < 2 * patience);
    assert_eq!(log.all()[3..], ["together 2 3"]);

    // A full one goes at once.
    let began = Instant::now();
    for n in 0..5 {
        submit(&pipeline, n, Low).await;
    }
    for n in 0..5 {
        answer(&pipeline, n).await;
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(log.all()[4..], ["together 0 1 2 3 4"]);
}

/// A batched tool that never ends, and what tells that a run of it began and is gone.
fn endless() -> (Probe, oneshot::Receiver<()>, oneshot::Receiver<()>) {
    let (running, runs) = oneshot::channel();
    let (gone, is_gone) = oneshot::channel();
    let once = Mutex::new(Some((running, Dropped(Some(gone)))));
    let tool = probe("batched", |_, _| async { said("alone") }).batched(move |calls, _| {
        let (running, dropped) = once.lock().unwrap().take().unwrap();
        async move {
            let _dropped = dropped;
            running.send(()).unwrap();
            std::future::pending::<()>().await;
            calls.iter().map(|_| said("never")).collect()
        }
    });
    (tool, runs, is_gone)
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_any_more_is_dropped_and_frees_its_slot() {
    let (endless, runs, gone) = endless();
    let pipeline = with_slots(1, [endless, probe("other", |_, _| async { said("ran") })]);
    let first = submit(&pipeline, 1, Normal).await;
    let second = submit(&pipeline, 2, Normal).await;
    within(runs).await.unwrap();
    let metrics = pipeline.get_metrics().await;
    assert_eq!((metrics.waiting, metrics.running), (0, 2));
    first.cancel();
    answer(&pipeline, 1).await;
    pipeline.submit_request(request("other", "other", json!({}))).await.unwrap();
    settle().await;
    assert_eq!(pipeline.get_metrics().await.waiting, 1, "one is still waited for");
    second.cancel();
    answer(&pipeline, 2).await;
    within(gone).await.unwrap();
    assert_eq!(words(within(pipeline.wait_result("other")).await), "ran");
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_deadline_passes_is_told_and_the_tools_own_limit_holds() {
    let (endless, _runs, _gone) = endless();
    let pipeline = with_slots(1, [endless.timeout(|_| Some(Duration::from_secs(30)))]);
    let began = Instant::now();
    let short = request("1", "batched", json!({"n": 1}));
    let three = Duration::from_secs(3);
    pipeline.submit_request(ToolRequest { timeout: three, ..short }).await.unwrap();
    submit(&pipeline, 2, Normal).await;
    let result = within(pipeline.wait_result("1")).await;
    assert!(matches!(result.result, Err(ToolError::TimedOut { .. })), "{result:?}");
    assert!(began.elapsed() >= three && began.elapsed() < 2 * three);
    let result = within(pipeline.wait_result("2")).await;
    assert!(matches!(result.result, Err(ToolError::TimedOut { limit, .. }) if limit == 10 * three));
}

#[tokio::test]
async fn shutdown_ends_batches_that_run_and_that_wait() {
    let (endless, runs, gone) = endless();
    let pipeline = with_slots(1, [endless]);
    submit(&pipeline, 1, Normal).await;
    submit(&pipeline, 2, Normal).await;
    within(runs).await.unwrap();
    submit(&pipeline, 3, Normal).await;
    submit(&pipeline, 4, Low).await;
    settle().await;
    within(pipeline.shutdown()).await;
    within(gone).await.unwrap();
    for n in 1..5 {
        assert_eq!(answer(&pipeline, n).await, "`batched` was interrupted before it finished");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_company() {
    let hour = Duration::from_secs(3600);
    let limits = ToolLimits { batch_timeout: hour, ..Limits::full().tools };
    let pipeline = with_limits(limits, [batched(&Log::default())]);
    submit(&pipeline, 1, Low).await;
    settle().await;
    let began = Instant::now();
    pipeline.shutdown().await;
    assert!(began.elapsed() < hour);
    assert_eq!(answer(&pipeline, 1).await, "`batched` was interrupted before it finished");
}

#[tokio::test]
async fn who_gives_up_while_its_batch_runs_is_counted_once() {
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let go = Arc::new(Notify::new());
    let gate = Arc::clone(&go);
    // What becomes of the one that gave up is a failure, too, when the batch ends.
    let slow = probe("slow", |_, _| async { said("alone") }).batched(move |calls, _| {
        let (begun, gate) = (begun.clone(), Arc::clone(&gate));
        async move {
            begun.send(()).unwrap();
            gate.notified().await;
            let fails = |args: &Value| match args["n"].as_u64() {
                Some(1) => Err(ToolError::Failed("late".to_owned())),
                _ => said("done"),
            };
            calls.iter().map(fails).collect()
        }
    });
    let pipeline = pipeline([slow]);
    let call = |n: u64| request(&n.to_string(), "slow", json!({"n": n}));
    let first = call(1);
    let cancel = first.context.cancel.clone();
    pipeline.submit_request(first).await.unwrap();
    pipeline.submit_request(call(2)).await.unwrap();
    within(begins.recv()).await.unwrap();
    cancel.cancel();
    let gone = within(pipeline.wait_result("1")).await;
    assert!(matches!(gone.result, Err(ToolError::Cancelled { .. })), "{gone:?}");
    go.notify_one();
    assert_eq!(answer(&pipeline, 2).await, "done");
    let metrics = pipeline.get_metrics().await;
    let slow = &metrics.tools[0];
    assert_eq!((slow.ran.count, slow.failed, slow.cancelled), (2, 1, 1));
    assert_eq!((metrics.waiting, metrics.running, metrics.completed), (0, 0, 2));
}

#[tokio::test]
async fn calls_of_two_pipelines_in_one_batch_end_with_their_own() {
    let log = Log::default();
    let (one, go) = busy(5, &log).await;
    let two = AsyncToolPipeline::with_registry(Arc::clone(one.registry()));
    submit(&two, 2, Normal).await;
    submit(&one, 1, Normal).await;
    settle().await;
    within(async {
        tokio::join!(two.shutdown(), async {
            settle().await;
            go.notify_one();
        })
    })
    .await;
    assert_eq!(answer(&one, 1).await, "1");
    let gone = within(two.wait_result("2")).await;
    assert!(matches!(gone.result, Err(ToolError::Cancelled { .. })), "{gone:?}");
}
