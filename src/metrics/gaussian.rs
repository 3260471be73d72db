//! Normal distributions, and the one distance between them that has a closed form.

use super::Points;
use super::eigen::{Origin, Root, root, singular_values};
use super::moments::Moments;
use crate::error::{Error, Result};
use crate::kernels::matmul::{Matrix, product};

/// A normal distribution N(mean, covariance), given as such or fitted to points.
///
/// ```
/// use wgan::metrics::{Gaussian, Points};
/// # fn main() -> wgan::Result<()> {
/// let narrow = Gaussian::new(vec![0.0, 0.0], vec![1.0, 0.0, 0.0, 1.0])?;
/// let wide = Gaussian::new(vec![3.0, 4.0], vec![4.0, 0.0, 0.0, 9.0])?;
/// // |(3, 4)|² + (2 - 1)² + (3 - 1)²
/// assert!((narrow.frechet_distance(&wide)? - 30.0).abs() < 1e-12);
///
/// let points = Points::new(vec![0.0, 0.0, 2.0, 0.0, 0.0, 4.0], 2)?;
/// assert!((Gaussian::of(&points)?.covariance()[3] - 16.0 / 3.0).abs() < 1e-12);
/// # Ok(())
/// # }
/// ```
///
/// Published statistics of a data set, such as the `mu` and `sigma` of an FID's reference, are a mean and a covariance: give
/// them to [`new`](Self::new), row after row, and compare by [`frechet_distance`](Self::frechet_distance) with
/// [`of_batches`](Self::of_batches) of the same network's features. [`mean`](Self::mean) and
/// [`covariance`](Self::covariance) are what to save of one's own, in any format.
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian {
    mean: Vec<f64>,
    covariance: Vec<f64>,
    samples: Option<usize>,
}

impl Gaussian {
    /// The distribution with this mean, `(dims)`, and this covariance, `(dims, dims)` row after row.
    ///
    /// # Errors
    /// [`Error::Shape`] where there is no dimension or the covariance is not `(dims, dims)`; [`Error::NonFiniteData`] for
    /// NaN and infinities; [`Error::InvalidConfig`] for a covariance that is not symmetric. One with a negative
    /// eigenvalue is found by [`frechet_distance`](Self::frechet_distance).
    pub fn new(mean: Vec<f64>, covariance: Vec<f64>) -> Result<Self> {
        let dims = mean.len();
        if dims == 0 || dims.checked_mul(dims) != Some(covariance.len()) {
            return Err(Error::Shape {
                what: format!("the covariance of a normal distribution of {dims} dimensions"),
                got: vec![covariance.len()],
                expected: "dims * dims numbers, dims at least 1".into(),
            });
        }
        let largest = covariance.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        for (row, column) in (0..dims).flat_map(|row| (0..row).map(move |column| (row, column))) {
            let (a, b) = (covariance[row * dims + column], covariance[column * dims + row]);
            if (a - b).abs() > 1e-12 * largest {
                let name = format!("the covariance at [{row}, {column}] and [{column}, {row}]");
                return Err(Error::config(name, format!("{a} and {b}"), "a symmetric matrix"));
            }
        }
        Self { mean, covariance, samples: None }.finite()
    }

    /// The distribution with the mean and the covariance of these points. The covariance has `points - 1` below, as NumPy's
    /// `cov` and the published Fréchet distances have it.
    ///
    /// # Errors
    /// [`Error::DatasetTooSmall`] for one point; [`Error::NonFiniteData`] where the covariance overflows.
    pub fn of(points: &Points) -> Result<Self> {
        Self::of_batches([Ok(points)])
    }

    /// The same of points that come in batches, of which one at a time is held. The batches' sizes do not matter but for
    /// rounding.
    ///
    /// # Errors
    /// Those of [`of`](Self::of) and of the batches; [`Error::Shape`] for batches of different dimensions.
    pub fn of_batches<P: std::borrow::Borrow<Points>>(
        batches: impl IntoIterator<Item = Result<P>>,
    ) -> Result<Self> {
        let mut moments: Option<Moments> = None;
        for batch in batches {
            let batch = batch?;
            let batch = batch.borrow();
            let moments = match &mut moments {
                Some(moments) => moments,
                None => moments.insert(Moments::new(batch.dims())?),
            };
            moments.add(batch)?;
        }
        let (samples, mean, covariance) = moments.map_or_else(|| Moments::new(0), Ok)?.finish()?;
        Self { mean, covariance, samples: Some(samples) }.finite()
    }

    fn finite(self) -> Result<Self> {
        for (what, values) in [("mean", &self.mean), ("covariance", &self.covariance)] {
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                return Err(Error::NonFiniteData {
                    what: format!("the {what} of a normal distribution"),
                    value: values[at],
                    position: vec![at],
                });
            }
        }
        Ok(self)
    }

    /// The number of dimensions.
    #[must_use]
    pub fn dims(&self) -> usize {
        self.mean.len()
    }

    /// The mean, `(dims)`.
    #[must_use]
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The covariance, `(dims, dims)`, row after row.
    #[must_use]
    pub fn covariance(&self) -> &[f64] {
        &self.covariance
    }

    /// The number of points that it was fitted to, where it was.
    #[must_use]
    pub fn samples(&self) -> Option<usize> {
        self.samples
    }

    /// The Fréchet distance as the field prints it, which is the squared 2-Wasserstein distance (Dowson and Landau 1982;
    /// Heusel et al. 2017, equation 6):
    ///
    /// |m₁ - m₂|² + tr(C₁) + tr(C₂) - 2 tr((C₁ C₂)^½)
    ///
    /// The last trace is the sum of the singular values of A₁ᵀ A₂, where Cᵢ = Aᵢ Aᵢᵀ by the eigenvalues of Cᵢ. This is exact
    /// for singular covariances too, where the square root of the product C₁ C₂ itself is not: it loses half of the digits.
    ///
    /// A distribution fitted to no more points than it has dimensions has a singular covariance. The figure is then well
    /// defined, but says more about the number of points than about the distributions: a warning through [`tracing`]
    /// tells so. The work is cubic in the number of dimensions; 2048 take some ten seconds.
    ///
    /// # Errors
    /// [`Error::Shape`] for distributions of different dimensions; [`Error::InvalidConfig`] for a
    /// covariance with a negative eigenvalue that was given as such, not fitted;
    /// [`Error::NonFiniteData`] where the figure overflows.
    pub fn frechet_distance(&self, other: &Self) -> Result<f64> {
        self.check_dims(other)?;
        let (left, right) = rayon::join(|| self.root(), || other.root());
        self.frechet_distance_by_roots(&left?, other, &right?)
    }

    /// The same of distributions of as many dimensions, whose [`root`](Self::root)s are known.
    pub(super) fn frechet_distance_by_roots(
        &self,
        left: &Root,
        other: &Self,
        right: &Root,
    ) -> Result<f64> {
        let dims = self.dims();
        self.warn_if_singular();
        other.warn_if_singular();
        let between = product(
            Matrix::new(&left.values, dims, left.rank).t(),
            Matrix::new(&right.values, dims, right.rank),
        );
        let trace_of_root: f64 =
            singular_values(&between, left.rank, right.rank)?.into_iter().sum();
        let shift: f64 = self.mean.iter().zip(&other.mean).map(|(a, b)| (a - b).powi(2)).sum();
        let distance = shift + self.trace() + other.trace() - 2.0 * trace_of_root;
        if !distance.is_finite() {
            let what = "the Fréchet distance".into();
            return Err(Error::NonFiniteData { what, value: distance, position: vec![] });
        }
        // Rounding can leave a little less than nothing.
        Ok(distance.max(0.0))
    }

    pub(super) fn check_dims(&self, other: &Self) -> Result<()> {
        if other.dims() == self.dims() {
            return Ok(());
        }
        Err(Error::Shape {
            what: "the other normal distribution".into(),
            got: vec![other.dims()],
            expected: format!("{} dimensions, as the first", self.dims()),
        })
    }

    fn trace(&self) -> f64 {
        self.covariance.iter().step_by(self.dims() + 1).sum()
    }

    pub(super) fn root(&self) -> Result<Root> {
        let origin = self.samples.map_or(Origin::Given, |samples| Origin::Fitted { samples });
        root(&self.covariance, self.dims(), origin)
    }

    fn warn_if_singular(&self) {
        let dims = self.dims();
        if let Some(samples) = self.samples.filter(|&samples| samples <= dims) {
            tracing::warn!(
                samples,
                dims,
                "a covariance of {dims} dimensions from {samples} samples is singular, and a Fréchet distance from it \
                 depends on the number of samples more than on what they are; take at least {} samples",
                dims + 1
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    use super::*;
    use crate::random::Stream;

    fn points(seed: u64, count: usize, dims: usize) -> Points {
        let drawn = Stream::new(seed, "points", 0).normal((count, dims), DType::F64, &Device::Cpu);
        Points::from_tensor(&drawn.unwrap()).unwrap()
    }

    fn diagonal(mean: &[f64], deviations: &[f64]) -> Gaussian {
        let dims = mean.len();
        let mut covariance = vec![0.0; dims * dims];
        for (i, deviation) in deviations.iter().enumerate() {
            covariance[i * dims + i] = deviation * deviation;
        }
        Gaussian::new(mean.to_vec(), covariance).unwrap()
    }

    proptest! {
        #[test]
        fn commuting_covariances_have_the_closed_form(
            dims in 1usize..9, seed in 0u64..1000, scale in 1e-3f64..1e3, zeros in 0usize..9,
        ) {
            let drawn = points(seed, 4, dims);
            let drawn: Vec<&[f64]> = drawn.iter().collect();
            let deviations = |i: usize| -> Vec<f64> {
                let left_out = zeros.min(dims) * i.min(1);
                (0..dims).map(|d| if d < left_out { 0.0 } else { scale * drawn[i][d].abs() }).collect()
            };
            let (a, b) = (deviations(0), deviations(1));
            let square = |(x, y): (&f64, &f64)| (x - y).powi(2);
            let expected: f64 = drawn[2].iter().zip(drawn[3]).map(square).sum::<f64>()
                + a.iter().zip(&b).map(square).sum::<f64>();
            let (a, b) = (diagonal(drawn[2], &a), diagonal(drawn[3], &b));
            let got = a.frechet_distance(&b).unwrap();
            prop_assert!((got - expected).abs() < 1e-11 * scale.max(1.0).powi(2), "{got} for {expected}");
            prop_assert!((b.frechet_distance(&a).unwrap() - got).abs() < 1e-11 * scale.max(1.0).powi(2));
        }

        #[test]
        fn batches_do_not_matter(count in 2usize..40, dims in 1usize..6, size in 1usize..40) {
            let whole = points(1, count, dims);
            // Far from the origin, where sums of squares would cancel.
            let far: Vec<f64> = whole.values().iter().map(|x| x + 1e6).collect();
            let batches = far.chunks(size * dims).map(|batch| Points::new(batch.to_vec(), dims));
            let (whole, far) = (Gaussian::of(&whole).unwrap(), Gaussian::of_batches(batches).unwrap());
            prop_assert_eq!(far.samples(), Some(count));
            for (a, b) in whole.covariance().iter().zip(far.covariance()) {
                prop_assert!((a - b).abs() < 1e-8, "{} for {}", b, a);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// By rounding their second eigenvalue is not quite 0: the less so, the more batches.
        #[test]
        fn points_of_a_line_have_one_direction(
            count in 2usize..4000,
            seed in 0u64..1000,
            size in prop::sample::select(vec![1usize, 3, 4000]),
            offset in prop::sample::select(vec![0.0, 3.0]),
        ) {
            let (direction, along) = (points(seed, 1, 2), points(seed + 1000, count, 1));
            let line: Vec<f64> = (along.values().iter())
                .flat_map(|x| direction.values().iter().map(move |d| (x + offset) * d))
                .collect();
            let batches = line.chunks(2 * size).map(|batch| Points::new(batch.to_vec(), 2));
            let line = Gaussian::of_batches(batches).unwrap();
            prop_assert_eq!(line.root().unwrap().rank, 1);
            let itself = line.frechet_distance(&line).unwrap();
            prop_assert!(itself < 1e-11 * line.trace(), "{itself}");
        }
    }

    #[test]
    fn a_distribution_is_at_no_distance_from_itself_even_where_it_is_singular() {
        for (count, dims) in [(2000, 64), (9, 64), (2, 5)] {
            let gaussian = Gaussian::of(&points(3, count, dims)).unwrap();
            let distance = gaussian.frechet_distance(&gaussian).unwrap();
            assert!((0.0..1e-11).contains(&distance), "{distance}");
        }
        let constant = Gaussian::of(&Points::new(vec![1.0; 12], 3).unwrap()).unwrap();
        assert_eq!(constant.frechet_distance(&diagonal(&[0.0; 3], &[2.0; 3])).unwrap(), 15.0);
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        let new =
            |mean: &[f64], covariance: &[f64]| Gaussian::new(mean.to_vec(), covariance.to_vec());
        assert!(matches!(new(&[], &[]), Err(Error::Shape { .. })));
        assert!(matches!(new(&[0.0; 2], &[1.0; 3]), Err(Error::Shape { .. })));
        assert!(matches!(new(&[0.0; 2], &[1.0, 0.5, 0.4, 1.0]), Err(Error::InvalidConfig { .. })));
        assert!(matches!(new(&[0.0], &[f64::NAN]), Err(Error::NonFiniteData { .. })));
        assert!(matches!(new(&[f64::INFINITY], &[1.0]), Err(Error::NonFiniteData { .. })));
        let one = Points::new(vec![1.0, 2.0], 2).unwrap();
        assert!(matches!(Gaussian::of(&one), Err(Error::DatasetTooSmall { len: 1, .. })));
        let none = Gaussian::of_batches(std::iter::empty::<Result<Points>>());
        assert!(matches!(none, Err(Error::DatasetTooSmall { len: 0, .. })));
        let huge = Points::new(vec![1e200, -1e200], 1).unwrap();
        assert!(matches!(Gaussian::of(&huge), Err(Error::NonFiniteData { .. })));

        let unit = diagonal(&[0.0; 2], &[1.0; 2]);
        let negative = new(&[0.0; 2], &[1.0, 2.0, 2.0, 1.0]).unwrap();
        let error = unit.frechet_distance(&negative).unwrap_err().to_string();
        assert!(error.contains("lowest eigenvalue of the covariance is -1"), "{error}");
        assert!(matches!(
            unit.frechet_distance(&diagonal(&[0.0], &[1.0])),
            Err(Error::Shape { .. })
        ));
        let far = diagonal(&[1e200; 2], &[1.0; 2]);
        assert!(matches!(unit.frechet_distance(&far), Err(Error::NonFiniteData { .. })));
    }
}
