//! The baseline: a log of readings, the newest of each workload counts. A reading enters it only
//! together with a reason, so that no number can change without one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::MORE_INSTRUCTIONS;
use super::machine::Class;
use super::run::{Count, Counts};

/// The log.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Baseline {
    #[serde(default, rename = "change")]
    changes: Vec<Change>,
}

/// Readings that were taken over at one time.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    reason: String,
    class: String,
    readings: BTreeMap<String, Reading>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reading {
    instructions: u64,
    allocations: u64,
}

impl Change {
    pub(super) fn new(
        reason: &str,
        class: &Class,
        readings: BTreeMap<String, Reading>,
    ) -> anyhow::Result<Self> {
        ensure!(reason.trim().len() >= 8, "say in some words why the baseline changes");
        Ok(Self { reason: reason.trim().to_owned(), class: class.0.clone(), readings })
    }

    pub(super) fn len(&self) -> usize {
        self.readings.len()
    }

    /// Writes it as it stands in the log.
    pub(super) fn toml(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut text = format!(
            "\n[[change]]\nreason = {}\nclass = {}\n\n[change.readings]\n",
            quoted(&self.reason),
            quoted(&self.class)
        );
        for (name, Reading { instructions, allocations }) in &self.readings {
            let _ = writeln!(
                text,
                "{name} = {{ instructions = {instructions}, allocations = {allocations} }}"
            );
        }
        text
    }
}

impl Baseline {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let baseline: Self = toml::from_str(text)?;
        for change in &baseline.changes {
            ensure!(change.reason.trim().len() >= 8, "a change has no reason");
        }
        Ok(baseline)
    }

    /// Returns the newest reading of a workload on a class of machine.
    fn of_class(&self, class: &Class, name: &str) -> Option<Reading> {
        let mut changes = self.changes.iter().rev().filter(|change| change.class == class.0);
        changes.find_map(|change| change.readings.get(name).copied())
    }

    /// Returns the newest count of allocations, which do not depend on the machine.
    fn allocations(&self, name: &str) -> Option<u64> {
        let mut changes = self.changes.iter().rev();
        changes.find_map(|change| Some(change.readings.get(name)?.allocations))
    }

    /// Returns the readings that differ from the newest ones of this class.
    pub(super) fn changed(&self, class: &Class, counts: &Counts) -> BTreeMap<String, Reading> {
        let readings = counts.kept().filter_map(|(name, count)| {
            let Count { instructions, allocations } = *count;
            let now = Reading { instructions: instructions?, allocations };
            let same = self.of_class(class, name).is_some_and(|before| {
                before.allocations == now.allocations
                    && grown(before.instructions, now.instructions).abs() < MORE_INSTRUCTIONS / 2.0
            });
            (!same).then(|| (name.clone(), now))
        });
        readings.collect()
    }

    /// Holds what was counted against the baseline.
    pub(super) fn judge(&self, class: Option<&Class>, counts: &Counts) -> Verdict {
        let known = class.is_some_and(|class| self.changes.iter().any(|c| c.class == class.0));
        let rows = counts.kept().map(|(name, count)| {
            let reading = class.and_then(|class| self.of_class(class, name));
            let allocations = reading.map(|r| r.allocations).or_else(|| self.allocations(name));
            let instructions = reading.map(|r| r.instructions);
            Row { name: name.clone(), count: *count, instructions, allocations }
        });
        Verdict {
            class: class.map(ToString::to_string),
            known,
            rows: rows.collect(),
            lost: self.lost(counts),
        }
    }

    /// Returns the workloads of the baseline that did not run.
    fn lost(&self, counts: &Counts) -> Vec<String> {
        let names = self.changes.iter().flat_map(|change| change.readings.keys());
        let mut lost: Vec<String> =
            names.filter(|name| !counts.of.contains_key(*name)).cloned().collect();
        lost.sort();
        lost.dedup();
        lost
    }
}

fn grown(before: u64, now: u64) -> f64 {
    if before == 0 { f64::from(u8::from(now > 0)) } else { now as f64 / before as f64 - 1.0 }
}

/// What was counted, held against the baseline.
#[derive(Debug)]
pub(super) struct Verdict {
    class: Option<String>,
    known: bool,
    rows: Vec<Row>,
    lost: Vec<String>,
}

#[derive(Debug)]
struct Row {
    name: String,
    count: Count,
    /// The baseline's, if it has them.
    instructions: Option<u64>,
    allocations: Option<u64>,
}

impl Row {
    fn grown(&self) -> Option<f64> {
        Some(grown(self.instructions?, self.count.instructions?))
    }

    fn fails(&self) -> bool {
        self.grown().is_some_and(|grown| grown > MORE_INSTRUCTIONS)
            || self.allocations.is_some_and(|before| self.count.allocations > before)
    }

    fn words(&self) -> &'static str {
        match (self.fails(), self.grown(), self.allocations) {
            (true, ..) => "TOO MUCH",
            (false, None, None) => "not in the baseline yet",
            (false, None, Some(_)) => "allocations alone",
            (false, Some(grown), _) if grown < -MORE_INSTRUCTIONS => "better: take it over",
            (false, Some(_), Some(before)) if self.count.allocations < before => {
                "better: take it over"
            }
            _ => "",
        }
    }
}

impl Verdict {
    pub(super) fn fails(&self) -> bool {
        !self.lost.is_empty() || self.rows.iter().any(Row::fails)
    }

    /// Returns the names of the workloads that took too much.
    pub(super) fn failed(&self) -> Vec<&str> {
        self.rows.iter().filter(|row| row.fails()).map(|row| row.name.as_str()).collect()
    }

    pub(super) fn table(&self) -> String {
        let class = self.class.as_deref().unwrap_or("no valgrind");
        let mut text = format!("gate: {class}\n");
        if self.class.is_some() && !self.known {
            text.push_str(
                "NOTE: the baseline knows no machine of this class, so only allocations are \
                 compared; `cargo xtask gate --update REASON` adds it\n",
            );
        }
        let _ = writeln!(
            text,
            "{:<12}{:>14}{:>14}{:>9}{:>13}{:>10}",
            "", "instructions", "baseline", "", "allocations", "baseline"
        );
        let number = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), |n| n.to_string());
        for row in &self.rows {
            let grown =
                row.grown().map_or_else(String::new, |grown| format!("{:+.2} %", 100.0 * grown));
            let line = format!(
                "{:<12}{:>14}{:>14}{grown:>9}{:>13}{:>10}  {}",
                row.name,
                number(row.count.instructions),
                number(row.instructions),
                row.count.allocations,
                number(row.allocations),
                row.words()
            );
            text.push_str(line.trim_end());
            text.push('\n');
        }
        for name in &self.lost {
            let _ = writeln!(text, "`{name}` stands in the baseline and did not run");
        }
        if self.fails() {
            text.push_str(
                "the gate is closed: find what costs more, or say why it may with\n    \
                 cargo xtask gate --update \"REASON\"\n",
            );
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "name": row.name,
                "instructions": row.count.instructions,
                "allocations": row.count.allocations,
                "baseline_instructions": row.instructions,
                "baseline_allocations": row.allocations,
                "fails": row.fails(),
            })
        };
        json!({
            "class": self.class,
            "class_is_known": self.known,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "did_not_run": self.lost,
            "fails": self.fails(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64, u64)]) -> Counts {
        let count = |(name, instructions, allocations): &(&str, u64, u64)| {
            let count = Count { instructions: Some(*instructions), allocations: *allocations };
            ((*name).to_owned(), count)
        };
        Counts::made(of.iter().map(count).collect())
    }

    fn class(name: &str) -> Class {
        Class(name.to_owned())
    }

    /// The log after two changes, as it would stand in the file.
    fn log() -> Baseline {
        let mut text = String::new();
        for (reason, readings) in [
            ("first \"reading\" ever", counts(&[("turn", 100_000, 50), ("decode", 1000, 0)])),
            ("turns write a journal", counts(&[("turn", 200_000, 60), ("decode", 1000, 0)])),
        ] {
            let before = Baseline::parse(&text).unwrap();
            let changed = before.changed(&class("here"), &readings);
            text += &Change::new(reason, &class("here"), changed).unwrap().toml();
        }
        Baseline::parse(&text).unwrap()
    }

    #[test]
    fn the_log_keeps_what_changed_and_the_newest_counts() {
        let log = log();
        assert_eq!(log.changes.iter().map(Change::len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(log.of_class(&class("here"), "turn").unwrap().instructions, 200_000);
        assert_eq!(log.of_class(&class("here"), "decode").unwrap().instructions, 1000);
        assert_eq!(log.of_class(&class("there"), "turn"), None);
    }

    #[test]
    fn half_a_percent_and_no_allocation_may_come_on_top() {
        let (log, here) = (log(), class("here"));
        let failed = |turn, allocations, decode| {
            let counts = counts(&[("turn", turn, allocations), ("decode", decode, 0)]);
            log.judge(Some(&here), &counts).failed().join(" ")
        };
        assert_eq!(failed(200_000, 60, 1000), "");
        assert_eq!(failed(201_000, 60, 1000), "");
        assert_eq!(failed(201_001, 60, 1000), "turn");
        assert_eq!(failed(200_000, 61, 1000), "turn");
        assert_eq!(failed(100_000, 1, 1006), "decode");
    }

    #[test]
    fn a_machine_of_another_class_is_told_and_compares_allocations() {
        let log = log();
        let same = counts(&[("turn", 900_000, 60), ("decode", 9000, 0)]);
        let verdict = log.judge(Some(&class("there")), &same);
        assert!(!verdict.fails() && verdict.table().contains("NOTE"), "{}", verdict.table());
        let more = counts(&[("turn", 900_000, 61), ("decode", 9000, 0)]);
        for class in [Some(class("there")), None] {
            assert_eq!(log.judge(class.as_ref(), &more).failed(), ["turn"]);
        }
    }

    #[test]
    fn a_workload_that_is_gone_closes_the_gate() {
        let verdict = log().judge(Some(&class("here")), &counts(&[("turn", 1, 1)]));
        assert!(verdict.fails() && verdict.table().contains("`decode`"), "{}", verdict.table());
    }

    #[test]
    fn nothing_enters_the_log_without_a_reason() {
        assert!(Change::new("  ", &class("here"), BTreeMap::new()).is_err());
        let unexplained = "[[change]]\nreason = \"\"\nclass = \"c\"\n[change.readings]\n";
        assert!(Baseline::parse(unexplained).is_err());
    }
}
