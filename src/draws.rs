//! The random draws of a step, as values: made from the seed by a run, or given by the caller.

use candle_core::Tensor;

use crate::error::{Error, Result};

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
    pub(crate) fn check(&self) -> Result<()> {
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
