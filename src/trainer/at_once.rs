//! What is made at once, on two threads, and what is kept of the memory of large passes.
//!
//! Passes that are made beside each other hold the activations of both. Where these are small that costs little, and saves sharing
//! short loops. Where they are large, loops are long enough to be shared without a loss, and memory is what counts. The results
//! are the same to the last bit.

use std::sync::OnceLock;

use super::WganTrainer;
use crate::critic::Critic;
use crate::generator::Generator;
use crate::kernels::has_helpers;
use crate::kernels::memory::Kept;
use crate::losses::Batching;
use crate::second_order::Traced;

/// How large a pass is: the size of all of its results, as its first run shows. The batches of a run are of one size.
#[derive(Debug, Default)]
pub(super) struct PassSize(OnceLock<(usize, Option<Kept>)>);

impl PassSize {
    /// 32 MiB: a DCGAN of 32 pixels and width 32 still gains at batch 64, and larger pairs do not.
    const SMALL: usize = 32 << 20;

    /// Looks at what a run of the pass ends with. The memory of a large one is kept from then on.
    pub(super) fn see(&self, end: &Traced) {
        self.0.get_or_init(|| {
            let bytes = end.pass_bytes();
            let large = bytes > Self::SMALL && end.device().is_cpu();
            (bytes, large.then(Kept::new).flatten())
        });
    }

    /// Not before it was seen.
    fn is_small(&self) -> bool {
        self.0.get().is_some_and(|&(bytes, _)| bytes <= Self::SMALL)
    }
}

impl<G: Generator, C: Critic> WganTrainer<G, C> {
    /// Whether the penalty is made at once with the way back of the estimate, which must not see what the penalty's pass changes.
    /// So not for a critic with buffers; and one thread would hold both passes for nothing.
    pub(super) fn makes_two_terms_at_once(&self) -> bool {
        let two = self.config.lipschitz.penalises() && self.batching == Batching::Together;
        two && has_helpers() && self.device.is_cpu() && self.critic_pass_size.is_small()
    }

    /// The generator, where it makes samples at once with the critic's gradients at others.
    pub(super) fn generator_beside_the_critic(&self) -> Option<&(dyn Generator + Sync)> {
        let small = self.critic_pass_size.is_small() && self.generator_pass_size.is_small();
        self.generator.model().as_sync().filter(|_| self.device.is_cpu() && small)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use crate::data::TensorDataset;
    use crate::error::Result;
    use crate::random::Stream;
    use crate::zoo::{
        CriticNorm, DcganCritic, DcganCriticConfig, MlpCritic, MlpCriticConfig, MlpGenerator,
        MlpGeneratorConfig as GeneratorConfig,
    };
    use crate::{Critic, ModelBuilder, Network, TrainConfig, WganTrainer};

    /// What is made at once before two steps and after them: the critic's terms, and samples.
    type AtOnce = [(bool, bool); 2];

    fn on_threads(threads: usize, run: impl FnOnce() -> Result<AtOnce> + Send) -> Result<AtOnce> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(run)
    }

    /// Of a pair with hidden layers of these sizes, on two threads.
    fn at_once(critic: usize, generator: usize, config: TrainConfig) -> Result<AtOnce> {
        on_threads(2, || of_mlps(critic, generator, config))
    }

    fn of_mlps(critic: usize, generator: usize, config: TrainConfig) -> Result<AtOnce> {
        let sample_shape = vec![2];
        let settings = MlpCriticConfig { sample_shape, hidden: vec![critic], ..Default::default() };
        let critic = ModelBuilder::new(0).critic(|vb| MlpCritic::new(settings, vb))?;
        of_critic(critic, vec![2], generator, config)
    }

    fn of_critic<C: Critic>(
        critic: Network<C>,
        sample_shape: Vec<usize>,
        generator: usize,
        config: TrainConfig,
    ) -> Result<AtOnce> {
        let shape = [&[64], sample_shape.as_slice()].concat();
        let samples = Stream::new(0, "data", 0).normal(shape, DType::F32, &Device::Cpu)?;
        let hidden = vec![generator];
        let settings =
            GeneratorConfig { latent_dim: 2, hidden, sample_shape, ..Default::default() };
        let generator = ModelBuilder::new(0).generator(|vb| MlpGenerator::new(settings, vb))?;
        let config = TrainConfig { generator_steps: 2, n_critic: 2, batch_size: 64, ..config };
        let mut trainer = WganTrainer::new(generator, critic, config)?;
        let of = |trainer: &WganTrainer<_, _>| {
            let terms = trainer.makes_two_terms_at_once();
            (terms, trainer.generator_beside_the_critic().is_some())
        };
        let before = of(&trainer);
        trainer.fit(&TensorDataset::new(samples)?)?;
        Ok([before, of(&trainer)])
    }

    #[test]
    fn small_passes_are_made_at_once() -> Result<()> {
        let unseen = (false, false);
        assert_eq!(at_once(16, 16, TrainConfig::wgan_gp())?, [unseen, (true, true)]);
        assert_eq!(at_once(16, 16, TrainConfig::wgan())?, [unseen, (false, true)], "one term");
        Ok(())
    }

    /// Each pass of spectral normalisation moves its buffers.
    #[test]
    fn terms_of_a_critic_with_buffers_are_made_one_after_the_other() -> Result<()> {
        let settings = DcganCriticConfig {
            image_size: 28,
            channels: 1,
            width: 2,
            norm: CriticNorm::None,
            spectral_norm: true,
            ..Default::default()
        };
        let seen = on_threads(2, || {
            let critic = ModelBuilder::new(0).critic(|vb| DcganCritic::new(settings, vb))?;
            of_critic(critic, vec![1, 28, 28], 16, TrainConfig::wgan_gp())
        });
        assert_eq!(seen?, [(false, false), (false, true)]);
        Ok(())
    }

    #[test]
    fn one_thread_makes_one_term_after_the_other() -> Result<()> {
        let seen = on_threads(1, || of_mlps(16, 16, TrainConfig::wgan_gp()))?;
        assert!(!seen[1].0);
        Ok(())
    }

    /// A layer and its activation: 2 x 128 rows of 40,000 numbers are 39 MiB, and 2 x 64 rows of 80,000.
    #[test]
    fn large_ones_are_made_one_after_the_other() -> Result<()> {
        let none = (false, false);
        assert_eq!(at_once(40_000, 16, TrainConfig::wgan_gp())?, [none, none]);
        assert_eq!(at_once(16, 80_000, TrainConfig::wgan_gp())?, [none, (true, false)]);
        Ok(())
    }
}
