//! Layers on traced tensors: candle-nn's own, and anybody's.

use candle_core::Tensor;
use candle_nn::{Activation, BatchNorm, LayerNorm, Linear, ModuleT, PReLU, RmsNorm};

use super::Traced;
use crate::error::{Error, Result};
use crate::ops::{self, Statistics};

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
    /// Refuses a batch normalisation where the gradient of each sample's own score is taken.
    pub(crate) fn check_no_sample_gradient(&self) -> Result<()> {
        if self.is_tracked() {
            return Err(Error::BatchNormUnderPenalty { shape: self.dims().to_vec() });
        }
        Ok(())
    }

    /// The result of a batch normalisation of this tensor by a kernel of this crate.
    pub(crate) fn batch_normalised(
        &self,
        y: Tensor,
        (weight, bias): (&Self, &Self),
        eps: f64,
        statistics: Statistics,
    ) -> Result<Self> {
        self.check_no_sample_gradient()?;
        let (x, factor) = (self.raw().clone(), weight.raw().clone());
        Ok(Self::from_joint_operands(y, &[self, weight, bias], move |g| {
            Ok(ops::normalise_gradients(&x, &factor, g, eps, &statistics)?.into())
        }))
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
        let size = self.weight().elem_count();
        let last = last_dim(x, "layer normalisation", size)?;
        let y = if self.remove_mean() {
            x.standardise_rows(size, self.eps())?
        } else {
            let deviation = x.sqr()?.mean_keepdim(last)?.affine(1.0, self.eps())?.sqrt()?;
            x.broadcast_div(&deviation)?
        };
        let bias = self.bias().map(|bias| y.parameter(bias));
        y.scale_channels(&y.parameter(self.weight()), bias.as_ref(), 1)
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
        x.check_no_sample_gradient()?;
        x.through_candle(|value| Ok(self.forward_t(value, true)?))
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
