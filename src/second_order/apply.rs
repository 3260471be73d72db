//! Layers on traced tensors: candle-nn's own, and anybody's.

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::{Activation, BatchNorm, LayerNorm, Linear, ModuleT, PReLU, RmsNorm};

use super::Traced;
use super::tape::PullBack;
use crate::error::{Error, Result};
use crate::ops;

/// Something that a critic applies to a traced tensor.
///
/// It is implemented for all of this crate's [`layers`](crate::layers), for candle-nn's `Linear`, `Conv1d`, `Conv2d`,
/// `ConvTranspose2d`, `LayerNorm`, `RmsNorm`, `BatchNorm`, `PReLU` and `Activation`, and for every closure from [`Traced`]
/// to [`Traced`]; implement it for a layer of your own. (Candle-nn's `GroupNorm` keeps its parameters to itself and cannot
/// be traced; [`layers::GroupNorm`](crate::layers::GroupNorm) can.)
pub trait Layer {
    /// Applies the layer.
    ///
    /// # Errors
    /// [`Error::Shape`] or candle's where the tensor does not fit the layer.
    fn forward(&self, x: &Traced) -> Result<Traced>;
}

impl Traced {
    /// Applies a layer: `x.apply(&self.fc1)?`.
    ///
    /// # Errors
    /// The layer's.
    pub fn apply(&self, layer: &(impl Layer + ?Sized)) -> Result<Self> {
        layer.forward(self)
    }
}

impl Traced {
    /// `weight * (x - mean) / sqrt(variance + eps) + bias` with the statistics of each channel of `(batch, channels, ...)`, for
    /// which no gradient of a sample's own can be pulled back, and the statistics.
    pub(crate) fn normalise(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        eps: f64,
    ) -> Result<(Self, ops::Statistics)> {
        if self.is_tracked() {
            return Err(Error::BatchNormUnderPenalty { shape: self.dims().to_vec() });
        }
        if self.is_plain() {
            let (y, statistics) = ops::normalise(self.raw(), weight, bias, eps)?;
            return Ok((Self::plain(&y), statistics));
        }
        let operands = [self.clone(), self.parameter(weight), self.parameter(bias)];
        let (y, statistics, done) = ops::Normalised::new(self.raw(), weight, bias, eps)?;
        let done = Arc::new(done);
        let pull_back = |operand: usize| -> PullBack {
            let done = done.clone();
            Box::new(move |g| Ok(Self::unrecorded(done.gradient(operand, g.raw())?)))
        };
        let operands = operands.iter().enumerate().map(|(i, operand)| (operand, pull_back(i)));
        Ok((Self::from_operands(y, operands), statistics))
    }

    /// Applies a batch normalisation, for which no gradient of a sample's own can be pulled back.
    pub(crate) fn batch_norm(
        &self,
        forward: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        if self.is_tracked() {
            return Err(Error::BatchNormUnderPenalty { shape: self.dims().to_vec() });
        }
        self.through_candle(forward)
    }
}

impl<F: Fn(&Traced) -> Result<Traced>> Layer for F {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        self(x)
    }
}

impl Layer for Linear {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let layer = format!("a linear layer with weight {:?}", self.weight().dims());
        x.linear(self.weight(), self.bias(), &layer)
    }
}

/// Over the last dimension. Candle-nn's own forward pass cuts the graph on contiguous input; this one does not.
impl Layer for LayerNorm {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let last = last_dim(x, "layer normalisation", self.weight().elem_count())?;
        let x =
            if self.remove_mean() { x.broadcast_sub(&x.mean_keepdim(last)?)? } else { x.clone() };
        let deviation = x.sqr()?.mean_keepdim(last)?.affine(1.0, self.eps())?.sqrt()?;
        let y = x.broadcast_div(&deviation)?.broadcast_mul(&x.parameter(self.weight()))?;
        match self.bias() {
            Some(bias) => y.broadcast_add(&y.parameter(bias)),
            None => Ok(y),
        }
    }
}

/// Over the last dimension. Candle-nn's own forward pass cuts the graph on contiguous input; this one does not.
impl Layer for RmsNorm {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        self.clone().into_inner().forward(x)
    }
}

/// With the batch's statistics, as PyTorch's critics have it in training, and only where no gradient per sample
/// is taken: see [`Error::BatchNormUnderPenalty`]. Where parameters are constants its own two vectors are not: candle-nn's
/// layer does not say all of how it was configured, so it cannot be rebuilt on detached ones.
impl Layer for BatchNorm {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        // The batch and all positions of a channel; candle divides by their number less one.
        let count: usize =
            x.dims().iter().enumerate().map(|(d, &n)| if d == 1 { 1 } else { n }).product();
        if count < 2 {
            return Err(Error::Shape {
                what: "the input of a batch normalisation in training".into(),
                got: x.dims().to_vec(),
                expected: "more than one value a channel, or the variance is not defined".into(),
            });
        }
        x.batch_norm(|value| Ok(self.forward_t(value, true)?))
    }
}

/// `max(x, 0) + weight * min(x, 0)` with one weight for all or for each channel (dimension 1).
impl Layer for PReLU {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        x.prelu(self.weight(), "a PReLU")
    }
}

/// The functions that have an exact second order here; the others are an error that names them.
impl Layer for Activation {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        match *self {
            Self::Relu => x.relu(),
            Self::LeakyRelu(slope) => x.leaky_relu(slope),
            Self::Elu(alpha) => x.elu(alpha),
            Self::Silu | Self::Swish => x.silu(),
            Self::Sigmoid => x.sigmoid(),
            other => Err(Error::InvalidConfig {
                name: "a critic's activation".into(),
                value: format!("{other:?}"),
                expected: "Relu, LeakyRelu, Elu, Silu, Swish or Sigmoid, or a closure of Traced operations"
                    .into(),
            }),
        }
    }
}

fn last_dim(x: &Traced, layer: &str, size: usize) -> Result<usize> {
    match x.dims() {
        [.., last] if *last == size => Ok(x.dims().len() - 1),
        got => Err(Error::Shape {
            what: format!("the input of a {layer} over {size} features"),
            got: got.to_vec(),
            expected: format!("(..., {size})"),
        }),
    }
}
