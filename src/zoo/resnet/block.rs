//! Residual blocks.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::generator_norm::GeneratorNorm;
use super::same;
use crate::error::Result;
use crate::layers::{AvgPool2d, Conv2d, Conv2dConfig, UpsampleNearest2d};
use crate::second_order::{Layer, Traced};
use crate::zoo::critic_norm::{CriticNorm, Norm};

/// A generator's residual block that doubles the sides of `(batch, in_channels, height, width)`.
///
/// ```text
/// h = conv2(relu(bn2(conv1(upsample(relu(bn1(x)))))))        3x3 convolutions
/// y = h + upsample(shortcut(x))                              a 1x1 convolution
/// ```
///
/// The WGAN-GP code upsamples before the 1x1 convolution; the two commute, but for rounding, and this order takes a quarter of
/// the work.
#[derive(Debug, Clone)]
pub struct ResidualUp {
    bn1: GeneratorNorm,
    conv1: Conv2d,
    bn2: GeneratorNorm,
    conv2: Conv2d,
    shortcut: Conv2d,
}

impl ResidualUp {
    /// A block whose parameters (`bn1`, `conv1`, `bn2`, `conv2`, `shortcut`) are taken from `vb`. With `classes` its batch
    /// normalisations are conditional. `first_bias` says whether `conv1` has a bias, which the normalisation after it undoes.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for no channels or classes; candle's if a parameter cannot be
    /// made.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        classes: Option<usize>,
        first_bias: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        let shortcut = vb.pp("shortcut");
        Ok(Self {
            bn1: GeneratorNorm::new(in_channels, classes, vb.pp("bn1"))?,
            conv1: Conv2d::new(in_channels, out_channels, 3, same(first_bias), vb.pp("conv1"))?,
            bn2: GeneratorNorm::new(out_channels, classes, vb.pp("bn2"))?,
            conv2: Conv2d::new(out_channels, out_channels, 3, same(true), vb.pp("conv2"))?,
            shortcut: Conv2d::new(in_channels, out_channels, 1, Conv2dConfig::default(), shortcut)?,
        })
    }

    /// Maps `(batch, in_channels, height, width)` to `(batch, out_channels, 2 height, 2 width)`; `labels` `(batch,)` where
    /// the block has classes.
    ///
    /// # Errors
    /// Candle's, with the layer's own message, where the input does not fit;
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for labels that are missing, not wanted or no class.
    pub fn forward_t(&self, x: &Tensor, labels: Option<&Tensor>, train: bool) -> Result<Tensor> {
        Ok(self.forward_traced(&Traced::plain(x), labels, train)?.raw().clone())
    }

    /// The same on a traced tensor.
    ///
    /// # Errors
    /// Those of [`forward_t`](Self::forward_t).
    pub fn forward_traced(
        &self,
        x: &Traced,
        labels: Option<&Tensor>,
        train: bool,
    ) -> Result<Traced> {
        let double = UpsampleNearest2d::new(2);
        let h = self.bn1.relu(x, labels, train)?.apply(&double)?.apply(&self.conv1)?;
        let h = self.bn2.relu(&h, labels, train)?.apply(&self.conv2)?;
        h.add(&x.apply(&self.shortcut)?.apply(&double)?)
    }
}

/// A critic's residual block, which may halve the sides of `(batch, in_channels, height, width)`.
///
/// ```text
/// h = pool(conv2(relu(norm2(conv1(relu(norm1(x)))))))        3x3 convolutions
/// y = h + shortcut(pool(x))                                  a 1x1 convolution; x itself where nothing changes size
/// ```
///
/// The WGAN-GP code pools after the 1x1 convolution; the two commute, but for rounding, and this order takes a quarter of the
/// work.
#[derive(Debug)]
pub struct ResidualDown {
    norm1: Norm,
    conv1: Conv2d,
    norm2: Norm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    down: bool,
}

impl ResidualDown {
    /// A block whose parameters (`norm1`, `conv1`, `norm2`, `conv2`, `shortcut`) are taken from `vb`. It has a `shortcut`
    /// where it changes the number of channels or halves the sides. `first_bias` says whether `conv1` has a bias.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for no channels; candle's if a parameter cannot be made.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        down: bool,
        norm: CriticNorm,
        first_bias: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        // Where the size changes the first convolution keeps the number of channels, else the second does.
        let between = if down { in_channels } else { out_channels };
        let shortcut = (down || in_channels != out_channels).then(|| {
            Conv2d::new(in_channels, out_channels, 1, Conv2dConfig::default(), vb.pp("shortcut"))
        });
        Ok(Self {
            norm1: norm.build(in_channels, vb.pp("norm1"))?,
            conv1: Conv2d::new(in_channels, between, 3, same(first_bias), vb.pp("conv1"))?,
            norm2: norm.build(between, vb.pp("norm2"))?,
            conv2: Conv2d::new(between, out_channels, 3, same(true), vb.pp("conv2"))?,
            shortcut: shortcut.transpose()?,
            down,
        })
    }
}

impl Layer for ResidualDown {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let h = x.apply(&self.norm1)?.relu()?.apply(&self.conv1)?;
        let h = h.apply(&self.norm2)?.relu()?.apply(&self.conv2)?;
        let half = AvgPool2d::new(2);
        let (h, x) = if self.down { (h.apply(&half)?, x.apply(&half)?) } else { (h, x.clone()) };
        match &self.shortcut {
            Some(shortcut) => h.add(&x.apply(shortcut)?),
            None => h.add(&x),
        }
    }
}
