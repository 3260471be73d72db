//! A critic trained alone, between two distributions that stay as they are.

use candle_core::Tensor;

use super::{CriticReport, WganTrainer, checks};
use crate::config::TrainConfig;
use crate::critic::Critic;
use crate::draws::CriticDraws;
use crate::error::{Error, Result};
use crate::generator::Generator;
use crate::losses::wasserstein_estimate;
use crate::network::{ModelBuilder, Network};
use crate::random::Stream;
use crate::second_order::Traced;

/// Trains a critic alone, on samples of two distributions that the caller draws: the inner loop of Algorithm 1, with no
/// generator around it. What it ends with estimates the Wasserstein-1 distance between the two.
///
/// Of the settings those of the critic count: `lipschitz`, `critic_optimizer`, `critic_updates`, and `seed` for the
/// coefficients of the interpolates. Schedules count critic steps.
///
/// ```
/// use candle_core::{DType, Device};
/// use wgan::random::Stream;
/// use wgan::zoo::{MlpCritic, MlpCriticConfig};
/// use wgan::{CriticTrainer, ModelBuilder, TrainConfig};
/// # fn main() -> wgan::Result<()> {
/// let config = MlpCriticConfig { sample_shape: vec![1], hidden: vec![32, 32], ..Default::default() };
/// let critic = ModelBuilder::new(0).critic(|vb| MlpCritic::new(config, vb))?;
/// let mut trainer = CriticTrainer::new(critic, TrainConfig::wgan_gp())?;
/// for step in 0..20 {
///     let real = Stream::new(0, "real", step).normal((64, 1), DType::F32, &Device::Cpu)?;
///     let fake = (Stream::new(0, "fake", step).normal((64, 1), DType::F32, &Device::Cpu)? + 2.0)?;
///     let report = trainer.step(&real, &fake)?;
///     assert!(report.loss.is_finite());
/// }
/// assert_eq!(trainer.steps(), 20);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CriticTrainer<C>(WganTrainer<Given, C>);

impl<C: Critic> CriticTrainer<C> {
    /// A trainer before its first step.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a setting outside its range, a critic without parameters and a class-conditional one;
    /// [`Error::DType`] for parameters that are neither `F32` nor `F64`.
    pub fn new(critic: Network<C>, config: TrainConfig) -> Result<Self> {
        config.check()?;
        let place = checks::common_place(critic.parameters(), critic.parameters())?;
        let given = ModelBuilder::new(config.seed).generator(|_| Ok(Given))?;
        WganTrainer::assemble(given, critic, config, place).map(Self)
    }

    /// One update of the critic on a batch of each distribution, `(batch, ...)`, of the critic's type and on its device.
    ///
    /// # Errors
    /// [`Error::Shape`] for batches that do not fit each other or the critic; [`Error::NonFinite`] before a parameter is
    /// changed.
    pub fn step(&mut self, real: &Tensor, fake: &Tensor) -> Result<CriticReport> {
        if real.dims() != fake.dims() || real.rank() == 0 {
            return Err(Error::Shape {
                what: "the generated batch".into(),
                got: fake.dims().to_vec(),
                expected: format!("{:?}, the real batch's shape, (batch, ...)", real.dims()),
            });
        }
        let Self(trainer) = self;
        let mut epsilon = Stream::new(trainer.config.seed, "epsilon", trainer.critic_steps);
        let (dtype, device) = (trainer.dtype, &trainer.device);
        let epsilon = epsilon.uniform(0.0, 1.0, real.dims()[0], dtype, device)?;
        let draws = CriticDraws::new(real.clone(), fake.clone(), Some(epsilon));
        let report = trainer.critic_step(&draws)?;
        trainer.generator_steps = trainer.critic_steps; // which schedules count
        Ok(report)
    }

    /// mean f(real) - mean f(fake) of the critic as it is, for batches of any size.
    ///
    /// # Errors
    /// Those of the critic; [`Error::NonFiniteData`] for an estimate that is NaN or infinite.
    pub fn estimate(&self, real: &Tensor, fake: &Tensor) -> Result<f64> {
        let Self(trainer) = self;
        let estimate = wasserstein_estimate(trainer.critic.model(), real, fake, trainer.batching)?;
        let value = super::report::number(estimate.detach())?;
        if !value.is_finite() {
            let what = "the critic's estimate, from the samples or the weights that it has,".into();
            return Err(Error::NonFiniteData { what, value, position: vec![] });
        }
        Ok(value)
    }

    /// The critic with its parameters.
    pub fn critic(&self) -> &Network<C> {
        &self.0.critic
    }

    /// The steps done so far.
    pub fn steps(&self) -> u64 {
        self.0.critic_steps
    }

    /// The critic, without the trainer.
    pub fn into_network(self) -> Network<C> {
        self.0.critic
    }
}

/// Stands where the generator would: what it is given are the samples.
#[derive(Debug)]
struct Given;

impl Generator for Given {
    fn latent_dim(&self) -> usize {
        0
    }

    fn forward(&self, samples: &Tensor, _train: bool) -> Result<Tensor> {
        Ok(samples.clone())
    }

    fn forward_traced(
        &self,
        samples: &Traced,
        _labels: Option<&Tensor>,
        _train: bool,
    ) -> Result<Traced> {
        Ok(samples.clone())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::optimizers::UpdateConfig;
    use crate::schedules::RateSchedule;
    use crate::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};

    fn critic() -> Network<MlpCritic> {
        let config =
            MlpCriticConfig { sample_shape: vec![2], hidden: vec![8], ..Default::default() };
        ModelBuilder::new(3).dtype(DType::F64).critic(|vb| MlpCritic::new(config, vb)).unwrap()
    }

    fn normal(purpose: &str, step: u64) -> Tensor {
        Stream::new(5, purpose, step).normal((6, 2), DType::F64, &Device::Cpu).unwrap()
    }

    fn weights<C>(critic: &Network<C>) -> Vec<f64> {
        let tensors = critic.parameters().tensors().into_values();
        tensors.flat_map(|t| t.flatten_all().unwrap().to_vec1::<f64>().unwrap()).collect()
    }

    /// A step alone is the critic step of a whole trainer on what its generator makes, to the bit.
    #[test]
    fn a_step_is_that_of_the_whole_algorithm() -> Result<()> {
        for config in [TrainConfig::wgan(), TrainConfig::wgan_gp(), TrainConfig::wgan_div()] {
            let generator_config = MlpGeneratorConfig {
                latent_dim: 2,
                hidden: vec![4],
                sample_shape: vec![2],
                batch_norm: false,
                ..Default::default()
            };
            let generator = ModelBuilder::new(4)
                .dtype(DType::F64)
                .generator(|vb| MlpGenerator::new(generator_config, vb))?;
            let mut whole = WganTrainer::new(generator, critic(), config.clone())?;
            let mut alone = CriticTrainer::new(critic(), config.clone())?;
            for step in 0..3 {
                let (real, latent) = (normal("real", step), normal("latent", step));
                let fake = whole.generator().model().forward(&latent, true)?.detach();
                let epsilon = Stream::new(config.seed, "epsilon", step).uniform(
                    0.0,
                    1.0,
                    6,
                    DType::F64,
                    &Device::Cpu,
                )?;
                let report = alone.step(&real, &fake)?;
                let draws = CriticDraws::new(real.clone(), latent, Some(epsilon));
                assert_eq!(whole.critic_step(&draws)?, report);
                assert_eq!(weights(whole.critic()), weights(alone.critic()));
            }
        }
        Ok(())
    }

    #[test]
    fn the_estimate_is_the_difference_of_the_mean_scores() -> Result<()> {
        let trainer = CriticTrainer::new(critic(), TrainConfig::wgan_gp())?;
        let (real, fake) = (normal("real", 0), normal("fake", 0).narrow(0, 0, 4)?);
        let mean = |x: &Tensor| -> Result<f64> {
            Ok(trainer.critic().model().scores(x)?.mean_all()?.to_scalar()?)
        };
        let expected = mean(&real)? - mean(&fake)?;
        assert!((trainer.estimate(&real, &fake)? - expected).abs() < 1e-14);
        for bad in [f64::NAN, f64::INFINITY] {
            let bad = trainer.estimate(&(&real * bad)?, &fake);
            assert!(matches!(bad, Err(Error::NonFiniteData { .. })), "{bad:?}");
        }
        Ok(())
    }

    #[test]
    fn schedules_count_its_steps() -> Result<()> {
        let updates = UpdateConfig { schedule: RateSchedule::linear(0, 2), ..Default::default() };
        let config = TrainConfig { critic_updates: updates, ..TrainConfig::wgan_gp() };
        let mut trainer = CriticTrainer::new(critic(), config)?;
        let mut previous = weights(trainer.critic());
        for (step, moves) in [true, true, false].into_iter().enumerate() {
            trainer.step(&normal("real", step as u64), &normal("fake", step as u64))?;
            let now = weights(trainer.critic());
            assert_eq!(now != previous, moves, "step {step}");
            previous = now;
        }
        assert_eq!(trainer.steps(), 3);
        Ok(())
    }

    #[test]
    fn batches_that_do_not_fit_are_refused() -> Result<()> {
        let mut trainer = CriticTrainer::new(critic(), TrainConfig::wgan())?;
        let (real, fake) = (normal("real", 0), normal("fake", 0).narrow(0, 0, 4)?);
        assert!(matches!(trainer.step(&real, &fake), Err(Error::Shape { .. })));
        let scalar = Tensor::new(1f64, &Device::Cpu)?;
        assert!(matches!(trainer.step(&scalar, &scalar), Err(Error::Shape { .. })));
        Ok(())
    }
}
