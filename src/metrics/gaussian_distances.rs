//! Distances and divergences of normal distributions that have a closed form.

use std::f64::consts::{FRAC_2_SQRT_PI, SQRT_2};

use libm::erf;

use super::Gaussian;
use super::eigen::{Root, singular_values};
use crate::error::{Error, Result};
use crate::kernels::matmul::{Matrix, product};

/// What of a vector may stick out of the directions in which a singular distribution varies, relative to its length.
const ROUNDING: f64 = 1e-10;

/// Closed forms. There is none for the Jensen-Shannon divergence, nor for the first-order Wasserstein distance and, unless the
/// covariances are equal, the total variation in more than one dimension.
impl Gaussian {
    /// The Wasserstein distance of order 2, in any dimension: the root of [`frechet_distance`](Self::frechet_distance), which is
    /// a difference. So in more than one dimension a distance below some 1e-8 of the standard deviations is rounding.
    ///
    /// # Errors
    /// As there.
    pub fn wasserstein2(&self, other: &Self) -> Result<f64> {
        match self.one_dimensional(other)? {
            // Without squares, whose difference would lose half of the digits of a small distance.
            Some((shift, [first, second])) => finite(shift.hypot(first - second)),
            None => Ok(self.frechet_distance(other)?.sqrt()),
        }
    }

    /// The Wasserstein distance of order 1 in one dimension: `E |m + s z|` for a standard normal `z`, with the differences `m`
    /// of the means and `s` of the standard deviations.
    ///
    /// ```
    /// use wgan::metrics::Gaussian;
    /// # fn main() -> wgan::Result<()> {
    /// let a = Gaussian::new(vec![1.0], vec![4.0])?;
    /// let b = Gaussian::new(vec![6.0], vec![4.0])?;
    /// assert_eq!(a.wasserstein1(&b)?, 5.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] for more dimensions than one; [`Error::InvalidConfig`] for a negative variance;
    /// [`Error::NonFiniteData`] where the distance overflows.
    pub fn wasserstein1(&self, other: &Self) -> Result<f64> {
        let Some((shift, [first, second])) = self.one_dimensional(other)? else {
            return Err(Error::Shape {
                what: "a normal distribution whose first-order Wasserstein distance is asked for"
                    .into(),
                got: vec![self.dims()],
                expected: "[1]: in more dimensions there is no closed form".into(),
            });
        };
        let spread = (first - second).abs();
        if spread == 0.0 {
            return Ok(shift.abs());
        }
        let z = shift / (SQRT_2 * spread);
        finite(spread * FRAC_2_SQRT_PI / SQRT_2 * (-z * z).exp() + shift * erf(z))
    }

    /// The Kullback-Leibler divergence `KL(self || other)` in nats, in any dimension.
    ///
    /// Infinite by definition where one of the two covariances is singular, up to rounding, and the other does not vary in the
    /// same directions; finite where both are singular alike.
    ///
    /// ```
    /// use wgan::metrics::Gaussian;
    /// # fn main() -> wgan::Result<()> {
    /// let unit = Gaussian::new(vec![0.0, 0.0], vec![1.0, 0.0, 0.0, 1.0])?;
    /// let moved = Gaussian::new(vec![3.0, 4.0], vec![1.0, 0.0, 0.0, 1.0])?;
    /// assert!((unit.kl(&moved)? - 12.5).abs() < 1e-12);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] for distributions of different dimensions; [`Error::InvalidConfig`] for a covariance with a negative
    /// eigenvalue; [`Error::NonFiniteData`] where it is finite by definition, but overflows.
    pub fn kl(&self, other: &Self) -> Result<f64> {
        self.check_dims(other)?;
        let (own, whitening) = (self.root()?, Whitening::new(other)?);
        let (Some(shift), Some(own)) =
            (whitening.apply(&self.shift(other)?, 1), whitening.apply(&own.values, own.rank))
        else {
            return Ok(f64::INFINITY);
        };
        let columns = own.len() / whitening.rank.max(1);
        if columns < whitening.rank {
            return Ok(f64::INFINITY);
        }
        // In coordinates in which the other one is standard, these are the standard deviations along the main axes.
        let deviations = match whitening.rank {
            0 => Vec::new(),
            rank => singular_values(&own, rank, columns)?,
        };
        let axis = |s: f64| (s - 1.0) * (s + 1.0) - 2.0 * s.ln();
        let axes: f64 = deviations.into_iter().map(|s| axis(s).max(0.0)).sum();
        finite(0.5 * (axes + length(&shift).powi(2)))
    }

    /// The reverse divergence `KL(other || self)`; see [`kl`](Self::kl).
    ///
    /// # Errors
    /// As [`kl`](Self::kl).
    pub fn reverse_kl(&self, other: &Self) -> Result<f64> {
        other.kl(self)
    }

    /// The total variation, from 0 to 1: in one dimension, or with equal covariances in any.
    ///
    /// # Errors
    /// [`Error::Shape`] for distributions of different dimensions; [`Error::InvalidConfig`] where there is no closed form, and
    /// for a covariance with a negative eigenvalue; [`Error::NonFiniteData`] where the means' difference overflows.
    pub fn total_variation(&self, other: &Self) -> Result<f64> {
        if self.covariance() == other.covariance() {
            self.check_dims(other)?;
            // A matter of the one direction of the shift, where both have a deviation of 1.
            let shift = Whitening::new(other)?.apply(&self.shift(other)?, 1);
            return Ok(shift.map_or(1.0, |shift| equally_wide(length(&shift))));
        }
        let Some((shift, deviations)) = self.one_dimensional(other)? else {
            return Err(Error::config(
                "the covariance of the second normal distribution",
                "another than that of the first",
                "the same for a total variation in more than one dimension, or one dimension",
            ));
        };
        let [narrow, wide] = [deviations[0].min(deviations[1]), deviations[0].max(deviations[1])];
        if narrow == 0.0 {
            return Ok(1.0);
        }
        // The narrow one, at 0 with a deviation of 1, is the denser between the two points where the densities are equal:
        // (x - m)^2 / s^2 + 2 ln s = x^2 with the wide one's m and s.
        let (m, s, more) = (shift.abs() / narrow, wide / narrow, (wide - narrow) / narrow);
        if more == 0.0 {
            return Ok(equally_wide(m));
        }
        if m.max(s) > 1e150 {
            return Ok(1.0); // to the last digit, and squares would overflow
        }
        let (excess, log) = (more * (2.0 + more), more.ln_1p());
        let root = s * (m * m + 2.0 * excess * log).sqrt();
        // The upper end, too, without a difference: by the product of the two.
        let ends = [-(m + root) / excess, (m * m + 2.0 * s * s * log) / (m + root)];
        let within = |mean: f64, deviation: f64| {
            let [low, high] = ends.map(|end| (end - mean) / (SQRT_2 * deviation));
            0.5 * (erf(high) - erf(low))
        };
        Ok(within(0.0, 1.0) - within(m, s))
    }

    /// The difference of the means and the two standard deviations, where there is one dimension.
    fn one_dimensional(&self, other: &Self) -> Result<Option<(f64, [f64; 2])>> {
        self.check_dims(other)?;
        if self.dims() > 1 {
            return Ok(None);
        }
        // Through the one check of a covariance; of a variance of 0 there is no column left.
        let deviation = |root: Root| root.values.first().map_or(0.0, |deviation| deviation.abs());
        let deviations = [deviation(self.root()?), deviation(other.root()?)];
        Ok(Some((self.shift(other)?[0], deviations)))
    }

    fn shift(&self, other: &Self) -> Result<Vec<f64>> {
        self.mean().iter().zip(other.mean()).map(|(a, b)| finite(a - b)).collect()
    }
}

/// The total variation where all deviations are 1 and the means so far apart.
fn equally_wide(shift: f64) -> f64 {
    erf(shift / (2.0 * SQRT_2))
}

fn finite(value: f64) -> Result<f64> {
    if value.is_finite() {
        return Ok(value);
    }
    let what = "the difference of two normal distributions".into();
    Err(Error::NonFiniteData { what, value, position: vec![] })
}

/// The coordinates in which a normal distribution is a standard one.
struct Whitening {
    dims: usize,
    rank: usize,
    /// The directions in which it varies, `(dims, rank)`, of length 1.
    directions: Vec<f64>,
    deviations: Vec<f64>,
}

impl Whitening {
    fn new(gaussian: &Gaussian) -> Result<Self> {
        let (dims, Root { mut values, rank }) = (gaussian.dims(), gaussian.root()?);
        let mut squares = vec![0.0; rank];
        for row in values.chunks_exact(rank.max(1)) {
            squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
        }
        let deviations: Vec<f64> = squares.into_iter().map(f64::sqrt).collect();
        for row in values.chunks_exact_mut(rank.max(1)) {
            row.iter_mut().zip(&deviations).for_each(|(x, deviation)| *x /= deviation);
        }
        Ok(Self { dims, rank, directions: values, deviations })
    }

    /// The coordinates, `(rank, columns)`, of the columns of `vectors`, `(dims, columns)`; `None` where these point to where the
    /// distribution does not vary.
    fn apply(&self, vectors: &[f64], columns: usize) -> Option<Vec<f64>> {
        if columns == 0 {
            return Some(Vec::new());
        }
        let unit = largest(vectors);
        if unit == 0.0 {
            return Some(vec![0.0; self.rank * columns]);
        }
        if self.rank == 0 {
            return None;
        }
        let vectors: Vec<f64> = vectors.iter().map(|x| x / unit).collect();
        let directions = Matrix::new(&self.directions, self.dims, self.rank);
        let mut along = product(directions.t(), Matrix::new(&vectors, self.dims, columns));
        if self.rank < self.dims {
            let directions = Matrix::new(&self.directions, self.dims, self.rank);
            let inside = product(directions, Matrix::new(&along, self.rank, columns));
            let outside: Vec<f64> =
                vectors.iter().zip(inside).map(|(x, inside)| x - inside).collect();
            if length(&outside) > ROUNDING * length(&vectors) {
                return None;
            }
        }
        for (row, deviation) in along.chunks_exact_mut(columns).zip(&self.deviations) {
            // The quotient may be infinite, and no multiple of 0 is to become NaN.
            row.iter_mut().filter(|x| **x != 0.0).for_each(|x| *x *= unit / deviation);
        }
        Some(along)
    }
}

fn largest(vector: &[f64]) -> f64 {
    vector.iter().fold(0.0, |most, x| x.abs().max(most))
}

/// Without the overflow and the underflow of squares.
fn length(vector: &[f64]) -> f64 {
    match largest(vector) {
        unit @ (0.0 | f64::INFINITY) => unit,
        unit => unit * vector.iter().map(|x| (x / unit).powi(2)).sum::<f64>().sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Points, transport::wasserstein};

    #[test]
    fn total_variation_of_a_huge_shift_beside_a_narrow_axis_is_one() {
        let covariance = vec![1.0, 0.0, 0.0, 1e-14];
        let [a, b] = [0.0, 1e303].map(|x| Gaussian::new(vec![x, 0.0], covariance.clone()).unwrap());
        assert_eq!(a.total_variation(&b).unwrap(), 1.0);
    }

    fn line(mean: f64, deviation: f64) -> Gaussian {
        Gaussian::new(vec![mean], vec![deviation * deviation]).unwrap()
    }

    /// Both densities on a fine grid over all of their mass, and its step.
    fn densities(a: (f64, f64), b: (f64, f64)) -> (Vec<f64>, Vec<f64>, f64) {
        let (step, count) = (1e-3, 80_000);
        let density = |(mean, deviation): (f64, f64)| -> Vec<f64> {
            let at = |i: i32| (f64::from(i - count / 2) * step - mean) / deviation;
            let scale = 1.0 / (deviation * std::f64::consts::TAU.sqrt());
            (0..count).map(|i| scale * (-0.5 * at(i).powi(2)).exp()).collect()
        };
        (density(a), density(b), step)
    }

    #[test]
    fn one_dimension_agrees_with_integrals() {
        for (a, b) in [
            ((0.0, 1.0), (0.0, 1.0)),
            ((0.0, 1.0), (1.5, 1.0)),
            ((0.3, 1.0), (-1.0, 2.5)),
            ((-2.0, 3.0), (2.0, 0.7)),
        ] {
            let (p, q, step) = densities(a, b);
            let (first, second) = (line(a.0, a.1), line(b.0, b.1));
            let integral = |f: &dyn Fn(f64, f64) -> f64| {
                p.iter().zip(&q).map(|(&p, &q)| f(p, q)).sum::<f64>() * step
            };
            let kl = integral(&|p, q| if p > 1e-290 { p * (p / q.max(1e-300)).ln() } else { 0.0 });
            let tv = integral(&|p, q| 0.5 * (p - q).abs());
            // The area between the distribution functions.
            let mut gap = 0.0;
            let mut w1 = 0.0;
            for (p, q) in p.iter().zip(&q) {
                gap += (p - q) * step;
                w1 += gap.abs() * step;
            }
            assert!((first.kl(&second).unwrap() - kl).abs() < 1e-6);
            assert!((first.total_variation(&second).unwrap() - tv).abs() < 1e-6);
            assert!((second.total_variation(&first).unwrap() - tv).abs() < 1e-6);
            assert!((first.wasserstein1(&second).unwrap() - w1).abs() < 2e-3);
            let w2 = (a.0 - b.0).hypot(a.1 - b.1);
            assert!((first.wasserstein2(&second).unwrap() - w2).abs() < 1e-14);
        }
    }

    #[test]
    fn they_are_the_limits_of_samples() {
        // Medians of equal shares of the mass stand for the distribution itself.
        let quantiles = |mean: f64, deviation: f64| {
            let (_, density, step) = densities((0.0, 1.0), (mean, deviation));
            let mut mass = 0.0;
            let mut points = Vec::new();
            for (i, density) in density.iter().enumerate() {
                mass += density * step;
                while mass * 2000.0 > points.len() as f64 + 0.5 && points.len() < 2000 {
                    points.push((i as f64 - 40_000.0) * step);
                }
            }
            Points::new(points, 1).unwrap()
        };
        let (a, b) = (quantiles(0.0, 1.0), quantiles(1.0, 3.0));
        let (first, second) = (line(0.0, 1.0), line(1.0, 3.0));
        let w1 = first.wasserstein1(&second).unwrap();
        let w2 = first.wasserstein2(&second).unwrap();
        assert!((wasserstein(&a, &b, 1.0).unwrap() - w1).abs() < 5e-3);
        assert!((wasserstein(&a, &b, 2.0).unwrap() - w2).abs() < 1e-2);
    }

    #[test]
    fn singular_distributions_are_compared_where_they_live() {
        // On the line through (1, 1), by (3, 3) apart: in units of the deviation, sqrt(2), by 3.
        let on_line =
            |at: f64, variance: f64| Gaussian::new(vec![at; 2], vec![variance; 4]).unwrap();
        let (a, b, full) = (
            on_line(0.0, 1.0),
            on_line(3.0, 1.0),
            Gaussian::new(vec![0.0; 2], vec![1.0, 0.0, 0.0, 1.0]).unwrap(),
        );
        assert!((a.kl(&b).unwrap() - 4.5).abs() < 1e-12);
        assert!(
            (a.kl(&on_line(0.0, 4.0)).unwrap() - (0.5 * (0.25 - 1.0) + 2f64.ln())).abs() < 1e-12
        );
        assert!((a.total_variation(&b).unwrap() - erf(3.0 / (2.0 * SQRT_2))).abs() < 1e-12);
        let beside = Gaussian::new(vec![0.0, 1.0], vec![1.0; 4]).unwrap();
        let point = Gaussian::new(vec![0.0; 2], vec![0.0; 4]).unwrap();
        for (p, q) in [(&a, &full), (&full, &a), (&a, &beside), (&a, &point), (&point, &a)] {
            assert_eq!(p.kl(q).unwrap(), f64::INFINITY);
            assert_eq!(q.reverse_kl(p).unwrap(), f64::INFINITY);
        }
        assert_eq!(point.kl(&point).unwrap(), 0.0);
        assert_eq!(a.total_variation(&beside).unwrap(), 1.0);
        assert_eq!(line(1.0, 0.0).total_variation(&line(1.0, 2.0)).unwrap(), 1.0);
        assert_eq!(line(1.0, 0.0).wasserstein1(&line(3.0, 0.0)).unwrap(), 2.0);
    }

    #[test]
    fn total_variation_is_continuous_where_the_variances_become_equal() {
        let of = |shift: f64, variance: f64| {
            let (a, b) = (line(0.0, 1.0), Gaussian::new(vec![shift], vec![variance]).unwrap());
            let (there, back) = (a.total_variation(&b).unwrap(), b.total_variation(&a).unwrap());
            assert!((there - back).abs() < 1e-14, "{there} {back}");
            there
        };
        for shift in [0.0, 1e-12, 1e-8, 1e-3, 0.5, 3.0, 50.0] {
            let equal = of(shift, 1.0);
            assert!((equal - erf(shift / (2.0 * SQRT_2))).abs() < 1e-15);
            assert!((of(shift, 1.0f64.next_up()) - equal).abs() < 1e-15);
            assert!((of(shift, 1.0f64.next_down()) - equal).abs() < 1e-15);
            for exponent in 6..=16 {
                let more = 10f64.powi(-exponent);
                assert!(
                    (of(shift, 1.0 + more) - equal).abs() < 0.3 * more + 1e-15,
                    "{shift} {more}"
                );
            }
        }
        // The density at a deviation of 1, on both sides, by which the deviation is the larger.
        let slope = of(0.0, 1.0 + 1e-6) / 0.5e-6;
        assert!((slope - 2.0 * 0.241_970_724_519_143_37).abs() < 1e-5, "{slope}");
    }

    #[test]
    fn neither_overflow_nor_underflow_decides() {
        let flat = |y: f64| Gaussian::new(vec![0.0, y], vec![1.0, 0.0, 0.0, 0.0]).unwrap();
        // The shift points to where neither varies.
        for shift in [1e200, 1e-170, 1e308] {
            assert_eq!(flat(0.0).total_variation(&flat(shift)).unwrap(), 1.0);
            assert_eq!(flat(0.0).kl(&flat(shift)).unwrap(), f64::INFINITY);
        }
        let at = |x: f64| Gaussian::new(vec![x, 0.0], vec![1.0, 0.0, 0.0, 1.0]).unwrap();
        assert_eq!(at(0.0).total_variation(&at(1e200)).unwrap(), 1.0);
        let (small, density) =
            (at(0.0).total_variation(&at(1e-170)).unwrap(), 0.398_942_280_401_432_7);
        assert!((small / 1e-170 - density).abs() < 1e-15, "{small}");
        let far = Gaussian::new(vec![f64::MAX], vec![1.0]).unwrap();
        let other = Gaussian::new(vec![f64::MIN], vec![2.0]).unwrap();
        assert_eq!(line(0.0, 1.0).total_variation(&other).unwrap(), 1.0);
        for result in [
            at(0.0).kl(&at(1e200)),
            far.wasserstein1(&other),
            far.wasserstein2(&other),
            far.total_variation(&other),
        ] {
            assert!(matches!(result, Err(Error::NonFiniteData { .. })), "{result:?}");
        }
    }

    #[test]
    fn what_has_no_closed_form_is_refused() {
        let unit = Gaussian::new(vec![0.0; 2], vec![1.0, 0.0, 0.0, 1.0]).unwrap();
        let wide = Gaussian::new(vec![0.0; 2], vec![2.0, 0.0, 0.0, 1.0]).unwrap();
        let negative = Gaussian::new(vec![0.0], vec![-1.0]).unwrap();
        assert!(matches!(unit.wasserstein1(&wide), Err(Error::Shape { .. })));
        assert!(matches!(unit.total_variation(&wide), Err(Error::InvalidConfig { .. })));
        for result in [
            line(0.0, 1.0).wasserstein1(&negative),
            line(0.0, 1.0).wasserstein2(&negative),
            negative.kl(&line(0.0, 1.0)),
            negative.total_variation(&negative),
        ] {
            assert!(matches!(result, Err(Error::InvalidConfig { .. })), "{result:?}");
        }
        let one = line(0.0, 1.0);
        for result in [unit.kl(&one), unit.wasserstein2(&one), one.total_variation(&unit)] {
            assert!(matches!(result, Err(Error::Shape { .. })));
        }
    }
}
