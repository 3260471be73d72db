//! Precision and recall, density and coverage: how sets of features lie within each other's neighbourhoods.

use rayon::prelude::*;

use super::Points;
use super::kernel_distance::same_dims;
use crate::error::{Error, Result};
use crate::kernels::vectorised;

/// Points whose distances to all others one task takes: they stay in its cache.
const TASK: usize = 16;

/// Points with balls around each, as wide as the distance to its k-th nearest neighbour: an estimate of the manifold that
/// they come from (Kynkäänniemi et al. 2019, section 2).
///
/// Radii and comparisons are of exact differences, so that points which occur twice are at distance 0; a point on the rim of
/// a ball lies within it. No matrix of distances is held. The work is a pass over all pairs of points for each figure.
///
/// ```
/// use wgan::metrics::{Neighbourhoods, Points};
/// # fn main() -> wgan::Result<()> {
/// let real = Points::new(vec![0.0, 1.0, 2.0, 10.0], 1)?;
/// let generated = Points::new(vec![0.5, 1.5, -8.0, 30.0], 1)?;
/// let real = Neighbourhoods::new(&real, 1)?; // of radius 1, 1, 1, 8
/// assert_eq!(real.share_within(&generated)?, 0.5);
/// assert_eq!(real.density_of(&generated)?, 1.0);
/// assert_eq!(real.coverage_by(&generated)?, 0.75);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Neighbourhoods<'a> {
    points: &'a Points,
    k: usize,
    /// Squared.
    radii: Vec<f64>,
}

/// How good samples are, and how much of the real ones they show (Kynkäänniemi et al. 2019, equations 1 and 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionRecall {
    /// The share of generated points within the real manifold, 0 to 1.
    pub precision: f64,
    /// The share of real points within the generated manifold, 0 to 1.
    pub recall: f64,
}

/// The same without the weight that precision gives to outliers (Naeem et al. 2020, equations 4 and 5).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DensityCoverage {
    /// In how many real balls a generated point lies, over k, in the mean: about 1 for equal distributions, may be above.
    pub density: f64,
    /// The share of real points with a generated one in their ball, 0 to 1.
    pub coverage: f64,
}

/// Precision and recall with balls to the k-th neighbour; the paper takes k = 3.
///
/// # Errors
/// Those of [`Neighbourhoods`].
pub fn precision_recall(real: &Points, generated: &Points, k: usize) -> Result<PrecisionRecall> {
    same_dims(real, generated)?;
    Ok(PrecisionRecall {
        precision: Neighbourhoods::new(real, k)?.share_within(generated)?,
        recall: Neighbourhoods::new(generated, k)?.share_within(real)?,
    })
}

/// Density and coverage with balls to the k-th neighbour; the paper takes k = 5.
///
/// # Errors
/// Those of [`Neighbourhoods`].
pub fn density_coverage(real: &Points, generated: &Points, k: usize) -> Result<DensityCoverage> {
    same_dims(real, generated)?;
    let real = Neighbourhoods::new(real, k)?;
    Ok(DensityCoverage {
        density: real.density_of(generated)?,
        coverage: real.coverage_by(generated)?,
    })
}

impl<'a> Neighbourhoods<'a> {
    /// Balls to the k-th neighbour among the other points.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for k = 0; [`Error::DatasetTooSmall`] unless there are more than k points;
    /// [`Error::NonFiniteData`] where a distance overflows.
    pub fn new(points: &'a Points, k: usize) -> Result<Self> {
        if k == 0 {
            return Err(Error::config("k, the number of the neighbour", 0, "1 or more"));
        }
        if points.len() <= k {
            let purpose = format!("a neighbour number {k} of each");
            return Err(Error::DatasetTooSmall {
                len: points.len(),
                needed: k.saturating_add(1),
                purpose,
            });
        }
        let radii = against_all(
            points,
            points,
            vec![f64::INFINITY; k],
            |nearest, i, j, distance| {
                if i != j && distance < nearest[k - 1] {
                    let place = nearest.partition_point(|&nearer| nearer <= distance);
                    nearest[place..].rotate_right(1);
                    nearest[place] = distance;
                }
            },
            |nearest| nearest[k - 1],
        );
        if let Some(at) = radii.iter().position(|radius| !radius.is_finite()) {
            let what = format!("the distance to neighbour number {k}");
            return Err(Error::NonFiniteData { what, value: radii[at], position: vec![at] });
        }
        Ok(Self { points, k, radii })
    }

    /// The share of the others that lie in at least one ball.
    ///
    /// # Errors
    /// [`Error::Shape`] for points of other dimensions.
    pub fn share_within(&self, others: &Points) -> Result<f64> {
        same_dims(self.points, others)?;
        let is_within =
            |within: &mut bool, _, j: usize, distance| *within |= distance <= self.radii[j];
        Ok(mean(&against_all(others, self.points, false, is_within, share)))
    }

    /// The mean number of balls that one of the others lies in, over k.
    ///
    /// # Errors
    /// [`Error::Shape`] for points of other dimensions.
    pub fn density_of(&self, others: &Points) -> Result<f64> {
        same_dims(self.points, others)?;
        let balls = |count: &mut u64, _, j: usize, distance| {
            *count += u64::from(distance <= self.radii[j]);
        };
        Ok(mean(&against_all(others, self.points, 0, balls, |count| count as f64)) / self.k as f64)
    }

    /// The share of the balls that hold at least one of the others.
    ///
    /// # Errors
    /// [`Error::Shape`] for points of other dimensions.
    pub fn coverage_by(&self, others: &Points) -> Result<f64> {
        same_dims(self.points, others)?;
        let is_covered =
            |covered: &mut bool, i: usize, _, distance| *covered |= distance <= self.radii[i];
        Ok(mean(&against_all(self.points, others, false, is_covered, share)))
    }
}

fn share(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// For each of `points` what `fold` makes of it, starting from `first`, with its squared distances to all of `others`: it is
/// given the numbers of both. In parallel over the points, and in order over the others.
///
/// What is folded may be large, and is there for the points of a task only: `last` makes a number
/// of it.
fn against_all<T: Clone + Send + Sync>(
    points: &Points,
    others: &Points,
    first: T,
    fold: impl Fn(&mut T, usize, usize, f64) + Sync,
    last: impl Fn(T) -> f64 + Sync,
) -> Vec<f64> {
    let dims = points.dims();
    (points.values().par_chunks(TASK * dims).enumerate())
        .flat_map_iter(|(task, points)| {
            let mut folded = vec![first.clone(); points.len() / dims];
            vectorised(
                #[inline(always)]
                || {
                    for (j, other) in others.iter().enumerate() {
                        for (i, point) in points.chunks_exact(dims).enumerate() {
                            let distance = squared_distance(point, other);
                            fold(&mut folded[i], task * TASK + i, j, distance);
                        }
                    }
                },
            );
            folded.into_iter().map(&last).collect::<Vec<f64>>()
        })
        .collect()
}

/// The sum is put together from eight, so that it is made eight numbers at a time and is the same on every machine.
#[inline(always)]
fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            let difference = a[lane] - b[lane];
            sums[lane] += difference * difference;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b)).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use candle_core::{DType, Device};
    use proptest::prelude::*;

    use super::*;
    use crate::random::Stream;

    fn points(seed: u64, count: usize, dims: usize) -> Points {
        let drawn = Stream::new(seed, "points", 0).normal((count, dims), DType::F64, &Device::Cpu);
        Points::from_tensor(&drawn.unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn all_figures_follow_from_the_matrix_of_distances(
            real in 5usize..40, generated in 5usize..40, dims in 1usize..20, k in 1usize..5,
        ) {
            let (real, generated) = (points(1, real, dims), points(2, generated, dims));
            let distance = |a: &[f64], b: &[f64]| {
                a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
            };
            let radii = |points: &Points| -> Vec<f64> {
                points.iter().map(|a| {
                    let mut row: Vec<f64> = points.iter().map(|b| distance(a, b)).collect();
                    row.sort_by(f64::total_cmp);
                    row[k]
                }).collect()
            };
            let share = |points: &Points, within: &dyn Fn(&[f64]) -> bool| {
                points.iter().filter(|x| within(x)).count() as f64 / points.len() as f64
            };
            let (real_radii, generated_radii) = (radii(&real), radii(&generated));
            let inside = |x: &[f64], points: &Points, radii: &[f64]| {
                points.iter().zip(radii).filter(|(y, r)| distance(x, y) <= **r).count()
            };

            let got = precision_recall(&real, &generated, k).unwrap();
            prop_assert_eq!(got.precision, share(&generated, &|x| inside(x, &real, &real_radii) > 0));
            prop_assert_eq!(got.recall, share(&real, &|x| inside(x, &generated, &generated_radii) > 0));
            let got = density_coverage(&real, &generated, k).unwrap();
            let balls: usize = generated.iter().map(|x| inside(x, &real, &real_radii)).sum();
            let density = balls as f64 / (k * generated.len()) as f64;
            prop_assert!((got.density - density).abs() < 1e-12);
            let covered = real.iter().zip(&real_radii)
                .filter(|(x, r)| generated.iter().any(|y| distance(x, y) <= **r)).count();
            prop_assert_eq!(got.coverage, covered as f64 / real.len() as f64);
        }
    }

    #[test]
    fn only_the_points_at_work_hold_more_than_a_number() {
        static LIVE: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        struct Counted;
        impl Clone for Counted {
            fn clone(&self) -> Self {
                MOST.fetch_max(LIVE.fetch_add(1, Relaxed) + 1, Relaxed);
                Self
            }
        }
        impl Drop for Counted {
            fn drop(&mut self) {
                LIVE.fetch_sub(1, Relaxed);
            }
        }
        let many = points(1, 200 * TASK, 1);
        let one = points(2, 1, 1);
        LIVE.store(1, Relaxed); // the first
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let numbers = pool.install(|| against_all(&many, &one, Counted, |_, _, _, _| (), |_| 1.0));
        assert_eq!(numbers.len(), many.len());
        assert!(MOST.load(Relaxed) <= 1 + 2 * TASK, "{MOST:?}");
    }

    #[test]
    fn equal_sets_and_sets_far_apart() {
        let near = points(3, 100, 4);
        let far = Points::new(near.values().iter().map(|x| x + 1e3).collect(), 4).unwrap();
        let same = precision_recall(&near, &near, 3).unwrap();
        assert_eq!((same.precision, same.recall), (1.0, 1.0));
        assert_eq!(density_coverage(&near, &near, 5).unwrap().coverage, 1.0);
        let none = precision_recall(&near, &far, 3).unwrap();
        assert_eq!((none.precision, none.recall), (0.0, 0.0));
        let none = density_coverage(&near, &far, 5).unwrap();
        assert_eq!((none.density, none.coverage), (0.0, 0.0));
        // Of one point many times, balls are of radius 0 and hold it.
        let constant = Points::new(vec![0.1; 30], 3).unwrap();
        let same = precision_recall(&constant, &constant, 3).unwrap();
        assert_eq!((same.precision, same.recall), (1.0, 1.0));
    }

    #[test]
    fn what_has_no_neighbours_is_refused() {
        let three = points(1, 3, 2);
        assert!(matches!(Neighbourhoods::new(&three, 0), Err(Error::InvalidConfig { .. })));
        let error = precision_recall(&three, &three, 3).unwrap_err();
        assert!(matches!(error, Error::DatasetTooSmall { len: 3, needed: 4, .. }), "{error}");
        let error = Neighbourhoods::new(&three, usize::MAX).unwrap_err();
        assert!(matches!(error, Error::DatasetTooSmall { needed: usize::MAX, .. }), "{error}");
        let error = density_coverage(&three, &points(1, 9, 3), 2).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        let huge = Points::new(vec![1e200, -1e200, 0.0], 1).unwrap();
        assert!(matches!(Neighbourhoods::new(&huge, 1), Err(Error::NonFiniteData { .. })));
    }
}
