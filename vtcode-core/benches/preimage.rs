//! What an edit pays for being taken back later: a file of 100 kB is replaced with and without its
//! pre-image, in turns, in one process; medians are printed. Asserts no time: a figure is read.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vtcode_core::safety::preimage::Preimages;
use vtcode_core::safety::workspace::Workspace;

const ROUNDS: usize = 1000;
const FILE_BYTES: usize = 100_000;
const QUOTA_BYTES: u64 = 4 << 30;

/// Returns a content that no round had before, so that each pre-image is a new one.
fn content(round: usize) -> Vec<u8> {
    let line = format!("{round:08} lorem ipsum dolor sit amet consectetur\n");
    line.bytes().cycle().take(FILE_BYTES).collect()
}

fn edit(workspace: &Workspace, content: &[u8]) -> Duration {
    let began = Instant::now();
    let path = workspace.resolve("file.txt").expect("a plain name");
    let version = path.version().expect("the folder is ours");
    black_box(path.write_if(version, content).expect("nobody else writes"));
    began.elapsed()
}

fn quantile(all: &mut [Duration], percent: usize) -> f64 {
    all.sort_unstable();
    all[(all.len() - 1) * percent / 100].as_secs_f64() * 1e6
}

fn open(folder: &Path) -> Workspace {
    Workspace::open(folder).expect("the folder was just made")
}

fn main() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).expect("the name is new");
        path
    };
    let plain = open(&folder("plain"));
    let preimages = Arc::new(Preimages::open(&folder("session"), QUOTA_BYTES, 0));
    let kept = open(&folder("kept")).with_preimages(Arc::clone(&preimages));
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let content = content(round);
        preimages.begin_turn();
        without.push(edit(&plain, &content));
        with.push(edit(&kept, &content));
    }
    println!("replacing a file of 100 kB, {ROUNDS} times, µs");
    for (name, all) in [("without", &mut without), ("with", &mut with)] {
        let (half, most) = (quantile(all, 50), quantile(all, 95));
        println!("  {name:<8} pre-image: median {half:8.1}, p95 {most:8.1}");
    }
    let cost = quantile(&mut with, 50) - quantile(&mut without, 50);
    println!(
        "  the pre-image costs {cost:.1} (target: 500), {} bytes kept",
        preimages.used_bytes()
    );
}
