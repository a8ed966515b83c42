//! Every fault on every wire, through engine, pipeline, client and HTTP: a turn with two tool calls
//! is disturbed, once or each time, and what becomes of it is written down in
//! `docs/fault-matrix.md`. Whatever the fault: it ends within its clock, no call runs twice, every
//! attempt of the ledger says what the model billed for it, and the transcript is the undisturbed
//! one, goes on behind a call that ran, or ends in an error with a type.
//!
//! `VTCODE_FAULT_CUTS=1` cuts at every byte (so many bytes are gone on by; 0 to begin with another
//! one each time), `VTCODE_WRITE_DOCS=1` writes the document instead of comparing it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::{ClientLimits, Limits, ToolLimits};
use vtcode_core::core::event::EventKind;
use vtcode_core::core::optimized_agent::{End, OptimizedAgentEngine};
use vtcode_core::llm::message::{Outcome, Usage};
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::tools::async_pipeline::AsyncToolPipeline;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_core::tools::tool::{CallContext, Effect, Tool, ToolFuture, ToolOutput, ToolSpec};
use vtcode_testkit::{Fault, Reply, Request, ScriptedModel, TlsServer, call, say};

/// What a session may need besides its clocks, on a machine that has much else to do.
const GUARD: Duration = Duration::from_secs(60);

/// The clocks of cells whose fault is that nothing comes. Cells that no clock ends have `GUARD`.
const CLOCK: Duration = Duration::from_secs(1);
const TOTAL: Duration = Duration::from_secs(8);

/// The total clock of answers that come so slowly that no other clock ends them.
const DRIP_TOTAL: Duration = Duration::from_secs(2);

/// So many bytes apart are the cuts of a run that is not told otherwise.
const CUTS: usize = 29;

/// Sessions that run at once: as many as there is time for.
const AT_ONCE: usize = 48;

/// What happens to a session's requests.
#[derive(Debug, Clone)]
enum Plan {
    /// Nothing.
    Calm,
    /// The first request fails so.
    Once(Fault),
    /// Every request fails so.
    Always(Fault),
    /// The first answer is this one.
    First(Reply),
    /// The base URL leads nowhere.
    Elsewhere(String),
}

/// One session of the matrix.
#[derive(Debug, Clone)]
struct Case {
    /// The row, and whether the fault stays.
    row: Row,
    plan: Plan,
    /// How the transcript may differ from the undisturbed one.
    reads: fn(&str) -> String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    order: usize,
    fault: &'static str,
    how_often: &'static str,
}

/// How one session ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Same { again: bool },
    GoesOn,
    Error { kind: String, outcomes: BTreeSet<String> },
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Same { again: false } => write!(f, "same"),
            Self::Same { again: true } => write!(f, "same, asked again"),
            Self::GoesOn => write!(f, "goes on"),
            Self::Error { kind, outcomes } => {
                let outcomes: Vec<_> = outcomes.iter().map(String::as_str).collect();
                write!(f, "*{kind}* ({})", outcomes.join(", "))
            }
        }
    }
}

/// Counts how often each call of each session ran. Says nothing of what it touches, so that no
/// result of it is kept or shared: a second run is one.
#[derive(Clone)]
struct Count {
    spec: Arc<ToolSpec>,
    /// By session and call.
    runs: Arc<Mutex<HashMap<String, BTreeMap<String, usize>>>>,
}

impl Tool for Count {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _args: &Value) -> Effect {
        Effect::opaque()
    }

    fn call<'a>(&'a self, args: &'a Value, _context: &'a CallContext) -> ToolFuture<'a> {
        let of = |name: &str| args[name].as_str().unwrap_or_default().to_owned();
        let mut runs = self.runs.lock().unwrap();
        *runs.entry(of("case")).or_default().entry(of("call")).or_default() += 1;
        drop(runs);
        Box::pin(async move { Ok(ToolOutput::text(format!("{} ran", args["call"]))) })
    }
}

/// A call of the recorded turn.
fn counted(case: &str, name: &str) -> Reply {
    let args = json!({"case": case, "call": name, "note": "fünf"});
    call("count", args).call_id(format!("the_{name}")).usage(90, 30, 12).number(7)
}

/// The model: says the turn, then what of its calls has no result, then that it is done.
fn answer(case: &str, body: &str) -> Reply {
    let ran = |name: &str| body.contains(&format!("\\\"{name}\\\" ran"));
    match (ran("first"), ran("second")) {
        (false, _) => say("Ich übe.").and(counted(case, "first")).and(counted(case, "second")),
        (true, false) => counted(case, "second"),
        (true, true) => say("Both ran.").usage(120, 90, 3).number(8),
    }
}

/// Returns the number in a session's prompt.
fn case_of(body: &str) -> &str {
    let at = body.find("case ").expect("every prompt names its case") + 5;
    &body[at..at + 5]
}

/// One wire's model with all its sessions.
struct Bench {
    wire: Wire,
    model: ScriptedModel,
    /// Shared by all sessions: a broken connection that were used again would break another one.
    client: Arc<OptimizedLLMClient>,
    tool: Count,
    limits: Limits,
    cases: Vec<Case>,
}

/// What one session came to, as its own events tell.
struct Ran {
    end: Option<End>,
    attempts: Vec<(Outcome, Usage)>,
    went_on: bool,
}

impl Bench {
    async fn new(wire: Wire, cases: Vec<Case>, clock: Duration, total: Duration) -> Self {
        let plans: Vec<Plan> = cases.iter().map(|case| case.plan.clone()).collect();
        let asked = Mutex::new(vec![0_usize; cases.len()]);
        let model = ScriptedModel::start_with(move |request, _| {
            let body = String::from_utf8_lossy(&request.body);
            let case = case_of(&body);
            let number: usize = case.parse().unwrap();
            let nth = {
                let nth = &mut asked.lock().unwrap()[number];
                *nth += 1;
                *nth
            };
            let calm = answer(case, &body);
            match &plans[number] {
                Plan::Once(fault) if nth == 1 => calm.fault(fault.clone()),
                Plan::First(reply) if nth == 1 => reply.clone(),
                Plan::Always(fault) => calm.fault(fault.clone()),
                _ => calm,
            }
        })
        .await;
        let mut limits = Limits::full();
        limits.client = ClientLimits {
            connect: clock,
            first_byte: clock,
            gap: clock,
            total,
            attempts: 2,
            backoff: Duration::from_millis(1),
            ..limits.client
        };
        let base_url = match wire {
            Wire::Anthropic => model.anthropic_url(),
            Wire::Gemini => model.gemini_url(),
            _ => model.openai_url(),
        };
        let client = client(wire, base_url, &limits);
        let parameters = json!({"type": "object"});
        let spec = ToolSpec { name: "count".into(), description: "Counts.".into(), parameters };
        let tool = Count { spec: Arc::new(spec), runs: Arc::default() };
        Self { wire, model, client, tool, limits, cases }
    }

    /// Runs one session, through an engine and a pipeline of its own.
    async fn session(&self, number: usize) -> Ran {
        let client = match &self.cases[number].plan {
            Plan::Elsewhere(base_url) => client(self.wire, base_url.clone(), &self.limits),
            _ => Arc::clone(&self.client),
        };
        let tools: Vec<Arc<dyn Tool>> = vec![Arc::new(self.tool.clone())];
        let limits: ToolLimits = self.limits.tools.clone();
        let registry = Arc::new(OptimizedToolRegistry::with_tools(tools, limits));
        let pipeline = Arc::new(AsyncToolPipeline::with_registry(registry));
        let told = Arc::new(Mutex::new((Vec::new(), false)));
        let sink = Arc::clone(&told);
        let engine = OptimizedAgentEngine::new("matrix", Arc::clone(&pipeline), client)
            .with_limits(self.limits.agent.clone())
            .on_event(move |event| {
                let (attempts, went_on) = &mut *sink.lock().unwrap();
                match &event.kind {
                    EventKind::AttemptEnded(attempt) => {
                        attempts.push((attempt.outcome, attempt.usage));
                    }
                    EventKind::Warning { message } => *went_on |= message.contains("goes on"),
                    _ => {}
                }
            });
        engine.submit(format!("case {number:05}")).await.unwrap();
        engine.close_input();
        // Three answers may break before a prompt is given up, each within the total clock.
        let clocks = self.limits.client.total * 3;
        let outcome = tokio::time::timeout(clocks + GUARD, engine.start()).await;
        let end = outcome.ok().and_then(|outcome| outcome.unwrap().end);
        pipeline.shutdown().await;
        let (attempts, went_on) = std::mem::take(&mut *told.lock().unwrap());
        Ran { end, attempts, went_on }
    }

    /// Runs all sessions and returns what each came to.
    async fn run(&self) -> Vec<Result<Verdict, String>> {
        let sessions = (0..self.cases.len()).map(|number| self.session(number));
        let ran: Vec<Ran> = stream::iter(sessions).buffered(AT_ONCE).collect().await;
        // Whoever left did so before the session ended; that it did is noted a moment later.
        let noted = self.model.wait_until(|all| all.iter().all(|one| one.ended_at.is_some()));
        tokio::time::timeout(GUARD, noted).await.expect("every response ends");
        let mut requests: BTreeMap<usize, Vec<Request>> = BTreeMap::new();
        for request in self.model.requests() {
            let number = case_of(&String::from_utf8_lossy(&request.body)).parse().unwrap();
            requests.entry(number).or_default().push(request);
        }
        let calm = self.cases.iter().position(|case| matches!(case.plan, Plan::Calm)).unwrap();
        let transcript = |number: usize| {
            let last = requests.get(&number).and_then(|all| all.last());
            last.map_or(String::new(), |last| shown(&last.body))
        };
        let undisturbed = transcript(calm);
        let runs = self.tool.runs.lock().unwrap().clone();
        let judged = ran.into_iter().enumerate().map(|(number, ran)| {
            let none = Vec::new();
            let requests = requests.get(&number).unwrap_or(&none);
            check_ledger(&self.cases[number].plan, &ran, requests)?;
            // A prompt is given up after three broken answers; calls that ran begin anew.
            if ran.attempts.len() > 3 * 3 * self.limits.client.attempts as usize {
                return Err(format!("{} attempts", ran.attempts.len()));
            }
            for (before, after) in requests.iter().zip(requests.iter().skip(1)) {
                let (before, after) = (shown(&before.body), shown(&after.body));
                if !after.starts_with(before.strip_suffix("]}").unwrap()) {
                    return Err(format!("a changed prefix:\n{before}\n{after}"));
                }
            }
            let own = runs.get(&format!("{number:05}")).cloned().unwrap_or_default();
            if own.values().any(|count| *count > 1) {
                return Err(format!("a call ran twice: {own:?}"));
            }
            match ran.end {
                Some(End::Done(words)) if words == "Both ran." && own.len() == 2 => {
                    if transcript(number) == (self.cases[number].reads)(&undisturbed) {
                        // Two requests are the turn and its end.
                        Ok(Verdict::Same { again: ran.attempts.len() > 2 })
                    } else if ran.went_on {
                        Ok(Verdict::GoesOn)
                    } else {
                        Err(format!("another transcript: {}", transcript(number)))
                    }
                }
                Some(End::Failed(failure)) => Ok(Verdict::Error {
                    kind: format!("{:?}", failure.kind).to_lowercase(),
                    outcomes: ran
                        .attempts
                        .iter()
                        .map(|(outcome, _)| format!("{outcome:?}").to_lowercase())
                        .collect(),
                }),
                None => Err("it hangs".to_owned()),
                other => Err(format!("{other:?}, {own:?}")),
            }
        });
        judged.collect()
    }
}

/// Every attempt that the model saw is in the ledger with what it billed, and no other one is.
fn check_ledger(plan: &Plan, ran: &Ran, requests: &[Request]) -> Result<(), String> {
    let billed: Vec<Usage> = requests
        .iter()
        .map(|request| Usage {
            input_tokens: request.billed.input,
            cached_input_tokens: request.billed.cached,
            output_tokens: request.billed.output,
        })
        .collect();
    let seen = |(outcome, _): &&(Outcome, Usage)| *outcome != Outcome::Unreachable;
    let ledger: Vec<Usage> = ran.attempts.iter().filter(seen).map(|(_, used)| *used).collect();
    let resets = |plan: &Plan| {
        matches!(
            plan,
            Plan::Once(Fault::ResetAfterEvents(_)) | Plan::Always(Fault::ResetAfterEvents(_))
        )
    };
    let fits = |(ledger, billed): (&Usage, &Usage)| {
        // What a reset swallows on its way, nobody was told.
        let swallowed = resets(plan)
            && ledger.input_tokens <= billed.input_tokens
            && ledger.cached_input_tokens <= billed.cached_input_tokens
            && ledger.output_tokens <= billed.output_tokens;
        ledger == billed || swallowed
    };
    if ledger.len() == billed.len() && ledger.iter().zip(&billed).all(fits) {
        return Ok(());
    }
    Err(format!("the ledger says {ledger:?}, the bill {billed:?}; {:?}", ran.attempts))
}

fn client(wire: Wire, base_url: String, limits: &Limits) -> Arc<OptimizedLLMClient> {
    let endpoint = Endpoint::new(wire, base_url, "scripted");
    Arc::new(OptimizedLLMClient::with_endpoint(endpoint, limits.client.clone()).unwrap())
}

/// A body without what tells its session from others, and without the marks that say what to cache.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let case = case_of(&text).to_owned();
    text.replace(&case, "-----").replace(r#","cache_control":{"type":"ephemeral"}"#, "")
}

fn as_it_is(transcript: &str) -> String {
    transcript.to_owned()
}

fn replaced(transcript: &str) -> String {
    transcript.replace('ü', "\u{fffd}")
}

fn told_apart(transcript: &str) -> String {
    transcript.replace("the_first", "the_same").replace("the_second", "the_same_2")
}

/// Collects the rows, in order.
#[derive(Default)]
struct Rows(Vec<Case>);

impl Rows {
    fn add(&mut self, fault: &'static str, how_often: &'static str, plan: Plan) -> &mut Case {
        let known = self.0.iter().find(|case| case.row.fault == fault).map(|case| case.row.order);
        let order = known.unwrap_or(self.0.last().map_or(0, |case| case.row.order + 1));
        self.0.push(Case { row: Row { order, fault, how_often }, plan, reads: as_it_is });
        self.0.last_mut().unwrap()
    }

    fn both(&mut self, name: &'static str, fault: &Fault) {
        self.add(name, ONCE, Plan::Once(fault.clone()));
        self.add(name, ALWAYS, Plan::Always(fault.clone()));
    }
}

const ONCE: &str = "once";
const ALWAYS: &str = "each time";

/// The faults that no clock ends, for a turn of so many events.
fn quick_faults(events: usize, bytes: impl Iterator<Item = usize>) -> Vec<Case> {
    let mut rows = Rows::default();
    rows.add("none", ONCE, Plan::Calm);
    let after = |rows: &mut Rows, name, fault: fn(usize) -> Fault| {
        for count in 0..=events {
            rows.both(name, &fault(count));
        }
    };
    for at in bytes {
        rows.add("cut at any byte", ONCE, Plan::Once(Fault::CutResponseAfterBytes(at)));
    }
    for at in 0..events {
        rows.add("cut after any event", ALWAYS, Plan::Always(Fault::CutAfterEvents(at)));
    }
    let whole = Fault::CutAfterEvents(events);
    rows.add("terminal event, then cut", ALWAYS, Plan::Always(whole));
    rows.both("reset before a byte", &Fault::Reset);
    after(&mut rows, "reset after any event", Fault::ResetAfterEvents);
    rows.both("closed before a byte", &Fault::CloseBeforeResponse);
    rows.both("429 without headers", &Fault::status(429));
    rows.both("429, `retry-after: 0`", &Fault::status(429).header("retry-after", "0"));
    let hour = Fault::status(429).header("retry-after", "3600");
    rows.add("429, `retry-after: 3600`", ONCE, Plan::Once(hour));
    for (name, code) in [("500", 500), ("503", 503), ("529", 529)] {
        rows.both(name, &Fault::status(code));
    }
    after(&mut rows, "error event after any event", Fault::ErrorAfterEvents);
    rows.both("HTML instead of JSON", &Fault::NotSse);
    let kind = |name: &str| Fault::ContentType(name.to_owned());
    rows.both("events as `text/plain`", &kind("text/plain"));
    rows.both("events as `application/json`", &kind("application/json"));
    rows.both("events as `image/png`", &kind("image/png"));
    rows.both(
        "JSON that is no answer",
        &Fault::Status { code: 200, headers: Vec::new(), body: r#"{"status":"ok"}"#.to_owned() },
    );
    rows.both(
        "bytes that are no event",
        &Fault::Garbage(b"\x00\xffnoise\n\n\r\rdata\n\n".to_vec()),
    );
    rows.both("100 MB line", &Fault::LongLineAfterEvents(1, 100 * 1024 * 1024));
    let broken = Fault::replace("ü", b"\xfc");
    rows.add("invalid UTF-8", ONCE, Plan::Once(broken.clone())).reads = replaced;
    rows.add("invalid UTF-8", ALWAYS, Plan::Always(broken)).reads = replaced;
    rows.both("missing terminal event", &Fault::MissingTerminal);
    rows.both("an answer that says nothing", &Fault::Empty);
    rows.0
}

/// The faults that a clock ends.
fn slow_faults(events: usize) -> Vec<Case> {
    let mut rows = Rows::default();
    rows.add("none", ONCE, Plan::Calm);
    rows.both("accepts, and no byte", &Fault::Silence);
    for count in 0..=events {
        rows.both("stall after any event", &Fault::StallAfterEvents(count));
    }
    rows.0
}

/// The faults that only the total clock ends.
fn drips(events: usize) -> Vec<Case> {
    let mut rows = Rows::default();
    rows.add("none", ONCE, Plan::Calm);
    // No event becomes complete before the total clock runs out, on however slow a machine.
    let pause = DRIP_TOTAL / 20;
    for count in 0..events {
        rows.both("a byte at a time after any event", &Fault::DripAfterEvents(count, pause));
    }
    rows.0
}

/// Where there is no model.
fn nowhere(refused: u16, plain: u16, distrusted: u16) -> Vec<Case> {
    let mut rows = Rows::default();
    rows.add("none", ONCE, Plan::Calm);
    let mut add = |name, url: String| {
        rows.add(name, ALWAYS, Plan::Elsewhere(url));
    };
    add("refused", format!("http://127.0.0.1:{refused}"));
    // Longer than a name may be, so that no server of names is asked.
    add("no such host", format!("https://{}.example", "x".repeat(64)));
    add("no TLS spoken there", format!("https://127.0.0.1:{plain}"));
    add("a certificate that nobody vouches for", format!("https://127.0.0.1:{distrusted}"));
    rows.0
}

/// A port at which a handshake is answered in plain HTTP.
async fn speaks_plainly() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut hello = [0; 16];
            let _ = socket.read(&mut hello).await;
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    port
}

/// Two calls of the same id.
fn same_ids() -> Vec<Case> {
    let mut rows = Rows::default();
    rows.add("none", ONCE, Plan::Calm);
    let id = |reply: Reply| reply.call_id("the_same");
    let reply =
        say("Ich übe.").and(id(counted("00001", "first"))).and(id(counted("00001", "second")));
    rows.add("duplicate ids", ONCE, Plan::First(reply)).reads = told_apart;
    rows.0
}

/// Returns the size of the recorded turn: events, and bytes of the response.
async fn size(wire: Wire) -> (usize, usize) {
    let mut rows = Rows::default();
    rows.add("none", ONCE, Plan::Calm);
    let bench = Bench::new(wire, rows.0, GUARD, GUARD).await;
    bench.run().await;
    let first = &bench.model.requests()[0];
    (first.answer_events, first.answer_bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_hangs_runs_a_call_twice_or_bills_what_the_ledger_does_not_say() {
    let step = std::env::var("VTCODE_FAULT_CUTS").ok().and_then(|step| step.parse().ok());
    let step: usize = step.unwrap_or(CUTS);
    let (step, from) = match step {
        0 => {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            (CUTS, since.subsec_nanos() as usize % CUTS)
        }
        step => (step, 0),
    };
    println!("cuts at each byte {from} + {step} n");
    // A port that is taken and not listened on.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused = taken.local_addr().unwrap().port();
    let plain = speaks_plainly().await;
    let distrusted = TlsServer::start(([127, 0, 0, 1], plain).into()).await;

    let mut cells: BTreeMap<(usize, Row), BTreeMap<String, BTreeSet<Verdict>>> = BTreeMap::new();
    let (mut sizes, mut broken) = (Vec::new(), Vec::new());
    for wire in Wire::ALL {
        let began = Instant::now();
        let (events, bytes) = size(wire).await;
        sizes.push((wire, events, bytes));
        let tables = [
            (nowhere(refused, plain, distrusted.address.port()), GUARD, GUARD),
            (quick_faults(events, (from..bytes).step_by(step)), GUARD, GUARD),
            (same_ids(), GUARD, GUARD),
        ];
        for (table, (cases, clock, total)) in tables.into_iter().enumerate() {
            let began = Instant::now();
            let count = cases.len();
            let bench = Bench::new(wire, cases, clock, total).await;
            broken.extend(note(&mut cells, table, &bench, bench.run().await));
            println!("{wire}: {count} sessions in {:?}", began.elapsed());
        }
        println!("{wire}: {bytes} bytes in {events} events, {:?}", began.elapsed());
    }
    // All wires at once: they wait.
    let began = Instant::now();
    let slow = sizes.iter().flat_map(|(wire, events, _)| {
        [(8, slow_faults(*events), TOTAL), (9, drips(*events), DRIP_TOTAL)].map(
            |(table, cases, total)| async move {
                let bench = Bench::new(*wire, cases, CLOCK, total).await;
                let verdicts = bench.run().await;
                (table, bench, verdicts)
            },
        )
    });
    for (table, bench, verdicts) in futures_util::future::join_all(slow).await {
        broken.extend(note(&mut cells, table, &bench, verdicts));
    }
    println!("clocks: {:?}", began.elapsed());

    let (asked, trusted) = distrusted.counts();
    assert!(asked >= Wire::ALL.len() && trusted == 0, "{asked} connections, {trusted} handshakes");
    assert!(broken.is_empty(), "{} cells broke a promise:\n{}", broken.len(), broken.join("\n"));

    let text = document(&cells, &sizes);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/fault-matrix.md");
    if std::env::var_os("VTCODE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/fault-matrix.md is not what happened; VTCODE_WRITE_DOCS=1 writes it:\n{text}"
    );
}

fn note(
    cells: &mut BTreeMap<(usize, Row), BTreeMap<String, BTreeSet<Verdict>>>,
    table: usize,
    bench: &Bench,
    verdicts: Vec<Result<Verdict, String>>,
) -> Vec<String> {
    let mut broken = Vec::new();
    for (case, verdict) in bench.cases.iter().zip(verdicts) {
        match verdict {
            Ok(_) if matches!(case.plan, Plan::Calm) => {}
            Ok(verdict) => {
                let row = cells.entry((table, case.row)).or_default();
                row.entry(bench.wire.to_string()).or_default().insert(verdict);
            }
            Err(why) => broken.push(format!("{} {:?}: {why}", bench.wire, case.plan)),
        }
    }
    broken
}

fn document(
    cells: &BTreeMap<(usize, Row), BTreeMap<String, BTreeSet<Verdict>>>,
    sizes: &[(Wire, usize, usize)],
) -> String {
    let mut text = String::from(HEAD);
    for (wire, _, bytes) in sizes {
        write!(text, " {wire} ({bytes} bytes) |").unwrap();
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(sizes.len()));
    for ((_, row), wires) in cells {
        write!(text, "\n| {} | {} |", row.fault, row.how_often).unwrap();
        for (wire, ..) in sizes {
            let verdicts = wires[&wire.to_string()].iter().map(Verdict::to_string);
            let mut unique: Vec<_> = verdicts.collect();
            unique.dedup();
            write!(text, " {} |", unique.join(" · ")).unwrap();
        }
    }
    text.push('\n');
    text
}

const HEAD: &str = "\
# Fault matrix

What becomes of a turn with two tool calls when its answer fails, on each wire, through the real
engine, pipeline, client and HTTP on loopback. Written by the test
`no_fault_hangs_runs_a_call_twice_or_bills_what_the_ledger_does_not_say`, which fails when this page
is not what happened. Write it anew with
`VTCODE_WRITE_DOCS=1 VTCODE_FAULT_CUTS=1 cargo test -p vtcode-core --test it fault_matrix`; without
`VTCODE_FAULT_CUTS=1` the cuts are some bytes apart.

In every cell: it ended within its clock, no call ran twice, every attempt that the model saw is in
the ledger with the tokens that the model had reported by then, and each request began with the
bytes of the one before. Besides that:

- same: the transcript is the undisturbed one, byte for byte (where the fault is in the words
  themselves, with the replacement character for what was no UTF-8).
- goes on: the answer broke behind a complete call. The call stands with its result, the model is
  asked on, and says the rest: both calls ran once, the end is the same.
- *kind* (outcomes): the prompt ended with an error of this `FailureKind`, after attempts that ended
  with these `Outcome`s. The client had two attempts for each request here.

Rows of random faults, in paused time, are tried by the test `no_script_of_faults_hangs`: a request and
a session for each script, on any wire, interrupted or not. `VTCODE_FAULT_SCRIPTS=10000 cargo test
-p vtcode-core --lib no_script_of_faults_hangs` tries so many; `VTCODE_FAULT_SEED` begins elsewhere.

| fault | how often |";
