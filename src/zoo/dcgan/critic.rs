//! The critic.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::Pyramid;
use crate::error::Result;
use crate::layers::{Conv2d, Conv2dConfig, SpectralNorm};
use crate::second_order::{Layer, Traced};
use crate::zoo::check_samples;
use crate::zoo::condition::{Condition, impl_critic};
use crate::zoo::critic_norm::{CriticNorm, Norm};

/// The settings of a [`DcganCritic`].
///
/// | field | default | range | meaning |
/// |---|---|---|---|
/// | `image_size` | 64 | 28, 32 or 64 | height and width of an image |
/// | `channels` | 3 | 1 or more | of an image |
/// | `width` | 64 | 1 or more | channels of the first, largest map |
/// | `constant_width` | false | | every map has `width` channels, instead of twice as many at half the size |
/// | `norm` | batch | see [`CriticNorm`] | after every convolution but the first and the last |
/// | `spectral_norm` | false | | every convolution's weight is divided by its largest singular value |
/// | `classes` | none | 1 or more | makes the critic class-conditional |
///
/// Under a penalty `norm` must not be `Batch`: WGAN-GP has `Layer` in its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DcganCriticConfig {
    /// Height and width of an image.
    pub image_size: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Channels of the first map.
    pub width: usize,
    /// Whether every map has as many.
    pub constant_width: bool,
    /// After every convolution but the first and the last.
    pub norm: CriticNorm,
    /// Whether every convolution is spectrally normalised.
    pub spectral_norm: bool,
    /// The number of classes, for a class-conditional critic.
    pub classes: Option<usize>,
}

impl Default for DcganCriticConfig {
    fn default() -> Self {
        Self {
            image_size: 64,
            channels: 3,
            width: 64,
            constant_width: false,
            norm: CriticNorm::Batch,
            spectral_norm: false,
            classes: None,
        }
    }
}

/// DCGAN's discriminator as a critic, without the sigmoid: convolutions without bias, each but the last halving the map's
/// sides.
///
/// Parameters: `conv1.weight`, `conv2.weight`, `norm2.*` and so on. With the default settings (2,765,568 in all, as PyTorch's
/// DCGAN example has them):
///
/// | layer | output | parameters |
/// |---|---|---|
/// | `conv1` 4x4 stride 2, leaky ReLU 0.2 | (batch, 64, 32, 32) | 3,072 |
/// | `conv2` 4x4 stride 2, `norm2`, leaky ReLU 0.2 | (batch, 128, 16, 16) | 131,072 + 256 |
/// | `conv3` 4x4 stride 2, `norm3`, leaky ReLU 0.2 | (batch, 256, 8, 8) | 524,288 + 512 |
/// | `conv4` 4x4 stride 2, `norm4`, leaky ReLU 0.2 | (batch, 512, 4, 4) | 2,097,152 + 1,024 |
/// | `conv5` 4x4 | (batch, 1) | 8,192 |
///
/// For 32 pixels and one channel (661,248):
///
/// | layer | output | parameters |
/// |---|---|---|
/// | `conv1` 4x4 stride 2, leaky ReLU 0.2 | (batch, 64, 16, 16) | 1,024 |
/// | `conv2` 4x4 stride 2, `norm2`, leaky ReLU 0.2 | (batch, 128, 8, 8) | 131,072 + 256 |
/// | `conv3` 4x4 stride 2, `norm3`, leaky ReLU 0.2 | (batch, 256, 4, 4) | 524,288 + 512 |
/// | `conv4` 4x4 | (batch, 1) | 4,096 |
///
/// For 28 pixels and one channel (138,624):
///
/// | layer | output | parameters |
/// |---|---|---|
/// | `conv1` 4x4 stride 2, leaky ReLU 0.2 | (batch, 64, 14, 14) | 1,024 |
/// | `conv2` 4x4 stride 2, `norm2`, leaky ReLU 0.2 | (batch, 128, 7, 7) | 131,072 + 256 |
/// | `conv3` 7x7 | (batch, 1) | 6,272 |
///
/// With classes `conv1` has as many more input channels.
#[derive(Debug)]
pub struct DcganCritic {
    hidden: Vec<(Convolution, Norm)>,
    output: Convolution,
    config: DcganCriticConfig,
    condition: Condition,
}

impl DcganCritic {
    /// A critic whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a setting outside its range; candle's if a parameter cannot
    /// be made.
    pub fn new(config: DcganCriticConfig, vb: VarBuilder) -> Result<Self> {
        let condition = Condition::new(config.classes)?;
        let Pyramid { smallest, channels } =
            Pyramid::new(config.image_size, config.channels, config.width, config.constant_width)?;
        let half =
            Conv2dConfig { stride: 2.into(), padding: 1.into(), bias: false, ..Default::default() };
        let spectral = config.spectral_norm;
        let mut inputs = config.channels + condition.width();
        let mut hidden = Vec::new();
        for (i, &outputs) in (1..).zip(channels.iter().rev()) {
            let conv = vb.pp(format!("conv{i}"));
            let conv =
                Convolution::new(spectral, conv, |vb| Conv2d::new(inputs, outputs, 4, half, vb))?;
            let norm = if i == 1 { CriticNorm::None } else { config.norm };
            hidden.push((conv, norm.build(outputs, vb.pp(format!("norm{i}")))?));
            inputs = outputs;
        }
        let whole = Conv2dConfig { bias: false, ..Default::default() };
        let last = vb.pp(format!("conv{}", channels.len() + 1));
        let output =
            Convolution::new(spectral, last, |vb| Conv2d::new(inputs, 1, smallest, whole, vb))?;
        Ok(Self { hidden, output, config, condition })
    }

    fn run(&self, images: &Traced, labels: Option<&Tensor>) -> Result<Traced> {
        let DcganCriticConfig { channels, image_size, .. } = self.config;
        check_samples(images, &[channels, image_size, image_size])?;
        let mut x = self.condition.append(images, labels)?;
        for (conv, norm) in &self.hidden {
            x = x.apply(conv)?.apply(norm)?.leaky_relu(0.2)?;
        }
        x.apply(&self.output)?.flatten_from(1)
    }
}

impl_critic!(DcganCritic, |model| model.condition);

/// A convolution with its weight as it is or spectrally normalised.
#[derive(Debug)]
enum Convolution {
    Plain(Conv2d),
    Spectral(SpectralNorm<Conv2d>),
}

impl Convolution {
    fn new<'a>(
        spectral: bool,
        vb: VarBuilder<'a>,
        build: impl FnOnce(VarBuilder<'a>) -> Result<Conv2d>,
    ) -> Result<Self> {
        if spectral {
            Ok(Self::Spectral(SpectralNorm::new(vb, build)?))
        } else {
            Ok(Self::Plain(build(vb)?))
        }
    }
}

impl Layer for Convolution {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        match self {
            Self::Plain(conv) => x.apply(conv),
            Self::Spectral(conv) => x.apply(conv),
        }
    }
}
