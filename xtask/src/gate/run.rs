//! One count: the workloads run in a process of their own, under callgrind if there is one, against
//! a model in this process; what each block took comes out, and of each workload the middle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;
use vtcode_testkit::{Chunking, ScriptedModel, call, say};

use super::workloads;
use crate::bench_agent::build_for_release;

/// A build of xtask.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    /// Counts turns alone, and this many.
    turns: Option<u32>,
}

/// What each workload took.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) of: BTreeMap<String, Count>,
    /// The instructions of each block, in the order in which they ran.
    blocks: BTreeMap<String, Vec<u64>>,
}

/// What one workload took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// None when nobody counted them.
    pub(super) instructions: Option<u64>,
    pub(super) allocations: u64,
}

/// The workload that only says what the slowdown of a proof costs.
pub(super) const BURN: &str = "burn";
/// Rounds of it in one block.
pub(super) const BURN_ROUNDS: u64 = 1000;

/// What is done to a turn on purpose, to try whether the gate finds it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Harm {
    /// Rounds of idle work.
    pub(super) burn: u64,
    /// Further allocations.
    pub(super) allocations: u64,
}

impl Harm {
    pub(super) const NONE: Self = Self { burn: 0, allocations: 0 };
}

impl Program {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, turns: None }
    }

    pub(super) fn with_turns(self, turns: Option<u32>) -> Self {
        Self { turns, ..self }
    }

    /// Builds xtask for release, together with the program so that all of it is compiled once.
    pub(super) fn build() -> anyhow::Result<Self> {
        build_for_release("xtask").map(Self::at)
    }

    /// Counts once, with this done to each turn.
    pub(super) fn count(&self, instructions: bool, harm: Harm) -> anyhow::Result<Counts> {
        // On one processor the model has always answered before its client looks.
        pin().context("cannot stay on one processor")?;
        // Always as deep: a path is resolved name by name.
        let folder = tempfile::Builder::new().prefix("gate-").tempdir_in("/tmp")?;
        let counted = folder.path().join("callgrind.out");
        let work = folder.path().join("work");
        std::fs::create_dir(&work)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let turns = self.turns.unwrap_or(workloads::TURNS);
        let model = runtime.block_on(model(workloads::all_turns(turns)));
        let mut command = if instructions {
            let mut valgrind = Command::new("valgrind");
            let file = |option: &str, path: &Path| format!("{option}={}", path.display());
            valgrind
                .args(["--tool=callgrind", "--combine-dumps=yes", "--dump-line=no"])
                .arg(file("--callgrind-out-file", &counted))
                .arg(file("--log-file", &folder.path().join("valgrind.log")))
                .arg(&self.path);
            valgrind
        } else {
            Command::new(&self.path)
        };
        // The environment lies on the stack, and what is set there must not reach the workloads.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("LC_ALL", "C").current_dir(&work).stdin(Stdio::null()).stderr(Stdio::inherit());
        let out = command
            .arg("gate-count")
            .args(["--model", &model.openai_url(), "--burn", &harm.burn.to_string()])
            .args(["--more-allocations", &harm.allocations.to_string()])
            .args(["--turns", &turns.to_string()])
            .args(self.turns.map(|_| "--turns-alone"))
            .arg("--folder")
            .arg(&work)
            .output()
            .context("cannot start the workloads")?;
        drop(model);
        ensure!(out.status.success(), "the workloads ended with {}", out.status);
        let printed = String::from_utf8(out.stdout).context("the workloads printed no text")?;
        let blocks = if instructions {
            dumps(&std::fs::read_to_string(&counted).context("callgrind wrote nothing")?)
        } else {
            BTreeMap::new()
        };
        Counts::of(&printed, &blocks)
    }
}

/// Keeps this thread, and what it starts from here on, on the first processor that it may use.
fn pin() -> nix::Result<()> {
    let (own, allowed) = (Pid::from_raw(0), sched_getaffinity(Pid::from_raw(0))?);
    let mut first = CpuSet::new();
    let found = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    first.set(found.unwrap_or(0))?;
    sched_setaffinity(own, &first)
}

/// Asks for one file after the other, then is content.
async fn model(turns: u32) -> ScriptedModel {
    let model = ScriptedModel::start_with(move |_, number| {
        let turn = u32::try_from(number).expect("a session is short");
        if turn + 1 >= turns {
            return say("All read.");
        }
        say("The next one.").and(call("read_file", json!({"path": workloads::file(turn)})))
    })
    .await;
    // One write, so that the client's reads do not depend on who is faster.
    model.chunking(Chunking::Bytes(usize::MAX))
}

/// Reads what callgrind wrote at each mark: the mark's name, and the instructions before it.
fn dumps(text: &str) -> BTreeMap<String, Vec<u64>> {
    let mut blocks: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut name = None;
    for line in text.lines() {
        if let Some(trigger) = line.strip_prefix("desc: Trigger: ") {
            name = trigger.strip_prefix("Client Request: ").map(str::to_owned);
        } else if let Some(sum) = line.strip_prefix("summary: ")
            && let (Some(name), Ok(sum)) = (name.take(), sum.trim().parse())
        {
            blocks.entry(name).or_default().push(sum);
        }
    }
    blocks
}

impl Counts {
    fn of(printed: &str, instructions: &BTreeMap<String, Vec<u64>>) -> anyhow::Result<Self> {
        let mut allocations: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for line in printed.lines() {
            let (name, number) = line.split_once(' ').context("a line is no count")?;
            allocations.entry(name).or_default().push(number.parse()?);
        }
        ensure!(!allocations.is_empty(), "no workload ran");
        let mut counts = Self::default();
        for (name, allocations) in allocations {
            let blocks = instructions.get(name);
            ensure!(
                instructions.is_empty() || blocks.is_some_and(|b| b.len() == allocations.len()),
                "callgrind did not see all of `{name}`: {blocks:?}"
            );
            let count = Count {
                instructions: blocks.map(|blocks| mean_of_middle(blocks.clone())),
                allocations: middle(allocations),
            };
            counts.of.insert(name.to_owned(), count);
            counts.blocks.extend(blocks.map(|blocks| (name.to_owned(), blocks.clone())));
        }
        Ok(counts)
    }

    /// Returns counts of exactly this, as if they had been taken.
    #[cfg(test)]
    pub(super) fn made(of: BTreeMap<String, Count>) -> Self {
        Self { of, blocks: BTreeMap::new() }
    }

    /// Takes of two counts what each block took at least: on a busy machine threads are late in some
    /// turns of every count, but hardly in the same ones.
    pub(super) fn least(mut self, other: &Self) -> Self {
        for (name, count) in &mut self.of {
            let Some(again) = other.of.get(name) else { continue };
            count.allocations = count.allocations.min(again.allocations);
            let (Some(blocks), Some(others)) = (self.blocks.get_mut(name), other.blocks.get(name))
            else {
                continue;
            };
            blocks.iter_mut().zip(others).for_each(|(block, other)| *block = (*block).min(*other));
            count.instructions = Some(mean_of_middle(blocks.clone()));
        }
        self
    }

    /// Returns the workloads that the baseline keeps.
    pub(super) fn kept(&self) -> impl Iterator<Item = (&String, &Count)> {
        self.of.iter().filter(|(name, _)| *name != BURN)
    }
}

/// Returns the mean of the half in the middle: where a thread that was late adds to some blocks of
/// a turn, it lies as close together as the mean of a quiet machine.
fn mean_of_middle(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    let skip = numbers.len() / 4;
    let middle = &numbers[skip..numbers.len() - skip];
    middle.iter().sum::<u64>() / middle.len().max(1) as u64
}

fn middle(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers[numbers.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_late_in_one_count_is_taken_from_another() {
        let counts = |blocks: &[u64], allocated: u64| {
            let printed = format!("turn {allocated}\n").repeat(blocks.len());
            Counts::of(&printed, &BTreeMap::from([("turn".to_owned(), blocks.to_vec())])).unwrap()
        };
        let quiet = counts(&[100, 101, 102, 103, 104, 105, 106, 107], 7);
        let (early, late) = (
            counts(&[900, 901, 902, 903, 104, 105, 106, 107], 7),
            counts(&[100, 101, 102, 103, 904, 905, 906, 907], 8),
        );
        assert!(early.of["turn"].instructions > quiet.of["turn"].instructions);
        assert_eq!(early.least(&late), quiet);
        // Slower in each count is slower.
        let slower = counts(&[110, 111, 112, 113, 114, 115, 116, 117], 7);
        assert_eq!(slower.clone().least(&slower), slower);
    }
}
