//! The pipeline with tools that say when they run. What overlaps is proven by tools that wait for
//! each other, never by a clock.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, join_all};
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::{Barrier, Notify, oneshot};

use super::*;
use crate::config::limits::{Limits, ToolLimits};
use crate::safety::permissions::Permissions;
use crate::tools::tool::{BatchFuture, Effect, Tool, ToolFuture, ToolSpec};

mod asked;
mod batches;
mod kept;
mod queue;
mod stale;

type Done = Result<ToolOutput, ToolError>;
type FromArgs<T> = Box<dyn Fn(&Value) -> T + Send + Sync>;

/// A tool made of closures.
struct Probe {
    spec: ToolSpec,
    effect: FromArgs<Effect>,
    timeout: FromArgs<Option<Duration>>,
    call: Box<dyn Fn(Value, CallContext) -> BoxFuture<'static, Done> + Send + Sync>,
    repeatable: bool,
    batch: FromArgs<Option<String>>,
    /// None: one call after the other.
    call_batch: Option<Together>,
}

type Together = Box<dyn Fn(Vec<Value>, CallContext) -> BoxFuture<'static, Vec<Done>> + Send + Sync>;

impl Tool for Probe {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, args: &Value) -> Effect {
        (self.effect)(args)
    }

    fn timeout(&self, args: &Value) -> Option<Duration> {
        (self.timeout)(args)
    }

    fn call<'a>(&'a self, args: &'a Value, context: &'a CallContext) -> ToolFuture<'a> {
        (self.call)(args.clone(), context.clone())
    }

    fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    fn batch(&self, args: &Value) -> Option<String> {
        (self.batch)(args)
    }

    fn call_batch<'a>(
        &'a self,
        calls: &'a [&'a Value],
        context: &'a CallContext,
    ) -> BatchFuture<'a> {
        match &self.call_batch {
            Some(together) => together(calls.iter().copied().cloned().collect(), context.clone()),
            None => Box::pin(async move {
                let mut results = Vec::new();
                for args in calls {
                    results.push(self.call(args, context).await);
                }
                results
            }),
        }
    }
}

/// A read-only tool.
fn probe<F>(
    name: &'static str,
    call: impl Fn(Value, CallContext) -> F + Send + Sync + 'static,
) -> Probe
where
    F: Future<Output = Done> + Send + 'static,
{
    let (description, parameters) = ("".into(), json!({"type": "object"}));
    Probe {
        spec: ToolSpec { name: name.into(), description, parameters },
        effect: Box::new(|_| Effect::default()),
        timeout: Box::new(|_| None),
        call: Box::new(move |args, context| Box::pin(call(args, context))),
        repeatable: false,
        batch: Box::new(|_| None),
        call_batch: None,
    }
}

impl Probe {
    fn effect(mut self, effect: impl Fn(&Value) -> Effect + Send + Sync + 'static) -> Self {
        self.effect = Box::new(effect);
        self
    }

    /// Makes the call write the file named in `path`.
    fn writes(self) -> Self {
        self.effect(|args| Effect::write(args["path"].as_str().unwrap_or("/file")))
    }

    /// Says that the same call gives the same result while no file changes.
    fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Puts the calls with the same `key` into one batch.
    fn batched<F>(
        mut self,
        together: impl Fn(Vec<Value>, CallContext) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Vec<Done>> + Send + 'static,
    {
        self.batch = Box::new(|args| Some(args["key"].as_str().unwrap_or("batch").to_owned()));
        self.call_batch = Some(Box::new(move |calls, context| Box::pin(together(calls, context))));
        self
    }

    fn timeout(
        mut self,
        timeout: impl Fn(&Value) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.timeout = Box::new(timeout);
        self
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is what a call gives")]
fn said(text: impl Into<String>) -> Done {
    Ok(ToolOutput::text(text))
}

fn pipeline(tools: impl IntoIterator<Item = Probe>) -> Arc<AsyncToolPipeline> {
    with_slots(8, tools)
}

fn with_slots(
    max_concurrent: usize,
    tools: impl IntoIterator<Item = Probe>,
) -> Arc<AsyncToolPipeline> {
    with_limits(ToolLimits { max_concurrent, ..Limits::full().tools }, tools)
}

fn with_limits(
    limits: ToolLimits,
    tools: impl IntoIterator<Item = Probe>,
) -> Arc<AsyncToolPipeline> {
    let tools = tools.into_iter().map(|tool| Arc::new(tool) as Arc<dyn Tool>).collect();
    // The probes' paths are made up.
    let registry = OptimizedToolRegistry::with_tools(tools, limits)
        .with_permissions(Arc::new(Permissions::unleashed()));
    Arc::new(AsyncToolPipeline::with_registry(Arc::new(registry)))
}

fn request(id: &str, tool: &str, args: Value) -> ToolRequest {
    ToolRequest {
        id: id.to_owned(),
        tool_name: tool.to_owned(),
        args,
        priority: ExecutionPriority::Normal,
        timeout: Duration::MAX,
        context: ExecutionContext::default(),
    }
}

fn cancellable(id: &str, tool: &str) -> (ToolRequest, CancellationToken) {
    let request = request(id, tool, json!({}));
    let cancel = request.context.cancel.clone();
    (request, cancel)
}

/// The words of a result, or of its error.
fn words(result: ToolResult) -> String {
    match result.result {
        Ok(output) => output.text,
        Err(error) => error.to_string(),
    }
}

/// Fails a test that hangs instead of holding up all others.
async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("this hangs")
}

/// What happened, in order.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A tool that notes when it begins and ends, and lets others run in between.
fn noting(name: &'static str, log: &Log) -> Probe {
    let log = log.clone();
    probe(name, move |args, _| {
        let log = log.clone();
        async move {
            let n = args["n"].to_string();
            log.note(format!("begin {n}"));
            for _ in 0..args["yields"].as_u64().unwrap_or(3) {
                tokio::task::yield_now().await;
            }
            log.note(format!("end {n}"));
            said(n)
        }
    })
}

/// A tool that never ends by itself and does not look at its token.
fn deaf() -> Probe {
    probe("deaf", |_, _| std::future::pending())
}

#[tokio::test]
async fn results_come_by_id_in_whatever_order_they_are_asked_for() {
    let pipeline = pipeline([probe("echo", |args, _| async move { said(args["n"].to_string()) })]);
    for n in 0..5 {
        let id = pipeline.submit_request(request(&n.to_string(), "echo", json!({"n": n}))).await;
        assert_eq!(id.unwrap(), n.to_string());
    }
    for n in [3, 0, 4, 2, 1] {
        let result = within(pipeline.wait_result(&n.to_string())).await;
        assert_eq!(
            (result.request_id.as_str(), result.tool_name.as_str()),
            (&*n.to_string(), "echo")
        );
        assert_eq!(words(result), n.to_string());
    }
}

#[tokio::test]
async fn a_result_is_given_once_and_an_unknown_id_is_told() {
    let pipeline = pipeline([probe("echo", |_, _| async { said("hi") })]);
    pipeline.submit_request(request("a", "echo", json!({}))).await.unwrap();
    assert_eq!(words(within(pipeline.wait_result("a")).await), "hi");
    for id in ["a", "never", ""] {
        let result = within(pipeline.wait_result(id)).await;
        assert_eq!(result.request_id, id);
        assert!(words(result).contains(&format!("`{id}`")));
    }
}

#[tokio::test]
async fn an_unknown_tool_names_the_nearest() {
    let pipeline = pipeline([
        probe("read_file", |_, _| async { said("") }),
        probe("grep_file", |_, _| async { said("") }),
    ]);
    pipeline.submit_request(request("a", "readfile", json!({}))).await.unwrap();
    let text = words(within(pipeline.wait_result("a")).await);
    assert_eq!(text, "no tool named `readfile`; did you mean `read_file`?");
}

#[tokio::test]
async fn calls_that_do_not_conflict_overlap() {
    let both = Arc::new(Barrier::new(3));
    let meet = move |_, _| {
        let both = Arc::clone(&both);
        async move {
            both.wait().await;
            said("met")
        }
    };
    let pipeline = pipeline([
        probe("write", meet.clone()).writes(),
        probe("read", meet).effect(|_| Effect::read("/c")),
    ]);
    pipeline.submit_request(request("a", "write", json!({"path": "/a"}))).await.unwrap();
    pipeline.submit_request(request("b", "write", json!({"path": "/b"}))).await.unwrap();
    pipeline.submit_request(request("c", "read", json!({}))).await.unwrap();
    for id in ["a", "b", "c"] {
        assert_eq!(words(within(pipeline.wait_result(id)).await), "met");
    }
}

#[tokio::test]
async fn calls_that_conflict_run_in_the_order_submitted() {
    let log = Log::default();
    let pipeline = pipeline([noting("write", &log).writes()]);
    let ids: Vec<_> = (0..6).map(|n| n.to_string()).collect();
    for id in &ids {
        pipeline
            .submit_request(request(id, "write", json!({"n": id.parse::<u32>().unwrap()})))
            .await
            .unwrap();
    }
    within(join_all(ids.iter().map(|id| pipeline.wait_result(id)))).await;
    let expected: Vec<_> =
        ids.iter().flat_map(|id| [format!("begin {id}"), format!("end {id}")]).collect();
    assert_eq!(log.all(), expected);
}

fn before(log: &Log, result: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> BeforeEffect {
    let (log, result) = (log.clone(), Arc::new(result));
    Arc::new(move || {
        let (log, result) = (log.clone(), Arc::clone(&result));
        Box::pin(async move {
            tokio::task::yield_now().await;
            log.note("recorded");
            result()
        })
    })
}

#[tokio::test]
async fn an_effect_is_recorded_first_and_reading_needs_no_record() {
    let log = Log::default();
    let pipeline = pipeline([
        noting("write", &log).writes(),
        noting("read", &log).effect(|_| Effect::read("/elsewhere")),
        noting("run", &log).effect(|_| Effect::opaque()),
    ]);
    for (n, tool) in ["write", "read", "run"].into_iter().enumerate() {
        let mut request = request(tool, tool, json!({"n": n, "yields": 0}));
        request.context.before_effect = Some(before(&log, || Ok(())));
        pipeline.submit_request(request).await.unwrap();
        within(pipeline.wait_result(tool)).await.result.unwrap();
    }
    let expected =
        ["recorded", "begin 0", "end 0", "begin 1", "end 1", "recorded", "begin 2", "end 2"];
    assert_eq!(log.all(), expected);
}

#[tokio::test]
async fn what_cannot_be_recorded_does_not_run_and_frees_the_way() {
    let log = Log::default();
    let pipeline = pipeline([noting("write", &log).writes()]);
    let mut first = request("first", "write", json!({"n": 1}));
    first.context.before_effect = Some(before(&log, || Err(io::Error::other("disk full"))));
    pipeline.submit_request(first).await.unwrap();
    pipeline.submit_request(request("second", "write", json!({"n": 2}))).await.unwrap();
    let text = words(within(pipeline.wait_result("first")).await);
    assert_eq!(text, "not run, because it could not be recorded: disk full");
    within(pipeline.wait_result("second")).await.result.unwrap();
    assert_eq!(log.all(), ["recorded", "begin 2", "end 2"]);
}

#[tokio::test]
async fn a_call_cancelled_while_it_is_recorded_does_not_run() {
    let log = Log::default();
    let pipeline = pipeline([noting("write", &log).writes()]);
    let (mut request, cancel) = cancellable("a", "write");
    request.context.before_effect = Some(before(&log, move || {
        cancel.cancel();
        Ok(())
    }));
    pipeline.submit_request(request).await.unwrap();
    let result = within(pipeline.wait_result("a")).await;
    assert!(matches!(result.result, Err(ToolError::Cancelled { .. })));
    assert_eq!(log.all(), ["recorded"]);
}

#[tokio::test]
async fn a_call_cancelled_in_the_queue_never_runs_and_holds_nobody_up() {
    let log = Log::default();
    let go = Arc::new(Notify::new());
    let gate = Arc::clone(&go);
    let hold = probe("hold", move |_, _| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            said("held")
        }
    });
    let pipeline = pipeline([hold.writes(), noting("write", &log).writes()]);
    pipeline.submit_request(request("first", "hold", json!({}))).await.unwrap();
    let (second, cancel) = cancellable("second", "write");
    pipeline.submit_request(second).await.unwrap();
    pipeline.submit_request(request("third", "write", json!({"n": 3}))).await.unwrap();

    cancel.cancel();
    let result = within(pipeline.wait_result("second")).await;
    assert!(matches!(result.result, Err(ToolError::Cancelled { .. })));
    assert_eq!(result.execution_time, Duration::ZERO);
    assert_eq!(log.all(), <[&str; 0]>::default(), "the third still waits for the first");
    go.notify_one();
    assert_eq!(words(within(pipeline.wait_result("first")).await), "held");
    within(pipeline.wait_result("third")).await.result.unwrap();
    assert_eq!(log.all(), ["begin 3", "end 3"]);
}

#[tokio::test]
async fn when_all_are_cancelled_the_end_of_one_does_not_begin_the_next() {
    let log = Log::default();
    let (holding, runs, _gone) = holding();
    let pipeline = pipeline([holding.writes(), noting("write", &log).writes()]);
    let (first, cancel) = cancellable("first", "holding");
    let context = first.context.clone();
    pipeline.submit_request(first).await.unwrap();
    for id in ["second", "third"] {
        let context = context.clone();
        pipeline
            .submit_request(ToolRequest { context, ..request(id, "write", json!({})) })
            .await
            .unwrap();
    }
    within(runs).await.unwrap();
    cancel.cancel();
    for id in ["first", "second", "third"] {
        let result = within(pipeline.wait_result(id)).await;
        assert!(matches!(result.result, Err(ToolError::Cancelled { .. })), "{result:?}");
    }
    assert_eq!(log.all(), <[&str; 0]>::default());
}

#[tokio::test]
async fn a_call_cancelled_before_it_is_submitted_does_not_take_its_first_step() {
    let log = Log::default();
    let pipeline = pipeline([noting("read", &log)]);
    let (request, cancel) = cancellable("a", "read");
    cancel.cancel();
    pipeline.submit_request(request).await.unwrap();
    let result = within(pipeline.wait_result("a")).await;
    assert!(matches!(result.result, Err(ToolError::Cancelled { .. })));
    assert_eq!(log.all(), <[&str; 0]>::default());
}

#[tokio::test]
async fn a_running_call_that_is_cancelled_gives_what_it_has() {
    let (running, runs) = oneshot::channel();
    let running = Mutex::new(Some(running));
    let listens = probe("listens", move |_, context| {
        running.lock().unwrap().take().unwrap().send(()).unwrap();
        async move {
            context.cancel.cancelled().await;
            said("half of it")
        }
    });
    let pipeline = pipeline([listens]);
    let (request, cancel) = cancellable("a", "listens");
    pipeline.submit_request(request).await.unwrap();
    within(runs).await.unwrap();
    cancel.cancel();
    assert_eq!(words(within(pipeline.wait_result("a")).await), "half of it");
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_does_not_listen_is_dropped_long_before_its_deadline() {
    let pipeline = pipeline([deaf()]);
    let (request, cancel) = cancellable("a", "deaf");
    let began = Instant::now();
    pipeline.submit_request(request).await.unwrap();
    tokio::task::yield_now().await;
    cancel.cancel();
    let result = pipeline.wait_result("a").await;
    assert!(matches!(result.result, Err(ToolError::Cancelled { .. })), "{result:?}");
    assert!(began.elapsed() < Limits::full().tools.timeout / 10);
}

#[tokio::test(start_paused = true)]
async fn deadlines_come_from_the_request_the_arguments_and_the_limits() {
    let pipeline = pipeline([deaf().timeout(|args| args["s"].as_u64().map(Duration::from_secs))]);
    let limits = Limits::full().tools;
    let cases = [
        (json!({}), None, limits.timeout),
        (json!({"s": 7}), None, Duration::from_secs(7)),
        (json!({"s": 1_000_000}), None, limits.max_timeout),
        (json!({"s": 7}), Some(Duration::from_secs(3)), Duration::from_secs(3)),
    ];
    for (args, timeout, expected) in cases {
        let began = Instant::now();
        let request =
            ToolRequest { timeout: timeout.unwrap_or(Duration::MAX), ..request("a", "deaf", args) };
        pipeline.submit_request(request).await.unwrap();
        let result = pipeline.wait_result("a").await;
        let Err(ToolError::TimedOut { limit, .. }) = result.result else { panic!("{result:?}") };
        assert_eq!(limit, expected);
        let took = began.elapsed();
        assert!(took >= expected && took < expected + Duration::from_secs(10), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_ends_itself_at_its_deadline_gives_what_it_has() {
    let punctual = probe("punctual", |_, context| async move {
        tokio::time::sleep(context.timeout).await;
        said("so far")
    });
    let pipeline = pipeline([punctual]);
    pipeline.submit_request(request("a", "punctual", json!({}))).await.unwrap();
    assert_eq!(words(pipeline.wait_result("a").await), "so far");
}

#[tokio::test]
async fn a_tool_that_panics_gives_a_result_and_frees_the_way() {
    let crash = |args: Value, _| async move {
        match args["how"].as_str() {
            Some("text") => panic!("broken"),
            Some("formatted") => panic!("broken {}", 7),
            Some("value") => std::panic::panic_any(7),
            _ => said("fine"),
        }
    };
    let pipeline = with_slots(
        1,
        [
            probe("crash", crash).writes(),
            probe("effect", crash).effect(|args| match args["how"].as_str() {
                Some(how) => panic!("no effect of {how}"),
                None => Effect::write("/file"),
            }),
            probe("timeout", crash).timeout(|_| panic!("no deadline")),
            // Before there is anything to wait for.
            probe("at once", |args: Value, _| {
                assert!(args["how"].is_null(), "no call");
                async { said("fine") }
            }),
        ],
    );
    let cases = [
        ("crash", "text", "the tool crashed: broken; this is a fault of VT Code"),
        ("crash", "formatted", "the tool crashed: broken 7; this is a fault of VT Code"),
        ("crash", "value", "the tool crashed: no message; this is a fault of VT Code"),
        ("effect", "x", "the tool crashed: no effect of x; this is a fault of VT Code"),
        ("timeout", "x", "the tool crashed: no deadline; this is a fault of VT Code"),
        ("at once", "x", "the tool crashed: no call; this is a fault of VT Code"),
    ];
    for (tool, how, expected) in cases {
        pipeline.submit_request(request("a", tool, json!({"how": how}))).await.unwrap();
        pipeline.submit_request(request("b", "crash", json!({}))).await.unwrap();
        assert_eq!(words(within(pipeline.wait_result("a")).await), expected);
        assert_eq!(words(within(pipeline.wait_result("b")).await), "fine");
    }
}

#[tokio::test]
async fn slots_bound_how_many_run() {
    for slots in [1, 2] {
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let full = Arc::new(Barrier::new(slots));
        let (now, peak) = (Arc::clone(&running), Arc::clone(&most));
        let counted = probe("counted", move |_, _| {
            let (now, peak, full) = (Arc::clone(&now), Arc::clone(&peak), Arc::clone(&full));
            async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Nobody leaves before all slots are taken.
                full.wait().await;
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                said("")
            }
        });
        let pipeline = with_slots(slots, [counted]);
        let ids: Vec<_> = (0..6).map(|n| n.to_string()).collect();
        for id in &ids {
            pipeline.submit_request(request(id, "counted", json!({}))).await.unwrap();
        }
        within(join_all(ids.iter().map(|id| pipeline.wait_result(id)))).await;
        assert_eq!(most.load(Ordering::SeqCst), slots);
    }
}

#[tokio::test]
async fn no_slot_is_held_while_waiting_for_a_conflicting_call() {
    let log = Log::default();
    let pipeline = with_slots(2, [noting("write", &log).writes(), noting("read", &log)]);
    for n in 0..4 {
        let args = json!({"n": n, "yields": 20});
        pipeline.submit_request(request(&n.to_string(), "write", args)).await.unwrap();
    }
    pipeline.submit_request(request("r", "read", json!({"n": 9, "yields": 0}))).await.unwrap();
    within(pipeline.wait_result("r")).await.result.unwrap();
    assert!(!log.all().contains(&"end 0".to_owned()), "the writers hold one slot: {:?}", log.all());
}

/// Tells when it is dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.take().unwrap().send(());
    }
}

/// A tool that holds on until its token is cancelled, and what tells that it runs and is gone.
fn holding() -> (Probe, oneshot::Receiver<()>, oneshot::Receiver<()>) {
    let (running, runs) = oneshot::channel();
    let (gone, is_gone) = oneshot::channel();
    let once = Mutex::new(Some((running, Dropped(Some(gone)))));
    let tool = probe("holding", move |_, context| {
        let (running, dropped) = once.lock().unwrap().take().unwrap();
        async move {
            let _dropped = dropped;
            running.send(()).unwrap();
            context.cancel.cancelled().await;
            Err(ToolError::Cancelled { name: "holding".to_owned() })
        }
    });
    (tool, runs, is_gone)
}

#[tokio::test]
async fn shutdown_ends_running_and_waiting_calls_and_later_ones_never_begin() {
    let log = Log::default();
    let (holding, runs, mut gone) = holding();
    let pipeline =
        pipeline([holding.writes(), noting("write", &log).writes(), noting("read", &log)]);
    pipeline.submit_request(request("running", "holding", json!({}))).await.unwrap();
    pipeline.submit_request(request("waiting", "write", json!({}))).await.unwrap();
    within(runs).await.unwrap();

    within(pipeline.shutdown()).await;
    gone.try_recv().expect("the call is gone when shutdown returns");
    pipeline.submit_request(request("later", "read", json!({}))).await.unwrap();
    for id in ["running", "waiting", "later"] {
        let result = within(pipeline.wait_result(id)).await;
        assert!(matches!(result.result, Err(ToolError::Cancelled { .. })), "{result:?}");
    }
    assert_eq!(log.all(), <[&str; 0]>::default());
    within(pipeline.shutdown()).await;
}

#[tokio::test]
async fn a_pipeline_that_is_dropped_leaves_no_call_behind() {
    let (holding, runs, gone) = holding();
    let pipeline = pipeline([holding]);
    pipeline.submit_request(request("a", "holding", json!({}))).await.unwrap();
    within(runs).await.unwrap();
    drop(pipeline);
    within(gone).await.unwrap();
}

#[tokio::test]
async fn tools_are_appended_and_a_taken_name_is_refused() {
    let pipeline = pipeline([probe("one", |_, _| async { said("1") })]);
    let registry = pipeline.registry();
    let before = registry.specs();
    assert!(registry.register(Arc::new(probe("two", |_, _| async { said("2") }))));
    assert!(!registry.register(Arc::new(probe("one", |_, _| async { said("another") }))));
    let after = registry.specs();
    assert!(after.starts_with(&before));
    let names: Vec<_> = after.iter().map(|spec| spec.name.as_ref()).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(registry.execute_tool_optimized("one", json!({})).await.unwrap().text, "1");
    assert!(registry.get_tool_metadata("three").is_none());

    // A tool that comes later is there for the next call.
    pipeline.submit_request(request("a", "two", json!({}))).await.unwrap();
    assert_eq!(words(within(pipeline.wait_result("a")).await), "2");
}

#[test]
fn of_many_who_register_one_name_exactly_one_wins() {
    let registry = OptimizedToolRegistry::with_tools(Vec::new(), Limits::full().tools);
    let added: usize = std::thread::scope(|scope| {
        let register = || {
            let mine = probe("same", |_, _| async { said("") });
            usize::from(registry.register(Arc::new(mine)))
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(register)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((added, registry.specs().len()), (1, 1));
}

#[tokio::test]
async fn a_direct_call_waits_for_a_slot_like_all_others() {
    let (holding, runs, _gone) = holding();
    let log = Log::default();
    let pipeline = with_slots(1, [holding, noting("read", &log)]);
    let (request, cancel) = cancellable("a", "holding");
    pipeline.submit_request(request).await.unwrap();
    within(runs).await.unwrap();
    let direct = pipeline.registry().execute_tool_optimized("read", json!({"n": 1}));
    tokio::pin!(direct);
    assert!(futures_util::poll!(&mut direct).is_pending());
    cancel.cancel();
    within(direct).await.unwrap();
    assert_eq!(log.all(), ["begin 1", "end 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_direct_call_waits_for_a_slot_no_longer_than_its_deadline() {
    let log = Log::default();
    let quick = noting("read", &log).timeout(|_| Some(Duration::from_secs(3)));
    let pipeline = with_slots(1, [deaf(), quick]);
    let (request, cancel) = cancellable("a", "deaf");
    pipeline.submit_request(request).await.unwrap();
    tokio::task::yield_now().await;
    let late = pipeline.registry().execute_tool_optimized("read", json!({"n": 1})).await;
    assert!(matches!(late, Err(ToolError::TimedOut { .. })), "{late:?}");
    cancel.cancel();
    within(pipeline.wait_result("a")).await;
    let metrics = pipeline.get_metrics().await;
    let read = &metrics.tools[1];
    assert_eq!((read.timed_out, read.failed, read.ran.count), (1, 1, 0));
    assert_eq!((metrics.waiting, metrics.running, metrics.completed), (0, 0, 2));
    assert_eq!(log.all(), <[&str; 0]>::default());
}

#[tokio::test]
async fn a_direct_call_that_is_dropped_ends_and_is_counted() {
    let (holding, runs, gone) = holding();
    let pipeline = pipeline([holding.writes()]);
    let registry = pipeline.registry();
    let call = Box::pin(registry.execute_tool_optimized("holding", json!({})));
    let (call, ()) = match futures_util::future::select(call, runs).await {
        futures_util::future::Either::Right((begun, call)) => (call, begun.unwrap()),
        futures_util::future::Either::Left(_) => panic!("it holds on"),
    };
    drop(call);
    within(gone).await.unwrap();
    let metrics = pipeline.get_metrics().await;
    assert_eq!((metrics.waiting, metrics.running, metrics.completed), (0, 0, 1));
    assert_eq!((metrics.tools[0].cancelled, metrics.tools[0].failed), (1, 1));
}

/// One call of a random workload.
#[derive(Debug, Clone)]
struct Job {
    effect: Effect,
    yields: u64,
    cancelled: bool,
}

fn job() -> impl Strategy<Value = Job> {
    let path = || prop::sample::select(vec!["/a", "/a/x", "/a/y", "/b"]).prop_map(Into::into);
    let paths = move || prop::collection::vec(path(), 0..2);
    (paths(), paths(), prop::bool::weighted(0.15), 0..4u64, prop::bool::weighted(0.15)).prop_map(
        |(reads, writes, opaque, yields, cancelled)| Job {
            effect: Effect { reads, writes, opaque },
            yields,
            cancelled,
        },
    )
}

proptest! {
    #[test]
    fn conflicting_calls_never_overlap_and_keep_their_order(
        jobs in prop::collection::vec(job(), 1..10),
        slots in 1..4usize,
    ) {
        let log = Log::default();
        let effects: Vec<_> = jobs.iter().map(|job| job.effect.clone()).collect();
        let tool = noting("job", &log)
            .effect(move |args| effects[usize::try_from(args["n"].as_u64().unwrap()).unwrap()].clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let cancelled: Vec<bool> = runtime.block_on(async {
            let pipeline = with_slots(slots, [tool]);
            for (n, job) in jobs.iter().enumerate() {
                let args = json!({"n": n, "yields": job.yields});
                let request = request(&n.to_string(), "job", args);
                let cancel = request.context.cancel.clone();
                pipeline.submit_request(request).await.unwrap();
                if job.cancelled {
                    tokio::task::yield_now().await;
                    cancel.cancel();
                }
            }
            let ids: Vec<_> = (0..jobs.len()).map(|n| n.to_string()).collect();
            let results = within(join_all(ids.iter().map(|id| pipeline.wait_result(id)))).await;
            results.into_iter().map(|result| result.result.is_err()).collect()
        });
        let log = log.all();
        let at = |what: &str, n: usize| log.iter().position(|line| *line == format!("{what} {n}"));
        for (n, job) in jobs.iter().enumerate() {
            prop_assert_eq!(at("begin", n).is_none(), cancelled[n], "call {}", n);
            prop_assert!(job.cancelled || !cancelled[n], "call {} was not run", n);
            for (m, later) in jobs.iter().enumerate().skip(n + 1) {
                if !job.effect.conflicts(&later.effect) {
                    continue;
                }
                if let (Some(end), Some(begin)) = (at("end", n), at("begin", m)) {
                    prop_assert!(end < begin, "{} and {}: {:?}", n, m, log);
                }
            }
        }
    }
}
