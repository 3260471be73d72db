//! The inception score.

use super::memory::room_for;
use super::{Estimate, Points};
use crate::error::{Error, Result};

/// The inception score of class probabilities that come in batches (Salimans et al. 2016): exp(E KL(p(y|x) || p(y))), for
/// each of some splits of the samples, in the order in which they come.
///
/// Its mean is from 1 to the number of classes, higher is better. It compares with nothing real, and says nothing on data
/// whose classes the network was not trained on. Of each split only sums are held.
///
/// ```
/// use wgan::metrics::{InceptionScore, Points};
/// # fn main() -> wgan::Result<()> {
/// let mut score = InceptionScore::new(4, 2)?;
/// // Sure of each sample, and each class as often as the other.
/// score.add(&Points::new(vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0], 2)?)?;
/// let estimate = score.finish()?;
/// assert!((estimate.mean - 2.0).abs() < 1e-12 && estimate.deviation < 1e-12);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct InceptionScore {
    samples: usize,
    splits: Vec<Split>,
    seen: usize,
}

#[derive(Debug, Clone, Default)]
struct Split {
    count: usize,
    /// Sum of p(y|x) by class.
    probabilities: Vec<f64>,
    /// Sum of p(y|x) log p(y|x) over samples and classes.
    negative_entropy: f64,
}

impl InceptionScore {
    /// The score of so many samples in so many splits, 10 in the paper. Sample i is of split ⌊i splits / samples⌋, up to
    /// rounding of the splits' sizes as in the authors' code.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for no splits and for more than fit in memory; [`Error::DatasetTooSmall`] for a split without
    /// samples.
    pub fn new(samples: usize, splits: usize) -> Result<Self> {
        if splits == 0 {
            return Err(Error::config("the number of splits", 0, "1 or more"));
        }
        if samples < splits {
            let purpose = "one for each split of the inception score".into();
            return Err(Error::DatasetTooSmall { len: samples, needed: splits, purpose });
        }
        let mut all = room_for("the number of splits", &[splits])?;
        all.resize(splits, Split::default());
        Ok(Self { samples, splits: all, seen: 0 })
    }

    /// Takes the class probabilities of some more samples, `(batch, classes)`.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of classes than before; [`Error::InvalidConfig`] for a row that is no distribution
    /// and for more samples than were announced. Nothing was taken then.
    pub fn add(&mut self, probabilities: &Points) -> Result<()> {
        self.check(probabilities)?;
        for row in probabilities {
            let split = self.split_of(self.seen);
            let split = &mut self.splits[split];
            split.probabilities.resize(row.len(), 0.0);
            for (sum, &p) in split.probabilities.iter_mut().zip(row) {
                *sum += p;
                split.negative_entropy += p_log(p, p);
            }
            split.count += 1;
            self.seen += 1;
        }
        Ok(())
    }

    /// The split whose range, from ⌊i samples / splits⌋ on, holds a sample.
    fn split_of(&self, sample: usize) -> usize {
        let (n, k) = (self.samples as u128, self.splits.len() as u128);
        (((sample as u128 + 1) * k - 1) / n) as usize
    }

    fn check(&self, probabilities: &Points) -> Result<()> {
        let classes = self.splits[0].probabilities.len();
        if classes != 0 && classes != probabilities.dims() {
            return Err(Error::Shape {
                what: "the class probabilities".into(),
                got: vec![probabilities.len(), probabilities.dims()],
                expected: format!("(batch, {classes}), as before"),
            });
        }
        if self.seen + probabilities.len() > self.samples {
            let seen = self.seen + probabilities.len();
            let expected = format!("{}, as was announced", self.samples);
            return Err(Error::config("the number of class probabilities", seen, expected));
        }
        for (i, row) in probabilities.iter().enumerate() {
            let sum: f64 = row.iter().sum();
            if (sum - 1.0).abs() > 1e-3 || row.iter().any(|&p| p < 0.0) {
                let name =
                    format!("the sum of the class probabilities of sample {}", self.seen + i);
                return Err(Error::config(name, sum, "1, of numbers not below 0"));
            }
        }
        Ok(())
    }

    /// The mean of the splits' scores and their standard deviation.
    ///
    /// # Errors
    /// [`Error::DatasetTooSmall`] where samples are missing.
    pub fn finish(self) -> Result<Estimate> {
        if self.seen < self.samples {
            return Err(Error::DatasetTooSmall {
                len: self.seen,
                needed: self.samples,
                purpose: "the inception score".into(),
            });
        }
        let scores: Vec<f64> = self.splits.iter().map(Split::score).collect();
        Estimate::of(&scores, "the inception score")
    }
}

impl Split {
    /// With q(y) the mean of p(y|x): mean over x of Σ p log p, less Σ q log q.
    fn score(&self) -> f64 {
        let count = self.count as f64;
        let marginal: f64 =
            self.probabilities.iter().map(|sum| p_log(sum / count, sum / count)).sum();
        (self.negative_entropy / count - marginal).exp()
    }
}

/// p log q, 0 where p is.
pub(super) fn p_log(p: f64, q: f64) -> f64 {
    if p > 0.0 { p * q.ln() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn splits_are_those_of_the_authors_code(samples in 1usize..60, splits in 1usize..12) {
            prop_assume!(samples >= splits);
            let score = InceptionScore::new(samples, splits).unwrap();
            for i in 0..splits {
                for sample in i * samples / splits..(i + 1) * samples / splits {
                    prop_assert_eq!(score.split_of(sample), i);
                }
            }
        }

        #[test]
        fn it_is_from_one_to_the_number_of_classes(
            weights in prop::collection::vec(prop::collection::vec(0.0f64..1.0, 5), 4..20),
            size in 1usize..20,
        ) {
            let rows: Vec<f64> = weights.iter().flat_map(|row| {
                let sum: f64 = row.iter().sum::<f64>() + 1e-9;
                row.iter().map(move |w| (w + 2e-10) / sum)
            }).collect();
            let whole = |size: usize| {
                let mut score = InceptionScore::new(weights.len(), 3).unwrap();
                for batch in rows.chunks(5 * size) {
                    score.add(&Points::new(batch.to_vec(), 5).unwrap()).unwrap();
                }
                score.finish().unwrap()
            };
            prop_assert_eq!(whole(size), whole(1));
            prop_assert!((1.0 - 1e-12..=5.0 + 1e-12).contains(&whole(size).mean));
        }
    }

    #[test]
    fn what_has_no_score_is_refused() {
        assert!(matches!(InceptionScore::new(9, 0), Err(Error::InvalidConfig { .. })));
        let endless = InceptionScore::new(usize::MAX, usize::MAX);
        assert!(matches!(endless, Err(Error::InvalidConfig { .. })));
        assert!(matches!(InceptionScore::new(9, 10), Err(Error::DatasetTooSmall { .. })));
        let mut score = InceptionScore::new(2, 1).unwrap();
        let points = |values: &[f64]| Points::new(values.to_vec(), 2).unwrap();
        for rows in [[0.5, 0.6], [1.5, -0.5]] {
            let error = score.add(&points(&rows)).unwrap_err();
            assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
        }
        score.add(&points(&[0.5, 0.5])).unwrap();
        assert!(matches!(score.add(&Points::new(vec![1.0], 1).unwrap()), Err(Error::Shape { .. })));
        assert!(score.add(&points(&[0.5; 4])).is_err());
        assert!(matches!(score.finish(), Err(Error::DatasetTooSmall { len: 1, needed: 2, .. })));
    }
}
