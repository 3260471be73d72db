//! The kernel distance between features.

use rayon::prelude::*;

use super::Points;
use super::memory::room_for;
use crate::error::{Error, Result};
use crate::kernels::matmul::{Matrix, product};
use crate::random::Stream;

/// Rows of a kernel matrix that are made at a time.
const BLOCK: usize = 256;

/// How a kernel distance is estimated (KID; Bińkowski et al. 2018, section 4): the squared maximum mean discrepancy under the
/// kernel k(x, y) = (gamma x·y + coefficient)^degree, unbiased, and so below 0 now and then, for subsets of both sets.
///
/// | setting | default | meaning |
/// |---|---|---|
/// | `subsets` | 100 | estimates |
/// | `subset_size` | 1000 | points of each set in an estimate, drawn without replacement |
/// | `degree` | 3 | of the polynomial, 1 to 100 |
/// | `gamma` | `None` | the factor of the scalar product; one over the number of dimensions where there is none |
/// | `coefficient` | 1 | the summand |
/// | `seed` | 0 | decides the draws |
///
/// The defaults are the paper's.
///
/// ```
/// use candle_core::{DType, Device};
/// use wgan::metrics::{KernelDistance, Points};
/// use wgan::random::Stream;
/// # fn main() -> wgan::Result<()> {
/// let draw = |name| Stream::new(0, name, 0).normal((500, 8), DType::F64, &Device::Cpu);
/// let (a, b) = (draw("a")?, draw("b")?);
/// let settings = KernelDistance { subset_size: 100, ..Default::default() };
/// let near = settings.between(&Points::from_tensor(&a)?, &Points::from_tensor(&b)?)?;
/// let far = settings.between(&Points::from_tensor(&a)?, &Points::from_tensor(&(b + 1.0)?)?)?;
/// assert!(near.mean.abs() < 0.1 && far.mean > 1.0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KernelDistance {
    /// Estimates, each from subsets of its own.
    pub subsets: usize,
    /// Points of each set in an estimate, at least 2.
    pub subset_size: usize,
    /// The degree of the polynomial, 1 to 100.
    pub degree: u32,
    /// The factor of the scalar product, above 0.
    pub gamma: Option<f64>,
    /// The summand.
    pub coefficient: f64,
    /// Decides which points are drawn.
    pub seed: u64,
}

impl Default for KernelDistance {
    fn default() -> Self {
        Self { subsets: 100, subset_size: 1000, degree: 3, gamma: None, coefficient: 1.0, seed: 0 }
    }
}

/// A mean over repetitions, and how far these lie from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of the repetitions themselves, not of their mean: the root of the mean square, NumPy's `std`.
    pub deviation: f64,
}

impl Estimate {
    pub(super) fn of(values: &[f64], what: &str) -> Result<Self> {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance =
            values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        match [mean, variance].into_iter().find(|value| !value.is_finite()) {
            Some(value) => Err(Error::NonFiniteData { what: what.into(), value, position: vec![] }),
            None => Ok(Self { mean, deviation: variance.sqrt() }),
        }
    }

    /// The square of the standard deviation.
    #[must_use]
    pub fn variance(&self) -> f64 {
        self.deviation * self.deviation
    }
}

impl KernelDistance {
    /// The mean of the estimates and their standard deviation. Only the features of the two sets are held, no matrix of
    /// all pairs.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a setting outside its range and for more subsets than fit in
    /// memory; [`Error::DatasetTooSmall`] for fewer points than a subset has; [`Error::Shape`] for
    /// points of different dimensions; [`Error::NonFiniteData`] where the kernel overflows.
    pub fn between(&self, real: &Points, generated: &Points) -> Result<Estimate> {
        same_dims(real, generated)?;
        self.check()?;
        for points in [real, generated] {
            if points.len() < self.subset_size {
                return Err(Error::DatasetTooSmall {
                    len: points.len(),
                    needed: self.subset_size,
                    purpose: "a subset of the kernel distance".into(),
                });
            }
        }
        let subset = |points: &Points, which: &str, number: u64| {
            let name = format!("metrics/kernel-distance/{which}");
            let order = Stream::new(self.seed, &name, number).permutation(points.len());
            select(points, &order[..self.subset_size])
        };
        let mut values = self.room()?;
        values.extend((0..self.subsets as u64).map(|n| {
            self.discrepancy(&subset(real, "real", n), &subset(generated, "generated", n))
        }));
        Estimate::of(&values, "the kernel distance")
    }

    pub(super) fn check(&self) -> Result<()> {
        let check = |fine: bool, name: &str, value: String, expected: &str| {
            if fine { Ok(()) } else { Err(Error::config(name, value, expected)) }
        };
        let gamma = self.gamma.unwrap_or(1.0);
        let (subsets, size) = (self.subsets, self.subset_size);
        check(subsets > 0, "the number of subsets", subsets.to_string(), "1 or more")?;
        check(size > 1, "the size of a subset", size.to_string(), "2 or more")?;
        check((1..=100).contains(&self.degree), "degree", self.degree.to_string(), "1 to 100")?;
        check(gamma.is_finite() && gamma > 0.0, "gamma", gamma.to_string(), "above 0")?;
        let coefficient = self.coefficient;
        check(coefficient.is_finite(), "coefficient", coefficient.to_string(), "a finite number")?;
        self.room().map(drop)
    }

    /// For the estimates.
    fn room(&self) -> Result<Vec<f64>> {
        room_for("the number of subsets", &[self.subsets])
    }

    /// The unbiased estimate of the squared discrepancy (Gretton et al. 2012, equation 3).
    fn discrepancy(&self, real: &[f64], generated: &[f64]) -> f64 {
        let dims = real.len() / self.subset_size;
        let n = self.subset_size as f64;
        let within = |x| self.kernel_sum(x, x, dims, false) / (n * (n - 1.0));
        let between = self.kernel_sum(real, generated, dims, true) / (n * n);
        within(real) + within(generated) - 2.0 * between
    }

    /// The sum of the kernel over all pairs, or over those of different places.
    fn kernel_sum(&self, left: &[f64], right: &[f64], dims: usize, diagonal: bool) -> f64 {
        let gamma = self.gamma.unwrap_or(1.0 / dims as f64);
        let columns = right.len() / dims;
        let sums: Vec<f64> = (left.par_chunks(BLOCK * dims).enumerate())
            .map(|(block, left)| {
                let rows = left.len() / dims;
                let products =
                    product(Matrix::new(left, rows, dims), Matrix::new(right, columns, dims).t());
                let mut sum = 0.0;
                for (i, row) in products.chunks_exact(columns).enumerate() {
                    let row_number = block * BLOCK + i;
                    let kernel = |(j, x): (usize, &f64)| {
                        let counts = diagonal || j != row_number;
                        if counts {
                            (gamma * x + self.coefficient).powi(self.degree as i32)
                        } else {
                            0.0
                        }
                    };
                    sum += row.iter().enumerate().map(kernel).sum::<f64>();
                }
                sum
            })
            .collect();
        sums.iter().sum()
    }
}

pub(super) fn same_dims(real: &Points, generated: &Points) -> Result<()> {
    if real.dims() == generated.dims() {
        return Ok(());
    }
    Err(Error::Shape {
        what: "the set of generated points".into(),
        got: vec![generated.len(), generated.dims()],
        expected: format!("(points, {}), as the real ones", real.dims()),
    })
}

fn select(points: &Points, indices: &[usize]) -> Vec<f64> {
    let dims = points.dims();
    indices.iter().flat_map(|i| &points.values()[i * dims..][..dims]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: &[f64]) -> Points {
        Points::new(values.to_vec(), 1).unwrap()
    }

    #[test]
    fn three_points_by_hand() {
        let settings =
            KernelDistance { subsets: 2, subset_size: 2, degree: 1, ..Default::default() };
        // k(x, y) = x y + 1: 2 * 3 / 2 + 1, 2 * 8 / 2 + 1 and the mean of 2, 4, 6, 12 plus 1.
        let got = settings.between(&points(&[1.0, 3.0]), &points(&[2.0, 4.0])).unwrap();
        assert_eq!(got, Estimate { mean: 4.0 + 9.0 - 2.0 * 7.0, deviation: 0.0 });
    }

    #[test]
    fn the_mean_over_subsets_is_unbiased_and_repeats() {
        let draw = |name| {
            let drawn = Stream::new(0, name, 0).normal(
                (400, 2),
                candle_core::DType::F64,
                &candle_core::Device::Cpu,
            );
            Points::from_tensor(&drawn.unwrap()).unwrap()
        };
        let (a, b) = (draw("a"), draw("b"));
        let whole = KernelDistance { subsets: 1, subset_size: 400, ..Default::default() };
        let whole = whole.between(&a, &b).unwrap();
        let parts = KernelDistance { subsets: 200, subset_size: 100, ..Default::default() };
        let parts_estimate = parts.between(&a, &b).unwrap();
        let error = parts_estimate.deviation / 200f64.sqrt();
        assert!(
            (parts_estimate.mean - whole.mean).abs() < 3.0 * error,
            "{parts_estimate:?} {whole:?}"
        );
        assert_eq!(parts.between(&a, &b).unwrap(), parts_estimate);
        let other = KernelDistance { seed: 1, ..parts }.between(&a, &b).unwrap();
        assert_ne!(other.mean, parts_estimate.mean);
    }

    #[test]
    fn what_has_no_distance_is_refused() {
        let (a, b) = (points(&[1.0, 2.0, 3.0]), points(&[1.0, 2.0]));
        let three = KernelDistance { subset_size: 3, ..Default::default() };
        assert!(matches!(three.between(&a, &b), Err(Error::DatasetTooSmall { len: 2, .. })));
        let flat = Points::new(vec![0.0; 6], 2).unwrap();
        assert!(matches!(three.between(&a, &flat), Err(Error::Shape { .. })));
        for settings in [
            KernelDistance { subsets: 0, ..three },
            KernelDistance { subsets: usize::MAX, ..three },
            KernelDistance { subset_size: 1, ..three },
            KernelDistance { degree: 0, ..three },
            KernelDistance { gamma: Some(0.0), ..three },
            KernelDistance { coefficient: f64::NAN, ..three },
        ] {
            let error = settings.between(&a, &a).unwrap_err();
            assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
        }
        let huge = points(&[1e200, 2e200, 3e200]);
        assert!(matches!(three.between(&huge, &huge), Err(Error::NonFiniteData { .. })));
    }
}
