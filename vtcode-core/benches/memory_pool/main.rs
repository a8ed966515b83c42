//! The pool against the allocators that it spares: each row fills a buffer piece by piece and
//! drops it, with the pool, with mimalloc and with the system's allocator in turns, on one thread
//! and on two. Prints medians, the ratios of the pairs with their 95 % interval, and
//! allocations. Asserts no time.

use std::alloc::{GlobalAlloc, System};
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use mimalloc::MiMalloc;
use vtcode_core::core::memory_pool::global_pool;
use vtcode_core::core::performance_profiler::baseline::{Comparison, compare_pairs, median};
use vtcode_testkit::{Allocations, Counting};

use grown::Grown;

mod grown;

/// What the pool itself stands on, counted. What it is held against calls its allocator directly,
/// without being counted, so that counting can only be to the pool's disadvantage.
#[global_allocator]
static ALLOCATOR: Counting<MiMalloc> = Counting(MiMalloc);

const ROUNDS: usize = 101;
const PIECE: [u8; 64] = [b'x'; 64];

#[derive(Clone, Copy)]
struct Work {
    bytes: usize,
    piece: usize,
}

impl Work {
    fn pieces(self) -> impl Iterator<Item = &'static [u8]> {
        (0..self.bytes / self.piece).map(move |_| black_box(&PIECE[..self.piece]))
    }

    fn pooled(self) {
        let mut buffer = global_pool().loan_bytes();
        self.pieces().for_each(|piece| buffer.extend_from_slice(piece));
        black_box(buffer.as_slice());
    }

    fn fresh<A: GlobalAlloc>(self, allocator: &A) {
        let mut buffer = Grown::new(allocator);
        self.pieces().for_each(|piece| buffer.extend_from_slice(piece));
        black_box(buffer.as_ref());
    }

    /// As the standard library does it, for its allocations.
    fn vec(self) {
        let mut buffer = Vec::new();
        self.pieces().for_each(|piece| buffer.extend_from_slice(piece));
        black_box(buffer.as_slice());
    }

    fn repeats(self) -> u32 {
        // About 50 µs a reading, whatever the size.
        (200_000 / (self.bytes as u32 + 200)).max(50)
    }
}

fn time(repeats: u32, work: &dyn Fn()) -> Duration {
    let began = Instant::now();
    for _ in 0..repeats {
        work();
    }
    began.elapsed()
}

/// Runs the sides in turns on so many threads; returns each side's nanoseconds a run, by round.
fn sides(threads: usize, repeats: u32, sides: &[&(dyn Fn() + Sync)]) -> Vec<Vec<f64>> {
    let barrier = Barrier::new(threads);
    let run = || {
        let mut taken = vec![Vec::with_capacity(ROUNDS); sides.len()];
        for round in 0..=ROUNDS {
            for (side, taken) in sides.iter().zip(&mut taken) {
                barrier.wait();
                let ns = time(repeats, side).as_nanos() as f64 / f64::from(repeats);
                // The first one warms up.
                if round > 0 {
                    taken.push(ns);
                }
            }
        }
        taken
    };
    let all = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut all = vec![run()];
        all.extend(others.into_iter().map(|other| other.join().expect("it does not panic")));
        all
    });
    // A round takes as long as its slowest thread.
    let slowest = |side: usize, round: usize| {
        all.iter().map(|thread| thread[side][round]).fold(0.0, f64::max)
    };
    (0..sides.len()).map(|side| (0..ROUNDS).map(|round| slowest(side, round)).collect()).collect()
}

fn row(name: &str, threads: usize, taken: &[Vec<f64>]) {
    let ours = &taken[0];
    let mut line = format!("{name:<34}{threads:>2}  pool {:>6.1} ns", median(&mut ours.clone()));
    for (side, other) in taken[1..].iter().zip(["mimalloc", "glibc"]) {
        let pairs: Vec<_> = side.iter().copied().zip(ours.iter().copied()).collect();
        let found = compare_pairs(&pairs, 0.95).expect("the rounds suffice");
        let Comparison { ratio, low, high, .. } = found;
        let theirs = median(&mut side.clone());
        let _ = write!(line, "  {other} {theirs:>6.1} ns = {ratio:.2} [{low:.2} {high:.2}]");
    }
    println!("{line}");
}

fn main() {
    // `cargo test --benches` builds and starts this, too: that it starts is all it wants to know.
    if std::env::args().any(|arg| arg == "--test") || !std::env::args().any(|arg| arg == "--bench")
    {
        return;
    }
    println!(
        "time of the pool / time of the other, median of {ROUNDS} rounds in turns [quartiles]"
    );
    let works = [(1024, 64), (4096, 64), (256, 64), (16 * 1024, 64), (12, 12)];
    for (bytes, piece) in works {
        let work = Work { bytes, piece };
        for threads in [1, 2] {
            let taken = sides(
                threads,
                work.repeats(),
                &[&|| work.pooled(), &|| work.fresh(&MiMalloc), &|| work.fresh(&System)],
            );
            row(&format!("{bytes} B in pieces of {piece} B, threads"), threads, &taken);
        }
        let (pooled, vec) = (|| work.pooled(), || work.vec());
        let [(), ()] = [pooled(), vec()];
        let counts = [Allocations::during(pooled).1, Allocations::during(vec).1];
        println!("{:<34}    {} allocations, without it {}", "", counts[0].count, counts[1].count);
    }
    let list = || {
        let mut list = global_pool().get_vec();
        for _ in 0..16 {
            let mut text = global_pool().get_string();
            text.push_str(black_box("src/core/memory_pool.rs"));
            list.push(text);
        }
        global_pool().return_vec(black_box(list));
    };
    let plain = || {
        let texts = (0..16).map(|_| black_box("src/core/memory_pool.rs").to_owned());
        black_box(texts.collect::<Vec<_>>());
    };
    row("16 strings in a list, threads", 1, &sides(1, 500, &[&list, &plain]));
    let counts = [Allocations::during(list).1, Allocations::during(plain).1];
    println!("{:<34}    {} allocations, without it {}", "", counts[0].count, counts[1].count);
    println!("{:?}", global_pool().statistics());
}
