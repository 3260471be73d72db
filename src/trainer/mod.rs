//! Algorithm 1 of the WGAN paper, and nothing else.

mod at_once;
mod checks;
mod critic_alone;
mod critic_loss;
mod draws;
mod fit;
mod gradient_probe;
mod locate;
mod report;
mod resume;
mod round;
mod view;

pub use critic_alone::CriticTrainer;
pub use report::{CriticReport, GeneratorReport};

use std::path::PathBuf;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};

use crate::average::Average;
use crate::checkpoint::{Checkpoints, DataIdentity};
use crate::config::TrainConfig;
use crate::critic::{Critic, given, score};
use crate::diagnosis::{Diagnosis, diagnose};
use crate::draws::{CriticDraws, GeneratorDraws};
use crate::error::{Error, Result};
use crate::generator::{Generator, generate, labels_in_turn};
use crate::history::History;
use crate::kernels;
use crate::losses::{Batching, generator_loss};
use crate::network::Network;
use crate::observers::{Every, Observer, Watch};
use crate::optimizers::{Optimizer, Updater};
use crate::parameters::Parameters;
use crate::second_order::Traced;
use crate::stop::Ended;
use at_once::PassSize;
use gradient_probe::GradientProbe;
use report::Failure;

/// Trains a Wasserstein GAN: `n_critic` critic steps, then one generator step, over and over.
///
/// ```
/// use candle_core::{DType, Device};
/// use wgan::data::TensorDataset;
/// use wgan::random::Stream;
/// use wgan::zoo::{MlpCritic, MlpCriticConfig, MlpGenerator, MlpGeneratorConfig};
/// use wgan::{ModelBuilder, TrainConfig, WganTrainer};
/// # fn main() -> wgan::Result<()> {
/// let data = TensorDataset::new(Stream::new(1, "data", 0).normal((256, 2), DType::F32, &Device::Cpu)?)?;
/// let build = ModelBuilder::new(1);
/// let generator = build.generator(|vb| {
///     let config = MlpGeneratorConfig {
///         latent_dim: 2,
///         hidden: vec![32, 32],
///         sample_shape: vec![2],
///         output_activation: wgan::layers::Activation::Identity,
///         ..Default::default()
///     };
///     MlpGenerator::new(config, vb)
/// })?;
/// let critic = build.critic(|vb| {
///     let config = MlpCriticConfig { sample_shape: vec![2], hidden: vec![32, 32], ..Default::default() };
///     MlpCritic::new(config, vb)
/// })?;
/// let config = TrainConfig { generator_steps: 3, ..TrainConfig::wgan_gp() };
/// let mut trainer = WganTrainer::new(generator, critic, config)?;
/// let history = trainer.fit(&data)?;
/// assert_eq!(history.len(), 3);
/// assert!(history[2].wasserstein_estimate.is_finite());
/// # Ok(())
/// # }
/// ```
///
/// While a trainer of large models on the CPU lives, the GNU C library's allocator keeps what is freed for the next step, in the whole
/// process (`M_MMAP_MAX` is 0 and `M_TRIM_THRESHOLD` -1), and gives most of it back with the last such trainer. Where the environment
/// has set these or the like (`MALLOC_TRIM_THRESHOLD_`), they stay as they are.
pub struct WganTrainer<G, C> {
    generator: Network<G>,
    critic: Network<C>,
    config: TrainConfig,
    generator_updates: Updater,
    critic_updates: Updater,
    average: Option<Average>,
    own_n_critic: Option<Box<dyn Fn(u64) -> usize>>,
    observers: Vec<(Every, Box<dyn Observer>)>,
    device: Device,
    dtype: DType,
    batching: Batching,
    /// How large the critic's pass over both batches is.
    critic_pass_size: PassSize,
    /// How large the generator's pass is.
    generator_pass_size: PassSize,
    classes: Option<usize>,
    history: History,
    ended: Option<Ended>,
    checkpoints: Option<Checkpoints>,
    data: Option<DataIdentity>,
    /// The data of the checkpoint that the run was restored from, until a `fit` has seen it.
    expected_data: Option<(PathBuf, DataIdentity)>,
    generator_steps: u64,
    critic_steps: u64,
}

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// A trainer before its first step.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a setting outside its range or a model without
    /// parameters; [`Error::DeviceMismatch`](crate::Error::DeviceMismatch) and
    /// [`Error::DType`](crate::Error::DType) for models that do not fit together, such as a conditional one and one that is not.
    pub fn new(generator: Network<G>, critic: Network<C>, config: TrainConfig) -> Result<Self> {
        config.check()?;
        let place = checks::common_place(generator.parameters(), critic.parameters())?;
        Self::assemble(generator, critic, config, place)
    }

    /// Of models and settings that were checked.
    fn assemble(
        generator: Network<G>,
        critic: Network<C>,
        config: TrainConfig,
        (device, dtype): (Device, DType),
    ) -> Result<Self> {
        kernels::memory::keep_for_next_step();
        Ok(Self {
            batching: Batching::for_critic(critic.parameters()),
            critic_pass_size: PassSize::default(),
            generator_pass_size: PassSize::default(),
            classes: checks::common_classes(generator.model(), critic.model())?,
            generator_updates: Updater::new(
                "generator",
                config.generator_optimizer.build(),
                config.generator_updates.clone(),
                generator.parameters(),
            )?,
            critic_updates: Updater::new(
                "critic",
                config.critic_optimizer.build(),
                config.critic_updates.clone(),
                critic.parameters(),
            )?,
            average: config.ema.map(Average::new),
            own_n_critic: None,
            observers: vec![(Every::Step, Box::new(Watch::new(config.lipschitz)))],
            generator,
            critic,
            config,
            history: History::new(),
            ended: None,
            checkpoints: None,
            data: None,
            expected_data: None,
            device,
            dtype,
            generator_steps: 0,
            critic_steps: 0,
        })
    }

    /// Adds an observer, which [`fit`](Self::fit) calls at the given interval.
    #[must_use]
    pub fn observe(mut self, every: Every, observer: impl Observer + 'static) -> Self {
        self.observers.push((every, Box::new(observer)));
        self
    }

    /// Puts an optimiser of the caller's own in the place of the configured one, with the same schedule, groups and
    /// clipping around it. For a trainer before its first step.
    #[must_use]
    pub fn with_critic_optimizer(mut self, optimizer: impl Optimizer + 'static) -> Self {
        self.critic_updates.set_optimizer(Box::new(optimizer));
        self
    }

    /// The same for the generator.
    #[must_use]
    pub fn with_generator_optimizer(mut self, optimizer: impl Optimizer + 'static) -> Self {
        self.generator_updates.set_optimizer(Box::new(optimizer));
        self
    }

    /// Multiplies the critic's learning rate at each step by a function of the number of generator steps done, in addition
    /// to the configured schedule. It must give a finite factor of at least 0, and the same one at every call: a run that
    /// is continued asks again.
    ///
    /// ```
    /// # use wgan::{ModelBuilder, TrainConfig, WganTrainer};
    /// # use wgan::zoo::{MlpCritic, MlpGenerator};
    /// # fn main() -> wgan::Result<()> {
    /// # let build = ModelBuilder::new(0);
    /// # let generator = build.generator(|vb| MlpGenerator::new(Default::default(), vb))?;
    /// # let critic = build.critic(|vb| MlpCritic::new(Default::default(), vb))?;
    /// let trainer = WganTrainer::new(generator, critic, TrainConfig::wgan_gp())?
    ///     .with_critic_schedule(|step| 1.0 / (1.0 + step as f64 / 1000.0).sqrt())
    ///     .with_n_critic(|step| if step < 50 { 20 } else { 5 });
    /// # drop(trainer);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_critic_schedule(mut self, factor: impl Fn(u64) -> f64 + 'static) -> Self {
        self.critic_updates.set_schedule(Box::new(factor));
        self
    }

    /// The same for the generator's learning rate.
    #[must_use]
    pub fn with_generator_schedule(mut self, factor: impl Fn(u64) -> f64 + 'static) -> Self {
        self.generator_updates.set_schedule(Box::new(factor));
        self
    }

    /// Takes `n_critic` from a function of the number of generator steps done instead of from the settings. It must give 1
    /// or more, and the same number at every call.
    #[must_use]
    pub fn with_n_critic(mut self, n_critic: impl Fn(u64) -> usize + 'static) -> Self {
        self.own_n_critic = Some(Box::new(n_critic));
        self
    }

    /// One update of the critic: lines 3 to 7 of Algorithm 1, given the draws of lines 3 and 4.
    ///
    /// # Errors
    /// [`Error::NonFinite`](crate::Error::NonFinite) before a parameter is changed, where the loss or a gradient is not
    /// finite; those of the models and the optimiser.
    pub fn critic_step(&mut self, draws: &CriticDraws) -> Result<CriticReport> {
        let fake = generated(self.generator.model(), draws)?;
        let gradients = self.critic_gradients(draws, &fake);
        self.update_critic(draws, gradients)
    }

    /// Lines 6 and 7 of Algorithm 1: the update, and the clamp where weights are clipped.
    fn update_critic(
        &mut self,
        draws: &CriticDraws,
        gradients: Result<(CriticReport, GradStore), Failure>,
    ) -> Result<CriticReport> {
        let (report, gradients) =
            gradients.map_err(|failure| self.located_in_critic_step(failure, draws))?;
        let clip = self.config.lipschitz.bound().unwrap_or(f64::INFINITY);
        let parameters = self.critic.parameters();
        self.critic_updates.step(parameters, gradients, self.generator_steps, clip)?;
        self.critic_steps += 1;
        Ok(report)
    }

    /// One update of the generator: lines 9 to 11 of Algorithm 1, given the latent points of line 9,
    /// `(batch, latent)`, and classes where the models have them. The critic's parameters are constants in it.
    ///
    /// # Errors
    /// [`Error::NonFinite`](crate::Error::NonFinite) before a parameter is changed, where the loss or a gradient is not
    /// finite; those of the models and the optimiser.
    pub fn generator_step(&mut self, draws: impl Into<GeneratorDraws>) -> Result<GeneratorReport> {
        let draws = draws.into();
        let fake = learning_samples(self.generator.model(), &draws)?;
        self.update_generator(&draws, fake)
    }

    /// Lines 10 and 11 of Algorithm 1: the gradients of the loss at these samples, and the update.
    fn update_generator(
        &mut self,
        draws: &GeneratorDraws,
        fake: Traced,
    ) -> Result<GeneratorReport> {
        let probe = GradientProbe::default();
        let fake = fake.watched(probe.looking()).freeze();
        let critic = given(self.critic.model(), draws.labels.as_ref());
        let loss = generator_loss(&score(&*critic, &fake)?)?;
        drop(fake); // so that the backward pass frees what it holds as it goes

        let value = loss.detach();
        let gradients = self.finite_generator_gradients(loss, draws)?;
        let report = GeneratorReport::read(value, &probe, draws.latent.dim(0)?, self.step())?;

        self.generator_updates.step(
            self.generator.parameters(),
            gradients,
            self.generator_steps,
            f64::INFINITY,
        )?;
        self.generator_steps += 1;
        if let Some(average) = &mut self.average {
            average.follow(self.generator.parameters(), self.generator_steps)?;
        }
        Ok(report)
    }

    /// Looks at both models as they are, on draws like those of a critic step and, where they are given, on draws whose real
    /// samples the critic is not trained on. The generator is the one that is trained, not its average. Nothing changes; it
    /// costs about four critic steps.
    ///
    /// The observer [`Diagnostics`](crate::observers::Diagnostics) writes it at intervals of a run.
    ///
    /// # Errors
    /// Those of a critic step; [`Error::Shape`](crate::Error::Shape) for draws without epsilon.
    pub fn diagnose(
        &self,
        training: &CriticDraws,
        held_out: Option<&CriticDraws>,
    ) -> Result<Diagnosis> {
        let (generator, critic) = (&self.generator, &self.critic);
        diagnose(generator, critic, self.config.lipschitz, training, held_out)
    }

    /// Draws samples `(count, ...)` from the generator in evaluation mode.
    ///
    /// They come from the generator's moving average where [`ema`](crate::TrainConfig::ema) is on. The latent points are
    /// those of the seed, the same at every call; a class-conditional generator makes each class in turn. Samples are made some hundred at a time, so that the memory in use is little more than that of the result.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a count of 0; the generator's.
    pub fn sample(&self, count: usize) -> Result<Tensor> {
        const AT_ONCE: usize = 512;
        if count == 0 {
            return Err(Error::config("the number of samples", count, "1 or more"));
        }
        let batches = (0..count.div_ceil(AT_ONCE)).map(|i| {
            let size = AT_ONCE.min(count - i * AT_ONCE);
            let latent = self.latent("latent/samples", i as u64, size)?;
            let labels = labels_in_turn(self.generator.model(), i * AT_ONCE, size)?;
            Ok(generate(self.generator.model(), &latent, labels.as_ref(), false)?.detach())
        });
        let batches =
            self.generator.averaged(self.average(), || batches.collect::<Result<Vec<_>>>())?;
        Ok(Tensor::cat(&batches, 0)?)
    }

    /// The moving average of the generator's parameters, with its buffers as they are now: `None` before the first step and
    /// where [`ema`](crate::TrainConfig::ema) is off. [`Parameters::save`] writes it like any generator's weights.
    pub fn average(&self) -> Option<&Parameters> {
        self.average.as_ref().and_then(Average::values)
    }

    /// Why the last call of [`fit`](Self::fit) ended; `None` where there was none or it ended with an error.
    pub fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    /// The generator with its parameters.
    pub fn generator(&self) -> &Network<G> {
        &self.generator
    }

    /// The critic with its parameters.
    pub fn critic(&self) -> &Network<C> {
        &self.critic
    }

    /// The settings.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The number of the generator step that is under way, counted from 1.
    fn step(&self) -> u64 {
        self.generator_steps + 1
    }

    /// Critic steps before the next generator step.
    fn n_critic(&self) -> Result<usize> {
        let step = self.generator_steps;
        let Some(own) = &self.own_n_critic else {
            return Ok(self.config.n_critic_schedule.at(step, self.config.n_critic));
        };
        match own(step) {
            0 => {
                let what = format!("the trainer's own n_critic at step {step}");
                Err(Error::config(what, 0, "1 or more"))
            }
            n_critic => Ok(n_critic),
        }
    }

    /// Generator steps done so far.
    pub fn steps(&self) -> u64 {
        self.generator_steps
    }

    /// The models, without the trainer.
    pub fn into_networks(self) -> (Network<G>, Network<C>) {
        (self.generator, self.critic)
    }
}

/// The samples that a critic step compares with the real ones: constants in it.
fn generated<G: Generator + ?Sized>(generator: &G, draws: &CriticDraws) -> Result<Tensor> {
    draws.check()?;
    let CriticDraws { latent, labels, .. } = draws;
    let fake = generator.forward_traced(&Traced::frozen(latent), labels.as_ref(), true)?;
    Ok(fake.detach())
}

/// The samples that a generator step shows to the critic: the generator learns from their scores.
fn learning_samples<G: Generator + ?Sized>(
    generator: &G,
    GeneratorDraws { latent, labels }: &GeneratorDraws,
) -> Result<Traced> {
    let latent = Traced::untracked(latent);
    checks::tracked(generator.forward_traced(&latent, labels.as_ref(), true)?)
}

impl<G, C> std::fmt::Debug for WganTrainer<G, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WganTrainer")
            .field("config", &self.config)
            .field("generator_steps", &self.generator_steps)
            .field("critic_steps", &self.critic_steps)
            .finish_non_exhaustive()
    }
}
