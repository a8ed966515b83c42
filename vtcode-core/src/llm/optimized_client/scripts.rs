//! Random faults in a row, under paused time: nothing hangs, whatever a server does and whenever.
//! Client, clocks, retries, decoders, engine and pipeline are the real ones. Only the network is
//! played, because sockets know nothing of paused time: it would run on while their bytes are on
//! the way, and end what is not late.
//!
//! Each script has a number, and is the same each time. `VTCODE_FAULT_SCRIPTS=10000` tries so many;
//! `VTCODE_FAULT_SEED` begins with another number.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;

use futures_util::stream;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use vtcode_testkit::{Reply, call, say, think};

use super::transport::Sending;
use super::*;
use crate::config::endpoint::Wire;
use crate::config::limits::Limits;
use crate::core::event::EventKind;
use crate::core::optimized_agent::{End, OptimizedAgentEngine};
use crate::tools::async_pipeline::AsyncToolPipeline;
use crate::tools::optimized_registry::OptimizedToolRegistry;
use crate::tools::tool::{CallContext, Effect, Tool, ToolFuture, ToolOutput, ToolSpec};

/// Scripts of a run that is not told otherwise.
const SCRIPTS: u64 = 300;

/// What reading an error or the end of an answer may take beyond the total clock.
const SLACK: Duration = Duration::from_millis(200);

const MAX_TURNS: u32 = 12;

/// The longest run of a tool.
const TOOL: Duration = Duration::from_secs(90);

/// Random numbers; any seed is a good one.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Returns a time that is mostly short, and now and then about as long as a clock, or longer.
    fn time(&mut self, clock: Duration) -> Duration {
        match self.below(20) {
            0 => clock.mul_f64(0.9),
            1 => clock,
            2 => clock.mul_f64(1.3),
            3..10 => Duration::from_millis(self.below(3000) as u64),
            _ => Duration::ZERO,
        }
    }
}

/// What a played connection does next.
enum Step {
    Wait(Duration),
    Send(Vec<u8>),
    Break,
    Hang,
}

/// A script: what the model would like to say, and the dice that decide what becomes of it.
struct Script {
    wire: Wire,
    limits: Limits,
    /// The calls of each turn.
    turns: Vec<Vec<String>>,
    /// Whether events may be lost, doubled, swapped or damaged: then the model itself may be heard
    /// to ask twice.
    wild: bool,
    /// How many of a hundred requests fail.
    faults: usize,
    dice: Mutex<Dice>,
    /// What was sent of each answer.
    sent: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    http: reqwest::Client,
}

impl Script {
    fn new(number: u64, http: reqwest::Client) -> Self {
        let mut dice = Dice(number);
        let mut limits = Limits::full();
        if dice.chance(20) {
            limits = Limits::plain();
        }
        limits.agent.max_turns = MAX_TURNS;
        limits.client.attempts = 1 + dice.below(6) as u32;
        limits.client.total = Duration::from_secs(dice.pick(&[20, 600, 1800]));
        let calls = |turn: usize, dice: &mut Dice| {
            (0..dice.below(4)).map(|nth| format!("t{turn}c{nth}.")).collect()
        };
        Self {
            wire: dice.pick(&Wire::ALL),
            limits,
            turns: (0..dice.below(4)).map(|turn| calls(turn, &mut dice)).collect(),
            wild: dice.chance(30),
            faults: dice.pick(&[20, 50, 80, 100]),
            sent: Mutex::default(),
            dice: Mutex::new(dice),
            http,
        }
    }

    /// What the model says: what is left of the first turn of which something is left.
    fn says(&self, body: &str, dice: &mut Dice) -> Reply {
        let is_left = |call: &&String| !body.contains(&format!("ran {call}"));
        let left: Vec<_> = self
            .turns
            .iter()
            .map(|calls| calls.iter().filter(is_left).collect::<Vec<_>>())
            .collect();
        let Some(left) = left.iter().find(|left| !left.is_empty()) else {
            return say("Done.").usage(50 + dice.below(50) as u64, 20, 3);
        };
        let mut reply = Reply::default();
        if dice.chance(50) {
            reply = reply.and(think("What would be best here? Both, I think."));
        }
        if dice.chance(70) {
            reply = reply.and(say("Now I go on with the next ones, as was asked for."));
        }
        for name in left {
            reply = reply.and(call("count", json!({"call": name})).call_id(format!("id_{name}")));
        }
        reply.usage(100 + dice.below(1000) as u64, dice.below(100) as u64, dice.below(80) as u64)
    }

    /// Plays the answer to a request.
    async fn answer(
        self: Arc<Self>,
        request: reqwest::Request,
    ) -> reqwest::Result<reqwest::Response> {
        let body = http::Request::<reqwest::Body>::try_from(request)?.into_body();
        let body = body.collect().await?.to_bytes();
        let sent = Arc::new(Mutex::new(Vec::new()));
        self.sent.lock().unwrap().push(Arc::clone(&sent));
        let (wait, answer) = self.decide(&body);
        sleep(wait).await;
        let (status, headers, steps) = match answer {
            Answered::No => return self.http.get("http://nowhere.invalid/").send().await,
            Answered::Lost => return Err(self.http.get("::").build().unwrap_err()),
            Answered::With(status, headers, steps) => (status, headers, steps),
        };
        // An error's body is no answer, and bills nothing.
        let sent = if status == 200 { sent } else { Arc::default() };
        let steps = steps.into_iter();
        let body = stream::unfold((steps, sent), |(mut steps, sent)| async move {
            loop {
                match steps.next()? {
                    Step::Wait(time) => sleep(time).await,
                    Step::Hang => std::future::pending().await,
                    Step::Break => {
                        return Some((Err(io::ErrorKind::ConnectionReset.into()), (steps, sent)));
                    }
                    Step::Send(bytes) => {
                        sent.lock().unwrap().extend_from_slice(&bytes);
                        return Some((Ok::<_, io::Error>(bytes), (steps, sent)));
                    }
                }
            }
        });
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        Ok(response.body(reqwest::Body::wrap_stream(body)).unwrap().into())
    }

    fn decide(&self, body: &[u8]) -> (Duration, Answered) {
        let dice = &mut *self.dice.lock().unwrap();
        let client = &self.limits.client;
        let wait = dice.time(client.connect + client.first_byte);
        let reply = self.says(&String::from_utf8_lossy(body), dice);
        let kit = kit(self.wire);
        let mut events = kit.events(&reply, body);
        let kind = ("content-type", "text/event-stream".to_owned());
        if !dice.chance(self.faults) {
            return (wait, Answered::With(200, vec![kind], self.paced(&events.concat(), dice)));
        }
        let answer = match dice.below(12) {
            0 => Answered::No,
            1 => Answered::Lost,
            2 | 3 => {
                let status = dice.pick(&[
                    301, 400, 401, 404, 408, 409, 413, 429, 429, 429, 500, 501, 502, 503, 504, 529,
                ]);
                let mut headers = vec![("content-type", "application/json".to_owned())];
                let after = dice.pick(&["", "0", "1", "7.5", "100000", "-3", "soon", "1e400"]);
                if !after.is_empty() {
                    headers.push(("retry-after", after.to_owned()));
                }
                if dice.chance(30) {
                    headers.push(("x-ratelimit-limit-requests", "60".to_owned()));
                    headers.push(("x-ratelimit-remaining-requests", "0".to_owned()));
                    headers.push(("x-ratelimit-reset-requests", "2s".to_owned()));
                }
                let mut steps = self.paced(br#"{"error":{"message":"no","code":1}}"#, dice);
                if dice.chance(20) {
                    steps.push(if dice.chance(50) { Step::Hang } else { Step::Break });
                }
                Answered::With(status, headers, steps)
            }
            4 => {
                let page = [("content-type", "text/html".to_owned())];
                Answered::With(200, page.to_vec(), self.paced(b"<html>Hello</html>", dice))
            }
            5 if self.wild => {
                for _ in 0..=dice.below(3) {
                    Self::damage(&mut events, dice);
                }
                Answered::With(200, vec![kind], self.paced(&events.concat(), dice))
            }
            // Broken off at an event or at any byte, in one of four ways.
            _ => {
                let whole = events.concat();
                let at = if dice.chance(50) {
                    events[..dice.below(events.len() + 1)].iter().map(Vec::len).sum()
                } else {
                    dice.below(whole.len() + 1)
                };
                let mut steps = self.paced(&whole[..at], dice);
                match dice.below(4) {
                    0 => steps.push(Step::Hang),
                    1 => steps.push(Step::Break),
                    2 => steps.push(Step::Send([b"\n\n", &kit.error_event()[..]].concat())),
                    _ => {}
                }
                Answered::With(200, vec![kind], steps)
            }
        };
        (wait, answer)
    }

    /// Splits bytes into chunks, with pauses between some of them.
    fn paced(&self, mut bytes: &[u8], dice: &mut Dice) -> Vec<Step> {
        let most = dice.pick(&[7, 100, 4000]);
        let mut steps = Vec::new();
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at((1 + dice.below(most)).min(bytes.len()));
            if dice.chance(5) {
                steps.push(Step::Wait(dice.time(self.limits.client.gap)));
            }
            steps.push(Step::Send(chunk.to_vec()));
            bytes = rest;
        }
        steps
    }

    fn damage(events: &mut Vec<Vec<u8>>, dice: &mut Dice) {
        let (one, other) = (dice.below(events.len()), dice.below(events.len()));
        match dice.below(5) {
            _ if events.is_empty() => {}
            0 => drop(events.remove(one)),
            1 => events.insert(one, events[other].clone()),
            2 => events.swap(one, other),
            3 => {
                let at = dice.below(events[one].len());
                if let Some(byte) = events[one].get_mut(at) {
                    *byte = dice.next() as u8;
                }
            }
            _ => {
                let noise = (0..dice.below(60)).map(|_| dice.next() as u8).collect();
                events.insert(one, noise);
            }
        }
    }

    fn client(self: &Arc<Self>) -> Arc<OptimizedLLMClient> {
        let endpoint = Endpoint::new(self.wire, "http://127.0.0.1:9/v1", "m");
        let route = Route { endpoint, limits: self.limits.client.clone() };
        let script = Arc::clone(self);
        let play = move |request| -> Sending { Box::pin(Arc::clone(&script).answer(request)) };
        let transport = Transport::Played(Box::new(play));
        Arc::new(OptimizedLLMClient::over(Routes::with_transport(route, transport).unwrap()))
    }

    /// What each answer billed.
    fn bills(&self) -> Vec<Usage> {
        let bill = |sent: &Arc<Mutex<Vec<u8>>>| {
            let billed = kit(self.wire).billed(&sent.lock().unwrap());
            Usage {
                input_tokens: billed.input,
                cached_input_tokens: billed.cached,
                output_tokens: billed.output,
            }
        };
        self.sent.lock().unwrap().iter().map(bill).collect()
    }
}

enum Answered {
    /// There is no way to the server.
    No,
    /// The connection breaks before the answer.
    Lost,
    With(u16, Vec<(&'static str, String)>, Vec<Step>),
}

fn kit(wire: Wire) -> vtcode_testkit::Wire {
    match wire {
        Wire::OpenAiChat => vtcode_testkit::Wire::Chat,
        Wire::OpenAiResponses => vtcode_testkit::Wire::Responses,
        Wire::Anthropic => vtcode_testkit::Wire::Messages,
        Wire::Gemini => vtcode_testkit::Wire::Gemini,
    }
}

/// Counts the runs of each call, some of which take their time.
struct Count {
    spec: ToolSpec,
    runs: Arc<Mutex<HashMap<String, usize>>>,
}

impl Tool for Count {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _args: &Value) -> Effect {
        Effect::opaque()
    }

    fn call<'a>(&'a self, args: &'a Value, _context: &'a CallContext) -> ToolFuture<'a> {
        let name = args["call"].as_str().unwrap_or_default().to_owned();
        *self.runs.lock().unwrap().entry(name.clone()).or_default() += 1;
        Box::pin(async move {
            if name.ends_with("c1.") {
                sleep(TOOL).await;
            }
            Ok(ToolOutput::text(format!("ran {name}")))
        })
    }
}

/// Looks up no name.
struct NoNames;

impl reqwest::dns::Resolve for NoNames {
    fn resolve(&self, _name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async { Err("there are no names here".into()) })
    }
}

/// One request on its own: it ends within its total clock, with an end or an error.
async fn request_alone(script: &Arc<Script>) -> Result<(), String> {
    let client = script.client();
    let began = Instant::now();
    let total = script.limits.client.total;
    let mut stream = client.stream(&LLMRequest::from_prompt("go"));
    let (mut finished, mut failed, mut ledger) = (0, 0, Vec::new());
    let all = async {
        while let Some(event) = stream.next().await {
            match event {
                Ok(StreamEvent::Delta(Delta::Finish(_))) => finished += 1,
                Ok(StreamEvent::AttemptEnded(attempt)) => ledger.push(attempt.usage),
                Ok(_) => {}
                Err(_) => failed += 1,
            }
        }
    };
    timeout(total + SLACK, all).await.map_err(|_| format!("it lasts beyond {total:?}"))?;
    if finished + failed != 1 {
        return Err(format!("{finished} ends and {failed} errors, {:?}", began.elapsed()));
    }
    check_ledger(script, &ledger)
}

fn check_ledger(script: &Script, ledger: &[Usage]) -> Result<(), String> {
    let bills = script.bills();
    // Damaged events may bill what they like.
    if script.wild && ledger.len() == bills.len() || ledger == bills {
        return Ok(());
    }
    Err(format!("the ledger says {ledger:?}, the bill {bills:?}"))
}

/// A whole session: it ends, no call runs twice, and what is done is all of it.
async fn session(script: &Arc<Script>) -> Result<&'static str, String> {
    let runs = Arc::default();
    let parameters = json!({"type": "object"});
    let spec = ToolSpec { name: "count".into(), description: "Counts.".into(), parameters };
    let tool: Arc<dyn Tool> = Arc::new(Count { spec, runs: Arc::clone(&runs) });
    let registry = OptimizedToolRegistry::with_tools(vec![tool], script.limits.tools.clone());
    let pipeline = Arc::new(AsyncToolPipeline::with_registry(Arc::new(registry)));
    let ledger = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&ledger);
    let engine = OptimizedAgentEngine::new("script", Arc::clone(&pipeline), script.client())
        .with_limits(script.limits.agent.clone())
        .on_event(move |event| {
            if let EventKind::AttemptEnded(attempt) = &event.kind {
                sink.lock().unwrap().push(attempt.usage);
            }
        });
    engine.submit("go").await.unwrap();
    engine.close_input();
    // An answer may break three times and be empty once before a prompt is given up.
    let total = script.limits.client.total;
    let mut longest = (4 * (total + SLACK) + 4 * TOOL) * MAX_TURNS;
    let (interrupt, after) = {
        let dice = &mut *script.dice.lock().unwrap();
        (dice.chance(15), dice.time(total / 4))
    };
    let cancel = engine.cancel_token();
    if interrupt {
        longest = after + Duration::from_secs(10);
    }
    let interrupted = async {
        if !interrupt {
            std::future::pending::<()>().await;
        }
        sleep(after).await;
        cancel.cancel();
        std::future::pending::<()>().await;
    };
    let ended = async {
        tokio::select! {
            outcome = engine.start() => outcome.unwrap(),
            () = interrupted => unreachable!("it never ends"),
        }
    };
    let outcome = timeout(longest, ended).await.map_err(|_| format!("it hangs: {longest:?}"))?;
    timeout(SLACK, pipeline.shutdown()).await.map_err(|_| "the pipeline hangs".to_owned())?;
    check_ledger(script, &ledger.lock().unwrap())?;
    let runs = runs.lock().unwrap().clone();
    if !script.wild && runs.values().any(|count| *count > 1) {
        return Err(format!("a call ran twice: {runs:?}"));
    }
    match outcome.end {
        Some(End::Done(_)) if script.wild => Ok("done, perhaps not as meant"),
        Some(End::Done(words)) => {
            let all = script.turns.iter().flatten().all(|call| runs.contains_key(call));
            if words == "Done." && all { Ok("done") } else { Err(format!("{words}: {runs:?}")) }
        }
        Some(End::Failed(_)) => Ok("an error with a type"),
        Some(End::Limit(_)) => Ok("a limit"),
        Some(End::Interrupted) if interrupt => Ok("interrupted"),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test(start_paused = true)]
async fn no_script_of_faults_hangs() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let scripts = number("VTCODE_FAULT_SCRIPTS").unwrap_or(SCRIPTS);
    let first = number("VTCODE_FAULT_SEED").unwrap_or(1);
    // Never connects: for errors of a kind that only it can make.
    connect::install_crypto();
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only(std::iter::empty())
        .dns_resolver(Arc::new(NoNames))
        .build()
        .unwrap();
    let mut ends: HashMap<&str, u64> = HashMap::new();
    let (mut broken, mut requests) = (Vec::new(), 0);
    let began = std::time::Instant::now();
    let virtual_began = Instant::now();
    for number in first..first + scripts {
        let alone = Arc::new(Script::new(number, http.clone()));
        if let Err(why) = request_alone(&alone).await {
            broken.push(format!("script {number}, alone, {}: {why}", alone.wire));
        }
        let script = Arc::new(Script::new(number, http.clone()));
        match session(&script).await {
            Ok(end) => *ends.entry(end).or_default() += 1,
            Err(why) => broken.push(format!("script {number}, {}: {why}", script.wire)),
        }
        requests += alone.sent.lock().unwrap().len() + script.sent.lock().unwrap().len();
    }
    println!(
        "scripts {first} to {}: a request and a session each, {requests} attempts, {} broken; {ends:?}; {:?} that seemed {:?}",
        first + scripts - 1,
        broken.len(),
        began.elapsed(),
        virtual_began.elapsed(),
    );
    assert!(broken.is_empty(), "{}", broken[..broken.len().min(20)].join("\n"));
    // Not all of them the same way: then the dice would be loaded.
    assert!(
        scripts < 100
            || ["done", "an error with a type", "interrupted"]
                .iter()
                .all(|end| ends.contains_key(end))
    );
}
