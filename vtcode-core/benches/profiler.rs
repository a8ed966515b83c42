//! What measuring costs: a record against a list behind a lock, on one thread and on two, and a
//! measured session against one that is not. The sides run in turns; prints medians and ratios with
//! their 95 % interval. Asserts no time.
//!
//! Instructions: `valgrind --tool=callgrind` on this program with `--bench records` runs the records
//! alone, 1,000 of each side. `--bench profiler -- proof` tries the comparison itself on real times.

use std::hint::black_box;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::Limits;
use vtcode_core::core::optimized_agent::OptimizedAgentEngine;
use vtcode_core::core::performance_profiler::baseline::{
    ALARM_CONFIDENCE, Verdict, compare_pairs, median,
};
use vtcode_core::core::performance_profiler::turns::Waited;
use vtcode_core::core::performance_profiler::{PerformanceProfiler, Profile, Recorder};
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::safety::permissions::Permissions;
use vtcode_core::safety::sandbox::Sandbox;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::async_pipeline::AsyncToolPipeline;
use vtcode_core::tools::builtin;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_testkit::{ScriptedModel, call, say};

fn row(name: &str, pairs: &[(f64, f64)], unit: &str) {
    let [other, ours] = [0, 1].map(|side| {
        let mut taken: Vec<f64> = pairs.iter().map(|p| if side == 0 { p.0 } else { p.1 }).collect();
        median(&mut taken)
    });
    let found = compare_pairs(pairs, 0.95).expect("the rounds suffice");
    let (ratio, low, high) = (found.ratio, found.low, found.high);
    println!("{name:<46} {other:>9.2} → {ours:>9.2} {unit} = {ratio:.3} [{low:.3} {high:.3}]");
}

fn each(count: u32, work: impl Fn(Duration)) -> f64 {
    let began = Instant::now();
    for n in 0..count {
        work(black_box(Duration::from_nanos(1000 + u64::from(n))));
    }
    began.elapsed().as_nanos() as f64 / f64::from(count)
}

fn record(recorder: &Recorder, list: &Mutex<Vec<Duration>>, count: u32) -> (f64, f64) {
    let locked = each(count, |took| list.lock().expect("nobody panics").push(took));
    list.lock().expect("nobody panics").clear();
    (locked, each(count, |took| recorder.record(took)))
}

fn records() {
    let profiler = PerformanceProfiler::new();
    let recorder = profiler.begin("bench").expect("it is the first");
    let list = Mutex::new(Vec::with_capacity(200_000));
    let alone: Vec<_> = (0..101).map(|_| record(&recorder, &list, 10_000)).collect();
    row("a record: list behind a lock → buckets, ns", &alone, "ns");
    let beside: Vec<_> = (0..101)
        .map(|_| {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| record(&recorder, &list, 10_000));
                record(&recorder, &list, 10_000);
                other.join().expect("it does not panic")
            })
        })
        .collect();
    row("  the same on two threads, into one", &beside, "ns");
}

const TURNS: usize = 20;

/// Returns our own part of a session's turns, in microseconds.
async fn session(folder: &Path, measured: bool) -> f64 {
    let mut limits = Limits::full();
    limits.agent.measured = measured;
    limits.client.measured = measured;
    limits.tools.measured = measured;
    let read = |n: usize| call("read_file", json!({"path": "a.txt", "start": n + 1}));
    let replies = (0..TURNS).map(read).chain([say("Done.")]).collect();
    let model = ScriptedModel::start(replies).await;
    let workspace = Arc::new(Workspace::open(folder).expect("the folder was just made"));
    let off = Arc::new(Sandbox::off());
    let tools = builtin::all(&workspace, folder.join("spool"), [], off, &limits.tools);
    let registry = OptimizedToolRegistry::with_tools(tools, limits.tools);
    let registry = registry.with_permissions(Arc::new(Permissions::for_workspace(workspace)));
    let pipeline = Arc::new(AsyncToolPipeline::with_registry(Arc::new(registry)));
    let endpoint = Endpoint::new(Wire::OpenAiChat, model.openai_url(), "scripted");
    let client = OptimizedLLMClient::with_endpoint(endpoint, limits.client);
    let profile = Arc::new(Mutex::new(Profile::default()));
    let taken = Arc::clone(&profile);
    let client = Arc::new(client.expect("the endpoint is right"));
    let engine = OptimizedAgentEngine::new("bench", Arc::clone(&pipeline), client)
        .with_limits(limits.agent)
        .on_event(move |event| taken.lock().expect("nobody panics").take(event));
    engine.submit("go").await.expect("it is open");
    engine.close_input();
    engine.start().await.expect("it was not started");
    pipeline.shutdown().await;
    let profile = profile.lock().expect("nobody panics");
    assert_eq!(profile.turns.count(), TURNS as u64 + 1);
    let own =
        profile.turns.iter().map(|turn| turn.critical_path().waited(|on| *on != Waited::Model));
    own.sum::<Duration>().as_secs_f64() * 1e6 / (TURNS + 1) as f64
}

/// Some work of the processor's, in nanoseconds; `rounds` is how much.
fn work(rounds: u64) -> f64 {
    let began = Instant::now();
    let mut sum = 0u64;
    for n in 0..rounds {
        sum = black_box(sum.rotate_left(5) ^ n);
    }
    black_box(sum);
    began.elapsed().as_nanos() as f64
}

/// Tries the comparison on real times of this machine, as busy as it is: the same against itself,
/// and against itself with 1 % and 100 % more to do, in turns.
fn proof() {
    const ROUNDS: u64 = 20_000;
    let slower = |pairs: usize, more: u64| {
        let pairs: Vec<_> = (0..pairs).map(|_| (work(ROUNDS), work(ROUNDS + more))).collect();
        let found = compare_pairs(&pairs, ALARM_CONFIDENCE).expect("there are enough");
        found.verdict(0.0) == Verdict::Slower
    };
    let count = |times: usize, pairs, more| (0..times).filter(|_| slower(pairs, more)).count();
    println!("real times, the same in turns: {} false alarms in 200", count(200, 200, 0));
    println!("  1 % more to do: found in {} of 10", count(10, 500, ROUNDS / 100));
    println!("  twice as much: found in {} of 10", count(10, 20, ROUNDS));
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // `cargo test --benches` builds and starts this, too: that it starts is all it wants to know.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    if args.iter().any(|arg| arg == "records") {
        let profiler = PerformanceProfiler::new();
        let recorder = profiler.begin("bench").expect("it is the first");
        record(&recorder, &Mutex::new(Vec::with_capacity(1000)), 1000);
        return;
    }
    if args.iter().any(|arg| arg == "proof") {
        proof();
        return;
    }
    records();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let folder = tempfile::tempdir().expect("a folder can be made");
    std::fs::write(folder.path().join("a.txt"), "line\n".repeat(100)).expect("writable");
    let pairs: Vec<_> = runtime.block_on(async {
        let mut pairs = Vec::new();
        for _ in 0..41 {
            let plain = session(folder.path(), false).await;
            pairs.push((plain, session(folder.path(), true).await));
        }
        pairs
    });
    row("a turn without its model: not measured → measured", &pairs[1..], "µs");
}
