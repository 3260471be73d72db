//! The pair for 32x32 pixels.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::critic_head::Head;
use super::generator::ResidualGenerator;
use super::{ResidualDown, same};
use crate::error::Result;
use crate::layers::{AvgPool2d, Conv2d, Conv2dConfig};
use crate::second_order::{Layer, Traced};
use crate::zoo::condition::Condition;
use crate::zoo::condition::{impl_critic, impl_generator};
use crate::zoo::{CriticNorm, check_samples, check_sizes};

/// The settings of a [`ResNet32Generator`] and a [`ResNet32Critic`].
///
/// | field | default | range | meaning |
/// |---|---|---|---|
/// | `channels` | 3 | 1 or more | of an image |
/// | `latent_dim` | 128 | 1 or more | size of a latent point |
/// | `width` | 128 | 1 or more | channels of every map |
/// | `classes` | none | 1 or more | makes the pair class-conditional |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResNet32Config {
    /// Channels of an image.
    pub channels: usize,
    /// Size of a latent point.
    pub latent_dim: usize,
    /// Channels of every map.
    pub width: usize,
    /// The number of classes, for a class-conditional pair.
    pub classes: Option<usize>,
}

impl Default for ResNet32Config {
    fn default() -> Self {
        Self { channels: 3, latent_dim: 128, width: 128, classes: None }
    }
}

impl ResNet32Config {
    fn check(&self) -> Result<()> {
        let Self { channels, latent_dim, width, .. } = *self;
        Condition::new(self.classes)?;
        check_sizes(&[("channels", channels), ("latent_dim", latent_dim), ("width", width)])
    }
}

/// The generator of the WGAN-GP paper's CIFAR-10 experiments (appendix C, and its code).
///
/// Outputs lie in (-1, 1). With the default settings (1,204,483 parameters in all):
///
/// | layer | output | parameters |
/// |---|---|---|
/// | `fc` | (batch, 128, 4, 4) | 264,192 |
/// | `block1`, [`ResidualUp`](super::ResidualUp) | (batch, 128, 8, 8) | 312,192 |
/// | `block2` | (batch, 128, 16, 16) | 312,192 |
/// | `block3` | (batch, 128, 32, 32) | 312,192 |
/// | `bn`, ReLU | (batch, 128, 32, 32) | 256 |
/// | `conv` 3x3, tanh | (batch, 3, 32, 32) | 3,459 |
///
/// With classes every batch normalisation is conditional: it has 256 parameters for each class instead of 256.
#[derive(Debug)]
pub struct ResNet32Generator(ResidualGenerator);

impl ResNet32Generator {
    /// A generator whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a setting outside its range; candle's if a parameter cannot
    /// be made.
    pub fn new(config: ResNet32Config, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let ResNet32Config { channels, latent_dim, width, classes } = config;
        let widths = [width; 4];
        Ok(Self(ResidualGenerator::new(latent_dim, &widths, channels, classes, true, vb)?))
    }

    fn run(&self, latent: &Traced, labels: Option<&Tensor>, train: bool) -> Result<Traced> {
        self.0.run(latent, labels, train)
    }
}

impl_generator!(ResNet32Generator, |model| (model.0.latent_dim, model.0.condition));

/// The critic of the WGAN-GP paper's CIFAR-10 experiments (appendix C, and its code), without normalisation.
///
/// With the default settings (1,053,825 parameters in all):
///
/// | layer | output | parameters |
/// |---|---|---|
/// | `block1`: 3x3, ReLU, 3x3, pooled; shortcut pooled, 1x1 | (batch, 128, 16, 16) | 151,680 |
/// | `block2`, [`ResidualDown`] | (batch, 128, 8, 8) | 311,680 |
/// | `block3`, the same size | (batch, 128, 8, 8) | 295,168 |
/// | `block4`, the same size | (batch, 128, 8, 8) | 295,168 |
/// | ReLU, mean over all positions | (batch, 128) | 0 |
/// | `fc` | (batch, 1) | 129 |
///
/// With classes the projection `<embedding(label), h>` is added to the score, `h` what `fc` takes: `embedding.weight`, 128
/// parameters for each class.
#[derive(Debug)]
pub struct ResNet32Critic {
    first: FirstBlock,
    blocks: Vec<ResidualDown>,
    head: Head,
    config: ResNet32Config,
}

impl ResNet32Critic {
    /// A critic whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a setting outside its range; candle's if a parameter cannot
    /// be made.
    pub fn new(config: ResNet32Config, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let ResNet32Config { channels, width, classes, .. } = config;
        let block = |i| {
            let vb = vb.pp(format!("block{i}"));
            ResidualDown::new(width, width, i == 2, CriticNorm::None, true, vb)
        };
        Ok(Self {
            first: FirstBlock::new(channels, width, vb.pp("block1"))?,
            blocks: (2..=4).map(block).collect::<Result<_>>()?,
            head: Head::new(width, classes, vb.clone())?,
            config,
        })
    }

    fn run(&self, images: &Traced, labels: Option<&Tensor>) -> Result<Traced> {
        check_samples(images, &[self.config.channels, 32, 32])?;
        let mut x = images.apply(&self.first)?;
        for block in &self.blocks {
            x = x.apply(block)?;
        }
        self.head.scores(&x.relu()?.mean((2, 3))?, labels)
    }
}

impl_critic!(ResNet32Critic, |model| model.head.condition);

/// The block that meets the image: no activation before the first convolution.
#[derive(Debug)]
struct FirstBlock {
    conv1: Conv2d,
    conv2: Conv2d,
    shortcut: Conv2d,
}

impl FirstBlock {
    fn new(channels: usize, width: usize, vb: VarBuilder) -> Result<Self> {
        let shortcut = vb.pp("shortcut");
        Ok(Self {
            conv1: Conv2d::new(channels, width, 3, same(true), vb.pp("conv1"))?,
            conv2: Conv2d::new(width, width, 3, same(true), vb.pp("conv2"))?,
            shortcut: Conv2d::new(channels, width, 1, Conv2dConfig::default(), shortcut)?,
        })
    }
}

impl Layer for FirstBlock {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        let half = AvgPool2d::new(2);
        let h = x.apply(&self.conv1)?.relu()?.apply(&self.conv2)?.apply(&half)?;
        h.add(&x.apply(&half)?.apply(&self.shortcut)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::ModelBuilder;

    /// The tables in the docs, and PyTorch's own counts for the twins.
    #[test]
    fn parameter_counts_are_those_of_the_tables() -> Result<()> {
        let build = ModelBuilder::new(0);
        let generator = build.generator(|vb| ResNet32Generator::new(Default::default(), vb))?;
        assert_eq!(generator.parameters().count(), 1_204_483);
        let critic = build.critic(|vb| ResNet32Critic::new(Default::default(), vb))?;
        assert_eq!(critic.parameters().count(), 1_053_825);
        Ok(())
    }
}
