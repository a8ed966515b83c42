//! Heap allocations of a session, counted: in a program of its own, because an allocator belongs to
//! a whole program.
//!
//! A turn is one request, its streamed answer with one small call, the call, its result, and their
//! records in the journal; it is steady once everything that is kept is there. Counted is each time
//! that the engine's thread asks the allocator for memory or for more of it, in a debug build: the
//! engine, the client, the pipeline, the tool and the runtime's tasks for them. Named apart is what
//! the HTTP library asks for by itself, read by sending as many requests through it alone. Not
//! counted is what another thread does: the model, and what waits for the disk.
//!
//! Where they come from: `valgrind --tool=dhat --num-callers=60` before this test's program.

use std::sync::{Arc, mpsc};

use serde_json::{Value, json};
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::{AgentLimits, Limits};
use vtcode_core::core::event::SessionHeader;
use vtcode_core::core::journal::{self, Sessions};
use vtcode_core::core::optimized_agent::{End, OptimizedAgentEngine};
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::tools::async_pipeline::AsyncToolPipeline;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_core::tools::tool::{CallContext, Effect, Tool, ToolFuture, ToolOutput, ToolSpec};
use vtcode_testkit::{Allocations, Counting, Reply, ScriptedModel, call, say};

#[global_allocator]
static ALLOCATOR: Counting<std::alloc::System> = Counting(std::alloc::System);

/// A small tool that reads nothing and answers with what it was asked.
struct Small(ToolSpec);

impl Tool for Small {
    fn spec(&self) -> &ToolSpec {
        &self.0
    }

    fn effect(&self, _args: &Value) -> Effect {
        Effect::default()
    }

    fn call<'a>(&'a self, args: &'a Value, _context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async move { Ok(ToolOutput::text(format!("{} is done", args["n"]))) })
    }
}

/// Starts a model on a thread of its own; it ends with the sender.
fn model(replies: Vec<Reply>) -> (String, tokio::sync::oneshot::Sender<()>) {
    let (tell, url) = mpsc::channel();
    let (done, is_done) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let model = ScriptedModel::start(replies).await;
            tell.send(model.openai_url()).unwrap();
            // The sender is dropped at the end.
            let _ = is_done.await;
        });
    });
    (url.recv().unwrap(), done)
}

/// Returns what a whole session of so many turns allocates.
fn session(turns: usize) -> u64 {
    let calls = (0..turns).map(|n| call("small", json!({"n": n})));
    let (base_url, _model) = model(calls.chain([say("Done.")]).collect());
    let state = tempfile::tempdir().unwrap();
    let header = SessionHeader {
        format: journal::FORMAT,
        session_id: "test".to_owned(),
        started_at_ms: 1,
        cwd: state.path().to_owned(),
        add_dirs: Vec::new(),
        provider: "openai".to_owned(),
        base_url: base_url.clone(),
        model: "scripted".to_owned(),
        system: "Work.".to_owned(),
    };
    let limits = Limits::full();
    let spec = ToolSpec {
        name: "small".into(),
        description: "A test.".into(),
        parameters: json!({"type": "object", "properties": {"n": {"type": "integer"}}}),
    };
    let tools = OptimizedToolRegistry::with_tools(vec![Arc::new(Small(spec))], limits.tools);
    let pipeline = Arc::new(AsyncToolPipeline::with_registry(Arc::new(tools)));
    let endpoint = Endpoint::new(Wire::OpenAiChat, base_url, "scripted");
    let client = OptimizedLLMClient::with_endpoint(endpoint, limits.client).unwrap();
    let engine = OptimizedAgentEngine::new("test", Arc::clone(&pipeline), Arc::new(client))
        .with_limits(AgentLimits { max_turns: u32::MAX, ..limits.agent })
        .with_system("Work.")
        .with_journal(Sessions::below(state.path()).create(header).unwrap());
    // One thread for everything but what blocks: the disk's turn is not counted.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (outcome, asked) = Allocations::during(|| {
        runtime.block_on(async {
            engine.submit("go").await.unwrap();
            engine.close_input();
            engine.start().await.unwrap()
        })
    });
    assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())));
    assert_eq!(outcome.turns as usize, turns + 1);
    runtime.block_on(pipeline.shutdown());
    asked.count
}

/// Returns what the same requests allocate when nothing but the HTTP library makes them: each body
/// sent, each answer read to its end.
fn bare(bodies: usize) -> u64 {
    let (base_url, _model) = model((0..bodies).map(|n| call("small", json!({"n": n}))).collect());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The client installs what its TLS needs; loopback needs none.
    let endpoint = Endpoint::new(Wire::OpenAiChat, base_url.clone(), "scripted");
    OptimizedLLMClient::with_endpoint(endpoint, Limits::full().client).unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = reqwest::Url::parse(&format!("{base_url}/chat/completions")).unwrap();
    let body = bytes::Bytes::from_static(
        br#"{"model":"scripted","stream":true,"messages":[{"role":"user","content":"go"}]}"#,
    );
    let request = || {
        let json = (reqwest::header::CONTENT_TYPE, "application/json");
        http.post(url.clone()).header(json.0, json.1).body(body.clone())
    };
    let ((), asked) = Allocations::during(|| {
        runtime.block_on(async {
            for _ in 0..bodies {
                let mut answer = request().send().await.unwrap().error_for_status().unwrap();
                while answer.chunk().await.unwrap().is_some() {}
            }
        });
    });
    asked.count
}

/// Returns what one more turn costs, once everything that is kept is there.
fn by_turn(session: impl Fn(usize) -> u64) -> f64 {
    let (few, many) = (50, 250);
    session(1);
    (session(many) - session(few)) as f64 / (many - few) as f64
}

/// A turn's allocations once everything that is kept is there: what more turns cost, by turn.
#[test]
fn a_steady_turn_with_one_small_call_allocates_little() {
    let (all, http) = (by_turn(session), by_turn(bare));
    let ours = all - http;
    println!("{all:.1} allocations a turn, {http:.1} of them the HTTP library's, {ours:.1} ours");
    // Twelve of ours are the library's boxes round a connector with a layer, two for each of six
    // times that it clones one; the client has such a layer to open connections ahead.
    assert!(ours <= 60.0, "{ours} allocations a turn");
}
