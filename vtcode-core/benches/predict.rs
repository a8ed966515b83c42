//! What a prediction costs, which every step waits for: each row tells a predictor of a session and
//! lets it guess, and prints the median. Asserts no time: a figure is read, not obeyed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use vtcode_core::core::optimized_agent::predict::{Mention, Predictor, Source, Span};

const ROUNDS: usize = 5_000;

fn main() {
    for files in [10, 100, 2_000, 20_000] {
        let paths: Vec<String> =
            (0..files).map(|n| format!("src/part{}/file{n}.rs", n % 40)).collect();
        let mut predictor = Predictor::default();
        for (n, path) in paths.iter().enumerate() {
            predictor.step();
            let named = paths[n.saturating_sub(5)..n].iter();
            let named = named.map(|path| Mention { path, line: Some(10) });
            predictor.told(Source::Search, false, named);
            predictor.read(path, Span::Whole);
            if n % 3 == 0 {
                predictor.edited(path);
            }
        }
        let guess = median(|| {
            black_box(black_box(&predictor).guesses(12));
        });
        let mut at = 0;
        let take = median(|| {
            at = (at + 7) % (files - 6);
            let named = paths[at..at + 6].iter().map(|path| Mention { path, line: None });
            predictor.step();
            predictor.told(Source::Search, false, black_box(named));
        });
        println!(
            "{files} files: a prediction {:?} (p99 {:?}), taking a result in {:?} (p99 {:?})",
            guess.0, guess.1, take.0, take.1
        );
    }
}

fn median(mut each: impl FnMut()) -> (Duration, Duration) {
    let mut took: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            each();
            began.elapsed()
        })
        .collect();
    took.sort_unstable();
    (took[ROUNDS / 2], took[ROUNDS * 99 / 100])
}
