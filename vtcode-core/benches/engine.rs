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
use vtcode_core::core::optimized_agent::{End, OptimizedAgentEngine, Orders, Rehearsal};
use vtcode_core::llm::message::Part;
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::tools::async_pipeline::AsyncToolPipeline;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_core::tools::tool::{CallContext, Effect, Tool, ToolFuture, ToolOutput, ToolSpec};
use vtcode_testkit::{Reply, Request, ScriptedModel, call, say};

/// Readings in seconds, the smallest first.
struct Readings(Vec<f64>);

impl Readings {
    fn new(mut all: Vec<f64>) -> Self {
        assert!(!all.is_empty());
        all.sort_unstable_by(f64::total_cmp);
        Self(all)
    }

    fn at(&self, of_100: usize) -> f64 {
        self.0[(self.0.len() - 1) * of_100 / 100]
    }
}

impl From<Vec<Duration>> for Readings {
    fn from(all: Vec<Duration>) -> Self {
        Self::new(all.iter().map(Duration::as_secs_f64).collect())
    }
}

impl std::fmt::Display for Readings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unit, times) = match self.at(50) {
            ..1e-6 => ("ns", 1e9),
            ..1e-3 => ("µs", 1e6),
            _ => ("ms", 1e3),
        };
        let [p5, p50, p95, p99] = [5, 50, 95, 99].map(|of_100| self.at(of_100) * times);
        write!(f, "{p50:7.1} {unit} ({p5:.1} – {p95:.1}; p99 {p99:.1})")
    }
}

/// Prints the median of both sides with the 5th, 95th and 99th percentile, and how they compare.
fn row(what: &str, ours: impl Into<Readings>, against: &str, other: &Readings) {
    let ours = ours.into();
    println!("{what}\n    {ours}, {} readings", ours.0.len());
    println!("    {against}: {other}; ours is {:.4} of it", ours.at(50) / other.at(50));
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
    const TURNS: u32 = 500;
    const ROUNDS: usize = 101;
    let limits = AgentLimits { max_turns: u32::MAX, ..Limits::full().agent };
    let (listener, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let old = OldMachine { state: 0.into(), history: Vec::new().into(), listener };
    let mut orders = Orders::default();
    for calls in [1, 8] {
        let (mut ours, mut freed, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            // Its inputs (a call's name, its result) are the stream's and made before; what it
            // orders goes to who performs it.
            let rehearsal = Rehearsal::new(TURNS, black_box(calls), &limits);
            let (again, steps) = (rehearsal.clone(), rehearsal.transitions() as u32);
            let began = Instant::now();
            rehearsal.give(black_box(&mut orders));
            ours.push(began.elapsed().as_secs_f64() / f64::from(steps));
            orders.clear();

            let began = Instant::now();
            black_box(again.run());
            freed.push(began.elapsed().as_secs_f64() / f64::from(steps));

            let began = Instant::now();
            for n in 0..steps {
                old.transition(black_box(n as u8)).await;
            }
            before.push(began.elapsed().as_secs_f64() / f64::from(steps));
            while heard.try_recv().is_ok() {}
        }
        let (machine, before) = ("a lock, a history and a channel", Readings::new(before));
        let turn = format!("a transition of a turn with {calls} calls");
        row(&turn, Readings::new(ours), machine, &before);
        row("  and what it ordered let go of", Readings::new(freed), machine, &before);
    }
    println!("    kept by the old machine: {} transitions", old.history.read().await.len());
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
    let one = |_| call("nothing", json!({}));
    let calls = || (0..8).map(one).reduce(Reply::and);
    let script = || {
        let turns = std::iter::repeat_with(|| calls().expect("eight")).take(TURNS);
        turns.chain([say("Done.")]).collect::<Vec<_>>()
    };
    let mut old = Vec::new();
    for _ in 0..5 {
        old.push(old_turn().await);
    }
    let old = old.into();
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
        let (mut first, mut whole) = (None, Vec::new());
        for (kind, at) in &took.events {
            match kind {
                EventKind::Part { .. } => first = first.or(Some(*at)),
                EventKind::RequestSent { .. } => whole.extend(first.take().map(|f| *at - f)),
                _ => {}
            }
        }
        let whole = whole.split_off(20);
        let polled = "the loop that polled";
        println!("a turn with 8 calls that do nothing, optimizations {name}");
        row("  engine: answer complete to next request handed over", alone, polled, &old);
        row("  engine and stream: first call complete to next request", whole, polled, &old);
        row("  engine and HTTP: answer written to next request read", gaps, polled, &old);
    }
}

async fn eager_start() {
    const PACE: Duration = Duration::from_millis(50);
    // Thirty pieces of it, each a delta: 1.5 s.
    let words = "some words of an answer ".repeat(30);
    // From the moment in which the model has written the piece that completes the call.
    let late = |took: &Session| {
        let told = took.events.iter().find(|(kind, _)| matches!(kind, EventKind::Part { .. }));
        let told = told.expect("there is a call").1;
        let written = took.requests[0].written_at.iter().rfind(|at| **at <= told);
        let written = *written.expect("what is told was written");
        let ended = took.requests[0].ended_at.expect("it ends");
        (took.called[0] - written, ended - written)
    };
    let reply = || call("nothing", json!({})).and(say(words.clone())).pace(PACE);
    let (mut eager, mut after, mut text) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let (delay, rest) = late(&session(&Limits::full(), vec![reply(), say("Done.")]).await);
        eager.push(delay);
        text.push(rest);
        after.push(late(&session(&Limits::plain(), vec![reply(), say("Done.")]).await).0);
    }
    row(
        "a call complete in the stream, to its tool's start",
        eager,
        "after the answer",
        &after.into(),
    );
    println!("    the answer went on for {}", Readings::from(text));
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
