//! The gate's own test: many counts of the same code must not fail, and a turn that was made slower
//! on purpose must.

use std::process::ExitCode;

use anyhow::Context as _;

use super::baseline::{Baseline, Change};
use super::machine::Class;
use super::run::{BURN, BURN_ROUNDS, Counts, Program};

/// A class for the proof alone.
fn class() -> Class {
    Class("proof".to_owned())
}

pub(super) fn run(program: &Program, runs: usize) -> anyhow::Result<ExitCode> {
    let first = program.count(true, 0)?;
    let readings = Baseline::default().changed(&class(), &first);
    let change = Change::new("the first count of this proof", &class(), readings)?;
    let baseline = Baseline::parse(&change.toml())?;

    let mut spread = Spread::default();
    let mut alarms = 0;
    for run in 1..=runs {
        let counts = program.count(true, 0)?;
        spread.add(&first, &counts);
        let failed = verdict(program, &baseline, &counts, 0)?;
        if !failed.is_empty() {
            alarms += 1;
            println!("run {run}: false alarm: {}", failed.join(", "));
        }
    }
    println!("no change: {alarms} false alarms in {runs} runs (at most 1 % may be)");
    print!("{}", spread.text());

    let turn = first.0.get("turn").and_then(|count| count.instructions).context("no turn")?;
    let round = first.0.get(BURN).and_then(|count| count.instructions).context("no burn")?;
    // How many rounds this share of a turn is.
    let rounds = |share: f64| {
        #[expect(clippy::cast_sign_loss, reason = "neither is negative")]
        let rounds = (share * turn as f64 * BURN_ROUNDS as f64 / round as f64).ceil() as u64;
        rounds
    };
    let found = |share: f64, tries: usize| -> anyhow::Result<usize> {
        let mut found = 0;
        for _ in 0..tries {
            let counts = program.count(true, rounds(share))?;
            let failed = verdict(program, &baseline, &counts, rounds(share))?;
            found += usize::from(failed.iter().any(|name| name == "turn"));
        }
        Ok(found)
    };
    let (few, fewer) = (runs.clamp(1, 10), runs.min(3));
    let slightly = found(0.01, few)?;
    println!("a turn made 1 % slower: found in {slightly} of {few} runs (at least 9 of 10)");
    let twice = found(1.0, fewer)?;
    println!("a turn made twice as slow: found in {twice} of {fewer} runs (all)");
    let holds = alarms * 100 <= runs && slightly * 10 >= few * 9 && twice == fewer;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns what fails, after the second look that the gate takes, too.
fn verdict(
    program: &Program,
    baseline: &Baseline,
    counts: &Counts,
    burn: u64,
) -> anyhow::Result<Vec<String>> {
    let class = class();
    let names = |counts: &Counts| -> Vec<String> {
        baseline.judge(Some(&class), counts).failed().into_iter().map(str::to_owned).collect()
    };
    let failed = names(counts);
    if failed.is_empty() {
        return Ok(failed);
    }
    Ok(names(&counts.least(&program.count(true, burn)?)))
}

/// How far the counts of one workload lay apart.
#[derive(Debug, Default)]
struct Spread(std::collections::BTreeMap<String, (f64, f64)>);

impl Spread {
    fn add(&mut self, first: &Counts, counts: &Counts) {
        for (name, count) in counts.kept() {
            let before = first.0.get(name).and_then(|count| count.instructions);
            if let (Some(before), Some(now)) = (before, count.instructions) {
                let share = now as f64 / before as f64 - 1.0;
                let (low, high) = self.0.entry(name.clone()).or_insert((share, share));
                (*low, *high) = (low.min(share), high.max(share));
            }
        }
    }

    fn text(&self) -> String {
        let line = |(name, (low, high)): (&String, &(f64, f64))| {
            format!("  {name:<12} {:+.3} % … {:+.3} %\n", 100.0 * low, 100.0 * high)
        };
        self.0.iter().map(line).collect()
    }
}
