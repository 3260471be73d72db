//! What the two residual generators have in common.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::generator_norm::GeneratorNorm;
use super::{ResidualUp, same};
use crate::error::Result;
use crate::layers::{Conv2d, Linear};
use crate::second_order::Traced;
use crate::zoo::condition::Condition;
use crate::zoo::latent_batch;

/// A linear layer to a map of 4x4, residual blocks that double it, and a convolution to the image.
#[derive(Debug)]
pub(super) struct ResidualGenerator {
    fc: Linear,
    blocks: Vec<ResidualUp>,
    bn: GeneratorNorm,
    conv: Conv2d,
    pub(super) latent_dim: usize,
    widest: usize,
    pub(super) condition: Condition,
}

impl ResidualGenerator {
    /// `widths` are the channels of the maps, from that of 4x4 to the largest; `first_bias` is that of [`ResidualUp::new`].
    pub(super) fn new(
        latent_dim: usize,
        widths: &[usize],
        channels: usize,
        classes: Option<usize>,
        first_bias: bool,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (widest, width) = (widths[0], widths[widths.len() - 1]);
        let block = |(i, pair): (usize, &[usize])| {
            ResidualUp::new(pair[0], pair[1], classes, first_bias, vb.pp(format!("block{i}")))
        };
        Ok(Self {
            fc: Linear::new(latent_dim, widest * 16, vb.pp("fc"))?,
            blocks: (1..).zip(widths.windows(2)).map(block).collect::<Result<_>>()?,
            bn: GeneratorNorm::new(width, classes, vb.pp("bn"))?,
            conv: Conv2d::new(width, channels, 3, same(true), vb.pp("conv"))?,
            latent_dim,
            widest,
            condition: Condition::new(classes)?,
        })
    }

    pub(super) fn run(
        &self,
        latent: &Traced,
        labels: Option<&Tensor>,
        train: bool,
    ) -> Result<Traced> {
        let batch = latent_batch(latent, self.latent_dim)?;
        self.condition.expect(labels, batch)?;
        let mut x = latent.apply(&self.fc)?.reshape((batch, self.widest, 4, 4))?;
        for block in &self.blocks {
            x = block.forward_traced(&x, labels, train)?;
        }
        self.bn.relu(&x, labels, train)?.apply(&self.conv)?.tanh()
    }
}
