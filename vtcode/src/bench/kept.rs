//! Readings that `vtcode bench --save` kept: a file comes in, and how a row stands against it comes
//! out. Compares only what was measured alike.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::{Value, json};
use vtcode_core::core::performance_profiler::baseline::{self, Comparison};
use vtcode_core::core::resources::Machine;

use super::{CONFIDENCE, Row};
use crate::exit::Usage;

/// More than all rows can take.
const MAX_BYTES: u64 = 16 << 20;

/// What a file holds.
#[derive(Debug)]
pub(super) struct Kept(Value);

/// How a row stands against its kept readings.
#[derive(Debug)]
pub(super) enum Standing {
    /// It cannot be told, for this reason.
    Unknown(&'static str),
    Compared(Comparison),
}

impl Kept {
    pub(super) fn read(path: &Path) -> Result<Self, Usage> {
        let name = path.display();
        let unreadable = |e| Usage(format!("cannot read `{name}`: {e}"));
        let mut text = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(Usage(format!("`{name}` is too large to hold readings of this program")));
        }
        let no_readings = |why: &str| {
            Usage(format!("`{name}` holds no readings as `vtcode bench --save` keeps them: {why}"))
        };
        let kept: Value = serde_json::from_slice(&text).map_err(|e| no_readings(&e.to_string()))?;
        if !kept["rows"].is_array() {
            return Err(no_readings("there is no list `rows`"));
        }
        Ok(Self(kept))
    }

    /// Returns why nothing in it can be compared with what is measured now, if so.
    pub(super) fn unlike(&self, machine: &Machine, preset: Option<&str>) -> Option<String> {
        let (kept, here) = (&self.0, machine.class());
        let class = kept["machine"]["class"].as_str().unwrap_or("not told");
        let off = |preset: Option<&str>| preset == Some("debug");
        if class != here {
            return Some(format!("they are of another kind of machine ({class}; this is {here})"));
        }
        if kept["optimized_build"] != !cfg!(debug_assertions) {
            return Some("one of the two is a debug build".to_owned());
        }
        (off(kept["preset"].as_str()) != off(preset))
            .then(|| "on one side every optimization is off (preset debug)".to_owned())
    }

    pub(super) fn standing(&self, row: &Row) -> Standing {
        let mut rows = self.0["rows"].as_array().into_iter().flatten();
        let Some(kept) = rows.find(|kept| kept["name"] == row.name) else {
            return Standing::Unknown("not measured");
        };
        if kept["unit"] != row.unit || kept["what"] != row.what {
            return Standing::Unknown("the row measured something else");
        }
        let samples = kept["ours_samples"].as_array().into_iter().flatten();
        let samples: Vec<f64> = samples.filter_map(Value::as_f64).collect();
        baseline::compare(&samples, &row.ours(), CONFIDENCE)
            .map_or(Standing::Unknown("too few readings to compare"), Standing::Compared)
    }
}

impl Standing {
    fn says(&self) -> &'static str {
        match self {
            Self::Unknown(why) => why,
            Self::Compared(found) if found.spans_one() => "nothing to conclude",
            Self::Compared(Comparison { ratio: 1.0.., .. }) => "slower than before",
            Self::Compared(_) => "faster than before",
        }
    }

    pub(super) fn json(&self) -> Value {
        let found = match self {
            Self::Compared(found) => Some(found),
            Self::Unknown(_) => None,
        };
        json!({
            "says": self.says(), "ratio": found.map(|found| found.ratio),
            "ci_low": found.map(|found| found.low), "ci_high": found.map(|found| found.high),
        })
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(why) => writeln!(f, "  before: {why}"),
            Self::Compared(Comparison { ratio, low, high, .. }) => {
                let says = self.says();
                writeln!(f, "  against the kept reading: {ratio:.3} [{low:.3}, {high:.3}]: {says}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let mut row = Row::new("a", "something", "", "ns");
        row.rounds = (0..9).map(|n| (None, 100.0 + f64::from(n))).collect();
        row
    }

    fn kept(change: fn(&mut Value)) -> Kept {
        let mut kept = json!({
            "machine": {"class": Machine::now().class()}, "preset": null,
            "optimized_build": !cfg!(debug_assertions), "rows": [row().json()],
        });
        change(&mut kept);
        Kept(kept)
    }

    fn against(change: fn(&mut Value)) -> String {
        kept(change).standing(&row()).to_string()
    }

    #[test]
    fn readings_that_were_not_taken_alike_are_not_compared() {
        let unlike = |change, preset| kept(change).unlike(&Machine::now(), preset);
        assert_eq!(unlike(|_| (), None), None);
        assert_eq!(unlike(|_| (), Some("production")), None);
        let why = |change, preset, words| {
            let found = unlike(change, preset).unwrap();
            assert!(found.contains(words), "{found}");
        };
        why(
            |kept| kept["machine"]["class"] = "abacus".into(),
            None,
            "another kind of machine (aba",
        );
        why(|kept| kept["machine"] = Value::Null, None, "another kind of machine (not told;");
        why(|kept| kept["optimized_build"] = cfg!(debug_assertions).into(), None, "a debug build");
        why(|kept| kept["preset"] = "debug".into(), None, "every optimization is off");
        why(|_| (), Some("debug"), "every optimization is off");
    }

    #[test]
    fn a_row_is_held_against_the_same_row_alone() {
        let slower = |kept: &mut Value| {
            kept["rows"][0]["ours_samples"] = json!(vec![50.0; 9]);
        };
        assert!(against(slower).contains("2.080 [2.0"), "{}", against(slower));
        let same = against(|_| ());
        assert!(same.ends_with("nothing to conclude\n"), "{same}");
        for (change, says) in [
            ((|kept| kept["rows"] = json!([])) as fn(&mut Value), "not measured"),
            (|kept| kept["rows"] = json!([1, null, "a"]), "not measured"),
            (|kept| kept["rows"][0]["unit"] = "ms".into(), "something else"),
            (|kept| kept["rows"][0]["what"] = Value::Null, "something else"),
            (|kept| kept["rows"][0]["ours_samples"] = json!([1, "a", null]), "too few"),
            (|kept| kept["rows"][0]["ours_samples"] = json!(vec![-1.0; 9]), "too few"),
        ] {
            let found = against(change);
            assert!(found.starts_with("  before: ") && found.contains(says), "{found}");
        }
    }
}
