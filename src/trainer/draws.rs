//! The random draws of a step, made from the seed.

use candle_core::{Device, Tensor};

use super::WganTrainer;
use crate::critic::Critic;
use crate::data::{Dataset, Loader};
use crate::draws::{CriticDraws, GeneratorDraws};
use crate::error::Result;
use crate::generator::Generator;
use crate::random::Stream;

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// The draws of the critic step after so many, which must be that of the next batch.
    pub(super) fn draw_critic<D: Dataset>(
        &self,
        batches: &mut Loader<D>,
        index: u64,
    ) -> Result<CriticDraws> {
        let batch_size = self.config.batch_size;
        let (real, labels) = batches.next_labelled_batch()?;
        let real = real.to_device(&self.device)?.to_dtype(self.dtype)?;
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
        let draws = CriticDraws::new(real, latent, epsilon);
        Ok(match labels.filter(|_| self.classes.is_some()) {
            Some(labels) => draws.with_labels(labels),
            None => draws,
        })
    }

    /// The latent points of the next generator step, and classes, each as likely as the others.
    pub(super) fn draw_generator(&self) -> Result<GeneratorDraws> {
        let (index, batch_size) = (self.generator_steps, self.config.batch_size);
        let draws = GeneratorDraws::from(self.latent("latent/generator", index, batch_size)?);
        let Some(classes) = self.classes else {
            return Ok(draws);
        };
        let mut stream = Stream::new(self.config.seed, "labels/generator", index);
        let labels = stream.labels(classes, batch_size);
        Ok(draws.with_labels(Tensor::from_vec(labels, batch_size, &Device::Cpu)?))
    }

    /// Latent points from N(0, 1), `(count, latent)`.
    pub(super) fn latent(&self, purpose: &str, index: u64, count: usize) -> Result<Tensor> {
        let shape = (count, self.generator.model().latent_dim());
        Stream::new(self.config.seed, purpose, index).normal(shape, self.dtype, &self.device)
    }
}
