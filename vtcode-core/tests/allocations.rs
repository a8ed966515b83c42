//! How often memory is asked for: a program of its own, because its allocator counts. The limits of
//! the pool are the process's, so one test sets them in turns.

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use vtcode_core::config::limits::{Limits, PoolLimits};
use vtcode_core::core::memory_pool::{StringLoan, global_pool};
use vtcode_core::core::performance_profiler::baseline::{Comparison, compare_pairs};
use vtcode_core::safety::sandbox::Sandbox;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::builtin;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_testkit::{Allocations, Counting};

#[global_allocator]
static ALLOCATOR: Counting<std::alloc::System> = Counting(std::alloc::System);

/// A kind of work, and how often it asks for memory without the pool.
type Work = (&'static str, fn(), u64);

fn grow(bytes: usize) {
    let mut buffer = global_pool().loan_bytes();
    while buffer.len() < bytes {
        buffer.extend_from_slice(black_box(&[b'x'; 64]));
    }
    black_box(buffer.as_slice());
}

const WORKS: [Work; 5] = [
    ("a buffer that grows to 1 KiB", || grow(1024), 5),
    ("a buffer that grows to 4 KiB", || grow(4096), 7),
    ("a word of a streamed answer", || drop(black_box(StringLoan::from("words "))), 1),
    (
        "a string, by hand",
        || {
            let mut text = global_pool().get_string();
            text.push_str(black_box("data"));
            global_pool().return_string(text);
        },
        1,
    ),
    (
        "a list of 16 strings",
        || {
            let mut list = global_pool().get_vec();
            list.reserve_exact(16);
            for _ in 0..16 {
                let mut text = global_pool().get_string();
                text.push_str(black_box("src/main.rs"));
                list.push(text);
            }
            global_pool().return_vec(list);
        },
        17,
    ),
];

fn allocations(work: fn()) -> u64 {
    // The first time fills the shelves.
    work();
    Allocations::during(|| (0..100).for_each(|_| work())).1.count
}

fn nanoseconds(work: fn()) -> f64 {
    let began = Instant::now();
    (0..200).for_each(|_| work());
    began.elapsed().as_nanos() as f64 / 200.0
}

#[test]
fn benchmark_memory_allocations() {
    let (on, off) = (PoolLimits::FULL, PoolLimits::NONE);
    let mut shown = String::from("allocations without the pool, with it; time with it / without\n");
    for (name, work, without) in WORKS {
        global_pool().set_limits(on);
        assert_eq!(allocations(work), 0, "{name}, in steady state");
        global_pool().set_limits(off);
        assert_eq!(allocations(work), 100 * without, "{name}, without the pool");
        let pairs: Vec<_> = (0..50)
            .map(|_| {
                global_pool().set_limits(off);
                let without = nanoseconds(work);
                global_pool().set_limits(on);
                work();
                (without, nanoseconds(work))
            })
            .collect();
        let found = compare_pairs(&pairs, 0.95).expect("the clock ticks");
        let Comparison { ratio, low, high, .. } = found;
        let _ = writeln!(shown, "  {name:<32} {without:>3}   0  {ratio:.2} [{low:.2} {high:.2}]");
    }
    let counts = global_pool().statistics_of_this_thread();
    assert!(counts.reused > 0 && counts.fresh > 0, "{counts:?}");
    // Past the capture of the tests: who runs this wants to see it.
    let _ = std::io::stderr().write_all(shown.as_bytes());
}

#[test]
fn a_validator_that_is_kept_is_not_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let check = |kept| {
        let mut limits = Limits::full().tools;
        limits.validators_kept = kept;
        let workspace = Arc::new(Workspace::open(folder.path()).unwrap());
        let off = Arc::new(Sandbox::off());
        let tools = builtin::all(&workspace, folder.path().join("spool"), [], off, &limits);
        let registry = OptimizedToolRegistry::with_tools(tools, limits);
        let read = registry.get("read_file").unwrap();
        let args = json!({"path": "a.txt"});
        registry.check(&read, &args).unwrap();
        Allocations::during(|| registry.check(&read, &args).unwrap()).1.count
    };
    let (kept, compiled) = (check(16), check(0));
    assert!(compiled > 5 * kept.max(1), "{kept} when it is kept, {compiled} when it is not");
}
