//! The fully connected layer.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder, init::DEFAULT_KAIMING_NORMAL};

use super::{check_weight, name};
use crate::error::{Error, Result};
use crate::second_order::{Layer, Traced};

/// `x Wᵀ + b` on `(batch, ..., in_features)`, PyTorch's `Linear`, with parameters `weight` `(out_features, in_features)` and `bias`
/// `(out_features,)`.
///
/// ```
/// use wgan::layers::Linear;
/// # fn main() -> wgan::Result<()> {
/// let build = wgan::ModelBuilder::new(0);
/// # struct Wrapped(Linear);
/// # impl wgan::Critic for Wrapped {
/// #     fn forward(&self, x: &wgan::Traced) -> wgan::Result<wgan::Traced> { x.apply(&self.0) }
/// # }
/// let critic = build.critic(|vb| Ok(Wrapped(Linear::new(2, 1, vb.pp("fc"))?)))?;
/// let names: Vec<_> = critic.parameters().trained().map(|(name, _)| name).collect();
/// assert_eq!(names, ["fc.bias", "fc.weight"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Linear {
    pub(super) name: String,
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

impl Linear {
    /// A layer with a bias whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a size of 0; candle's if a parameter cannot be made.
    pub fn new(in_features: usize, out_features: usize, vb: VarBuilder) -> Result<Self> {
        let layer = Self::no_bias(in_features, out_features, vb.clone())?;
        let bound = 1.0 / (in_features as f64).sqrt();
        let bias =
            vb.get_with_hints(out_features, "bias", Init::Uniform { lo: -bound, up: bound })?;
        Ok(Self { bias: Some(bias), ..layer })
    }

    /// A layer without a bias.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn no_bias(in_features: usize, out_features: usize, vb: VarBuilder) -> Result<Self> {
        let name = name("Linear", &vb);
        for (what, size) in [("in_features", in_features), ("out_features", out_features)] {
            if size == 0 {
                return Err(Error::config(format!("{what} of {name}"), size, "1 or more"));
            }
        }
        let shape = (out_features, in_features);
        check_weight(&name, &[out_features, in_features])?;
        let weight = vb.get_with_hints(shape, "weight", DEFAULT_KAIMING_NORMAL)?;
        Ok(Self { name, weight, bias: None })
    }
}

impl Layer for Linear {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        x.linear(&self.weight, self.bias.as_ref(), &self.name)
    }
}
