//! `vtcode bench`: measures, where it runs, what the parts of the runtime do better than the plain
//! way, and prints both readings. Each row runs both sides in turns, in one process, so that a
//! machine that slows down slows both. Says nothing where the interval of the ratio holds 1.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use serde_json::{Value, json};
use vtcode_core::config::limits::Limits;
use vtcode_core::core::performance_profiler::baseline::{self, Comparison, compare_pairs};
use vtcode_core::core::resources::{Machine, Resources};

use crate::allocator;
use crate::exec::note;
use crate::exit::{Exit, Usage};

mod kept;
#[cfg(feature = "demo")]
mod network;
mod rows;

use kept::Kept;

/// Measure what each part does better than the plain way, on this machine
#[derive(Debug, Parser)]
pub(crate) struct Bench {
    /// Only the rows whose name begins like this
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// `debug` shows the same rows with every optimization off
    #[arg(long, value_name = "NAME", value_parser = ["development", "production", "debug"])]
    preset: Option<String>,
    /// Keep the readings in this file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Hold the readings against those in this file
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
}

/// The interval is drawn so that it holds the ratio in 95 of 100 benches.
const CONFIDENCE: f64 = 0.95;

/// Above this, others use the machine as well.
const QUIET_LOAD: f64 = 0.5;

/// One row: both sides, measured in turns.
struct Row {
    name: &'static str,
    /// What is done.
    what: &'static str,
    /// What it is held against; empty where there is nothing.
    against: &'static str,
    unit: &'static str,
    /// The other side's reading and ours, of each round.
    rounds: Vec<(Option<f64>, f64)>,
    /// Allocations of one operation of either side, where they were counted.
    allocations: Option<(f64, f64)>,
    /// Processor time of either side, in seconds.
    cpu: (f64, f64),
    /// What others were measured to take, as text.
    quoted: &'static str,
}

impl Row {
    fn new(
        name: &'static str,
        what: &'static str,
        against: &'static str,
        unit: &'static str,
    ) -> Self {
        let (rounds, allocations, cpu, quoted) = (Vec::new(), None, (0.0, 0.0), "");
        Self { name, what, against, unit, rounds, allocations, cpu, quoted }
    }

    fn quoted(self, quoted: &'static str) -> Self {
        Self { quoted, ..self }
    }

    /// Measures both sides in turns; each returns its reading.
    fn rounds(
        mut self,
        rounds: usize,
        mut other: impl FnMut() -> f64,
        mut ours: impl FnMut() -> f64,
    ) -> Self {
        // What happens only once happens before.
        let _ = (other(), ours());
        for _ in 0..rounds {
            let began = processor_seconds();
            let theirs = other();
            let between = processor_seconds();
            let own = ours();
            let ended = processor_seconds();
            self.rounds.push((Some(theirs), own));
            self.cpu.0 += between - began;
            self.cpu.1 += ended - between;
        }
        self
    }

    /// Counts the allocations of one operation of either side.
    fn counted(mut self, operations: u32, other: impl FnOnce(), ours: impl FnOnce()) -> Self {
        let of = |work: &mut dyn FnMut()| allocator::counted(work) as f64 / f64::from(operations);
        let (mut other, mut ours) = (Some(other), Some(ours));
        let others = of(&mut || {
            if let Some(work) = other.take() {
                work();
            }
        });
        let own = of(&mut || {
            if let Some(work) = ours.take() {
                work();
            }
        });
        self.allocations = Some((others, own));
        self
    }

    fn ours(&self) -> Vec<f64> {
        self.rounds.iter().map(|(_, ours)| *ours).collect()
    }

    fn pairs(&self) -> Option<Vec<(f64, f64)>> {
        self.rounds.iter().map(|(other, ours)| Some(((*other)?, *ours))).collect()
    }

    fn comparison(&self) -> Option<Comparison> {
        compare_pairs(&self.pairs()?, CONFIDENCE)
    }

    fn medians(&self) -> (Option<f64>, f64) {
        let others = self.pairs().map(|pairs| pairs.iter().map(|(other, _)| *other).collect());
        let median = |mut all: Vec<f64>| baseline::median(&mut all);
        (others.filter(|all: &Vec<f64>| !all.is_empty()).map(median), median(self.ours()))
    }

    fn json(&self) -> Value {
        let (other, ours) = self.medians();
        let found = self.comparison();
        json!({
            "name": self.name, "what": self.what, "against": self.against, "unit": self.unit,
            "baseline": other, "ours": ours,
            "ratio": found.map(|found| found.ratio),
            "ci_low": found.map(|found| found.low), "ci_high": found.map(|found| found.high),
            "samples": self.rounds.len(),
            "conclusive": found.map(|found| !found.spans_one()),
            "allocations": self.allocations.map(|(other, ours)| json!({"baseline": other, "ours": ours})),
            "cpu_s": {"baseline": self.cpu.0, "ours": self.cpu.1},
            "quoted": self.quoted,
            "ours_samples": self.ours(),
        })
    }

    fn text(&self) -> String {
        let (other, ours) = self.medians();
        let mut text = format!("{}: {}\n", self.name, self.what);
        let unit = self.unit;
        let _ = write!(text, "  ours {} {unit}", digits(ours));
        if let Some(other) = other {
            let _ = write!(text, " · {}: {} {unit}", self.against, digits(other));
        }
        if let Some(found) = self.comparison() {
            let Comparison { ratio, low, high, .. } = found;
            let _ = write!(text, " · ratio {ratio:.3} [{low:.3}, {high:.3}]");
            if found.spans_one() {
                text.push_str(": nothing to conclude");
            } else {
                let _ = write!(text, " = {}", percent(ratio));
            }
        } else {
            let mut all = self.ours();
            all.sort_unstable_by(f64::total_cmp);
            let at = |hundredths: usize| digits(all[(all.len() - 1) * hundredths / 100]);
            let _ = write!(text, " (90 % of {} readings: {} – {})", all.len(), at(5), at(95));
        }
        text.push('\n');
        if let Some((other, ours)) = self.allocations {
            let _ = writeln!(
                text,
                "  allocations: ours {}, {} {}",
                digits(ours),
                self.against,
                digits(other)
            );
        }
        if self.cpu.0 + self.cpu.1 > 0.0 {
            let rounds = self.rounds.len();
            let _ = writeln!(
                text,
                "  CPU over {rounds} rounds: ours {:.0} ms, {} {:.0} ms",
                1e3 * self.cpu.1,
                self.against,
                1e3 * self.cpu.0
            );
        }
        if !self.quoted.is_empty() {
            let _ = writeln!(text, "  for comparison: {}", self.quoted);
        }
        text
    }
}

/// Writes how much more or less than the other side a ratio is, with one more digit where it would
/// say that nothing is left.
fn percent(ratio: f64) -> String {
    let more = 100.0 * (ratio - 1.0);
    if more < -99.0 { format!("{more:+.1} %") } else { format!("{more:+.0} %") }
}

fn digits(number: f64) -> String {
    match number {
        n if n >= 100.0 => format!("{n:.0}"),
        n if n >= 1.0 => format!("{n:.2}"),
        n => format!("{n:.3}"),
    }
}

/// Returns the processor time of this process so far.
fn processor_seconds() -> f64 {
    let used = Resources::read();
    (used.cpu_user + used.cpu_system).as_secs_f64()
}

/// Returns how long each of so many operations took, in nanoseconds.
fn nanos_each(operations: u32, work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64() * 1e9 / f64::from(operations)
}

/// A row's name, and what measures it.
type Measure = (&'static str, fn(&Limits) -> anyhow::Result<Row>);

fn all() -> Vec<Measure> {
    let mut all: Vec<Measure> = vec![
        ("memory_pool", rows::memory_pool),
        ("memory_pool_glibc", rows::memory_pool_glibc),
        ("memory_pool_overhead", rows::memory_pool_overhead),
        ("tool_registry", rows::tool_registry),
        ("tool_pipeline", rows::tool_pipeline),
        ("tool_pipeline_batched", rows::tool_pipeline_batched),
        ("tool_pipeline_unordered", rows::tool_pipeline_unordered),
        ("agent_loop", rows::agent_loop),
        ("request_rendering", rows::request_rendering),
        ("stream_decode", rows::stream_decode),
        ("startup", rows::startup),
        ("resume", rows::resume),
        ("idle_session", rows::idle_session),
    ];
    #[cfg(feature = "demo")]
    {
        let at = |all: &[Measure], name| all.iter().position(|row| row.0 == name).unwrap_or(0);
        all.insert(at(&all, "agent_loop"), ("llm_client", network::llm_client));
        let polling = ("agent_loop_polling", network::agent_loop_polling as fn(&Limits) -> _);
        all.insert(at(&all, "request_rendering"), polling);
        all.push(("turn_gap", network::turn_gap));
    }
    all
}

pub(crate) fn run(options: &Bench) -> anyhow::Result<Exit> {
    let kept = options.against.as_deref().map(Kept::read).transpose()?;
    if let Some(path) = &options.save {
        can_be_written(path)?;
    }
    let limits = match options.preset.as_deref() {
        Some("debug") => Limits::plain(),
        _ => Limits::full(),
    };
    let wanted: Vec<Measure> = all()
        .into_iter()
        .filter(|(name, _)| {
            options.name.as_ref().is_none_or(|wanted| name.starts_with(wanted.as_str()))
        })
        .collect();
    if wanted.is_empty() {
        let names: Vec<_> = all().iter().map(|(name, _)| *name).collect();
        return Err(Usage(format!("no such row; there are {}", names.join(", "))).into());
    }
    // Before the bench adds a load of its own.
    let machine = Machine::now();
    let before = Resources::read();
    let began = Instant::now();
    let mut out = io::stdout().lock();
    if !options.json {
        let _ = writeln!(out, "{}", heading(&machine, options.preset.as_deref()));
    }
    let unlike = kept.as_ref().and_then(|kept| kept.unlike(&machine, options.preset.as_deref()));
    if let Some(why) = &unlike {
        note(&format!("NOT COMPARED with the kept readings: {why}"));
    }
    let kept = kept.filter(|_| unlike.is_none());
    let mut rows = Vec::new();
    for (name, measure) in wanted {
        let row =
            measure(&limits).with_context(|| format!("the row `{name}` could not be measured"))?;
        let standing = kept.as_ref().map(|kept| kept.standing(&row));
        if !options.json {
            let standing = standing.as_ref().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(out, "{}{standing}", row.text());
            let _ = out.flush();
        }
        let mut json = row.json();
        if let Some(standing) = standing {
            json["against"] = standing.json();
        }
        rows.push(json);
    }
    let report = json!({
        "machine": {
            "cpu": machine.cpu, "cores": machine.cores, "system": machine.system,
            "load": machine.load, "class": machine.class(),
        },
        "preset": options.preset, "version": env!("CARGO_PKG_VERSION"),
        "optimized_build": !cfg!(debug_assertions),
        "not_compared": unlike,
        "rows": rows,
    });
    if options.json {
        let _ = writeln!(out, "{report:#}");
    } else {
        let after = Resources::read();
        let cpu =
            (after.cpu_user + after.cpu_system).saturating_sub(before.cpu_user + before.cpu_system);
        let _ = writeln!(
            out,
            "took {:.1} s, {:.1} s of processor time; what it means: README.md, \"Measured\"",
            began.elapsed().as_secs_f64(),
            cpu.as_secs_f64()
        );
    }
    if let Some(path) = &options.save {
        std::fs::write(path, format!("{report:#}\n"))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        note(&format!("the readings are kept in `{}`", path.display()));
    }
    Ok(Exit::Done)
}

fn heading(machine: &Machine, preset: Option<&str>) -> String {
    let load = machine.load.map_or_else(|| "unknown".to_owned(), |load| format!("{load:.2}"));
    let Machine { cpu, cores, system, .. } = machine;
    let mut text = format!("{cpu} · {cores} cores · {system} · load {load}\n");
    if cfg!(debug_assertions) {
        text.push_str("warning: this is a debug build; its readings say nothing\n");
    }
    if machine.load.is_none_or(|load| load > QUIET_LOAD) {
        text.push_str("warning: the machine is not quiet: believe ratios, not times\n");
    }
    if preset == Some("debug") {
        text.push_str("preset debug: every optimization is off on our side\n");
    }
    text.push_str("medians; ratio = ours / the other side, with its 95 % interval\n");
    text
}

/// Fails before anything is measured if the readings could not be kept.
fn can_be_written(path: &Path) -> Result<(), Usage> {
    let is_new = !path.exists();
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|e| Usage(format!("cannot write `{}`: {e}", path.display())))?;
    if is_new {
        // It comes back with something in it.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Runs what needs a runtime of its own, as the program has one.
fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(5));
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_almost_nothing_is_not_said_to_be_nothing() {
        assert_eq!(percent(0.0034), "-99.7 %");
        assert_eq!(percent(0.35), "-65 %");
        assert_eq!(percent(2.956), "+196 %");
    }

    #[test]
    fn a_row_with_nothing_beside_it_shows_how_far_its_readings_lie_apart() {
        let mut row = Row::new("a", "something", "", "ms");
        row.rounds = (1..=21).map(|n| (None, f64::from(n))).collect();
        assert_eq!(
            row.text(),
            "a: something\n  ours 11.00 ms (90 % of 21 readings: 2.00 – 20.00)\n"
        );
    }
}
