//! The loop.

use std::collections::BTreeMap;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use super::{CriticReport, WganTrainer};
use crate::critic::Critic;
use crate::data::{Dataset, Loader};
use crate::error::{Error, Result};
use crate::generator::{Generator, generate, labels_in_turn};
use crate::history::{History, Record};
use crate::network::Network;
use crate::observers::{Every, Models, Snapshot};

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// Trains for [`generator_steps`](crate::TrainConfig::generator_steps) and returns a record of each.
    ///
    /// A second call goes on where the first ended: two calls of N steps equal one of 2 N, and observers see one
    /// history.
    ///
    /// # Errors
    /// Before the first step: [`Error::DatasetTooSmall`](crate::Error::DatasetTooSmall),
    /// [`Error::NonFiniteData`](crate::Error::NonFiniteData), [`Error::Shape`](crate::Error::Shape) for models
    /// that do not take the data, [`Error::BatchNormUnderPenalty`](crate::Error::BatchNormUnderPenalty), and
    /// whatever an observer's start returns. Later: those of the steps and the observers.
    pub fn fit<D: Dataset + ?Sized>(&mut self, data: &D) -> Result<History> {
        let mut batches = Loader::new(data, self.config.batch_size, self.config.seed)?;
        batches.seek(self.critic_steps);
        self.check_models(data)?;
        self.check_labels(data)?;
        data.ensure_finite()?;
        let total = self.generator_steps.saturating_add(self.config.generator_steps);
        self.start_observers(total)?;

        let first = self.history.len();
        let earlier = self.history.last().map_or(0.0, |record| record.seconds);
        let started = Instant::now();
        while self.generator_steps < total {
            let mut critic = CriticReport::default();
            for _ in 0..self.config.n_critic {
                let draws = self.draw_critic(&mut batches)?;
                critic = self.critic_step(&draws)?;
            }
            let generator = self.generator_step(self.draw_generator()?)?;
            self.history.push(Record {
                step: self.generator_steps,
                wasserstein_estimate: critic.wasserstein_estimate,
                critic_loss: critic.loss,
                penalty: critic.penalty,
                generator_loss: generator.loss,
                gradient_norm: generator.gradient_norm,
                seconds: earlier + started.elapsed().as_secs_f64(),
            });
            self.notify(total)?;
        }
        Ok(self.history[first..].to_vec())
    }

    /// Lets every observer refuse before the first of them replaces a file.
    fn start_observers(&mut self, total_steps: u64) -> Result<()> {
        let models = View { generator: &self.generator, critic: &self.critic };
        for (every, observer) in &mut self.observers {
            if *every == Every::Steps(0) {
                return Err(Error::config("an observer's interval in steps", 0, "1 or more"));
            }
            observer.prepare(&models)?;
        }
        for (_, observer) in &mut self.observers {
            observer.on_start(total_steps)?;
        }
        Ok(())
    }

    /// Shows the last record to every observer that is due.
    fn notify(&mut self, total_steps: u64) -> Result<()> {
        let Self { generator, critic, config, history, observers, .. } = self;
        let Some(record) = history.last() else {
            return Ok(());
        };
        let snapshot = Snapshot {
            record,
            history,
            total_steps,
            samples_per_step: config.n_critic.saturating_mul(config.batch_size),
            models: &View { generator, critic },
        };
        for (every, observer) in observers {
            if every.selects(record.step) {
                observer.on_step(&snapshot)?;
            }
            if record.step == total_steps {
                observer.on_end(&snapshot)?;
            }
        }
        Ok(())
    }
}

/// The models as observers see them.
struct View<'a, G, C> {
    generator: &'a Network<G>,
    critic: &'a Network<C>,
}

impl<G: Generator, C: Critic> Models for View<'_, G, C> {
    fn generate(&self, latent: &Tensor) -> Result<Tensor> {
        let labels = labels_in_turn(self.generator.model(), 0, latent.dim(0)?)?;
        Ok(generate(self.generator.model(), latent, labels.as_ref(), false)?.detach())
    }

    fn latent_dim(&self) -> usize {
        self.generator.model().latent_dim()
    }

    fn device(&self) -> &Device {
        self.generator.parameters().place().map_or(&Device::Cpu, |(device, _)| device)
    }

    fn dtype(&self) -> DType {
        self.generator.parameters().place().map_or(DType::F32, |(_, dtype)| dtype)
    }

    fn generator_tensors(&self) -> BTreeMap<String, Tensor> {
        self.generator.parameters().tensors()
    }

    fn critic_tensors(&self) -> BTreeMap<String, Tensor> {
        self.critic.parameters().tensors()
    }
}
