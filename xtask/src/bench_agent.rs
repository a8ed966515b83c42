//! Measures an agent from outside: its command line comes in, it works against the scripted model on
//! loopback as a user's process would, and a table of times, bytes and memory comes out.
//! Never looks into the agent: any agent that speaks one of the two wires is measured the same way.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};

mod agent;
mod machine;
mod memory;
mod report;
mod run;
mod script;
mod stats;
#[cfg(test)]
mod tests;

pub(crate) use agent::build_for_release;
pub(crate) use machine::Machine;
pub(crate) use stats::Samples;

use agent::Agent;
use report::Report;
use run::Run;
use script::Script;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The agent's command line, in which {url}, {prompt} and {dir} are filled in; without it
    /// vtcode is built for release and measured
    #[arg(long, value_name = "COMMAND")]
    agent: Option<String>,
    /// The wire format that the agent speaks; decides what {url} is
    #[arg(long, value_enum, default_value_t = Wire::Chat)]
    wire: Wire,
    /// How often everything is measured
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// The name of the agent's tool that runs a shell command
    #[arg(long, default_value = "run_command", value_name = "NAME")]
    tool: String,
    /// The field of that tool's arguments that takes the command
    #[arg(long, default_value = "command", value_name = "NAME")]
    command_field: String,
    /// Seconds after which a run is stopped and counts as failed
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    /// A folder whose files the agent finds in its home folder, with {url} filled in
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wire {
    /// `OpenAI` Chat Completions
    Chat,
    /// Anthropic Messages
    Anthropic,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let (agent, other) = agents(options)?;
    // Before the bench adds a load of its own.
    let machine = Machine::now();
    let readings = measure(&agent, other.as_ref(), usize::from(options.runs))?;
    let report = Report::new(machine, agent.to_string(), &readings);
    if options.json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.table());
    }
    // A missed target is a reading, a failed run is none.
    Ok(if readings.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the agent to measure and, for our own, the same one on the other wire.
fn agents(options: &Options) -> anyhow::Result<(Agent, Option<Agent>)> {
    let foreign = options.agent.as_deref().map(agent::split).transpose()?;
    let agent = |words: Vec<String>, wire: Wire| Agent {
        words,
        wire,
        tool: options.tool.clone(),
        field: options.command_field.clone(),
        home: options.home.clone(),
        timeout: Duration::from_secs(options.timeout),
    };
    if let Some(words) = foreign {
        let told = words.iter().any(|word| word.contains("{prompt}"));
        ensure!(told, "the agent's command line has no {{prompt}}, so it would have no task");
        return Ok((agent(words, options.wire), None));
    }
    let program = build_for_release("vtcode")?;
    let words = |wire| agent::vtcode(&program, wire);
    let other = match options.wire {
        Wire::Chat => Some(agent(words(Wire::Anthropic), Wire::Anthropic)),
        Wire::Anthropic => None,
    };
    Ok((agent(words(options.wire), options.wire), other))
}

/// Everything that was measured, one entry a run.
#[derive(Debug, Default)]
struct Readings {
    /// S3: a prompt, an answer.
    answers: Vec<Run>,
    /// The same on the Anthropic wire.
    anthropic: Vec<Run>,
    /// S4: a prompt, an answer of 40 kB in 10,000 deltas.
    long_answers: Vec<Run>,
    /// S1: twenty turns of one command.
    turns: Vec<Run>,
    /// The same, watched: its times are not used.
    watched: Vec<Run>,
    /// S2: ten turns of four calls.
    parallel: Vec<Run>,
    /// S1's command lines without an agent.
    floor: Vec<Duration>,
    /// What each run that could not be measured died of.
    failures: Vec<String>,
}

/// Measures in rounds, so that a machine that slows down slows everything down.
fn measure(agent: &Agent, other: Option<&Agent>, runs: usize) -> anyhow::Result<Readings> {
    // One thread, so that the model takes no more than one core from the agent.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (answer, turns, parallel) = (Script::answer(), Script::turns(), Script::parallel());
    let mut readings = Readings::default();
    runtime.block_on(async {
        eprintln!("bench-agent: warming up");
        run::floor(&turns)?;
        // Its times are thrown away. An agent that cannot do this will not do the rest either.
        run::once(agent, &answer, false).await.context("the first run")?;
        for round in 1..=runs {
            eprintln!("bench-agent: round {round} of {runs}");
            let failures = &mut readings.failures;
            let mut keep = |what: &str, kept: &mut Vec<Run>, run: anyhow::Result<Run>| match run {
                Ok(run) => kept.push(run),
                Err(error) => failures.push(format!("{what}, round {round}: {error:#}")),
            };
            readings.floor.extend(run::floor(&turns)?);
            keep("S1", &mut readings.turns, run::once(agent, &turns, false).await);
            keep("S3", &mut readings.answers, run::once(agent, &answer, false).await);
            let run = run::once(agent, &Script::long_answer(), false).await;
            keep("S4", &mut readings.long_answers, run);
            if let Some(other) = other {
                let run = run::once(other, &answer, false).await;
                keep("S3 (anthropic)", &mut readings.anthropic, run);
            }
            readings.floor.extend(run::floor(&turns)?);
            keep("S1 (watched)", &mut readings.watched, run::once(agent, &turns, true).await);
            keep("S2", &mut readings.parallel, run::once(agent, &parallel, false).await);
        }
        Ok(readings)
    })
}
