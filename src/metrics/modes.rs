//! How many modes of a known distribution samples show, and how evenly.

use super::Points;
use crate::error::{Error, Result};

/// How the samples spread over the modes of a distribution, as the mode-coverage experiments count it (Metz et al. 2017;
/// Srivastava et al. 2017, VEEGAN; Lin et al. 2018, PacGAN, section 4).
///
/// ```
/// use wgan::metrics::{ModeCoverage, Points};
/// # fn main() -> wgan::Result<()> {
/// let centres = Points::new(vec![0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0], 2)?;
/// let samples = Points::new(vec![0.01, 0.0, 1.0, 0.02, 0.0, 0.98, 0.7, 0.7], 2)?;
/// let found = ModeCoverage::of_mixture(&samples, &centres, 0.02)?;
/// // The fourth sample is nearest to the fourth centre, but too far from it.
/// assert_eq!((found.found, found.modes, found.high_quality), (3, 4, Some(0.75)));
/// assert!(found.reverse_kl.abs() < 1e-12);
///
/// let digits = ModeCoverage::of_classes(&[0, 0, 1, 1], &[0.25; 4])?;
/// assert_eq!((digits.found, digits.reverse_kl), (2, 2f64.ln()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModeCoverage {
    /// Modes that at least one sample shows: one of high quality, where that is told.
    pub found: usize,
    /// Modes that there are.
    pub modes: usize,
    /// The share of samples within three standard deviations of the nearest centre, 0 to 1; `None` of classes.
    pub high_quality: Option<f64>,
    /// KL(generated || real) between the distributions over the modes, in nats, 0 or more: each sample, of whatever quality,
    /// counts for its mode.
    pub reverse_kl: f64,
}

impl ModeCoverage {
    /// That of a mixture of equally likely normal distributions with these centres and the standard deviation `sigma` in each
    /// dimension. A sample is of the mode whose centre is nearest, of high quality within `3 sigma` of it.
    ///
    /// # Errors
    /// [`Error::Shape`] for centres of other dimensions; [`Error::InvalidConfig`] for a `sigma` that is not above 0;
    /// [`Error::NonFiniteData`] where a distance is above the largest `f64`.
    pub fn of_mixture(samples: &Points, centres: &Points, sigma: f64) -> Result<Self> {
        if samples.dims() != centres.dims() {
            return Err(Error::Shape {
                what: "the set of centres".into(),
                got: vec![centres.len(), centres.dims()],
                expected: format!("(modes, {}), as the samples", samples.dims()),
            });
        }
        if !(sigma.is_finite() && sigma > 0.0) {
            return Err(Error::config("sigma of the mixture", sigma, "a finite number above 0"));
        }
        let mut counts = vec![0; centres.len()];
        let mut shown = vec![false; centres.len()];
        let mut high_quality = 0;
        for (at, sample) in samples.iter().enumerate() {
            // By no squares, which would overflow.
            let distance = |centre: &[f64]| {
                sample.iter().zip(centre).fold(0.0, |sum: f64, (a, b)| sum.hypot(a - b))
            };
            let (mode, nearest) = (centres.iter().map(distance).enumerate())
                .min_by(|(_, a), (_, b)| a.total_cmp(b))
                .unwrap_or_default();
            if !nearest.is_finite() {
                let what = "the distance of a sample to the nearest centre".into();
                return Err(Error::NonFiniteData { what, value: nearest, position: vec![at] });
            }
            counts[mode] += 1;
            if nearest <= 3.0 * sigma {
                shown[mode] = true;
                high_quality += 1;
            }
        }
        let even = vec![1.0 / centres.len() as f64; centres.len()];
        Ok(Self {
            found: shown.iter().filter(|&&shown| shown).count(),
            modes: centres.len(),
            high_quality: Some(f64::from(high_quality) / samples.len() as f64),
            reverse_kl: reverse_kl(&counts, &even)?,
        })
    }

    /// That of samples whose classes a classifier told, such as
    /// [`classify_stacked`](super::MnistClassifier::classify_stacked), where the real samples' classes have these shares.
    /// Stacked MNIST has 1000 classes, all as likely or as the classifier counts them on real samples; the experiments take
    /// 26 000 samples.
    ///
    /// # Errors
    /// [`Error::DatasetTooSmall`] for no samples; [`Error::InvalidConfig`] for shares that are no distribution, a class
    /// beyond them, or one that real samples never have: the divergence is infinite then.
    pub fn of_classes(classes: &[u32], real_shares: &[f64]) -> Result<Self> {
        if classes.is_empty() {
            let purpose = "mode coverage".into();
            return Err(Error::DatasetTooSmall { len: 0, needed: 1, purpose });
        }
        let sum: f64 = real_shares.iter().sum();
        if !((sum - 1.0).abs() <= 1e-6 && real_shares.iter().all(|&share| share >= 0.0)) {
            let expected = "1, of numbers not below 0";
            return Err(Error::config("the sum of the classes' real shares", sum, expected));
        }
        let mut counts = vec![0; real_shares.len()];
        for &class in classes {
            let Some(count) = counts.get_mut(class as usize) else {
                let expected = format!("below {}, the number of modes", real_shares.len());
                return Err(Error::config("a sample's class", class, expected));
            };
            *count += 1;
        }
        Ok(Self {
            found: counts.iter().filter(|&&count| count > 0).count(),
            modes: real_shares.len(),
            high_quality: None,
            reverse_kl: reverse_kl(&counts, real_shares)?,
        })
    }
}

fn reverse_kl(counts: &[u32], real_shares: &[f64]) -> Result<f64> {
    let samples: f64 = counts.iter().copied().map(f64::from).sum();
    let mut divergence = 0.0;
    for (mode, (&count, &real)) in counts.iter().zip(real_shares).enumerate() {
        if count == 0 {
            continue;
        }
        if real <= 0.0 {
            let expected = "above 0 for a mode that samples show";
            return Err(Error::config(format!("the real share of mode {mode}"), real, expected));
        }
        let generated = f64::from(count) / samples;
        // Logarithms apart: the quotient of a very small share would be infinite.
        divergence += generated * (generated.ln() - real.ln());
    }
    Ok(divergence.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_very_small_real_share_is_far_from_a_large_one_and_no_further() {
        let found = ModeCoverage::of_classes(&[0, 1], &[1.0, 1e-310]).unwrap();
        let expected = 0.5 * 0.5_f64.ln() + 0.5 * (0.5_f64.ln() - 1e-310_f64.ln());
        assert!((found.reverse_kl - expected).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn one_mode_of_many_is_the_logarithm_of_their_number() {
        let centres = Points::new((0..25).map(f64::from).collect(), 1).unwrap();
        let samples = Points::new(vec![7.0, 7.02, 6.99], 1).unwrap();
        let found = ModeCoverage::of_mixture(&samples, &centres, 0.05).unwrap();
        assert_eq!((found.found, found.high_quality), (1, Some(1.0)));
        assert!((found.reverse_kl - 25f64.ln()).abs() < 1e-12);
        let found = ModeCoverage::of_mixture(&samples, &centres, 0.005).unwrap();
        assert_eq!((found.found, found.high_quality), (1, Some(2.0 / 3.0)));
    }

    #[test]
    fn the_divergence_is_against_the_real_shares() {
        let classes = [0, 0, 0, 1];
        let found = ModeCoverage::of_classes(&classes, &[0.75, 0.25, 0.0]).unwrap();
        assert_eq!((found.found, found.modes, found.reverse_kl), (2, 3, 0.0));
        let found = ModeCoverage::of_classes(&classes, &[0.25, 0.5, 0.25]).unwrap();
        let expected = 0.75 * 3f64.ln() + 0.25 * 0.5f64.ln();
        assert!((found.reverse_kl - expected).abs() < 1e-12);
    }

    #[test]
    fn far_samples_are_of_the_nearest_mode_too() {
        let centres = Points::new(vec![-1e200, 1e200], 1).unwrap();
        let samples = Points::new(vec![2e200, 1e200, 1e200], 1).unwrap();
        let found = ModeCoverage::of_mixture(&samples, &centres, 1.0).unwrap();
        assert_eq!((found.found, found.reverse_kl), (1, 2f64.ln()));
        let [low, high] = [f64::MIN, f64::MAX].map(|x| Points::new(vec![x], 1).unwrap());
        assert!(matches!(
            ModeCoverage::of_mixture(&low, &high, 1.0),
            Err(Error::NonFiniteData { .. })
        ));
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        let points = |dims| Points::new(vec![0.0; dims], dims).unwrap();
        assert!(matches!(
            ModeCoverage::of_mixture(&points(1), &points(2), 1.0),
            Err(Error::Shape { .. })
        ));
        for sigma in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = ModeCoverage::of_mixture(&points(1), &points(1), sigma).unwrap_err();
            assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
        }
        let of = ModeCoverage::of_classes;
        assert!(matches!(of(&[], &[1.0]), Err(Error::DatasetTooSmall { .. })));
        for (classes, shares) in [
            ([2, 0], [0.5, 0.5]),
            ([0, 1], [1.0, 0.0]),
            ([0, 0], [0.5, 0.6]),
            ([0, 0], [1.5, -0.5]),
        ] {
            assert!(matches!(of(&classes, &shares), Err(Error::InvalidConfig { .. })));
        }
        assert!(matches!(of(&[0], &[f64::NAN]), Err(Error::InvalidConfig { .. })));
    }
}
