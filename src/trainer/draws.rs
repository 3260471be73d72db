//! The random draws of a step, made from the seed.

use candle_core::{DType, Device, Tensor};

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
    ) -> Result<DrawnForCritic> {
        let batch_size = self.config.batch_size;
        let (real, labels) = batches.next_labelled_batch()?;
        let real = real.to_device(&self.device)?.to_dtype(self.dtype)?;
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
        let labels = labels.filter(|_| self.classes.is_some());
        let latent = self.latent_points("latent/critic", index, batch_size);
        Ok(DrawnForCritic { real, epsilon, labels, latent })
    }

    /// The latent points of the next generator step, and classes, each as likely as the others.
    pub(super) fn draw_generator(&self) -> Result<DrawnForGenerator> {
        let (index, batch_size) = (self.generator_steps, self.config.batch_size);
        let latent = self.latent_points("latent/generator", index, batch_size);
        let labels = self.classes.map(|classes| {
            let mut stream = Stream::new(self.config.seed, "labels/generator", index);
            Tensor::from_vec(stream.labels(classes, batch_size), batch_size, &Device::Cpu)
        });
        Ok(DrawnForGenerator { latent, labels: labels.transpose()? })
    }

    /// Latent points from N(0, 1), `(count, latent)`.
    pub(super) fn latent(&self, purpose: &str, index: u64, count: usize) -> Result<Tensor> {
        self.latent_points(purpose, index, count).draw()
    }

    fn latent_points(&self, purpose: &str, index: u64, count: usize) -> LatentPoints {
        LatentPoints {
            stream: Stream::new(self.config.seed, purpose, index),
            shape: (count, self.generator.model().latent_dim()),
            dtype: self.dtype,
            device: self.device.clone(),
        }
    }
}

/// Latent points that are yet to be drawn, on whichever thread.
struct LatentPoints {
    stream: Stream,
    shape: (usize, usize),
    dtype: DType,
    device: Device,
}

impl LatentPoints {
    fn draw(mut self) -> Result<Tensor> {
        self.stream.normal(self.shape, self.dtype, &self.device)
    }
}

/// The draws of a critic step, of which the latent points are yet to be made: most of the numbers.
pub(super) struct DrawnForCritic {
    real: Tensor,
    epsilon: Option<Tensor>,
    labels: Option<Tensor>,
    latent: LatentPoints,
}

impl DrawnForCritic {
    pub(super) fn complete(self) -> Result<CriticDraws> {
        let draws = CriticDraws::new(self.real, self.latent.draw()?, self.epsilon);
        Ok(CriticDraws { labels: self.labels, ..draws })
    }
}

/// The same for a generator step.
pub(super) struct DrawnForGenerator {
    latent: LatentPoints,
    labels: Option<Tensor>,
}

impl DrawnForGenerator {
    pub(super) fn complete(self) -> Result<GeneratorDraws> {
        Ok(GeneratorDraws { latent: self.latent.draw()?, labels: self.labels })
    }
}
