//! The gate's own test: many counts of the same code must not fail, and a turn that was made slower
//! on purpose must.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;

use super::baseline::{Baseline, Change};
use super::machine::Class;
use super::run::{BURN, BURN_ROUNDS, Counts, Harm, Program};
use super::{counted, judged};

/// A class for the proof alone.
fn class() -> Class {
    Class("proof".to_owned())
}

pub(super) fn run(program: &Program, runs: usize) -> anyhow::Result<ExitCode> {
    let first = counted(program)?;
    let readings = Baseline::default().changed(&class(), &first);
    let change = Change::new("the first count of this proof", &class(), readings)?;
    let baseline = Baseline::parse(&change.toml())?;

    let mut spread = Spread::default();
    let mut alarms = 0;
    for run in 1..=runs {
        let counts = program.count(true, Harm::NONE)?;
        spread.add(&first, &counts);
        let failed = failed(program, &baseline, counts, Harm::NONE)?;
        if !failed.is_empty() {
            alarms += 1;
            println!("run {run}: false alarm: {}", failed.join(", "));
        }
    }
    println!("no change: {alarms} false alarms in {runs} runs (at most 1 % may be)");
    print!("{}", spread.text());

    let turn = first.of.get("turn").and_then(|count| count.instructions).context("no turn")?;
    let round = first.of.get(BURN).and_then(|count| count.instructions).context("no burn")?;
    // How many rounds this share of a turn is.
    let rounds = |share: f64| {
        #[expect(clippy::cast_sign_loss, reason = "neither is negative")]
        let rounds = (share * turn as f64 * BURN_ROUNDS as f64 / round as f64).ceil() as u64;
        rounds
    };
    let found = |harm: Harm, tries: usize| -> anyhow::Result<usize> {
        let mut found = 0;
        for _ in 0..tries {
            let counts = program.count(true, harm)?;
            let failed = failed(program, &baseline, counts, harm)?;
            found += usize::from(failed.iter().any(|name| name == "turn"));
        }
        Ok(found)
    };
    let (few, fewer) = (runs.clamp(1, 10), runs.min(3));
    let slower = |share| Harm { burn: rounds(share), ..Harm::NONE };
    let slightly = found(slower(0.01), few)?;
    println!("a turn made 1 % slower: found in {slightly} of {few} runs (at least 9 of 10)");
    let twice = found(slower(1.0), fewer)?;
    println!("a turn made twice as slow: found in {twice} of {fewer} runs (all)");
    let once_more = found(Harm { allocations: 1, ..Harm::NONE }, fewer)?;
    println!("a turn that takes memory once more: found in {once_more} of {fewer} runs (all)");
    let holds =
        once_more == fewer && alarms * 100 <= runs && slightly * 10 >= few * 9 && twice == fewer;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns what fails, as the gate looks at it.
fn failed(
    program: &Program,
    baseline: &Baseline,
    counts: Counts,
    harm: Harm,
) -> anyhow::Result<Vec<String>> {
    let verdict = judged(program, baseline, Some(&class()), counts, harm)?;
    Ok(verdict.failed().into_iter().map(str::to_owned).collect())
}

/// How far the counts of one workload lay apart.
#[derive(Debug, Default)]
struct Spread(BTreeMap<String, Span>);

/// The least and the most of a workload, against the first count of it.
#[derive(Debug, Default)]
struct Span {
    /// As shares.
    instructions: (f64, f64),
    allocations: (i64, i64),
}

impl Spread {
    fn add(&mut self, first: &Counts, counts: &Counts) {
        for (name, count) in counts.kept() {
            let Some(before) = first.of.get(name) else { continue };
            let span = self.0.entry(name.clone()).or_default();
            if let (Some(before), Some(now)) = (before.instructions, count.instructions) {
                let share = now as f64 / before as f64 - 1.0;
                let (low, high) = &mut span.instructions;
                (*low, *high) = (low.min(share), high.max(share));
            }
            let more = count.allocations.cast_signed() - before.allocations.cast_signed();
            let (least, most) = &mut span.allocations;
            (*least, *most) = ((*least).min(more), (*most).max(more));
        }
    }

    fn text(&self) -> String {
        let line = |(name, span): (&String, &Span)| {
            let ((low, high), (least, most)) = (span.instructions, span.allocations);
            let (low, high) = (100.0 * low, 100.0 * high);
            format!(
                "  {name:<12} instructions {low:+.3} % … {high:+.3} %, allocations {least:+} … {most:+}\n"
            )
        };
        self.0.iter().map(line).collect()
    }
}
