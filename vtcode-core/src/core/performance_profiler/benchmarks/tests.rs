use super::*;

const fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

async fn run(profiler: &PerformanceProfiler, name: &str, samples: impl Iterator<Item = u64>) {
    profiler.start_benchmark(name).await.unwrap();
    for sample in samples {
        profiler.record_operation(name, us(sample)).await.unwrap();
    }
    profiler.end_benchmark(name).await.unwrap();
}

#[tokio::test]
async fn a_measurement_counts_what_was_recorded_between_its_start_and_its_end() {
    let profiler = PerformanceProfiler::new();
    let recorder = profiler.begin("work").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let recorder = &recorder;
            scope.spawn(move || (0..2500).for_each(|n| recorder.record(us(1 + n + thread))));
        }
    });
    let results = profiler.end_benchmark("work").await.unwrap();
    assert_eq!((results.operations, results.samples_ns.len()), (10_000, SAMPLES));
    assert_eq!(results.max, us(2503));
    let off = |found: Duration, exact: f64| (found.as_secs_f64() * 1e6 / exact - 1.0).abs();
    assert!(off(results.p50, 1251.0) < 0.02 && off(results.p90, 2251.0) < 0.02, "{results:?}");
    assert!(results.p95 <= results.p99 && results.p99 <= results.max);
    let by_wall = 10_000.0 / results.wall.as_secs_f64();
    assert!((results.throughput_ops_per_sec / by_wall - 1.0).abs() < 1e-6);
    // What is kept of many is an even choice: neither the first ones nor the last.
    let middle = results.samples_ns.iter().filter(|ns| **ns > 1_251_000).count();
    assert!((SAMPLES * 2 / 5..SAMPLES * 3 / 5).contains(&middle), "{middle} of {SAMPLES}");

    run(&profiler, "work", [5].into_iter()).await;
    let again = profiler.newest("work").unwrap();
    assert_eq!((again.operations, again.max, again.samples_ns), (1, us(5), vec![5000]));
}

#[tokio::test]
async fn a_call_out_of_turn_says_what_is_wrong() {
    let profiler = PerformanceProfiler::new();
    let error = profiler.end_benchmark("a").await.unwrap_err().to_string();
    assert_eq!(error, "no measurement named `a` runs; start it first");
    assert!(profiler.record_operation("a", us(1)).await.is_err());
    profiler.start_benchmark("a").await.unwrap();
    let error = profiler.start_benchmark("a").await.unwrap_err().to_string();
    assert_eq!(error, "a measurement named `a` runs already");
    profiler.end_benchmark("a").await.unwrap();
    assert!(profiler.record_operation("a", us(1)).await.is_err());
    for n in 0..NAMES - 1 {
        profiler.start_benchmark(&format!("{n}")).await.unwrap();
    }
    let error = profiler.start_benchmark("more").await.unwrap_err().to_string();
    assert_eq!(error, "`more` is one name too many: a profiler holds 256");
    profiler.start_benchmark("a").await.expect("a known name still finds its place");
}

#[tokio::test]
async fn the_newest_run_decides_and_not_the_oldest() {
    let profiler = PerformanceProfiler::new();
    let times = |scale: u64| (0..60).map(move |n| scale * (1000 + n % 7));
    let test = async |max| BenchmarkUtils::regression_test(&profiler, "old", "new", max).await;
    run(&profiler, "old", times(1)).await;
    run(&profiler, "new", times(1)).await;
    assert!(test(10.0).await.unwrap());
    run(&profiler, "new", times(1000)).await;
    assert!(!test(10.0).await.unwrap(), "the newest run is a thousand times slower");
    run(&profiler, "old", times(1000)).await;
    assert!(test(10.0).await.unwrap(), "and so is the newest baseline now");
    run(&profiler, "new", times(1)).await;
    assert!(test(0.0).await.unwrap(), "faster is not slower");
}

#[tokio::test]
async fn an_outlier_neither_raises_nor_hides_an_alarm() {
    let profiler = PerformanceProfiler::new();
    let test = async |max| BenchmarkUtils::regression_test(&profiler, "old", "new", max).await;
    let one = |at: u64, n: u64| if n == at { 1_000_000_000 } else { 1000 + n % 5 };
    run(&profiler, "old", (0..100).map(|n| one(1000, n))).await;
    run(&profiler, "new", (0..100).map(|n| one(50, n))).await;
    assert!(test(10.0).await.unwrap(), "two means would differ by the factor of ten thousand");
    run(&profiler, "old", (0..100).map(|n| one(50, n))).await;
    run(&profiler, "new", (0..100).map(|n| one(1000, n) * 5 / 4)).await;
    assert!(!test(10.0).await.unwrap(), "25 % slower, against a mean that an outlier raised");
}

#[tokio::test]
async fn what_cannot_be_compared_is_an_error_and_not_a_pass() {
    let profiler = PerformanceProfiler::new();
    let test = async |max| {
        let tested = BenchmarkUtils::regression_test(&profiler, "old", "new", max).await;
        tested.unwrap_err().to_string()
    };
    assert_eq!(test(10.0).await, "no measurement named `old` has ended");
    run(&profiler, "old", 1..10).await;
    run(&profiler, "new", 1..5).await;
    let too_few = "`new` has 4 samples that can be compared, but a comparison needs 5";
    assert_eq!(test(10.0).await, too_few);
    run(&profiler, "new", 1..10).await;
    assert!(test(f64::NAN).await.contains("must be a number from 0"));
    assert!(test(-1.0).await.contains("must be a number from 0"));
}

#[tokio::test]
async fn a_function_is_called_as_often_as_said() {
    let profiler = PerformanceProfiler::new();
    let mut calls = 0;
    let results =
        BenchmarkUtils::benchmark_function(&profiler, "f", 1000, || calls += 1).await.unwrap();
    assert_eq!((results.operations, calls), (1000, 1000));
}

#[tokio::test]
async fn an_export_can_be_read_and_compared_again() {
    let profiler = PerformanceProfiler::new();
    run(&profiler, "a", 1..50).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    profiler.export_results(&path).await.unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let mut read: serde_json::Value = serde_json::from_str(&text).unwrap();
    let run: BenchmarkResults = serde_json::from_value(read["benchmarks"][0].take()).unwrap();
    assert_eq!(run.samples_ns, profiler.newest("a").unwrap().samples_ns);
    let other = PerformanceProfiler::new();
    other.add_run(run).unwrap();
    assert!(other.compare("a", "a").unwrap().spans_one());

    let gone = folder.path().join("no/such/folder/report.json");
    let error = profiler.export_results(&gone).await.unwrap_err();
    assert!(matches!(error, ProfilerError::Unwritable { .. }), "{error}");
    assert!(profiler.export_results("/").await.is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}
