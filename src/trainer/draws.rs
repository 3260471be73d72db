//! The random draws of a step, made from the seed or given by the caller.

use candle_core::Tensor;

use super::WganTrainer;
use crate::critic::Critic;
use crate::data::{Dataset, Loader};
use crate::error::Result;
use crate::generator::Generator;
use crate::random::Stream;

/// Everything that a critic step draws. Give it explicitly to replay another program's run.
///
/// The tensors are of the models' type and on their device.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CriticDraws {
    /// Real samples `(batch, ...)`: Algorithm 1, line 3.
    pub real: Tensor,
    /// Latent points `(batch, latent)`: line 4.
    pub latent: Tensor,
    /// Interpolation coefficients `(batch,)` in [0, 1], for a strategy that takes them.
    pub epsilon: Option<Tensor>,
}

impl CriticDraws {
    /// The draws of a step; `epsilon` may be `None` where the strategy does not interpolate.
    #[must_use]
    pub fn new(real: Tensor, latent: Tensor, epsilon: Option<Tensor>) -> Self {
        Self { real, latent, epsilon }
    }
}

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// The draws of the next critic step.
    pub(super) fn draw_critic<D: Dataset>(&self, batches: &mut Loader<D>) -> Result<CriticDraws> {
        let (index, batch_size) = (self.critic_steps, self.config.batch_size);
        let real = batches.next_batch()?.to_device(&self.device)?.to_dtype(self.dtype)?;
        let latent = self.latent("latent/critic", index, batch_size)?;
        let epsilon = (self.config.lipschitz.interpolates())
            .then(|| {
                Stream::new(self.config.seed, "epsilon", index).uniform(
                    0.0,
                    1.0,
                    batch_size,
                    self.dtype,
                    &self.device,
                )
            })
            .transpose()?;
        Ok(CriticDraws::new(real, latent, epsilon))
    }

    /// The latent points of the next generator step.
    pub(super) fn draw_generator(&self) -> Result<Tensor> {
        self.latent("latent/generator", self.generator_steps, self.config.batch_size)
    }

    /// Latent points from N(0, 1), `(count, latent)`.
    pub(super) fn latent(&self, purpose: &str, index: u64, count: usize) -> Result<Tensor> {
        let shape = (count, self.generator.model().latent_dim());
        Stream::new(self.config.seed, purpose, index).normal(shape, self.dtype, &self.device)
    }
}
