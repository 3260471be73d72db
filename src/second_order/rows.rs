//! Rows brought to mean 0 and variance 1, and products by channel: what normalisations are made of.
//!
//! Composed of broadcasts and sums they took a dozen passes over memory forward and thrice as many back. Here each order is
//! one operation, written out:
//!
//! | operation | gradients |
//! |---|---|
//! | `y` = standardised rows of `x` | `D(g)`, which is linear in `g` and its own transpose |
//! | `D(g)` | `D(u)` for `g`; a third formula for `x`, which ends the chain |
//! | `x` times a number for each channel | the same for `x`; sums of products for the number; sums for a bias |
//! | sums of products of `a` and `b` by channel | `b` and `a`, times a number for each channel |

use std::sync::Arc;

use super::Traced;
use super::tape::{PullBack, pull_back};
use crate::error::{Error, Result};
use crate::ops::{self, Standardised};

impl Traced {
    /// `(x - mean) / sqrt(variance + eps)` in each row of `size` elements, with the biased variance.
    pub(crate) fn standardise_rows(&self, size: usize, eps: f64) -> Result<Self> {
        self.check_on_tape()?;
        let rows = Arc::new(Standardised::new(self.raw(), size, eps)?);
        let (x, y) = (self.clone(), rows.y.clone());
        Ok(self.unary(y, move |g| g.through_standardised(&x, &rows)))
    }

    /// The gradient of standardised rows for their input `x`, given this gradient for the rows.
    fn through_standardised(&self, x: &Self, rows: &Arc<Standardised>) -> Result<Self> {
        let value = rows.gradient(self.raw())?;
        let for_gradient = {
            let (x, rows) = (x.clone(), rows.clone());
            pull_back(move |u| u.through_standardised(&x, &rows))
        };
        let for_x = {
            let (g, rows) = (self.raw().clone(), rows.clone());
            pull_back(move |u| {
                if u.is_recorded() {
                    return Err(Error::NotConnected {
                        what: "the third derivative of a normalisation".into(),
                        on: "its input: only two are known".into(),
                    });
                }
                Ok(Self::unrecorded(rows.second(u.raw(), &g)?))
            })
        };
        Ok(Self::from_operands(value, [(self, for_gradient), (x, for_x)]))
    }

    /// `x * weight + bias` with a number for each channel, the elements being `(batch, channels, positions)` in memory.
    pub(crate) fn scale_channels(
        &self,
        weight: &Self,
        bias: Option<&Self>,
        positions: usize,
    ) -> Result<Self> {
        [Some(self), Some(weight), bias].iter().flatten().try_for_each(|x| x.check_on_tape())?;
        let raw_bias = bias.map(Self::raw);
        let value = ops::scale_channels(self.raw(), weight.raw(), raw_bias, positions)?;
        let for_x = {
            let weight = weight.clone();
            pull_back(move |g| g.scale_channels(&weight, None, positions))
        };
        let for_weight = {
            let (x, channels) = (self.clone(), weight.dims()[0]);
            pull_back(move |g| g.channel_products(&x, channels, positions))
        };
        let mut operands = vec![(self, for_x), (weight, for_weight)];
        if let Some(bias) = bias {
            let channels = weight.dims()[0];
            operands.push((bias, pull_back(move |g| g.channel_totals(channels, positions))));
        }
        Ok(Self::from_operands(value, operands))
    }

    /// The sum over the batch and the positions of each channel, `(channels,)`: the gradient of a bias.
    pub(super) fn channel_totals(&self, channels: usize, positions: usize) -> Result<Self> {
        let value = ops::channel_totals(self.raw(), channels, positions)?;
        let shape = self.raw().shape().clone();
        let batch = shape.elem_count() / (channels * positions).max(1);
        Ok(self.unary(value, move |g| {
            let rows = g.reshape((1, channels, 1))?.broadcast_as(&[batch, channels, positions])?;
            rows.reshape(&shape)
        }))
    }

    /// The sum of this tensor times another over the batch and the positions of each channel, `(channels,)`.
    fn channel_products(&self, other: &Self, channels: usize, positions: usize) -> Result<Self> {
        let value = ops::channel_products(self.raw(), other.raw(), channels, positions)?;
        let scaled = |x: &Self| -> PullBack {
            let x = x.clone();
            pull_back(move |g| x.scale_channels(g, None, positions))
        };
        Ok(Self::from_operands(value, [(self, scaled(other)), (other, scaled(self))]))
    }

    /// The sum of the squares of each sample's elements: `(batch, ...)` to `(batch,)`.
    pub(crate) fn squared_lengths(&self) -> Result<Self> {
        self.check_on_tape()?;
        let batch = self.dims()[0];
        let size = self.raw().elem_count() / batch.max(1);
        let value = ops::channel_products(self.raw(), self.raw(), batch, size)?;
        let x = self.clone();
        Ok(self.unary(value, move |g| x.scale_channels(&g.affine(2.0, 0.0)?, None, size)))
    }
}
