//! The inside of the gate: runs the workloads in this process, marks for callgrind where each block
//! begins and ends, and prints what each block allocated, one line a block.

use std::ffi::CString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{allocations, valgrind, workloads};

/// What the gate tells the process in which it counts.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where the scripted model is
    #[arg(long)]
    pub(super) model: String,
    /// An empty folder
    #[arg(long)]
    pub(super) folder: PathBuf,
    /// Rounds of idle work in each turn, as a slowdown to be found
    #[arg(long, default_value_t = 0)]
    pub(super) burn: u64,
    /// Further allocations in each turn, as a growth to be found
    #[arg(long, default_value_t = 0)]
    pub(super) more_allocations: u64,
    /// Turns that are counted
    #[arg(long)]
    pub(super) turns: u32,
    /// Leave the other workloads out
    #[arg(long)]
    pub(super) turns_alone: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut meter = Meter::default();
    workloads::run(&mut meter, options)?;
    let mut out = std::io::stdout().lock();
    for (name, allocations) in &meter.blocks {
        writeln!(out, "{name} {allocations}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Marks the blocks.
#[derive(Debug, Default)]
pub(super) struct Meter {
    blocks: Vec<(&'static str, u64)>,
    open: Option<Block>,
}

#[derive(Debug)]
struct Block {
    name: &'static str,
    label: CString,
    allocated: u64,
}

impl Meter {
    /// Counts from here.
    pub(super) fn begin(&mut self, name: &'static str) {
        let label = CString::new(name).expect("no workload has a NUL in its name");
        // What is noted at the end finds its place.
        self.blocks.reserve(1);
        self.open = Some(Block { name, label, allocated: allocations::so_far() });
        valgrind::zero();
    }

    /// Counts to here.
    pub(super) fn end(&mut self) {
        let Some(block) = &self.open else { return };
        valgrind::dump(&block.label);
        self.blocks.push((block.name, allocations::so_far() - block.allocated));
        self.open = None;
    }

    /// Counts this much work, a few times over.
    pub(super) fn blocks(&mut self, name: &'static str, mut work: impl FnMut()) {
        // What happens only once, such as a buffer that grows, happens before.
        work();
        work();
        for _ in 0..BLOCKS {
            self.begin(name);
            work();
            self.end();
        }
    }
}

/// How often a workload is counted; the one in the middle is its reading.
pub(super) const BLOCKS: usize = 5;
