//! Who goes first, who is refused, and deadlines that cover the wait.

use super::*;

/// A pipeline with one slot, held by a call that its token ends.
async fn held(limits: ToolLimits, log: &Log) -> (Arc<AsyncToolPipeline>, CancellationToken) {
    let (holding, runs, _gone) = holding();
    let limits = ToolLimits { max_concurrent: 1, ..limits };
    let pipeline = with_limits(limits, [holding, noting("read", log)]);
    let (request, cancel) = cancellable("held", "holding");
    pipeline.submit_request(request).await.unwrap();
    within(runs).await.unwrap();
    (pipeline, cancel)
}

async fn submit(pipeline: &AsyncToolPipeline, n: usize, priority: ExecutionPriority) {
    let args = json!({"n": n, "yields": 0});
    let request = ToolRequest { priority, ..request(&n.to_string(), "read", args) };
    pipeline.submit_request(request).await.unwrap();
}

#[tokio::test]
async fn a_critical_call_runs_at_the_first_release_before_a_hundred_others() {
    let log = Log::default();
    let (pipeline, release) = held(Limits::full().tools, &log).await;
    for n in 0..100 {
        submit(&pipeline, n, ExecutionPriority::Low).await;
    }
    submit(&pipeline, 999, ExecutionPriority::Critical).await;
    while pipeline.registry().waiting() < 101 {
        tokio::task::yield_now().await;
    }
    release.cancel();
    within(pipeline.wait_result("999")).await.result.unwrap();
    within(pipeline.wait_result("99")).await.result.unwrap();
    assert_eq!(log.all()[..4], ["begin 999", "end 999", "begin 0", "end 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_low_call_that_waited_long_goes_before_a_high_one_that_just_came() {
    let log = Log::default();
    let limits = Limits::full().tools;
    let aging = limits.aging;
    let (pipeline, release) = held(limits, &log).await;
    submit(&pipeline, 1, ExecutionPriority::Low).await;
    tokio::task::yield_now().await;
    tokio::time::advance(3 * aging).await;
    submit(&pipeline, 2, ExecutionPriority::High).await;
    tokio::task::yield_now().await;
    release.cancel();
    for id in ["1", "2"] {
        within(pipeline.wait_result(id)).await.result.unwrap();
    }
    assert_eq!(log.all()[..2], ["begin 1", "end 1"]);
}

#[tokio::test]
async fn an_overloaded_queue_says_so_and_recovers() {
    let log = Log::default();
    let limits = ToolLimits { max_waiting: 3, ..Limits::full().tools };
    let (pipeline, release) = held(limits, &log).await;
    for n in 0..3 {
        submit(&pipeline, n, ExecutionPriority::Normal).await;
    }
    for _ in 0..2 {
        let refused = pipeline.submit_request(request("more", "read", json!({}))).await;
        assert!(matches!(refused, Err(ToolError::Overloaded { waiting: 3 })), "{refused:?}");
    }
    let told = words(within(pipeline.wait_result("more")).await);
    assert_eq!(told, "no result is waiting under the id `more`");
    release.cancel();
    for n in 0..3 {
        within(pipeline.wait_result(&n.to_string())).await.result.unwrap();
    }
    submit(&pipeline, 7, ExecutionPriority::Normal).await;
    within(pipeline.wait_result("7")).await.result.unwrap();
    assert_eq!(pipeline.get_metrics().await.overloaded, 2);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_covers_the_wait() {
    let log = Log::default();
    let (pipeline, release) = held(Limits::full().tools, &log).await;
    let second = Duration::from_secs(1);
    let late = ToolRequest { timeout: second, ..request("late", "read", json!({"n": 1})) };
    pipeline.submit_request(late).await.unwrap();
    let result = within(pipeline.wait_result("late")).await;
    assert!(matches!(&result.result, Err(ToolError::TimedOut { .. })), "{result:?}");
    assert_eq!(result.execution_time, Duration::ZERO);
    assert!(result.waited >= second && result.waited < 2 * second);
    assert_eq!(pipeline.registry().waiting(), 0, "it left the queue");
    release.cancel();
    submit(&pipeline, 2, ExecutionPriority::Normal).await;
    within(pipeline.wait_result("2")).await.result.unwrap();
    assert_eq!(log.all(), ["begin 2", "end 2"]);
    let read = &pipeline.get_metrics().await.tools[1];
    assert_eq!((read.timed_out, read.failed, read.ran.count), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_covers_the_wait_for_a_conflicting_call_and_ends_what_runs() {
    let log = Log::default();
    let pipeline = pipeline([deaf().writes(), noting("write", &log).writes()]);
    let second = Duration::from_secs(1);
    let runs = ToolRequest { timeout: 9 * second, ..request("runs", "deaf", json!({})) };
    pipeline.submit_request(runs).await.unwrap();
    let waits = ToolRequest { timeout: second, ..request("waits", "write", json!({"n": 1})) };
    pipeline.submit_request(waits).await.unwrap();
    for id in ["waits", "runs"] {
        let result = within(pipeline.wait_result(id)).await;
        assert!(matches!(&result.result, Err(ToolError::TimedOut { .. })), "{result:?}");
    }
    assert_eq!(log.all(), <[&str; 0]>::default());
    assert_eq!(pipeline.get_metrics().await.timed_out(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_waits_runs_and_is_done_adds_up_and_times_are_told_for_each_tool() {
    let sleeps = probe("sleeps", |args, _| async move {
        tokio::time::sleep(Duration::from_secs(args["s"].as_u64().unwrap())).await;
        said("")
    });
    let pipeline = with_slots(2, [sleeps, probe("idle", |_, _| async { said("") })]);
    let ids: Vec<_> = (1..=4).map(|n| n.to_string()).collect();
    for id in &ids {
        let args = json!({"s": 10});
        pipeline.submit_request(request(id, "sleeps", args)).await.unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(6)).await;
        let metrics = pipeline.get_metrics().await;
        seen.push((metrics.waiting, metrics.running, metrics.completed));
    }
    assert_eq!(seen, [(2, 2, 0), (0, 2, 2), (0, 2, 2)]);
    join_all(ids.iter().map(|id| pipeline.wait_result(id))).await;
    let metrics = pipeline.get_metrics().await;
    assert_eq!((metrics.waiting, metrics.running, metrics.completed), (0, 0, 4));
    let [sleeps, idle] = metrics.tools.as_slice() else { panic!("two tools") };
    assert_eq!((sleeps.name.as_str(), sleeps.ran.count, idle.ran.count), ("sleeps", 4, 0));
    let p50 = sleeps.ran.p50;
    assert!(p50.abs_diff(Duration::from_secs(10)) < Duration::from_millis(200), "{p50:?}");
    assert_eq!((sleeps.waited.p50.as_secs(), sleeps.waited.max.as_secs()), (0, 10));
}
