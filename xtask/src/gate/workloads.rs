//! What the gate counts: the parts of a turn, each in a fixed amount, and whole turns against a
//! scripted model. All input is fixed; nothing waits for a clock.

use std::hint::black_box;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::{Limits, ToolLimits};
use vtcode_core::core::conversation::Conversation;
use vtcode_core::core::event::{EventKind, SessionHeader};
use vtcode_core::core::journal::{self, Sessions};
use vtcode_core::core::memory_pool::global_pool;
use vtcode_core::core::optimized_agent::{End, OptimizedAgentEngine, Rehearsal};
use vtcode_core::core::performance_profiler::{PerformanceProfiler, Stopwatch};
use vtcode_core::laboratory::waits::Waits;
use vtcode_core::llm::message::{Images, Message, Part, Setup, ToolAnswer, ToolCall};
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::llm::provider::sse::SseParser;
use vtcode_core::llm::provider::{self, Provider};
use vtcode_core::safety::permissions::Permissions;
use vtcode_core::safety::sandbox::Sandbox;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::async_pipeline::{
    AsyncToolPipeline, ExecutionContext, ExecutionPriority, ToolRequest,
};
use vtcode_core::tools::builtin;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;

use super::count::{Meter, Options};

/// Turns before the first one that is counted.
const WARM_TURNS: u32 = 6;
/// Turns that are counted.
pub(super) const TURNS: u32 = 101;

/// Returns all turns of a session of which so many are counted: one more ends the last block, and
/// its answer has no call.
pub(super) fn all_turns(counted: u32) -> u32 {
    WARM_TURNS + counted + 1
}

pub(super) fn run(meter: &mut Meter, options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    meter.blocks(super::run::BURN, || burn(super::run::BURN_ROUNDS));
    if !options.turns_alone {
        pool(meter);
        record(meter)?;
        unmeasured(meter);
        lookup(meter);
        render(meter);
        decode(meter);
        transition(meter);
        runtime.block_on(schedule(meter));
        runtime.block_on(cached_read(meter, &options.folder.join("read")))?;
    }
    runtime.block_on(turns(meter, options))
}

/// Work that changes nothing, to try whether the gate finds it.
fn burn(rounds: u64) {
    for round in 0..rounds {
        black_box(round);
    }
}

/// A hundred buffers that grow to 1 KiB in steps of 64 bytes, and go back.
fn pool(meter: &mut Meter) {
    let step = "x".repeat(64);
    meter.blocks("pool", || {
        for _ in 0..100 {
            let mut text = global_pool().loan_string();
            for _ in 0..16 {
                text.push_str(black_box(&step));
            }
            black_box(&*text);
        }
    });
}

/// A thousand operations recorded by the profiler.
fn record(meter: &mut Meter) -> anyhow::Result<()> {
    let profiler = PerformanceProfiler::new();
    let recorder = profiler.begin("record")?;
    meter.blocks("record", || {
        for micros in 0..1000 {
            recorder.record(black_box(Duration::from_micros(micros)));
        }
    });
    Ok(())
}

/// A thousand pieces of work that would be measured if the profiler were on.
fn unmeasured(meter: &mut Meter) {
    let mut sum = Duration::ZERO;
    meter.blocks("unmeasured", || {
        for _ in 0..1000 {
            let watch = Stopwatch::begin(black_box(false));
            sum += watch.read().unwrap_or_default();
        }
    });
    black_box(sum);
}

/// A thousand lookups among forty tools.
fn lookup(meter: &mut Meter) {
    let names: Vec<String> = (0..40).map(|n| format!("tool_number_{n:02}")).collect();
    let tools = names.iter().cloned().map(Waits::named).collect();
    let registry = OptimizedToolRegistry::with_tools(tools, Limits::full().tools);
    meter.blocks("lookup", || {
        for name in names.iter().cycle().take(1000) {
            black_box(registry.id(black_box(name)));
        }
    });
}

/// A step of a model, with one call of a tool and its result of 2 kB.
fn step(number: usize) -> [Message; 2] {
    let id = format!("call_{number:04}");
    let arguments = json!({"path": format!("src/file_{number:04}.rs")}).to_string();
    let call = ToolCall { id: id.clone(), name: "read_file".to_owned(), arguments };
    let said = Part::Text { text: "I look at the next file, \"as planned\".".to_owned() };
    let text = "fn main() {\n    println!(\"a line of code\");\n}\n".repeat(45);
    let name = "read_file".to_owned();
    [
        Message::Assistant { parts: vec![said, Part::ToolCall(call)] },
        Message::Tool { results: vec![ToolAnswer { call_id: id, name, text, is_error: false }] },
    ]
}

/// A step rendered on each wire, behind fifty others, and the request framed.
fn render(meter: &mut Meter) {
    let setup = Setup { model: "gate".to_owned(), system: "Work.".to_owned(), ..Setup::default() };
    let next = step(50);
    let fresh = || {
        Wire::ALL.map(|wire| {
            let provider = provider::for_wire(wire);
            let mut conversation = Conversation::new(provider.head(&setup));
            for message in (0..50).flat_map(step) {
                conversation.render(Images::default(), |onto| provider.render(&message, onto));
            }
            (provider, conversation)
        })
    };
    for _ in 0..super::count::BLOCKS {
        let conversations = &mut fresh();
        meter.begin("render");
        for (provider, conversation) in conversations {
            for message in &next {
                conversation.render(Images::default(), |onto| provider.render(message, onto));
            }
            black_box(provider.frame(conversation));
        }
        meter.end();
    }
}

/// Two hundred deltas of words on each wire, framing included.
fn decode(meter: &mut Meter) {
    let delta = |wire| match wire {
        Wire::OpenAiChat => {
            r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":" word"}}]}"#
        }
        Wire::OpenAiResponses => {
            "event: response.output_text.delta\n\
             data: {\"type\":\"response.output_text.delta\",\"output_index\":0,\"delta\":\" word\"}"
        }
        Wire::Anthropic => {
            "event: content_block_delta\n\
             data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" word\"}}"
        }
        _ => r#"data: {"candidates":[{"content":{"parts":[{"text":" word"}],"role":"model"}}]}"#,
    };
    let opening = |wire| match wire {
        Wire::Anthropic => {
            "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n"
        }
        _ => "",
    };
    let streams = Wire::ALL.map(|wire| {
        let bytes = format!("{}\n\n", delta(wire)).repeat(200).into_bytes();
        (provider::for_wire(wire), opening(wire), bytes)
    });
    meter.blocks("decode", || {
        for (provider, opening, bytes) in &streams {
            decode_all(&**provider, opening.as_bytes(), bytes);
        }
    });
}

fn decode_all(provider: &dyn Provider, opening: &[u8], bytes: &[u8]) {
    let (mut parser, mut decoder) = (SseParser::new(), provider.decoder(&Arc::default()));
    let mut out = Vec::with_capacity(16);
    for chunk in [opening].into_iter().chain(bytes.chunks(1400)) {
        let framed = parser.push(chunk, |event, data| {
            decoder.event(event, data, &mut out).expect("the stream is what the wire documents");
            black_box(&out);
            out.clear();
        });
        framed.expect("no event is too long");
    }
}

/// The state machine through a hundred turns of four calls.
fn transition(meter: &mut Meter) {
    let limits = Limits::full().agent;
    let mut rehearsals = vec![Rehearsal::new(100, 4, &limits); 2 + super::count::BLOCKS];
    meter.blocks("transition", || {
        black_box(rehearsals.pop().map(Rehearsal::run));
    });
}

async fn ask(pipeline: &AsyncToolPipeline, tool: &str, id: usize, args: Value) {
    let request = ToolRequest {
        id: format!("request-{id:04}"),
        tool_name: tool.to_owned(),
        args,
        priority: ExecutionPriority::Normal,
        timeout: Duration::MAX,
        context: ExecutionContext::default(),
    };
    let id = pipeline.submit_request(request).await.expect("nothing else waits");
    let done = pipeline.wait_result(&id).await;
    assert!(done.result.is_ok(), "{done:?}");
}

/// Fifty calls that do nothing through the pipeline, one after the other.
async fn schedule(meter: &mut Meter) {
    let tools = vec![Waits::named("idle")];
    let registry = OptimizedToolRegistry::with_tools(tools, Limits::full().tools);
    let pipeline = AsyncToolPipeline::with_registry(Arc::new(registry));
    for block in 0..2 + super::count::BLOCKS {
        if block >= 2 {
            meter.begin("schedule");
        }
        for call in 0..50 {
            ask(&pipeline, "idle", call, json!({})).await;
        }
        meter.end();
    }
    pipeline.shutdown().await;
}

/// The built-in tools over a folder.
fn builtins(folder: &Path, limits: ToolLimits) -> anyhow::Result<AsyncToolPipeline> {
    let workspace = Arc::new(Workspace::open(folder)?);
    let off = Arc::new(Sandbox::off());
    let tools = builtin::all(&workspace, folder.join("spool"), [], off, &limits);
    let permissions = Arc::new(Permissions::for_workspace(workspace));
    let registry = OptimizedToolRegistry::with_tools(tools, limits).with_permissions(permissions);
    Ok(AsyncToolPipeline::with_registry(Arc::new(registry)))
}

/// Twenty reads of a file of 100 kB that is kept, each with the look whether it still is the same.
async fn cached_read(meter: &mut Meter, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let line = "0123456789abcdef0123456789abcdef0123456789abcdef\n";
    std::fs::write(folder.join("large.txt"), line.repeat(100_000 / line.len()))?;
    let pipeline = builtins(folder, Limits::full().tools)?;
    let args = || json!({"path": "large.txt"});
    // What was read in the tick of a change is not kept; the tick passes.
    while pipeline.get_metrics().await.cache_hits == 0 {
        ask(&pipeline, "read_file", 0, args()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..super::count::BLOCKS {
        meter.begin("cached_read");
        for call in 0..20 {
            ask(&pipeline, "read_file", call, args()).await;
        }
        meter.end();
    }
    pipeline.shutdown().await;
    Ok(())
}

/// Turns of a session: request, streamed answer, one file read, journal. From one request to the
/// next is a block.
async fn turns(meter: &mut Meter, options: &Options) -> anyhow::Result<()> {
    let folder = options.folder.join("turns");
    std::fs::create_dir_all(&folder)?;
    let all = all_turns(options.turns);
    for turn in 0..all {
        std::fs::write(folder.join(file(turn)), "fn main() {}\n".repeat(8))?;
    }
    let endpoint = Endpoint::new(Wire::OpenAiChat, options.model.clone(), "scripted");
    let mut limits = Limits::full();
    limits.agent.max_turns = all;
    let client = OptimizedLLMClient::with_endpoint(endpoint.clone(), limits.client.clone())?;
    let pipeline = Arc::new(builtins(&folder, limits.tools.clone())?);
    let journal = Sessions::below(&options.folder.join("state")).create(SessionHeader {
        format: journal::FORMAT,
        session_id: "gate".to_owned(),
        started_at_ms: 1,
        cwd: folder,
        add_dirs: Vec::new(),
        provider: endpoint.wire.to_string(),
        base_url: endpoint.base_url,
        model: endpoint.model,
        system: "Work.".to_owned(),
    })?;
    let shared = Arc::new(Mutex::new(std::mem::take(meter)));
    let (marks, rounds, counted) = (Arc::clone(&shared), options.burn, options.turns);
    let more = options.more_allocations;
    let engine = OptimizedAgentEngine::new("gate", Arc::clone(&pipeline), Arc::new(client))
        .with_limits(limits.agent)
        .with_system("Work.")
        .with_journal(journal)
        .on_event(move |event| {
            let EventKind::RequestSent { turn, .. } = event.kind else { return };
            let mut meter = marks.lock().unwrap_or_else(PoisonError::into_inner);
            meter.end();
            if (WARM_TURNS + 1..=WARM_TURNS + counted).contains(&turn) {
                meter.begin("turn");
                burn(rounds);
                for byte in 0..more {
                    black_box(Box::new(byte));
                }
            }
        });
    engine.submit("Read the files.").await?;
    engine.close_input();
    let outcome = engine.start().await?;
    pipeline.shutdown().await;
    *meter = std::mem::take(&mut *shared.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(matches!(outcome.end, Some(End::Done(_))), "the session ended: {:?}", outcome.end);
    Ok(())
}

/// The file that a turn reads.
pub(super) fn file(turn: u32) -> String {
    format!("file_{turn:03}.rs")
}
