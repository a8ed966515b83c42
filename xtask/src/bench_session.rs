//! Measures what a long session costs: one of a size is written as the engine writes it, then the
//! program lists it and goes on with it as a user's process would; times, memory and what waiting
//! costs come out. Never looks into the program but through `/proc`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::process::{Child, Command};
use vtcode_core::core::event::{Event, EventKind, SessionHeader};
use vtcode_core::core::journal::{self, Journal, SessionEntry, Sessions};
use vtcode_core::llm::message::{FinishReason, Message, Part, ToolCall, Usage};
use vtcode_core::tools::tool::Detail;
use vtcode_testkit::{Fault, ScriptedModel, TempWorkspace, say};

use crate::bench_agent::{Machine, Samples, build_for_release};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The program; without it vtcode is built for release
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// The size of the session's journal
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    mib: u64,
    /// Its events
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    events: u64,
    /// What the model still gets of it: the messages since the conversation was last shortened
    #[arg(long, default_value_t = 500, value_name = "KIB")]
    view_kib: u64,
    /// The size of another session, which was never shortened: all of it is sent
    #[arg(long, default_value_t = 32, value_name = "MIB")]
    whole_mib: u64,
    /// How often everything is measured
    #[arg(long, default_value_t = 15, value_name = "N")]
    runs: usize,
    /// Seconds for which the program waits for a silent model
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    idle: u64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => build_for_release("vtcode")?,
    };
    print!("{}", Machine::now().text());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let views = Some(options.view_kib * 1024);
        let long = Stage::new(&program, options.mib << 20, options.events, views).await?;
        long.list(options.runs).await?;
        long.resume("resume to the request", options.runs).await?;
        let whole_bytes = options.whole_mib << 20;
        let whole = Stage::new(&program, whole_bytes, options.whole_mib * 100, None).await?;
        whole.resume("the first time, without an index", 1).await?;
        whole.resume("resume to the request, all of it sent", options.runs.min(5)).await?;
        idle(&program, Duration::from_secs(options.idle)).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A session on disk, and a model that answers whoever goes on with it.
struct Stage {
    program: PathBuf,
    home: tempfile::TempDir,
    workspace: TempWorkspace,
    model: ScriptedModel,
    /// The process whose memory is read when its request comes, and the reading.
    asked: Arc<Mutex<(Option<u32>, Option<u64>)>>,
}

impl Stage {
    /// Writes a session of so many bytes and events; `view_bytes`: it is shortened whenever it has
    /// grown by so much, the last time so that this is what is left.
    async fn new(
        program: &Path,
        bytes: u64,
        events: u64,
        view_bytes: Option<u64>,
    ) -> anyhow::Result<Self> {
        let asked = Arc::new(Mutex::new((None::<u32>, None)));
        let read = Arc::clone(&asked);
        let model = ScriptedModel::start_with(move |_, _| {
            let mut asked = read.lock().expect("no reading panics");
            asked.1 = asked.0.and_then(peak_kib);
            say("Done.")
        });
        let stage = Self {
            program: program.to_owned(),
            home: tempfile::tempdir()?,
            workspace: TempWorkspace::with([("a.txt", "alpha\n")]),
            model: model.await.keeping_bodies(1),
            asked,
        };
        let began = Instant::now();
        let written = stage.write(bytes, events, view_bytes)?;
        let (mib, took) = (written >> 20, began.elapsed());
        let view = view_bytes.map_or("all".to_owned(), |bytes| format!("{} KiB", bytes >> 10));
        println!(
            "\na session of {mib} MiB, {events} events, {view} of it sent; written in {took:.1?}"
        );
        Ok(stage)
    }

    fn sessions(&self) -> Sessions {
        Sessions::below(&self.home.path().join("state/vtcode"))
    }

    fn write(&self, bytes: u64, events: u64, view_bytes: Option<u64>) -> anyhow::Result<u64> {
        let header = SessionHeader {
            format: journal::FORMAT,
            session_id: "long".to_owned(),
            started_at_ms: 1,
            cwd: self.workspace.path().canonicalize()?,
            add_dirs: Vec::new(),
            provider: "openai".to_owned(),
            base_url: self.model.openai_url(),
            model: "bench".to_owned(),
            system: "Work.".to_owned(),
        };
        self.sessions().note(&SessionEntry::from_header(&header))?;
        let mut journal = self.sessions().create(header)?;
        let path = journal.dir().join("journal.jsonl");
        let turns = (events / EVENTS_OF_A_TURN).max(1);
        let turn_bytes = bytes / turns;
        let text = "0123456789abcdef ".repeat(turn_bytes.saturating_sub(900) as usize / 17);
        let per_view = view_bytes.map(|bytes| (bytes / turn_bytes).max(1));
        append(
            &mut journal,
            EventKind::PromptStarted { text: "work".to_owned(), images: Vec::new() },
        )?;
        for turn in 0..turns {
            // Counted from the end, so that the last view is as large as the others.
            if per_view.is_some_and(|per_view| (turns - turn).is_multiple_of(per_view)) {
                let messages = vec![Message::user("What was done so far: much.")];
                append(&mut journal, EventKind::ViewChanged { messages })?;
            }
            for kind in events_of(turn, &text) {
                append(&mut journal, kind)?;
            }
        }
        Ok(fs::metadata(path)?.len())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(self.workspace.path()).env_clear();
        for name in ["CONFIG", "STATE"] {
            let folder = self.home.path().join(name.to_lowercase());
            command.env(format!("XDG_{name}_HOME"), folder);
        }
        command
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Lists the sessions.
    async fn list(&self, runs: usize) -> anyhow::Result<()> {
        let mut times = Vec::new();
        for _ in 0..=runs {
            let began = Instant::now();
            let output = self.command(&["sessions"]).output().await?;
            times.push(began.elapsed());
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        print("vtcode sessions, whole process", &times[1..], None);
        Ok(())
    }

    /// Goes on with the session until the request has come, from the process's start.
    async fn resume(&self, what: &str, runs: usize) -> anyhow::Result<()> {
        let (mut times, mut peak) = (Vec::new(), None);
        for run in 0..runs + usize::from(runs > 1) {
            let before = self.model.requests().len();
            let began = Instant::now();
            let child = self.command(&["resume", "long", "go on"]).spawn()?;
            *self.asked.lock().expect("no reading panics") = (child.id(), None);
            let output = child.wait_with_output().await?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let requests = self.model.requests();
            let request = requests.get(before).context("no request came")?;
            // The first of many warms the disk's cache.
            if run > 0 || runs == 1 {
                times.push(request.received_at.duration_since(began));
            }
            peak = peak.max(self.asked.lock().expect("no reading panics").1);
        }
        let body = self.model.requests().pop().map_or(0, |request| request.body.len());
        print(&format!("{what} ({} KiB)", body >> 10), &times, peak);
        Ok(())
    }
}

/// Waits for a model that says nothing.
async fn idle(program: &Path, time: Duration) -> anyhow::Result<()> {
    let silent = || say("never").fault(Fault::StallAfterEvents(0));
    let model = ScriptedModel::start_with(move |_, _| silent()).await;
    let home = tempfile::tempdir()?;
    let mut command = Command::new(program);
    command
        .args(["exec", "--model", "bench", "--base-url", &model.openai_url(), "go"])
        .current_dir(home.path())
        .env("HOME", home.path())
        .env("XDG_STATE_HOME", home.path().join("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let child: Child = command.spawn()?;
    let pid = child.id().context("it has not ended")?;
    model.wait_for_requests(1).await;
    // What follows the request has a moment to end.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = used(pid)?;
    tokio::time::sleep(time).await;
    let after = used(pid)?;
    // A thread that ended meanwhile has ended; one that is new was made meanwhile.
    let (mut nanos, mut runs) = (0, 0);
    for (task, (now_nanos, now_runs)) in after {
        let (was_nanos, was_runs) = before.get(&task).copied().unwrap_or_default();
        (nanos, runs) = (nanos + now_nanos - was_nanos, runs + now_runs - was_runs);
    }
    println!(
        "\nexec that waits {time:?} for a silent model: {:.3} ms of processor time, woken {runs} times",
        nanos as f64 / 1e6
    );
    Ok(())
}

/// Returns the nanoseconds that each thread of a process ran, and how often it was given a
/// processor.
fn used(pid: u32) -> anyhow::Result<HashMap<OsString, (u64, u64)>> {
    let mut threads = HashMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        // It may have ended since it was listed.
        let Ok(stat) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        let mut numbers = stat.split_ascii_whitespace().map(str::parse::<u64>);
        let nanos = numbers.next().context("no time in schedstat")??;
        let runs = numbers.nth(1).context("no count in schedstat")??;
        threads.insert(task.file_name(), (nanos, runs));
    }
    Ok(threads)
}

fn peak_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

fn print(what: &str, times: &[Duration], peak_kib: Option<u64>) {
    let Some(samples) = Samples::new(times.iter().map(|time| time.as_secs_f64() * 1e3)) else {
        return;
    };
    let memory = peak_kib.map_or(String::new(), |kib| format!(", {:.1} MiB", kib as f64 / 1024.0));
    println!(
        "{what}: {:.1} ms median ({:.1} to {:.1}, {} runs){memory}",
        samples.median(),
        samples.quantile(0.0),
        samples.quantile(1.0),
        samples.count(),
    );
}

/// What [`events_of`] gives.
const EVENTS_OF_A_TURN: u64 = 5;

/// A turn with one call and its result.
fn events_of(turn: u64, text: &str) -> [EventKind; EVENTS_OF_A_TURN as usize] {
    let call_id = format!("call_{turn}");
    let name = "read_file".to_owned();
    let arguments = format!("{{\"path\":\"{turn}.txt\"}}");
    let call = ToolCall { id: call_id.clone(), name: name.clone(), arguments: arguments.clone() };
    let usage = Usage { input_tokens: 1000, cached_input_tokens: 900, output_tokens: 20 };
    [
        EventKind::RequestSent { turn: 1, body_bytes: 100_000, prefix: None },
        EventKind::Part { part: Part::ToolCall(call) },
        EventKind::ResponseEnded { finish: FinishReason::ToolCalls, usage },
        EventKind::ToolStarted { call_id: call_id.clone(), name: name.clone(), arguments },
        EventKind::ToolFinished {
            call_id,
            name,
            text: text.to_owned(),
            is_error: false,
            class: None,
            detail: Detail::Plain,
            waited: Duration::ZERO,
            ran: Duration::from_millis(1),
        },
    ]
}

fn append(journal: &mut Journal, kind: EventKind) -> anyhow::Result<()> {
    Ok(journal.append(&Event { at: Duration::from_secs(1), kind })?)
}
