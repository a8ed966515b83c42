//! The engine's figures: each row runs the product's path and what it is held against in turns, in
//! one process, and prints both. Asserts no time: a figure is read, not obeyed.
//!
//! The model is scripted, on a thread and a runtime of its own, and answers at once; what is left
//! of a turn is the engine's time and that of HTTP over loopback.

use std::hint::black_box;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::{AgentLimits, Limits};
use vtcode_core::core::event::EventKind;
use vtcode_core::core::optimized_agent::{End, OptimizedAgentEngine, Rehearsal};
use vtcode_core::llm::message::Part;
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::tools::async_pipeline::AsyncToolPipeline;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_core::tools::tool::{CallContext, Effect, Tool, ToolFuture, ToolOutput, ToolSpec};
use vtcode_testkit::{Reply, Request, ScriptedModel, call, say};

fn quantile(all: &mut [Duration], of_100: usize) -> Duration {
    all.sort_unstable();
    all[(all.len() - 1) * of_100 / 100]
}

fn row(what: &str, mut ours: Vec<Duration>, against: &str, other: &mut [Duration]) {
    let (p50, p99) = (quantile(&mut ours, 50), quantile(&mut ours, 99));
    let base = quantile(other, 50);
    let factor = p50.as_secs_f64() / base.as_secs_f64();
    println!(
        "{what:<58} {p50:>10.3?} (p99 {p99:>10.3?})  {against:<34} {base:>10.3?}  {factor:.4} x"
    );
}

/// The state machine as it was built before: the state behind a lock, every transition kept for
/// ever and sent to whoever listens.
struct OldMachine {
    state: tokio::sync::RwLock<u8>,
    history: tokio::sync::RwLock<Vec<(u8, u8, Instant, String)>>,
    listener: tokio::sync::mpsc::UnboundedSender<(u8, u8)>,
}

impl OldMachine {
    async fn transition(&self, to: u8) {
        let mut state = self.state.write().await;
        let from = std::mem::replace(&mut *state, to);
        self.history.write().await.push((from, to, Instant::now(), format!("{from} -> {to}")));
        // As before: nobody looked whether somebody listens.
        let _ = self.listener.send((from, to));
    }
}

async fn transitions() {
    const TURNS: u32 = 2_000;
    let limits = AgentLimits { max_turns: u32::MAX, ..Limits::full().agent };
    let (listener, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let old = OldMachine { state: 0.into(), history: Vec::new().into(), listener };
    for calls in [1, 8] {
        let (mut ours, mut before) = (Vec::new(), Vec::new());
        for _ in 0..25 {
            // Its inputs (a call's name, its result) are the stream's and made before.
            let rehearsal = Rehearsal::new(TURNS, black_box(calls), &limits);
            let steps = rehearsal.transitions() as u32;
            let began = Instant::now();
            black_box(rehearsal.run());
            ours.push(began.elapsed() / steps);

            let began = Instant::now();
            for n in 0..steps {
                old.transition(black_box(n as u8)).await;
            }
            before.push(began.elapsed() / steps);
            while heard.try_recv().is_ok() {}
        }
        let what = format!("a transition of a turn with {calls} calls");
        row(&what, ours, "lock, history and channel", &mut before);
    }
    println!("  kept of the old machine's history: {}", old.history.read().await.len());
}

/// Does nothing, and notes when it was called.
struct Nothing {
    spec: ToolSpec,
    called: Arc<Mutex<Vec<Instant>>>,
}

impl Tool for Nothing {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _args: &Value) -> Effect {
        Effect::default()
    }

    fn call<'a>(&'a self, _args: &'a Value, _context: &'a CallContext) -> ToolFuture<'a> {
        self.called.lock().expect("nobody panics").push(Instant::now());
        Box::pin(std::future::ready(Ok(ToolOutput::text("done"))))
    }
}

/// A model on a thread of its own.
struct Model {
    url: String,
    requests: mpsc::Receiver<Vec<Request>>,
    done: tokio::sync::oneshot::Sender<()>,
}

impl Model {
    fn start(replies: Vec<Reply>) -> Self {
        let (tell_url, url) = mpsc::channel();
        let (tell, requests) = mpsc::channel();
        let (done, is_done) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(async {
                let model = ScriptedModel::start(replies).await;
                // Who asks for it waits for it.
                let _ = tell_url.send(model.openai_url());
                let _ = is_done.await;
                let _ = tell.send(model.requests());
            });
        });
        Self { url: url.recv().expect("it starts"), requests, done }
    }

    fn requests(self) -> Vec<Request> {
        let _ = self.done.send(());
        self.requests.recv().expect("it ends")
    }
}

/// What a session took.
struct Session {
    requests: Vec<Request>,
    called: Vec<Instant>,
    /// When each event of these kinds was told.
    events: Vec<(EventKind, Instant)>,
}

async fn session(limits: &Limits, replies: Vec<Reply>) -> Session {
    let model = Model::start(replies);
    let called = Arc::<Mutex<Vec<Instant>>>::default();
    let spec = ToolSpec {
        name: "nothing".into(),
        description: "Does nothing.".into(),
        parameters: json!({"type": "object"}),
    };
    let tool = Arc::new(Nothing { spec, called: Arc::clone(&called) });
    let registry = OptimizedToolRegistry::with_tools(vec![tool], limits.tools.clone());
    let pipeline = Arc::new(AsyncToolPipeline::with_registry(Arc::new(registry)));
    let endpoint = Endpoint::new(Wire::OpenAiChat, model.url.clone(), "scripted");
    let client = OptimizedLLMClient::with_endpoint(endpoint, limits.client.clone());
    let client = Arc::new(client.expect("the endpoint is one"));
    let events = Arc::<Mutex<Vec<(EventKind, Instant)>>>::default();
    let told = Arc::clone(&events);
    let engine = OptimizedAgentEngine::new("bench", Arc::clone(&pipeline), client)
        .with_limits(AgentLimits {
            max_turns: u32::MAX,
            max_repeats: u32::MAX,
            ..limits.agent.clone()
        })
        .on_event(move |event| {
            if let EventKind::ResponseEnded { .. }
            | EventKind::RequestSent { .. }
            | EventKind::Part { part: Part::ToolCall(_) } = &event.kind
            {
                told.lock().expect("nobody panics").push((event.kind.clone(), Instant::now()));
            }
        });
    engine.submit("go").await.expect("it is open");
    engine.close_input();
    let outcome = engine.start().await.expect("it starts");
    assert!(matches!(outcome.end, Some(End::Done(_))), "{outcome:?}");
    pipeline.shutdown().await;
    drop(engine);
    let called = std::mem::take(&mut *called.lock().expect("nobody panics"));
    let events = std::mem::take(&mut *events.lock().expect("nobody panics"));
    Session { requests: model.requests(), called, events }
}

/// The loop as it was built before: it looked again after 10, 50 or 100 ms.
async fn old_turn() -> Duration {
    let began = Instant::now();
    for pause in [10, 50, 100] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    began.elapsed()
}

async fn turns() {
    const TURNS: usize = 400;
    let calls = || (0..8).map(|_| call("nothing", json!({}))).reduce(Reply::and);
    let script = || {
        let turns = std::iter::repeat_with(|| calls().expect("eight")).take(TURNS);
        turns.chain([say("Done.")]).collect::<Vec<_>>()
    };
    let mut old = Vec::new();
    for _ in 0..5 {
        old.push(old_turn().await);
    }
    for (limits, name) in [(Limits::full(), "on"), (Limits::plain(), "off")] {
        let took = session(&limits, script()).await;
        assert_eq!(took.called.len(), 8 * TURNS);
        // Behind the first turns, in which everything is made that is kept.
        let gaps: Vec<_> = took.requests[20..]
            .windows(2)
            .filter_map(|pair| Some(pair[1].received_at - pair[0].ended_at?))
            .collect();
        let alone: Vec<_> = took.events[20..]
            .windows(2)
            .filter(|pair| matches!(pair[0].0, EventKind::ResponseEnded { .. }))
            .map(|pair| pair[1].1 - pair[0].1)
            .collect();
        let what = format!("turn with 8 calls that do nothing, all {name}: engine");
        row(&what, alone, "the loop that polled", &mut old);
        row(
            "  the same with HTTP, end of answer to next request",
            gaps,
            "the loop that polled",
            &mut old,
        );
    }
}

async fn eager_start() {
    let words = "word ".repeat(30);
    let late = |took: &Session| {
        let complete = took.events.iter().find(|(kind, _)| matches!(kind, EventKind::Part { .. }));
        let ended = took.events.iter().find(|(k, _)| matches!(k, EventKind::ResponseEnded { .. }));
        let complete = complete.expect("there is a call").1;
        (took.called[0] - complete, ended.expect("it ends").1 - complete)
    };
    let reply =
        || call("nothing", json!({})).and(say(words.clone())).pace(Duration::from_millis(50));
    let (mut eager, mut after, mut text) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        let (delay, rest) = late(&session(&Limits::full(), vec![reply(), say("Done.")]).await);
        eager.push(delay);
        text.push(rest);
        after.push(late(&session(&Limits::plain(), vec![reply(), say("Done.")]).await).0);
    }
    row("call complete in the stream to its tool's start", eager, "after the answer", &mut after);
    println!("  text that followed the call: {:.2?}", quantile(&mut text, 50));
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
    runtime.block_on(async {
        transitions().await;
        turns().await;
        eager_start().await;
    });
}
