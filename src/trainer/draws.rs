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
    /// The draws of the critic step after so many, which must be that of the next batch. The latent points, most of the numbers, are
    /// drawn on whichever thread calls what is returned.
    pub(super) fn draw_critic<D: Dataset>(
        &self,
        batches: &mut Loader<D>,
        index: u64,
    ) -> Result<impl FnOnce() -> Result<CriticDraws> + Send + use<G, C, D>> {
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
        Ok(move || Ok(CriticDraws { real, latent: latent.draw()?, epsilon, labels }))
    }

    /// The same of the next generator step: latent points, and classes, each as likely as the others.
    pub(super) fn draw_generator(
        &self,
    ) -> impl FnOnce() -> Result<GeneratorDraws> + Send + use<G, C> {
        let (index, batch_size) = (self.generator_steps, self.config.batch_size);
        let latent = self.latent_points("latent/generator", index, batch_size);
        let mut stream = Stream::new(self.config.seed, "labels/generator", index);
        let classes = self.classes;
        move || {
            let labels = classes.map(|classes| {
                let labels = stream.labels(classes, batch_size);
                Tensor::from_vec(labels, batch_size, &Device::Cpu)
            });
            Ok(GeneratorDraws { latent: latent.draw()?, labels: labels.transpose()? })
        }
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
