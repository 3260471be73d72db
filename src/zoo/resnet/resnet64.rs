//! The pair for 64x64 pixels.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::critic_head::Head;
use super::generator::ResidualGenerator;
use super::{ResidualDown, same};
use crate::error::Result;
use crate::layers::Conv2d;
use crate::second_order::Traced;
use crate::zoo::condition::Condition;
use crate::zoo::condition::{impl_critic, impl_generator};
use crate::zoo::{CriticNorm, check_samples, check_sizes};

/// The settings of a [`ResNet64Generator`] and a [`ResNet64Critic`].
///
/// | field | default | range | meaning |
/// |---|---|---|---|
/// | `channels` | 3 | 1 or more | of an image |
/// | `latent_dim` | 128 | 1 or more | size of a latent point |
/// | `width` | 64 | 1 or more | channels of the largest map; the smallest has eight times as many |
/// | `norm` | layer | see [`CriticNorm`] | in the critic's blocks |
/// | `classes` | none | 1 or more | makes the pair class-conditional |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResNet64Config {
    /// Channels of an image.
    pub channels: usize,
    /// Size of a latent point.
    pub latent_dim: usize,
    /// Channels of the largest map.
    pub width: usize,
    /// The normalisation in the critic's blocks.
    pub norm: CriticNorm,
    /// The number of classes, for a class-conditional pair.
    pub classes: Option<usize>,
}

impl Default for ResNet64Config {
    fn default() -> Self {
        Self { channels: 3, latent_dim: 128, width: 64, norm: CriticNorm::Layer, classes: None }
    }
}

impl ResNet64Config {
    fn check(&self) -> Result<()> {
        let Self { channels, latent_dim, width, .. } = *self;
        Condition::new(self.classes)?;
        check_sizes(&[("channels", channels), ("latent_dim", latent_dim), ("width", width)])
    }
}

/// The residual generator of the WGAN-GP paper's 64x64 experiments (section 5.1; `GoodGenerator` in its code).
///
/// Outputs lie in (-1, 1). With the default settings (8,540,483 parameters in all):
///
/// | layer | output | parameters |
/// |---|---|---|
/// | `fc` | (batch, 512, 4, 4) | 1,056,768 |
/// | `block1`, [`ResidualUp`](super::ResidualUp) | (batch, 512, 8, 8) | 4,983,808 |
/// | `block2` | (batch, 256, 16, 16) | 1,902,592 |
/// | `block3` | (batch, 128, 32, 32) | 476,160 |
/// | `block4` | (batch, 64, 64, 64) | 119,296 |
/// | `bn`, ReLU | (batch, 64, 64, 64) | 128 |
/// | `conv` 3x3, tanh | (batch, 3, 64, 64) | 1,731 |
///
/// With classes every batch normalisation is conditional: its weight and bias have a row for each class.
#[derive(Debug)]
pub struct ResNet64Generator(ResidualGenerator);

impl ResNet64Generator {
    /// A generator whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a setting outside its range; candle's if a parameter cannot
    /// be made.
    pub fn new(config: ResNet64Config, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let ResNet64Config { channels, latent_dim, width, classes, .. } = config;
        let widths = [8, 8, 4, 2, 1].map(|times| times * width);
        Ok(Self(ResidualGenerator::new(latent_dim, &widths, channels, classes, false, vb)?))
    }

    fn run(&self, latent: &Traced, labels: Option<&Tensor>, train: bool) -> Result<Traced> {
        self.0.run(latent, labels, train)
    }
}

impl_generator!(ResNet64Generator, |model| (model.0.latent_dim, model.0.condition));

/// The residual critic of the WGAN-GP paper's 64x64 experiments (section 5.1; `GoodDiscriminator` in its code), with layer
/// normalisation.
///
/// With the default settings (7,491,841 parameters in all):
///
/// | layer | output | parameters |
/// |---|---|---|
/// | `conv` 3x3 | (batch, 64, 64, 64) | 1,792 |
/// | `block1`, [`ResidualDown`] | (batch, 128, 32, 32) | 119,296 |
/// | `block2` | (batch, 256, 16, 16) | 476,160 |
/// | `block3` | (batch, 512, 8, 8) | 1,902,592 |
/// | `block4` | (batch, 512, 4, 4) | 4,983,808 |
/// | `fc` | (batch, 1) | 8,193 |
///
/// With classes the projection `<embedding(label), h>` is added to the score, `h` what `fc` takes: `embedding.weight`, 8,192
/// parameters for each class.
#[derive(Debug)]
pub struct ResNet64Critic {
    conv: Conv2d,
    blocks: Vec<ResidualDown>,
    head: Head,
    config: ResNet64Config,
}

impl ResNet64Critic {
    /// A critic whose parameters are taken from `vb`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a setting outside its range; candle's if a parameter cannot
    /// be made.
    pub fn new(config: ResNet64Config, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let ResNet64Config { channels, width, classes, norm, .. } = config;
        let block = |(i, [from, to]): (usize, [usize; 2])| {
            let vb = vb.pp(format!("block{i}"));
            ResidualDown::new(from * width, to * width, true, norm, false, vb)
        };
        let blocks = (1..).zip([[1, 2], [2, 4], [4, 8], [8, 8]]).map(block);
        Ok(Self {
            conv: Conv2d::new(channels, width, 3, same(true), vb.pp("conv"))?,
            blocks: blocks.collect::<Result<_>>()?,
            head: Head::new(8 * width * 16, classes, vb.clone())?,
            config,
        })
    }

    fn run(&self, images: &Traced, labels: Option<&Tensor>) -> Result<Traced> {
        check_samples(images, &[self.config.channels, 64, 64])?;
        let mut x = images.apply(&self.conv)?;
        for block in &self.blocks {
            x = x.apply(block)?;
        }
        self.head.scores(&x.flatten_from(1)?, labels)
    }
}

impl_critic!(ResNet64Critic, |model| model.head.condition);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::ModelBuilder;

    /// The tables in the docs, and PyTorch's own counts for the twins.
    #[test]
    fn parameter_counts_are_those_of_the_tables() -> Result<()> {
        let build = ModelBuilder::new(0);
        let generator = build.generator(|vb| ResNet64Generator::new(Default::default(), vb))?;
        let critic = build.critic(|vb| ResNet64Critic::new(Default::default(), vb))?;
        let below = |parameters: &crate::Parameters, prefix: &str| -> usize {
            let names = parameters.trained().filter(|(name, _)| name.starts_with(prefix));
            names.map(|(_, var)| var.elem_count()).sum()
        };
        let of = |parameters, prefixes: &[&str]| -> Vec<usize> {
            prefixes.iter().map(|prefix| below(parameters, prefix)).collect()
        };
        let names = ["fc.", "block1.", "block2.", "block3.", "block4.", "bn.", "conv.", ""];
        let expected = [1_056_768, 4_983_808, 1_902_592, 476_160, 119_296, 128, 1_731, 8_540_483];
        assert_eq!(of(generator.parameters(), &names), expected);
        let names = ["conv.", "block1.", "block2.", "block3.", "block4.", "fc.", ""];
        let expected = [1_792, 119_296, 476_160, 1_902_592, 4_983_808, 8_193, 7_491_841];
        assert_eq!(of(critic.parameters(), &names), expected);
        Ok(())
    }
}
