//! The figures: readings come in, rows with their targets and verdicts come out, as a table for
//! people and as JSON for machines.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::Readings;
use super::machine::Machine;
use super::run::Run;
use super::stats::Samples;

/// What was measured, ready to print.
#[derive(Debug)]
pub(super) struct Report {
    machine: Machine,
    agent: String,
    rows: Vec<Row>,
    failures: Vec<String>,
}

#[derive(Debug)]
struct Row {
    script: &'static str,
    what: &'static str,
    unit: Unit,
    /// Which quantile of the samples is the figure.
    share: f64,
    /// `None`: no run could be measured, or the system does not tell.
    samples: Option<Samples>,
    target: Option<Target>,
}

#[derive(Debug)]
struct Target {
    at_most: f64,
    /// How it came about, if it is no constant.
    how: &'static str,
}

/// A unit and the digits after its point.
#[derive(Debug, Clone, Copy)]
struct Unit(&'static str, usize);

const MS: Unit = Unit("ms", 2);
const S: Unit = Unit("s", 3);
const MIB: Unit = Unit("MiB", 1);
const KB: Unit = Unit("kB", 1);
const COUNT: Unit = Unit("", 0);

/// What an agent may add to a command's own time.
const OVER_FLOOR_MS: f64 = 1.0;

impl Report {
    pub(super) fn new(machine: Machine, agent: String, readings: &Readings) -> Self {
        let Readings {
            answers,
            anthropic,
            long_answers,
            turns,
            watched,
            parallel,
            floor,
            failures,
        } = readings;
        let floor = Samples::new(floor.iter().copied().map(ms));
        let gaps = || Samples::new(turns.iter().flat_map(|run| &run.gaps).copied().map(ms));
        let over_floor = floor
            .as_ref()
            .map(|floor| Target { at_most: floor.median() + OVER_FLOOR_MS, how: "floor + 1" });
        let mut rows = vec![
            row("S3", "start to first request", MS, of(answers, |run| ms(run.first_request)))
                .at_most(15.0),
            row("S3", "CPU of the whole run", MS, of(answers, |run| ms(run.cpu))).at_most(20.0),
            row("S3", "wall time", MS, of(answers, |run| ms(run.wall))),
        ];
        rows.extend([
            row("S4", "CPU of the whole run", MS, of(long_answers, |run| ms(run.cpu)))
                .at_most(40.0),
            row("S4", "wall time", MS, of(long_answers, |run| ms(run.wall))),
        ]);
        if !anthropic.is_empty() {
            rows.extend([
                row(
                    "S3",
                    "anthropic: start to first request",
                    MS,
                    of(anthropic, |run| ms(run.first_request)),
                ),
                row("S3", "anthropic: CPU of the whole run", MS, of(anthropic, |run| ms(run.cpu))),
            ]);
        }
        rows.extend([
            row("S1", "floor: the same commands spawned bare", MS, floor),
            Row {
                target: over_floor,
                ..row("S1", "response end to next request, median", MS, gaps())
            },
            Row { share: 0.95, ..row("S1", "response end to next request, p95", MS, gaps()) }
                .at_most(6.0),
            row("S1", "wall time", S, of(turns, |run| run.wall.as_secs_f64())).at_most(0.12),
            row("S1", "CPU of agent and commands", S, of(turns, |run| run.cpu.as_secs_f64())),
            row(
                "S1",
                "peak memory of all processes",
                MIB,
                Samples::new(
                    watched
                        .iter()
                        .filter_map(|run| run.peak_bytes)
                        .map(|bytes| bytes as f64 / 1_048_576.0),
                ),
            )
            .at_most(25.0),
            row("S1", "first request body", KB, of(turns, |run| run.first_body_bytes as f64 / 1e3))
                .at_most(8.0),
            row("S1", "all request bodies", KB, of(turns, |run| run.sent_bytes as f64 / 1e3)),
            row("S1", "connections opened", COUNT, of(turns, |run| run.connections as f64))
                .at_most(1.0),
            row("S2", "wall time", S, of(parallel, |run| run.wall.as_secs_f64())).at_most(2.15),
        ]);
        Self { machine, agent, rows, failures: failures.clone() }
    }

    /// Returns the report as people read it.
    pub(super) fn table(&self) -> String {
        let mut text = format!("\n{}{}\n\n", self.machine.text(), self.agent);
        let cells: Vec<_> = self.rows.iter().map(Row::cells).collect();
        let head = ["", "what", "reading", "p5 – p95", "n", "target", ""].map(str::to_owned);
        let widths: Vec<_> = (0..head.len())
            .map(|column| {
                let all = std::iter::once(&head).chain(&cells);
                all.map(|cells| cells[column].chars().count()).max().unwrap_or(0)
            })
            .collect();
        for cells in std::iter::once(&head).chain(&cells) {
            let mut line = String::new();
            for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                // Numbers stand on the right.
                let right = (2..=4).contains(&column);
                let _ = if right {
                    write!(line, "{cell:>width$}  ")
                } else {
                    write!(line, "{cell:<width$}  ")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        for failure in &self.failures {
            let _ = writeln!(text, "failed: {failure}");
        }
        text
    }

    /// Returns the report as machines read it.
    pub(super) fn json(&self) -> Value {
        json!({
            "agent": self.agent,
            "machine": self.machine.json(),
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "failures": self.failures,
        })
    }
}

impl Row {
    fn at_most(self, at_most: f64) -> Self {
        Self { target: Some(Target { at_most, how: "" }), ..self }
    }

    fn value(&self) -> Option<f64> {
        self.samples.as_ref().map(|samples| samples.quantile(self.share))
    }

    /// Says whether the target is met; `None` where there is no target or no reading.
    fn met(&self) -> Option<bool> {
        Some(self.value()? <= self.target.as_ref()?.at_most)
    }

    fn cells(&self) -> [String; 7] {
        let Unit(unit, digits) = self.unit;
        let (reading, spread, count) = match (&self.samples, self.value()) {
            (Some(samples), Some(value)) => (
                format!("{value:.digits$} {unit:<3}"),
                format!(
                    "{:.digits$} – {:.digits$}",
                    samples.quantile(0.05),
                    samples.quantile(0.95)
                ),
                samples.count().to_string(),
            ),
            _ => ("not measured".to_owned(), String::new(), "0".to_owned()),
        };
        let target = match &self.target {
            None => String::new(),
            Some(Target { at_most, how: "" }) => format!("≤ {at_most}"),
            Some(Target { at_most, how }) => format!("≤ {at_most:.digits$} ({how})"),
        };
        let verdict = match self.met() {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        let [script, what, verdict] = [self.script, self.what, verdict].map(str::to_owned);
        [script, what, reading, spread, count, target, verdict]
    }

    fn json(&self) -> Value {
        let quantile = |share| self.samples.as_ref().map(|samples| samples.quantile(share));
        json!({
            "script": self.script,
            "what": self.what,
            "unit": self.unit.0,
            "value": self.value(),
            "median": quantile(0.5),
            "p5": quantile(0.05),
            "p95": quantile(0.95),
            "samples": self.samples.as_ref().map_or(0, Samples::count),
            "target": self.target.as_ref().map(|target| target.at_most),
            "met": self.met(),
        })
    }
}

fn row(script: &'static str, what: &'static str, unit: Unit, samples: Option<Samples>) -> Row {
    Row { script, what, unit, share: 0.5, samples, target: None }
}

fn of(runs: &[Run], reading: impl Fn(&Run) -> f64) -> Option<Samples> {
    Samples::new(runs.iter().map(reading))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(gap_ms: u64) -> Run {
        Run {
            first_request: Duration::from_millis(12),
            wall: Duration::from_millis(100),
            cpu: Duration::from_millis(21),
            gaps: vec![Duration::from_millis(gap_ms); 19]
                .into_iter()
                .chain([Duration::from_millis(9)])
                .collect(),
            peak_bytes: Some(20 << 20),
            first_body_bytes: 7_900,
            sent_bytes: 90_000,
            connections: 1,
        }
    }

    fn report(readings: &Readings) -> Report {
        Report::new(Machine::now(), "agent".to_owned(), readings)
    }

    #[test]
    fn each_row_is_judged_by_its_own_quantile_and_target() {
        let readings = Readings {
            answers: vec![run(3)],
            turns: vec![run(3), run(3)],
            watched: vec![run(50)],
            floor: vec![Duration::from_millis(2)],
            ..Readings::default()
        };
        let report = report(&readings).json();
        let row = |what: &str| {
            let rows = report["rows"].as_array().unwrap();
            rows.iter().find(|row| row["what"] == what).unwrap().clone()
        };
        assert_eq!(row("start to first request")["met"], true);
        assert_eq!(row("CPU of the whole run")["met"], false);
        // The floor is 2 ms, so 3 ms is just met; the watched run's gaps are not among the samples.
        let gap = row("response end to next request, median");
        assert_eq!(
            (&gap["met"], &gap["samples"], &gap["target"]),
            (&json!(true), &json!(40), &json!(3.0))
        );
        assert_eq!(row("peak memory of all processes")["value"], 20.0);
        assert_eq!(row("all request bodies")["met"], Value::Null);
    }

    #[test]
    fn what_failed_is_said_and_has_no_verdict() {
        let failures = vec!["S2, round 1: it crashed".to_owned()];
        let report = report(&Readings { answers: vec![run(3)], failures, ..Readings::default() });
        let table = report.table();
        let line = |what: &str| table.lines().rfind(|line| line.contains(what)).unwrap();
        assert!(line("S2  wall time").contains("not measured"), "{table}");
        assert!(!line("S2  wall time").contains("met"), "{table}");
        assert!(line("start to first").trim_end().ends_with("met"), "{table}");
        assert!(table.ends_with("failed: S2, round 1: it crashed\n"), "{table}");
    }
}
