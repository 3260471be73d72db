//! The normalisation of a convolutional critic, as a setting.

use candle_nn::{BatchNormConfig, VarBuilder};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::layers::{BatchNorm, GroupNorm, InstanceNorm2d};
use crate::second_order::{Layer, Traced};

/// The normalisation between a critic's convolutions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CriticNorm {
    /// None at all.
    None,
    /// Batch normalisation, as DCGAN and the WGAN paper have it; only under weight clipping.
    #[default]
    Batch,
    /// Over all of a sample's features, with a weight for each channel: what the WGAN-GP paper puts in its place.
    Layer,
    /// Each channel of a sample by itself.
    Instance,
}

/// A normalisation that was built.
#[derive(Debug)]
pub(super) enum Norm {
    None,
    Batch(BatchNorm),
    Layer(GroupNorm),
    Instance(InstanceNorm2d),
}

impl CriticNorm {
    pub(super) fn build(self, channels: usize, vb: VarBuilder) -> Result<Norm> {
        Ok(match self {
            Self::None => Norm::None,
            Self::Batch => Norm::Batch(BatchNorm::new(channels, BatchNormConfig::default(), vb)?),
            Self::Layer => Norm::Layer(GroupNorm::per_sample(channels, vb)?),
            Self::Instance => Norm::Instance(InstanceNorm2d::affine(channels, vb)?),
        })
    }
}

impl Layer for Norm {
    fn forward(&self, x: &Traced) -> Result<Traced> {
        match self {
            Self::None => Ok(x.clone()),
            Self::Batch(norm) => x.apply(norm),
            Self::Layer(norm) => x.apply(norm),
            Self::Instance(norm) => x.apply(norm),
        }
    }
}
