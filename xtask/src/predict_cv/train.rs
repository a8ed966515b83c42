//! Learns weights from recorded sessions: logistic regression by gradient descent, in a fixed order
//! from a fixed start, so that the same sessions give the same table everywhere.

use vtcode_core::core::optimized_agent::predict::weights::{FEATURES, Feature, Weights};
use vtcode_core::laboratory::judge::Reading;

/// One file at one moment: what spoke for it, and whether it was read soon after.
#[derive(Debug, Clone)]
pub(crate) struct Example {
    features: Box<[Feature]>,
    read: bool,
}

/// A file counts as read when one of so many steps asks for it, before it is changed.
const WITHIN: usize = 8;
/// How often all examples are gone through.
const ROUNDS: usize = 8;
/// How much each weight is drawn to zero.
const SHRINK: f32 = 1e-5;
/// One of so many files that were not read is an example; each counts as many times.
const ONE_OF: usize = 6;

/// Returns the examples that sessions give.
pub(crate) fn examples(readings: &[Reading<'_>]) -> Vec<Example> {
    let mut examples = Vec::new();
    let mut passed = 0usize;
    for reading in readings {
        reading.follow(|at, predictor| {
            let reads = reading.next_reads(at, WITHIN);
            predictor.candidates(|path, features| {
                let read = reads.contains(path);
                passed += usize::from(!read);
                if read || passed.is_multiple_of(ONE_OF) {
                    examples.push(Example { features: features.into(), read });
                }
            });
        });
    }
    examples
}

/// Learns weights from examples.
pub(crate) fn weights(examples: &[&[Example]]) -> Weights {
    let mut weights = [0f32; FEATURES];
    let mut slopes = [1e-6f32; FEATURES];
    for _ in 0..ROUNDS {
        for example in examples.iter().copied().flatten() {
            let logit: f32 = example.features.iter().map(|&f| weights[f as usize]).sum();
            let guess = 1.0 / (1.0 + (-logit).exp());
            let (target, times) = if example.read { (1.0, 1.0) } else { (0.0, ONE_OF as f32) };
            let slope = (guess - target) * times;
            for &feature in &example.features {
                let at = feature as usize;
                slopes[at] += slope * slope;
                weights[at] -= 0.1 * slope / slopes[at].sqrt() + SHRINK * weights[at];
            }
        }
    }
    Weights(weights)
}
