//! The line: the sorted points go together.

use super::masses::{integer_masses, north_west, with_mass};
use super::{check_order, ground::Ground, mean_of_order};
use crate::error::{Error, Result};
use crate::metrics::WeightedPoints;

/// The Wasserstein distance of order `p` in one dimension, from samples of any sizes, with or without weights.
///
/// `W_p^p` is the integral of `|F^-1(u) - G^-1(u)|^p` over `u` from 0 to 1 with the two quantile functions: here a finite sum.
///
/// ```
/// use wgan::metrics::{Points, transport};
/// # fn main() -> wgan::Result<()> {
/// let a = Points::new(vec![0.0, 1.0, 3.0], 1)?;
/// let b = Points::new(vec![8.0, 5.0, 6.0], 1)?;
/// assert_eq!(transport::wasserstein_1d(&a, &b, 1.0)?, 5.0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Shape`] unless both have one dimension; [`Error::InvalidConfig`] unless `p` is finite and at least 1;
/// [`Error::NonFiniteData`] where the distance is above the largest `f64`.
pub fn wasserstein_1d<'a, 'b>(
    a: impl Into<WeightedPoints<'a>>,
    b: impl Into<WeightedPoints<'b>>,
    p: f64,
) -> Result<f64> {
    let (a, b) = (a.into(), b.into());
    check_order(p)?;
    for points in [a.points(), b.points()] {
        if points.dims() != 1 {
            return Err(Error::Shape {
                what: "a sample of the line".into(),
                got: vec![points.len(), points.dims()],
                expected: "one dimension".into(),
            });
        }
    }
    let (first, second, total) = integer_masses(&a, &b);
    let (rows, first) = with_mass(&first);
    let (columns, second) = with_mass(&second);
    let ground = Ground::new((a.points(), &rows), (b.points(), &columns));
    let (first_values, first) = sorted(&ground.a, &rows, &first);
    let (second_values, second) = sorted(&ground.b, &columns, &second);
    let pairs: Vec<(f64, u64)> = north_west(&first, &second)
        .into_iter()
        .filter(|&(_, _, mass)| mass > 0)
        .map(|(i, j, mass)| ((first_values[i] - second_values[j]).abs(), mass))
        .collect();
    mean_of_order(p, ground.scale, &pairs, total)
}

/// The values at these indices, lowest first, each with its mass.
fn sorted(values: &[f64], indices: &[usize], masses: &[u64]) -> (Vec<f64>, Vec<u64>) {
    let mut pairs: Vec<(f64, u64)> =
        indices.iter().map(|&i| values[i]).zip(masses.iter().copied()).collect();
    pairs.sort_by(|x, y| x.0.total_cmp(&y.0));
    pairs.into_iter().unzip()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::Points;
    use crate::metrics::transport::exact;

    fn line(values: &[f64]) -> Points {
        Points::new(values.to_vec(), 1).unwrap()
    }

    #[test]
    fn extreme_numbers_neither_overflow_nor_vanish() {
        for unit in [1e300, 1e-300, 5e-324] {
            let (a, b) = (line(&[0.0, unit]), line(&[2.0 * unit, 3.0 * unit]));
            for p in [1.0, 2.0, 300.0] {
                let got = wasserstein_1d(&a, &b, p).unwrap() / unit;
                assert!((got - 2.0).abs() < 1e-15, "{got}");
            }
        }
        let ends = [line(&[f64::MAX]), line(&[-f64::MAX])];
        assert!(matches!(
            wasserstein_1d(&ends[0], &ends[1], 1.0),
            Err(Error::NonFiniteData { .. })
        ));
    }

    #[test]
    fn what_has_no_distance_is_refused() {
        let (a, plane) = (line(&[0.0, 1.0]), Points::new(vec![0.0; 4], 2).unwrap());
        assert!(matches!(wasserstein_1d(&a, &plane, 1.0), Err(Error::Shape { .. })));
        for p in [0.99, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(wasserstein_1d(&a, &a, p), Err(Error::InvalidConfig { .. })));
        }
    }

    proptest! {
        #[test]
        fn it_is_the_cheapest_plan(
            a in prop::collection::vec((-5.0..5.0, 0.0..1.0), 1..20),
            b in prop::collection::vec((-5.0..5.0, 0u8..4), 1..20),
            p in prop::sample::select(vec![1.0, 1.5, 2.0, 3.0]),
        ) {
            let (a, mut a_weights): (Vec<f64>, Vec<f64>) = a.into_iter().unzip();
            let (b, b_weights): (Vec<f64>, Vec<u8>) = b.into_iter().unzip();
            let mut b_weights: Vec<f64> = b_weights.into_iter().map(f64::from).collect();
            a_weights[0] += 0.1;
            b_weights[0] += 1.0;
            let (a, b) = (line(&a), line(&b));
            let (a, b) = (a.weighted(&a_weights).unwrap(), b.weighted(&b_weights).unwrap());
            let got = wasserstein_1d(a, b, p).unwrap();
            let expected = exact(a, b, p).unwrap().distance;
            prop_assert!((got - expected).abs() < 1e-12 * expected.max(0.1), "{} {}", got, expected);
        }
    }
}
