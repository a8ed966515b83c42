//! Every key of the optimizations changes what happens: one proof for each, with the real parts.
//! Two have theirs elsewhere: whether a validator is kept shows in allocations
//! (`tests/allocations.rs`), and whether a run is held against others in the program's own tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::env::Env;
use vtcode_core::config::layers::{KEYS, Settings, Sources};
use vtcode_core::config::limits::{ClientLimits, Limits};
use vtcode_core::core::event::{Event, EventKind};
use vtcode_core::core::memory_pool::{PoolStatistics, global_pool};
use vtcode_core::core::performance_profiler::Profile;
use vtcode_core::llm::message::LLMRequest;
use vtcode_core::llm::optimized_client::{ClientMetrics, OptimizedLLMClient};
use vtcode_core::tools::async_pipeline::{
    AsyncToolPipeline, ExecutionContext, ExecutionPriority, ToolRequest,
};
use vtcode_core::tools::tool::ToolOutput;
use vtcode_testkit::{ScriptedModel, call, say};

use crate::optimization_integration_tests::{behind_one_slot, run};
use crate::session::{POOL, Probe, Session};

fn limits(text: &str) -> Limits {
    let user_file = Some(("vtcode.toml".into(), text.to_owned()));
    let sources = Sources { user_file, ..Sources::default() };
    let mut limits = Settings::resolve(&sources, &Env::default()).unwrap().limits;
    limits.client.backoff = Duration::from_millis(1);
    limits
}

/// Says how a key's value, or none, shows in what happens.
async fn effect(key: &str, value: Option<&str>) -> String {
    let mut text = value.map_or_else(String::new, |value| format!("{key} = {value}\n"));
    if key.ends_with("rate_limit_rps") {
        // An answer that was kept is no request.
        text += "client.burst = 1\noptimization.llm_client.response_cache_size = 0\n";
    }
    let limits = limits(&text);
    let _alone = POOL.lock().await;
    match key.strip_prefix("optimization.").unwrap() {
        "memory_pool.enabled" | "memory_pool.max_string_pool_size" => {
            let strings = pooled(&limits, || {
                (0..70).for_each(|_| global_pool().return_string("some text".to_owned()));
            });
            format!("keeps {} of 70 strings", strings.kept)
        }
        "memory_pool.max_vec_pool_size" => {
            let lists = pooled(&limits, || {
                (0..20).for_each(|_| global_pool().return_vec(Vec::with_capacity(4)));
            });
            format!("keeps {} of 20 lists", lists.kept)
        }
        "memory_pool.max_value_pool_size" => {
            let strings = pooled(&limits, || {
                global_pool().return_value(json!(vec!["text"; 50]));
            });
            format!("keeps {} of 50 strings of a value", strings.kept)
        }
        "tool_registry.max_concurrent_tools" | "agent_execution.use_optimized_loop" => {
            format!("{} of 3 calls at once", most_at_once(limits).await)
        }
        "tool_registry.use_optimized_registry" => {
            let replies = vec![call("list_files", json!({})), say("Done.")];
            let tools = run(limits, replies).await.1.tools;
            format!("{} tools counted", tools.iter().filter(|tool| tool.ran.count > 0).count())
        }
        "async_pipeline.max_batch_size" | "async_pipeline.enable_batching" => {
            let grep = |pattern: &str| call("grep_file", json!({"pattern": pattern}));
            let calls = ["alpha", "beta", "a", "b"].map(grep).to_vec();
            let sizes = behind_one_slot(limits, calls).await.1.batch_sizes;
            let largest = (1..).zip(&sizes).filter(|(_, n)| **n > 0).map(|(size, _)| size).max();
            format!("batches of {}", largest.unwrap_or(0))
        }
        "async_pipeline.batch_timeout_ms" => {
            format!("a lonely call of low priority waits {:?}", wait_for_company(limits).await)
        }
        "async_pipeline.enable_caching" => {
            let read = || call("read_file", json!({"path": "a.txt"}));
            let replies = vec![read(), read(), say("Done.")];
            format!("{} kept result given again", run(limits, replies).await.1.cache_hits)
        }
        "llm_client.connection_pool_size" | "llm_client.enable_connection_pooling" => {
            let replies = vec![call("list_files", json!({})), say("Done.")];
            let session = Session::new(Wire::OpenAiChat, limits, replies).await;
            session.run(&["go"]).await;
            format!("{} connections for 2 requests", session.model.connections())
        }
        "llm_client.response_cache_size" => {
            let metrics = asked_twice(limits).await;
            format!("{} of 2 answers kept", metrics.answers_kept)
        }
        "llm_client.rate_limit_rps" => {
            let metrics = asked_twice(limits).await;
            format!("{} of 2 requests waited", metrics.waits)
        }
        "profiling.enabled" => {
            let session = Session::new(Wire::OpenAiChat, limits, vec![say("Done.")]).await;
            session.run(&["go"]).await;
            let told = session.count(|kind| matches!(kind, EventKind::OwnWork { .. }));
            format!("own work told {told} times")
        }
        "profiling.monitor_interval_ms" => {
            let mut profile = Profile::monitored(limits.profiling.monitor_interval);
            for ms in 1..=1000 {
                let warning = EventKind::Warning { message: String::new() };
                profile.take(&Event { at: Duration::from_millis(ms), kind: warning });
            }
            format!("{} readings in a second", profile.monitor.unwrap().readings())
        }
        other => panic!("`{other}` has no proof that it changes anything"),
    }
}

/// The key, a value, what happens without it and what happens with it.
const PROOFS: [(&str, &str, &str, &str); 19] = [
    ("memory_pool.enabled", "false", "keeps 64 of 70 strings", "keeps 0 of 70 strings"),
    ("memory_pool.max_string_pool_size", "3", "keeps 64 of 70 strings", "keeps 3 of 70 strings"),
    (
        "memory_pool.max_value_pool_size",
        "9",
        "keeps 31 of 50 strings of a value",
        "keeps 8 of 50 strings of a value",
    ),
    ("memory_pool.max_vec_pool_size", "2", "keeps 16 of 20 lists", "keeps 2 of 20 lists"),
    ("tool_registry.max_concurrent_tools", "2", "3 of 3 calls at once", "2 of 3 calls at once"),
    ("tool_registry.use_optimized_registry", "false", "1 tools counted", "0 tools counted"),
    ("async_pipeline.max_batch_size", "2", "batches of 4", "batches of 2"),
    ("async_pipeline.enable_batching", "false", "batches of 4", "batches of 0"),
    (
        "async_pipeline.batch_timeout_ms",
        "5000",
        "a lonely call of low priority waits 100ms",
        "a lonely call of low priority waits 5s",
    ),
    (
        "async_pipeline.enable_caching",
        "false",
        "1 kept result given again",
        "0 kept result given again",
    ),
    (
        "llm_client.connection_pool_size",
        "0",
        "1 connections for 2 requests",
        "2 connections for 2 requests",
    ),
    (
        "llm_client.enable_connection_pooling",
        "false",
        "1 connections for 2 requests",
        "2 connections for 2 requests",
    ),
    ("llm_client.response_cache_size", "0", "1 of 2 answers kept", "0 of 2 answers kept"),
    ("llm_client.rate_limit_rps", "2", "0 of 2 requests waited", "1 of 2 requests waited"),
    ("agent_execution.use_optimized_loop", "false", "3 of 3 calls at once", "1 of 3 calls at once"),
    ("profiling.enabled", "true", "own work told 0 times", "own work told 1 times"),
    ("profiling.monitor_interval_ms", "500", "11 readings in a second", "3 readings in a second"),
    // Proved elsewhere.
    ("tool_registry.hot_cache_size", "", "", ""),
    ("profiling.enable_regression_testing", "", "", ""),
];

#[tokio::test]
async fn every_key_of_the_optimizations_changes_what_happens() {
    let elsewhere = ["max_memory_mb", "enable_performance_prediction"];
    for key in KEYS {
        let Some(name) = key.name.strip_prefix("optimization.") else { continue };
        if elsewhere.iter().any(|other| name.ends_with(other)) {
            continue;
        }
        let proof = PROOFS.iter().find(|proof| proof.0 == name);
        let (_, value, without, with) = proof.unwrap_or_else(|| panic!("no proof for `{name}`"));
        if value.is_empty() {
            continue;
        }
        assert_eq!(effect(key.name, None).await, *without, "{name} as shipped");
        assert_eq!(effect(key.name, Some(value)).await, *with, "{name} = {value}");
    }
}

/// What became of the buffers of this thread in some work. The limits of the pool are the
/// process's: who sets them holds [`POOL`].
fn pooled(limits: &Limits, work: impl FnOnce()) -> PoolStatistics {
    let pool = global_pool();
    pool.set_limits(limits.pool);
    pool.shed();
    let before = pool.statistics_of_this_thread();
    work();
    let mut after = pool.statistics_of_this_thread();
    after.kept -= before.kept;
    after
}

async fn most_at_once(limits: Limits) -> usize {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let probe = Probe::new("probe", move |_| {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Whoever may run beside this one gets the chance to.
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(ToolOutput::text("ran"))
        }
    });
    let ask = |n: u64| call("probe", json!({"n": n}));
    let replies = vec![ask(1).and(ask(2)).and(ask(3)), say("Done.")];
    let session = Session::new(Wire::OpenAiChat, limits, replies).await.tool(probe);
    session.run(&["go"]).await;
    seen.load(Ordering::SeqCst)
}

async fn wait_for_company(limits: Limits) -> Duration {
    let session = Session::new(Wire::OpenAiChat, limits, Vec::new()).await;
    let pipeline = AsyncToolPipeline::with_registry(session.registry());
    tokio::time::pause();
    let began = Instant::now();
    let request = ToolRequest {
        id: "one".to_owned(),
        tool_name: "grep_file".to_owned(),
        args: json!({"pattern": "alpha"}),
        priority: ExecutionPriority::Low,
        timeout: Duration::from_secs(60),
        context: ExecutionContext::default(),
    };
    let id = pipeline.submit_request(request).await.unwrap();
    pipeline.wait_result(&id).await.result.unwrap();
    let waited = began.elapsed();
    tokio::time::resume();
    // The clock of the runtime counts in milliseconds.
    Duration::from_millis(u64::try_from(waited.as_millis()).unwrap() / 10 * 10)
}

async fn asked_twice(limits: Limits) -> ClientMetrics {
    let model = ScriptedModel::start(vec![say("One."), say("Two.")]).await;
    let endpoint = Endpoint::new(Wire::OpenAiChat, model.openai_url(), "scripted");
    let client = OptimizedLLMClient::with_endpoint(endpoint, limits.client).unwrap();
    for _ in 0..2 {
        let request = LLMRequest { temperature: Some(0.0), ..LLMRequest::from_prompt("hi") };
        client.chat_optimized(request).await.unwrap();
    }
    client.get_metrics().await
}

#[tokio::test]
async fn a_bound_on_the_answers_tokens_makes_requests_wait() {
    // Nobody knows yet how long an answer will be: the guess of the first fills the minute.
    let text = |bound: &str| format!("{bound}\noptimization.llm_client.response_cache_size = 0\n");
    let bound = "client.output_tokens_per_minute = 30000";
    for (bound, waits) in [("", 0), (bound, 0), ("client.output_tokens_per_minute = 2", 1)] {
        let limits = limits(&text(bound));
        let model = ScriptedModel::start(vec![say("One.").usage(9, 0, 1), say("Two.")]).await;
        let endpoint = Endpoint::new(Wire::OpenAiChat, model.openai_url(), "scripted");
        let limits = ClientLimits { total: Duration::from_secs(1), ..limits.client };
        let client = OptimizedLLMClient::with_endpoint(endpoint, limits).unwrap();
        let ask = || client.chat_optimized(LLMRequest::from_prompt("hi"));
        let second = (ask().await, ask().await).1;
        assert_eq!(second.is_err(), waits > 0, "{bound}: {second:?}");
    }
}
