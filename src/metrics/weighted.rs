//! Points that need not count alike.

use super::{Points, weights};
use crate::error::{Error, Result};

/// The distribution that puts a share of its mass on each of some points.
///
/// What compares distributions takes `impl Into<WeightedPoints>`: `&points`, where each of `n` points has the mass `1 / n`,
/// or [`Points::weighted`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightedPoints<'a> {
    points: &'a Points,
    weights: Option<&'a [f64]>,
}

impl<'a> WeightedPoints<'a> {
    /// The points.
    #[must_use]
    pub fn points(&self) -> &'a Points {
        self.points
    }

    /// The weights as they were given; `None` where all points count alike.
    #[must_use]
    pub fn weights(&self) -> Option<&'a [f64]> {
        self.weights
    }

    /// The mass of each point; the sum is 1.
    #[must_use]
    pub fn probabilities(&self) -> Vec<f64> {
        self.weights.map_or_else(
            || vec![1.0 / self.points.len() as f64; self.points.len()],
            weights::probabilities,
        )
    }

    /// The same weights on other points, as many.
    pub(super) fn at(self, points: &'a Points) -> Self {
        Self { points, ..self }
    }
}

impl<'a> From<&'a Points> for WeightedPoints<'a> {
    fn from(points: &'a Points) -> Self {
        Self { points, weights: None }
    }
}

impl Points {
    /// These points with masses proportional to `weights`, one for each.
    ///
    /// ```
    /// use wgan::metrics::{Points, transport};
    /// # fn main() -> wgan::Result<()> {
    /// let a = Points::new(vec![0.0, 1.0], 1)?;
    /// let b = Points::new(vec![0.0, 1.0], 1)?;
    /// assert_eq!(transport::wasserstein(a.weighted(&[3.0, 1.0])?, &b, 1.0)?, 0.25);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are as many weights as points; [`Error::NonFiniteData`] for NaN and infinity;
    /// [`Error::InvalidConfig`] for a negative weight, or where all are 0.
    pub fn weighted<'a>(&'a self, weights: &'a [f64]) -> Result<WeightedPoints<'a>> {
        if weights.len() != self.len() {
            return Err(Error::Shape {
                what: "the weights of points".into(),
                got: vec![weights.len()],
                expected: format!("[{}], one for each point", self.len()),
            });
        }
        weights::check("the weights of points", weights)?;
        Ok(WeightedPoints { points: self, weights: Some(weights) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_fit_no_points_are_refused() {
        let points = Points::new(vec![1.0, 2.0, 3.0], 1).unwrap();
        for weights in [&[][..], &[1.0, 2.0], &[1.0; 4]] {
            assert!(matches!(points.weighted(weights), Err(Error::Shape { .. })));
        }
        assert!(points.weighted(&[0.0; 3]).is_err());
        assert_eq!(points.weighted(&[2.0, 0.0, 6.0]).unwrap().probabilities(), [0.25, 0.0, 0.75]);
        assert_eq!(WeightedPoints::from(&points).probabilities(), [1.0 / 3.0; 3]);
    }
}
