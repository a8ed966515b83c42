//! `cargo xtask predict-cv`: what the prediction of reads is worth on recorded sessions it was not
//! trained on. Weights are learned on all repositories but one and judged on that one, for each.
//! Prints the curve of steps avoided against tokens attached, and where it breaks even.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use vtcode_core::core::optimized_agent::predict::weights::{TABLE, Weights};
use vtcode_core::core::optimized_agent::predict::worth::{Bounds, Worth};
use vtcode_core::laboratory::corpus::{self, Session};
use vtcode_core::laboratory::jobs::{Draws, on_all_cores};
use vtcode_core::laboratory::judge::{Counting, Reading, Rule, Tally};

mod bounds;
mod train;

use train::Example;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The recorded sessions, one a line, packed with zstd or not [default: the bundled sample]
    file: Option<PathBuf>,
    /// Learn from all repositories and write the table of weights
    #[arg(long)]
    write: bool,
}

const SAMPLE: &str = "vtcode-core/src/laboratory/sample.jsonl";
const TABLE_FILE: &str = "vtcode-core/src/core/optimized_agent/predict/weights.rs";

/// What a step is worth in tokens, at the points of the curve.
const STEP_TOKENS: [f64; 8] = [3e3, 6e3, 1e4, 2e4, 3e4, 5e4, 1e5, 2e5];
/// What an attached token costs over its life, for choosing; what it did cost is counted.
const TOKEN: f64 = 3.0;
/// Tokens attached to one result.
const TOKENS: u64 = 3000;

/// Prices as multiples of an input token's, written to the provider's cache or not.
struct PriceModel {
    name: &'static str,
    cached: f64,
    written: f64,
    output: f64,
    /// Tokens that a server without a price reads in a second; none where tokens cost money.
    prefill: Option<f64>,
}

const PRICE_MODELS: [PriceModel; 3] = [
    PriceModel { name: "Claude Sonnet", cached: 0.1, written: 1.25, output: 5.0, prefill: None },
    PriceModel { name: "GPT-4.1", cached: 0.25, written: 1.0, output: 4.0, prefill: None },
    PriceModel {
        name: "own machine",
        cached: 0.0,
        written: 1.0,
        output: 0.0,
        prefill: Some(2000.0),
    },
];

/// The sessions of one repository and the weights learned on all others.
struct Fold<'a> {
    repo: &'a str,
    readings: Vec<Reading<'a>>,
    weights: Weights,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let path = options.file.clone().unwrap_or_else(|| crate::root().join(SAMPLE));
    let text = read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let sessions = corpus::sessions(&text).with_context(|| format!("`{}`", path.display()))?;
    let steps = sessions.iter().flat_map(|session| &session.steps).filter(|step| step.is_llm());
    let steps = steps.count();
    anyhow::ensure!(
        steps > 0,
        "`{}` holds no answer of a model: give a file of recorded sessions, one a line \
         (docs/replay.md)",
        path.display()
    );
    let mut repos: BTreeMap<&str, Vec<&Session>> = BTreeMap::new();
    for session in &sessions {
        repos.entry(session.repo.as_str()).or_default().push(session);
    }
    let readings: Vec<(&str, Vec<Reading<'_>>)> = repos
        .into_iter()
        .map(|(repo, sessions)| (repo, sessions.into_iter().map(Reading::of).collect()))
        .collect();
    let examples: Vec<Vec<Example>> =
        readings.iter().map(|(_, readings)| train::examples(readings)).collect();
    if options.write {
        let all: Vec<&[Example]> = examples.iter().map(Vec::as_slice).collect();
        write_table(&train::weights(&all))?;
        println!("{TABLE_FILE} is written; build again to judge it");
        return Ok(ExitCode::SUCCESS);
    }
    let folds = fold(readings, &examples);
    println!("{} sessions, {} repositories, {steps} model steps", sessions.len(), folds.len());
    if folds.len() > 1 {
        println!("\nweights learned on all repositories but the one they are judged on:");
        report(&folds, false);
    } else {
        println!(
            "\none repository cannot be cross-validated: add sessions of another. What follows \
             says how well the weights as shipped, learned elsewhere, do on it."
        );
    }
    println!("\nthe weights as shipped:");
    report(&folds, true);
    print!("{}", bounds::report(&sessions));
    Ok(ExitCode::SUCCESS)
}

fn fold<'a>(
    readings: Vec<(&'a str, Vec<Reading<'a>>)>,
    examples: &[Vec<Example>],
) -> Vec<Fold<'a>> {
    let alone = readings.len() == 1;
    let folds: Vec<usize> = (0..readings.len()).collect();
    let weights = on_all_cores(None, &folds, |&out| {
        let others = examples.iter().enumerate().filter(|(at, _)| *at != out);
        let others: Vec<&[Example]> = others.map(|(_, examples)| examples.as_slice()).collect();
        if alone { Weights::shipped() } else { train::weights(&others) }
    });
    let folds = readings.into_iter().zip(weights);
    folds.map(|((repo, readings), weights)| Fold { repo, readings, weights }).collect()
}

/// Prints the curve, what it is at 15 % precision, and where it breaks even.
fn report(folds: &[Fold<'_>], shipped: bool) {
    let jobs: Vec<(Counting, f64)> = [Counting::File, Counting::Lines]
        .into_iter()
        .flat_map(|counting| STEP_TOKENS.map(|step| (counting, step)))
        .collect();
    let points =
        on_all_cores(None, &jobs, |&(counting, step)| judge(folds, shipped, counting, step));
    for counting in [Counting::File, Counting::Lines] {
        let curve: Vec<(f64, &Vec<Vec<Tally>>)> = jobs
            .iter()
            .zip(&points)
            .filter(|((of, _), _)| *of == counting)
            .map(|((_, step), tallies)| (*step, tallies))
            .collect();
        print_curve(counting, folds, &curve);
    }
}

/// Judges every session; a list for each repository.
fn judge(folds: &[Fold<'_>], shipped: bool, counting: Counting, step: f64) -> Vec<Vec<Tally>> {
    let rule = Rule { worth: Worth { step, token: TOKEN }, bounds: Bounds::of(TOKENS) };
    let table = Weights::shipped();
    let judge = |fold: &Fold<'_>| {
        let weights = if shipped { &table } else { &fold.weights };
        fold.readings.iter().map(|reading| reading.judge(weights, &rule, counting)).collect()
    };
    folds.iter().map(judge).collect()
}

fn print_curve(counting: Counting, folds: &[Fold<'_>], curve: &[(f64, &Vec<Vec<Tally>>)]) {
    println!(
        "\n  {}",
        match counting {
            Counting::File => "an attached file counts for any part of it that is asked for:",
            Counting::Lines => "only attached lines count (records name one line a file at most):",
        }
    );
    println!(
        "  a step is     steps of their  another   tokens   wasted precision precision   a saved \
         second must be worth"
    );
    println!(
        "      worth   avoided     time  in part   a step   a step next step      ever  {}",
        PRICE_MODELS.map(|model| format!("{:>12}", model.name)).join(" ")
    );
    for (step, tallies) in curve {
        let sum = sum(tallies.iter().flatten());
        let breaks: Vec<String> =
            PRICE_MODELS.iter().map(|model| break_even(&sum, model)).collect();
        println!(
            "  {:>9} {:>7.2} % {:>6.2} % {:>6.2} % {:>8.0} {:>8.0} {:>7.1} % {:>7.1} %  {:>12} {:>12} {:>12}",
            step,
            share(sum.avoided, sum.steps),
            share(sum.avoided_ms, sum.steps_ms),
            share(sum.in_part, sum.steps),
            sum.tokens as f64 / sum.steps.max(1) as f64,
            sum.wasted_tokens as f64 / sum.steps.max(1) as f64,
            share(sum.used_next, sum.attached),
            share(sum.used, sum.attached),
            breaks[0],
            breaks[1],
            breaks[2],
        );
    }
    for (name, precision) in [
        ("of the next step", (|t: &Tally| share(t.used_next, t.attached)) as fn(&Tally) -> f64),
        ("ever", |t: &Tally| share(t.used, t.attached)),
    ] {
        match at_precision(curve, 15.0, precision) {
            Some((avoided, tokens, (low, high))) => println!(
                "  at 15 % precision {name}: {avoided:.2} % of steps avoided [{low:.2}, {high:.2}] \
                 for {tokens:.0} tokens a step"
            ),
            None => println!("  at 15 % precision {name}: beyond this curve"),
        }
    }
    // The repositories apart, at one point.
    let (_, tallies) = curve[4];
    for (fold, tallies) in folds.iter().zip(tallies) {
        let sum = sum(tallies);
        println!(
            "    {:<28} {:>6} steps, {:>5.2} % avoided at {:>4.1} % / {:>4.1} % precision, {:>4.0} tokens a step",
            fold.repo,
            sum.steps,
            share(sum.avoided, sum.steps),
            share(sum.used_next, sum.attached),
            share(sum.used, sum.attached),
            sum.tokens as f64 / sum.steps.max(1) as f64,
        );
    }
}

/// Returns from which worth of a saved second on, in input tokens, what was attached paid: nothing
/// where it saved money, too. For a server of one's own, all is time: the share of it that is saved.
fn break_even(sum: &Tally, model: &PriceModel) -> String {
    let seconds = sum.avoided_ms as f64 / 1000.0;
    if let Some(prefill) = model.prefill {
        let lost = sum.wasted_tokens as f64 / prefill;
        let all = (sum.steps_ms as f64 / 1000.0).max(f64::MIN_POSITIVE);
        return format!("{:+.2} % time", 100.0 * (seconds - lost) / all);
    }
    let saved =
        sum.avoided_context as f64 * model.cached + sum.avoided_output as f64 * model.output;
    let cost = sum.wasted_tokens as f64 * model.written + sum.wasted_carried as f64 * model.cached;
    if saved >= cost {
        "nothing".to_owned()
    } else if sum.avoided_ms == 0 {
        "no second".to_owned()
    } else {
        format!("{:.0} tokens", (cost - saved) / seconds)
    }
}

type Interval = (f64, f64);

/// Returns the share of steps avoided where the curve passes a precision, the tokens that takes, and
/// the interval of the nearest point over sessions.
fn at_precision(
    curve: &[(f64, &Vec<Vec<Tally>>)],
    target: f64,
    precision: impl Fn(&Tally) -> f64,
) -> Option<(f64, f64, Interval)> {
    let points: Vec<(Tally, &Vec<Vec<Tally>>)> =
        curve.iter().map(|(_, tallies)| (sum(tallies.iter().flatten()), *tallies)).collect();
    let at = points
        .windows(2)
        .rposition(|pair| precision(&pair[0].0) >= target && precision(&pair[1].0) < target);
    let (a, b) = match at {
        Some(at) => (&points[at], &points[at + 1]),
        // All of the curve is more precise: its end is the most that can be said.
        None if precision(&points.last()?.0) >= target => (points.last()?, points.last()?),
        None => return None,
    };
    let (from, to) = (precision(&a.0), precision(&b.0));
    let part = if from > to { (from - target) / (from - to) } else { 0.0 };
    let between = |of: fn(&Tally) -> f64| of(&a.0) + part.clamp(0.0, 1.0) * (of(&b.0) - of(&a.0));
    let avoided = between(|t| share(t.avoided, t.steps));
    let nearest = if part < 0.5 { a } else { b };
    let sessions: Vec<Tally> = nearest.1.iter().flatten().copied().collect();
    let half = bootstrap(&sessions);
    let middle = share(nearest.0.avoided, nearest.0.steps);
    let interval = (avoided + half.0 - middle, avoided + half.1 - middle);
    Some((avoided, between(|t| t.tokens as f64 / t.steps.max(1) as f64), interval))
}

/// Returns the 95 % interval of the share of steps avoided, over sessions drawn again.
fn bootstrap(sessions: &[Tally]) -> Interval {
    let mut draws = Draws::among(sessions.len());
    let mut shares: Vec<f64> = (0..1000)
        .map(|_| {
            let sum = sum(draws.all().map(|at| &sessions[at]).collect::<Vec<_>>());
            share(sum.avoided, sum.steps)
        })
        .collect();
    shares.sort_by(f64::total_cmp);
    (shares[25], shares[974])
}

fn sum<'t>(tallies: impl IntoIterator<Item = &'t Tally>) -> Tally {
    let mut sum = Tally::default();
    for tally in tallies {
        sum += *tally;
    }
    sum
}

fn share(part: u64, of: u64) -> f64 {
    100.0 * part as f64 / of.max(1) as f64
}

/// Reads a text, packed or not.
fn read(path: &Path) -> anyhow::Result<String> {
    Ok(corpus::text(BufReader::new(File::open(path)?))?)
}

/// Puts new numbers into the table of weights; everything else in the file stays.
fn write_table(weights: &Weights) -> anyhow::Result<()> {
    let path = crate::root().join(TABLE_FILE);
    let text = std::fs::read_to_string(&path)?;
    let begin = text.find("\nfeatures! {\n").context("the table's beginning is missing")?;
    let mut written = text[..begin].to_owned();
    written.push_str("\nfeatures! {\n");
    for ((name, _, what), weight) in TABLE.iter().zip(weights.0) {
        use std::fmt::Write as _;
        writeln!(written, "    {name:<16}{weight:>6.2}  \"{what}\"")?;
    }
    written.push_str("}\n");
    std::fs::write(&path, written)?;
    Ok(())
}
