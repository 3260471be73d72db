//! The generator.

use candle_core::Tensor;
use candle_nn::{BatchNormConfig, VarBuilder};
use serde::{Deserialize, Serialize};

use super::Pyramid;
use crate::error::Result;
use crate::layers::{BatchNorm, ConvTranspose2d, ConvTranspose2dConfig};
use crate::second_order::Traced;
use crate::zoo::condition::{Condition, impl_generator};
use crate::zoo::{check_sizes, latent_batch};

/// The settings of a [`DcganGenerator`].
///
/// | field | default | range | meaning |
/// |---|---|---|---|
/// | `image_size` | 64 | 28, 32 or 64 | height and width of an image |
/// | `channels` | 3 | 1 or more | of an image |
/// | `latent_dim` | 100 | 1 or more | size of a latent point |
/// | `width` | 64 | 1 or more | channels of the largest map below the image; figure 1 of Radford et al. has 128 |
/// | `constant_width` | false | | every map has `width` channels, instead of twice as many at half the size |
/// | `batch_norm` | true | | after every convolution but the last |
/// | `classes` | none | 1 or more | makes the generator class-conditional |
///
/// Where the WGAN paper shows how little a generator matters to it, batch normalisation is dropped and the width kept
/// constant (its figure 6): `batch_norm: false, constant_width: true`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DcganGeneratorConfig {
    /// Height and width of an image.
    pub image_size: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Size of a latent point.
    pub latent_dim: usize,
    /// Channels of the largest map below the image.
    pub width: usize,
    /// Whether every map has as many.
    pub constant_width: bool,
    /// Batch normalisation after every convolution but the last.
    pub batch_norm: bool,
    /// The number of classes, for a class-conditional generator.
    pub classes: Option<usize>,
}

impl Default for DcganGeneratorConfig {
    fn default() -> Self {
        Self {
            image_size: 64,
            channels: 3,
            latent_dim: 100,
            width: 64,
            constant_width: false,
            batch_norm: true,
            classes: None,
        }
    }
}

/// DCGAN's generator: transposed convolutions without bias, each but the first doubling the map's sides.
///
/// Outputs lie in (-1, 1). Parameters: `conv1.weight`, `bn1.*`, `conv2.weight` and so on. With the default settings
/// (3,576,704 in all, as PyTorch's DCGAN example has them):
///
/// | layer | output | parameters |
/// |---|---|---|
/// | `conv1` 4x4, `bn1`, ReLU | (batch, 512, 4, 4) | 819,200 + 1,024 |
/// | `conv2` 4x4 stride 2, `bn2`, ReLU | (batch, 256, 8, 8) | 2,097,152 + 512 |
/// | `conv3` 4x4 stride 2, `bn3`, ReLU | (batch, 128, 16, 16) | 524,288 + 256 |
/// | `conv4` 4x4 stride 2, `bn4`, ReLU | (batch, 64, 32, 32) | 131,072 + 128 |
/// | `conv5` 4x4 stride 2, tanh | (batch, 3, 64, 64) | 3,072 |
///
/// For 32 pixels and one channel (1,066,880):
///
/// | layer | output | parameters |
/// |---|---|---|
/// | `conv1` 4x4, `bn1`, ReLU | (batch, 256, 4, 4) | 409,600 + 512 |
/// | `conv2` 4x4 stride 2, `bn2`, ReLU | (batch, 128, 8, 8) | 524,288 + 256 |
/// | `conv3` 4x4 stride 2, `bn3`, ReLU | (batch, 64, 16, 16) | 131,072 + 128 |
/// | `conv4` 4x4 stride 2, tanh | (batch, 1, 32, 32) | 1,024 |
///
/// For 28 pixels and one channel (759,680):
///
/// | layer | output | parameters |
/// |---|---|---|
/// | `conv1` 7x7, `bn1`, ReLU | (batch, 128, 7, 7) | 627,200 + 256 |
/// | `conv2` 4x4 stride 2, `bn2`, ReLU | (batch, 64, 14, 14) | 131,072 + 128 |
/// | `conv3` 4x4 stride 2, tanh | (batch, 1, 28, 28) | 1,024 |
///
/// With classes `conv1` has as many more input channels.
#[derive(Debug)]
pub struct DcganGenerator {
    hidden: Vec<(ConvTranspose2d, Option<BatchNorm>)>,
    output: ConvTranspose2d,
    config: DcganGeneratorConfig,
    condition: Condition,
}

impl DcganGenerator {
    /// A generator whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a setting outside its range; candle's if a parameter cannot
    /// be made.
    pub fn new(config: DcganGeneratorConfig, vb: VarBuilder) -> Result<Self> {
        let condition = Condition::new(config.classes)?;
        check_sizes(&[("latent_dim", config.latent_dim)])?;
        let Pyramid { smallest, channels } =
            Pyramid::new(config.image_size, config.channels, config.width, config.constant_width)?;
        let double = ConvTranspose2dConfig {
            stride: 2.into(),
            padding: 1.into(),
            bias: false,
            ..Default::default()
        };
        let first = ConvTranspose2dConfig { bias: false, ..Default::default() };
        let mut inputs = config.latent_dim + condition.width();
        let mut hidden = Vec::new();
        for (i, &outputs) in (1..).zip(&channels) {
            let (kernel, settings) = if i == 1 { (smallest, first) } else { (4, double) };
            let conv = vb.pp(format!("conv{i}"));
            let conv = ConvTranspose2d::new(inputs, outputs, kernel, settings, conv)?;
            let norm = config.batch_norm.then(|| {
                BatchNorm::new(outputs, BatchNormConfig::default(), vb.pp(format!("bn{i}")))
            });
            hidden.push((conv, norm.transpose()?));
            inputs = outputs;
        }
        let last = vb.pp(format!("conv{}", channels.len() + 1));
        let output = ConvTranspose2d::new(inputs, config.channels, 4, double, last)?;
        Ok(Self { hidden, output, config, condition })
    }

    fn run(&self, latent: &Traced, labels: Option<&Tensor>, train: bool) -> Result<Traced> {
        latent_batch(latent, self.config.latent_dim)?;
        let mut x = self.condition.append(latent, labels)?.unsqueeze(2)?.unsqueeze(3)?;
        for (conv, norm) in &self.hidden {
            x = x.apply(conv)?;
            if let Some(norm) = norm {
                x = norm.forward_traced(&x, train)?;
            }
            x = x.relu()?;
        }
        x.apply(&self.output)?.tanh()
    }
}

impl_generator!(DcganGenerator, |model| (model.config.latent_dim, model.condition));
