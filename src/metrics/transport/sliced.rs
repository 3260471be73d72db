//! Distances on the line, averaged over directions.

use candle_core::{DType, Device};
use rayon::prelude::*;

use super::{check_dims, check_order, power, wasserstein_1d};
use crate::error::{Error, Result};
use crate::metrics::memory::room_for;
use crate::metrics::{Points, WeightedPoints};
use crate::random::Stream;

/// Settings of [`sliced`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sliced {
    /// The order of the distance, at least 1; 2 unless set.
    pub p: f64,
    /// The number of directions, at least 1; 100 unless set. The error falls with its square root.
    pub projections: usize,
    /// The seed of the directions; 0 unless set.
    pub seed: u64,
}

impl Default for Sliced {
    fn default() -> Self {
        Self { p: 2.0, projections: 100, seed: 0 }
    }
}

/// The sliced Wasserstein distance (Bonneel et al. 2015): `SW_p^p` is the mean of `W_p^p` between the projections on random
/// directions, uniform on the sphere.
///
/// It takes `O(n log n)` for each direction, in parallel. The same settings give the same directions, and the same figure.
///
/// ```
/// use wgan::metrics::{Points, transport};
/// # fn main() -> wgan::Result<()> {
/// let a = Points::new(vec![0.0, 0.0, 1.0, 1.0], 2)?;
/// let b = Points::new(vec![0.0, 3.0, 1.0, 4.0], 2)?;
/// // All points move by (0, 3); the mean square of a coordinate of a direction in the plane is 1/2.
/// let settings = transport::Sliced { projections: 20_000, ..Default::default() };
/// let distance = transport::sliced(&a, &b, &settings)?;
/// assert!((distance - 3.0 * 0.5f64.sqrt()).abs() < 0.03);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`wasserstein`](super::wasserstein), and [`Error::InvalidConfig`] for no directions and for more than fit in
/// memory.
pub fn sliced<'a, 'b>(
    a: impl Into<WeightedPoints<'a>>,
    b: impl Into<WeightedPoints<'b>>,
    settings: &Sliced,
) -> Result<f64> {
    let (a, b) = (a.into(), b.into());
    if settings.projections == 0 {
        return Err(Error::config("the number of projections", 0, "at least 1"));
    }
    let shape = (settings.projections, a.points().dims());
    room_for::<f64>(
        "the number of projections, each of the points' dimensions,",
        &[shape.0, shape.1],
    )?;
    let mut stream = Stream::new(settings.seed, "directions of the sliced distance", 0);
    let directions = stream.normal(shape, DType::F64, &Device::Cpu)?;
    sliced_along(a, b, &Points::from_tensor(&directions)?, settings.p)
}

/// The sliced Wasserstein distance along directions of one's own, `(directions, dimensions)`, of any length but 0.
///
/// # Errors
/// As [`wasserstein`](super::wasserstein); [`Error::Shape`] unless the directions have the points' dimensions;
/// [`Error::InvalidConfig`] for a direction of length 0.
pub fn sliced_along<'a, 'b>(
    a: impl Into<WeightedPoints<'a>>,
    b: impl Into<WeightedPoints<'b>>,
    directions: &Points,
    p: f64,
) -> Result<f64> {
    let (a, b) = (a.into(), b.into());
    check_order(p)?;
    check_dims(&a, &b)?;
    check_dims(&a, &directions.into())?;
    let distances: Vec<f64> = (0..directions.len())
        .into_par_iter()
        .map(|index| {
            let unit = unit_vector(directions, index)?;
            let (first, second) = (projected(a.points(), &unit)?, projected(b.points(), &unit)?);
            wasserstein_1d(a.at(&first), b.at(&second), p)
        })
        .collect::<Result<_>>()?;
    let largest = distances.iter().copied().fold(0.0, f64::max);
    if largest == 0.0 {
        return Ok(0.0);
    }
    let sum: f64 = distances.iter().map(|distance| power(distance / largest, p)).sum();
    Ok((sum / distances.len() as f64).powf(p.recip()) * largest)
}

fn unit_vector(directions: &Points, index: usize) -> Result<Vec<f64>> {
    let direction = &directions.values()[index * directions.dims()..][..directions.dims()];
    let largest = direction.iter().fold(0.0f64, |max, x| max.max(x.abs()));
    if largest == 0.0 {
        return Err(Error::config(format!("the length of direction {index}"), 0, "above 0"));
    }
    let length = direction.iter().map(|x| (x / largest).powi(2)).sum::<f64>().sqrt();
    Ok(direction.iter().map(|x| x / largest / length).collect())
}

fn projected(points: &Points, unit: &[f64]) -> Result<Points> {
    let dot = |point: &[f64]| point.iter().zip(unit).map(|(x, u)| x * u).sum();
    Points::new(points.iter().map(dot).collect(), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::transport::wasserstein;

    fn normal(points: usize, dims: usize, index: u64) -> Points {
        let mut stream = Stream::new(3, "points", index);
        Points::from_tensor(&stream.normal((points, dims), DType::F64, &Device::Cpu).unwrap())
            .unwrap()
    }

    #[test]
    fn one_dimension_has_one_direction() {
        let (a, b) = (normal(30, 1, 0), normal(20, 1, 1));
        let weights: Vec<f64> = (0..20).map(f64::from).collect();
        let b = b.weighted(&weights).unwrap();
        for p in [1.0, 2.0] {
            let settings = Sliced { p, projections: 5, seed: 1 };
            let (got, exact) = (sliced(&a, b, &settings).unwrap(), wasserstein(&a, b, p).unwrap());
            assert!((got - exact).abs() < 1e-13, "{got} {exact}");
        }
    }

    #[test]
    fn it_is_a_metric_below_the_exact_one() {
        let sets = [normal(30, 3, 0), normal(30, 3, 1), normal(40, 3, 2)];
        let settings = Sliced { projections: 50, ..Default::default() };
        let distance = |i: usize, j: usize| sliced(&sets[i], &sets[j], &settings).unwrap();
        assert_eq!(distance(0, 0), 0.0);
        assert!((distance(0, 1) - distance(1, 0)).abs() < 1e-15);
        assert!(distance(0, 2) < distance(0, 1) + distance(1, 2));
        assert!(distance(0, 1) < wasserstein(&sets[0], &sets[1], 2.0).unwrap());
        let other = Sliced { seed: 1, ..settings };
        assert_ne!(distance(0, 1), sliced(&sets[0], &sets[1], &other).unwrap());
    }

    #[test]
    fn what_is_no_direction_is_refused() {
        let a = normal(3, 2, 0);
        let none = Sliced { projections: 0, ..Default::default() };
        let endless = Sliced { projections: usize::MAX, ..none };
        for settings in [none, endless] {
            assert!(matches!(sliced(&a, &a, &settings), Err(Error::InvalidConfig { .. })));
        }
        let directions = Points::new(vec![1.0, 0.0, 0.0, 0.0], 2).unwrap();
        let message = sliced_along(&a, &a, &directions, 2.0).unwrap_err().to_string();
        assert_eq!(message, "the length of direction 1 is 0; expected above 0");
        assert!(matches!(sliced_along(&a, &a, &normal(2, 3, 1), 2.0), Err(Error::Shape { .. })));
    }
}
