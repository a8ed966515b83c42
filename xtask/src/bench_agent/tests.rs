//! The bench against an agent whose every habit is known: this test program, started once more.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::agent::{self, Agent};
use super::machine::Machine;
use super::report::Report;
use super::run::{self, Run};
use super::script::Script;
use super::{Options, Wire, agents, measure};

/// Set in the process that plays the agent: what is wrong with it.
const HABIT: &str = "BENCH_FAKE_AGENT";

/// The agent, in a process of its own; an empty test in the one that runs the tests.
#[test]
fn fake_agent() {
    let Ok(habit) = std::env::var(HABIT) else { return };
    let mut agent = Fake { habit, connection: None };
    if agent.habit == "chatty" {
        agent.ask(&json!({"model": "m", "messages": [{"role": "user", "content": "a title?"}]}));
    }
    let mut messages =
        vec![json!({"role": "user", "content": std::env::var("BENCH_PROMPT").unwrap()})];
    loop {
        let tools = json!([{"type": "function", "function": {"name": "sh"}}]);
        let body = json!({"model": "m", "messages": messages, "tools": tools});
        let message = agent.ask(&body)["choices"][0]["message"].clone();
        let Some(calls) = message["tool_calls"].as_array().cloned() else {
            if agent.habit != "silent" {
                println!("{}", message["content"].as_str().unwrap());
            }
            if agent.habit == "failing" {
                eprintln!("the disk is full");
                std::process::exit(3);
            }
            return;
        };
        messages.push(message);
        let mut results = agent.work(&calls);
        if agent.habit == "careless" {
            results.reverse();
        }
        messages.extend(results);
    }
}

struct Fake {
    habit: String,
    connection: Option<BufReader<TcpStream>>,
}

impl Fake {
    /// Posts a body and returns what comes back, on one connection unless that is the bad habit.
    fn ask(&mut self, body: &Value) -> Value {
        let url = std::env::var("BENCH_URL").unwrap();
        let host = url.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap();
        if self.habit == "chatty" {
            self.connection = None;
        }
        let connection = self
            .connection
            .get_or_insert_with(|| BufReader::new(TcpStream::connect(host).unwrap()));
        let body = body.to_string();
        let length = body.len();
        write!(
            connection.get_mut(),
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        connection.read_exact(&mut answer).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    /// Runs all calls of a message at once.
    fn work(&self, calls: &[Value]) -> Vec<Value> {
        if self.habit == "stuck" {
            // Killed by the bench; ends with its parent's patience otherwise.
            let _ = Command::new("sleep").arg("600").status();
        }
        let start = |call: &Value| {
            let function = &call["function"];
            assert_eq!(function["name"], "sh");
            let arguments: Value =
                serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
            let line = arguments["line"].as_str().unwrap();
            let line = if self.habit == "lazy" { "true" } else { line };
            Command::new("bash")
                .args(["-c", line])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        };
        let running: Vec<_> = calls.iter().map(start).collect();
        let finish = |(call, child): (&Value, std::process::Child)| {
            let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
            let content = json!({"output": output, "exit_code": 0}).to_string();
            json!({"role": "tool", "tool_call_id": call["id"], "content": content})
        };
        calls.iter().zip(running).map(finish).collect()
    }
}

fn fake(habit: &str) -> Agent {
    let me = std::env::current_exe().unwrap();
    let line = format!(
        "env {HABIT}={habit} BENCH_URL={{url}} 'BENCH_PROMPT={{prompt}}' '{}' --exact --nocapture \
         bench_agent::tests::fake_agent",
        me.display(),
    );
    Agent {
        words: agent::split(&line).unwrap(),
        wire: Wire::Chat,
        tool: "sh".to_owned(),
        field: "line".to_owned(),
        home: None,
        timeout: Duration::from_secs(60),
    }
}

async fn run_as(habit: &str, script: &Script) -> anyhow::Result<Run> {
    run::once(&fake(habit), script, false).await
}

/// Returns why such an agent is not measured.
async fn refusal(habit: &str, script: &Script) -> String {
    format!("{:#}", run_as(habit, script).await.unwrap_err())
}

#[test]
fn an_honest_agent_is_measured_in_every_row() {
    let readings = measure(&fake("honest"), None, 1).unwrap();
    assert_eq!(readings.failures, Vec::<String>::new());
    let report = Report::new(Machine::now(), "fake".to_owned(), &readings).json();
    let row = |what: &str, script: &str| {
        let rows = report["rows"].as_array().unwrap();
        let found = rows.iter().find(|row| row["what"] == what && row["script"] == script);
        found.unwrap_or_else(|| panic!("no row {script} {what}"))["value"].clone()
    };
    assert_eq!(row("connections opened", "S1"), 1.0);
    assert!(row("wall time", "S2").as_f64().unwrap() >= 2.0);
    let all = row("all request bodies", "S1").as_f64().unwrap();
    assert!(all > 20.0 * row("first request body", "S1").as_f64().unwrap());
    let numbers = report["rows"].as_array().unwrap().iter().map(|row| row["value"].as_f64());
    assert!(numbers.into_iter().all(|value| value.is_some_and(|value| value > 0.0)), "{report:#}");
    assert_eq!(readings.turns[0].gaps.len(), 20);
    assert!(readings.turns[0].first_request < readings.turns[0].wall);
}

#[tokio::test]
async fn an_agents_own_requests_take_no_turn_but_count_as_connections() {
    let script = Script::turns();
    let run = run_as("chatty", &script).await.unwrap();
    assert_eq!(run.gaps.len(), script.turns.len());
    assert_eq!(run.connections, script.turns.len() + 2);
}

#[tokio::test]
async fn an_agent_that_does_not_work_is_not_measured() {
    let why = refusal("lazy", &Script::turns()).await;
    assert!(why.contains("turn 1 of 20: `cat src/f0.rs` did not print"), "{why}");
    let mut short = Script::parallel();
    short.turns.truncate(1);
    let why = refusal("lazy", &short).await;
    assert!(why.contains("its commands 200ms"), "{why}");
    let why = refusal("careless", &short).await;
    assert!(why.contains("a result of `call_0_3` stands where that of `call_0_0`"), "{why}");
}

#[tokio::test]
async fn an_agent_that_keeps_the_answer_or_crashes_is_not_measured() {
    let why = refusal("silent", &Script::answer()).await;
    assert!(why.contains("did not print"), "{why}");
    let why = refusal("failing", &Script::answer()).await;
    assert!(why.contains("the agent ended with exit status: 3"), "{why}");
    assert!(why.contains("the disk is full"), "its last words are shown: {why}");
}

#[tokio::test]
async fn an_agent_that_hangs_is_stopped() {
    let agent = Agent { timeout: Duration::from_secs(1), ..fake("stuck") };
    let script = Script::turns();
    let run = run::once(&agent, &script, true);
    let stopped = tokio::time::timeout(Duration::from_secs(60), run).await;
    let why = stopped.expect("it is stopped after a second").unwrap_err().to_string();
    assert!(why.contains("not done after 1s"), "{why}");
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_named() {
    let agent = Agent { words: vec!["no-such-agent-anywhere".to_owned()], ..fake("") };
    let why = run::once(&agent, &Script::answer(), false).await.unwrap_err();
    assert!(why.to_string().contains("cannot start `no-such-agent-anywhere`"), "{why:#}");
}

#[test]
fn a_command_line_without_a_prompt_is_refused() {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }
    let options = |agent: &str| {
        let line =
            <Line as clap::Parser>::try_parse_from(["x", "--agent", agent, "--wire", "anthropic"]);
        line.unwrap().options
    };
    let (agent, other) = agents(&options("pi --url {url} {prompt}")).unwrap();
    assert_eq!((agent.wire, agent.words.len()), (Wire::Anthropic, 4));
    assert!(other.is_none(), "only our own agent's other command line is known");
    let why = agents(&options("pi --url {url}")).unwrap_err().to_string();
    assert!(why.contains("{prompt}"), "{why}");
}
