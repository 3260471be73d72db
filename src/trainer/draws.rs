//! The random draws of a step, made from the seed or given by the caller.

use candle_core::{Device, Tensor};

use super::WganTrainer;
use crate::critic::Critic;
use crate::data::{Dataset, Loader};
use crate::error::{Error, Result};
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
    /// The classes `(batch,)` of the real samples, which the generator is asked for as well: for class-conditional models.
    pub labels: Option<Tensor>,
}

impl CriticDraws {
    /// The draws of a step; `epsilon` may be `None` where the strategy does not interpolate.
    #[must_use]
    pub fn new(real: Tensor, latent: Tensor, epsilon: Option<Tensor>) -> Self {
        Self { real, latent, epsilon, labels: None }
    }

    /// Holds the labels, where there are any, to be one for each real sample and each latent point.
    pub(super) fn check(&self) -> Result<()> {
        let Some(labels) = &self.labels else {
            return Ok(());
        };
        let batches = [self.real.dims().first(), self.latent.dims().first()];
        if labels.rank() == 1 && batches.iter().all(|&batch| batch == labels.dims().first()) {
            return Ok(());
        }
        Err(Error::Shape {
            what: "the batch of labels".into(),
            got: labels.dims().to_vec(),
            expected: format!(
                "one label for each of the real samples {:?} and of the latent points {:?}",
                self.real.dims(),
                self.latent.dims()
            ),
        })
    }

    /// The same with the classes `(batch,)` of the samples, of type `u32`.
    #[must_use]
    pub fn with_labels(self, labels: Tensor) -> Self {
        Self { labels: Some(labels), ..self }
    }
}

/// Everything that a generator step draws. A tensor of latent points is enough for unconditional models.
///
/// The tensors are of the models' type and on their device.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GeneratorDraws {
    /// Latent points `(batch, latent)`: Algorithm 1, line 9.
    pub latent: Tensor,
    /// The classes `(batch,)` that the generator is asked for, of type `u32`: for class-conditional models.
    pub labels: Option<Tensor>,
}

impl GeneratorDraws {
    /// The same with classes.
    #[must_use]
    pub fn with_labels(self, labels: Tensor) -> Self {
        Self { labels: Some(labels), ..self }
    }
}

impl From<Tensor> for GeneratorDraws {
    fn from(latent: Tensor) -> Self {
        Self { latent, labels: None }
    }
}

impl From<&Tensor> for GeneratorDraws {
    fn from(latent: &Tensor) -> Self {
        latent.clone().into()
    }
}

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// The draws of the next critic step.
    pub(super) fn draw_critic<D: Dataset>(&self, batches: &mut Loader<D>) -> Result<CriticDraws> {
        let (index, batch_size) = (self.critic_steps, self.config.batch_size);
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
