//! The pipeline's figures: each row runs the product's path and what it is held against in turns,
//! in one process, and prints both medians. Asserts no time: a figure is read, not obeyed.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use serde_json::{Value, json};
use vtcode_core::config::limits::{Limits, ToolLimits};
use vtcode_core::laboratory::waits::Waits;
use vtcode_core::safety::permissions::Permissions;
use vtcode_core::safety::sandbox::Sandbox;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::async_pipeline::{
    AsyncToolPipeline, ExecutionContext, ExecutionPriority, ToolRequest, ToolResult,
};
use vtcode_core::tools::builtin;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;

fn sleepers(slots: usize) -> AsyncToolPipeline {
    let limits = ToolLimits { max_concurrent: slots, ..Limits::full().tools };
    let tools = vec![Waits::named("sleep")];
    AsyncToolPipeline::with_registry(Arc::new(OptimizedToolRegistry::with_tools(tools, limits)))
}

/// The built-in tools over a folder.
fn builtins(folder: &Path, limits: ToolLimits) -> AsyncToolPipeline {
    let workspace = Arc::new(Workspace::open(folder).expect("the folder was just made"));
    let off = Arc::new(Sandbox::off());
    let tools = builtin::all(&workspace, folder.join("spool"), [], off, &limits);
    let permissions = Arc::new(Permissions::for_workspace(workspace));
    let registry = OptimizedToolRegistry::with_tools(tools, limits).with_permissions(permissions);
    AsyncToolPipeline::with_registry(Arc::new(registry))
}

async fn submit(
    pipeline: &AsyncToolPipeline,
    tool: &str,
    args: Value,
    priority: ExecutionPriority,
) -> String {
    let request = ToolRequest {
        id: uuid::Uuid::now_v7().to_string(),
        tool_name: tool.to_owned(),
        args,
        priority,
        timeout: Duration::MAX,
        context: ExecutionContext::default(),
    };
    pipeline.submit_request(request).await.expect("no more than may wait")
}

/// Runs calls together and returns their results.
async fn together(
    pipeline: &AsyncToolPipeline,
    tool: &str,
    args: impl IntoIterator<Item = Value>,
) -> Vec<ToolResult> {
    let mut ids = Vec::new();
    for args in args {
        ids.push(submit(pipeline, tool, args, ExecutionPriority::Normal).await);
    }
    let results = join_all(ids.iter().map(|id| pipeline.wait_result(id))).await;
    assert!(results.iter().all(|result| result.result.is_ok()), "{results:?}");
    results
}

async fn timed<T>(work: impl Future<Output = T>) -> Duration {
    let began = Instant::now();
    black_box(work.await);
    began.elapsed()
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

/// Runs two sides in turns and returns their medians.
async fn sides<A, B>(
    times: usize,
    ours: impl AsyncFn() -> A,
    other: impl AsyncFn() -> B,
) -> (Duration, Duration) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..times {
        a.push(timed(ours()).await);
        b.push(timed(other()).await);
    }
    (median(a), median(b))
}

fn row(what: &str, ours: Duration, against: &str, other: Duration) {
    let factor = ours.as_secs_f64() / other.as_secs_f64();
    println!("{what:<52} {ours:>11.3?}  {against:<24} {other:>11.3?}  {factor:>7.3} x");
}

fn sleeping(ms: impl IntoIterator<Item = u64>) -> Vec<Value> {
    ms.into_iter().map(|ms| json!({"ms": ms})).collect()
}

async fn unordered(slots: usize, ms: Vec<u64>) {
    let sleeps = ms.into_iter().map(|ms| tokio::time::sleep(Duration::from_millis(ms)));
    stream::iter(sleeps).buffer_unordered(slots).collect::<Vec<()>>().await;
}

async fn slots() {
    let pipeline = sleepers(4);
    let even = || vec![50; 20];
    let (ours, other) = sides(
        7,
        async || together(&pipeline, "sleep", sleeping(even())).await,
        async || unordered(4, even()).await,
    )
    .await;
    row("20 calls of 50 ms on 4 slots", ours, "ideal", Duration::from_millis(250));
    row("the same", ours, "buffer_unordered(4)", other);

    let mixed = || [vec![400; 4], vec![10; 16]].concat();
    let (ours, other) = sides(
        5,
        async || together(&pipeline, "sleep", sleeping(mixed())).await,
        async || unordered(4, mixed()).await,
    )
    .await;
    row("4 calls of 400 ms and 16 of 10 ms on 4 slots", ours, "buffer_unordered(4)", other);
}

async fn overhead() {
    let pipeline = sleepers(8);
    let (ours, bare) = sides(
        15,
        async || together(&pipeline, "sleep", sleeping([50])).await,
        async || tokio::time::sleep(Duration::from_millis(50)).await,
    )
    .await;
    row("one call of 50 ms", ours, "bare", bare);
    let nothing = || std::iter::repeat_n(json!({}), 200);
    let (ours, bare) = sides(
        101,
        async || together(&pipeline, "sleep", nothing()).await,
        async || join_all((0..200).map(|_| tokio::spawn(async {}))).await,
    )
    .await;
    row("200 calls that do nothing", ours, "200 spawned tasks", bare);
}

async fn urgent() {
    let pipeline = sleepers(4);
    let mut waited = Vec::new();
    for _ in 0..9 {
        let mut ids = Vec::new();
        for _ in 0..100 {
            ids.push(submit(&pipeline, "sleep", json!({"ms": 20}), ExecutionPriority::Low).await);
        }
        // The slots are taken and the rest waits.
        while pipeline.registry().waiting() < 96 {
            tokio::task::yield_now().await;
        }
        let id = submit(&pipeline, "sleep", json!({}), ExecutionPriority::Critical).await;
        waited.push(pipeline.wait_result(&id).await.waited);
        join_all(ids.iter().map(|id| pipeline.wait_result(id))).await;
    }
    let slot = Duration::from_millis(20);
    row("a Critical call behind 100 queued Low ones of 20 ms", median(waited), "one slot", slot);
}

fn lookup() {
    const ROUNDS: usize = 500_000;
    let names: Vec<String> = (0..40).map(|n| format!("tool_number_{n}")).collect();
    let tools = names.iter().cloned().map(Waits::named).collect();
    let registry = OptimizedToolRegistry::with_tools(tools, Limits::full().tools);
    let look_up = || {
        let began = Instant::now();
        for name in names.iter().cycle().take(ROUNDS) {
            black_box(registry.id(black_box(name)));
        }
        began.elapsed() / ROUNDS as u32
    };
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..15 {
        alone.push(look_up());
        beside.push(std::thread::scope(|scope| {
            let other = scope.spawn(look_up);
            (look_up() + other.join().expect("a lookup does not panic")) / 2
        }));
    }
    row("lookup among 40 tools, 2 threads", median(beside), "1 thread", median(alone));
}

async fn cached_read(folder: &Path) {
    let line = "0123456789abcdef0123456789abcdef0123456789abcdef\n";
    std::fs::write(folder.join("large.txt"), line.repeat(100_000 / line.len())).expect("writable");
    // Evidence taken in the tick of a change cannot be kept.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let args = || [json!({"path": "large.txt"})];
    let limits = Limits::full().tools;
    let mut off = limits.clone();
    off.cache.entries = 0;
    off.share_reads = false;
    let (kept, fresh) = (builtins(folder, limits), builtins(folder, off));
    let (ours, other) = sides(
        501,
        async || together(&kept, "read_file", args()).await,
        async || together(&fresh, "read_file", args()).await,
    )
    .await;
    row("a cached read of a 100 kB file, with its check", ours, "read anew", other);
    let hits = kept.get_metrics().await.cache_hits;
    println!("{:<52} {hits:>11} of 500", "  served from the cache");
}

async fn searches(folder: &Path) {
    for n in 0..5_000 {
        let dir = folder.join(format!("tree/{:02}", n % 50));
        std::fs::create_dir_all(&dir).expect("writable");
        let lines = (0..40).map(|line| format!("line {line} of file {n}: fn item_{line}()\n"));
        let text = lines.collect::<Vec<_>>().concat();
        std::fs::write(dir.join(format!("{n}.rs")), text).expect("writable");
    }
    let patterns = ["item_7\\b.*x", "file 4321:", "fn absent", "[Ll]ine 39 of file 17:", "unsafe"];
    let args = || patterns.map(|pattern| json!({"pattern": pattern, "path": "tree"}));
    let mut limits = Limits::full().tools;
    limits.cache.entries = 0;
    let pipeline = builtins(folder, limits);
    let (batched, serial) = sides(
        7,
        async || together(&pipeline, "grep_file", args()).await,
        async || {
            for args in args() {
                together(&pipeline, "grep_file", [args]).await;
            }
        },
    )
    .await;
    row("five greps over 5,000 files, batched", batched, "one after the other", serial);
    println!("{:<52} {:>11.2} x faster", "  that is", serial.div_duration_f64(batched));
    let sizes = pipeline.get_metrics().await.batch_sizes;
    println!("{:<52} {:?}", "  batches of each size, from 1", &sizes[..5]);
}

fn main() {
    // `cargo test --benches` builds and starts this, too: that it starts is all it wants to know.
    if std::env::args().any(|arg| arg == "--test") || !std::env::args().any(|arg| arg == "--bench")
    {
        return;
    }
    // The product's runtime.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let folder = tempfile::tempdir().expect("a folder can be made");
    runtime.block_on(async {
        slots().await;
        overhead().await;
        urgent().await;
        cached_read(folder.path()).await;
        searches(folder.path()).await;
    });
    lookup();
}
