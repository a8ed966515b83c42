//! Measurements that a program takes of itself: durations come in under a name, from any number of
//! threads, and a row of figures goes out when the measurement ends.
//! Recording takes no lock and, but for the first time of a thread, no memory. Never keeps more than
//! a bounded number of names, runs and samples.

use std::fmt;
use std::hash::BuildHasher as _;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};

use super::baseline::{self, ALARM_CONFIDENCE, Comparison, MIN_SAMPLES, Verdict};
use super::histogram::nanoseconds;
use crate::core::resources::Resources;

mod shards;

use shards::{Recorded, Shards};

/// Names that one profiler holds.
const NAMES: usize = 256;
/// Runs of a name that are kept, the newest ones.
const RUNS: usize = 16;
/// Samples of a run that are kept as they are; of more, an even choice.
const SAMPLES: usize = 4096;

/// A measurement that cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfilerError {
    /// A measurement of that name runs.
    #[error("a measurement named `{name}` runs already")]
    Running {
        /// The name.
        name: String,
    },
    /// No measurement of that name runs.
    #[error("no measurement named `{name}` runs; start it first")]
    NotRunning {
        /// The name.
        name: String,
    },
    /// No measurement of that name ended.
    #[error("no measurement named `{name}` has ended")]
    Unknown {
        /// The name.
        name: String,
    },
    /// There are too many names.
    #[error("`{name}` is one name too many: a profiler holds {NAMES}")]
    TooMany {
        /// The name.
        name: String,
    },
    /// Two runs cannot be compared.
    #[error(
        "`{name}` has {samples} samples that can be compared, but a comparison needs {MIN_SAMPLES}"
    )]
    TooFew {
        /// The name.
        name: String,
        /// Its samples.
        samples: usize,
    },
    /// The bound is not a number of percent.
    #[error("a regression of {max_percent} % cannot be tested for; it must be a number from 0")]
    NoBound {
        /// The bound.
        max_percent: f64,
    },
    /// The file cannot be written.
    #[error("cannot write `{}`", .path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
}

/// What a measurement found. Its percentiles are off by at most 1 %, as those of a
/// [`Histogram`] are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkResults {
    /// Its name.
    pub name: String,
    /// Operations that were recorded.
    pub operations: u64,
    /// From its start to its end, in microseconds where it is written.
    #[serde(rename = "wall_us", with = "crate::core::event::micros")]
    pub wall: Duration,
    /// Operations a second of that time.
    pub throughput_ops_per_sec: f64,
    /// Half took at most this; in nanoseconds where it is written, as all that follow.
    #[serde(rename = "p50_ns", with = "nanos")]
    pub p50: Duration,
    /// 90 of 100 took at most this.
    #[serde(rename = "p90_ns", with = "nanos")]
    pub p90: Duration,
    /// 95 of 100 took at most this.
    #[serde(rename = "p95_ns", with = "nanos")]
    pub p95: Duration,
    /// 99 of 100 took at most this.
    #[serde(rename = "p99_ns", with = "nanos")]
    pub p99: Duration,
    /// The longest, exactly.
    #[serde(rename = "max_ns", with = "nanos")]
    pub max: Duration,
    /// What the process used meanwhile.
    pub resources: Resources,
    /// The samples that are kept, in nanoseconds: all up to 4,096, in the order of each thread; of
    /// more, an even choice of as many.
    pub samples_ns: Vec<u64>,
}

/// Takes measurements, each under a name; clones take them together.
///
/// ```
/// # use std::time::Duration;
/// # use vtcode_core::core::performance_profiler::PerformanceProfiler;
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let profiler = PerformanceProfiler::new();
/// profiler.start_benchmark("tool_execution").await?;
/// profiler.record_operation("tool_execution", Duration::from_micros(3)).await?;
/// let results = profiler.end_benchmark("tool_execution").await?;
/// println!("Throughput: {:.2} ops/sec", results.throughput_ops_per_sec);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct PerformanceProfiler {
    table: Arc<Table>,
}

/// Records the operations of one name, without looking it up each time. Each thread counts apart, in
/// some 50 kB that it takes when it first records under a name; beyond 64 threads at the same time,
/// further ones wait for each other.
#[derive(Clone)]
pub struct Recorder(Arc<Measurement>);

#[expect(clippy::unused_async, reason = "the calls keep their shape if one ever has to wait")]
impl PerformanceProfiler {
    /// Returns a profiler that has measured nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a measurement. Fails as [`begin`](Self::begin) does.
    pub async fn start_benchmark(&self, name: &str) -> Result<(), ProfilerError> {
        self.begin(name).map(|_| ())
    }

    /// Begins a measurement and returns what records into it: the cheapest way. Fails when one of
    /// that name runs, or the name would be the 257th.
    pub fn begin(&self, name: &str) -> Result<Recorder, ProfilerError> {
        let named = || name.to_owned();
        let measurement =
            self.table.find_or_add(name).ok_or_else(|| ProfilerError::TooMany { name: named() })?;
        if !measurement.begin() {
            return Err(ProfilerError::Running { name: named() });
        }
        Ok(Recorder(Arc::clone(measurement)))
    }

    /// Records one operation of a measurement that runs. Fails when none of that name does.
    pub async fn record_operation(
        &self,
        name: &str,
        duration: Duration,
    ) -> Result<(), ProfilerError> {
        let running = self.table.find(name).filter(|found| found.running.load(Acquire));
        let not_running = || ProfilerError::NotRunning { name: name.to_owned() };
        running.ok_or_else(not_running)?.record(duration);
        Ok(())
    }

    /// Ends a measurement and returns what it found. The profiler keeps the newest 16 runs of each
    /// name. Fails when no measurement of that name runs.
    pub async fn end_benchmark(&self, name: &str) -> Result<BenchmarkResults, ProfilerError> {
        let ended = self.table.find(name).and_then(|found| found.end());
        ended.ok_or_else(|| ProfilerError::NotRunning { name: name.to_owned() })
    }

    /// Returns the newest run of a name that has ended.
    pub fn newest(&self, name: &str) -> Option<BenchmarkResults> {
        self.table.find(name)?.runs().last().cloned()
    }

    /// Takes a run that was measured before, such as a stored baseline. Fails when its name would
    /// be the 257th.
    pub fn add_run(&self, run: BenchmarkResults) -> Result<(), ProfilerError> {
        let name = run.name.clone();
        let found = self.table.find_or_add(&name).ok_or(ProfilerError::TooMany { name })?;
        found.keep(run);
        Ok(())
    }

    /// Writes all runs that are kept as JSON, `{"benchmarks": […]}`, the oldest of each name first.
    /// The file is replaced as a whole or not at all. Fails when it, or the one beside it that
    /// takes its place, cannot be written.
    pub async fn export_results(&self, path: impl AsRef<Path>) -> Result<(), ProfilerError> {
        let path = path.as_ref();
        let runs: Vec<BenchmarkResults> =
            self.table.measurements().flat_map(|found| found.runs().clone()).collect();
        write_json(path, &serde_json::json!({ "benchmarks": runs }))
            .map_err(|cause| ProfilerError::Unwritable { path: path.to_owned(), cause })
    }

    /// Compares the newest run of one name with the newest of another, without their warm-up. Fails
    /// when no run of a name has ended, or one has fewer than [`MIN_SAMPLES`] samples.
    pub fn compare(&self, baseline: &str, current: &str) -> Result<Comparison, ProfilerError> {
        let samples = |name: &str| {
            let run = self.newest(name);
            let run = run.ok_or_else(|| ProfilerError::Unknown { name: name.to_owned() })?;
            // A duration of 0 is one that the clock could not see.
            let samples = run.samples_ns.iter().map(|ns| (*ns).max(1) as f64);
            let samples: Vec<f64> = samples.collect();
            if samples.len() < MIN_SAMPLES {
                let samples = samples.len();
                return Err(ProfilerError::TooFew { name: name.to_owned(), samples });
            }
            Ok(baseline::without_warm_up(&samples).to_vec())
        };
        let (first, second) = (samples(baseline)?, samples(current)?);
        let too_few = ProfilerError::TooFew { name: current.to_owned(), samples: second.len() };
        baseline::compare(&first, &second, ALARM_CONFIDENCE).ok_or(too_few)
    }
}

impl fmt::Debug for PerformanceProfiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.table.measurements().map(|m| &m.name)).finish()
    }
}

impl Recorder {
    /// Records one operation; after the measurement's end it counts for the run that has begun by
    /// then, and otherwise for none.
    // bench: profiler, records
    #[inline]
    pub fn record(&self, duration: Duration) {
        self.0.record(duration);
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recorder").field(&self.0.name).finish()
    }
}

/// Ways to use a profiler.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct BenchmarkUtils;

#[expect(clippy::unused_async, reason = "as the profiler's calls")]
impl BenchmarkUtils {
    /// Calls `function` so many times, records each call under `name` and returns the figures.
    /// Fails as the profiler's [`begin`](PerformanceProfiler::begin) does, or when somebody else
    /// ended the measurement meanwhile.
    pub async fn benchmark_function<T>(
        profiler: &PerformanceProfiler,
        name: &str,
        iterations: usize,
        mut function: impl FnMut() -> T,
    ) -> Result<BenchmarkResults, ProfilerError> {
        let recorder = profiler.begin(name)?;
        for _ in 0..iterations {
            let began = Instant::now();
            black_box(function());
            recorder.record(began.elapsed());
        }
        profiler.end_benchmark(name).await
    }

    /// Returns false when the newest run of `current` is slower than the newest of `baseline` by
    /// more than so many percent, and it is certain to 99 %: a difference that noise explains
    /// passes. Compares medians after a warm-up, so outliers neither raise nor hide an alarm. Fails
    /// when the bound is no number from 0 on, and as the profiler's
    /// [`compare`](PerformanceProfiler::compare) does.
    pub async fn regression_test(
        profiler: &PerformanceProfiler,
        baseline: &str,
        current: &str,
        max_regression_percent: f64,
    ) -> Result<bool, ProfilerError> {
        let max_percent = max_regression_percent;
        if !(max_percent.is_finite() && max_percent >= 0.0) {
            return Err(ProfilerError::NoBound { max_percent });
        }
        let found = profiler.compare(baseline, current)?;
        Ok(found.verdict(max_percent) != Verdict::Slower)
    }
}

/// Names to measurements: only added to, so that a look-up needs no lock.
struct Table {
    places: Box<[OnceLock<Arc<Measurement>>]>,
}

impl Default for Table {
    fn default() -> Self {
        Self { places: (0..NAMES).map(|_| OnceLock::new()).collect() }
    }
}

impl Table {
    /// Every place in the order in which a name looks for its own.
    fn probe(&self, name: &str) -> impl Iterator<Item = &OnceLock<Arc<Measurement>>> {
        let start = FixedState::default().hash_one(name) as usize % NAMES;
        (0..NAMES).map(move |n| &self.places[(start + n) % NAMES])
    }

    fn find(&self, name: &str) -> Option<&Arc<Measurement>> {
        self.probe(name).map_while(OnceLock::get).find(|found| &*found.name == name)
    }

    fn find_or_add(&self, name: &str) -> Option<&Arc<Measurement>> {
        let mut found =
            self.probe(name).map(|place| place.get_or_init(|| Measurement::named(name)));
        found.find(|found| &*found.name == name)
    }

    fn measurements(&self) -> impl Iterator<Item = &Arc<Measurement>> {
        self.places.iter().filter_map(OnceLock::get)
    }
}

/// One name's recording, and its former runs.
struct Measurement {
    name: Box<str>,
    running: AtomicBool,
    shards: Shards,
    began: Mutex<Option<(Instant, Resources)>>,
    runs: Mutex<Vec<BenchmarkResults>>,
}

impl Measurement {
    fn named(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            running: AtomicBool::new(false),
            shards: Shards::default(),
            began: Mutex::new(None),
            runs: Mutex::new(Vec::new()),
        })
    }

    fn begin(&self) -> bool {
        let mut began = lock(&self.began);
        if began.is_some() {
            return false;
        }
        self.shards.begin();
        *began = Some((Instant::now(), Resources::read()));
        self.running.store(true, Release);
        true
    }

    #[inline]
    fn record(&self, duration: Duration) {
        self.shards.record(nanoseconds(duration));
    }

    fn end(&self) -> Option<BenchmarkResults> {
        // Held to the end: no other run begins while this one is read.
        let mut began = lock(&self.began);
        let (at, before) = began.take()?;
        let wall = at.elapsed();
        self.running.store(false, Release);
        let resources = Resources::read().since(&before);
        let Recorded { operations, percentiles: found, samples_ns } = self.shards.read();
        let results = BenchmarkResults {
            name: self.name.to_string(),
            operations,
            wall,
            // Nothing is infinitely fast: a time that the clock could not see is its smallest.
            throughput_ops_per_sec: operations as f64 / wall.as_secs_f64().max(1e-9),
            p50: found.p50,
            p90: found.p90,
            p95: found.p95,
            p99: found.p99,
            max: found.max,
            resources,
            samples_ns,
        };
        self.keep(results.clone());
        Some(results)
    }

    fn keep(&self, run: BenchmarkResults) {
        let mut runs = self.runs();
        if runs.len() == RUNS {
            runs.remove(0);
        }
        runs.push(run);
    }

    fn runs(&self) -> MutexGuard<'_, Vec<BenchmarkResults>> {
        lock(&self.runs)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each use leaves a whole value: it is sound after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a file whole or not at all.
pub(crate) fn write_json(path: &Path, value: &serde_json::Value) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut beside = name.to_owned();
    beside.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(beside);
    let write = || {
        let mut file = io::BufWriter::new(std::fs::File::create(&part)?);
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&part, path)
    };
    let written = write();
    if written.is_err() {
        // It may never have been made.
        let _ = std::fs::remove_file(&part);
    }
    written
}

mod nanos {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(super::nanoseconds(*d))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests;
