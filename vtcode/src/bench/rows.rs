//! The rows that need no model: each builds both sides, then measures them in turns.

#![expect(clippy::unnecessary_wraps, reason = "rows are made alike; some of them can fail")]

use std::collections::HashMap;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::Limits;
use vtcode_core::core::conversation::Conversation;
use vtcode_core::core::event::{Event, EventKind, SessionHeader};
use vtcode_core::core::journal::{self, Sessions};
use vtcode_core::core::memory_pool::global_pool;
use vtcode_core::core::optimized_agent::{OptimizedAgentEngine, Rehearsal};
use vtcode_core::core::resources::Resources;
use vtcode_core::laboratory::waits::Waits;
use vtcode_core::llm::message::{FinishReason, Message, Part, Setup, ToolAnswer, ToolCall, Usage};
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::llm::provider;
use vtcode_core::llm::provider::sse::SseParser;
use vtcode_core::safety::sandbox::Sandbox;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::async_pipeline::{
    AsyncToolPipeline, ExecutionContext, ExecutionPriority, ToolRequest,
};
use vtcode_core::tools::builtin;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_core::tools::tool::{Detail, Tool};

use super::{Row, block_on, nanos_each};
use crate::allocator;

/// Rounds of a row whose side takes a millisecond or two.
const ROUNDS: usize = 101;

const STEP: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Grows a buffer to 1 KiB in steps of 64 bytes.
fn grow(text: &mut String) {
    for _ in 0..16 {
        text.push_str(black_box(STEP));
    }
    black_box(text);
}

/// Grows a buffer of the pool's, if it keeps any.
fn grow_pooled() {
    grow(&mut global_pool().loan_string());
}

fn grow_fresh() {
    grow(&mut String::new());
}

/// Repeats some work, and returns how long it took each time.
fn many(mut work: impl FnMut()) -> f64 {
    // What is built without optimizations says nothing, however often it runs.
    const TIMES: u32 = if cfg!(debug_assertions) { 200 } else { 10_000 };
    nanos_each(TIMES, || (0..TIMES).for_each(|_| work()))
}

/// What this program's buffers come from otherwise.
const ALLOCATOR: &str =
    if cfg!(feature = "mimalloc") { "mimalloc" } else { "the system's allocator" };

// Either side asks the program's own allocator, which looks each time whether it is to count: the
// other side five times, ours never. That is less than 1 % of its time.
pub(super) fn memory_pool(limits: &Limits) -> anyhow::Result<Row> {
    global_pool().set_limits(limits.pool);
    let row = Row::new("memory_pool", "a buffer that grows to 1 KiB by 64 bytes", ALLOCATOR, "ns");
    let row = row.rounds(ROUNDS, || many(grow_fresh), || many(grow_pooled));
    Ok(row.counted(1, grow_fresh, grow_pooled))
}

pub(super) fn memory_pool_overhead(limits: &Limits) -> anyhow::Result<Row> {
    global_pool().set_limits(limits.pool);
    let mut row = Row::new(
        "memory_pool_overhead",
        "what such a buffer costs beyond the copying into one that has its room",
        ALLOCATOR,
        "ns",
    );
    let mut roomy = String::with_capacity(1024);
    let mut copying = || {
        many(|| {
            roomy.clear();
            grow(&mut roomy);
        })
    };
    // What happens only once happens before.
    let _ = (copying(), many(grow_fresh), many(grow_pooled));
    for _ in 0..ROUNDS {
        let (copying, fresh, pooled) = (copying(), many(grow_fresh), many(grow_pooled));
        // A pause in the copying alone leaves less than nothing.
        let beyond = |all: f64| (all - copying).max(0.1);
        row.rounds.push((Some(beyond(fresh)), beyond(pooled)));
    }
    Ok(row)
}

pub(super) fn memory_pool_glibc(limits: &Limits) -> anyhow::Result<Row> {
    global_pool().set_limits(limits.pool);
    let system = || many(|| allocator::grow_with_the_system(STEP.as_bytes(), 16));
    let row = Row::new(
        "memory_pool_glibc",
        "a buffer that grows to 1 KiB by 64 bytes",
        "the C library's allocator",
        "ns",
    );
    Ok(row.rounds(ROUNDS, system, || many(grow_pooled)))
}

/// Runs `look_up` on two threads and returns the nanoseconds of one look-up.
fn on_two_threads(look_up: impl Fn(&str) + Sync, names: &[String]) -> f64 {
    const TIMES: u32 = 20_000;
    let all = || {
        nanos_each(TIMES, || {
            names.iter().cycle().take(TIMES as usize).for_each(|name| look_up(name));
        })
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(all);
        let own = all();
        f64::midpoint(own, other.join().expect("a look-up does not panic"))
    })
}

pub(super) fn tool_registry(limits: &Limits) -> anyhow::Result<Row> {
    let names: Vec<String> = (0..40).map(|n| format!("tool_number_{n:02}")).collect();
    let tools: Vec<_> = names.iter().cloned().map(Waits::named).collect();
    let locked: RwLock<HashMap<String, Arc<dyn Tool>>> =
        RwLock::new(names.iter().cloned().zip(tools.iter().cloned()).collect());
    let registry = OptimizedToolRegistry::with_tools(tools, limits.tools.clone());
    let row = Row::new(
        "tool_registry",
        "a look-up among 40 tools, two threads at once",
        "RwLock<HashMap>",
        "ns",
    );
    Ok(row.rounds(
        ROUNDS,
        || {
            let look_up = |name: &str| {
                let table = locked.read().unwrap_or_else(std::sync::PoisonError::into_inner);
                black_box(table.get(name).cloned());
            };
            on_two_threads(look_up, &names)
        },
        // An id is enough to hold, and takes no counter that two threads would share.
        || {
            let look_up = |name: &str| {
                black_box(registry.id(name));
            };
            on_two_threads(look_up, &names)
        },
    ))
}

/// Calls of so many milliseconds each.
const CALLS: usize = 20;
const CALL_MS: u64 = 5;
const SLOTS: usize = 4;

/// Returns the milliseconds that twenty calls take on four slots of the pipeline: each alone, or
/// such that calls which wait together take as long as one.
async fn pipelined(pipeline: &AsyncToolPipeline, batched: bool) -> f64 {
    let batch = batched.then_some("together");
    let began = Instant::now();
    let mut ids = Vec::new();
    for number in 0..CALLS {
        let request = ToolRequest {
            id: format!("call-{number}"),
            tool_name: "wait".to_owned(),
            args: json!({"ms": CALL_MS, "number": number, "batch": batch}),
            priority: ExecutionPriority::Normal,
            timeout: Duration::MAX,
            context: ExecutionContext::default(),
        };
        ids.push(pipeline.submit_request(request).await.expect("few calls wait"));
    }
    for id in ids {
        let done = pipeline.wait_result(&id).await;
        assert!(done.result.is_ok(), "{done:?}");
    }
    began.elapsed().as_secs_f64() * 1e3
}

async fn one_call() {
    tokio::time::sleep(Duration::from_millis(CALL_MS)).await;
}

fn slots(limits: &Limits) -> Arc<OptimizedToolRegistry> {
    let mut limits = limits.tools.clone();
    limits.max_concurrent = limits.max_concurrent.min(SLOTS);
    let tools = vec![Waits::named("wait")];
    Arc::new(OptimizedToolRegistry::with_tools(tools, limits))
}

/// Returns the milliseconds that twenty calls take one after the other.
fn serially(runtime: &tokio::runtime::Runtime) -> f64 {
    let began = Instant::now();
    runtime.block_on(async {
        for _ in 0..CALLS {
            one_call().await;
        }
    });
    began.elapsed().as_secs_f64() * 1e3
}

pub(super) fn tool_pipeline(limits: &Limits) -> anyhow::Result<Row> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pipeline = AsyncToolPipeline::with_registry(slots(limits));
    let row =
        Row::new("tool_pipeline", "20 similar calls of 5 ms, 4 slots", "one after the other", "ms");
    let ours = || runtime.block_on(pipelined(&pipeline, false));
    // Twenty calls on four slots take five rounds: four times as fast is all that slots can give.
    Ok(row.rounds(15, || serially(&runtime), ours).quoted("four slots give 0.25 at the most"))
}

pub(super) fn tool_pipeline_batched(limits: &Limits) -> anyhow::Result<Row> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pipeline = AsyncToolPipeline::with_registry(slots(limits));
    let row = Row::new(
        "tool_pipeline_batched",
        "20 similar calls of 5 ms, 4 slots, of a tool that serves five waiting calls in the time of one",
        "one after the other",
        "ms",
    );
    let ours = || runtime.block_on(pipelined(&pipeline, true));
    Ok(row.rounds(15, || serially(&runtime), ours))
}

pub(super) fn tool_pipeline_unordered(limits: &Limits) -> anyhow::Result<Row> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pipeline = AsyncToolPipeline::with_registry(slots(limits));
    let row = Row::new(
        "tool_pipeline_unordered",
        "20 similar calls of 5 ms, 4 slots",
        "buffer_unordered(4)",
        "ms",
    );
    Ok(row.rounds(
        21,
        || {
            let began = Instant::now();
            let calls = futures_util::stream::iter((0..CALLS).map(|_| one_call()));
            runtime.block_on(calls.buffer_unordered(SLOTS).collect::<Vec<()>>());
            began.elapsed().as_secs_f64() * 1e3
        },
        || runtime.block_on(pipelined(&pipeline, false)),
    ))
}

/// A session's state as it was kept once: behind a lock that can be awaited, with a history that
/// only grows, each change sent through a channel.
struct OldState {
    state: tokio::sync::RwLock<(u8, Instant)>,
    history: tokio::sync::RwLock<Vec<(u8, u8, Instant)>>,
    sender: tokio::sync::mpsc::UnboundedSender<(u8, Instant)>,
    receiver: tokio::sync::mpsc::UnboundedReceiver<(u8, Instant)>,
}

impl OldState {
    fn new() -> Self {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let state = tokio::sync::RwLock::new((0, Instant::now()));
        Self { state, history: tokio::sync::RwLock::default(), sender, receiver }
    }

    async fn step(&mut self, to: u8) {
        let now = Instant::now();
        let (from, _) = std::mem::replace(&mut *self.state.write().await, (to, now));
        self.history.write().await.push((from, to, now));
        let _ = self.sender.send((to, now));
        black_box(self.receiver.recv().await);
    }
}

pub(super) fn agent_loop(limits: &Limits) -> anyhow::Result<Row> {
    const TURNS: u32 = 500;
    let rehearsal = Rehearsal::new(TURNS, 1, &limits.agent);
    let steps = rehearsal.transitions();
    let count = u32::try_from(steps).context("few steps")?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let row = Row::new(
        "agent_loop",
        "a transition of the state machine, its orders included",
        "a lock, a growing history and a channel, without any order",
        "ns",
    );
    let old = || {
        let mut old = OldState::new();
        nanos_each(count, || {
            runtime.block_on(async {
                for step in 0..steps {
                    old.step((step % 7) as u8).await;
                }
            });
        })
    };
    let new = || {
        let rehearsal = rehearsal.clone();
        nanos_each(count, || {
            black_box(rehearsal.run());
        })
    };
    Ok(row.rounds(ROUNDS, old, new))
}

/// A step of a model, with one call of a tool and its result of 4 kB.
fn step(number: usize) -> [Message; 2] {
    let (id, name) = (format!("call_{number}"), "read_file".to_owned());
    let arguments = json!({"path": format!("src/file_{number}.rs")}).to_string();
    let call = Part::ToolCall(ToolCall { id: id.clone(), name: name.clone(), arguments });
    let text = "    println!(\"a line of code, with \\\"quotes\\\"\");\n".repeat(80);
    [
        Message::Assistant { parts: vec![Part::Text { text: "I look.".to_owned() }, call] },
        Message::Tool { results: vec![ToolAnswer { call_id: id, name, text, is_error: false }] },
    ]
}

pub(super) fn request_rendering(_limits: &Limits) -> anyhow::Result<Row> {
    let provider = provider::for_wire(Wire::OpenAiChat);
    let setup = Setup { model: "m".to_owned(), ..Setup::default() };
    let messages: Vec<Message> = (0..200).flat_map(step).collect();
    let mut conversation = Conversation::new(provider.head(&setup));
    for message in &messages {
        conversation.push(&provider.segment(message));
    }
    let row = Row::new(
        "request_rendering",
        "the next request after 200 turns of 4 kB",
        "serialised whole again",
        "µs",
    );
    let next = step(200);
    let mut again = messages.clone();
    again.extend(next.iter().cloned());
    Ok(row
        .rounds(
            31,
            || nanos_each(1, || drop(black_box(serde_json::to_vec(&again)))) / 1e3,
            || {
                let mut conversation = conversation.clone();
                nanos_each(1, || {
                    for message in &next {
                        conversation.push(&provider.segment(message));
                    }
                    black_box(provider.frame(&conversation));
                }) / 1e3
            },
        )
        .quoted("every peer looked at renders the whole request each turn"))
}

pub(super) fn stream_decode(_limits: &Limits) -> anyhow::Result<Row> {
    const EVENTS: u32 = 2000;
    let provider = provider::for_wire(Wire::OpenAiChat);
    let event = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n";
    let bytes = event.repeat(EVENTS as usize).into_bytes();
    let decode = || {
        let (mut parser, mut decoder) = (SseParser::new(), provider.decoder(&Arc::default()));
        let mut out = Vec::with_capacity(16);
        for chunk in bytes.chunks(4096) {
            let framed = parser.push(chunk, |event, data| {
                decoder.event(event, data, &mut out).expect("this is what the wire documents");
                black_box(&out);
                out.clear();
            });
            framed.expect("no event is long");
        }
    };
    let value = || {
        for chunk in bytes.split(|byte| *byte == b'\n') {
            let Some(data) = chunk.strip_prefix(b"data: ") else { continue };
            let value: Value = serde_json::from_slice(data).expect("it is JSON");
            black_box(value["choices"][0]["delta"]["content"].as_str().map(str::to_owned));
        }
    };
    let row = Row::new(
        "stream_decode",
        "one streamed delta, framing included",
        "lines and a JSON tree",
        "ns",
    );
    Ok(row
        .rounds(ROUNDS, || nanos_each(EVENTS, value), || nanos_each(EVENTS, decode))
        .counted(EVENTS, value, decode))
}

pub(super) fn startup(_limits: &Limits) -> anyhow::Result<Row> {
    let own = std::env::current_exe().context("the program does not know where it is")?;
    let spawned = |mut command: Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        nanos_each(1, || drop(command.status())) / 1e6
    };
    let help = || {
        let mut command = Command::new(&own);
        command.args(["prompt", "show"]);
        command
    };
    let row = Row::new(
        "startup",
        "process start until the prompt and all tools are made (`vtcode prompt show`)",
        "`true`, the floor",
        "ms",
    );
    Ok(row
        .rounds(21, || spawned(Command::new("true")), || spawned(help()))
        .quoted("to the first request on the wire: codex 140 ms, claude 630 ms, pi 810 ms, gemini 1.6 s, opencode 3.0 s"))
}

/// Writes a journal of so many turns.
fn long_session(sessions: &Sessions, turns: usize) -> anyhow::Result<()> {
    let mut journal = sessions.create(SessionHeader {
        format: journal::FORMAT,
        session_id: "long".to_owned(),
        started_at_ms: 1,
        cwd: "/".into(),
        add_dirs: Vec::new(),
        provider: "openai".to_owned(),
        base_url: "http://127.0.0.1".to_owned(),
        model: "m".to_owned(),
        system: "Work.".to_owned(),
    })?;
    let mut tell = |kind| journal.append(&Event { at: Duration::ZERO, kind });
    tell(EventKind::PromptStarted { text: "Go on.".to_owned(), images: Vec::new() })?;
    for number in 0..turns {
        tell(EventKind::RequestSent { turn: number as u32 + 1, body_bytes: 1, prefix: None })?;
        let [said, answered] = step(number);
        let Message::Assistant { parts } = said else { continue };
        for part in parts {
            tell(EventKind::Part { part })?;
        }
        tell(EventKind::ResponseEnded {
            finish: FinishReason::ToolCalls,
            usage: Usage::default(),
        })?;
        let Message::Tool { results } = answered else { continue };
        for ToolAnswer { call_id, name, text, is_error } in results {
            let arguments = String::new();
            tell(EventKind::ToolStarted {
                call_id: call_id.clone(),
                name: name.clone(),
                arguments,
            })?;
            let (waited, ran) = (Duration::ZERO, Duration::ZERO);
            let (class, detail) = (None, Detail::Plain);
            tell(EventKind::ToolFinished {
                call_id,
                name,
                text,
                is_error,
                class,
                detail,
                waited,
                ran,
            })?;
        }
    }
    Ok(())
}

pub(super) fn resume(_limits: &Limits) -> anyhow::Result<Row> {
    let folder = tempfile::tempdir()?;
    let sessions = Sessions::below(folder.path());
    long_session(&sessions, 1000)?;
    let provider = provider::for_wire(Wire::OpenAiChat);
    let setup = Setup::default();
    let mut row = Row::new(
        "resume",
        "a session of 1,000 turns and 4 MB, until its next request could be sent",
        "",
        "ms",
    );
    for _ in 0..11 {
        let began = Instant::now();
        let (_journal, replay) = sessions.resume("long")?;
        let mut conversation = Conversation::new(provider.head(&setup));
        for message in &replay.messages {
            conversation.push(&provider.segment(message));
        }
        black_box(provider.frame(&conversation));
        row.rounds.push((None, began.elapsed().as_secs_f64() * 1e3));
        ensure!(replay.messages.len() > 1000, "the session is not whole");
    }
    Ok(row.quoted("claude-code #24457: 20 minutes for a session of 12 MB"))
}

pub(super) fn idle_session(limits: &Limits) -> anyhow::Result<Row> {
    const SESSIONS: usize = 40;
    let folder = tempfile::tempdir()?;
    let mut row = Row::new(
        "idle_session",
        "memory of one more idle session in this process: engine, tools and client",
        "",
        "KiB",
    );
    let readings = block_on(async {
        let mut kept = Vec::new();
        let mut readings = Vec::new();
        // The first one brings what all share.
        for number in 0..=5 {
            let before = Resources::read().resident_bytes;
            for _ in 0..SESSIONS {
                kept.push(idle(folder.path(), limits)?);
            }
            let grown = Resources::read().resident_bytes.saturating_sub(before);
            if number > 0 {
                readings.push((None, grown as f64 / 1024.0 / SESSIONS as f64));
            }
        }
        anyhow::Ok(readings)
    })??;
    row.rounds = readings;
    Ok(row.quoted(
        "20 sessions at once, each a process: codex 792 MiB, pi 2,260 MiB, claude 3,470 MiB",
    ))
}

fn idle(folder: &std::path::Path, limits: &Limits) -> anyhow::Result<OptimizedAgentEngine> {
    let workspace = Arc::new(Workspace::open(folder)?);
    let off = Arc::new(Sandbox::off());
    let tools = builtin::all(&workspace, folder.join("spool"), [], off, &limits.tools);
    let registry = Arc::new(OptimizedToolRegistry::with_tools(tools, limits.tools.clone()));
    let endpoint = Endpoint::new(Wire::OpenAiChat, "http://127.0.0.1:9/v1", "m");
    let client = OptimizedLLMClient::with_endpoint(endpoint, limits.client.clone())?;
    let pipeline = Arc::new(AsyncToolPipeline::with_registry(registry));
    Ok(OptimizedAgentEngine::new("idle", pipeline, Arc::new(client)))
}
