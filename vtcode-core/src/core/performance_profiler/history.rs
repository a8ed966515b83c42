//! Earlier runs, kept in a file, and the newest run held against them. A line is one run: the times
//! of our own work in its turns. Keeps the newest runs; a file that is not ours is told and left.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::baseline::{self, ALARM_CONFIDENCE, Comparison, MIN_SAMPLES};
use super::turns::{Turns, Waited};

/// Runs that a new one is held against.
const RUNS: usize = 8;
/// Turns of a run that are kept, the newest ones.
const TURNS: usize = 256;
/// More than all runs can take.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Run {
    /// Our own part of each turn's path, in microseconds.
    own_us: Vec<f64>,
}

/// Returns our own part of each of the newest 256 turns, in microseconds and in order, without
/// those that had none.
pub fn own_work(turns: &Turns) -> Vec<f64> {
    let all = turns.iter().rev().take(TURNS).map(|turn| {
        let own = turn.critical_path().waited(|on| *on == Waited::Us);
        own.as_secs_f64() * 1e6
    });
    let mut all: Vec<f64> = all.filter(|own| *own > 0.0).collect();
    all.reverse();
    all
}

/// Holds a run against the up to 8 before it, and keeps it; `own_us` is as [`own_work`] returns it.
/// None where there is too little to compare; a run of fewer than [`MIN_SAMPLES`] turns is not kept
/// either. Fails when the file is there and cannot be read as text, or cannot be written.
pub fn hold_against(path: &Path, own_us: Vec<f64>) -> io::Result<Option<Comparison>> {
    if own_us.len() < MIN_SAMPLES {
        return Ok(None);
    }
    let mut runs = read(path)?;
    let before: Vec<f64> = runs.iter().flat_map(|run| run.own_us.iter().copied()).collect();
    let found = baseline::compare(&before, &own_us, ALARM_CONFIDENCE);
    runs.push(Run { own_us });
    let newest = &runs[runs.len().saturating_sub(RUNS)..];
    write(path, newest)?;
    Ok(found)
}

fn read(path: &Path) -> io::Result<Vec<Run>> {
    let mut text = String::new();
    match fs::File::open(path) {
        Ok(file) => file.take(MAX_BYTES).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // A line that a crash cut short, or another version wrote, is no run.
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn write(path: &Path, runs: &[Run]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let mut text = Vec::new();
    for run in runs {
        serde_json::to_writer(&mut text, run)?;
        text.push(b'\n');
    }
    let written = fs::File::create(&part).and_then(|mut file| file.write_all(&text));
    let written = written.and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // It may never have been made.
        let _ = fs::remove_file(&part);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::super::baseline::Verdict;
    use super::*;

    #[test]
    fn a_run_is_held_against_the_runs_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("perf/own-work.jsonl");
        let run = |scale: f64| (0..40).map(|n| scale * (100.0 + f64::from(n % 9))).collect();
        assert_eq!(hold_against(&path, run(1.0)).unwrap(), None, "there is nothing before it");
        let same = hold_against(&path, run(1.0)).unwrap().unwrap();
        assert_eq!(same.verdict(25.0), Verdict::Within);
        let slow = hold_against(&path, run(2.0)).unwrap().unwrap();
        assert_eq!(slow.verdict(25.0), Verdict::Slower);
        assert_eq!(hold_against(&path, vec![1.0; 4]).unwrap(), None, "too few turns say nothing");
        for _ in 0..2 * RUNS {
            hold_against(&path, run(2.0)).unwrap();
        }
        assert_eq!(read(&path).unwrap().len(), RUNS);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn lines_that_are_no_runs_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own-work.jsonl");
        fs::write(&path, "no run\n{\"own_us\":[1,2,3,4,5]}\n{\"own_us\":[1,2").unwrap();
        let found = hold_against(&path, vec![2.0, 4.0, 6.0, 8.0, 10.0]).unwrap().unwrap();
        assert!((found.ratio - 2.0).abs() < 1e-9, "{found:?}");
        assert!(hold_against(folder.path(), vec![1.0; 9]).is_err(), "a folder is no file");
    }
}
