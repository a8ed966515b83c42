//! One run: an agent and a script come in; the agent works through the script in a process of its
//! own, and what that took comes out.
//! Never returns times of a run in which the agent did something else than it was asked.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use vtcode_testkit::{Request, ScriptedModel};

use super::agent::Agent;
use super::memory::{self, Watch};
use super::script::{self, Script};

/// What a run took.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// From before the process was made until its first request was read.
    pub(super) first_request: Duration,
    /// From before the process was made until its end was seen.
    pub(super) wall: Duration,
    /// User and system time of the agent and of the processes that it waited for.
    pub(super) cpu: Duration,
    /// From the end of each response to the next request.
    pub(super) gaps: Vec<Duration>,
    /// What was resident at most, if it was watched and can be.
    pub(super) peak_bytes: Option<u64>,
    pub(super) first_body_bytes: usize,
    /// All bodies.
    pub(super) sent_bytes: usize,
    pub(super) connections: usize,
}

/// Runs the agent once. To watch its memory disturbs its times.
pub(super) async fn once(agent: &Agent, script: &Script, watched: bool) -> anyhow::Result<Run> {
    let workspace = script::workspace();
    let home = tempfile::tempdir()?;
    let out = tempfile::tempdir()?;
    let (out_path, err_path) = (out.path().join("stdout"), out.path().join("stderr"));
    let respond = script.clone().responder(agent.tool.clone(), agent.field.clone());
    let model = ScriptedModel::start_with(respond).await;
    let mut command = agent.command(&model, script.prompt, workspace.path(), home.path())?;
    // Files, because to read pipes would take time from the model while the agent waits for it.
    command.stdin(Stdio::null()).stdout(File::create(&out_path)?).stderr(File::create(&err_path)?);
    command.process_group(0);
    let name = command.get_program().to_string_lossy().into_owned();
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let others = watched.then(memory::processes);

    let cpu_before = cpu_of_children()?;
    let spawned_at = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start `{name}`"))?;
    let pid = child.id().context("a process that was not awaited has an id")?;
    let watch = others.map(|others| Watch::start(pid, others));
    let ended = tokio::time::timeout(agent.timeout, child.wait()).await;
    let wall = spawned_at.elapsed();
    let peak_bytes = watch.and_then(Watch::stop);
    let Ok(status) = ended else {
        memory::kill_tree(pid);
        child.wait().await?;
        let made = model.requests().len();
        bail!("not done after {:?}, having made {made} requests", agent.timeout);
    };
    let status = status?;
    let cpu = cpu_of_children()?.saturating_sub(cpu_before);

    let (requests, connections) = (model.requests(), model.connections());
    model.shutdown().await;
    let printed = String::from_utf8_lossy(&fs::read(&out_path)?).into_owned();
    let checked = (|| {
        let turns = script.check(&requests, &printed)?;
        ensure!(status.success(), "the agent ended with {status}");
        gaps(&turns)
    })();
    let gaps = checked.with_context(|| {
        let errors = String::from_utf8_lossy(&fs::read(&err_path).unwrap_or_default()).into_owned();
        format!("ended with {status}; its last words: {:?}", last_words(&errors))
    })?;
    let first = requests.first().context("the agent made no request")?;
    Ok(Run {
        first_request: first.received_at.saturating_duration_since(spawned_at),
        wall,
        cpu,
        gaps,
        peak_bytes,
        first_body_bytes: first.body.len(),
        sent_bytes: requests.iter().map(|request| request.body.len()).sum(),
        connections,
    })
}

/// Runs a script's command lines one by one with the least that a shell tool can do: a shell whose
/// output is read. Returns what each took.
pub(super) fn floor(script: &Script) -> anyhow::Result<Vec<Duration>> {
    let workspace = script::workspace();
    let mut times = Vec::new();
    for step in script.turns.iter().flatten() {
        let mut command = Command::new("bash");
        command.arg("-c").arg(&step.line).current_dir(workspace.path()).stdin(Stdio::null());
        let began = Instant::now();
        let output = command.output().context("cannot start bash")?;
        times.push(began.elapsed());
        ensure!(output.status.success(), "`{}` ended with {}", step.line, output.status);
        step.check(&String::from_utf8_lossy(&output.stdout))?;
    }
    Ok(times)
}

/// Returns the time from each response to the next request.
fn gaps(turns: &[&Request]) -> anyhow::Result<Vec<Duration>> {
    let gap = |pair: &[&Request]| {
        let ended_at = pair[0].ended_at.context("a request came before the response had ended")?;
        // An agent may be quicker than the model's own note of the end.
        Ok(pair[1].received_at.saturating_duration_since(ended_at))
    };
    turns.windows(2).map(gap).collect()
}

/// Returns the user and system time of all children that ended and were waited for, and of those
/// that they waited for, since this process began.
fn cpu_of_children() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let times = [usage.user_time(), usage.system_time()];
    let micros: i64 = times.iter().map(|time| time.tv_sec() * 1_000_000 + time.tv_usec()).sum();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}

fn last_words(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(400);
    text.chars().skip(skip).collect()
}
