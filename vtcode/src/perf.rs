//! `vtcode perf`: shows a session's profile, compares two, and fails when a kept one has got slower.
//! Reads journals and files only; runs nothing.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use vtcode_core::config::env::Env;
use vtcode_core::core::journal::{Sessions, look_at};
use vtcode_core::core::performance_profiler::baseline::{self, Comparison, Verdict};
use vtcode_core::core::performance_profiler::{BenchmarkResults, SessionReport};
use vtcode_core::core::resources::Machine;

use crate::exec::{self, note};
use crate::exit::{Exit, Usage};
use crate::setup;
use crate::terminal::clean;

/// Look at where a session's time went
#[derive(Debug, Parser)]
pub(crate) struct Perf {
    #[command(subcommand)]
    pub(crate) command: PerfCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PerfCommand {
    /// Show a session's profile: a table, or JSON, a trace for Perfetto, one page of HTML
    Report(Report),
    /// Compare two profiles, stage by stage; each is a session, its journal, or a saved JSON file
    Compare {
        /// The first
        first: String,
        /// The second
        second: String,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Compare a session with the kept baseline; the exit code is 1 when a stage has got slower
    Check(Check),
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// The session's id, the beginning of it, or a journal; the newest of this folder unless given
    session: Option<String>,
    /// The newest session: of this folder if it has one
    #[arg(long, conflicts_with = "session")]
    last: bool,
    #[command(flatten)]
    form: Form,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
#[cfg_attr(
    feature = "telemetry",
    expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")
)]
struct Form {
    /// One page of HTML
    #[arg(long)]
    html: bool,
    /// A trace that Perfetto opens
    #[arg(long)]
    trace: bool,
    /// JSON
    #[arg(long)]
    json: bool,
    /// Prometheus' text format
    #[cfg(feature = "telemetry")]
    #[arg(long)]
    prometheus: bool,
    /// Send figures and spans to an OpenTelemetry collector, such as http://127.0.0.1:4318
    #[cfg(feature = "telemetry")]
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The session, its journal or a saved JSON file; the newest session of this folder unless given
    current: Option<String>,
    /// What it is held against
    #[arg(long, value_name = "FILE", default_value = ".vtcode/perf-baseline.json")]
    baseline: PathBuf,
    /// How many percent slower a stage may be
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    max_percent: f64,
    /// Take the profile as the baseline from here on
    #[arg(long)]
    save: bool,
}

pub(crate) fn run(perf: &Perf) -> anyhow::Result<Exit> {
    let sessions = setup::sessions(&Env::of_process())?;
    match &perf.command {
        PerfCommand::Report(options) => report(&sessions, options),
        PerfCommand::Compare { first, second, json } => {
            let (first, second) = (Saved::of(&sessions, first)?, Saved::of(&sessions, second)?);
            compare(&first, &second, *json)
        }
        PerfCommand::Check(options) => check(&sessions, options),
    }
}

fn report(sessions: &Sessions, options: &Report) -> anyhow::Result<Exit> {
    let report = session(sessions, options.session.as_deref())?;
    #[cfg(feature = "telemetry")]
    if let Some(url) = &options.form.otlp {
        report.send_otlp(url).with_context(|| format!("cannot send to `{url}`"))?;
        note(&format!("sent to {url}"));
        return Ok(Exit::Done);
    }
    let text = match &options.form {
        #[cfg(feature = "telemetry")]
        Form { prometheus: true, .. } => report.prometheus(),
        Form { html: true, .. } => report.html(),
        Form { trace: true, .. } => report.trace().to_string(),
        Form { json: true, .. } => format!("{:#}\n", json_of(&report)),
        _ => clean(&report.table()),
    };
    match &options.output {
        Some(path) => std::fs::write(path, text).with_context(|| unwritable(path))?,
        None => print(&text)?,
    }
    Ok(Exit::Done)
}

/// Prints; who closed the pipe has seen enough.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn unwritable(path: &Path) -> String {
    format!("cannot write `{}`", path.display())
}

/// Reads a session's events: by id, by its journal, or the newest one.
fn session(sessions: &Sessions, named: Option<&str>) -> anyhow::Result<SessionReport> {
    let mut report = SessionReport::default();
    match named {
        Some(path) if Path::new(path).is_file() => {
            look_at(Path::new(path), |event| report.take(&event))?;
            if report.session_id.is_empty() {
                return Err(Usage(format!("`{path}` holds no session")).into());
            }
        }
        Some(id) => {
            sessions.events(id, |event| report.take(&event))?;
        }
        None => {
            let entries = sessions.list()?;
            let newest = exec::of_this_folder(&entries).or(entries.first());
            let newest = newest.ok_or_else(|| Usage("there is no session yet".to_owned()))?;
            sessions.events(&newest.id, |event| report.take(&event))?;
        }
    }
    Ok(report)
}

/// Returns the profile of a session.
pub(crate) fn of_session(sessions: &Sessions, id: &str) -> anyhow::Result<SessionReport> {
    session(sessions, Some(id))
}

/// Returns a profile with the machine that it was taken on.
fn json_of(report: &SessionReport) -> serde_json::Value {
    let mut value = report.json();
    value["machine"] = Machine::now().class().into();
    value
}

/// Writes a session's profile to a file, in the form that the file's name asks for.
pub(crate) fn write(report: &SessionReport, path: &Path) -> anyhow::Result<()> {
    let text = match form(path)? {
        "html" => report.html(),
        "trace" => report.trace().to_string(),
        _ => format!("{:#}\n", json_of(report)),
    };
    std::fs::write(path, text).with_context(|| unwritable(path))
}

/// Returns the form of a profile by its file's name.
pub(crate) fn form(path: &Path) -> Result<&'static str, Usage> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ends = |end: &str| name.ends_with(end);
    if ends(".trace.json") {
        Ok("trace")
    } else if ends(".json") {
        Ok("json")
    } else if ends(".html") || ends(".htm") {
        Ok("html")
    } else {
        let path = path.display();
        Err(Usage(format!(
            "what kind of profile is `{path}`? Name it .html, .json, or .trace.json for Perfetto"
        )))
    }
}

/// A profile as it is compared.
#[derive(Debug)]
struct Saved {
    benchmarks: Vec<BenchmarkResults>,
    /// The kind of machine; a session's own journal does not tell.
    machine: Option<String>,
}

impl Saved {
    fn of(sessions: &Sessions, named: &str) -> anyhow::Result<Self> {
        let path = Path::new(named);
        if path.is_file() && path.extension().is_some_and(|e| e == "json") {
            return Self::read(path);
        }
        Ok(Self { benchmarks: session(sessions, Some(named))?.benchmarks(), machine: None })
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Usage(format!("cannot read `{}`: {e}", path.display())))?;
        let no_profile = |e| Usage(format!("`{}` is no saved profile: {e}", path.display()));
        let mut value: serde_json::Value = serde_json::from_str(&text).map_err(no_profile)?;
        let machine = value["machine"].as_str().map(str::to_owned);
        let benchmarks = value.get_mut("benchmarks").map(serde_json::Value::take);
        let benchmarks =
            serde_json::from_value(benchmarks.unwrap_or_default()).map_err(no_profile)?;
        Ok(Self { benchmarks, machine })
    }

    fn samples(&self, name: &str) -> Option<Vec<f64>> {
        let run = self.benchmarks.iter().rev().find(|run| run.name == name)?;
        // A duration of 0 is one that the clock could not see.
        Some(run.samples_ns.iter().map(|ns| (*ns).max(1) as f64).collect())
    }
}

/// One stage of both.
struct Row {
    name: String,
    medians_ns: [f64; 2],
    /// None with too few samples.
    found: Option<Comparison>,
}

fn rows(first: &Saved, second: &Saved) -> Vec<Row> {
    let both = first.benchmarks.iter().filter_map(|run| {
        let (mut a, mut b) = (first.samples(&run.name)?, second.samples(&run.name)?);
        if a.is_empty() || b.is_empty() {
            return None;
        }
        let found = baseline::compare(&a, &b, 0.99);
        let medians_ns = [baseline::median(&mut a), baseline::median(&mut b)];
        Some(Row { name: run.name.clone(), medians_ns, found })
    });
    both.collect()
}

fn table(rows: &[Row], max_percent: f64) -> String {
    let mut text = format!(
        "{:<24}{:>12}{:>12}{:>9}{:>20}  \n",
        "", "first", "second", "ratio", "99 % interval"
    );
    for row in rows {
        let [a, b] = row.medians_ns.map(time);
        let _ = write!(text, "{:<24}{a:>12}{b:>12}", row.name);
        let _ = match &row.found {
            Some(found) => {
                let interval = format!("[{:.3}, {:.3}]", found.low, found.high);
                let says = match found.verdict(max_percent) {
                    Verdict::Slower => "SLOWER",
                    _ if found.spans_one() => "nothing to conclude",
                    _ if found.high < 1.0 => "faster",
                    _ => "slower, within the bound",
                };
                writeln!(text, "{:>9.3}{interval:>20}  {says}", found.ratio)
            }
            None => {
                writeln!(text, "{:>29}  too few samples ({} at least)", "", baseline::MIN_SAMPLES)
            }
        };
    }
    text
}

fn time(ns: f64) -> String {
    match ns {
        ns if ns >= 1e9 => format!("{:.2} s", ns / 1e9),
        ns if ns >= 1e6 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.0} µs", ns / 1e3),
    }
}

fn compare(first: &Saved, second: &Saved, json: bool) -> anyhow::Result<Exit> {
    let rows = rows(first, second);
    if rows.is_empty() {
        return Err(Usage("the two profiles have no stage in common".to_owned()).into());
    }
    if let (Some(one), Some(other)) = (&first.machine, &second.machine)
        && one != other
    {
        note(&format!("the two are of different kinds of machine: {one}, and {other}"));
    }
    if json {
        for row in &rows {
            let line = serde_json::json!({
                "name": row.name, "first_ns": row.medians_ns[0], "second_ns": row.medians_ns[1],
                "comparison": row.found,
            });
            print(&format!("{line}\n"))?;
        }
    } else {
        print(&clean(&table(&rows, 0.0)))?;
    }
    Ok(Exit::Done)
}

fn check(sessions: &Sessions, options: &Check) -> anyhow::Result<Exit> {
    if !(options.max_percent.is_finite() && options.max_percent >= 0.0) {
        return Err(Usage("--max-percent must be a number from 0".to_owned()).into());
    }
    let path = &options.baseline;
    if options.save {
        let report = session(sessions, options.current.as_deref())?;
        if report.benchmarks().is_empty() {
            // Everything would pass a baseline without a stage.
            return Err(Usage("the session has no turn yet: the baseline stays".to_owned()).into());
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).with_context(|| unwritable(folder))?;
        }
        let text = format!("{:#}\n", json_of(&report));
        std::fs::write(path, text).with_context(|| unwritable(path))?;
        note(&format!("`{}` is the baseline now", path.display()));
        return Ok(Exit::Done);
    }
    if !path.is_file() {
        let path = path.display();
        return Err(Usage(format!(
            "there is no baseline `{path}`; `vtcode perf check --save` keeps the newest session as one"
        ))
        .into());
    }
    let kept = Saved::read(path)?;
    let current = match &options.current {
        Some(named) => Saved::of(sessions, named)?,
        None => Saved { benchmarks: session(sessions, None)?.benchmarks(), machine: None },
    };
    let here = Machine::now().class();
    let there = current.machine.as_deref().unwrap_or(&here);
    if kept.machine.as_deref().is_some_and(|machine| machine != there) {
        let machine = kept.machine.as_deref().unwrap_or_default();
        note(&format!(
            "NOT COMPARED: the baseline was taken on another kind of machine ({machine}, this is \
             {there}); --save takes one here"
        ));
        return Ok(Exit::Done);
    }
    let rows = rows(&kept, &current);
    if rows.is_empty() {
        return Err(Usage("the two profiles have no stage in common".to_owned()).into());
    }
    if rows.iter().all(|row| row.found.is_none()) {
        note("NOT COMPARED: no stage has enough samples on both sides");
    }
    print(&clean(&table(&rows, options.max_percent)))?;
    let slower = |row: &&Row| {
        row.found.as_ref().is_some_and(|f| f.verdict(options.max_percent) == Verdict::Slower)
    };
    let slower: Vec<&str> = rows.iter().filter(slower).map(|row| row.name.as_str()).collect();
    if slower.is_empty() {
        return Ok(Exit::Done);
    }
    let bound = options.max_percent;
    note(&format!("more than {bound} % slower than the baseline: {}", slower.join(", ")));
    Ok(Exit::Failed)
}
