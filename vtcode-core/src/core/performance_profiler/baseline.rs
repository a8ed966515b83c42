//! Whether one row of readings is slower than another: samples go in, a ratio with its interval
//! comes out. Medians, so that an outlier moves nothing; resampling in blocks, because neighbours
//! in time resemble each other. The same samples always give the same answer.

use serde::{Deserialize, Serialize};

/// Samples that a comparison needs on each side; fewer say nothing.
pub const MIN_SAMPLES: usize = 5;

/// More are thinned out evenly: the interval narrows with the root of their number, while it costs
/// them all. As many as a measurement keeps.
const MAX_SAMPLES: usize = 4096;

/// The confidence of an interval that raises an alarm. An interval of resampled medians is a little
/// too narrow: of 1,000 comparisons of the same with itself, 11 raised one at 0.99, and 4 at this.
pub const ALARM_CONFIDENCE: f64 = 0.998;

const RESAMPLES: usize = 1000;

/// How much slower one side is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The median of the second side over that of the first; paired: the median of the ratios.
    pub ratio: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
    /// How often a sample of the second side is larger than one of the first, from 0 to 1: 0.5 is
    /// no difference.
    pub larger_share: f64,
    /// Samples of either side, or pairs, that were used.
    pub samples: usize,
}

/// What a comparison says about a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All of the interval is beyond the bound.
    Slower,
    /// All of it is within.
    Within,
    /// The bound lies inside the interval: more samples are needed.
    Undecided,
}

impl Comparison {
    /// Returns whether the second side is more than so many percent larger than the first.
    pub fn verdict(&self, max_percent: f64) -> Verdict {
        let bound = 1.0 + max_percent / 100.0;
        if self.low > bound {
            Verdict::Slower
        } else if self.high <= bound {
            Verdict::Within
        } else {
            Verdict::Undecided
        }
    }

    /// Returns whether the interval holds 1: then there is nothing to conclude.
    pub fn spans_one(&self) -> bool {
        self.low <= 1.0 && self.high >= 1.0
    }
}

/// Returns the samples without the first tenth, in which caches and clocks were still cold.
pub fn without_warm_up(samples: &[f64]) -> &[f64] {
    // Few samples are too dear to throw any away.
    if samples.len() < 2 * MIN_SAMPLES { samples } else { &samples[samples.len().div_ceil(10)..] }
}

/// Compares two rows of positive samples, each in the order in which it was taken. `confidence` is
/// that of the interval, such as 0.95. None with fewer than [`MIN_SAMPLES`] on a side, and where a
/// sample is not a positive number.
pub fn compare(first: &[f64], second: &[f64], confidence: f64) -> Option<Comparison> {
    let (first, second) = (usable(first)?, usable(second)?);
    let mut draw = Draw::new();
    let (mut of_first, mut of_second) = (Vec::new(), Vec::new());
    let ratios = (0..RESAMPLES).map(|_| {
        draw.blocks(&first, &mut of_first);
        draw.blocks(&second, &mut of_second);
        median(&mut of_second) / median(&mut of_first)
    });
    let (low, high) = interval(ratios.collect(), confidence);
    let ratio = median(&mut second.clone()) / median(&mut first.clone());
    let samples = first.len().min(second.len());
    Some(Comparison { ratio, low, high, larger_share: larger_share(&first, &second), samples })
}

/// Compares two sides that were taken in turns, A B A B …: what slows the machine down slows both
/// sides of a pair. As [`compare`] otherwise.
pub fn compare_pairs(pairs: &[(f64, f64)], confidence: f64) -> Option<Comparison> {
    let ratios: Vec<f64> = pairs.iter().map(|(first, second)| second / first).collect();
    let ratios = usable(&ratios)?;
    let mut draw = Draw::new();
    let mut drawn = Vec::new();
    let medians = (0..RESAMPLES).map(|_| {
        draw.blocks(&ratios, &mut drawn);
        median(&mut drawn)
    });
    let (low, high) = interval(medians.collect(), confidence);
    let larger = ratios.iter().filter(|ratio| **ratio > 1.0).count() as f64;
    let equal = ratios.iter().filter(|ratio| (**ratio - 1.0).abs() <= f64::EPSILON).count() as f64;
    Some(Comparison {
        ratio: median(&mut ratios.clone()),
        low,
        high,
        larger_share: (larger + equal / 2.0) / ratios.len() as f64,
        samples: ratios.len(),
    })
}

/// Returns the middle of some numbers; reorders them. Panics when there is none.
pub fn median(numbers: &mut [f64]) -> f64 {
    let half = numbers.len() / 2;
    let odd = numbers.len() % 2 == 1;
    let (below, middle, _) = numbers.select_nth_unstable_by(half, f64::total_cmp);
    let middle = *middle;
    if odd { middle } else { f64::midpoint(below.iter().copied().fold(f64::MIN, f64::max), middle) }
}

fn usable(samples: &[f64]) -> Option<Vec<f64>> {
    let good = samples.iter().all(|sample| sample.is_finite() && *sample > 0.0);
    if !good || samples.len() < MIN_SAMPLES {
        return None;
    }
    let kept = samples.len().min(MAX_SAMPLES);
    Some((0..kept).map(|n| samples[n * samples.len() / kept]).collect())
}

fn interval(mut drawn: Vec<f64>, confidence: f64) -> (f64, f64) {
    drawn.sort_unstable_by(f64::total_cmp);
    let last = (drawn.len() - 1) as f64;
    let outside = ((1.0 - confidence) / 2.0).clamp(0.0, 0.5);
    #[expect(clippy::cast_sign_loss, reason = "a share of a count")]
    let at = |share: f64| drawn[(last * share).round() as usize];
    (at(outside), at(1.0 - outside))
}

/// The rank statistic of Mann and Whitney, as a share.
fn larger_share(first: &[f64], second: &[f64]) -> f64 {
    let mut first = first.to_vec();
    first.sort_unstable_by(f64::total_cmp);
    let below: usize = second
        .iter()
        .map(|sample| {
            let smaller = first.partition_point(|other| other < sample);
            let not_larger = first.partition_point(|other| other <= sample);
            smaller + not_larger
        })
        .sum();
    below as f64 / 2.0 / (first.len() * second.len()) as f64
}

/// Draws the same numbers every time.
struct Draw(u64);

impl Draw {
    fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * bound as u128) >> 64) as usize
    }

    /// Fills `drawn` with as many samples, taken with replacement in runs of neighbours.
    #[expect(clippy::cast_sign_loss, reason = "the root of a count")]
    fn blocks(&mut self, samples: &[f64], drawn: &mut Vec<f64>) {
        // The length that statisticians advise: the cube root.
        let (len, block) = (samples.len(), (samples.len() as f64).cbrt().round() as usize);
        drawn.clear();
        while drawn.len() < len {
            let start = self.below(len);
            let block = block.min(len - drawn.len());
            drawn.extend((start..start + block).map(|n| samples[n % len]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times as they are: a floor, noise above it, now and then an outlier, and a slow drift.
    fn times(seed: u64, count: usize, scale: f64) -> Vec<f64> {
        let mut draw = Draw(seed);
        let mut unit = || (draw.below(1 << 20) as f64 + 1.0) / f64::from(1 << 20);
        (0..count)
            .map(|n| {
                let drift = 1.0 + 0.01 * (n as f64 / 40.0).sin();
                let outlier = if unit() < 0.01 { 30.0 } else { 1.0 };
                scale * 1000.0 * drift * outlier * (1.0 - 0.1 * unit().ln())
            })
            .collect()
    }

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&mut [3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&mut [4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!((median(&mut [7.0]) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn the_same_against_itself_is_almost_never_slower() {
        let alarms = (0..200)
            .filter(|seed| {
                let (a, b) = (times(2 * seed + 1, 64, 1.0), times(2 * seed + 2, 64, 1.0));
                compare(&a, &b, ALARM_CONFIDENCE).unwrap().verdict(0.0) == Verdict::Slower
            })
            .count();
        assert!(alarms <= 2, "{alarms} of 200");
    }

    #[test]
    fn five_percent_more_is_found_and_twice_as_much_even_in_few_samples() {
        let found = (0..10)
            .filter(|seed| {
                let (a, b) = (times(2 * seed + 1, 500, 1.0), times(2 * seed + 2, 500, 1.05));
                compare(&a, &b, 0.99).unwrap().verdict(0.0) == Verdict::Slower
            })
            .count();
        assert!(found >= 9, "{found} of 10");
        let few = compare(&times(1, 9, 1.0), &times(2, 9, 2.0), 0.99).unwrap();
        assert_eq!(few.verdict(10.0), Verdict::Slower, "{few:?}");
        assert!(few.larger_share > 0.9, "{few:?}");
    }

    #[test]
    fn pairs_see_through_a_machine_that_slows_down() {
        let a: Vec<f64> =
            times(1, 200, 1.0).iter().zip(1..).map(|(t, n)| t * f64::from(n)).collect();
        let noise = times(2, 200, 0.001);
        let pairs: Vec<_> =
            a.iter().zip(&noise).map(|(a, noise)| (*a, a * 1.02 * (1.0 + noise / 1e3))).collect();
        let paired = compare_pairs(&pairs, 0.95).unwrap();
        assert!(paired.low > 1.0 && paired.high < 1.05, "{paired:?}");
        let b: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
        assert!(compare(&a, &b, 0.95).unwrap().spans_one(), "two medians alone cannot tell");
    }

    /// Pairs of simulated times, the second `scale` times the first; the machine drifts under both.
    fn in_turns(seed: u64, count: usize, scale: f64) -> Vec<(f64, f64)> {
        let (first, second) = (times(2 * seed + 1, count, 1.0), times(2 * seed + 2, count, scale));
        first.into_iter().zip(second).collect()
    }

    #[test]
    fn sides_taken_in_turns_raise_no_false_alarm_and_one_percent_is_found_in_many() {
        let slower = |seed: u64, count, scale| {
            let found = compare_pairs(&in_turns(seed, count, scale), ALARM_CONFIDENCE);
            found.unwrap().verdict(0.0) == Verdict::Slower
        };
        let alarms = (0..200).filter(|seed| slower(*seed, 64, 1.0)).count();
        assert!(alarms <= 2, "{alarms} of 200");
        // Single times spread by 10 %: to see 2 % takes a thousand pairs, and four times as many to
        // see half as much. The gate counts, and sees it at once.
        let found = (0..10).filter(|seed| slower(1000 + seed, 1024, 1.02)).count();
        assert!(found >= 9, "2 % found in {found} of 10");
        let found = (0..4).filter(|seed| slower(1000 + seed, 4096, 1.01)).count();
        assert_eq!(found, 4, "of 4 rows that are 1 % slower");
        let twice = (0..10).filter(|seed| slower(2000 + seed, 16, 2.0)).count();
        assert_eq!(twice, 10);
    }

    #[test]
    fn what_is_no_sample_is_not_compared() {
        let good = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert!(compare(&good, &good, 0.95).is_some());
        assert!(compare(&good[..4], &good, 0.95).is_none());
        assert!(compare(&good, &[1.0, 1.0, 1.0, 1.0, f64::NAN], 0.95).is_none());
        assert!(compare(&good, &[1.0, 1.0, 1.0, 1.0, 0.0], 0.95).is_none());
        assert!(compare_pairs(&[(0.0, 1.0); 9], 0.95).is_none());
    }

    #[test]
    fn the_verdict_is_undecided_while_the_bound_is_inside_the_interval() {
        let at = |low, high| Comparison { ratio: 1.1, low, high, larger_share: 0.5, samples: 9 };
        assert_eq!(at(1.11, 1.3).verdict(10.0), Verdict::Slower);
        assert_eq!(at(1.0, 1.05).verdict(10.0), Verdict::Within);
        assert_eq!(at(1.05, 1.2).verdict(10.0), Verdict::Undecided);
    }

    #[test]
    fn the_first_tenth_warms_up() {
        assert_eq!(without_warm_up(&[9.0; 9]).len(), 9);
        assert_eq!(without_warm_up(&[9.0; 10]).len(), 9);
        assert_eq!(without_warm_up(&[9.0; 101]).len(), 90);
    }
}
