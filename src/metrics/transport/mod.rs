//! Wasserstein distances between sets of points, exact and approximate.
//!
//! The distance of order `p >= 1` between distributions `a` and `b` is
//! `W_p(a, b) = (inf E |x - y|^p)^(1/p)` over all couplings of `x ~ a` and `y ~ b`, with the Euclidean distance `|x - y|`.
//!
//! | | for | cost for `n` and `m` points | result |
//! |---|---|---|---|
//! | [`wasserstein`] | any points | that of the next one which applies | exact |
//! | [`wasserstein_1d`] | one dimension | `O(n log n + m log m)` | exact |
//! | [`assignment`] | as many points here as there | `8 n^2` bytes | exact, and who goes with whom |
//! | [`exact`] | any points, with weights | `8 n m` bytes | exact, and the plan |
//! | [`sliced`] | any points, with weights | `O(k (n log n + m log m))` for `k` directions | a distance of its own, below `W_p` |
//! | [`sinkhorn`] | any points, with weights | `24 n m` bytes | a cost above `W_p^p`, and the plan |
//! | [`sinkhorn_divergence`] | any points, with weights | `24 n m` bytes | near `W_p^p` for a small penalty |
//!
//! Exact means up to rounding: the least cost is found in integer arithmetic, with masses rounded to `2^-62` of the total and
//! costs to some `2^-47` of the largest; where the mean cost is lost in that, as with a high order or a few points far off, to
//! as much of the largest that the plan needs. All results are independent of the number of threads.

mod exact;
mod ground;
mod linearised;
mod masses;
mod network_simplex;
mod one_dimensional;
mod sinkhorn;
mod sliced;

pub use exact::{Assignment, Coupling, Plan, assignment, exact};
pub use one_dimensional::wasserstein_1d;
pub use sinkhorn::{EntropicPlan, Sinkhorn, sinkhorn, sinkhorn_divergence};
pub use sliced::{Sliced, sliced, sliced_along};

use super::WeightedPoints;
use crate::error::{Error, Result};

/// The Wasserstein distance of order `p`, exactly: by [`wasserstein_1d`] in one dimension, else by [`exact`].
///
/// ```
/// use wgan::metrics::{Points, transport};
/// # fn main() -> wgan::Result<()> {
/// let square = Points::new(vec![0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], 2)?;
/// let moved = Points::new(vec![3.0, 4.0, 3.0, 5.0, 4.0, 4.0, 4.0, 5.0], 2)?;
/// assert_eq!(transport::wasserstein(&square, &moved, 2.0)?, 5.0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Shape`] unless both have the same number of dimensions; [`Error::InvalidConfig`] unless `p` is finite and at least
/// 1, or where the costs do not fit in memory; [`Error::NonFiniteData`] where the distance is above the largest `f64`.
pub fn wasserstein<'a, 'b>(
    a: impl Into<WeightedPoints<'a>>,
    b: impl Into<WeightedPoints<'b>>,
    p: f64,
) -> Result<f64> {
    let (a, b) = (a.into(), b.into());
    if a.points().dims() == 1 && b.points().dims() == 1 {
        wasserstein_1d(a, b, p)
    } else {
        Ok(exact(a, b, p)?.distance)
    }
}

fn check_order(p: f64) -> Result<()> {
    if p.is_finite() && p >= 1.0 {
        Ok(())
    } else {
        Err(Error::config("the order p of the Wasserstein distance", p, "a finite number, p >= 1"))
    }
}

fn check_dims(a: &WeightedPoints, b: &WeightedPoints) -> Result<()> {
    let (first, second) = (a.points(), b.points());
    if first.dims() == second.dims() {
        return Ok(());
    }
    Err(Error::Shape {
        what: "the second set of points".into(),
        got: vec![second.len(), second.dims()],
        expected: format!("{} dimensions, as the first has", first.dims()),
    })
}

/// The distance of order `p` for pairs of points at `distances`, each with its mass, of `total` units in all.
///
/// Relative to the largest distance, so that no power overflows; `scale` is the unit of `distances`.
fn mean_of_order(p: f64, scale: f64, pairs: &[(f64, u64)], total: u64) -> Result<f64> {
    let largest = pairs.iter().map(|&(distance, _)| distance).fold(0.0, f64::max);
    if largest == 0.0 {
        return Ok(0.0);
    }
    let sum: f64 =
        pairs.iter().map(|&(distance, mass)| mass as f64 * power(distance / largest, p)).sum();
    let mean = sum / total as f64;
    let distance = mean.powf(p.recip()) * largest * scale;
    if distance.is_finite() {
        Ok(distance)
    } else {
        Err(Error::NonFiniteData {
            what: "the distance between sets of points".into(),
            value: distance,
            position: vec![],
        })
    }
}

fn power(x: f64, p: f64) -> f64 {
    if p == 1.0 {
        x
    } else if p == 2.0 {
        x * x
    } else {
        x.powf(p)
    }
}
