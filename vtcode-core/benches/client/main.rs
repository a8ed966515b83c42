//! The client's figures on loopback, each with what it is held against, in turns and in one run:
//! what it adds to a request, calls at the same time, connections, a second request for late answers,
//! and the rate limits of several processes. Asserts no time: a figure is read, not obeyed.
//!
//! `cargo bench -p vtcode-core --bench client -- [overhead|together|connections|tail|limits]…`

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::{ClientLimits, Limits, RateLimits};
use vtcode_core::llm::LLMRequest;
use vtcode_core::llm::message::Outcome;
use vtcode_core::llm::optimized_client::{OptimizedLLMClient, StreamEvent};
use vtcode_testkit::{Bucket, Fault, ScriptedModel, TlsServer, fail, say};

mod distance;

use distance::distance;

/// Names the part that a process of this bench plays when it is not the one that measures.
const ROLE: &str = "VTCODE_BENCH_ROLE";

const WORDS: &str = "This is what a short answer looks like: a sentence, in some pieces.";

fn main() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("there is a runtime");
    match std::env::var(ROLE).as_deref() {
        Ok("model") => runtime.block_on(model()),
        Ok("agents") => runtime.block_on(agents()),
        Ok("far") => runtime.block_on(far()),
        _ => runtime.block_on(measure()),
    }
}

async fn measure() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    println!("{:<58} {:>22}   against", "what", "ours (spread)");
    if runs("overhead") {
        overhead().await;
    }
    if runs("together") {
        together().await;
    }
    if runs("connections") {
        connections().await;
    }
    if runs("tail") {
        tail().await;
    }
    if runs("limits") {
        limits().await;
    }
}

/// Readings of one figure, and the middle and the ends of them.
struct Readings(Vec<f64>);

impl Readings {
    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted[sorted.len() / 2]
    }

    fn shown(&self, unit: &str) -> String {
        let sorted = self.sorted();
        let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
        format!("{:.2} ({least:.2}–{most:.2}) {unit}", self.median())
    }
}

fn row(what: &str, ours: &Readings, against: &str, other: &Readings, unit: &str) {
    let ratio = ours.median() / other.median();
    let (ours, other) = (ours.shown(unit), other.shown(unit));
    println!("{what:<58} {ours:>22}   {against} {other}, {ratio:.3} x");
}

fn client(base_url: &str, change: impl FnOnce(&mut ClientLimits)) -> OptimizedLLMClient {
    let mut limits = Limits::full().client;
    change(&mut limits);
    let endpoint = Endpoint::new(Wire::OpenAiChat, base_url, "m");
    OptimizedLLMClient::with_endpoint(endpoint, limits).expect("the URL is one")
}

/// Each question is another one: the same one, asked twice, would share its answer.
fn question() -> LLMRequest {
    static ASKED: AtomicUsize = AtomicUsize::new(1_000_000);
    LLMRequest::from_prompt(format!("hi, {}", ASKED.fetch_add(1, Ordering::Relaxed)))
}

async fn ask(client: &OptimizedLLMClient) {
    client.chat_optimized(question()).await.expect("the model answers");
}

/// What the client is held against: the same bytes with nothing around them.
#[derive(Clone)]
struct Bare {
    http: reqwest::Client,
    url: String,
    body: bytes::Bytes,
}

impl Bare {
    /// Asks once with the client, to send what it sends.
    async fn like(base_url: &str) -> Self {
        let model = ScriptedModel::start(vec![say(WORDS)]).await;
        ask(&client(&model.openai_url(), |_| {})).await;
        let body = bytes::Bytes::copy_from_slice(&model.requests()[0].body);
        let http = reqwest::Client::builder().no_proxy().tcp_nodelay(true);
        let http = http.tls_certs_only(std::iter::empty()).build().expect("it can be built");
        Self { http, url: format!("{base_url}/chat/completions"), body }
    }

    async fn ask(&self) {
        let request = self.http.post(&self.url).header("content-type", "application/json");
        let mut response = request.body(self.body.clone()).send().await.expect("it answers");
        let mut bytes = 0;
        while let Some(chunk) = response.chunk().await.expect("the answer is whole") {
            bytes += chunk.len();
        }
        assert!(bytes > WORDS.len());
    }
}

/// A model in a process of its own, so that what it does is not on our account.
async fn model() {
    let model = ScriptedModel::start_with(|_, _| say(WORDS)).await;
    println!("{}", model.openai_url());
    // Until whoever started it goes, and the pipe with it.
    let gone = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]));
    let _ = gone.await;
}

/// Starts this program in another role and returns it with its first line.
async fn other(role: &str, environment: &[(&str, String)]) -> (Child, String) {
    let program = std::env::current_exe().expect("it is running");
    let mut child = Command::new(program)
        .env(ROLE, role)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it can be started again");
    let output = child.stdout.take().expect("it is a pipe");
    let line = BufReader::new(output).lines().next_line().await.expect("it can be read");
    (child, line.expect("it says something"))
}

/// Requests at fixed times, whatever became of those before: who comes late because another one is
/// slow has waited, and that counts.
async fn open_loop<F: Future<Output = ()> + Send + 'static>(
    per_second: u32,
    count: u32,
    ask: impl Fn() -> F + Send + 'static,
) -> Vec<Duration> {
    let runtime = tokio::runtime::Handle::current();
    // A thread, because the runtime's timer ticks in milliseconds.
    let paced = std::thread::spawn(move || {
        let began = Instant::now() + Duration::from_millis(5);
        let mut tasks = Vec::with_capacity(count as usize);
        for number in 0..count {
            let due = began + Duration::from_secs(1) * number / per_second;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let asked = ask();
            tasks.push(runtime.spawn(async move {
                asked.await;
                due.elapsed()
            }));
        }
        tasks
    });
    let tasks = tokio::task::spawn_blocking(move || paced.join().expect("it does not panic"));
    let mut times: Vec<Duration> = join_all(tasks.await.expect("nobody ends it"))
        .await
        .into_iter()
        .map(|time| time.expect("it does not panic"))
        .collect();
    times.sort_unstable();
    times
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64() * 1e6
}

async fn overhead() {
    const PER_SECOND: u32 = 1000;
    let (_model, base_url) = other("model", &[]).await;
    let ours = client(&base_url, |limits| limits.idle_connections = 256);
    let bare = Bare::like(&base_url).await;
    let mut readings: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..11 {
        let ours = ours.clone();
        let a = open_loop(PER_SECOND, 2 * PER_SECOND, move || {
            let ours = ours.clone();
            async move { ask(&ours).await }
        });
        let a = a.await;
        let bare = bare.clone();
        let b = open_loop(PER_SECOND, 2 * PER_SECOND, move || {
            let bare = bare.clone();
            async move { bare.ask().await }
        });
        let b = b.await;
        // The first one opens the connections.
        if round > 0 {
            for (at, percent) in [50, 99].into_iter().enumerate() {
                readings[at][0].push(percentile(&a, percent));
                readings[at][1].push(percentile(&b, percent));
            }
        }
    }
    for (name, [ours, bare]) in ["p50", "p99"].into_iter().zip(readings) {
        let added = Readings(ours.iter().zip(&bare).map(|(a, b)| a - b).collect());
        let (ours, bare) = (Readings(ours), Readings(bare));
        row(&format!("1,000 requests/s, {name}"), &ours, "bare reqwest", &bare, "µs");
        println!("{:<58} {:>22}", format!("  the client adds, {name}"), added.shown("µs"));
    }
}

async fn together() {
    let model =
        ScriptedModel::start_with(|_, _| say(WORDS).delay(Duration::from_millis(100))).await;
    let ours = client(&model.openai_url(), |_| {});
    let bare = Bare::like(&model.openai_url()).await;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..21 {
        let began = Instant::now();
        join_all((0..10).map(|_| ask(&ours))).await;
        let ours = began.elapsed();
        let began = Instant::now();
        join_all((0..10).map(|_| bare.ask())).await;
        if round > 0 {
            a.push(ours.as_secs_f64() * 1e3);
            b.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    row("10 calls of 100 ms at once", &Readings(a), "bare reqwest", &Readings(b), "ms");
}

/// Requests one after the other over TLS and a way of some length; in a process of its own, because
/// the certificate is trusted by its environment.
async fn far() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (idle, count) = (number("IDLE").unwrap_or(16), number("COUNT").unwrap_or(100));
    let base_url = std::env::var("BASE_URL").expect("it is set");
    let client = client(&base_url, |limits| limits.idle_connections = idle);
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        ask(&client).await;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    println!("{}", json!(times));
}

async fn connections() {
    for round_trip in [0, 30] {
        let model = ScriptedModel::start_with(|_, _| say(WORDS)).await;
        let server = TlsServer::start(model.address()).await;
        let way = distance(server.address, Duration::from_millis(round_trip)).await;
        let folder = tempfile::tempdir().expect("there is room for one");
        let trusted = folder.path().join("trusted.pem");
        std::fs::write(&trusted, &server.pem).expect("there is room for it");
        let mut sides = Vec::new();
        // 1,000 connections with 30 ms between would take minutes; a tenth says the same.
        for (idle, count) in [(16, 1000), (0, if round_trip == 0 { 1000 } else { 100 })] {
            let before = server.counts();
            let environment = [
                ("BASE_URL", format!("https://{way}/v1")),
                ("SSL_CERT_FILE", trusted.display().to_string()),
                ("IDLE", format!("{idle}")),
                ("COUNT", format!("{count}")),
            ];
            let (_child, line) = other("far", &environment).await;
            let times: Vec<f64> = serde_json::from_str(&line).expect("it wrote JSON");
            let after = server.counts();
            sides.push((times, after.0 - before.0, after.1 - before.1));
        }
        let (kept, each) = (&sides[0], &sides[1]);
        // What no client can do without: the same on a connection that is there.
        let floor = Readings(kept.0[1..].to_vec()).median();
        let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len() as f64;
        let added = [mean(&kept.0) - floor, mean(&each.0) - floor];
        let what = format!("{} requests over TLS, {round_trip} ms round trip", kept.0.len());
        println!(
            "{what:<58} {:>22}   a connection each: {} connections, {} handshakes of {}",
            format!("{} connection, {} handshake", kept.1, kept.2),
            each.1,
            each.2,
            each.0.len(),
        );
        println!(
            "{:<58} {:>22}   a connection each {:.3} ms, {:.1} % less",
            "  latency added to each, on average",
            format!("{:.3} ms", added[0]),
            added[1],
            100.0 * (1.0 - added[0] / added[1]),
        );
        row(
            "  a request",
            &Readings(kept.0.clone()),
            "a connection each",
            &Readings(each.0.clone()),
            "ms",
        );
    }
}

/// Asks, and returns how long the answer took to begin.
async fn first_byte(client: &OptimizedLLMClient) -> Duration {
    let began = Instant::now();
    let mut took = None;
    let mut stream = client.stream(&question());
    while let Some(event) = stream.next().await {
        if let StreamEvent::FirstByte = event.expect("the model answers") {
            took = Some(began.elapsed());
        }
    }
    took.expect("it began")
}

/// A model of which two answers of a hundred begin twenty times as late as the others, asked in turns
/// by a client that asks a second time for what is late and by one that does not.
async fn tail() {
    const REQUESTS: usize = 1500;
    const USUAL: Duration = Duration::from_millis(10);
    let asked = AtomicUsize::new(1);
    let model = ScriptedModel::start_with(move |_, _| {
        // The same row of numbers in each run (Knuth's constant), spread evenly over 0 to 99.
        let nth = asked.fetch_add(1, Ordering::Relaxed);
        let dice = (nth.wrapping_mul(2_654_435_761) >> 8) % 100;
        let usual = USUAL.mul_f64(1.0 + dice as f64 / 500.0);
        say(WORDS).delay(if dice < 2 { USUAL * 20 } else { usual })
    })
    .await;
    let hedging = client(&model.openai_url(), |limits| limits.hedge_budget = 0.05);
    let plain = client(&model.openai_url(), |_| {});
    let mut times: [Vec<Duration>; 2] = Default::default();
    for _ in 0..REQUESTS {
        times[0].push(first_byte(&hedging).await);
        times[1].push(first_byte(&plain).await);
    }
    for times in &mut times {
        times.sort_unstable();
    }
    for percent in [50, 99] {
        let [ours, other] = [0, 1].map(|at| percentile(&times[at], percent) / 1e3);
        println!(
            "{:<58} {:>22}   asked once {other:.2} ms, {:+.1} %",
            format!("{REQUESTS} answers of which 2 % are 20 x late, p{percent}"),
            format!("{ours:.2} ms"),
            100.0 * (ours / other - 1.0),
        );
    }
    let metrics = hedging.get_metrics().await;
    println!(
        "{:<58} {:>22}   {} of them began first",
        "  requests sent twice",
        format!("{:.1} %", 100.0 * metrics.hedges as f64 / REQUESTS as f64),
        metrics.hedges_won,
    );
}

/// Agents of one process that ask as fast as they may, until the time is over.
async fn agents() {
    let variable = |name: &str| std::env::var(name).expect("it is set");
    let number = |name: &str| variable(name).parse::<u64>().expect("it is a number");
    let mut limits = Limits::full().client;
    limits.rate = RateLimits {
        requests_per_minute: Some(number("PER_MINUTE")),
        burst: Some(number("BURST")),
        ..RateLimits::default()
    };
    let endpoint = Endpoint::new(Wire::OpenAiChat, variable("BASE_URL"), "m");
    let folder = variable("FOLDER");
    let client = OptimizedLLMClient::with_shared_limits(endpoint, limits, Some(Path::new(&folder)));
    let client = client.expect("the URL is one");
    let until = Instant::now() + Duration::from_secs(number("SECONDS"));
    let agents = (0..number("AGENTS")).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut asked = 0;
            while Instant::now() < until {
                // Refused often enough, a request fails: that is what the control shows.
                let answer = client.chat_optimized(question()).await;
                asked += u64::from(answer.is_ok());
            }
            asked
        })
    });
    let asked: Vec<u64> =
        join_all(agents).await.into_iter().map(|asked| asked.expect("no panic")).collect();
    let metrics = client.get_metrics().await;
    let refused = metrics.attempts.iter().find(|(outcome, _)| *outcome == Outcome::RateLimited);
    println!("{}", json!({"asked": asked, "refused": refused.map_or(0, |(_, count)| *count)}));
}

async fn limits() {
    const PROCESSES: usize = 8;
    const AGENTS: usize = 20;
    const PER_SECOND: u32 = 200;
    const WARM_UP: Duration = Duration::from_secs(3);
    const MEASURED: Duration = Duration::from_secs(10);
    // The control has no limits of its own.
    for (name, per_minute) in
        [("8 processes × 20 agents", 60 * PER_SECOND), ("  without limits of our own", 60_000_000)]
    {
        let burst = f64::from(PER_SECOND) / 2.0;
        let bucket = Bucket::new(f64::from(PER_SECOND), burst);
        let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let counted = Arc::clone(&counts);
        let began = Arc::new(Mutex::new(None::<Instant>));
        let first = Arc::clone(&began);
        let model = ScriptedModel::start_with(move |_, _| {
            let now = Instant::now();
            let since = now - *first.lock().expect("no panic").get_or_insert(now);
            let taken = bucket.take();
            if since >= WARM_UP && since < WARM_UP + MEASURED {
                counted[usize::from(!taken)].fetch_add(1, Ordering::SeqCst);
            }
            if taken { say(WORDS) } else { fail(Fault::status(429)) }
        })
        .await;
        let folder = tempfile::tempdir().expect("there is room for one");
        let environment = [
            ("BASE_URL", model.openai_url()),
            ("FOLDER", folder.path().display().to_string()),
            ("PER_MINUTE", per_minute.to_string()),
            // Far less at once than the provider takes: a process that the machine holds up sends
            // what waited all at once.
            ("BURST", (PER_SECOND / 20).to_string()),
            ("AGENTS", AGENTS.to_string()),
            ("SECONDS", (WARM_UP + MEASURED).as_secs().to_string()),
        ];
        let ended = join_all((0..PROCESSES).map(|_| other("agents", &environment))).await;
        let mut asked = Vec::new();
        for (_, line) in ended {
            let said: Value = serde_json::from_str(&line).expect("it wrote JSON");
            let each = said["asked"].as_array().expect("it is a list");
            asked.extend(each.iter().filter_map(Value::as_f64));
        }
        let [served, refused] = [0, 1].map(|at| counts[at].load(Ordering::SeqCst));
        let allowed = f64::from(PER_SECOND) * MEASURED.as_secs_f64();
        println!(
            "{name:<58} {:>22}   {:.1} % of the {allowed} that it allows in {MEASURED:?}; requests of one agent {}",
            format!("{refused} × 429"),
            100.0 * served as f64 / allowed,
            Readings(asked).shown(""),
        );
    }
}
