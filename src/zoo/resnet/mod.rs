//! The residual networks of the WGAN-GP paper (Gulrajani et al. 2017).

mod block;
mod critic_head;
mod generator;
mod generator_norm;
mod resnet32;
mod resnet64;

pub use block::{ResidualDown, ResidualUp};
pub use resnet32::{ResNet32Config, ResNet32Critic, ResNet32Generator};
pub use resnet64::{ResNet64Config, ResNet64Critic, ResNet64Generator};

use crate::layers::Conv2dConfig;

/// A 3x3 convolution that keeps the size.
fn same(bias: bool) -> Conv2dConfig {
    Conv2dConfig { padding: 1.into(), bias, ..Default::default() }
}
