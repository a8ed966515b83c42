//! Samples in, their quantiles out.

/// Numbers of one kind, at least one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Samples {
    sorted: Vec<f64>,
}

impl Samples {
    /// Returns `None` when there are no samples.
    pub(crate) fn new(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<_> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then_some(Self { sorted })
    }

    /// Returns the value below which this share of the samples lies, between two samples where it
    /// has to.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let last = self.sorted.len() - 1;
        let at = share.clamp(0.0, 1.0) * last as f64;
        #[expect(clippy::cast_sign_loss, reason = "neither factor is negative")]
        let below = at.floor() as usize;
        let (low, high) = (self.sorted[below], self.sorted[(below + 1).min(last)]);
        low + (high - low) * at.fract()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn count(&self) -> usize {
        self.sorted.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "these are exact")]
    fn quantiles_lie_between_the_samples() {
        let samples = Samples::new([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(samples.median(), 2.5);
        assert_eq!(samples.quantile(0.0), 1.0);
        assert_eq!(samples.quantile(1.0), 4.0);
        assert_eq!(samples.quantile(0.25), 1.75);
        assert_eq!(samples.quantile(7.0), 4.0);
        assert_eq!(samples.count(), 4);
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "these are exact")]
    fn one_sample_is_every_quantile_and_none_has_none() {
        let samples = Samples::new([2.0]).unwrap();
        assert_eq!([0.05, 0.5, 0.95].map(|share| samples.quantile(share)), [2.0; 3]);
        assert_eq!(Samples::new([]), None);
    }
}
