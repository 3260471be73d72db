//! The layers that the field's generators and critics are made of.
//!
//! Each takes its parameters from a candle `VarBuilder` under PyTorch's names and works on both kinds of tensor: on
//! [`Traced`] ones in a critic, exact to the second order, and on plain candle tensors in a generator, as a
//! candle `Module`. (The two batch normalisations are for generators, and take more than a tensor.) An error names a layer
//! that has parameters by its path, such as `block1.conv2`, others by their settings.
//!
//! ```
//! use candle_core::Tensor;
//! use candle_nn::VarBuilder;
//! use wgan::layers::{AvgPool2d, Conv2d, Conv2dConfig, GroupNorm};
//! use wgan::{Critic, ModelBuilder, Result, Traced};
//!
//! struct Down {
//!     norm: GroupNorm,
//!     conv: Conv2d,
//! }
//!
//! impl Down {
//!     fn new(vb: VarBuilder) -> Result<Self> {
//!         let same = Conv2dConfig { padding: 1.into(), ..Default::default() };
//!         Ok(Self {
//!             norm: GroupNorm::per_sample(3, vb.pp("norm"))?,
//!             conv: Conv2d::new(3, 8, 3, same, vb.pp("conv"))?,
//!         })
//!     }
//! }
//!
//! impl Critic for Down {
//!     fn forward(&self, images: &Traced) -> Result<Traced> {
//!         let x = images.apply(&self.norm)?.relu()?.apply(&self.conv)?.apply(&AvgPool2d::new(2))?;
//!         x.mean((1, 2, 3))
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! let critic = ModelBuilder::new(0).critic(Down::new)?;
//! let images = Tensor::zeros((4, 3, 8, 8), candle_core::DType::F32, &candle_core::Device::Cpu)?;
//! assert_eq!(critic.model().scores(&images)?.dims(), [4]);
//! // The same layer on a plain tensor.
//! assert_eq!(images.apply(&critic.model().conv)?.dims(), [4, 8, 8, 8]);
//! # Ok(())
//! # }
//! ```
//!
//! | layer | PyTorch's | what it avoids in candle 0.11 |
//! |---|---|---|
//! | [`Linear`] | `Linear` | a copy of the transposed weight gradient, a pass of its own for the bias |
//! | [`Conv2d`], [`ConvTranspose2d`] | the same | one number for both dimensions; a wrong gradient where stride and size leave an unequal rest in height and width; slow paths without a matrix product |
//! | [`LayerNorm`] | the same | candle-nn's cuts the graph, silently, on contiguous input, and takes one dimension only |
//! | [`GroupNorm`], [`InstanceNorm2d`] | the same | candle-nn's `GroupNorm` hides its parameters, and there is no instance normalisation |
//! | [`BatchNorm`] | `BatchNorm1d`, `BatchNorm2d` | ten passes over memory; a division by zero for one value a channel |
//! | [`ConditionalBatchNorm`] | - | absent |
//! | [`PReLU`], [`Activation`] | the same | slope 1 at 0 for ReLU, (1 + slope) / 2 for leaky ReLU; PyTorch's are 0 and slope |
//! | [`AvgPool2d`] | the same | one that takes only windows that do not overlap |
//! | [`UpsampleNearest2d`] | `Upsample(mode="nearest")` | a gradient that overwrites another: wrong in every residual generator |
//! | [`PixelShuffle`] | the same | nothing: candle-nn's is a function on plain tensors, which a critic cannot trace |
//! | [`SpectralNorm`] | `utils.spectral_norm` | absent |

mod activation;
mod batch_norm;
mod conditional_batch_norm;
mod convolution;
mod linear;
mod norm;
mod one_hot;
mod pool;
mod spectral_norm;

pub use activation::{Activation, PReLU};
pub use batch_norm::BatchNorm;
pub use conditional_batch_norm::ConditionalBatchNorm;
pub use convolution::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig, Size};
pub use linear::Linear;
pub use norm::{GroupNorm, InstanceNorm2d, LayerNorm};
pub(crate) use one_hot::{check_labels, one_hot};
pub use pool::{AvgPool2d, PixelShuffle, UpsampleNearest2d};
pub use spectral_norm::{Normalised, SpectralNorm};

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::second_order::{Layer, Traced};

/// What errors call a layer: its path in the model, or its kind where it has none.
fn name(kind: &str, vb: &VarBuilder) -> String {
    match vb.prefix() {
        path if path.is_empty() => kind.to_owned(),
        path => format!("{path} ({kind})"),
    }
}

/// Refuses a weight that no memory holds.
fn check_weight(layer: &str, shape: &[usize]) -> Result<()> {
    const MOST_ELEMENTS: usize = 1 << 32;
    let count = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
    if count.is_some_and(|count| count <= MOST_ELEMENTS) {
        return Ok(());
    }
    let what = format!("the shape of the weight of {layer}");
    Err(Error::config(what, format!("{shape:?}"), "at most 2^32 elements"))
}

/// Applies a layer to a plain tensor, for generators.
fn plain(layer: &impl Layer, x: &Tensor) -> candle_core::Result<Tensor> {
    let result: Result<Traced> = layer.forward(&Traced::plain(x));
    result.map(|y| y.raw().clone()).map_err(crate::Error::into_candle)
}

/// The same for a layer whose gradients only the tape knows.
fn taped(layer: &impl Layer, x: &Tensor) -> candle_core::Result<Tensor> {
    let result: Result<Traced> = layer.forward(&Traced::untracked(x));
    result.map(|y| y.value().clone()).map_err(crate::Error::into_candle)
}

/// Makes candle `Module`s of layers.
macro_rules! impl_module {
    ($apply:ident: $($layer:ty),* $(,)?) => {
        $(impl candle_core::Module for $layer {
            fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
                $apply(self, x)
            }
        })*
    };
}
impl_module!(taped: LayerNorm, GroupNorm, InstanceNorm2d);
impl_module!(
    plain:
    Activation,
    PReLU,
    Linear,
    Conv2d,
    ConvTranspose2d,
    AvgPool2d,
    UpsampleNearest2d,
    PixelShuffle,
);

impl<L: Normalised> candle_core::Module for SpectralNorm<L> {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        plain(self, x)
    }
}
