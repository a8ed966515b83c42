//! The gate against regressions: a few fixed workloads run under valgrind's callgrind, which counts
//! instructions, and with an allocator that counts; what took more than the newest entry of
//! `gate.toml` fails. Counts hardly depend on how busy the machine is, so they can fail a build.
//! Never looks at a clock, and never changes the baseline unless told to, with a reason.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

mod allocations;
mod baseline;
mod count;
mod machine;
mod proof;
mod run;
mod valgrind;
mod workloads;

use baseline::{Baseline, Change, Verdict};
pub(crate) use count::{Options as CountOptions, run as count};
use machine::Class;
use run::{Counts, Harm, Program};

/// What to do with what was counted.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Take what is counted now as the baseline from here on, for this reason
    #[arg(long, value_name = "REASON", conflicts_with = "prove")]
    update: Option<String>,
    /// Show that the gate finds what it must and nothing else: this many runs without a change, up
    /// to ten with a turn made 1 % slower, up to three with one made twice as slow, and with one that
    /// takes memory once more
    #[arg(long, value_name = "RUNS")]
    prove: Option<usize>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Count in this build of xtask instead of a fresh one for release
    #[arg(long, value_name = "FILE", hide = true)]
    program: Option<PathBuf>,
    /// Count turns alone, and this many
    #[arg(long, value_name = "N", hide = true)]
    turns: Option<u32>,
}

/// What the baseline lies in.
pub(crate) const BASELINE: &str = "xtask/gate.toml";

/// Instructions may grow by this share before the gate closes.
const MORE_INSTRUCTIONS: f64 = 0.005;

/// How often at most is counted before something fails.
const LOOKS: usize = 4;

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let path = crate::root().join(BASELINE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {BASELINE}")),
    };
    let baseline = Baseline::parse(&text).with_context(|| BASELINE.to_owned())?;
    let program = match &options.program {
        Some(path) => Program::at(path.clone()),
        None => Program::build()?,
    };
    let program = program.with_turns(options.turns);
    let class = Class::of_this_machine()?;
    if class.is_none() {
        println!("gate: SKIPPED the count of instructions: there is no valgrind here");
    }
    if let Some(runs) = options.prove {
        let Some(_) = class else { bail!("nothing can be proved without valgrind") };
        return proof::run(&program, runs);
    }
    if let Some(reason) = &options.update {
        let class =
            class.context("a baseline holds instructions, and there is no valgrind here")?;
        let counts = counted(&program)?;
        let changed = baseline.changed(&class, &counts);
        if changed.is_empty() {
            println!("gate: nothing changed; the baseline stays");
            return Ok(ExitCode::SUCCESS);
        }
        let change = Change::new(reason, &class, changed)?;
        std::fs::write(&path, text + &change.toml()).with_context(|| BASELINE.to_owned())?;
        println!("gate: {BASELINE} has {} new readings, because: {reason}", change.len());
        return Ok(ExitCode::SUCCESS);
    }
    let counts = program.count(class.is_some(), Harm::NONE)?;
    let verdict = judged(&program, &baseline, class.as_ref(), counts, Harm::NONE)?;
    if options.json {
        println!("{:#}", verdict.json());
    } else {
        print!("{}", verdict.table());
    }
    Ok(if verdict.fails() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Returns what a baseline is made of: as many counts as something gets before it fails.
fn counted(program: &Program) -> anyhow::Result<Counts> {
    let first = program.count(true, Harm::NONE)?;
    (1..LOOKS).try_fold(first, |counts, _| Ok(counts.least(&program.count(true, Harm::NONE)?)))
}

/// Returns what the baseline says of these counts. What fails is counted again, a few times, and the
/// least of each block counts: a thread that was late costs a few thousand instructions, and on a
/// busy machine many are late; what is slower stays slower.
fn judged(
    program: &Program,
    baseline: &Baseline,
    class: Option<&Class>,
    mut counts: Counts,
    harm: Harm,
) -> anyhow::Result<Verdict> {
    let mut verdict = baseline.judge(class, &counts);
    for _ in 1..LOOKS {
        if !verdict.fails() {
            break;
        }
        counts = counts.least(&program.count(class.is_some(), harm)?);
        verdict = baseline.judge(class, &counts);
    }
    Ok(verdict)
}
