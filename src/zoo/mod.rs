//! Ready-made generators and critics, each from a small configuration with its paper's values as defaults.
//!
//! | models | source | default image |
//! |---|---|---|
//! | [`MlpGenerator`], [`MlpCritic`] | the MNIST recipe of most tutorials | `(1, 28, 28)` |
//! | [`DcganGenerator`], [`DcganCritic`] | Radford et al. 2016; WGAN's variants | `(3, 64, 64)`, also 28 and 32 pixels |
//! | [`ResNet32Generator`], [`ResNet32Critic`] | WGAN-GP, appendix C, its CIFAR-10 code | `(3, 32, 32)` |
//! | [`ResNet64Generator`], [`ResNet64Critic`] | WGAN-GP, section 5.1, its 64x64 code | `(3, 64, 64)` |
//!
//! A configuration with `classes: Some(n)` makes a class-conditional model, which takes a label with each sample:
//!
//! | models | generator | critic |
//! |---|---|---|
//! | MLP | one-hot label beside the latent point | one-hot label beside the flattened sample |
//! | DCGAN | the same | one plane for each class beside the image's channels |
//! | ResNet | conditional batch normalisation | projection (Miyato and Koyama 2018) |
//!
//! Parameters are named and shaped as the PyTorch twins in `tests/pytorch/models.py` have them, so a `state_dict` of theirs
//! loads as it is.

mod condition;
mod critic_norm;
mod dcgan;
mod mlp;
mod resnet;

pub use critic_norm::CriticNorm;
pub use dcgan::{DcganCritic, DcganCriticConfig, DcganGenerator, DcganGeneratorConfig};
pub use mlp::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
pub use resnet::{
    ResNet32Config, ResNet32Critic, ResNet32Generator, ResNet64Config, ResNet64Critic,
    ResNet64Generator, ResidualDown, ResidualUp,
};

use crate::error::{Error, Result};
use crate::second_order::Traced;

/// The batch size of latent points `(batch, latent_dim)`.
fn latent_batch(latent: &Traced, latent_dim: usize) -> Result<usize> {
    match latent.dims() {
        &[batch, dim] if dim == latent_dim => Ok(batch),
        got => Err(Error::Shape {
            what: "the latent batch".into(),
            got: got.to_vec(),
            expected: format!("(batch, {latent_dim})"),
        }),
    }
}

/// Holds samples to be `(batch, ...)` of the critic's sample shape.
fn check_samples(samples: &Traced, shape: &[usize]) -> Result<()> {
    if samples.dims().get(1..) == Some(shape) {
        return Ok(());
    }
    Err(Error::Shape {
        what: "the critic's batch of samples".into(),
        got: samples.dims().to_vec(),
        expected: format!("(batch, then {shape:?})"),
    })
}

/// Refuses settings of 0, and products that no memory holds.
fn check_sizes(sizes: &[(&str, usize)]) -> Result<()> {
    const MOST: usize = 1 << 16;
    match sizes.iter().find(|(_, size)| !(1..=MOST).contains(size)) {
        Some((name, size)) => Err(Error::config(*name, size, format!("1 to {MOST}"))),
        None => Ok(()),
    }
}
